"""Tasks: a graph's nodes as they are carried out, each with its tiles for each thread.

A task is a node, or the nodes that a fused node holds. Its *tiles* are ranges of its loops (`graphir.ir.tiling`);
every thread has tiles of its own, so that what one writes no other reads before they meet. A task's values are its
own: one of the graph that it reads in two roles, X and Xᵀ, is two of the task's, each with dims, a region and a
lifetime of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias

from graphir.backends.compiled.sights import Sight
from graphir.backends.plan import local_shape
from graphir.errors import PlanError
from graphir.ir.analysis import contracted
from graphir.ir.dims import Dim
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Mesh
from graphir.ir.roles import Axes, Factor
from graphir.ir.tiling import TileSpace, leading_rows, tile_space
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
        return ((low, min(low + self.width, self.stop)) for low in self._lows)

    def __len__(self) -> int:
        return len(self._lows)

    def backwards(self) -> Iterator[tuple[int, int]]:
        """The pieces, the last one first."""
        return ((low, min(low + self.width, self.stop)) for low in reversed(self._lows))

    def samples(self) -> Iterator[tuple[int, int]]:
        """The first two pieces and the last: all widths that there are."""
        lows = self._lows
        return ((low, min(low + self.width, self.stop)) for low in dict.fromkeys((*lows[:2], *lows[-1:])))

    @property
    def _lows(self) -> range:
        return range(self.start, self.stop, max(self.width, 1))


class Causal(NamedTuple):
    """The factors q and k of what leaves out keys: those with k > q, or, with a sight, those that no query of a tile
    sees, b being the factor of sequences."""

    q: Factor
    k: Factor
    b: Factor | None = None
    sight: Sight | None = None

    def queries(self, tile: Tile) -> tuple[tuple[int, int] | None, tuple[int, int]]:
        """Of which sequences a tile has queries, None for all, and which queries."""
        return None if self.b is None else tile.get(self.b), tile[self.q]


@dataclass(frozen=True)
class Tiles:
    """All combinations of the loops' pieces, made as they are asked for: a plan may be of a size that nobody runs.

    Where `causal`, of `keys` keys, leaves out k > q, the last queries come first, so that the first tile to add to a
    sum over queries touches all of it. By sight nothing is left out of tiles, but of versions of them.
    """

    pieces: tuple[Pieces, ...] | None
    causal: Causal | None = None
    keys: int = 0

    @classmethod
    def none(cls) -> Tiles:
        """The tiles of a thread without work."""
        return cls(None)

    def __bool__(self) -> bool:
        return self.pieces is not None and all(each.start < each.stop for each in self.pieces)

    def __iter__(self) -> Iterator[Tile]:
        for cut in self._cuts(self.pieces) if self.pieces is not None else ():
            yield self.tile(cut)

    def tile(self, cut: Tile) -> Tile:
        """The tile that covers these pieces of the loops."""
        if self.causal is None:
            return cut
        q, k, _, sight = self.causal
        return {**cut, k: (0, min(self.keys, cut[q][1]) if sight is None else self.keys)}

    def _cuts(self, pieces: tuple[Pieces, ...]) -> Iterator[dict[Factor, tuple[int, int]]]:
        if not pieces:
            yield {}
            return
        first, *others = pieces
        backwards = self.causal is not None and first.loop == self.causal.q
        for piece in first.backwards() if backwards else first:
            for rest in self._cuts(tuple(others)):
                yield {first.loop: piece, **rest}


@dataclass(eq=False)
class Task:
    """Nodes to carry out together.

    node          the graph's node that they are, or that holds them
    nodes         the nodes; those that read a value of the graph in a role of its own read a value of its own
    outer         the graph's value for each value of the nodes that comes from outside or leaves
    leaving       those of the nodes' values that leave
    sizes         each factor's size on one rank
    shared        factors of which each rank has a part of its own
    causal        the factors where nothing is to be computed of some keys
    tiles         for each thread its tiles, in order; a thread without work has none
    split         the loop whose range the threads share
    in_registers  values that have no memory: kernels that carry out the whole task have a piece of them at a time
    """

    node: Node
    nodes: tuple[Node, ...]
    outer: Mapping[Value, Value]
    leaving: tuple[Value, ...]
    space: TileSpace
    shapes: Mapping[Value, Shape]
    sizes: Mapping[Factor, int]
    shared: frozenset[Factor]
    causal: Causal | None = None
    tiles: list[Tiles] = field(default_factory=list)
    split: Factor | None = None
    in_registers: frozenset[Value] = frozenset()

    @cached_property
    def product(self) -> Node | None:
        """The product that the task is, beside views and casts of what it reads; None of any other task.

        BLAS cuts a product into tiles better than we do, but for those of what is cast.
        """
        *casts, last = [node for node in self.nodes if not node.operator.view] or self.nodes
        is_product = contracted(last) and all(node.operator.retypes for node in casts)
        return last if is_product and set(self.widened) == {node.outputs[0] for node in casts} else None

    @cached_property
    def widened(self) -> tuple[Value, ...]:
        """What products here read in more bits than others have stored it in."""
        read = {self.root[value] for node in self.nodes if contracted(node) for value in node.inputs}
        made = (value for node in self.nodes if node.operator.retypes for value in node.outputs)
        return tuple(value for value in made if value in read)

    @cached_property
    def materialised(self) -> tuple[Value, ...]:
        """The values that have memory: views have none of their own."""
        views = {value for node in self.nodes if node.operator.view for value in node.outputs}
        return tuple(value for value in self.shapes if value not in views)

    @cached_property
    def entering(self) -> tuple[Value, ...]:
        """The nodes' values that come from outside, one for each role in which the nodes read them."""
        return tuple(self.space.outside)

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """Who makes each of the nodes' values that does not come from outside."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def read_as(self) -> Mapping[Value, Axes]:
        """Each value's dims, of what no node makes but a view as those have them that compute with it: of a head that
        is read as two halves these two. As the space has them where readers differ."""
        readers: dict[Value, set[Axes]] = {}
        for node in self.nodes:
            if not node.operator.view:
                names = self.space.factors[node]
                for operand, value in zip(node.inference.rule.inputs, node.inputs, strict=True):
                    axes = tuple(tuple(names[factor] for factor in axis.factors) for axis in operand.axes)
                    readers.setdefault(value, set()).add(axes)
        made = {value for node in self.nodes if not node.operator.view for value in node.outputs}
        only = {v: next(iter(found)) for v, found in readers.items() if len(found) == 1 and v not in made}
        return {value: only.get(value, axes) for value, axes in self.space.dims.items()}

    @cached_property
    def root(self) -> Mapping[Value, Value]:
        """For each value, the one that it is a view of, or itself."""
        root = {value: value for value in self.shapes}
        for node in self.nodes:
            if node.operator.view:
                root[node.outputs[0]] = root[node.inputs[0]]
        return root

    def views_to(self, value: Value) -> tuple[Node, ...]:
        """The views that lead from a value's root to it, in order."""
        found: list[Node] = []
        while value in self.producers and self.producers[value].operator.view:
            found.append(self.producers[value])
            value = found[-1].inputs[0]
        return tuple(reversed(found))

    def is_cut(self, value: Value) -> bool:
        """Whether each tile has a part of `value` of its own: its dims have all of the loops."""
        return set(self.space.loops) <= {factor for axis in self.space.dims[value] for factor in axis}

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

    def ranges(self, value: Value, tile: Tile) -> tuple[tuple[int, int], ...]:
        """Where a tile's part of `value` lies in the whole, dim by dim."""
        result = []
        for axis, size in zip(self.space.dims[value], self.shapes[value], strict=True):
            if axis and axis[0] in tile:
                # A loop is the major factor of a dim, or all of it.
                start, stop = tile[axis[0]]
                minor = self.width(axis[1:], {})
                result.append((start * minor, stop * minor))
            else:
                result.append((0, size))
        return tuple(result)

    def region(self, value: Value, tile: Tile) -> tuple[slice, ...]:
        """As `ranges`, to index an array with."""
        return tuple(slice(*each) for each in self.ranges(value, tile))


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
    body = node.body
    if body is None:
        nodes: tuple[Node, ...] = (node,)
        graphs = {value: value for value in (*node.inputs, *node.outputs)}
        leaving = node.outputs
    else:
        nodes, leaving = body.nodes, body.outputs
        graphs = dict(zip((*body.inputs, *body.outputs), (*node.inputs, *node.outputs), strict=True))
    space = _space(node, nodes, leaving, body)
    outer = {value: graphs[source] for value, source in space.outside.items()}
    outer |= {value: graphs[source] for value, source in zip(space.leaving, leaving, strict=True)}
    values = dict.fromkeys(value for each in space.nodes for value in (*each.inputs, *each.outputs))
    shapes = {value: numbers.shape(value) for value in values}
    return Task(node, space.nodes, outer, space.leaving, space, shapes, *_local_sizes(space, numbers))


def _local_sizes(space: TileSpace, numbers: Numbers) -> tuple[dict[Factor, int], frozenset[Factor]]:
    """Each factor's size on one rank, and the factors of which each rank has a part of its own."""
    mesh = numbers.mesh
    local: dict[Factor, int] = {}
    shared: set[Factor] = set()
    for each in space.nodes:
        factors = each.inference.factors
        split = each.assignment if mesh.axes else {}
        for name, factor in space.factors[each].items():
            count = mesh.count(split.get(name, ()))
            size = numbers.dim(factors[name]) // count
            if local.setdefault(factor, size) != size:
                raise PlanError(
                    f"{each.name}: {name} of {each.operator.key} is {size} long, but {local[factor]} for who else has "
                    f"it; tiles cannot be ranges of both"
                )
            if count > 1:
                shared.add(factor)
    return local, frozenset(shared)


def _space(node: Node, nodes: tuple[Node, ...], leaving: Sequence[Value], body: Graph | None) -> TileSpace:
    """The loops that the fusing pass found; of a product all dims of its result; else the rows."""
    last = next((each for each in nodes if not each.operator.view), nodes[-1])
    if body is not None and node.attributes["anchor"]:
        anchor, most = body[node.attributes["anchor"]], node.attributes["rows"]
    elif contracted(last):
        anchor, most = last.outputs[0], len(last.outputs[0].shape)
    else:
        anchor, most = leading_rows(last)
    # Views that were folded in may cut a dim that the nodes among themselves take as one: then there are fewer loops.
    spaces = (tile_space(nodes, leaving, anchor, rows) for rows in range(most, -1, -1))
    return next(space for space in spaces if space is not None)
