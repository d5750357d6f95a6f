// What a page knows of its graph, made of the data: blocks under their own names, who reads whom, when values live.
// Nothing here touches the document.
"use strict";
class Model {
  constructor(data) {
    this.given = data;
    this.sizes = { ...data.sizes };
    // What a rank computes, reads and sends in a second: assumed, until the reader says otherwise.
    this.rates = { flops: 1e14, memory: 2e12, link: 1e11 };
    this.layers = data.layers || data.depth.layers;
    this.deepen(this.layers);
  }

  // So many layers, where there may be others than there are.
  deepen(layers) {
    const data = Depth.at(this.given, layers);
    this.data = data;
    this.blocks = data.blocks.map(([path, kind, number], at) => {
      const own = data.kinds[kind];
      const shift = number - own.number;
      const pattern = new RegExp(`(?<![\\w/])${escaped(own.stem)}(\\d+)(?=/)`, "g");
      const named = (text) => text.replace(pattern, (_, digits) => own.stem + (Number(digits) + shift));
      return { at, path, kind: own, number, name: own.stem && shift ? named : (text) => text };
    });
    this.makers = new Map();
    this.readers = new Map();
    this.derivatives = new Map();
    this.handed = new Map();
    for (const [name, type, what] of data.arguments) this.handed.set(name, { name, type, what, block: null });
    for (const block of this.blocks) this.#enter(block);
    this.#order();
    this.links = this.#links();
    this.changed();
  }

  #enter(block) {
    for (const [name, type, what] of block.kind.arguments) {
      this.handed.set(block.name(name), { name: block.name(name), type, what, block });
    }
    block.kind.nodes.forEach((node, at) => {
      node.made.forEach(([name], place) => this.makers.set(block.name(name), { block, at, node, place }));
      for (const [name] of node.reads || []) push(this.readers, block.name(name), { block, at, node });
      if (node.of) push(this.derivatives, block.name(node.of), { block, at, node });
    });
  }

  // The step of each block's first node of each run, so that any node's step is found.
  #order() {
    let step = 0;
    this.steps = this.blocks.map(() => []);
    for (const [block, first, end] of this.data.runs) {
      this.steps[block].push([first, end, step]);
      step += end - first;
    }
    this.length = step;
  }

  step({ block, at }) {
    const [first, , start] = this.steps[block.at].find(([begin, end]) => begin <= at && at < end);
    return start + at - first;
  }

  // Who hands what to whom, between blocks: [source, target, pass, names], each pair once.
  #links() {
    const found = new Map();
    for (const block of this.blocks) {
      for (const node of block.kind.nodes) {
        for (const [local] of node.reads || []) {
          const name = block.name(local),
            made = this.makers.get(name);
          if (!made || made.block === block || made.node.phase !== node.phase) continue;
          const key = [made.block.at, block.at, node.phase].join(" ");
          if (!found.has(key)) found.set(key, { source: made.block.at, target: block.at, pass: node.phase, names: [] });
          const names = found.get(key).names;
          if (!names.includes(name)) names.push(name);
        }
      }
    }
    return [...found.values()];
  }

  // -- numbers ---------------------------------------------------------------------------------------------

  // Sizes or rates are others now: what was worked out from them is worked out again when it is asked for.
  changed() {
    this.values = this.data.formulas.map((terms) => Formulas.value(terms, this.sizes));
    this.bytes = this.data.types.map((type) => this.values[type.bytes]);
    this.costs = new Map();
    this.lives = null;
  }

  // Formulas that have to be whole numbers, as text, and are none under these sizes: no rank can hold such a part.
  broken() {
    const found = new Map();
    for (const type of this.data.types) {
      for (const [text, at] of type.shape) if (!Number.isInteger(this.values[at])) found.set(text, this.values[at]);
    }
    return [...found];
  }

  // What a node computes, moves and sends, and its time: the slowest of the three, nothing overlapping.
  cost(node) {
    const known = this.costs.get(node);
    if (known) return known;
    const flops = this.values[node.flops];
    const sent = node.told ? this.values[node.told.sent] : 0;
    const written = node.made.reduce((sum, [, type]) => sum + this.bytes[type], 0);
    const read = (node.reads || []).reduce((sum, [, type]) => sum + this.bytes[type], 0);
    // A view moves nothing; what computes nothing, such as a lookup, reads as much as it writes.
    const moved = this.data.operators[node.op].view ? 0 : flops || sent ? written + read : 2 * written;
    const time = Math.max(flops / this.rates.flops, moved / this.rates.memory, sent / this.rates.link);
    const found = { flops, sent, moved, time };
    this.costs.set(node, found);
    return found;
  }

  // The sums of a kind's pass: FLOPs, bytes sent, time, and the bytes that it keeps for the backward pass.
  total(kind, pass) {
    const key = kind.nodes,
      known = this.costs.get(key);
    if (known && known[pass]) return known[pass];
    const sum = { flops: 0, sent: 0, time: 0, kept: 0, nodes: 0, made: 0 };
    for (const node of kind.nodes) {
      if (pass !== "all" && node.phase !== pass) continue;
      const cost = this.cost(node);
      sum.flops += cost.flops;
      sum.sent += cost.sent;
      sum.time += cost.time;
      sum.nodes += 1;
      for (const [, type, what] of node.made) {
        sum.made += this.bytes[type];
        if (what === "kept") sum.kept += this.bytes[type];
      }
    }
    this.costs.set(key, { ...known, [pass]: sum });
    return sum;
  }

  // Memory over the pass: for each step the bytes of each sort that are alive while its node is at work. What an
  // update writes over its operand takes no room of its own.
  memory() {
    if (this.lives) return this.lives;
    const sorts = ["parameter", "state", "input", "gradient", "kept", "passing"];
    const now = Object.fromEntries(sorts.map((sort) => [sort, 0]));
    for (const { type, what } of this.handed.values()) now[what] += this.bytes[type];
    const over = Object.fromEntries(sorts.map((sort) => [sort, new Float64Array(this.length)]));
    const all = new Float64Array(this.length);
    const peaks = new Map();
    let step = 0;
    for (const [at, first, end] of this.data.runs) {
      const { kind, path } = this.blocks[at];
      for (let place = first; place < end; place += 1, step += 1) {
        const node = kind.nodes[place];
        for (const [, type, what] of node.made) if (what in now) now[what] += this.bytes[type];
        for (const sort of sorts) {
          over[sort][step] = now[sort];
          all[step] += now[sort];
        }
        const key = `${path} ${node.phase}`;
        peaks.set(key, Math.max(peaks.get(key) || 0, all[step]));
        for (const [type, what] of node.frees || []) if (what in now) now[what] -= this.bytes[type];
      }
    }
    const peak = all.reduce((best, bytes, at) => (bytes > all[best] ? at : best), 0);
    this.lives = { sorts, over, all, peaks, peak };
    return this.lives;
  }

  // The node at a step.
  at(step) {
    let passed = 0;
    for (const [block, first, end] of this.data.runs) {
      if (step < passed + end - first) return { block: this.blocks[block], at: first + step - passed };
      passed += end - first;
    }
    return null;
  }

  // -- what there is to tell -------------------------------------------------------------------------------

  tensor(name) {
    const made = this.makers.get(name);
    if (!made) return this.handed.get(name) || null;
    const [, type, what, label] = made.node.made[made.place];
    return { name, type, what, label, made, block: made.block };
  }

  // From which step to which a value is alive: what a run is handed, and what it returns, lives throughout.
  life(name) {
    const made = this.makers.get(name),
      readers = this.readers.get(name) || [];
    const returned = this.data.outputs.includes(name);
    const first = made ? this.step(made) : 0;
    const last =
      made && !returned && readers.length
        ? Math.max(...readers.map((each) => this.step(each)))
        : made && !returned
          ? first
          : this.length - 1;
    return { first, last, returned, handed: !made, readers };
  }

  // Its gradient, or what it is the gradient of.
  counterpart(name) {
    const slash = name.lastIndexOf("/") + 1,
      scope = name.slice(0, slash),
      local = name.slice(slash);
    const gradient = `${scope}d${local}`;
    if (this.makers.has(gradient)) return { name: gradient, is: "gradient" };
    const primal = scope + local.slice(1).split(".")[0];
    if (local.startsWith("d") && (this.makers.has(primal) || this.handed.has(primal)))
      return { name: primal, is: "gradient of" };
    return null;
  }

  // The nodes of the other pass that belong to one: its d-nodes, or the forward node whose gradients it makes.
  partners({ block, node }) {
    if (node.of) {
      const made = this.makers.get(block.name(node.of));
      return made ? [made] : [];
    }
    return node.made.flatMap(([name]) => this.derivatives.get(block.name(name)) || []);
  }

  // The collectives of a kind: [pass, key, axes, how many], in order.
  collectives(kind) {
    const found = new Map();
    for (const node of kind.nodes) {
      if (!node.told || !this.data.formulas[node.told.sent].length) continue;
      const symbol = this.data.operators[node.op].symbol;
      const key = [node.phase, symbol, ...node.told.axes].join(" ");
      const entry = found.get(key) || { pass: node.phase, symbol, axes: node.told.axes, count: 0 };
      entry.count += 1;
      found.set(key, entry);
    }
    return [...found.values()];
  }

  names() {
    return [...this.handed.keys(), ...this.makers.keys()];
  }
}

function push(map, key, entry) {
  const list = map.get(key);
  if (list) list.push(entry);
  else map.set(key, [entry]);
}
