// The contents follow the reader: the section that is read is marked, and named where the contents are folded.
"use strict";
(() => {
  const contents = document.querySelector("nav details");
  const here = contents.querySelector("summary span");
  const narrow = matchMedia("(max-width: 64rem)");
  const links = [...contents.querySelectorAll("a")];
  const headings = links.map((link) => document.getElementById(link.hash.slice(1)));
  let marked = null;

  // The last heading that has passed the upper third of the window.
  function follow() {
    const line = innerHeight / 3;
    const passed = headings.filter((heading) => heading.getBoundingClientRect().top < line).length;
    const link = links[Math.max(0, passed - 1)];
    if (link === marked) return;
    marked?.removeAttribute("aria-current");
    marked = link;
    link.setAttribute("aria-current", "true");
    here.textContent = passed ? link.textContent.replace(/^[\d.]+/, "$& ") : "";
    if (!narrow.matches) link.scrollIntoView({ block: "nearest" });
  }

  // On a narrow screen the contents are a bar that unfolds, and folds again once a section is chosen.
  const fold = () => {
    contents.open = !narrow.matches;
  };
  narrow.addEventListener("change", fold);
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a")) fold();
  });
  let asked = false;
  addEventListener(
    "scroll",
    () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        follow();
      });
    },
    { passive: true },
  );
  fold();
  follow();
})();
