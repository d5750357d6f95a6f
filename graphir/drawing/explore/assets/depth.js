// The same model with another number of layers: those that repeat each other are there more often, or not at all, and
// what speaks of them speaks of as many. What data says of a model so deep is what its own page would say.
"use strict";
const Depth = (() => {
  // Whether layers repeat, so that there may be more of them.
  const varies = (data) => data.depth?.period > 0;

  // The numbers of layers that there may be, up to `most`.
  function choices({ layers, period, units }, most) {
    const made = [];
    for (let count = layers - units * period; count <= Math.max(most, layers); count += period)
      if (count > 0) made.push(count);
    return made;
  }

  function at(data, layers) {
    if (!varies(data) || layers === data.depth.layers) return data;
    const { stem, first, period, units } = data.depth;
    const end = first + units * period,
      more = layers - data.depth.layers,
      copies = units + more / period;
    const inText = new RegExp(`(?<![\\w/])${escaped(stem)}(\\d+)(?=/)`, "g"),
      inName = new RegExp(`^${escaped(stem)}(\\d+)(?=/|$)`);

    const number = (name) => Number(inName.exec(name)?.[1] ?? -1);
    const unit = (name) => {
      const own = number(name);
      return first <= own && own < end ? Math.floor((own - first) / period) : -1;
    };
    const moved = (name, by) => name.replace(inName, (_, digits) => stem + (Number(digits) + by));
    // What stands behind the layers that repeat stands behind more of them.
    const settled = (text) =>
      text.replace(inText, (all, digits) => (Number(digits) >= end ? stem + (Number(digits) + more) : all));

    // A list that says the same of each unit, one after the other or the other way round, says it of as many as there
    // are now; `name` is what an entry speaks of, `renamed` makes the same of another name.
    function grown(list, name, renamed) {
      const made = [];
      for (let place = 0; place < list.length; ) {
        const own = name(list[place]),
          begins = unit(own);
        if (begins < 0) {
          made.push(number(own) >= end ? renamed(list[place], moved(own, more)) : list[place]);
          place += 1;
          continue;
        }
        const runs = [];
        while (runs.length < units) {
          const run = [],
            now = unit(name(list[place]));
          while (place < list.length && unit(name(list[place])) === now) run.push(list[place++]);
          runs.push(run);
        }
        const run = begins ? runs[units - 1] : runs[0];
        for (let copy = 0; copy < copies; copy += 1) {
          const by = period * (begins ? copies - 1 - copy : copy);
          made.push(...run.map((each) => renamed(each, moved(name(each), by))));
        }
      }
      return made;
    }

    const head = (entry) => entry[0],
      headed = (entry, name) => [name, ...entry.slice(1)];
    const blocks = grown(data.blocks, head, ([, kind], path) => [path, kind, number(path)]);
    const place = new Map(blocks.map(([path], at) => [path, at]));
    const runs = grown(
      data.runs.map(([at, ...rest]) => [data.blocks[at][0], ...rest]),
      head,
      headed,
    ).map(([path, ...rest]) => [place.get(path), ...rest]);

    function told(collective) {
      const { cause, need, partner, each } = collective;
      const made = { ...collective, cause: settled(cause), need: settled(need), partner: settled(partner) };
      return each ? { ...made, more: collective.more + (each * more) / period } : made;
    }
    function node(each) {
      const made = { ...each, made: each.made.map((entry) => headed(entry, settled(entry[0]))) };
      if (each.reads) made.reads = grown(each.reads, head, headed);
      if (each.frees)
        made.frees = grown(
          each.frees,
          (entry) => entry[2] ?? "",
          (entry, name) => [entry[0], entry[1], name],
        );
      for (const text of ["of", "why"]) if (each[text]) made[text] = settled(each[text]);
      if (each.told) made.told = told(each.told);
      return made;
    }
    const named = (list) => grown(list, (name) => name, (_, name) => name);
    const names = (lists) => lists.map(named);
    const drawing = (each) => ({ ...each, nodes: names(each.nodes), edges: names(each.edges) });
    // A block of a layer says all by how far other layers are away, and so says the same at any depth.
    const kinds = data.kinds.map((kind) =>
      kind.stem
        ? kind
        : {
            ...kind,
            nodes: kind.nodes.map(node),
            drawings: Object.fromEntries(
              Object.entries(kind.drawings).map(([pass, each]) => [pass, drawing(each)]),
            ),
          },
    );
    return {
      ...data,
      kinds,
      blocks,
      runs,
      arguments: grown(data.arguments, head, headed),
      outputs: named(data.outputs),
      depth: { ...data.depth, units: copies, layers },
    };
  }

  return { at, choices, varies };
})();

function escaped(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
