// What is chosen is lit in the drawings that are painted: a node, its partner in the other pass, what it caches, and
// a line from one to the other; or a tensor wherever it is drawn. The rest is dimmed.
"use strict";
const Light = (() => {
  function drawingsOf(root) {
    return [...root.querySelectorAll("svg[data-block]")].map((element) => {
      const block = Number(element.dataset.block);
      return { element, block, pass: element.dataset.pass };
    });
  }

  // The elements of a drawing that stand for a node, and the edges that carry a tensor, by local names.
  function nodes(drawing, element, name) {
    return [...element.querySelectorAll("[data-n]")].filter((each) => drawing.nodes[each.dataset.n][0] === name);
  }

  function edges(drawing, element, names) {
    return [...element.querySelectorAll("[data-e]")].filter((each) =>
      drawing.edges[each.dataset.e].some((name) => names.has(name)),
    );
  }

  function show(root, model, chosen) {
    root.querySelectorAll(".lit, .chosen, .dim").forEach((each) => each.classList.remove("lit", "chosen", "dim"));
    root.querySelector(".tie")?.remove();
    if (!chosen) return;
    const lit = [];
    for (const { element, block, pass } of drawingsOf(root)) {
      const own = model.blocks[block],
        drawing = own.kind.drawings[pass];
      const found =
        chosen.kind === "node"
          ? ofNode(own, drawing, element, chosen, model)
          : ofTensor(own, drawing, element, chosen.name);
      if (!found.length) continue;
      element.classList.add("dim");
      found.forEach((each) => each.classList.add("lit"));
      lit.push(...found);
    }
    if (chosen.kind === "node") tie(root, lit);
  }

  function ofNode(own, drawing, element, { block, at }, model) {
    if (own !== block) return [];
    const node = own.kind.nodes[at];
    const related = [{ node }, ...model.partners({ block, at, node }).filter((each) => each.block === block)];
    const found = related.flatMap((each) => nodes(drawing, element, each.node.made[0][0]));
    nodes(drawing, element, node.made[0][0]).forEach((each) => each.classList.add("chosen"));
    // What its d-node reads of the forward pass waits in ports there.
    const forward = new Set(
      own.kind.nodes.filter((each) => each.phase === "forward").flatMap((each) => each.made.map(([name]) => name)),
    );
    const cached = related
      .filter((each) => each.node.phase === "backward")
      .flatMap((each) => (each.node.reads || []).map(([name]) => name));
    const carried = new Set(cached.filter((name) => forward.has(name)));
    return [...found, ...edges(drawing, element, carried)];
  }

  function ofTensor(own, drawing, element, name) {
    const local = new Set(
      own.kind.nodes
        .flatMap((node) => [...node.made, ...(node.reads || [])])
        .map(([each]) => each)
        .filter((each) => own.name(each) === name),
    );
    if (!local.size) return [];
    const makers = [...element.querySelectorAll("[data-n]")].filter((each) =>
      drawing.nodes[each.dataset.n].some((made) => local.has(made)),
    );
    return [...makers, ...edges(drawing, element, local)];
  }

  // A line between what is chosen and its partner, which may stand far apart.
  function tie(root, lit) {
    const from = root.querySelector(".chosen"),
      to = lit.find((each) => each.dataset.n && !each.classList.contains("chosen"));
    const content = root.querySelector(".content");
    if (!from || !to || !content) return;
    const matrix = content.getScreenCTM().inverse();
    const [a, b] = [from, to].map((each) => {
      const box = each.getBoundingClientRect();
      return new DOMPoint(box.left + box.width / 2, box.top + box.height / 2).matrixTransform(matrix);
    });
    const middle = (a.x + b.x) / 2;
    content.append(
      Svg.make("path", { class: "tie", d: `M${a.x} ${a.y}C${middle} ${a.y} ${middle} ${b.y} ${b.x} ${b.y}` }),
    );
  }

  return { show };
})();
