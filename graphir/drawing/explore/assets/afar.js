// A region from afar, where nothing can be read: areas on a canvas, which a browser shows at once, while as many
// elements of a drawing would keep it busy for seconds. Ranks do the same, so that their columns are one strip, set
// side by side.
"use strict";
class Afar {
  static BESIDE = 16;

  constructor(model, overlay) {
    this.model = model;
    this.overlay = overlay;
  }

  paint(layout, region, zoom) {
    const { rows, columns } = Layout.within(layout, region);
    const sharp = devicePixelRatio > 1 ? 2 : 1,
      scale = zoom * sharp;
    const height = Math.round((region.bottom - region.top) * zoom) * sharp;
    const canvas = this.#canvas(Math.round((region.right - region.left) * zoom) * sharp, height);
    const context = canvas.getContext("2d");
    const strips = new Map();
    for (const column of columns) {
      // Where a block is unfolded its column is wider than others.
      const key = column.halves.map((half) => half.width).join(" ");
      if (!strips.has(key)) strips.set(key, this.#strip(layout, rows, column, region.top, scale, height));
      context.drawImage(strips.get(key), Math.round((column.x - Afar.BESIDE - region.left) * scale), 0);
    }
    return canvas;
  }

  #canvas(width, height) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: Math.max(1, width), height: Math.max(1, height) });
    return canvas;
  }

  // One rank's column: its frames, its boxes, its part of collectives.
  #strip(layout, rows, column, top, scale, height) {
    const canvas = this.#canvas(Math.ceil((column.width + 2 * Afar.BESIDE) * scale), height);
    const context = canvas.getContext("2d"),
      colors = this.#colors();
    context.scale(scale, scale);
    context.translate(Afar.BESIDE - column.x, -top);
    this.#frames(context, layout, column, colors, scale);
    const most = this.overlay.most(
      layout.rows.map((row) => row.node),
      layout.view.passes,
    );
    for (const row of rows) {
      for (const [at, pass] of layout.view.passes.entries()) {
        if (!Layout.has(row.node, pass)) continue;
        const share = most[pass] ? (0.85 * this.overlay.amount(row.node, pass)[0]) / most[pass] : 0;
        const half = column.halves[at],
          inset = row.body < Layout.BOX.height ? 55 : 0;
        for (const [color, opacity] of [
          [colors[pass], 1],
          [colors.heat, share],
        ]) {
          context.fillStyle = color;
          context.globalAlpha = opacity;
          context.fillRect(half.x + inset, row.y, half.width - 2 * inset, row.body);
        }
        context.globalAlpha = 1;
      }
      // Who meets with whom cannot be told apart from here.
      for (const lane of row.lanes) {
        const half = column.halves[layout.view.passes.indexOf(lane.pass)];
        context.fillStyle = colors.axes[this.overlay.place(lane.axes[0])];
        context.fillRect(half.x, row.y + row.body + lane.slot * Layout.LANE + 3, half.width, Layout.LANE - 5);
      }
    }
    return canvas;
  }

  // The colours of the page, by day or by night.
  #colors() {
    const style = getComputedStyle(document.body),
      read = (name) => style.getPropertyValue(name).trim();
    return {
      forward: read("--far"),
      backward: read("--far-d"),
      update: read("--far-u"),
      all: read("--far"),
      heat: read("--heat"),
      frame: read("--border"),
      axes: [0, 1, 2, 3].map((at) => read(`--axis-${at}`)),
    };
  }

  // Frames, where they are wider apart than their lines.
  #frames(context, layout, column, colors, scale) {
    context.strokeStyle = colors.frame;
    context.lineWidth = 1 / scale;
    for (const frame of layout.frames) {
      if (frame.height * scale > 30)
        context.strokeRect(column.x - Afar.BESIDE, frame.y, column.width + 2 * Afar.BESIDE, frame.height);
    }
  }
}
