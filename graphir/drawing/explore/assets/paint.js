// Paints a region of the layout, near enough to be read, and nothing beyond it: however large the model is, the
// document holds what is seen. The boxes of a row are one path, each has its text, and unfolded ones their drawing.
"use strict";
class Painter {
  // Nearer than that names can be read; from farther away see afar.js.
  static readable = 0.45;
  static fine = 0.7;

  constructor(model, overlay) {
    this.model = model;
    this.overlay = overlay;
  }

  // The region as a group of elements, in the layout's units; small type only where it is near enough to be read.
  paint(layout, region, zoom) {
    const { rows, columns } = Layout.within(layout, region);
    this.fine = zoom >= Painter.fine;
    this.most = this.overlay.most(
      layout.rows.map((row) => row.node),
      layout.view.passes,
    );
    const group = Svg.make("g", { class: `content ${this.overlay.kind}` });
    const add = (element) => {
      if (element) group.append(element);
    };
    for (const frame of layout.frames) {
      if (frame.y > region.bottom || frame.y + frame.height < region.top) continue;
      add(
        Svg.make("path", {
          class: "frame",
          d: columns.map((column) => Svg.box(column.x - 16, frame.y, column.width + 32, frame.height)).join(""),
        }),
      );
      for (const column of columns) add(this.#text(column.x - 8, frame.y + 15, frame.node.title, "frame-title"));
    }
    const first = layout.rows.indexOf(rows[0]),
      last = first + rows.length - 1,
      names = [];
    for (const link of layout.links) {
      if (Math.max(link.from, link.to) >= first - 1 && Math.min(link.from, link.to) <= last + 1)
        names.push(this.#link(add, layout, link, columns));
    }
    for (const row of rows) {
      this.#row(add, layout, row, columns);
      this.#lanes(add, layout, row, columns);
    }
    // Names lie over all lines, which would cross them out.
    names.forEach(add);
    return group;
  }

  #text(x, y, text, kind, anchor) {
    const made = Svg.make("text", { x, y, class: kind, "text-anchor": anchor });
    made.textContent = text;
    return made;
  }

  // -- boxes -----------------------------------------------------------------------------------------------

  #row(add, layout, row, columns) {
    const { node } = row;
    for (const [at, pass] of layout.view.passes.entries()) {
      if (!Layout.has(node, pass)) continue;
      const folded = columns.filter((column) => !(row.rank === column.rank && node.block.kind.drawings[pass]));
      const [amount, note] = this.overlay.amount(node, pass);
      const share = this.most[pass] ? amount / this.most[pass] : 0;
      const sum = row.body < Layout.BOX.height;
      const shape = ({ halves: { [at]: half } }) =>
        sum
          ? Svg.disc(half.x + half.width / 2, row.y + row.body / 2, row.body / 2 - 3)
          : Svg.box(half.x, row.y, half.width, row.body);
      if (folded.length) {
        const box = Svg.make("path", { class: `box ${pass}${sum ? " sum" : ""}`, d: folded.map(shape).join("") });
        if (share) box.style.setProperty("--share", `${Math.round(70 * share)}%`);
        add(box);
      }
      for (const column of folded) this.#inscribe(add, row, column.halves[at], pass, note, sum);
      const own = columns.find((column) => column.rank === row.rank)?.halves[at];
      if (own && node.block.kind.drawings[pass])
        add(Svg.make("path", { class: `sheet ${pass}`, d: Svg.box(own.x, row.y, own.width, row.body) }));
    }
    this.#cached(add, layout, row, columns);
  }

  #inscribe(add, row, half, pass, note, sum) {
    const x = half.x + half.width / 2,
      y = row.y + row.body / 2;
    const title = Panel.title(row.node),
      brief = title.length <= 4 ? "d" : "d ";
    const sign = pass === "backward" ? (sum ? "d" : brief) : "";
    if (sum) {
      add(this.#text(x, y + 4, sign + this.#symbol(row.node, pass), "sign", "middle"));
      return;
    }
    add(this.#text(x, this.fine ? y - 2 : y + 5, sign + title, "name", "middle"));
    if (this.fine) add(this.#text(x, y + 13, note, "note", "middle"));
  }

  #symbol(node, pass) {
    const forward = node.block.kind.nodes.find((each) => each.phase === "forward");
    return pass === "update" ? "" : this.model.data.operators[forward.op].symbol;
  }

  // The drawings that a region shows, and where they lie: on the sheets of unfolded blocks.
  drawings(layout, region) {
    const { rows, columns } = Layout.within(layout, region);
    const found = [];
    for (const row of rows) {
      const column = columns.find((each) => each.rank === row.rank);
      for (const [at, pass] of column ? layout.view.passes.entries() : []) {
        const { block } = row.node,
          drawing = block.kind.drawings[pass],
          half = column.halves[at];
        if (!drawing) continue;
        const { width, height } = drawing;
        found.push({
          block,
          pass,
          rank: row.rank,
          drawing,
          x: half.x + (half.width - width) / 2,
          y: row.y + Layout.PAD,
          width,
          height,
        });
      }
    }
    return found;
  }

  // One of them as an element, with the overlay on it.
  drawing({ block, pass, drawing, x, y }) {
    const made = Svg.drawing(drawing.at, x, y, drawing.width, drawing.height);
    made.setAttribute("data-block", block.at);
    made.setAttribute("data-pass", pass);
    this.#decorate(made, block, drawing);
    return made;
  }

  // The overlay on a drawing: its edges' colours and widths, its nodes hatched where they make pending sums.
  #decorate(root, block, drawing) {
    if (this.overlay.kind === "plain") return;
    const typeOf = (name) => this.model.tensor(block.name(name))?.type;
    for (const edge of root.querySelectorAll("[data-e]")) {
      const type = typeOf(drawing.edges[edge.dataset.e][0]);
      if (type === undefined) continue;
      const line = this.overlay.line(type);
      const path = edge.querySelector("path");
      if (path) {
        if (line.width) path.style.strokeWidth = `${line.width}px`;
        if (line.colors[0]) path.style.stroke = line.colors[0];
        if (line.colors[1]) path.after(this.#copy(path, { stroke: line.colors[1], strokeDasharray: "7 7" }));
        for (const hatch of line.pending) path.before(this.#copy(path, { stroke: hatch, strokeWidth: "9px" }));
      }
    }
    if (this.overlay.kind !== "sharding") return;
    for (const node of root.querySelectorAll("[data-n]")) {
      const names = drawing.nodes[node.dataset.n],
        type = names.length ? typeOf(names[0]) : undefined;
      const axis =
        type === undefined || !this.model.makers.has(block.name(names[0]))
          ? ""
          : this.model.data.types[type].pending[0];
      if (axis)
        for (const shape of node.querySelectorAll("polygon, ellipse, path, rect"))
          shape.style.fill = this.overlay.hatch(axis);
    }
  }

  // Under or over a line a second one: what is split over two axes is drawn in both colours, in turns, and along a
  // pending sum runs a hatched band.
  #copy(path, style) {
    const copy = path.cloneNode();
    Object.assign(copy.style, style);
    return copy;
  }

  // What a block keeps for its backward pass leads across, double as in the drawings.
  #cached(add, layout, row, columns) {
    const { passes } = layout.view;
    const from = passes.indexOf("forward"),
      to = passes.indexOf("backward");
    if (from < 0 || to < 0 || !row.node.leaves.some((leaf) => this.model.total(leaf.kind, "forward").kept)) return;
    if (row.body < Layout.BOX.height) return;
    const y = row.y + Math.min(row.body, 2 * Layout.BOX.height) / 2;
    const lines = columns.map(({ halves }) => {
      const start = halves[from].x + halves[from].width;
      return `M${start} ${y - 1.5}H${halves[to].x - 3}m0 3H${start}`;
    });
    add(Svg.make("path", { class: "cached", d: lines.join("") }));
  }

  // -- collectives -----------------------------------------------------------------------------------------

  // A bar over the ranks that meet where they stand side by side; where others stand between, a part for each and a
  // line.
  #lanes(add, layout, row, columns) {
    const { view } = layout;
    row.lanes.forEach((lane, at) => {
      const y = row.y + row.body + lane.slot * Layout.LANE + 3,
        height = Layout.LANE - 5;
      const half = view.passes.indexOf(lane.pass);
      let bars = "",
        lines = "";
      const seen = new Set(columns.map((column) => column.rank));
      const groups = view.all ? this.#groups(view.mesh, lane.axes) : [[0]];
      for (const ranks of groups) {
        if (!ranks.some((rank) => seen.has(rank))) continue;
        let start = null;
        ranks.forEach((rank, place) => {
          const own = layout.columns[rank].halves[half];
          start ??= own;
          if (ranks[place + 1] !== rank + 1) {
            bars += Svg.box(start.x, y, own.x + own.width - start.x, height);
            start = null;
          }
        });
        const [one, other] = [
          layout.columns[ranks[0]].halves[half],
          layout.columns[ranks[ranks.length - 1]].halves[half],
        ];
        if (ranks.length > 1 && ranks[ranks.length - 1] - ranks[0] >= ranks.length)
          lines += `M${one.x} ${y + height / 2}H${other.x + other.width}`;
      }
      const color = this.overlay.color(lane.axes[0]);
      const attributes = { "data-lane": at, "data-row": row.node.id };
      if (lines) add(Svg.make("path", { ...attributes, class: "meeting", d: lines, style: `stroke: ${color}` }));
      add(Svg.make("path", { ...attributes, class: "lane", d: bars, style: `stroke: ${color}; --tint: ${color}` }));
      if (!this.fine) return;
      for (const column of columns) {
        const own = column.halves[half];
        add(this.#text(own.x + own.width / 2, y + height - 1.5, lane.text, "lane-text", "middle"));
      }
    });
  }

  #groups(mesh, axes) {
    const key = axes.join(" ");
    this.meetings ??= new Map();
    if (!this.meetings.has(key)) this.meetings.set(key, mesh.groups(axes));
    return this.meetings.get(key);
  }

  // -- links -----------------------------------------------------------------------------------------------

  #link(add, layout, link, columns) {
    const at = layout.view.passes.indexOf(link.pass),
      from = layout.rows[link.from],
      to = layout.rows[link.to];
    if (!Layout.has(from.node, link.pass) || !Layout.has(to.node, link.pass)) return;
    const down = link.to > link.from;
    const lines = [],
      tips = [];
    const edge = (row, half, side) =>
      row.body < Layout.BOX.height
        ? half.x + half.width / 2 + side * (row.body / 2 - 3)
        : side < 0
          ? half.x
          : half.x + half.width;
    // Of two that lead to and fro between neighbours each keeps to its side.
    const aside = link.opposed ? (down ? -OPPOSED : OPPOSED) : 0;
    for (const column of columns) {
      const half = column.halves[at],
        x = half.x + half.width / 2 + aside;
      if (!link.track) {
        const start = down ? from.y + from.body - inset(from) : from.y + inset(from),
          end = down ? to.y + inset(to) : to.y + to.body - inset(to);
        lines.push(`M${x} ${start}V${end}`);
        tips.push(Svg.arrow(x, end, down));
      } else {
        // Beside the boxes: down on their left, up on their right.
        const side = down ? -1 : 1,
          track = side < 0 ? half.x - 4 - 5 * link.track : half.x + half.width + 4 + 5 * link.track;
        const [a, b] = [from.y + Math.min(from.body, 40) / 2 + 4, to.y + Math.min(to.body, 40) / 2 - 4];
        const end = edge(to, half, side);
        lines.push(`M${edge(from, half, side)} ${a}H${track}V${b}H${end}`);
        tips.push(`M${end} ${b}l${7 * side} -3.5v7z`);
      }
    }
    const type = this.model.tensor(link.names[0])?.type,
      line = type === undefined ? { colors: [], pending: [], width: 0 } : this.overlay.line(type);
    const path = Svg.make("path", { class: `link ${link.pass}`, d: lines.join(""), "data-link": link.names[0] });
    add(Svg.make("path", { class: "reach", d: lines.join(""), "data-link": link.names[0] }));
    for (const hatch of line.pending) add(this.#copy(path, { stroke: hatch, strokeWidth: "9px" }));
    if (line.colors[0]) path.style.stroke = line.colors[0];
    if (line.width) path.style.strokeWidth = `${line.width}px`;
    add(path);
    if (line.colors[1]) add(this.#copy(path, { stroke: line.colors[1], strokeDasharray: "7 7" }));
    add(
      Svg.make("path", {
        class: `tip ${link.pass}`,
        d: tips.join(""),
        style: line.colors[0] ? `fill: ${line.colors[0]}` : undefined,
      }),
    );
    return link.track || type === undefined
      ? null
      : this.#name(link, columns[0].halves[at], down ? to.y - 6 : from.y - 6, type, aside);
  }

  // What a link carries: its name as the drawings set it, and its shape, or its bytes.
  #name(link, half, y, type, aside) {
    const { label } = this.model.tensor(link.names[0]),
      more = new Set(link.names).size > 1 ? [[" …", ""]] : [];
    const { shape } = this.model.data.types[type];
    const size =
      this.overlay.kind === "bytes"
        ? [[` ${Formulas.bytes(this.model.bytes[type])}`, "shape"]]
        : [
            [" ", "shape"],
            ...Formulas.runs(`[${shape.map(([text]) => text).join(", ")}]`).map(([text, form]) => [
              text,
              form === "sub" ? "shape sub" : `shape ${form}`,
            ]),
          ];
    return Svg.label([...(label || []), ...size, ...more], 12, {
      x: half.x + half.width / 2 + aside + (aside < 0 ? -7 : 7),
      y,
      class: "link-name",
      "text-anchor": aside < 0 ? "end" : undefined,
      "data-link": link.names[0],
    });
  }
}

// How far links to and fro lie beside the middle.
const OPPOSED = 8;

// A sum is a circle inside of its row.
function inset(row) {
  return row.body < Layout.BOX.height ? 3 : 0;
}
