// Elements of a drawing, made one way: texts reach them as text, never as markup.
"use strict";
const Svg = (() => {
  const SPACE = "http://www.w3.org/2000/svg";

  function make(tag, attributes = {}, ...children) {
    const element = document.createElementNS(SPACE, tag);
    for (const name in attributes) if (attributes[name] !== undefined) element.setAttribute(name, attributes[name]);
    element.append(...children);
    return element;
  }

  const box = (x, y, width, height) => `M${x} ${y}h${width}v${height}h${-width}z`;
  const disc = (x, y, radius) =>
    `M${x - radius} ${y}a${radius} ${radius} 0 1 0 ${2 * radius} 0a${radius} ${radius} 0 1 0 ${-2 * radius} 0z`;
  const arrow = (x, y, down) => (down ? `M${x} ${y}l-3.5 -7h7z` : `M${x} ${y}l-3.5 7h7z`);

  const SHIFT = { sub: 0.26, sup: -0.42 };

  // A label's runs [text, form], as the documents set them: tensors bold, subscripts small and low.
  function label(runs, size, attributes) {
    const line = make("text", { ...attributes, "font-size": size });
    let level = 0;
    for (const [text, form] of runs) {
      const wanted = SHIFT[form.split(" ").pop()] || 0;
      const span = make("tspan", {
        class: form || undefined,
        dy: wanted === level ? undefined : size * (wanted - level),
      });
      level = wanted;
      span.textContent = text;
      line.append(span);
    }
    return line;
  }

  // A drawing of the page, to stand in another: its ids become numbers in `data-n` and `data-e`, as it may be shown
  // twice.
  const drawings = new Map();
  function drawing(at, x, y, width, height) {
    if (!drawings.has(at)) {
      const root = document.getElementById(`drawing-${at}`).content.querySelector("svg").cloneNode(true);
      root.removeAttribute("id");
      for (const element of root.querySelectorAll("[id]")) {
        const found = /^d-([ne])(\d+)$/.exec(element.id);
        if (found) element.setAttribute(`data-${found[1]}`, found[2]);
        element.removeAttribute("id");
      }
      drawings.set(at, root);
    }
    const made = drawings.get(at).cloneNode(true);
    for (const [name, value] of Object.entries({ x, y, width, height })) made.setAttribute(name, value);
    return made;
  }

  return { make, box, disc, arrow, label, drawing };
})();
