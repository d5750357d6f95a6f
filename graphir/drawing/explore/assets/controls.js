// Buttons and keys of the page, and the tabs of its panel.
"use strict";
const Controls = (() => {
  const find = (selector) => [...document.querySelectorAll(selector)];

  function wire(app) {
    const actions = {
      home: () => app.home(),
      nearer: () => app.stage.scale(1.25),
      farther: () => app.stage.scale(0.8),
      fold: () => app.foldAll(),
      unfold: () => app.unfoldAll(),
      ranks: () => app.showRanks(!app.all),
      print: () => print(),
    };
    for (const button of find("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
    for (const button of find("[data-pass]")) button.addEventListener("click", () => app.showPass(button.dataset.pass));
    for (const button of find("[data-tab]")) button.addEventListener("click", () => open(button.dataset.tab));
    const overlay = document.getElementById("overlay");
    overlay.addEventListener("change", () => app.overlaid(overlay.value));
    document.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select")) return;
      if (event.key === "Escape") app.clear();
      else if (event.key === "/") {
        document.getElementById("search").focus();
        event.preventDefault();
      }
    });
  }

  // What the buttons show of the state.
  function tell(app) {
    for (const button of find("[data-pass]"))
      button.setAttribute("aria-pressed", app.passes.includes(button.dataset.pass));
    for (const button of find("[data-do=ranks]")) button.setAttribute("aria-pressed", app.all);
  }

  function open(tab) {
    for (const button of find("[data-tab]")) button.setAttribute("aria-selected", button.dataset.tab === tab);
    for (const panel of find("[role=tabpanel]")) panel.hidden = panel.id !== tab;
  }

  return { wire, tell, open };
})();
