// What the page tells of a block, a node, a collective or a tensor: formulas with their numbers under the sizes
// chosen, and buttons that lead on. All texts are set as text.
"use strict";
class Panel {
  constructor(app, element) {
    this.app = app;
    this.element = element;
  }

  // A tree node as a reader calls it.
  static title(node) {
    if (node.times) return node.title;
    return node.title.length <= 3 && /^[a-z]+$/.test(node.title) ? node.title.toUpperCase() : node.title;
  }

  // `what` is told, and told again when sizes change.
  tell(what, ...given) {
    this.last = [what, ...given];
    this.again();
    this.element.scrollTop = 0;
  }

  again() {
    if (!this.last) return;
    const [what, ...given] = this.last;
    this.element.replaceChildren(...this[what](...given).filter(Boolean));
  }

  // -- pieces ----------------------------------------------------------------------------------------------

  #make(tag, kind, ...content) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    made.append(...content.filter((each) => each !== "" && each !== null && each !== undefined));
    return made;
  }

  #button(text, action, kind = "") {
    const made = this.#make("button", kind, text);
    made.type = "button";
    made.addEventListener("click", action);
    return made;
  }

  #entries(...pairs) {
    const list = this.#make("dl");
    for (const [name, ...values] of pairs) {
      const told = values.flat().filter((each) => each !== "" && each !== null && each !== undefined);
      if (!told.length) continue;
      list.append(this.#make("dt", "", name), ...told.map((each) => this.#make("dd", "", each)));
    }
    return list;
  }

  // A formula of the table with its number: 4·B·S·D/N_DP = 12.6 MB.
  #formula(at, unit) {
    const { model } = this.app;
    if (!model.data.formulas[at].length) return "";
    return this.#make(
      "span",
      "formula",
      Formulas.typeset(Formulas.text(model.data.formulas[at])),
      " = ",
      this.#make("b", "", unit(model.values[at])),
    );
  }

  // A long list begins with its first entries; a button brings the rest.
  #list(buttons, most = 12) {
    const holder = this.#make("div", "list", ...buttons.slice(0, most));
    if (buttons.length > most) {
      holder.append(
        this.#button(
          `and ${buttons.length - most} more`,
          (event) => {
            event.target.remove();
            holder.append(...buttons.slice(most));
          },
          "more",
        ),
      );
    }
    return holder;
  }

  #tensor(name) {
    return this.#button(name, () => this.app.goTo(name), "link-to");
  }

  #node({ block, at, node }, text) {
    const symbol = this.app.model.data.operators[node.op].symbol;
    return this.#button(
      text || `${block.name(node.made[0][0])} = ${symbol}`,
      () => this.app.chooseNode(block, at),
      "link-to",
    );
  }

  // -- the whole -------------------------------------------------------------------------------------------

  start() {
    const { model, mesh } = this.app;
    const passes = ["forward", "backward", "update"].filter((pass) => Layout.has(this.app.tree.root, pass));
    const sum = (pass, what) => model.blocks.reduce((total, block) => total + model.total(block.kind, pass)[what], 0);
    const parameters = [...model.handed.values()].filter((each) => each.what === "parameter");
    const { all, peak } = model.memory();
    const at = model.at(peak);
    const rows = passes.map((pass) => [
      pass,
      Formulas.flops(sum(pass, "flops")),
      Formulas.bytes(sum(pass, "sent")),
      Formulas.time(sum(pass, "time")),
    ]);
    const table = this.#make(
      "table",
      "",
      this.#row("th", ["a rank", "computes", "sends", "takes"]),
      ...rows.map((row) => this.#row("td", row)),
    );
    const blocks = model.blocks.length > 1 ? ` in ${Formulas.count(model.blocks.length)} blocks` : "";
    const ranks =
      mesh.size > 1
        ? ` on ${mesh.size} ranks (${mesh.axes.map((axis) => `${axis.axis} = ${axis.ranks}`).join(", ")})`
        : "";
    return [
      this.#make("h2", "", model.data.title),
      this.#make("p", "", `${Formulas.count(model.length)} nodes${blocks}${ranks}.`),
      table,
      this.#entries(
        ["parameters of a rank", Formulas.bytes(parameters.reduce((bytes, each) => bytes + model.bytes[each.type], 0))],
        [
          "memory of a rank, at most",
          `${Formulas.bytes(all[peak] || 0)}, nothing fused or made again`,
          at && this.#node({ ...at, node: at.block.kind.nodes[at.at] }),
        ],
      ),
      this.#make(
        "p",
        "quiet",
        "Tap a block, an arrow or a bar to read about it; unfold a block in its panel, by a second tap, or at the " +
          "left. Drag to move; pinch, Ctrl and wheel, or + and − to zoom. / searches; the outline reads the same " +
          "without a picture.",
      ),
    ];
  }

  #row(tag, cells) {
    return this.#make("tr", "", ...cells.map((cell) => this.#make(tag, "", cell)));
  }

  // -- a block ---------------------------------------------------------------------------------------------

  block(node) {
    const { app } = this,
      { model } = app;
    const passes = ["forward", "backward", "update"].filter((pass) => Layout.has(node, pass));
    const sum = (pass, what) => node.leaves.reduce((total, leaf) => total + model.total(leaf.kind, pass)[what], 0);
    const { peaks } = model.memory();
    const rows = passes.map((pass) => [
      pass,
      Formulas.flops(sum(pass, "flops")),
      Formulas.bytes(sum(pass, "sent")),
      Formulas.time(sum(pass, "time")),
      Formulas.bytes(Math.max(0, ...node.leaves.map((leaf) => peaks.get(`${leaf.path} ${pass}`) || 0))),
    ]);
    const folded = node.children.length ? !app.open.has(node.id) : !app.unfolded.has(node.id);
    const drawn = node.children.length || Object.keys(node.block.kind.drawings).length;
    const lanes = app.lanes(node).map((lane) => `${lane.text} over ${lane.axes.join(", ")}, ${lane.pass}`);
    const nodes =
      node.block && !node.children.length
        ? node.block.kind.nodes.map((each, at) => this.#node({ block: node.block, at, node: each }))
        : [];
    const kept = sum("forward", "kept");
    return [
      this.#make("h2", "", Panel.title(node)),
      this.#make("p", "quiet", node.times ? `${node.times} layers` : node.id),
      drawn
        ? this.#make(
            "p",
            "",
            this.#button(folded ? "Unfold" : "Fold", () => app.toggle(node), "main"),
          )
        : null,
      this.#make(
        "table",
        "",
        this.#row("th", ["a rank", "computes", "sends", "takes", "memory"]),
        ...rows.map((row) => this.#row("td", row)),
      ),
      this.#entries(["kept for the backward pass", kept ? Formulas.bytes(kept) : ""], ["collectives", lanes]),
      nodes.length ? this.#make("h3", "", `${nodes.length} nodes, in order`) : null,
      nodes.length ? this.#list(nodes, 40) : null,
    ];
  }

  // What a figure draws as one: the nodes that it stands for.
  group(title, block, places) {
    const nodes = places.map((at) => this.#node({ block, at, node: block.kind.nodes[at] }));
    return [
      this.#make("h2", "", title),
      this.#make("p", "quiet", `${nodes.length} nodes, drawn as one`),
      this.#list(nodes, 40),
    ];
  }

  // -- a node ----------------------------------------------------------------------------------------------

  node(block, at) {
    const { model, mesh } = this.app;
    const node = block.kind.nodes[at],
      operator = model.data.operators[node.op],
      cost = model.cost(node);
    const partners = model.partners({ block, at, node });
    const kept = (
      node.phase === "backward" ? [{ block, node }] : partners.map((each) => ({ block: each.block, node: each.node }))
    )
      .flatMap((each) => (each.node.reads || []).map(([name]) => each.block.name(name)))
      .filter((name) => model.makers.get(name)?.node.phase === "forward");
    return [
      this.#make("h2", "", `${operator.symbol} `, this.#make("small", "", operator.key)),
      this.#make("p", "formula", Formulas.typeset(operator.formula.replaceAll("`", ""))),
      node.told ? this.#collective(block, node, mesh) : null,
      this.#entries(
        ["makes", node.made.map(([name]) => this.#tensor(block.name(name)))],
        ["reads", [...new Set((node.reads || []).map(([name]) => block.name(name)))].map((name) => this.#tensor(name))],
        [node.phase === "backward" ? "forward node" : "in the backward pass", partners.map((each) => this.#node(each))],
        ["cached for the backward pass", [...new Set(kept)].map((name) => this.#tensor(name))],
        ["computes", this.#formula(node.flops, Formulas.flops)],
        ["takes", cost.time ? Formulas.time(cost.time) : ""],
        ["signature", this.#make("code", "", node.signature)],
        [
          "attributes",
          Object.entries(node.attributes || {})
            .filter(([, value]) => !["", "None"].includes(value))
            .map(([name, value]) => this.#make("code", "", `${name} = ${value}`)),
        ],
        ["block and pass", `${block.path}, ${node.phase}`],
        ["written at", node.at === undefined ? "" : this.#make("code", "", model.data.lines[node.at])],
        ["inserted because", node.why ? block.name(node.why) : ""],
      ),
    ];
  }

  // Why a collective is there, with whom, and what it sends.
  #collective(block, node, mesh) {
    const { told } = node,
      rank = this.app.rank;
    const group = mesh.groups(told.axes).find((ranks) => ranks.includes(rank)) || [];
    const partner = block
      .name(told.partner)
      .split(", ")
      .map((name) => {
        const found = this.app.model.makers.get(name.replace(/ again$/, "").replace(/^identity on /, ""));
        return found ? this.#button(name, () => this.app.chooseNode(found.block, found.at), "link-to") : name;
      });
    const members =
      group.length <= 8
        ? group.map((each) => mesh.title(each)).join("; ")
        : `${group.length} ranks: ${mesh.title(group[0])}; …; ${mesh.title(group[group.length - 1])}`;
    return this.#entries(
      ["because", block.name(told.cause)],
      ["needed by", block.name(told.need) + (told.more ? ` and ${told.more} more` : "")],
      ["in the other pass", partner],
      [`meets over ${told.axes.join(", ")}`, members],
      [
        "each rank sends",
        this.#make("span", "formula", Formulas.typeset(told.formula.replaceAll("*", "·"))),
        this.#formula(told.sent, Formulas.bytes),
      ],
    );
  }

  // -- a tensor --------------------------------------------------------------------------------------------

  tensor(name) {
    const { model } = this.app;
    const tensor = model.tensor(name),
      life = model.life(name),
      other = model.counterpart(name);
    const type = model.data.types[tensor.type];
    const sizes = type.shape.map(([, at]) => model.values[at]);
    const whole = sizes.every(Number.isInteger) ? sizes.map(Formulas.count).join(" × ") : "not whole";
    const readers = life.readers.map((each) => this.#node(each));
    const length = Formulas.count(model.length),
      end = life.returned ? `of ${length} to the end, as it is returned` : `to ${life.last + 1} of ${length}`;
    const steps = life.handed ? "handed in; lives throughout" : `from step ${life.first + 1} ${end}`;
    const what =
      {
        kept: "kept for the backward pass",
        gradient: "gradient of a parameter",
        passing: "read and gone",
        overwriting: "written over what it updates",
      }[tensor.what] || tensor.what;
    return [
      this.#make("h2", "", name),
      this.#make("p", "quiet", what),
      this.#entries(
        ["type", this.#make("code", "", type.text)],
        [
          "a rank's block",
          this.#make(
            "span",
            "formula",
            Formulas.typeset(`[${type.shape.map(([text]) => text).join(", ")}]`),
            ` = ${whole || "a scalar"}`,
          ),
        ],
        ["bytes of a rank", this.#formula(type.bytes, Formulas.bytes)],
        ["split over", type.splits.flat().join(", ")],
        ["pending sum over", type.pending.join(", ")],
        [
          "made by",
          tensor.made ? this.#node(tensor.made) : tensor.what === "input" ? "handed in" : `a ${tensor.what}, handed in`,
        ],
        ["read by", readers.length ? this.#list(readers) : life.returned ? "whoever called: it is returned" : "nobody"],
        [other?.is || "", other ? this.#tensor(other.name) : ""],
        ["life", steps, this.#life(life)],
      ),
    ];
  }

  // The steps of a run as a strip, and in it those through which the tensor lives.
  #life(life) {
    const { length } = this.app.model;
    const strip = this.#make("div", "life"),
      part = this.#make("div");
    part.style.left = `${(100 * life.first) / length}%`;
    part.style.width = `${Math.max(0.6, (100 * (life.last - life.first + 1)) / length)}%`;
    strip.append(part);
    return strip;
  }
}
