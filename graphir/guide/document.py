"""The guide, put together: prose from `text/`, figures and tables from graphs, proofs and costs from runs.

It is one HTML file that loads nothing and may be printed: a content security policy admits only its own style, and the
one script that says in the contents where the reader is. Without the script all is there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from html import escape

from graphir.drawing import FigureConfig, figure
from graphir.drawing.fonts import font_faces
from graphir.drawing.inline import asset, policy
from graphir.drawing.paint import paint
from graphir.drawing.svg import inline_svg, parse_svg
from graphir.guide.communication import communication
from graphir.guide.config import GuideConfig
from graphir.guide.markup import Directive, Heading, headings, inline, scrolled, to_html
from graphir.guide.model import differences
from graphir.guide.proof import Proof, proof_html, prove
from graphir.guide.tables import dictionary, operations, set_names, table, tensors
from graphir.passes import autodiff, lower

TITLE = "Transformers, in parallel"
SECTIONS = (
    "1-basics",
    "2-transformers",
    "3-gradients",
    "4-notation",
    "5-single-node",
    "6-tensor-parallelism",
    "7-data-parallelism",
    "8-hybrid",
    "9-summary",
)
#: The plan that each proof runs, by the name that the text gives it.
_PROOFS: Mapping[str, str] = {
    "tp": "megatron",
    "column": "column",
    "sequence": "sequence",
    "dp": "data",
    "zero3": "zero3",
    "dp+tp": "data+megatron",
}
#: For figures of a parallel run, by the beginning of their ids, the most specific first: the proof, and what of it.
_OF_FIGURES = (
    ("tp-mha-forward-column", "column", "*/mha/*"),
    ("tp-mha", "tp", "*/mha/*"),
    ("tp-mlp", "tp", "*/mlp/*"),
    ("tp", "tp", "*"),
    ("dp-tp", "dp+tp", "*"),
    ("dp-mha", "dp", "*/mha/*"),
    ("dp-mlp", "dp", "*/mlp/*"),
    ("dp", "dp", "*"),
)
#: The scope of each block, and the dims of its tensors.
_SCOPES: Mapping[str, str] = {
    "embedding": "embedding",
    "mha": "layer0/mha",
    "mlp": "layer0/mlp",
    "output": "output",
}
_DIMS = (
    ("B", "sequences in a batch"),
    ("S", "tokens in a sequence"),
    ("D", "width of the residual stream"),
    ("D_ff", "width inside the feed-forward block"),
    ("N_H", "attention heads"),
    ("N_KV", "heads of keys and values"),
    ("G", "heads of queries to each of these"),
    ("D_h", "width of a head"),
    ("V", "tokens in the vocabulary"),
    ("S_max", "positions in the table"),
    ("N_types", "types of tokens"),
    ("N_DP", "replicas, ranks along dp"),
    ("N_T", "ranks that share a replica, along tp"),
)


#: Letters that a page may need beside those in its source: a browser sets the letters of formulas from their own place.
_LETTERS = "".join(map(chr, (*range(0x20, 0x7F), *range(0x1D434, 0x1D468), 0x210E, *range(0x1D6E2, 0x1D71C))))


def guide(config: GuideConfig | None = None, report: Callable[[str], None] = lambda step: None) -> str:
    """The whole guide for a model and mesh, as HTML; `report` hears of each section, figure and proof.

    Errors: ConfigError or DimError if the configuration contradicts itself (heads that tp does not divide),
    MissingDependencyError if nothing can draw SVG.
    """
    config = (config or GuideConfig()).check()
    directives = _Directives(config, report).table
    texts = [section_text(name) for name in SECTIONS]
    body = []
    for name, text in zip(SECTIONS, texts, strict=True):
        report(f"section {name}")
        body.append(to_html(text, directives, config.words))
    contents = [heading for text in texts for heading in headings(text)]
    return _html(config, contents, body)


def section_text(name: str) -> str:
    """The prose of a section, in the notation of `graphir.guide.markup`."""
    return asset("graphir.guide", f"text/{name}.txt")


class _Directives:
    """What the text's directives are replaced by, for one configuration."""

    def __init__(self, config: GuideConfig, report: Callable[[str], None]) -> None:
        self.config, self.report = config, report
        self.count = 0
        self.proofs: dict[str, Proof] = {}
        self.figures = FigureConfig(
            layers=config.layers, heads=config.heads, dp=config.dp, tp=config.tp, model=config.model
        )
        #: What the tables describe: a layer of the model from raw text on, its gradients, and these taken apart.
        graph = autodiff(config.graph(1, text=True), loss="L")
        self.graphs = graph, lower(graph), config.graph(1, decode="top-k")
        self.table: Mapping[str, Directive] = {
            "figure": self.figure,
            "operations": lambda block: scrolled(operations(self.graphs, _SCOPES[block]), f"operations, {block}"),
            "tensors": lambda block: scrolled(tensors(self.graphs[0], _SCOPES[block]), f"tensors, {block}"),
            "dictionary": lambda: scrolled(dictionary(), "operators"),
            "dims": self.dims,
            "communication": lambda name: communication(config, _PROOFS[name]),
            "proof": self.proof,
        }

    def figure(self, id: str) -> str:
        """A figure of the documents, as inline SVG with its caption."""
        self.report(f"figure {id}")
        self.count += 1
        picture = figure(id, self.figures)
        # The caption says the title; twice is once too often.
        root = parse_svg(paint(replace(picture, title="")))
        width = float(root.get("width", "0").removesuffix("pt"))
        drawing = inline_svg(root, f"f{self.count}")
        caption = f"<strong>Figure {self.count}. {escape(picture.title)}.</strong> {set_names(picture.caption)}"
        return (
            f'<figure id="figure-{escape(id)}" style="--width: {width:.0f}pt">'
            f"{scrolled(drawing, picture.title, 'drawing')}"
            f"<figcaption>{caption}</figcaption></figure>{self.proof_of(id)}"
        )

    def proof_of(self, figure: str) -> str:
        """The proof that belongs below a figure; nothing below one of a single machine."""
        for start, name, pattern in _OF_FIGURES:
            if figure.startswith(f"{start}-") or figure == start:
                return self.proof(name, pattern)
        return ""

    def proof(self, name: str, pattern: str = "*") -> str:
        """What of a run on one rank and one on many, compared now, speaks of the tensors that fit `pattern`."""
        if name not in self.proofs:
            self.report(f"proof {name}")
            self.proofs[name] = prove(self.config, _PROOFS[name])
        return proof_html(self.proofs[name].of(pattern))

    def dims(self) -> str:
        """The dims' names, with this guide's numbers."""
        config = self.config
        numbers = {"D_h": config.width // config.heads, **config.numbers, "N_DP": config.dp, "N_T": config.tp}
        rows = (
            (inline(f"${_subscripted(name)}$"), escape(text), f"{numbers[name]:,}")
            for name, text in _DIMS
            if name in numbers
        )
        return scrolled(table(("Name", "What it counts", "Here"), rows, "dims"), "dims")


def _subscripted(name: str) -> str:
    head, sign, tail = name.partition("_")
    return f"{head}_{{\\text{{{tail}}}}}" if sign else head


# -- HTML -------------------------------------------------------------------------------------------------


def _html(config: GuideConfig, contents: Iterable[Heading], body: Iterable[str]) -> str:
    sizes = ", ".join(f"{name} = {size:,}" for name, size in config.numbers.items())
    parts = "" if config.model is None else differences(config.model, config.name)
    made_for = (
        f"This copy was made for {config.layers} layers, {sizes}; {config.dp} replicas of {config.tp} ranks. Every "
        "figure, table and number in it comes from graphs that were checked and run while it was made."
    )
    style, script = asset("graphir.guide", "style.css"), asset("graphir.guide", "contents.js")
    text = "\n".join(body)
    faces = font_faces(text + parts + made_for + TITLE + _LETTERS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy([script])}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{TITLE}</title>
<style>
{faces}
{style}</style>
</head>
<body>
<nav aria-label="Contents"><details open><summary>Contents<span></span></summary>{_contents(contents)}</details></nav>
<main>
<header><h1>{TITLE}</h1>
<p>A guide by dimensions: what every tensor is, what shape it has, and where it lies.</p>{parts}</header>
{text}
<footer>{escape(made_for)}</footer>
</main>
<script>{script}</script>
</body>
</html>
"""


def _contents(contents: Iterable[Heading]) -> str:
    """The contents: sections, and the subsections of each."""
    made: list[tuple[Heading, list[Heading]]] = []
    for heading in contents:
        if heading.depth == 1:
            made.append((heading, []))
        elif heading.depth == 2:
            made[-1][1].append(heading)
    items = "".join(
        f"<li>{_link(section)}<ol>{''.join(f'<li>{_link(s)}</li>' for s in below)}</ol></li>" for section, below in made
    )
    return f"<ol>{items}</ol>"


def _link(heading: Heading) -> str:
    return f'<a href="#{heading.anchor}"><span class="number">{heading.number}</span>{escape(heading.title)}</a>'
