// The tree of scopes that is folded and unfolded: groups of layers, layers, blocks. And the mesh, as rows of ranks.
"use strict";
class Tree {
  constructor(blocks) {
    this.root = { id: "", title: "", children: [], parent: null, depth: -1 };
    this.byId = new Map([["", this.root]]);
    for (const block of blocks) this.#add(block);
    this.#group(this.root);
    this.leafOf = new Map();
    this.#finish(this.root, -1);
  }

  #add(block) {
    let node = this.root,
      path = "";
    for (const part of block.path.split("/")) {
      path = path ? `${path}/${part}` : part;
      let child = this.byId.get(path);
      if (!child) {
        child = { id: path, title: part, children: [], parent: node, block: null };
        this.byId.set(path, child);
        node.children.push(child);
      }
      node = child;
    }
    node.block = block;
  }

  // Siblings that are numbered, layer0, layer1, …, come into a group that folds.
  #group(node) {
    const made = [];
    for (const child of node.children) {
      this.#group(child);
      const found = child.children.length && /^(.*?)(\d+)$/.exec(child.title);
      const last = made[made.length - 1];
      if (found && last && last.stem === found[1]) {
        last.children.push(child);
        child.parent = last;
      } else if (found) {
        const id = `${child.id.slice(0, child.id.length - found[2].length)}*`;
        const group = { id, stem: found[1], title: "", children: [child], parent: node, block: null };
        this.byId.set(id, group);
        child.parent = group;
        made.push(group);
      } else made.push(child);
    }
    node.children = made.map((each) => {
      if (!each.stem || each.children.length > 1) return each;
      each.children[0].parent = node;
      return each.children[0];
    });
  }

  #finish(node, depth) {
    node.depth = depth;
    const { children } = node;
    if (node.stem) {
      const number = (child) => child.title.slice(node.stem.length);
      node.title = `${node.stem} ${number(children[0])} … ${number(children[children.length - 1])}`;
      node.times = children.length;
    }
    for (const child of children) this.#finish(child, depth + 1);
    // A scope's own nodes beside its scopes are a child of their own.
    node.leaves = [...(node.block ? [node.block] : []), ...children.flatMap((child) => child.leaves)];
    if (node.block) this.leafOf.set(node.block.at, node);
  }

  // A tree node and all it lies in, from the outermost.
  lineage(node) {
    const found = [];
    for (let each = node; each && each.parent; each = each.parent) found.unshift(each);
    return found;
  }
}

// A mesh as a reader sees it: ranks in a row, the last axis running fastest; its sizes may be changed by sliders.
class Mesh {
  // `values` are those of all formulas: a part of an axis has N_T/N_KV ranks.
  constructor(axes, values) {
    this.axes = axes.map((each) => ({ ...each, ranks: Math.max(1, Math.round(values[each.ranks])) }));
    this.size = this.axes.reduce((product, each) => product * each.ranks, 1);
  }

  coordinates(rank) {
    const found = [];
    let rest = rank;
    for (const axis of [...this.axes].reverse()) {
      found.unshift(rest % axis.ranks);
      rest = Math.floor(rest / axis.ranks);
    }
    return found;
  }

  title(rank) {
    return this.axes.map((axis, at) => `${axis.rank} ${this.coordinates(rank)[at]}`).join(", ") || "the one rank";
  }

  // Ranks that meet along these axes, as lists.
  groups(names) {
    const found = new Map();
    for (let rank = 0; rank < this.size; rank += 1) {
      const own = this.coordinates(rank);
      const key = this.axes.map((axis, at) => (names.includes(axis.axis) ? "*" : own[at])).join(" ");
      push(found, key, rank);
    }
    return [...found.values()];
  }
}
