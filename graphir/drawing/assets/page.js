// The page of a drawing: all states were laid out beforehand, each in a <template>; here they are shown, searched and
// lit. Texts of the drawing reach the page as text only, never as markup.
"use strict";
(() => {
  const laidOut = JSON.parse(document.getElementById("data").textContent);
  // A layer like another: the same drawing, under its own names.
  const originals = new Map(laidOut.map((each) => [each.id, each]));
  function renamed(each) {
    const shifted = (_, number) => each.stem + (Number(number) + each.shift);
    const text = JSON.stringify(originals.get(each.like)).replace(new RegExp(each.stem + "(\\d+)", "g"), shifted);
    const made = { ...JSON.parse(text), id: each.id, title: each.title };
    each.whys.forEach(([at, why]) => { made.nodes[at].why = why; });
    return made;
  }
  const states = laidOut.map((each) => (each.like === undefined ? each : renamed(each)));
  const stage = document.getElementById("stage");
  const about = document.getElementById("about");
  const byId = new Map(states.map((state) => [state.id, state]));
  let state = null, drawing = null, panZoom = null, mode = "both", chosen = null;

  const make = (tag, text, ...children) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    element.append(...children);
    return element;
  };
  const element = (id) => drawing.querySelector("#" + CSS.escape(state.prefix + "-" + id));

  // -- states: how far the model is folded ---------------------------------------------------------------

  function show(id, keep) {
    if (state && state.id === id && !keep) return;
    state = byId.get(id);
    if (panZoom) panZoom.destroy();
    stage.replaceChildren(document.getElementById("state-" + state.index).content.cloneNode(true));
    drawing = stage.querySelector("svg");
    drawing.removeAttribute("width");
    drawing.removeAttribute("height");
    state.nodes.forEach((node, index) => listen(element("n" + index), () => tellNode(index), () => choose(index)));
    state.edges.forEach((edge, index) => listen(element("e" + index), () => tellEdge(index), () => tellEdge(index)));
    panZoom = svgPanZoom(drawing, { fit: true, center: true, minZoom: 0.2, maxZoom: 60, zoomScaleSensitivity: 0.3,
      dblClickZoomEnabled: false, onPan: () => { moved = true; } });
    chosen = null;
    applyMode();
    document.querySelectorAll("[data-state]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.state === id)));
    const select = document.getElementById("states");
    if (select) select.value = id;
    document.body.dataset.shown = id;
    tellState();
  }

  // A drag that began on a node is no click.
  let moved = false;
  stage.addEventListener("mousedown", () => { moved = false; }, true);

  function listen(target, hover, click) {
    if (!target) return;
    target.addEventListener("mouseenter", () => { if (chosen === null) hover(); });
    target.addEventListener("click", (event) => { event.stopPropagation(); if (!moved) click(); });
  }
  stage.addEventListener("click", () => { if (!moved) clear(); });

  // -- what is told --------------------------------------------------------------------------------------

  function tell(title, entries, buttons) {
    const list = make("dl");
    for (const [name, value] of entries) {
      if (!value || !value.length) continue;
      list.append(make("dt", name));
      for (const each of [].concat(value)) list.append(make("dd", "", make("code", each)));
    }
    about.replaceChildren(make("h2", title), list, ...(buttons || []));
  }

  const partnersOf = (index) => {
    const node = state.nodes[index];
    const found = [];
    state.nodes.forEach((other, at) => {
      if (at !== index && (other.partner === node.id || node.partner === other.id)) found.push(at);
    });
    return found;
  };
  // What a node's d-node reads from the forward pass: the edges, and where they start.
  const cachesOf = (indices) => {
    const ids = new Set(indices.map((at) => state.nodes[at].id));
    return state.edges.map((edge, at) => [edge, at]).filter(([edge]) => edge.role === "cached" && ids.has(edge.target));
  };

  function tellNode(index) {
    const node = state.nodes[index];
    const partners = partnersOf(index);
    const backward = node.phase === "backward" ? [index] : partners;
    const caches = cachesOf(backward).map(([edge]) => edge.tensor + " " + edge.shape);
    const buttons = [];
    if (node.opens && byId.has(node.opens)) {
      const button = make("button", "Unfold");
      button.addEventListener("click", () => show(node.opens));
      buttons.push(make("p", "", button));
    }
    tell(node.label || node.id, [
      ["makes", node.types], ["formula", node.formula], ["block", node.scope], ["pass", node.phase],
      ["backward of", node.of], [node.phase === "backward" ? "forward node" : "d-node", partners.map((at) => state.nodes[at].label)],
      ["cached for the backward pass", caches], ["written at", node.at], ["inserted because", node.why],
    ], buttons);
  }

  function tellEdge(index) {
    const edge = state.edges[index];
    tell(edge.tensor, [["shape", edge.shape], ["role", edge.role], ["bytes", edge.bytes], ["from", edge.source], ["to", edge.target]]);
  }

  function tellState() {
    const folds = (state.closes || []).map(([label, target]) => {
      const button = make("button", label);
      button.addEventListener("click", () => show(target));
      return make("p", "", button);
    });
    tell(state.title, [], [...folds, make("p", state.caption), make("p",
      "Drag to move, wheel to zoom. Hover over a node or an arrow to read about it, click a node to light up its partner in the other pass and what it caches.")]);
    about.lastChild.className = "quiet";
  }

  // -- light ---------------------------------------------------------------------------------------------

  function clear() {
    chosen = null;
    drawing.classList.remove("dim");
    drawing.querySelectorAll(".lit, .chosen, .flash").forEach((each) => each.classList.remove("lit", "chosen", "flash"));
    tellState();
  }

  function light(nodes, edges) {
    drawing.classList.add("dim");
    nodes.forEach((at) => element("n" + at)?.classList.add("lit"));
    edges.forEach((at) => element("e" + at)?.classList.add("lit"));
  }

  function choose(index) {
    const again = chosen === index;
    clear();
    if (again) {
      if (state.nodes[index].opens && byId.has(state.nodes[index].opens)) show(state.nodes[index].opens);
      return;
    }
    tellNode(index);
    chosen = index;
    const partners = partnersOf(index);
    const backward = state.nodes[index].phase === "backward" ? [index] : partners;
    const caches = cachesOf(backward);
    const sources = new Set(caches.map(([edge]) => edge.source));
    const at = state.nodes.map((node, place) => (sources.has(node.id) ? place : -1)).filter((place) => place >= 0);
    light([index, ...partners, ...at], caches.map(([, place]) => place));
    element("n" + index).classList.add("chosen");
  }

  // -- forward, backward, both ---------------------------------------------------------------------------

  function applyMode() {
    const isOff = (node) => mode !== "both" && node.kind !== "port" && node.kind !== "junction" && node.phase !== mode;
    const off = new Set(state.nodes.filter(isOff).map((node) => node.id));
    const inMode = (edge) => mode === "both" || (mode === "backward") === (edge.role === "gradient" || edge.role === "cached")
      || edge.role === "collective" || edge.role === "parameter";
    const visible = new Set();
    state.edges.forEach((edge, at) => {
      const hidden = off.has(edge.source) || off.has(edge.target) || !inMode(edge);
      element("e" + at)?.classList.toggle("off", hidden);
      if (!hidden) { visible.add(edge.source); visible.add(edge.target); }
    });
    state.nodes.forEach((node, at) => {
      const loose = mode !== "both" && (node.kind === "port" || node.kind === "junction") && !visible.has(node.id);
      element("n" + at)?.classList.toggle("off", off.has(node.id) || loose);
    });
    document.querySelectorAll("[data-mode]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode)));
  }

  // -- search --------------------------------------------------------------------------------------------

  // Every tensor, with the states that show it and where.
  const index = new Map();
  states.forEach((each) => {
    const note = (tensor, where) => {
      if (!index.has(tensor)) index.set(tensor, []);
      index.get(tensor).push([each.id, where]);
    };
    each.edges.forEach((edge, at) => edge.tensor.split(", ").forEach((tensor) => note(tensor, "e" + at)));
    each.nodes.forEach((node, at) => (node.makes || []).forEach((tensor) => note(tensor, "n" + at)));
  });
  const input = document.getElementById("search");
  const found = document.getElementById("found");
  const most = 40;

  function look() {
    const wanted = input.value.trim().toLowerCase();
    found.replaceChildren();
    if (!wanted) return;
    const rank = (name) => {
      const lower = name.toLowerCase(), local = lower.slice(lower.lastIndexOf("/") + 1);
      return lower === wanted || local === wanted ? 0 : local.startsWith(wanted) ? 1 : lower.includes(wanted) ? 2 : 3;
    };
    const names = [...index.keys()].map((name) => [rank(name), name]).filter(([place]) => place < 3);
    names.sort((a, b) => a[0] - b[0] || a[1].localeCompare(b[1], "en", { numeric: true }));
    for (const [, name] of names.slice(0, most)) {
      const button = make("button", name);
      button.addEventListener("click", () => { found.replaceChildren(); input.value = name; go(name); });
      found.append(make("li", "", button));
    }
    if (!names.length) found.append(make("li", "", make("button", "no tensor of that name is drawn")));
  }

  function go(name) {
    const places = index.get(name);
    // On an arrow rather than inside of a folded block, and where the reader is, if it is there.
    const drawn = places.filter(([, at]) => at[0] === "e");
    const best = drawn.length ? drawn : places;
    const [id, where] = best.find(([each]) => each === state.id) || best[0];
    show(id);
    clear();
    if (mode !== "both") { mode = "both"; applyMode(); }
    const target = element(where);
    if (where[0] === "e") tellEdge(Number(where.slice(1))); else tellNode(Number(where.slice(1)));
    if (panZoom.getZoom() < 1.6) panZoom.zoom(1.6);
    const frame = stage.getBoundingClientRect(), box = target.getBoundingClientRect();
    panZoom.panBy({ x: frame.left + frame.width / 2 - (box.left + box.width / 2),
      y: frame.top + frame.height / 2 - (box.top + box.height / 2) });
    target.classList.add("flash");
  }

  input.addEventListener("input", look);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") found.querySelector("button")?.click();
    if (event.key === "Escape") { input.value = ""; found.replaceChildren(); }
  });

  // -- controls ------------------------------------------------------------------------------------------

  document.querySelectorAll("[data-mode]").forEach((button) =>
    button.addEventListener("click", () => { mode = button.dataset.mode; applyMode(); }));
  document.querySelectorAll("[data-state]").forEach((button) => button.addEventListener("click", () => show(button.dataset.state)));
  document.getElementById("states")?.addEventListener("change", (event) => show(event.target.value));
  document.getElementById("whole").addEventListener("click", () => { panZoom.resize(); panZoom.fit(); panZoom.center(); });
  window.addEventListener("resize", () => { panZoom.resize(); panZoom.fit(); panZoom.center(); });
  document.addEventListener("keydown", (event) => {
    if (event.target === input) return;
    if (event.key === "Escape") clear();
    if (event.key === "/") { event.preventDefault(); input.focus(); }
  });
  show(states[0].id, true);
})();
