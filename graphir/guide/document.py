"""The guide, put together: prose from `text/`, figures and tables from graphs, proofs and costs from runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from graphir.drawing import FigureConfig, figure
from graphir.drawing.inline import asset
from graphir.guide.communication import communication
from graphir.guide.config import GuideConfig
from graphir.guide.markup import Directive, headings, inline, scrolled, to_html
from graphir.guide.model import differences
from graphir.guide.page import figure_html, page_html
from graphir.guide.proof import Proof, proof_html, prove
from graphir.guide.tables import dictionary, operations, table, tensors
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
    sizes = ", ".join(f"{name} = {size:,}" for name, size in config.numbers.items())
    made_for = (
        f"This copy was made for {config.layers} layers, {sizes}; {config.dp} replicas of {config.tp} ranks. Every "
        "figure, table and number in it comes from graphs that were checked and run while it was made."
    )
    head = "<p>A guide by dimensions: what every tensor is, what shape it has, and where it lies.</p>"
    if config.model is not None:
        head += differences(config.model, config.name)
    return page_html(TITLE, head, made_for, contents, body)


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
        return f"{figure_html(figure(id, self.figures), self.count, id)}{self.proof_of(id)}"

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
