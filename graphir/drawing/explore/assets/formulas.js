// Formulas under sizes, and numbers as people read them. A formula is a list of terms [coefficient, {name: power}].
"use strict";
const Formulas = (() => {
  function term([coefficient, powers], sizes) {
    let value = coefficient;
    for (const name in powers) value *= sizes[name] ** powers[name];
    return value;
  }

  const value = (terms, sizes) => terms.reduce((sum, each) => sum + term(each, sizes), 0);

  // 4·B·S·D/N_DP + 2·D: what stands below the line follows a slash.
  function text(terms) {
    if (!terms.length) return "0";
    return terms
      .map(([coefficient, powers], place) => {
        const above = [],
          below = [];
        for (const name in powers) {
          for (let count = Math.abs(powers[name]); count > 0; count -= 1) (powers[name] > 0 ? above : below).push(name);
        }
        const size = Math.abs(coefficient),
          sign = coefficient < 0 ? " − " : place ? " + " : "";
        if (size !== 1 || !above.length) above.unshift(shortened(size));
        return sign + [above.join("·"), ...below].join("/");
      })
      .join("");
  }

  const shortened = (number) => (Number.isInteger(number) ? String(number) : String(Number(number.toPrecision(3))));

  // 12.6 M: three digits and a prefix, in powers of a thousand.
  function scaled(number, unit, prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]) {
    let step = 0,
      rest = number;
    while (Math.abs(rest) >= 999.5 && step + 1 < prefixes.length) {
      rest /= 1000;
      step += 1;
    }
    const digits = Number.isInteger(rest) && step === 0 ? String(rest) : String(Number(rest.toPrecision(3)));
    return `${digits}\u202f${prefixes[step]}${unit}`;
  }

  const bytes = (number) => scaled(number, "B");
  const flops = (number) => scaled(number, "FLOP");
  const count = (number) => number.toLocaleString("en");
  // Times from seconds down to nanoseconds.
  function time(seconds) {
    if (seconds >= 1) return scaled(seconds, "s", [""]);
    return scaled(seconds * 1e9, "s", ["n", "µ", "m"]);
  }

  // Text with the dims in it apart, as runs [text, form]: capitals italic, what follows _ a subscript.
  function runs(written) {
    const made = [];
    let end = 0;
    for (const found of written.matchAll(/\b([A-Z])(?:_([A-Za-z]+))?\b/g)) {
      if (found.index > end) made.push([written.slice(end, found.index), ""]);
      made.push([found[1], "italic"]);
      if (found[2]) made.push([found[2], "sub"]);
      end = found.index + found[0].length;
    }
    if (end < written.length) made.push([written.slice(end), ""]);
    return made;
  }

  // The same as nodes of the document, never as markup.
  function typeset(written) {
    const made = document.createDocumentFragment();
    for (const [text, form] of runs(written)) {
      if (!form) {
        made.append(text);
        continue;
      }
      const element = document.createElement(form === "sub" ? "sub" : "i");
      element.textContent = text;
      made.append(element);
    }
    return made;
  }

  // The sizes that a slider offers: powers of two and one and a half times these, and `own`.
  function choices(own, most = 2 ** 20) {
    const found = new Set([own]);
    for (let size = 1; size <= most; size *= 2) {
      found.add(size);
      if (size >= 2) found.add(size * 1.5);
    }
    return [...found].sort((a, b) => a - b);
  }

  return { value, text, bytes, flops, count, time, scaled, runs, typeset, choices };
})();
