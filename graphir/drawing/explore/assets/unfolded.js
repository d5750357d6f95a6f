// The drawings of unfolded blocks that the window shows. Each is an element of its own that stays while it is seen:
// when the rest is painted anew it is only put elsewhere, which costs nothing, however large it is.
"use strict";
class Unfolded {
  constructor(holder) {
    this.holder = holder;
    this.shown = new Map();
  }

  // Puts the drawings `wanted` by the painter where they lie; those that `painter` has not made are made anew.
  place(painter, wanted, region, zoom) {
    if (painter !== this.painter) this.clear();
    this.painter = painter;
    const seen = new Set();
    for (const each of wanted) {
      const key = `${each.block.at} ${each.pass} ${each.rank}`;
      seen.add(key);
      let element = this.shown.get(key);
      if (!element) {
        element = painter.drawing(each);
        this.shown.set(key, element);
        this.holder.append(element);
      }
      const style = { width: `${each.width * zoom}px`, height: `${each.height * zoom}px` };
      Object.assign(element.style, style, {
        transform: `translate(${(each.x - region.left) * zoom}px, ${(each.y - region.top) * zoom}px)`,
      });
    }
    for (const [key, element] of this.shown) {
      if (seen.has(key)) continue;
      element.remove();
      this.shown.delete(key);
    }
  }

  clear() {
    this.holder.replaceChildren();
    this.shown.clear();
  }
}
