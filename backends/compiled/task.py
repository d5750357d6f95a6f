"""Tasks: a graph's nodes as they are carried out, each with its tiles for each thread.

A task is a node, or the nodes that a fused node holds. Its *tiles* are ranges of its loops (`graphir.ir.tiling`);
every thread has tiles of its own, so that what one writes no other reads before they meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from graphir.backends.plan import local_shape
from graphir.ir.analysis import contracted
from graphir.ir.assignment import read_assignment
from graphir.ir.dims import Dim
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Mesh
from graphir.ir.tiling import Factor, TileSpace, leading_rows, tile_space
from graphir.ir.types import DTYPES, TensorType
from graphir.ir.value import Value

#: A range of each factor that is cut; what is not named is whole.
Tile: TypeAlias = Mapping[Factor, tuple[int, int]]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Pieces:
    """A loop's range from `start` to `stop`, in pieces of `width`."""

    loop: Factor
    start: int
    stop: int
    width: int

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((low, min(low + self.width, self.stop)) for low in range(self.start, self.stop, max(self.width, 1)))

    def backwards(self) -> Iterator[tuple[int, int]]:
        """The pieces, the last one first."""
        lows = range(self.start, self.stop, max(self.width, 1))
        return ((low, min(low + self.width, self.stop)) for low in reversed(lows))


@dataclass(frozen=True)
class Tiles:
    """All combinations of the loops' pieces, made as they are asked for: a plan may be of a size that nobody runs.

    Where `causal` (q, k), of `keys` keys, leaves out k > q, the last queries come first, so that the first tile to add
    to a sum over queries touches all of it.
    """

    pieces: tuple[Pieces, ...] | None
    causal: tuple[Factor, Factor] | None = None
    keys: int = 0

    @classmethod
    def none(cls) -> Tiles:
        """The tiles of a thread without work."""
        return cls(None)

    def __bool__(self) -> bool:
        return self.pieces is not None and all(each.start < each.stop for each in self.pieces)

    def __iter__(self) -> Iterator[Tile]:
        for cut in self._cuts(self.pieces) if self.pieces is not None else ():
            if self.causal is not None:
                q, k = self.causal
                cut[k] = (0, min(self.keys, cut[q][1]))
            yield cut

    def _cuts(self, pieces: tuple[Pieces, ...]) -> Iterator[dict[Factor, tuple[int, int]]]:
        if not pieces:
            yield {}
            return
        first, *others = pieces
        backwards = self.causal is not None and first.loop == self.causal[0]
        for piece in first.backwards() if backwards else first:
            for rest in self._cuts(tuple(others)):
                yield {first.loop: piece, **rest}


@dataclass(eq=False)
class Task:
    """Nodes to carry out together.

    outer     the graph's value for each value of the nodes that comes from outside or leaves
    leaving   those of the nodes' values that leave
    sizes     each factor's size on one rank
    shared    factors of which each rank has a part of its own
    causal    (q, k) where nothing is to be computed for k > q
    tiles     for each thread its tiles, in order; a thread without work has none
    private   sums of which each thread makes a term, to be added up when all are done
    held      values that have no memory, as kernels that carry out the whole task hold them in pieces
    """

    node: Node
    nodes: tuple[Node, ...]
    outer: Mapping[Value, Value]
    leaving: tuple[Value, ...]
    space: TileSpace
    shapes: Mapping[Value, Shape]
    sizes: Mapping[Factor, int]
    shared: frozenset[Factor]
    causal: tuple[Factor, Factor] | None = None
    tiles: list[Tiles] = field(default_factory=list)
    private: frozenset[Value] = frozenset()
    held: frozenset[Value] = frozenset()

    @cached_property
    def product(self) -> Node | None:
        """The product that the task is, beside views, which BLAS cuts into tiles better; None of any other task."""
        work = [node for node in self.nodes if not node.operator.view]
        return work[0] if len(work) == 1 and contracted(work[0]) else None

    @cached_property
    def materialised(self) -> tuple[Value, ...]:
        """The values that have memory: views have none of their own."""
        views = {value for node in self.nodes if node.operator.view for value in node.outputs}
        return tuple(value for value in self.shapes if value not in views)

    @property
    def entering(self) -> list[Value]:
        """The nodes' values that come from outside."""
        made = {value for node in self.nodes for value in node.outputs}
        return [value for value in self.outer if value not in made]

    def width(self, axis: Sequence[Factor], tile: Tile) -> int:
        """How much of a dim a tile covers."""
        size = 1
        for factor in axis:
            start, stop = tile.get(factor, (0, self.sizes[factor]))
            size *= stop - start
        return size

    def shape(self, value: Value, tile: Tile) -> Shape:
        """The shape of a tile's part of `value`."""
        return tuple(self.width(axis, tile) for axis in self.space.dims[value])

    def bytes(self, value: Value, tile: Tile) -> int:
        """The size of a tile's part of `value`."""
        count = DTYPES[value.dtype]
        for size in self.shape(value, tile):
            count *= size
        return count

    def region(self, value: Value, tile: Tile) -> tuple[slice, ...]:
        """Where a tile's part of `value` lies in the whole."""
        result = []
        for axis in self.space.dims[value]:
            if axis and axis[0] in tile:
                start, stop = tile[axis[0]]
                minor = self.width(axis[1:], {})
                result.append(slice(start * minor, stop * minor))
            else:
                result.append(slice(None))
        return tuple(result)


class Numbers:
    """Dims and shapes on one rank in numbers, each worked out once."""

    def __init__(self, mesh: Mesh, sizes: Mapping[str, int]) -> None:
        self.mesh, self.sizes = mesh, sizes
        self._dims: dict[Dim, int] = {}
        self._shapes: dict[TensorType, Shape] = {}

    def dim(self, dim: Dim) -> int:
        """The dim's whole size."""
        found = self._dims.get(dim)
        if found is None:
            found = self._dims[dim] = dim.size(self.sizes)
        return found

    def shape(self, value: Value) -> Shape:
        """The shape of a rank's block."""
        found = self._shapes.get(value.type)
        if found is None:
            found = self._shapes[value.type] = local_shape(value, self.mesh, self.sizes)
        return found


def make_task(node: Node, numbers: Numbers) -> Task:
    """The task of a node, without tiles yet."""
    mesh = numbers.mesh
    body = node.body
    if body is None:
        nodes: tuple[Node, ...] = (node,)
        outer = {value: value for value in (*node.inputs, *node.outputs)}
        leaving = node.outputs
    else:
        nodes, leaving = body.nodes, body.outputs
        outer = dict(zip((*body.inputs, *body.outputs), (*node.inputs, *node.outputs), strict=True))
    space = _space(node, nodes, body)
    values = dict.fromkeys(value for each in nodes for value in (*each.inputs, *each.outputs))
    shapes = {value: numbers.shape(value) for value in values}
    local: dict[Factor, int] = {}
    shared: set[Factor] = set()
    for each in nodes:
        rule, factors, _ = each.inference
        layouts = [value.type.layout for value in each.inputs]
        split = {} if not mesh.axes else read_assignment(rule, layouts, each.attributes.get("split", ()))
        for name, factor in space.factors[each].items():
            count = mesh.count(split.get(name, ()))
            local[factor] = numbers.dim(factors[name]) // count
            if count > 1:
                shared.add(factor)
    return Task(node, nodes, outer, tuple(leaving), space, shapes, local, frozenset(shared))


def _space(node: Node, nodes: tuple[Node, ...], body: Graph | None) -> TileSpace:
    """The loops that the fusing pass found; of a product all dims of its result; else the rows."""
    last = next((each for each in nodes if not each.operator.view), nodes[-1])
    if body is not None and node.attributes["anchor"]:
        anchor, most = body[node.attributes["anchor"]], node.attributes["rows"]
    elif contracted(last):
        anchor, most = last.outputs[0], len(last.outputs[0].shape)
    else:
        anchor, most = leading_rows(last)
    # Views that were folded in may cut a dim that the nodes among themselves take as one: then there are fewer loops.
    spaces = (tile_space(nodes, anchor, rows) for rows in range(most, -1, -1))
    return next(space for space in spaces if space is not None)
