"""Which layers of a graph repeat each other, so that a page can show its model with more of them, or fewer.

Layers repeat if, period after period, their blocks are alike; only those at both ends may differ. Then all that stands
in no layer must say of them either nothing, or the same of each, one after the other: a sum of the squares of all
gradients, the order of computation. What says anything else cannot be told for another number of layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphir.cost import node_flops
from graphir.drawing.explore.blocks import Block
from graphir.ir.graph import Graph, Node

#: The first and the last layer differ; of those between there must be two, to be alike.
_FEWEST = 4
#: What is said of a layer: a name in it, and whatever else.
_Said = tuple[object, ...]
#: What else is told of a node, in texts.
_Told = Callable[[Node], Iterable[str]]


@dataclass(frozen=True)
class Depth:
    """Layers `first`, …, of which `units` follow each other, each of `period` layers; `layers` are all there are.

    stem    what stands before a layer's number: `layer`
    """

    stem: str
    first: int
    period: int
    units: int
    layers: int

    @property
    def end(self) -> int:
        """The first layer behind those that repeat."""
        return self.first + self.period * self.units

    @property
    def fewer(self) -> range:
        """How many layers there are if some that repeat are taken away, or none."""
        return range(self.layers - self.period * self.units, self.layers + 1, self.period)

    def number(self, name: str) -> int | None:
        """The number of the layer that a name lies in."""
        found = re.match(rf"{re.escape(self.stem)}(\d+)(?=/|\Z)", name)
        return int(found[1]) if found else None

    def unit(self, number: int | None) -> int | None:
        """Which of the units a layer belongs to; None for one at the ends."""
        if number is None or not self.first <= number < self.end:
            return None
        return (number - self.first) // self.period

    def numbers(self, text: str) -> list[int]:
        """The numbers of all layers in a text."""
        return [int(each) for each in re.findall(rf"(?<![\w/]){re.escape(self.stem)}(\d+)(?=/)", text)]


class _UnlikeError(Exception):
    """Why the number of layers cannot be another."""


def find_depth(
    graph: Graph, blocks: Sequence[Block], firsts: Sequence[int], told: _Told, period: int = 1
) -> Depth | str:
    """The layers of `graph` that repeat each other; else why its page cannot show another number of them.

    `firsts` says of each block which is the first that is like it, `told` what the page tells of a node in words.
    `period` is after how many layers they are known to repeat: fewer may be alike by chance of where the graph ends.
    "" if there are no layers at all.
    """
    try:
        return _found(graph, blocks, firsts, told, period)
    except _UnlikeError as error:
        return str(error)


def in_turn(depth: Depth, names: Iterable[str]) -> bool:
    """Whether a list of names says the same of each unit of layers, one after the other, or nothing of any."""
    try:
        _require_in_turn(depth, ((name,) for name in names), "")
    except _UnlikeError:
        return False
    return True


def _found(graph: Graph, blocks: Sequence[Block], firsts: Sequence[int], told: _Told, period: int) -> Depth:
    stems = {block.stem for block in blocks if block.stem}
    if len(stems) != 1:
        raise _UnlikeError("it has more than one stack of layers" if stems else "")
    (stem,) = stems
    kinds: dict[int, list[_Said]] = {}
    for block, first in zip(blocks, firsts, strict=True):
        if block.stem:
            inside = block.path[len(f"{stem}{block.number}") :]
            kinds.setdefault(block.number, []).append((inside, first))
    depth = _repeating(stem, [kinds.get(number, []) for number in range(max(kinds) + 1)], period)
    for block in blocks:
        if block.stem:
            _require_near(depth, block, told)
        else:
            _require_even(depth, block, told)
    place = {node: (block.path, at) for block in blocks for at, node in enumerate(block.nodes)}
    _require_in_turn(depth, (place[node] for node in graph.nodes), "layers are not computed one after the other")
    handed = [(value.name,) for value in (*graph.arguments, *graph.outputs)]
    _require_in_turn(depth, handed, "what goes in and out lists layers in no order")
    _require_in_turn(depth, ((block.path,) for block in blocks), "blocks of layers lie between each other")
    return depth


def _repeating(stem: str, kinds: Sequence[list[_Said]], known: int) -> Depth:
    """The shortest period after which all layers repeat, but for those at the ends."""
    count = len(kinds)
    if count < _FEWEST:
        raise _UnlikeError(f"with fewer than {_FEWEST} layers none can be seen to repeat another")
    for period in range(known, count // 2 + 1, known):
        for first in range(period + 1):
            units = 1
            while _same(kinds, first, first + units * period, period):
                units += 1
            # Of less than two periods the last may differ: the last layer, and that which needs something last.
            if units > 1 and count - first - units * period < 2 * period and _is_shortest(kinds, first, period, known):
                return Depth(stem, first, period, units, count)
    raise _UnlikeError(f"its {count} layers do not repeat each other, or too seldom to be seen to")


def _same(kinds: Sequence[object], one: int, other: int, count: int) -> bool:
    return other + count <= len(kinds) and kinds[one : one + count] == kinds[other : other + count]


def _is_shortest(kinds: Sequence[object], first: int, period: int, known: int) -> bool:
    """Whether layers of one period do not repeat within it."""
    shorter = (each for each in range(known, period, known) if not period % each)
    return not any(_same(kinds, first, first + each, period) for each in shorter)


def _require_near(depth: Depth, block: Block, told: _Told) -> None:
    """Layers at the ends must speak of their own end alone: `layer0` of `layer1`, but not of the last."""
    if depth.unit(block.number) is not None:
        return
    texts = [text for node in block.nodes for text in (*(value.name for value in node.inputs), *_spoken(node, told))]
    for number in depth.numbers("\n".join(texts)):
        near = number < depth.first + depth.period if block.number < depth.first else number >= depth.end - depth.period
        if not near:
            raise _UnlikeError(f"{block.path} speaks of {depth.stem}{number}, which is far from it")


def _require_even(depth: Depth, block: Block, told: _Told) -> None:
    """What lies in no layer must read of all that repeat in turn, and speak otherwise of none of them."""
    for node in block.nodes:
        _require_in_turn(
            depth, ((value.name,) for value in node.inputs), f"{node.name} does not read of all layers alike"
        )
        for number in depth.numbers("\n".join(_spoken(node, told))):
            if depth.unit(number) is not None:
                raise _UnlikeError(f"{node.name} speaks of {depth.stem}{number} alone")
        if any(depth.unit(depth.number(value.name)) is not None for value in node.inputs):
            fewer = tuple(value for value in node.inputs if depth.unit(depth.number(value.name)) != 0)
            if node_flops(Node(node.operator, fewer, node.attributes, node.outputs, node.meta)) != node_flops(node):
                raise _UnlikeError(f"what {node.name} computes depends on how many layers there are")


def _spoken(node: Node, told: _Told) -> Iterable[str]:
    """What is said of a node in words, but for what it reads."""
    yield from (value.name for value in node.outputs)
    yield from (node.meta.of or "", node.meta.why or "", *told(node))


def _require_in_turn(depth: Depth, said: Iterable[_Said], why: str) -> None:
    """What is said of layers must be said of one unit after the other, up or down, the same of each."""
    unit_of: list[int] = []
    turns: list[list[_Said]] = []
    before: int | None = None

    def finish() -> None:
        whole = range(depth.units)
        if unit_of and (unit_of not in ([*whole], [*reversed(whole)]) or any(each != turns[0] for each in turns)):
            raise _UnlikeError(why)
        unit_of.clear()
        turns.clear()

    for name, *rest in said:
        number = depth.number(str(name))
        unit = depth.unit(number)
        if unit is None or number is None:
            finish()
        else:
            if unit != before:
                if len(unit_of) == depth.units:
                    finish()
                unit_of.append(unit)
                turns.append([])
            inside = str(name)[len(f"{depth.stem}{number}") :]
            turns[-1].append(((number - depth.first) % depth.period, inside, *rest))
        before = unit
    finish()
