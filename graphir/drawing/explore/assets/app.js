// The page: what is folded, chosen and shown, and who is told of it. State flows one way: an action changes what is
// folded or chosen, then the layout is made, then the stage, the margins, the outline and the panel follow.
"use strict";
class App {
  constructor(data) {
    this.model = new Model(data);
    this.tree = new Tree(this.model.blocks);
    this.mesh = new Mesh(data.mesh, this.model.values);
    this.open = new Set();
    this.unfolded = new Map();
    this.all = false;
    this.rank = 0;
    this.chosen = null;
    this.overlay = new Overlay("plain", this.model);
    this.offered = ["all", "forward", "backward", "update"].filter((pass) => Layout.has(this.tree.root, pass));
    // A figure is drawn with all its passes in one.
    if (this.offered[0] === "all") this.offered = ["all"];
    this.passes = this.offered.filter((pass) => pass !== "update" || this.offered.length === 1);
    const find = (id) => document.getElementById(id);
    this.stage = new Stage(find("stage"), {
      paint: (region, zoom) => this.#paint(region, zoom),
      painted: (region, zoom) => this.#painted(region, zoom),
      afar: (most) => this.#afar(most),
      moved: (region) => {
        find("here").textContent = Margins.here(this.layout, region);
      },
      chosen: (target, x, y) => this.#tapped(target, x, y),
      size: () => this.layout,
    });
    this.drawn = new Unfolded(find("unfolded"));
    this.panel = new Panel(this, find("about"));
    this.outline = new Outline(this, find("outline"));
    this.chart = new Chart(this, find("memory"));
    this.sizes = new SizesPanel(this, find("sizes"));
    this.search = new Search(this, find("search"), find("found"));
    Controls.wire(this);
    this.#unfoldSmall();
    this.changed();
    this.panel.tell("start");
    this.begin();
    // Pictures from afar have the colours of day or night that they were painted in.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.stage.changed());
  }

  // A model of one block, or a single figure, has nothing to fold: it begins unfolded. Layers are, that were asked
  // for.
  #unfoldSmall() {
    const { children } = this.tree.root;
    for (const number of this.model.data.expand) {
      for (const leaf of this.model.blocks.filter((block) => block.kind.stem && block.number === number)) {
        const node = this.tree.leafOf.get(leaf.at);
        this.tree
          .lineage(node)
          .slice(0, -1)
          .forEach((each) => this.open.add(each.id));
        if (Object.keys(leaf.kind.drawings).length) this.unfolded.set(node.id, 0);
      }
    }
    if (children.length === 1 && !children[0].children.length) this.unfolded.set(children[0].id, 0);
  }

  // -- what follows from what ------------------------------------------------------------------------------

  // What is folded, shown or overlaid is otherwise now.
  changed() {
    const { tree, mesh, model, open, unfolded, passes, all } = this;
    const lanes = (node) => this.lanes(node);
    this.layout = Layout.make({ tree, mesh, model, open, unfolded, passes, all, lanes });
    this.painter = new Painter(model, this.overlay);
    this.outline.refresh();
    this.stage.changed();
    Controls.tell(this);
  }

  // Sizes or rates are others now.
  resized() {
    this.model.changed();
    this.mesh = new Mesh(this.model.data.mesh, this.model.values);
    this.rank = Math.min(this.rank, this.mesh.size - 1);
    for (const [id, rank] of this.unfolded) if (rank >= this.mesh.size) this.unfolded.set(id, 0);
    this.changed();
    this.panel.again();
    if (this.overlay.kind === "memory") this.chart.refresh();
  }

  // The model has other layers now: what is unfolded of those that are still there stays so.
  deepened(layers) {
    const { chosen } = this;
    this.model.deepen(layers);
    this.tree = new Tree(this.model.blocks);
    const gone = [...this.open, ...this.unfolded.keys()].filter((id) => !this.tree.byId.has(id));
    for (const held of [this.open, this.unfolded]) for (const id of gone) held.delete(id);
    this.search.renamed();
    this.clear();
    this.#keep(chosen);
    this.resized();
    if (gone.length) this.begin();
    else this.stage.move(this.stage.x, this.stage.y);
  }

  // What was chosen is chosen still, if it is there.
  #keep(chosen) {
    const block = this.model.blocks.find((each) => each.path === chosen?.block?.path),
      node = this.tree.byId.get(chosen?.node?.id);
    if (chosen?.kind === "tensor" && this.model.tensor(chosen.name)) {
      this.chosen = chosen;
      this.panel.tell("tensor", chosen.name);
    } else if (block) {
      this.chosen = { ...chosen, block };
      this.panel.tell("node", block, chosen.at);
    } else if (node) {
      this.chosen = { ...chosen, node };
      this.panel.tell("block", node);
    }
  }

  overlaid(kind) {
    this.overlay = new Overlay(kind, this.model);
    document.body.dataset.overlay = kind;
    if (kind === "memory") this.chart.refresh();
    document.getElementById("legend").replaceChildren(...this.overlay.legend());
    this.changed();
    this.panel.again();
  }

  // Near enough to be read the region is a drawing; from afar a picture.
  #paint(region, zoom) {
    if (zoom < Painter.readable) return new Afar(this.model, this.overlay).paint(this.layout, region, zoom);
    const { left, top, right, bottom } = region;
    return Svg.make(
      "svg",
      { viewBox: `${left} ${top} ${right - left} ${bottom - top}` },
      this.painter.paint(this.layout, region, zoom),
    );
  }

  // All of the layout as a small picture.
  #afar(most) {
    const { width, height } = this.layout;
    const region = { left: 0, top: 0, right: width, bottom: height };
    return new Afar(this.model, this.overlay).paint(this.layout, region, most / Math.max(width, height));
  }

  #painted(region, zoom) {
    this.drawn.place(
      this.painter,
      zoom < Painter.readable ? [] : this.painter.drawings(this.layout, region),
      region,
      zoom,
    );
    Margins.ranks(this.stage.head.firstChild, this.layout, region, zoom);
    Margins.rows(this.stage.gutter.firstChild, this.layout, region, zoom, (node) => this.toggle(node));
    Light.show(this.stage.sheet, this.model, this.chosen);
    this.afterwards?.();
    this.afterwards = null;
  }

  // The collectives of a tree node, as lanes: those of one pass, kind and axes together.
  lanes(node) {
    if (!node.lanes) {
      const found = new Map();
      for (const leaf of node.leaves) {
        for (const each of this.model.collectives(leaf.kind)) {
          const key = [each.pass, each.symbol, ...each.axes].join(" ");
          found.set(key, { ...each, count: each.count + (found.get(key)?.count || 0) });
        }
      }
      const slots = {};
      node.lanes = [...found.values()].map((lane) => {
        slots[lane.pass] = (slots[lane.pass] ?? -1) + 1;
        return {
          ...lane,
          slot: slots[lane.pass],
          text: lane.count > 1 ? `${lane.count} × ${lane.symbol}` : lane.symbol,
        };
      });
    }
    return node.lanes;
  }

  // -- folding ---------------------------------------------------------------------------------------------

  // Folds or unfolds a tree node where it stands: what the reader looks at stays where it is.
  toggle(node) {
    const before = this.#place(node);
    if (node.children.length) {
      if (!this.open.delete(node.id)) this.open.add(node.id);
    } else if (!this.unfolded.delete(node.id) && Object.keys(node.block.kind.drawings).length)
      this.unfolded.set(node.id, this.all ? this.rank : 0);
    this.changed();
    const after = this.#place(node);
    if (before && after) this.stage.move(this.stage.x + after.x - before.x, this.stage.y + after.y - before.y);
    this.panel.tell("block", node);
  }

  // Where a tree node stands: its row, or its frame.
  #place(node) {
    const { layout } = this,
      row = layout.rows[layout.rowOf.get(node.id)];
    const frame = layout.frames.find((each) => each.node === node);
    const y = row ? row.y : frame?.y;
    return y === undefined
      ? null
      : { x: layout.columns[Math.min(this.all ? this.rank : 0, layout.columns.length - 1)].x, y };
  }

  foldAll() {
    this.open.clear();
    this.unfolded.clear();
    this.changed();
    this.begin();
  }

  // Everything but the blocks' drawings.
  unfoldAll() {
    for (const [id, node] of this.tree.byId) if (node.children.length && id) this.open.add(id);
    this.changed();
    this.begin();
  }

  showRanks(all) {
    this.all = all;
    if (!all) for (const id of this.unfolded.keys()) this.unfolded.set(id, 0);
    this.changed();
    this.begin();
  }

  showPass(pass) {
    const wanted = this.offered.filter((each) => (each === pass) !== this.passes.includes(each));
    if (!wanted.length) return;
    this.passes = wanted;
    this.changed();
  }

  // All of it.
  home() {
    this.stage.fit(0, 0, this.layout.width, this.layout.height, 1.2);
  }

  // All of it where that can be read; else its beginning.
  begin() {
    const { width, height } = this.layout,
      { stage } = this;
    const least = stage.width < 500 ? 0.62 : 0.75;
    const room = [stage.width / least, stage.height / least];
    stage.fit(0, 0, Math.min(width, room[0]), Math.min(height, room[1]), 1.2);
  }

  // -- choosing --------------------------------------------------------------------------------------------

  #choose(chosen, what, ...given) {
    this.chosen = chosen;
    this.panel.tell(what, ...given);
    Controls.open("about");
    Light.show(this.stage.sheet, this.model, chosen);
  }

  clear() {
    this.chosen = null;
    this.panel.tell("start");
    Light.show(this.stage.sheet, this.model, null);
  }

  chooseBlock(node) {
    this.#choose({ kind: "block", node }, "block", node);
    this.#reveal(node);
  }

  chooseNode(block, at) {
    this.#choose({ kind: "node", block, at }, "node", block, at);
  }

  chooseTensor(name) {
    this.#choose({ kind: "tensor", name }, "tensor", name);
  }

  #tapped(target, x, y) {
    const drawing = target.closest("svg[data-block]");
    const hit = Layout.at(this.layout, x, y);
    if (hit && this.all) this.rank = hit.column.rank;
    if (drawing) {
      this.#tappedIn(drawing, target);
      return;
    }
    const link = target.closest("[data-link]");
    if (link) {
      this.chooseTensor(link.dataset.link);
      return;
    }
    if (!hit) {
      this.clear();
      return;
    }
    if (hit.lane && hit.lane.pass === hit.pass) {
      this.#tappedLane(hit);
      return;
    }
    const again = this.chosen?.kind === "block" && this.chosen.node === hit.row.node;
    if (again) this.toggle(hit.row.node);
    else this.#choose({ kind: "block", node: hit.row.node }, "block", hit.row.node);
  }

  // A bar stands for one collective, or for those of many blocks: then for the block.
  #tappedLane({ row, lane }) {
    const [block] = row.node.leaves;
    const own = row.node.children.length
      ? []
      : block.kind.nodes
          .map((node, at) => [node, at])
          .filter(
            ([node]) =>
              node.told &&
              node.phase === lane.pass &&
              node.told.axes.join() === lane.axes.join() &&
              this.model.data.operators[node.op].symbol === lane.symbol,
          );
    if (own.length) this.chooseNode(block, own[0][1]);
    else this.#choose({ kind: "block", node: row.node }, "block", row.node);
  }

  #tappedIn(drawing, target) {
    const block = this.model.blocks[drawing.dataset.block],
      own = block.kind.drawings[drawing.dataset.pass];
    const node = target.closest("[data-n]"),
      edge = target.closest("[data-e]");
    if (!node && !edge) {
      const leaf = this.tree.leafOf.get(block.at);
      this.#choose({ kind: "block", node: leaf }, "block", leaf);
      return;
    }
    const names = node ? own.nodes[node.dataset.n] : own.edges[edge.dataset.e],
      [name] = names;
    if (name === undefined) return;
    const places = [...new Set(names.map((each) => this.model.makers.get(block.name(each))?.at))];
    if (node && places.length > 1 && !places.includes(undefined)) {
      this.#choose({ kind: "tensor", name: block.name(name) }, "group", node.textContent.trim(), block, places);
      return;
    }
    const made = this.model.makers.get(block.name(name));
    if (node && made && made.block === block && ["all", made.node.phase].includes(drawing.dataset.pass))
      this.chooseNode(block, made.at);
    else if (this.model.tensor(block.name(name))) this.chooseTensor(block.name(name));
  }

  // -- leading somewhere -----------------------------------------------------------------------------------

  // Opens all that a tree node lies in, and shows it.
  #reveal(node) {
    const lineage = this.tree
      .lineage(node)
      .slice(0, -1)
      .filter((each) => !this.open.has(each.id));
    lineage.forEach((each) => this.open.add(each.id));
    if (lineage.length) this.changed();
    const place = this.#place(node);
    if (place) this.stage.center(place.x + this.layout.columns[0].width / 2, place.y + 20);
  }

  // To where a tensor is drawn: what it lies in is opened, its block unfolded, and it is lit.
  goTo(name) {
    const tensor = this.model.tensor(name);
    if (!tensor) return;
    const reader = this.model.readers.get(name)?.[0];
    if (tensor.block || reader) this.#unfoldTo(tensor.block || reader.block, (tensor.made || reader)?.node.phase);
    this.chooseTensor(name);
    this.#afterwardsCenter();
  }

  goToNode(block, at) {
    this.#unfoldTo(block, block.kind.nodes[at].phase);
    this.chooseNode(block, at);
    this.#afterwardsCenter();
  }

  #unfoldTo(block, pass) {
    const node = this.tree.leafOf.get(block.at);
    this.passes = this.offered.filter((each) => each === pass || this.passes.includes(each));
    this.tree
      .lineage(node)
      .slice(0, -1)
      .forEach((each) => this.open.add(each.id));
    if (Object.keys(block.kind.drawings).length) this.unfolded.set(node.id, this.all ? this.rank : 0);
    this.changed();
    this.#reveal(node);
    if (this.stage.zoom < 0.7) this.stage.scale(0.8 / this.stage.zoom);
    this.#reveal(node);
  }

  // Once painted, what is lit comes to the middle.
  #afterwardsCenter() {
    this.afterwards = () => {
      const lit = this.stage.sheet.querySelector(".chosen") || this.stage.sheet.querySelector(".lit");
      if (!lit) return;
      const frame = this.stage.element.getBoundingClientRect(),
        box = lit.getBoundingClientRect();
      this.stage.pan(
        frame.left + frame.width / 2 - box.left - box.width / 2,
        frame.top + frame.height / 2 - box.top - box.height / 2,
      );
      this.stage.refresh();
      lit.classList.add("flash");
    };
    this.stage.refresh();
  }
}

addEventListener("DOMContentLoaded", () => {
  const app = new App(JSON.parse(document.getElementById("data").textContent));
  document.body.dataset.ready = "true";
  Print.wire(app);
});
