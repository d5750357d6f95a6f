// What colours and widths say: nothing, how tensors are split over ranks, how large they are, how long nodes take,
// or how full memory is meanwhile. Every distinction is made by a text, a hatching or a width, too.
"use strict";
class Overlay {
  constructor(kind, model) {
    this.kind = kind;
    this.model = model;
    this.axes = model.data.mesh.map((each) => each.axis);
  }

  // Which of the four colours of axes an axis has.
  place(axis) {
    return Math.min(this.axes.indexOf(axis), 3);
  }

  color(axis) {
    return `var(--axis-${this.place(axis)})`;
  }

  hatch(axis) {
    return `url(#hatch-${this.place(axis)})`;
  }

  // Of a folded tree node in one pass: how much of what its row is about it has, as a number and as text.
  amount(node, pass) {
    const { model } = this;
    const sum = (what) => node.leaves.reduce((total, leaf) => total + model.total(leaf.kind, pass)[what], 0);
    switch (this.kind) {
      case "bytes": {
        const kept = pass === "forward",
          bytes = sum(kept ? "kept" : "made");
        return [bytes, `${kept ? "keeps" : "makes"} ${Formulas.bytes(bytes)}`];
      }
      case "time": {
        const time = sum("time");
        return [time, Formulas.time(time)];
      }
      case "memory": {
        const { peaks } = model.memory();
        const most = Math.max(0, ...node.leaves.map((leaf) => peaks.get(`${leaf.path} ${pass}`) || 0));
        return [most, Formulas.bytes(most)];
      }
      case "sharding":
        return [0, this.#layout(node, pass)];
      default: {
        const nodes = sum("nodes");
        return [0, nodes === 1 ? "1 node" : `${Formulas.count(nodes)} nodes`];
      }
    }
  }

  // The axes over which values of a node are split, and those over which sums are pending.
  #layout(node, pass) {
    const split = new Set(),
      pending = new Set();
    for (const kind of new Set(node.leaves.map((leaf) => leaf.kind))) {
      for (const each of kind.nodes) {
        if (pass !== "all" && each.phase !== pass) continue;
        for (const [, type] of each.made) {
          this.model.data.types[type].splits.flat().forEach((axis) => split.add(axis));
          this.model.data.types[type].pending.forEach((axis) => pending.add(axis));
        }
      }
    }
    const parts = [
      split.size ? `split ${[...split].join(", ")}` : "",
      pending.size ? `pending ${[...pending].join(", ")}` : "",
    ];
    return parts.filter(Boolean).join(" · ") || "whole";
  }

  // The greatest amount of each pass, which shares are of.
  most(nodes, passes) {
    if (!["bytes", "time", "memory"].includes(this.kind)) return {};
    return Object.fromEntries(
      passes.map((pass) => [pass, Math.max(1e-30, ...nodes.map((each) => this.amount(each, pass)[0]))]),
    );
  }

  // How a tensor's line is drawn: its colours, one for each axis that splits it, the hatching of a pending sum, its
  // width.
  line(type) {
    const { splits, pending } = this.model.data.types[type];
    if (this.kind === "sharding") {
      const axes = splits.flat();
      return {
        colors: axes.map((axis) => this.color(axis)),
        pending: pending.map((axis) => this.hatch(axis)),
        width: 2.4,
      };
    }
    if (this.kind === "bytes") return { colors: [], pending: [], width: this.width(this.model.bytes[type]) };
    return { colors: [], pending: [], width: 0 };
  }

  // From a line for a few bytes to a band for as many as the largest tensor has, by the cube of the logarithm: so
  // that tensors of a model, which differ by powers of ten, differ in width, too.
  width(bytes) {
    const most = Math.max(...this.model.bytes, 2);
    return 0.7 + 6.5 * (Math.max(0, Math.log2(Math.max(bytes, 1))) / Math.log2(most)) ** 3;
  }

  // What the colours mean, as a list's entries.
  legend() {
    const made = [];
    const entry = (text, color, kind) => {
      const swatch = document.createElement("span"),
        line = document.createElement("li");
      swatch.className = `swatch ${kind}`;
      swatch.style.setProperty("--color", color);
      line.append(swatch, text);
      made.push(line);
    };
    if (this.kind === "sharding") {
      for (const axis of this.axes) entry(`split over ${axis}`, this.color(axis), "line");
      for (const axis of this.axes) entry(`sum pending over ${axis}`, this.color(axis), "hatch");
      if (!this.axes.length) entry("one rank holds everything", "var(--ink)", "line");
    } else if (this.kind === "bytes") entry("the wider and darker, the more bytes", "var(--heat)", "box");
    else if (this.kind === "time") entry("the darker, the longer, at the rates under Sizes", "var(--heat)", "box");
    else if (this.kind === "memory") entry("the darker, the fuller a rank's memory meanwhile", "var(--heat)", "box");
    return made;
  }
}
