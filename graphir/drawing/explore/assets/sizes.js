// Sliders for layers, dims, mesh and rates: what is written in formulas follows at once.
"use strict";
class SizesPanel {
  static rates = {
    flops: ["computes, FLOP/s", 1e9, 1e16],
    memory: ["moves, B/s", 1e8, 1e13],
    link: ["sends, B/s", 1e6, 1e12],
  };

  static DEEPEST = 256;

  constructor(app, element) {
    this.app = app;
    this.shows = [];
    const { model } = app;
    const { symbols } = model.data;
    const made = [...this.#depth(), this.#heading("Dims")];
    for (const name of Object.keys(model.sizes).filter((each) => !symbols.includes(each)))
      made.push(this.#size(name, 2 ** 20));
    if (symbols.length) made.push(this.#heading("Mesh"), ...symbols.map((symbol) => this.#size(symbol, 64)));
    made.push(this.#heading("Rates that times assume"));
    for (const [name, given] of Object.entries(SizesPanel.rates)) made.push(this.#rate(name, ...given));
    this.note = document.createElement("p");
    this.note.className = "broken";
    this.note.setAttribute("role", "status");
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "As at first";
    again.addEventListener("click", () => this.reset());
    element.replaceChildren(this.note, ...made, again);
    this.tell();
  }

  #heading(text) {
    const made = document.createElement("h3");
    made.textContent = text;
    return made;
  }

  #field(label, id) {
    const line = document.createElement("div"),
      name = document.createElement("label");
    line.className = "size";
    name.htmlFor = id;
    name.append(...label);
    line.append(name);
    return line;
  }

  // A slider over usual sizes and a field for any: they say the same.
  #size(name, most) {
    const { model } = this.app;
    const line = this.#field([Formulas.typeset(name)], `size-${name}`);
    const largest = Math.max(most, model.data.sizes[name]);
    const set = (size) => {
      if (!Number.isInteger(size) || size < 1 || size > largest) return;
      model.sizes[name] = size;
      this.app.resized();
      this.tell();
    };
    line.append(...this.#both(name, Formulas.choices(model.data.sizes[name], largest), () => model.sizes[name], set));
    return line;
  }

  // A field for any number, and a slider over `choices`, for what `get` says and `set` may change.
  #both(name, choices, get, set) {
    const slider = document.createElement("input"),
      field = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: choices.length - 1, step: 1 });
    slider.setAttribute("aria-label", `${name}, by a slider`);
    Object.assign(field, { type: "number", min: 1, step: 1, id: `size-${name}` });
    const show = () => {
      field.value = get();
      slider.value = choices.findIndex((each) => each >= get());
      slider.setAttribute("aria-valuetext", field.value);
    };
    const change = (size) => {
      set(size);
      show();
    };
    slider.addEventListener("input", () => change(choices[slider.value]));
    field.addEventListener("change", () => change(Number(field.value)));
    this.shows.push(show);
    show();
    return [field, slider];
  }

  // How many layers there are, where they repeat each other; else why their number is as it is.
  #depth() {
    const { model } = this.app,
      { depth } = model.given;
    if (!Depth.varies(model.given)) {
      if (!depth.unlike) return [];
      const why = document.createElement("p");
      why.className = "quiet";
      why.textContent = `The number of layers stays as it is: ${depth.unlike}.`;
      return [this.#heading("Layers"), why];
    }
    const choices = Depth.choices(depth, SizesPanel.DEEPEST),
      line = this.#field(["how many"], "size-layers");
    const set = (layers) => {
      if (choices.includes(layers)) this.app.deepened(layers);
    };
    line.append(...this.#both("layers", choices, () => model.data.depth.layers, set));
    const { stem, first, period } = depth,
      why = document.createElement("p");
    why.className = "quiet";
    why.textContent =
      period === 1
        ? `Those between the first and the last are like ${stem}${first}.`
        : `They come by ${period}: what repeats is ${stem}${first} to ${stem}${first + period - 1}.`;
    return [this.#heading("Layers"), line, why];
  }

  // A rate's slider is logarithmic: ten steps a decade.
  #rate(name, label, least, most) {
    const { model } = this.app;
    const line = this.#field([label], `rate-${name}`);
    const slider = document.createElement("input"),
      out = document.createElement("output");
    Object.assign(slider, {
      type: "range",
      id: `rate-${name}`,
      min: Math.log10(least),
      max: Math.log10(most),
      step: 0.1,
      value: Math.log10(model.rates[name]),
    });
    const show = () => {
      out.textContent = Formulas.scaled(model.rates[name], "");
      slider.setAttribute("aria-valuetext", out.textContent);
    };
    slider.addEventListener("input", () => {
      model.rates[name] = Number((10 ** slider.value).toPrecision(2));
      show();
      this.app.resized();
    });
    line.append(out, slider);
    show();
    return line;
  }

  // Which parts of a rank are no whole number: such sizes can be looked at, but not run.
  tell() {
    const broken = this.app.model
      .broken()
      .slice(0, 3)
      .map(([text, value]) => `${text} = ${Number(value.toPrecision(5))}`);
    this.note.textContent = broken.length ? `These sizes cannot run: ${broken.join(", ")} is not whole.` : "";
  }

  reset() {
    const { app } = this;
    Object.assign(app.model.sizes, app.model.data.sizes);
    app.deepened(app.model.layers);
    for (const show of this.shows) show();
    this.tell();
  }
}
