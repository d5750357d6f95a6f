// Where everything lies: rows are blocks in the order of the forward pass, columns are ranks, and in each column the
// passes stand side by side. A pure function of what is folded; units are those of the drawings. What lies where is
// found by halving, so that a model of any size is laid out and asked at once.
"use strict";
const Layout = (() => {
  const BOX = { width: 150, height: 40 };
  const SUM = 30,
    GAP = 22,
    LANE = 15,
    HEAD = 24,
    PAD = 10,
    MARGIN = 34;
  const BETWEEN = 30,
    BETWEEN_GROUPS = 70,
    TRACKS = 4;

  // `view`: tree, mesh, model, open (ids of tree nodes), unfolded (rank by leaf id), passes, all (each rank a
  // column).
  function make(view) {
    const rows = [],
      frames = [];
    let y = MARGIN;
    function visit(node) {
      if (node.children.length && view.open.has(node.id)) {
        const frame = { node, y };
        y += HEAD;
        for (const child of node.children) visit(child);
        if (node.block) row(node);
        y += PAD - GAP / 2;
        frame.height = y - frame.y;
        frames.push(frame);
        y += GAP / 2;
      } else row(node);
    }
    function row(node) {
      if (!view.passes.some((pass) => has(node, pass))) return;
      // In one column the lanes of passes stand side by side; over many a bar crosses the others' halves, and has
      // its own.
      const shown = view.lanes(node).filter((lane) => view.passes.includes(lane.pass));
      const lanes = view.all ? shown.map((lane, at) => ({ ...lane, slot: at })) : shown;
      const deep = Math.max(0, ...lanes.map((lane) => lane.slot + 1)) * LANE;
      const rank = view.unfolded.get(node.id);
      const drawn = rank !== undefined ? view.passes.map((pass) => node.block.kind.drawings[pass]).filter(Boolean) : [];
      const body = drawn.length
        ? Math.max(...drawn.map((each) => each.height)) + 2 * PAD
        : isSum(node, view.model)
          ? SUM
          : BOX.height;
      rows.push({ node, y, body, height: body + deep, lanes, rank: drawn.length ? rank : undefined });
      y += body + deep + GAP;
    }
    for (const node of view.tree.root.children) visit(node);
    const rowOf = new Map(rows.map((each, at) => [each.node.id, at]));
    const columns = columnsOf(view, rows);
    const last = columns[columns.length - 1];
    const links = linksOf(view, rowOf);
    return { rows, frames, columns, rowOf, links, width: last.x + last.width + MARGIN, height: y + MARGIN - GAP, view };
  }

  // The row in which a tree node is drawn: its own, or that of the folded one it lies in.
  function shown(view, rowOf, leaf) {
    for (const node of view.tree.lineage(leaf)) if (rowOf.has(node.id)) return rowOf.get(node.id);
    return undefined;
  }

  // Whether anything of a tree node happens in a pass.
  function has(node, pass) {
    node.passes ??= new Set(
      node.leaves.flatMap(({ kind }) => [...kind.nodes.map((each) => each.phase), ...Object.keys(kind.drawings)]),
    );
    return node.passes.has(pass);
  }

  // Links between rows, those between the same two joined. What leads further than to the next row runs beside the
  // boxes, on the first track that is free over its length; what one row hands to many shares a track, as a bus.
  function linksOf(view, rowOf) {
    const joined = new Map();
    for (const { source, target, pass, names } of view.model.links) {
      if (!view.passes.includes(pass)) continue;
      const from = shown(view, rowOf, view.tree.leafOf.get(source)),
        to = shown(view, rowOf, view.tree.leafOf.get(target));
      if (from === undefined || to === undefined || from === to) continue;
      const key = `${from} ${to} ${pass}`;
      if (!joined.has(key)) joined.set(key, { from, to, pass, names: [], track: 0 });
      joined.get(key).names.push(...names);
    }
    const links = [...joined.values()],
      buses = new Map();
    for (const link of links) {
      link.opposed = joined.has(`${link.to} ${link.from} ${link.pass}`);
      if (Math.abs(link.to - link.from) < 2) continue;
      const key = `${link.from} ${link.pass} ${link.names.join(" ")}`;
      const bus = buses.get(key) || { low: link.from, high: link.from, pass: link.pass, links: [] };
      Object.assign(bus, { low: Math.min(bus.low, link.to), high: Math.max(bus.high, link.to) });
      bus.links.push(link);
      buses.set(key, bus);
    }
    const taken = [];
    for (const bus of [...buses.values()].sort((a, b) => a.high - a.low - b.high + b.low)) {
      const free = (track) =>
        (taken[track] || []).every(
          (other) => other.pass !== bus.pass || other.high <= bus.low || bus.high <= other.low,
        );
      let track = 1;
      while (track < TRACKS && !free(track)) track += 1;
      (taken[track] ||= []).push(bus);
      for (const link of bus.links) link.track = track;
    }
    return links;
  }

  // The sum of a residual: one node of the forward pass whose symbol is a sign, and nothing that ranks say to each
  // other.
  function isSum(node, model) {
    if (node.sum === undefined) {
      const nodes = node.children.length ? [] : node.block.kind.nodes;
      const forward = nodes.filter((each) => each.phase === "forward");
      const symbol = forward.length === 1 ? model.data.operators[forward[0].op].symbol : "";
      node.sum = /^[^A-Za-z]$/.test(symbol) && !nodes.some((each) => each.told);
    }
    return node.sum;
  }

  function columnsOf(view, rows) {
    const columns = [];
    let x = MARGIN;
    const ranks = view.all ? view.mesh.size : 1;
    const outer = (rank) => view.mesh.coordinates(rank)[0];
    for (let rank = 0; rank < ranks; rank += 1) {
      if (rank) x += view.mesh.axes.length > 1 && outer(rank) !== outer(rank - 1) ? BETWEEN_GROUPS : BETWEEN;
      const column = { rank, x, halves: [] };
      let inner = 0;
      for (const pass of view.passes) {
        let width = BOX.width;
        for (const row of rows) {
          const drawing = row.rank === rank ? row.node.block.kind.drawings[pass] : null;
          if (drawing) width = Math.max(width, drawing.width + 2 * PAD);
        }
        column.halves.push({ pass, x: x + inner, width });
        inner += width + BETWEEN;
      }
      column.width = inner - BETWEEN;
      x += column.width;
      columns.push(column);
    }
    return columns;
  }

  // The last entry that begins at or before `place`.
  function search(entries, place, start) {
    let low = 0,
      high = entries.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (start(entries[middle]) <= place) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  const rowAt = (layout, y) => search(layout.rows, y, (row) => row.y);
  const columnAt = (layout, x) => search(layout.columns, x, (column) => column.x);

  // The rows and columns that a region shows, as slices.
  function within(layout, region) {
    const rows = layout.rows.slice(rowAt(layout, region.top), rowAt(layout, region.bottom) + 1);
    const columns = layout.columns.slice(columnAt(layout, region.left), columnAt(layout, region.right) + 1);
    return { rows, columns };
  }

  // What lies at a place: its row, column, and the pass whose half it is in, if it is in a box.
  function at(layout, x, y) {
    const row = layout.rows[rowAt(layout, y)],
      column = layout.columns[columnAt(layout, x)];
    if (!row || y < row.y || y > row.y + row.height) return null;
    const half = column.halves.find((each) => each.x <= x && x <= each.x + each.width);
    const slot = Math.floor((y - row.y - row.body) / LANE);
    return half
      ? { row, column, pass: half.pass, lane: row.lanes.find((each) => each.pass === half.pass && each.slot === slot) }
      : null;
  }

  return { make, within, at, has, BOX, LANE, HEAD, PAD };
})();
