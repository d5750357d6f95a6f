// What stands at the window's edges while the content moves: which rank a column is, which block a row.
"use strict";
const Margins = (() => {
  const NARROWEST = 64,
    LOWEST = 13;

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
    const made = [];
    const place = (node, y, height, sign, action, room) => {
      if (room < LOWEST) return;
      const button = document.createElement("button");
      button.tabIndex = -1;
      button.textContent = `${sign} ${Panel.title(node)}`;
      button.title = `${action} ${node.id}`;
      button.style.top = `${(y - region.top) * zoom}px`;
      button.style.height = `${Math.max(height * zoom, LOWEST)}px`;
      button.classList.toggle("tall", height > 3 * Layout.BOX.height);
      button.style.paddingLeft = `${6 + 10 * node.depth}px`;
      button.addEventListener("click", () => fold(node));
      made.push(button);
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
    holder.replaceChildren(...made);
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
