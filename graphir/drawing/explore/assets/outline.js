// The model as a tree of lists: what the drawing shows, for keyboard and screen reader. Up and down walk, right
// unfolds, left folds, Enter reads; blocks that are folded have no entries inside.
"use strict";
class Outline {
  constructor(app, element) {
    this.app = app;
    this.element = element;
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("click", (event) => {
      const item = event.target.closest("[role=treeitem]");
      if (!item) return;
      if (event.target.classList.contains("sign")) this.#toggle(item);
      else this.#choose(item);
    });
  }

  // The tree as it is folded now; the entry that had the focus keeps it.
  refresh() {
    const focused = this.element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const made = document.createDocumentFragment();
    for (const child of this.app.tree.root.children) this.#entry(made, child, 1);
    this.element.replaceChildren(made);
    const items = this.#items();
    const current = items.find((item) => item.dataset.key === (focused ?? this.current)) || items[0];
    if (!current) return;
    current.tabIndex = 0;
    if (focused) current.focus();
  }

  #entry(holder, node, level) {
    const { app } = this;
    const leaf = !node.children.length,
      open = leaf ? app.unfolded.has(node.id) : app.open.has(node.id);
    const item = this.#item(holder, node.id, Panel.title(node), level);
    item.setAttribute("aria-expanded", open);
    item.querySelector(".sign").textContent = open ? "▾" : "▸";
    if (!open) return;
    for (const child of node.children) this.#entry(holder, child, level + 1);
    if (!node.block) return;
    node.block.kind.nodes.forEach((each, at) => {
      if (!app.passes.includes("all") && !app.passes.includes(each.phase)) return;
      const name = each.made[0][0].slice(each.made[0][0].lastIndexOf("/") + 1);
      this.#item(holder, `${node.id} ${at}`, `${name} = ${app.model.data.operators[each.op].symbol}`, level + 1);
    });
  }

  #item(holder, key, text, level) {
    const item = document.createElement("div"),
      sign = document.createElement("span"),
      name = document.createElement("span");
    item.setAttribute("role", "treeitem");
    item.setAttribute("aria-level", level);
    item.tabIndex = -1;
    item.dataset.key = key;
    item.style.paddingLeft = `${level * 0.9 - 0.6}rem`;
    sign.className = "sign";
    sign.setAttribute("aria-hidden", true);
    name.textContent = text;
    item.append(sign, name);
    holder.append(item);
    return item;
  }

  #items() {
    return [...this.element.querySelectorAll("[role=treeitem]")];
  }

  #node(item) {
    const [id, at] = item.dataset.key.split(" ");
    return { node: this.app.tree.byId.get(id), at: at === undefined ? undefined : Number(at) };
  }

  #toggle(item) {
    const { node, at } = this.#node(item);
    if (at === undefined) this.app.toggle(node);
  }

  #choose(item) {
    const { node, at } = this.#node(item);
    this.current = item.dataset.key;
    if (at === undefined) this.app.chooseBlock(node);
    else this.app.chooseNode(node.block, at);
  }

  #key(event) {
    const item = event.target.closest("[role=treeitem]"),
      items = this.#items(),
      place = items.indexOf(item);
    const go = (to) => {
      if (!items[to]) return;
      item.tabIndex = -1;
      items[to].tabIndex = 0;
      items[to].focus();
    };
    const expanded = item.getAttribute("aria-expanded"),
      level = Number(item.getAttribute("aria-level"));
    switch (event.key) {
      case "ArrowDown":
        go(place + 1);
        break;
      case "ArrowUp":
        go(place - 1);
        break;
      case "Home":
        go(0);
        break;
      case "End":
        go(items.length - 1);
        break;
      case "ArrowRight":
        if (expanded === "false") this.#toggle(item);
        else if (expanded) go(place + 1);
        break;
      case "ArrowLeft":
        if (expanded === "true") this.#toggle(item);
        else go(items.slice(0, place).findLastIndex((each) => Number(each.getAttribute("aria-level")) < level));
        break;
      case "Enter":
      case " ":
        this.#choose(item);
        break;
      default:
        return;
    }
    event.preventDefault();
  }
}
