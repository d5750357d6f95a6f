// What stands at the window's edges while the content moves: which rank a column is, which block a row.
"use strict";
const Margins = (() => {
  const NARROWEST = 64,
    LOWEST = 13,
    OVERLAP = 3;

  function mark(text, style, title) {
    const made = document.createElement("div");
    made.textContent = text;
    made.title = title || text;
    Object.assign(made.style, style);
    return made;
  }

  // A name over each column that has room for one; where columns are narrow, over each fifth, tenth, …
  function ranks(holder, layout, region, zoom) {
    const { columns } = Layout.within(layout, region);
    const { mesh, all } = layout.view;
    const made = [];
    // One column for all ranks has its name in the middle of the window, wherever it is moved.
    holder.parentElement.dataset.title = all ? "" : mesh.size > 1 ? `each of ${mesh.size} ranks` : "one rank";
    if (!all) {
      holder.replaceChildren();
      return;
    }
    const pitch = columns.length > 1 ? (columns[1].x - columns[0].x) * zoom : Infinity;
    const every = [1, 2, 4, 8, 16, 32, 64].find((each) => each * pitch >= NARROWEST) || 128;
    for (const column of columns) {
      if (column.rank % every) continue;
      const full = mesh.title(column.rank);
      const width = (every === 1 ? column.width : (pitch * every) / zoom) * zoom;
      const text = width < 105 ? mesh.coordinates(column.rank).join(".") : full;
      made.push(mark(text, { left: `${(column.x - region.left) * zoom}px`, width: `${width}px` }, full));
    }
    holder.replaceChildren(...made);
  }

  // Each row's name, with what folds or unfolds it; a frame's at its top, or where it is first seen.
  function rows(holder, layout, region, zoom, fold) {
    const places = [];
    const place = (node, y, height, sign, action, room) => {
      // A name that is higher than its place begins above it.
      const lack = Math.max(0, LOWEST - height * zoom),
        top = (y - region.top) * zoom - lack;
      if (room >= LOWEST) places.push({ node, top, height: height * zoom + lack, tall: height, sign, action });
    };
    for (const frame of layout.frames) {
      if (frame.y > region.bottom || frame.y + frame.height < region.top) continue;
      place(frame.node, frame.y, Layout.HEAD, "▾", "Fold", frame.height * zoom);
    }
    for (const row of Layout.within(layout, region).rows) {
      const folds = row.node.children.length || row.node.block.kind.drawings;
      place(
        row.node,
        row.y,
        row.body,
        row.rank !== undefined ? "▾" : folds ? "▸" : "",
        row.rank === undefined ? "Unfold" : "Fold",
        row.height * zoom,
      );
    }
    // From afar the first of what a frame holds has no room for its name below that of the frame.
    let free = -Infinity;
    const made = [];
    for (const each of places.sort((a, b) => a.top - b.top)) {
      if (each.top < free) continue;
      free = each.top + Math.min(each.height, LOWEST) - OVERLAP;
      made.push(button(each, fold));
    }
    holder.replaceChildren(...made);
  }

  function button({ node, top, height, tall, sign, action }, fold) {
    const made = document.createElement("button");
    made.tabIndex = -1;
    made.textContent = `${sign} ${Panel.title(node)}`;
    made.title = `${action} ${node.id}`;
    Object.assign(made.style, { top: `${top}px`, height: `${height}px`, paddingLeft: `${6 + 10 * node.depth}px` });
    made.classList.toggle("tall", tall > 3 * Layout.BOX.height);
    made.addEventListener("click", () => fold(node));
    return made;
  }

  // Which block the middle of the window shows, for where its name is out of sight.
  function here(layout, region) {
    const { rows } = Layout.within(layout, {
      ...region,
      top: (region.top + region.bottom) / 2,
      bottom: (region.top + region.bottom) / 2,
    });
    return rows[0]?.node.id.replace("*", "") || "";
  }

  return { ranks, rows, here };
})();
