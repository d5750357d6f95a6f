"""What a page knows of a graph, as plain data: each distinct block once, and where the others repeat it.

    title, mesh, sizes      what is shown; per mesh axis its name, its ranks as a formula, what one is called; the sizes
                            at first, and in `symbols` those of them that count ranks
    formulas, types         the tables of `graphir.drawing.explore.numbers`, by place
    operators, lines        symbol and formula by place; where a user wrote nodes
    kinds                   the distinct blocks: arguments, nodes, drawings, the stem and number of their layer
    blocks                  [path, kind, number of the layer], in the order of the forward pass
    runs                    [block, first node, end], in the order of computation: which nodes of a block come when
    expand, layers          the numbers of layers that are unfolded at first; how many are there, if not all
    depth                   which layers repeat each other (`graphir.drawing.explore.depth`), or why none do: `unlike`
    arguments               what a run is handed and belongs to no block: [name, type, what it is]

A node of a kind has its outputs `made` [name, type, what it is, label], what it `reads` [name, type], its operator
`op`, `phase`, `at`, and where there is one `of`, `why`, `flops`, `told` (a collective's reasons) and `frees`: of each
value that is read for the last time here its type and what it was. What values are: "parameter", "state", "input" of
what is handed in; "gradient" of a parameter, "kept" for the backward pass, "overwriting" what it updates, or
"passing".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphir.cost import node_flops
from graphir.drawing.explore.blocks import Block, alike, around, blocks_of, numbered, spelled_attributes
from graphir.drawing.explore.depth import Depth, find_depth, in_turn
from graphir.drawing.explore.drawings import ALL, PASSES, Drawing, drawing_of, drawing_of_block
from graphir.drawing.explore.numbers import Formulas, Json, Table
from graphir.drawing.explore.sizes import complete_sizes
from graphir.drawing.naming import Naming, fused_symbols
from graphir.drawing.picture import Picture
from graphir.drawing.ranks import rank_kind
from graphir.drawing.view import View
from graphir.ir.analysis import last_uses
from graphir.ir.dims import Sizes, dim_names
from graphir.ir.graph import BACKWARD, FORWARD, Graph, Node
from graphir.ir.layout import axis_symbol
from graphir.ir.value import Value
from graphir.why import Explanation, explain, readers_of

#: Of how many operands a signature says, and of how many it matters which is meant.
_MOST_OPERANDS, _FEW = 6, 2
_PLACE = re.compile(r"\bas X\d+\b(?: \[\])?")


def model_data(
    graph: Graph, title: str, sizes: Sizes | None = None, expand: Sequence[int] = (), deeper: Deeper | None = None
) -> tuple[Json, list[Drawing]]:
    """The data of `graph`'s page and the drawings in it; `sizes` are those that it shows first.

    If `deeper` is given, and `graph` has too few layers to see which repeat, they are those of a deeper one.
    Errors: DimError for sizes that cannot be, MissingDependencyError if nothing can draw SVG.
    """
    made = _Layered(graph, sizes or {}, deeper.period if deeper else 1)
    layers = len(made.layers)
    if deeper and layers and isinstance(made.depth, str):
        more = _Layered(deeper.build(deeper.than(layers)), sizes or {}, deeper.period)
        told = more.all(title)
        if isinstance(more.depth, Depth) and layers in more.depth.fewer:
            return {**told, "expand": list(expand), "layers": layers}, more.drawings
    return {**made.all(title), "expand": list(expand)}, made.drawings


def figure_data(picture: Picture, graph: Graph) -> tuple[Json, list[Drawing]]:
    """The data of one picture's page: the graph as one block, drawn as the picture, all passes together."""
    made = _Data(graph, complete_sizes(graph, {}))
    block = Block("figure", "", graph.nodes, (*graph.parameters, *graph.state))
    drawn = drawing_of(picture)
    told = made.whole(picture.title, [block], [0], lambda block: {ALL: drawn})
    return {**told, "expand": [], "depth": {"unlike": ""}}, made.drawings


@dataclass(frozen=True)
class Deeper:
    """How a model is built with so many layers, and after how many they repeat each other."""

    build: Callable[[int], Graph]
    period: int = 1

    def than(self, layers: int) -> int:
        """How many layers show which of them repeat, and may be taken away until so many are left."""
        return layers + -(-max(0, 4 * self.period + 2 - layers) // self.period) * self.period


class _Data:
    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self.graph, self.sizes = graph, sizes
        self.formulas = Formulas(graph)
        self.operators, self.lines = Table(), Table()
        self.naming = Naming(graph, View())
        self.drawings: list[Drawing] = []
        self.depth: Depth | str = ""
        known = dim_names([graph.dims])
        of_dims = {name: size for name, size in sizes.items() if name in known}
        self.told: dict[Node, Explanation] = {each.node: each for each in explain(graph, of_dims)}
        keep = {*graph.outputs, *graph.arguments}
        self.dying = dict(zip(graph.nodes, last_uses(graph.nodes, keep), strict=True))
        self.what = {
            **dict.fromkeys(graph.parameters, "parameter"),
            **dict.fromkeys(graph.state, "state"),
            **dict.fromkeys(graph.inputs, "input"),
            **{value: self._what(value, node) for node in graph.nodes for value in node.outputs},
            **dict.fromkeys(graph.updates.values(), "overwriting"),
        }

    def whole(
        self, title: str, blocks: list[Block], firsts: list[int], drawn: Callable[[Block], Mapping[str, Drawing]]
    ) -> Json:
        """All of it; `firsts` says of each block which is the first that is like it, `drawn` how that looks."""
        graph = self.graph
        distinct = list(dict.fromkeys(firsts))
        kinds = [self._kind(blocks[first], drawn(blocks[first])) for first in distinct]
        handed = {value for block in blocks for value in block.arguments}
        rest = [value for value in graph.arguments if value not in handed]
        return {
            "title": title,
            "mesh": [
                {"axis": axis, "ranks": self.formulas.of_dim(axis_symbol(axis)), "rank": rank_kind(axis)}
                for axis in graph.mesh.names
            ],
            "symbols": [name for name in graph.mesh.symbols if name not in dim_names([graph.dims])],
            "sizes": self._free_sizes(),
            "kinds": kinds,
            "blocks": [
                [block.path, distinct.index(first), block.number] for block, first in zip(blocks, firsts, strict=True)
            ],
            "runs": self._runs(blocks),
            "arguments": [self._argument(value) for value in rest],
            "outputs": [value.name for value in graph.outputs],
            "operators": self.operators.entries,
            "lines": self.lines.entries,
            "formulas": self.formulas.entries,
            "types": self.formulas.types.entries,
        }

    def _free_sizes(self) -> dict[str, int]:
        """The sizes that others follow from: those that formulas are written in."""
        names = {name for dim in self.graph.dims for name in dim.names}
        return {**{name: size for name, size in self.sizes.items() if name in names}, **self.graph.mesh.symbols}

    def _what(self, value: Value, made: Node) -> str:
        if made.meta.phase == BACKWARD and self.naming.of_parameter(value):
            return "gradient"
        later = any(reader.meta.phase != FORWARD for reader, _ in self.graph.uses[value])
        return "kept" if made.meta.phase == FORWARD and later else "passing"

    # -- kinds ----------------------------------------------------------------------------------------

    def _kind(self, block: Block, drawn: Mapping[str, Drawing]) -> Json:
        return {
            "stem": block.stem,
            "number": block.number,
            "arguments": [self._argument(value) for value in block.arguments],
            "nodes": [self._node(node) for node in block.nodes],
            "drawings": {phase: self._drawing(drawing) for phase, drawing in drawn.items()},
        }

    def _drawing(self, drawing: Drawing) -> Json:
        self.drawings.append(drawing)
        return {
            "at": len(self.drawings) - 1,
            "width": drawing.width,
            "height": drawing.height,
            "nodes": drawing.nodes,
            "edges": drawing.edges,
        }

    def _argument(self, value: Value) -> list[Any]:
        return [value.name, self.formulas.of_type(value.type), self.what[value]]

    def _node(self, node: Node) -> Json:
        meta, operator = node.meta, node.operator
        symbols = " ".join(fused_symbols(node)) or operator.symbol
        formula = operator.doc.partition("\n\n")[0].replace("\n", " ")
        entry = {"key": operator.key, "symbol": symbols, "formula": formula, "view": bool(operator.view)}
        made: Json = {
            "op": self.operators.place(entry),
            "phase": meta.phase,
            "made": [
                [value.name, self.formulas.of_type(value.type), self.what[value], self._label(value)]
                for value in node.outputs
            ],
            "reads": [[value.name, self.formulas.of_type(value.type)] for value in node.inputs],
            "frees": [self._freed(value, node) for value in self.dying[node]],
            "flops": self.formulas.of(node_flops(node)),
            "signature": _spelled_rule(node),
            "attributes": spelled_attributes(node),
            "at": self.lines.place(meta.at) if meta.at else None,
            "of": meta.of if meta.phase == BACKWARD else None,
            "why": self._whichever(meta.why or "", node) or None,
            "told": self._collective(node),
        }
        return {name: each for name, each in made.items() if each not in (None, {}, [])}

    def _freed(self, value: Value, node: Node) -> list[Any]:
        """A value that dies at a node; where that stands in no layer, the name of one that does: there may be more."""
        named = self._number(node.meta.scope) is None and self._number(value.name) is not None
        return [self.formulas.of_type(value.type), self.what[value], *([value.name] if named else [])]

    def _number(self, name: str) -> int | None:
        return self.depth.number(name) if isinstance(self.depth, Depth) else None

    def _label(self, value: Value) -> list[list[str]]:
        return [[run.text, run.form] for run in self.naming.label(value)]

    def reasons(self, node: Node) -> tuple[str, ...]:
        """What is told of a collective, as text; nothing of another node."""
        found = self.told.get(node)
        return () if found is None else (found.cause, found.need, found.partner)

    def _collective(self, node: Node) -> Json | None:
        found = self.told.get(node)
        if found is None:
            return None
        return {
            "axes": list(found.cost.axes),
            "cause": found.cause,
            **self._need(found),
            "partner": found.partner,
            "formula": str(found.cost.each),
            "sent": self.formulas.of_sent(found.cost.each),
        }

    def _need(self, found: Explanation) -> Json:
        """What needs a collective's result: the first that does, how many `more`, and so many for `each` more layers.

        The last only of one in no layer: what needs one of a layer lies in layers near by.
        """
        need, _, more = found.need.removesuffix(" more").rpartition(" and ")
        if not found.need.endswith(" more"):
            return {"need": self._whichever(found.need, found.node)}
        told: Json = {"need": self._whichever(need, found.node), "more": int(more)}
        if isinstance(self.depth, Depth) and self._number(found.node.meta.scope) is None:
            readers = [self._number(reader.name) for reader, _ in readers_of(self.graph, found.node)[0]]
            told["each"] = list(map(self.depth.unit, readers)).count(0)
        return told

    def _whichever(self, text: str, node: Node) -> str:
        """What is told of a collective in no layer: of a sum over layers it says no more than that it is a term."""
        if node.operator.relayout is None or numbered(node.meta.scope):
            return text
        many = any(len(reader.inputs) > _FEW for reader, _ in readers_of(self.graph, node)[0])
        return _PLACE.sub("as one of its terms", text) if many else text

    # -- the order of computation ---------------------------------------------------------------------

    def _runs(self, blocks: list[Block]) -> list[list[int]]:
        place = {node: (number, at) for number, block in enumerate(blocks) for at, node in enumerate(block.nodes)}
        runs: list[list[int]] = []
        for node in self.graph.nodes:
            number, at = place[node]
            if runs and runs[-1][0] == number and runs[-1][2] == at:
                runs[-1][2] += 1
            else:
                runs.append([number, at, at + 1])
        return runs


class _Layered(_Data):
    """The data of a graph in blocks, of which layers repeat each other."""

    def __init__(self, graph: Graph, sizes: Sizes, period: int) -> None:
        super().__init__(graph, complete_sizes(graph, sizes))
        self.blocks = blocks_of(graph)
        self.layers = sorted({block.number for block in self.blocks if block.stem})
        self.firsts = alike(graph, self.blocks, self.reasons)
        self.depth = find_depth(graph, self.blocks, self.firsts, self.reasons, period)

    def all(self, title: str) -> Json:
        """All of it."""
        told = self.whole(title, self.blocks, self.firsts, self._drawn)
        if isinstance(self.depth, Depth) and not all(in_turn(self.depth, names) for names in _lists(told["kinds"])):
            self.depth = "its drawings show some of them alone"
        told["depth"] = {"unlike": self.depth} if isinstance(self.depth, str) else asdict(self.depth)
        return told

    def _drawn(self, block: Block) -> dict[str, Drawing]:
        surroundings = around(self.graph, block)
        found = {phase: drawing_of_block(surroundings, block, phase, self.layers) for phase in PASSES}
        return {phase: drawing for phase, drawing in found.items() if drawing is not None}


def _lists(kinds: Sequence[Json]) -> Iterator[Iterable[str]]:
    """The lists of names in what lies in no layer, which grow with the layers."""
    for kind in kinds:
        if not kind["stem"]:
            for drawing in kind["drawings"].values():
                yield from (*drawing["nodes"], *drawing["edges"])
            for node in kind["nodes"]:
                yield ("".join(freed[2:]) for freed in node.get("frees", ()))


def _spelled_rule(node: Node) -> str:
    """A node's rule; of one with very many operands the first of them."""
    rule = node.inference.rule
    if len(rule.inputs) <= _MOST_OPERANDS:
        return str(rule)
    shown = ", ".join(map(str, rule.inputs[:_MOST_OPERANDS]))
    return f"{shown}, … -> {', '.join(map(str, rule.outputs))}"
