// Search: tensors by name, wherever they lie folded; Enter or a tap leads there.
"use strict";
class Search {
  static MOST = 40;

  constructor(app, input, found) {
    this.app = app;
    this.input = input;
    this.found = found;
    input.addEventListener("input", () => this.#look());
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") found.querySelector("button")?.click();
      else if (event.key === "ArrowDown") {
        found.querySelector("button")?.focus();
        event.preventDefault();
      } else if (event.key === "Escape") {
        input.value = "";
        found.replaceChildren();
      }
    });
    found.addEventListener("keydown", (event) => {
      const buttons = [...found.querySelectorAll("button")],
        place = buttons.indexOf(document.activeElement);
      if (event.key === "ArrowDown") buttons[place + 1]?.focus();
      else if (event.key === "ArrowUp") (buttons[place - 1] || input).focus();
      else if (event.key === "Escape") {
        found.replaceChildren();
        input.focus();
      } else return;
      event.preventDefault();
    });
  }

  // Tensors are others now.
  renamed() {
    this.names = null;
    this.found.replaceChildren();
  }

  // The whole local name first, then names that begin so, then those in which it occurs.
  #look() {
    const wanted = this.input.value.trim().toLowerCase();
    this.found.replaceChildren();
    if (!wanted) return;
    const rank = (name) => {
      const lower = name.toLowerCase(),
        local = lower.slice(lower.lastIndexOf("/") + 1);
      return lower === wanted || local === wanted ? 0 : local.startsWith(wanted) ? 1 : lower.includes(wanted) ? 2 : 3;
    };
    this.names ||= this.app.model.names();
    const names = this.names.map((name) => [rank(name), name]).filter(([place]) => place < 3);
    names.sort((a, b) => a[0] - b[0] || a[1].localeCompare(b[1], "en", { numeric: true }));
    for (const [, name] of names.slice(0, Search.MOST)) {
      const button = document.createElement("button"),
        item = document.createElement("li");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => {
        this.found.replaceChildren();
        this.input.value = name;
        this.app.goTo(name);
      });
      item.append(button);
      this.found.append(item);
    }
    if (names.length <= Search.MOST) {
      if (!names.length) this.found.append("no tensor of that name");
      return;
    }
    this.found.append(`and ${names.length - Search.MOST} more`);
  }
}
