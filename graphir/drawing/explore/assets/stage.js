// The stage: a window onto the layout that is moved and zoomed by mouse, touch and keys. What is painted reaches a
// little beyond the window. A move only shifts what is painted, which a browser does without drawing anything anew;
// it is painted again when the window comes to its edge, or has come to rest after a zoom or a quick move. Behind all
// lies the whole layout as seen from afar, a small picture, so that a quick move never leads into the void.
"use strict";
class Stage {
  static MARGIN = 0.35;
  static LEAST = 0.01;
  static MOST = 4;
  // What has not moved for so many ms has come to rest; what moves after so many begins anew; steps are so far apart at
  // least; how large the picture from afar is.
  static REST = 90;
  static PAUSE = 400;
  static STEP = 8;
  static AFAR = 1400;

  // `paint(region, zoom)` makes an element of what lies there, to be stretched over the region, `afar(most)` a picture
  // of all that is `most` pixels wide and high at most; `moved` hears of every move, `chosen` of a click at a place.
  constructor(element, { paint, painted, afar, moved, chosen, size }) {
    this.element = element;
    this.sheet = element.querySelector(".sheet-of-all");
    this.head = element.querySelector(".ranks");
    this.gutter = element.querySelector(".rows");
    this.backdrop = element.querySelector(".backdrop");
    Object.assign(this, { paint, painted, afar, moved, chosen, size });
    this.x = 0;
    this.y = 0;
    this.zoom = 1;
    this.shown = null;
    this.was = { x: 0, y: 0, now: 0 };
    this.farScale = 1;
    this.cost = 0;
    this.pointers = new Map();
    this.#listen();
    new ResizeObserver(() => this.refresh()).observe(element);
  }

  get width() {
    return this.element.clientWidth;
  }
  get height() {
    return this.element.clientHeight;
  }

  // The part of the layout that the window shows, and so much more at each side, in windows: whole pixels of it, as
  // what lies on the pixels of the screen is shown as it is, and anything else is computed anew at every move.
  region(more = 0) {
    const across = Math.round(more * this.width) / this.zoom,
      along = Math.round(more * this.height) / this.zoom;
    return {
      left: this.x - across,
      top: this.y - along,
      right: this.x + this.width / this.zoom + across,
      bottom: this.y + this.height / this.zoom + along,
    };
  }

  // -- moves -----------------------------------------------------------------------------------------------

  // To `x`, `y` at the upper left, kept where at least something of the layout is seen.
  move(x, y) {
    const { width, height } = this.size();
    const room = [this.width / this.zoom, this.height / this.zoom];
    this.x = Math.min(Math.max(x, -0.7 * room[0]), Math.max(0, width - 0.3 * room[0]));
    this.y = Math.min(Math.max(y, -0.7 * room[1]), Math.max(0, height - 0.3 * room[1]));
    this.#shift();
  }

  pan(dx, dy) {
    this.move(this.x - dx / this.zoom, this.y - dy / this.zoom);
  }

  // `factor` times as near, so that what lies at a place of the window stays there.
  scale(factor, px = this.width / 2, py = this.height / 2) {
    const zoom = Math.min(Stage.MOST, Math.max(Stage.LEAST, this.zoom * factor));
    const x = this.x + px / this.zoom - px / zoom,
      y = this.y + py / this.zoom - py / zoom;
    this.zoom = zoom;
    this.move(x, y);
  }

  // So that a rectangle of the layout fills the window; no nearer than `most`.
  fit(left, top, width, height, most = 1) {
    const inner = [this.width - this.gutter.offsetWidth - 24, this.height - this.head.offsetHeight - 24];
    this.zoom = Math.max(Stage.LEAST, Math.min(most, inner[0] / width, inner[1] / height));
    this.move(
      left + width / 2 - (this.width + this.gutter.offsetWidth) / 2 / this.zoom,
      top + height / 2 - (this.height + this.head.offsetHeight) / 2 / this.zoom,
    );
    this.refresh();
  }

  // So that a place of the layout is in the middle.
  center(x, y) {
    this.move(
      x - (this.width + this.gutter.offsetWidth) / 2 / this.zoom,
      y - (this.height + this.head.offsetHeight) / 2 / this.zoom,
    );
  }

  #shift() {
    const { shown } = this;
    if (!shown) {
      this.refresh();
      return;
    }
    const scale = this.zoom / shown.zoom;
    const whole = scale === 1 ? Math.round : (each) => each;
    const x = whole((shown.region.left - this.x) * this.zoom),
      y = whole((shown.region.top - this.y) * this.zoom);
    this.sheet.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.head.firstChild.style.transform = `translateX(${x}px) scaleX(${scale})`;
    this.gutter.firstChild.style.transform = `translateY(${y}px) scaleY(${scale})`;
    const far = this.zoom / this.farScale;
    this.backdrop.style.transform = `translate(${-this.x * this.zoom}px, ${-this.y * this.zoom}px) scale(${far})`;
    const seen = this.region();
    this.moved(seen);
    // Beyond the layout there is nothing to paint.
    const { width, height } = this.size();
    const beyond =
      Math.max(seen.left, 0) < shown.region.left ||
      Math.max(seen.top, 0) < shown.region.top ||
      Math.min(seen.right, width) > shown.region.right ||
      Math.min(seen.bottom, height) > shown.region.bottom;
    if (scale !== 1) {
      clearTimeout(this.resting);
      this.resting = setTimeout(() => this.refresh(), 140);
    }
    // How far this step led, in windows, and how long after the one before.
    const now = performance.now(),
      { was } = this;
    const step = Math.hypot((this.x - was.x) / this.width, (this.y - was.y) / this.height) * this.zoom;
    this.was = { x: this.x, y: this.y, now };
    if (beyond && scale === 1) this.#catchUp(step, now - was.now);
  }

  // What would outrun its margin while it is painted, or within four steps, is painted where it comes to rest; a slower
  // move as it goes on, for a quarter of the time at most, so that it stays smooth. Where steps are far between, rest is
  // longer, too; after a pause a step stands alone.
  #catchUp(step, pause) {
    clearTimeout(this.late);
    const rest = pause > Stage.PAUSE ? Stage.REST : Math.max(Stage.REST, 3 * pause);
    const ahead = Math.max(4, this.cost / Math.max(pause, Stage.STEP));
    const wait = ahead * step > Stage.MARGIN ? rest : this.paintedAt + 3 * this.cost - performance.now();
    if (wait <= 0) this.refresh();
    else this.late = setTimeout(() => this.refresh(), wait);
  }

  // The layout is another: its picture from afar is made anew, once nothing else is to be done.
  changed() {
    this.refresh();
    clearTimeout(this.idle);
    this.idle = setTimeout(() => {
      const { width } = this.size();
      const made = this.afar(Stage.AFAR);
      this.farScale = made.width / width;
      made.className = "backdrop";
      made.setAttribute("aria-hidden", "true");
      this.backdrop.replaceWith(made);
      this.backdrop = made;
      this.#shift();
    }, Stage.REST);
  }

  // Paints what the window shows anew, at the next frame; many wishes within one frame are one.
  refresh() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      clearTimeout(this.resting);
      if (!this.width || !this.height) return;
      const region = this.region(Stage.MARGIN),
        { zoom } = this,
        began = performance.now();
      this.shown = { region, zoom };
      const content = this.paint(region, zoom);
      content.style.width = `${Math.round((region.right - region.left) * zoom)}px`;
      content.style.height = `${Math.round((region.bottom - region.top) * zoom)}px`;
      this.sheet.firstElementChild.replaceWith(content);
      this.paintedAt = performance.now();
      this.#shift();
      this.painted(region, zoom);
      // What the browser makes of it counts, too.
      requestAnimationFrame(() => {
        this.cost = performance.now() - began;
      });
    });
  }

  // -- mouse, touch, keys ----------------------------------------------------------------------------------

  #listen() {
    const { element, pointers } = this;
    element.addEventListener("pointerdown", (event) => {
      if (event.button || event.target.closest("button")) return;
      pointers.set(event.pointerId, event);
      this.travelled = pointers.size > 1 ? Infinity : 0;
    });
    element.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      if (pointers.size === 1) {
        this.travelled += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
        if (this.travelled > 5) {
          element.setPointerCapture(event.pointerId);
          this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
        }
      } else this.#pinch(before, event);
      pointers.set(event.pointerId, event);
    });
    const up = (event) => {
      if (!pointers.delete(event.pointerId) || event.type !== "pointerup" || this.travelled > 5) return;
      const frame = element.getBoundingClientRect();
      this.chosen(
        event.target,
        this.x + (event.clientX - frame.left) / this.zoom,
        this.y + (event.clientY - frame.top) / this.zoom,
      );
    };
    element.addEventListener("pointerup", up);
    element.addEventListener("pointercancel", up);
    element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const frame = element.getBoundingClientRect();
        if (event.ctrlKey || event.metaKey)
          this.scale(Math.exp(-event.deltaY / 200), event.clientX - frame.left, event.clientY - frame.top);
        else this.pan(event.shiftKey ? -event.deltaY : -event.deltaX, event.shiftKey ? 0 : -event.deltaY);
      },
      { passive: false },
    );
    element.addEventListener("keydown", (event) => this.#key(event));
  }

  // Two fingers: what lies between them stays there.
  #pinch(before, event) {
    const other = [...this.pointers.values()].find((each) => each.pointerId !== event.pointerId);
    const far = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
    const frame = this.element.getBoundingClientRect();
    const middle = (a, b, edge) => (a + b) / 2 - edge;
    this.pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
    this.scale(
      far(event) / Math.max(1, far(before)),
      middle(event.clientX, other.clientX, frame.left),
      middle(event.clientY, other.clientY, frame.top),
    );
  }

  #key(event) {
    const step = event.shiftKey ? 400 : 80;
    const moves = {
      ArrowLeft: [step, 0],
      ArrowRight: [-step, 0],
      ArrowUp: [0, step],
      ArrowDown: [0, -step],
      PageUp: [0, 0.8 * this.height],
      PageDown: [0, -0.8 * this.height],
    };
    if (event.target !== this.element) return;
    if (moves[event.key]) this.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.scale(1.25);
    else if (event.key === "-") this.scale(0.8);
    else return;
    event.preventDefault();
  }
}
