// On paper stands what the window shows, as a figure of its own: no controls, a caption with the sizes.
"use strict";
const Print = (() => {
  function figure(app) {
    const { stage, layout, model } = app;
    const seen = stage.region();
    const left = Math.max(seen.left, 0),
      top = Math.max(seen.top, 0);
    const width = Math.min(seen.right, layout.width) - left,
      height = Math.min(seen.bottom, layout.height) - top;
    const svg = Svg.make("svg", { viewBox: `${left} ${top} ${width} ${height}` });
    svg.append(app.painter.paint(layout, { left, top, right: left + width, bottom: top + height }, Painter.fine));
    for (const each of app.painter.drawings(layout, { left, top, right: left + width, bottom: top + height }))
      svg.append(app.painter.drawing(each));
    const caption = document.createElement("figcaption"),
      made = document.createElement("figure");
    const sizes = Object.entries(model.sizes).map(([name, size]) => `${name} = ${size}`);
    if (Depth.varies(model.data)) sizes.unshift(`${model.data.depth.layers} layers`);
    caption.append(`${model.data.title}. `, Formulas.typeset(`${sizes.join(", ")}.`));
    made.append(svg, caption);
    return made;
  }

  function wire(app) {
    const holder = document.getElementById("print");
    addEventListener("beforeprint", () => holder.replaceChildren(figure(app)));
    addEventListener("afterprint", () => holder.replaceChildren());
  }

  return { wire };
})();
