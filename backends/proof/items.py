"""What the graph says of its values and nodes, in numbers of one rank: shapes, ranges, who is a view of whom.

A fused node's values are named once: what enters or leaves its body is the graph's own value, by position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from graphir.backends.plan import Places, local_shape
from graphir.backends.proof.boxes import Box, Range
from graphir.backends.trace import Seen
from graphir.ir.graph import Graph, Node
from graphir.ir.operator import Operator
from graphir.ir.signature import Operand, Signature
from graphir.ir.value import Value

#: Dims, each as the names of its factors, major first.
Axes: TypeAlias = tuple[tuple[str, ...], ...]
MASKED, ZERO = "masked", "zero"


@dataclass(frozen=True)
class Half:
    """Dims of a value, or factors of a sum: where index `k` + shift > index `q`, there is nothing.

    With `seen`, there is nothing where, of sequence `b`, that says that query `q` does not see key `k`.
    """

    q: int
    k: int
    shift: int = 0
    b: int | None = None
    seen: Seen | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """All that it speaks of: q and k, and b if it does."""
        return (self.q, self.k) if self.b is None else (self.q, self.k, self.b)

    def at(self, dims: Sequence[int]) -> Half:
        """The same of other dims, in the order of `dims`."""
        return Half(dims[0], dims[1], self.shift, None if self.b is None else dims[2], self.seen)

    def keys(self, q: Range, b: Range | None) -> tuple[float, int]:
        """The keys, from the first to behind the last, outside of which there is nothing for any of these queries."""
        if self.seen is None:
            return -math.inf, q[1] - self.shift
        rows = range(*b) if b is not None else range(len(self.seen.lows))
        blocks = range(q[0] // self.seen.queries, (q[1] - 1) // self.seen.queries + 1)
        told = [(self.seen.lows[row][block], self.seen.highs[row][block]) for row in rows for block in blocks]
        return min((low for low, _ in told), default=0), max((high for _, high in told), default=0)


@dataclass(eq=False)
class Item:
    """A value.

    shape     of a rank's block
    view      if it is a view: what it is a view of, and how
    terms     the sizes of what its maker sums over, by the factors' names: an element is whole with all of them
    beyond    halves, q and k among its dims, of which it is known what stands there: "masked" or "zero"
    spared    halves, q and k counted over its dims and then its terms, where a term is zero
    """

    name: str
    value: Value
    shape: tuple[int, ...]
    view: View | None = None
    terms: Mapping[str, int] = field(default_factory=dict)
    beyond: dict[Half, str] = field(default_factory=dict)
    spared: tuple[Half, ...] = ()
    #: How a factor of its maker is spelled.
    spell: Callable[[str], str] = str
    #: Of memory that has been set to 0: the sum that it is for.
    cleared_for: Item | None = None
    _family: list[tuple[Item, tuple[View, ...]]] = field(default_factory=list)

    @property
    def dims(self) -> list[str]:
        """The dims as the graph spells them."""
        return [str(dim) for dim in self.value.shape]

    @property
    def term_names(self) -> list[str]:
        """What its maker sums over, as the graph spells it."""
        return [self.spell(factor) for factor in self.terms]

    @property
    def root(self) -> Item:
        """What it is a view of in the end, or itself."""
        item = self
        while item.view is not None:
            item = item.view.operand
        return item

    @property
    def sums(self) -> Mapping[str, int]:
        """The terms of what it is a view of in the end."""
        return self.root.terms

    def back(self, boxes: Sequence[Box], ancestor: Item) -> list[Box]:
        """Elements, and terms of them, as those of what it is a view of."""
        found, item = list(boxes), self
        while item is not ancestor:
            view, count = item.view, len(item.shape)
            assert view is not None
            found = [(*back, *box[count:]) for box in found for back in view.back([box[:count]])]
            item = view.operand
        return found

    def family(self) -> Sequence[tuple[Item, tuple[View, ...]]]:
        """Itself, and what it is a view of, with the views that lead from there to it: one, where one says it."""
        if not self._family:
            self._family.append((self, ()))
            if self.view is not None:
                self._family.append((self.view.operand, (self.view,)))
                for ancestor, path in self.view.operand.family()[1:]:
                    behind = behind_each_other(path[-1], self.view)
                    self._family.append((ancestor, (*path, self.view) if behind is None else (*path[:-1], behind)))
        return self._family


@dataclass(frozen=True, eq=False)
class View:
    """How a view rearranges its operand: the factors of both sides' dims, and their sizes."""

    operand: Item
    before: Axes
    after: Axes
    sizes: Mapping[str, int]

    def back(self, boxes: Sequence[Box]) -> list[Box]:
        """The operand's elements that these of the view are."""
        return [made for box in boxes for made in convert(box, self.after, self.before, self.sizes)]

    def forth(self, box: Box) -> list[Box]:
        """The elements of the view that these of the operand are."""
        return convert(box, self.before, self.after, self.sizes)


def behind_each_other(first: View, second: View) -> View | None:
    """Two views, the second of the first, as one: a dim merged and split again is none; None if factors cross."""
    parts: tuple[dict[str, tuple[str, ...]], ...] = ({}, {})
    sizes: dict[str, int] = {}

    def add(size: int, *whose: tuple[int, str]) -> None:
        name = f"{len(sizes)}"
        sizes[name] = size
        for side, factor in whose:
            parts[side][factor] = (name, *parts[side].get(factor, ()))

    for one, other in zip(first.after, second.before, strict=True):
        # From the minor factors on, whichever is smaller is a part of the other.
        left = [(factor, first.sizes[factor]) for factor in one]
        right = [(factor, second.sizes[factor]) for factor in other]
        while left or right:
            if left and left[-1][1] == 1:
                add(1, (0, left.pop()[0]))
            elif right and right[-1][1] == 1:
                add(1, (1, right.pop()[0]))
            else:
                if not left or not right:
                    return None
                (mine, here), (theirs, there) = left.pop(), right.pop()
                size = min(here, there)
                if size == 0 or here % size or there % size:
                    return None
                add(size, (0, mine), (1, theirs))
                if here > size:
                    left.append((mine, here // size))
                if there > size:
                    right.append((theirs, there // size))
    for side, view in enumerate((first, second)):
        for factor in (each for factors in (*view.before, *view.after) for each in factors):
            if factor not in parts[side]:
                add(view.sizes[factor], (side, factor))

    def renamed(axes: Axes, side: int) -> Axes:
        return tuple([tuple([part for factor in factors for part in parts[side][factor]]) for factors in axes])

    return View(first.operand, renamed(first.before, 0), renamed(second.after, 1), sizes)


@dataclass(frozen=True, eq=False)
class Work:
    """A node.

    sizes      of its rule's factors, on one rank
    starts     where the rank's block begins in the global tensors, by factor
    depends    for each result, the positions of the operands that it depends on
    """

    node: Node
    rule: Signature
    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]
    sizes: Mapping[str, int]
    starts: Mapping[str, int]
    depends: tuple[frozenset[int], ...]

    @property
    def operator(self) -> Operator:
        """The node's."""
        return self.node.operator

    def spell(self, factor: str) -> str:
        """A factor as the graph spells its dim."""
        return str(self.node.inference.factors.get(factor, factor))


class Ledger:
    """All values and nodes of a graph, as one rank has them."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int], rank: int) -> None:
        self.graph, self.rank, self._sizes = graph, rank, sizes
        self._items: dict[tuple[Node | None, Value], Item] = {}
        self._works: dict[tuple[Node | None, Node], Work] = {}
        self._shapes: dict[object, tuple[int, ...]] = {}
        #: The node that makes each item; arguments have none.
        self.makers: dict[Item, Work] = {}
        for value in graph.arguments:
            self._items[None, value] = Item(value.name, value, self._shape(value))
        for node in graph.nodes:
            if node.body is None:
                self._enter(node, None)
            else:
                self._enter_body(node, node.body)

    def item(self, value: Value) -> Item:
        """A value of the graph."""
        return self._items[None, value]

    def find(self, value: Value, within: Node | None) -> Item | None:
        """A value of the graph, or of the body of a fused node; None if there is no such value."""
        return self._items.get((within, value))

    def find_work(self, node: Node, within: Node | None) -> Work | None:
        """A node of the graph, or of the body of a fused node; None if there is no such node."""
        return self._works.get((within, node))

    # -- reading the graph ----------------------------------------------------------------------------

    def _shape(self, value: Value) -> tuple[int, ...]:
        found = self._shapes.get(value.type)
        if found is None:
            found = self._shapes[value.type] = local_shape(value, self.graph.mesh, self._sizes)
        return found

    def _enter_body(self, node: Node, body: Graph) -> None:
        outside = dict(zip(body.outputs, node.outputs, strict=True))
        for inner, outer in zip(body.inputs, node.inputs, strict=True):
            self._items[node, inner] = self._items[None, outer]
        for each in body.nodes:
            self._enter(each, node, outside)
        for inner, outer in zip(body.outputs, node.outputs, strict=True):
            self._items[None, outer] = self._items[node, inner]

    def _enter(self, node: Node, within: Node | None, outside: Mapping[Value, Value] | None = None) -> None:
        rule, factors, _ = node.inference
        inputs = tuple([self._items[within, value] for value in node.inputs])
        bound = {name: dim.size(self._sizes) for name, dim in factors.items()}
        sizes = dict(bound)
        if self.graph.mesh.axes:
            for name, axes in node.assignment.items():
                sizes[name] //= self.graph.mesh.count(axes)
        starts: Mapping[str, int] = {}
        if "at" in node.operator.keywords and self.graph.mesh.axes:
            starts = Places(node, self.graph.mesh, bound)[self.rank].starts
        names = [operand.name for operand in rule.inputs]
        depends = tuple(
            frozenset(i for i, name in enumerate(names) if name in node.operator.dependencies(rule, [result.name]))
            for result in rule.outputs
        )
        outputs = []
        for position, value in enumerate(node.outputs):
            outer = (outside or {}).get(value, value)
            item = Item(outer.name, outer, self._shape(value))
            if node.operator.view:
                item.view = View(inputs[0], axes_of(rule.inputs[0]), axes_of(rule.outputs[0]), sizes)
            elif node.operator.relayout is None:
                item.terms = _terms(rule, position, depends[position], sizes)
            outputs.append(item)
            self._items[within, value] = item
        work = self._works[within, node] = Work(node, rule, inputs, tuple(outputs), sizes, starts, depends)
        self.makers.update(dict.fromkeys(outputs, work))
        for item in outputs:
            item.spell = work.spell

    def items(self) -> Iterable[Item]:
        """All values, each once, in the order of the graph."""
        return dict.fromkeys(self._items.values())

    def works(self) -> Iterable[Work]:
        """All nodes, in the order of the graph."""
        return self._works.values()


def axes_of(operand: Operand) -> Axes:
    """An operand's dims as factors."""
    return tuple([axis.factors for axis in operand.axes])


def _terms(rule: Signature, position: int, depends: Iterable[int], sizes: Mapping[str, int]) -> dict[str, int]:
    kept = set(rule.outputs[position].factors)
    read = dict.fromkeys(factor for i in sorted(depends) for factor in rule.inputs[i].factors)
    return {factor: sizes[factor] for factor in read if factor not in kept}


# -- dims and factors -------------------------------------------------------------------------------------


def split(index: Range, factors: Sequence[str], sizes: Mapping[str, int]) -> list[Box]:
    """A dim's range as ranges of its factors: one box, or several where it ends in the middle of a minor factor."""
    if len(factors) == 1:
        return [(index,)]
    if not factors:
        return [()]
    others = factors[1:]
    minor = 1
    for each in others:
        minor *= sizes[each]
    low, high = index
    if minor == 0:
        return [tuple([(0, sizes[each]) for each in factors])]
    full = tuple([(0, sizes[each]) for each in others])
    found: list[Box] = []
    while low < high:
        row, inside = divmod(low, minor)
        if inside == 0 and high - low >= minor:
            rows = (high - low) // minor
            found.append(((row, row + rows), *full))
            low += rows * minor
        else:
            stop = min(high, (row + 1) * minor)
            found += [((row, row + 1), *rest) for rest in split((inside, inside + stop - low), others, sizes)]
            low = stop
    return found


def join(ranges: Sequence[Range], factors: Sequence[str], sizes: Mapping[str, int]) -> list[Range]:
    """Ranges of a dim's factors as ranges of the dim."""
    if len(factors) == 1:
        return [ranges[0]]
    if not factors:
        return [(0, 1)]
    minor = 1
    for each in factors[1:]:
        minor *= sizes[each]
    (low, high), inner = ranges[0], join(ranges[1:], factors[1:], sizes)
    if inner == [(0, minor)]:
        return [(low * minor, high * minor)]
    return [(row * minor + start, row * minor + stop) for row in range(low, high) for start, stop in inner]


def convert(box: Box, before: Axes, after: Axes, sizes: Mapping[str, int]) -> list[Box]:
    """A box of the dims `before` as boxes of the dims `after`; a factor that only those have is whole."""
    made: list[dict[str, Range]] = [{}]
    for index, factors in zip(box, before, strict=True):
        parts = split(index, factors, sizes)
        made = [known | dict(zip(factors, part, strict=True)) for known in made for part in parts]
    boxes: list[Box] = []
    for known in made:
        found: list[Box] = [()]
        for factors in after:
            ranges = join([known.get(factor, (0, sizes[factor])) for factor in factors], factors, sizes)
            found = [(*start, each) for start in found for each in ranges]
        boxes += found
    return boxes
