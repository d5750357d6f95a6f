"""A graph cut into blocks, and which of them are alike: a page holds what is alike once.

A *block* is what a scope computes, in all passes: `layer3/mha`. Where a scope has scopes inside, its own nodes lie
between theirs, as the two sums of a layer do; each run of them is a block, called after what it makes. A node of the
backward pass belongs to the block of the forward node whose gradient it computes.

Blocks are *alike* if one becomes the other when the numbers of layers in all names are shifted: same nodes, operands,
types, reasons and readers, and the same values die at the same nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from graphir.ir.analysis import last_uses
from graphir.ir.graph import FORWARD, Graph, Node
from graphir.ir.value import Value, join

#: How far back a value's name may come from: through a collective, a transpose, another collective.
_STEPS_BACK = 3
_NUMBERED = re.compile(r"(.*?[^\d/])(\d+)(?=/|\Z)")


@dataclass(frozen=True)
class Block:
    """A block: its path in the tree of scopes, its nodes in the graph's order, and what a run hands to it alone."""

    path: str
    scope: str
    nodes: tuple[Node, ...]
    arguments: tuple[Value, ...] = ()

    @property
    def stem(self) -> str:
        """What stands before the number of its layer: `layer`; "" of a block that lies in no layer."""
        found = _NUMBERED.match(self.scope)
        return found[1] if found else ""

    @property
    def number(self) -> int:
        """The number of its layer; 0 of a block that lies in none."""
        found = _NUMBERED.match(self.scope)
        return int(found[2]) if found else 0


def numbered(scope: str) -> bool:
    """Whether a scope lies in a layer, which has a number."""
    return bool(_NUMBERED.match(scope))


def blocks_of(graph: Graph) -> list[Block]:
    """The blocks of `graph`, in the order in which the forward pass comes to them."""
    scopes = {node.meta.scope for node in graph.nodes}
    inner = {parent for scope in scopes for parent in _parents(scope)} & scopes
    path_of: dict[Node, str] = {}
    for scope, run in groupby(graph.nodes, key=lambda node: node.meta.scope if node.meta.phase == FORWARD else None):
        nodes = [node for node in run if node.meta.phase == FORWARD]
        for node in nodes:
            path_of[node] = join(scope or "", nodes[0].outputs[0].local_name) if scope in inner else _path(scope or "")
    for node in graph.nodes:
        if node not in path_of:
            path_of[node] = _path_of_later(graph, node, path_of, inner)
    found: dict[str, list[Node]] = {}
    for node in sorted(graph.nodes, key=lambda node: node.meta.phase != FORWARD):
        found.setdefault(path_of[node], []).append(node)
    order = {node: position for position, node in enumerate(graph.nodes)}
    handed: dict[str, list[Value]] = {}
    for value in (*graph.parameters, *graph.state):
        readers = [path_of[node] for node, _ in graph.uses[value] if node.meta.scope == value.scope]
        handed.setdefault(readers[0] if readers else "", []).append(value)
    return [
        Block(path, nodes[0].meta.scope, tuple(sorted(nodes, key=order.__getitem__)), tuple(handed.get(path, ())))
        for path, nodes in found.items()
    ]


def _parents(scope: str) -> Iterable[str]:
    parts = scope.split("/") if scope else []
    return ("/".join(parts[:count]) for count in range(len(parts)))


def _path(scope: str) -> str:
    return scope or "graph"


def _path_of_later(graph: Graph, node: Node, path_of: Mapping[Node, str], inner: set[str]) -> str:
    """The block of a node of a later pass: that of its forward node, or its scope's own."""
    scope = node.meta.scope
    if scope not in inner:
        return _path(scope)
    forward = graph.find(node.meta.of or "")
    made = graph.producers.get(forward) if forward is not None else None
    if made is not None and made in path_of and made.meta.scope == scope:
        return path_of[made]
    return join(scope, f"({node.meta.phase})")


def around(graph: Graph, block: Block) -> Graph:
    """The part of `graph` that a drawing of `block` asks for: its nodes, who reads of them, what they come from.

    It is drawn as the whole graph would draw the block, in a time that does not grow with the number of layers.
    """
    wanted = dict.fromkeys(block.nodes)
    for node in block.nodes:
        wanted.update(dict.fromkeys(reader for value in node.outputs for reader, _ in graph.uses[value]))
    edge: Iterable[Node] = list(wanted)
    for _ in range(_STEPS_BACK):
        sources = [value for node in edge for value in (*node.inputs, *_forward_of(graph, node))]
        edge = [graph.producers[value] for value in sources if value in graph.producers]
        wanted.update(dict.fromkeys(edge))
    nodes = [node for node in graph.nodes if node in wanted]
    known = {value for node in nodes for value in (*node.inputs, *node.outputs)}
    outputs = [value for value in graph.outputs if value in known]
    aliases = {name: value for name, value in graph.aliases.items() if value in known}
    handed = (graph.inputs, graph.parameters, graph.state)
    inputs, parameters, state = ([value for value in values if value in known] for values in handed)
    return Graph(graph.name, inputs, parameters, state, outputs, nodes, aliases, graph.mesh)


def _forward_of(graph: Graph, node: Node) -> tuple[Value, ...]:
    forward = graph.find(node.meta.of) if node.meta.of else None
    return () if forward is None else (forward,)


def alike(graph: Graph, blocks: Iterable[Block], told: Callable[[Node], object]) -> list[int]:
    """For each block the position of the first that is like it; `told` is what else the page says of a node."""
    dying = dict(zip(graph.nodes, last_uses(graph.nodes, {*graph.outputs, *graph.arguments}), strict=True))
    # What stands in no layer is like itself alone: there each number counts.
    signatures = (_signature(graph, block, dying, told) if block.stem else block.path for block in blocks)
    firsts: dict[str, int] = {}
    return [firsts.setdefault(signature, position) for position, signature in enumerate(signatures)]


def _signature(
    graph: Graph, block: Block, dying: Mapping[Node, tuple[Value, ...]], told: Callable[[Node], object]
) -> str:
    lines = [
        block.path.removeprefix(f"{block.stem}{block.number}"),
        *(f"{value.name} {value.type.text}" for value in block.arguments),
    ]
    for node in block.nodes:
        meta = node.meta
        readers = [reader.name for value in node.outputs for reader, _ in graph.uses[value]]
        lines += [
            "\n".join(f"{name} = {value}" for name, value in spelled_attributes(node).items()),
            f"{node.operator.key} {meta.phase} {meta.of} {meta.at} {meta.why} {told(node)}",
            " ".join(f"{value.name} {value.type.text}" for value in node.outputs),
            " ".join(value.name for value in node.inputs),
            " ".join(value.name for value in dying[node]),
            " ".join(readers),
        ]
    return shifted("\n".join(lines), block.stem, -block.number)


def spelled_attributes(node: Node) -> dict[str, str]:
    """A node's attributes as text, the graph that a fused node holds as its nodes; the key of a mask is left out."""
    return {
        name: "\n".join(map(repr, value.nodes)) if isinstance(value, Graph) else str(value)
        for name, value in node.attributes.items()
        if name != "key"
    }


def shifted(text: str, stem: str, by: int) -> str:
    """`text` with the numbers of all layers in it, `layer3/`, changed by so much."""
    if not stem:
        return text
    pattern = rf"(?<![\w/]){re.escape(stem)}(\d+)(?=/)"
    return re.sub(pattern, lambda found: f"{stem}{int(found[1]) + by}", text)
