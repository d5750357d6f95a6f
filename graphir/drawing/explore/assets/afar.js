// A region from afar, where nothing can be read: areas on a canvas, which a browser fills by ten thousands in a moment,
// while as many elements of a drawing would keep it busy for seconds.
"use strict";
class Afar {
  constructor(model, overlay) {
    this.model = model;
    this.overlay = overlay;
  }

  paint(layout, region, zoom) {
    const { rows, columns } = Layout.within(layout, region);
    const sharp = Math.min(2, devicePixelRatio || 1);
    const canvas = document.createElement("canvas");
    canvas.width = Math.ceil((region.right - region.left) * zoom * sharp);
    canvas.height = Math.ceil((region.bottom - region.top) * zoom * sharp);
    const context = canvas.getContext("2d"), colors = this.#colors();
    context.scale(zoom * sharp, zoom * sharp);
    context.translate(-region.left, -region.top);
    const thin = 1 / (zoom * sharp);
    this.#frames(context, layout, columns, region, colors, thin);
    const most = this.overlay.most(layout.rows.map((row) => row.node), layout.view.passes);
    for (const row of rows) {
      for (const [at, pass] of layout.view.passes.entries()) {
        if (!Layout.has(row.node, pass)) continue;
        const share = most[pass] ? (0.85 * this.overlay.amount(row.node, pass)[0]) / most[pass] : 0;
        const inset = row.body < Layout.BOX.height ? 55 : 0;
        for (const fill of [[colors[pass], 1], [colors.heat, share]]) {
          if (!fill[1]) continue;
          [context.fillStyle, context.globalAlpha] = fill;
          for (const { halves } of columns) context.fillRect(halves[at].x + inset, row.y, halves[at].width - 2 * inset, row.body);
        }
        context.globalAlpha = 1;
      }
      this.#lanes(context, layout, row, columns, colors);
    }
    return canvas;
  }

  // The colours of the page, by day or by night.
  #colors() {
    const style = getComputedStyle(document.body), read = (name) => style.getPropertyValue(name).trim();
    return { forward: read("--far"), backward: read("--far-d"), update: read("--far-u"), heat: read("--heat"), frame: read("--border"),
      axes: [0, 1, 2, 3].map((at) => read(`--axis-${at}`)) };
  }

  #frames(context, layout, columns, region, colors, thin) {
    context.strokeStyle = colors.frame;
    context.lineWidth = thin;
    for (const frame of layout.frames) {
      if (frame.y > region.bottom || frame.y + frame.height < region.top) continue;
      for (const column of columns) context.strokeRect(column.x - 16, frame.y, column.width + 32, frame.height);
    }
  }

  // Collectives, rank by rank: who meets with whom cannot be told apart from here.
  #lanes(context, layout, row, columns, colors) {
    for (const lane of row.lanes) {
      const at = layout.view.passes.indexOf(lane.pass), y = row.y + row.body + lane.slot * Layout.LANE + 3;
      context.fillStyle = colors.axes[this.overlay.place(lane.axes[0])];
      for (const { halves } of columns) context.fillRect(halves[at].x, y, halves[at].width, Layout.LANE - 5);
    }
  }
}
