// Memory over the pass: a rank's bytes at each step, sort upon sort. A tap leads to the node at work there.
"use strict";
class Chart {
  static colors = {
    parameter: "var(--sort-0)",
    state: "var(--sort-1)",
    input: "var(--sort-2)",
    gradient: "var(--sort-3)",
    kept: "var(--sort-4)",
    passing: "var(--sort-5)",
  };
  static names = {
    parameter: "parameters",
    state: "optimizer state",
    input: "inputs",
    gradient: "gradients of parameters",
    kept: "kept for the backward pass",
    passing: "others",
  };
  static COLUMNS = 480;

  constructor(app, element) {
    this.app = app;
    this.element = element;
    element.addEventListener("click", (event) => {
      const box = element.querySelector("svg")?.getBoundingClientRect();
      if (!box) return;
      const step = Math.round(((event.clientX - box.left) / box.width) * (app.model.length - 1));
      const found = app.model.at(Math.min(app.model.length - 1, Math.max(0, step)));
      if (found) app.goToNode(found.block, found.at);
    });
  }

  refresh() {
    const { model } = this.app;
    const { sorts, over, all, peak } = model.memory();
    const count = Math.min(Chart.COLUMNS, all.length),
      most = all[peak] || 1;
    // Of the steps that share a column the fullest is shown.
    const shown = Array.from({ length: count }, (_, column) => {
      const from = Math.floor((column * all.length) / count),
        to = Math.max(from + 1, Math.floor(((column + 1) * all.length) / count));
      let best = from;
      for (let step = from; step < to; step += 1) if (all[step] > all[best]) best = step;
      return best;
    });
    const svg = Svg.make("svg", {
      viewBox: `0 0 ${count} 100`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `Memory of a rank over ${all.length} steps: at most ${Formulas.bytes(most)}, at step ${peak + 1}`,
    });
    let floor = shown.map(() => 0);
    for (const sort of sorts) {
      const top = shown.map((step, column) => floor[column] + over[sort][step]);
      const y = (bytes) => (100 - (98 * bytes) / most).toFixed(2);
      const points = [
        ...top.map((bytes, column) => `${column + 0.5},${y(bytes)}`),
        ...floor.map((bytes, column) => `${column + 0.5},${y(bytes)}`).reverse(),
      ];
      svg.append(Svg.make("polygon", { points: points.join(" "), style: `fill: ${Chart.colors[sort]}` }));
      floor = top;
    }
    const legend = document.createElement("p");
    legend.append(`A rank's memory, step by step: at most ${Formulas.bytes(most)}. `);
    for (const sort of sorts) {
      const amount = over[sort][peak] || 0;
      if (!amount) continue;
      const entry = document.createElement("span"),
        swatch = document.createElement("span");
      swatch.className = "swatch box";
      swatch.style.setProperty("--color", Chart.colors[sort]);
      entry.append(swatch, `${Chart.names[sort]} ${Formulas.bytes(amount)}`);
      legend.append(entry);
    }
    this.element.replaceChildren(svg, legend);
  }
}
