"""Writing a task's calls: for one thread, tile by tile, node by node, on views of buffers that exist already."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import DTypeLike

from graphir.backends.compiled.buffers import Scratch, addresses
from graphir.backends.compiled.emission import Array, Function, Kernels
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.storage import Homes
from graphir.backends.compiled.task import Task, Tile
from graphir.backends.effects import writes
from graphir.backends.plan import keywords
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.signature import Signature
from graphir.ir.value import Value

if TYPE_CHECKING:
    from graphir.backends.rows.runs import Run

Call: TypeAlias = tuple[Function, tuple[Any, ...]]


@dataclass
class Rank:
    """What a rank's tasks are written for.

    arrays     the whole buffer of each of the graph's values; of a packed value the flat one
    packed     values of which only the causal half is stored, tile after tile
    places     where the rank's blocks lie, of each node that asks
    kernels    of what fused kernels are made for, if any are wanted
    copied     arguments that are copied into buffers of the rank's own
    """

    engine: Engine
    arrays: dict[Value, Array]
    packed: frozenset[Value]
    places: Mapping[Node, Place]
    sizes: Mapping[str, int]
    kernels: Kernels | None = None
    constants: dict[tuple[Any, ...], Array] = field(default_factory=dict)
    copied: set[Value] = field(default_factory=set)


class Writer:
    """Writes one task for one thread."""

    def __init__(self, task: Task, homes: Homes, rank: Rank, scratch: Scratch, private: Mapping[Value, Array]) -> None:
        self.task, self.homes, self.rank, self.scratch_memory = task, homes, rank, scratch
        self.engine = rank.engine
        #: Where this thread's terms of sums go, where threads have their own.
        self.private = private
        self.calls: list[Call] = []
        #: The node that each call is part of.
        self.nodes: list[Node] = []
        self.reads: dict[Value, tuple[int, int]] = {}
        self.writes: dict[Value, tuple[int, int]] = {}
        self._producers = {value: node for node in task.nodes for value in node.outputs}
        self._entering = set(task.entering)
        self._leaving = set(task.leaving)
        self._keywords = {node: keywords(node, task.shapes, rank.sizes) for node in task.nodes}
        self._signatures: dict[Node, Signature] = {}
        self._visited: set[tuple[Any, ...]] = set()
        #: Who is being written: a node, by itself or as the first of a run that one call computes.
        self._way: tuple[Node, bool] | None = None
        #: The tile at which each of these came first: what it needs once is written there.
        self._began: dict[tuple[Node, bool] | None, int] = {}
        self._kept: dict[tuple[tuple[Node, bool] | None, int], Array] = {}
        self._packed_at: dict[Value, int] = {}
        self._own: list[tuple[int, int, int]] = []
        #: Nodes that one fused kernel computes, by the position of the first.
        self._runs: Mapping[int, Run] = {} if rank.kernels is None else rank.kernels.runs(task, homes)

    def write(self, tiles: Iterable[Tile], before: Iterable[Iterable[Tile]]) -> None:
        """The calls for `tiles`; `before` are those of the threads before, whose parts are packed first."""
        for tile in (tile for each in before for tile in each):
            self._skip(tile)
        for self._number, self.tile in enumerate(tiles):
            self._views: dict[Value, Array] = {}
            self._frames: dict[Value, tuple[int, int, int]] = {}
            self.scratch_memory.clear()
            done = 0
            for position, node in enumerate(self.task.nodes):
                if position >= done and position in self._runs and self._write_run(self._runs[position]):
                    done = self._runs[position].stop
                if position >= done and not node.operator.view:
                    self._write_node(node)
                self._release(position)
            self.node = self.task.nodes[-1]
            for value in self.task.leaving:
                self._finish(value)
            self._skip(self.tile)

    # -- nodes ----------------------------------------------------------------------------------------

    def _write_run(self, run: Run) -> bool:
        """Writes the nodes of a run as one call; False if this tile is to be written node by node."""
        assert self.rank.kernels is not None
        self.node, self._way, self._own, self._asked = run.nodes[0], (run.nodes[0], True), [], 0
        visited, additions = set(self._visited), list[tuple[Function, Array, Array]]()
        arrays = {value: self._get(value) for value in run.inputs}
        for value in run.outputs:
            target = self._target(value, additions)
            assert target is not None
            arrays[value] = target
        sizes = [self.task.width(axis, self.tile) for axis in run.axes]
        done = self.rank.kernels.write(self, run, arrays, sizes, self._place, self._keywords)
        if not done:
            self._visited = visited
        else:
            for combine, total, term in additions:
                self(combine, total, term, total)
        for place in self._own:
            self.scratch_memory.free(place)
        return done

    def _write_node(self, node: Node) -> None:
        self.node, self._way, self._own, self._asked = node, (node, False), [], 0
        rule_of_node = node.inference.rule
        operands = [self._get(value) for value in node.inputs]
        outputs: list[Array | None] = []
        additions: list[tuple[Function, Array, Array]] = []
        for value in node.outputs:
            outputs.append(self._target(value, additions))
        if any(out is not None for out in outputs):
            self._emit(node, rule_of_node, operands, outputs)
        for combine, total, term in additions:
            self(combine, total, term, total)
        for place in self._own:
            self.scratch_memory.free(place)

    def _emit(self, node: Node, rule_of_node: Any, operands: list[Array], outputs: list[Array | None]) -> None:
        operator, attributes = node.operator, self._keywords[node]
        given = dict(zip((o.name for o in rule_of_node.inputs), operands, strict=True))
        results = dict(zip((o.name for o in rule_of_node.outputs), outputs, strict=True))
        extra: dict[str, Any] = {k: v for k, v in attributes.items() if k not in ("shape", "only")}
        if "at" in operator.keywords:
            extra["at"] = self._place(node)
        rule = self.engine.rules.find(operator)
        if rule is not None:
            named: dict[str, Any] = {}
            if operator.variadic:
                named[self._declared(node).inputs[0].name] = tuple(operands)
            else:
                named.update({name: given.get(name) for name in operator.operands})
            full = self._declared(node).outputs
            named.update({o.name: results.get(o.name) for o in full} if len(full) >= len(results) else results)
            if rule.emit(self, **named, **extra) is not False:
                return
        for name in ("shape", "only"):
            if name in attributes:
                extra[name] = attributes[name]
        if "shape" in extra:
            extra["shape"] = self.task.shape(node.outputs[0], self.tile)
        inputs = operands if operator.variadic else [given.get(name) for name in operator.operands]
        names = [o.name for o in self._declared(node).outputs]
        positions = [names.index(o.name) for o in rule_of_node.outputs] if extra.get("only") else None
        self(run_reference, self.engine, operator.kernel, tuple(inputs), extra, tuple(outputs), positions)

    def _declared(self, node: Node) -> Signature:
        """The node's signature with all outputs that its operator declares, wanted or not."""
        found = self._signatures.get(node)
        if found is None:
            found = self._signatures[node] = node.operator.signatures({**node.attributes, "only": None})[0]
        return found

    def _place(self, node: Node) -> Place:
        """Where the tile's part of a node lies in the global tensors."""
        place = self.rank.places[node]
        names = self.task.space.factors[node]
        starts = {name: place.start(name) + self.tile.get(names[name], (0, 0))[0] for name in names}
        return Place(place.rule, starts, place.sizes)

    # -- operands and results -------------------------------------------------------------------------

    def _get(self, value: Value) -> Array:
        """The tile's part of a value that is read."""
        found = self._views.get(value)
        if found is None:
            if value in self._entering:
                found = self._region(value, self.task.outer[value])
                self._note(self.reads, self.task.outer[value], found)
            else:
                found = self._view(self._producers[value])
            self._views[value] = found
        return found

    def _view(self, node: Node) -> Array:
        """What a view node makes of its operand: a view, or where that cannot be, a copy of it each time."""
        operand = self._get(node.inputs[0])
        extra = self._keywords[node]
        if "shape" in extra:
            extra = {**extra, "shape": self.task.shape(node.outputs[0], self.tile)}
        made: Array = node.operator.kernel(self.engine.xp, operand, **extra)
        if made.size == 0 or self.engine.xp.may_share_memory(made, operand):
            return made
        target, self._frames[node.outputs[0]] = self.scratch_memory.allocate(made.shape, made.dtype)
        # Seen through the view that leads back, the copy lies as the operand does.
        inverse = node.operator.inverse
        back = None if inverse is None else inverse(target, operand.shape, self._keywords[node])
        if back is not None and self.engine.xp.may_share_memory(back, target):
            self(self.engine.copy, back, operand)
        else:
            self(run_reference, self.engine, node.operator.kernel, (operand,), extra, (target,), None)
        return target

    def _target(self, value: Value, additions: list[tuple[Function, Array, Array]]) -> Array | None:
        """Where the tile's part of a result goes; None if nobody wants it."""
        homes = self.homes
        if value not in homes.last and value not in self._leaving and value not in homes.inverse:
            return None
        outer = self._outer_of(value)
        if outer is not None:
            found = self._stored(value, outer)
            self._note(self.writes, outer, found)
        else:
            first = homes.rep[value]
            if first not in self._frames:
                shape = self.task.shape(value, self.tile)
                self._views[first], self._frames[first] = self.scratch_memory.allocate(shape, value.dtype)
            found = self._views[first]
        self._views[value] = found
        if value in self.task.space.summed:
            key = (value, *((f, self.tile[f]) for f in self._own_loops(value)))
            if key in self._visited:
                term, place = self.scratch_memory.allocate(found.shape, found.dtype)
                self._own.append(place)
                reduction = self._producers[value].operator.reduction
                additions.append((self.engine.maximum if reduction == "max" else self.engine.add, found, term))
                return term
            self._visited.add(key)
            self._clear_beyond(value)
        return found

    def _own_loops(self, value: Value) -> list[int]:
        mine = {factor for axis in self.task.space.dims[value] for factor in axis}
        return [loop for loop in self.task.space.loops if loop in mine]

    def _clear_beyond(self, value: Value) -> None:
        """Where the first tile that adds to a sum leaves out the causal rest, that starts at 0."""
        outer = self._outer_of(value)
        if self.task.causal is None or outer is None:
            return
        k = self.task.causal[1]
        if self.tile[k] == (0, self.task.sizes[k]) or (k,) not in self.task.space.dims[value]:
            return
        tile, self.tile = self.tile, {**self.tile, k: (0, self.task.sizes[k])}
        target = self._stored(value, outer)
        self.tile = tile
        self(self.engine.copy, target, target.dtype.type(0))

    def _outer_of(self, value: Value) -> Value | None:
        """The value of the graph in whose buffer `value` lies, if it is not in scratch memory."""
        if value in self.homes.inverse:
            return self.task.outer[self.homes.inverse[value][0].outputs[0]]
        return self.homes.outer.get(self.homes.rep[value])

    def _stored(self, value: Value, outer: Value) -> Array:
        """The tile's part of `value` in the buffer of `outer`, through the views that lead back from it, if any."""
        return self._through_views(value) if value in self.homes.inverse else self._region(value, outer)

    def _region(self, value: Value, outer: Value) -> Array:
        """The tile's part of a buffer of the graph."""
        if outer in self.rank.packed:
            shape = self.task.shape(value, self.tile)
            start = self._packed_at.get(outer, 0)
            size = math.prod(shape)
            return self.rank.arrays[outer][start : start + size].reshape(shape)
        array = self.private.get(outer, self.rank.arrays[outer])
        # The dots keep a scalar an array.
        where: tuple[Any, ...] = (*self.task.region(value, self.tile), ...)
        part: Array = array[where]
        return part

    def _skip(self, tile: Tile) -> None:
        """Goes past a tile's parts of packed values."""
        for value, outer in self.task.outer.items():
            if outer in self.rank.packed:
                size = math.prod(self.task.shape(value, tile))
                self._packed_at[outer] = self._packed_at.get(outer, 0) + size

    def _through_views(self, value: Value) -> Array:
        """The part of `value` as the buffer that it leaves in holds it, if views lead back; else scratch."""
        path = self.homes.inverse[value]
        final = path[0].outputs[0]
        array = self._region(final, self.task.outer[final])
        found = array
        for node in path:
            shape = self.task.shape(node.inputs[0], self.tile)
            assert node.operator.inverse is not None
            found = node.operator.inverse(found, shape, self._keywords[node])
            if found.size and not self.engine.xp.may_share_memory(found, array):
                found, self._frames[value] = self.scratch_memory.allocate(
                    self.task.shape(value, self.tile), value.dtype
                )
                return found
        return found

    def _finish(self, value: Value) -> None:
        """Copies a result that could not be made where it belongs."""
        if value in self.homes.rep and value not in self._entering:
            return
        made = self._get(value)
        target = self._region(value, self.task.outer[value])
        self._note(self.writes, self.task.outer[value], target)
        if made.size and not self._same_memory(made, target):
            self(self.engine.copy, target, made)

    def _release(self, position: int) -> None:
        """Gives back the scratch memory of values that no later node reads."""
        rep, last = self.homes.rep, self.homes.last
        # Copies of what has no view stay until the tile ends: views of them are not told apart.
        for value in [v for v in self._frames if v in rep and v not in self.homes.inverse]:
            users = [last.get(each, position) for each in self._views if rep.get(each, each) is value]
            if max(users, default=position) <= position and value not in self._leaving:
                self.scratch_memory.free(self._frames.pop(value))

    def _note(self, found: dict[Value, tuple[int, int]], value: Value, part: Array) -> None:
        """Widens the range of addresses that is touched of a value."""
        touched, before = addresses(self.engine, part), found.get(value)
        if touched is not None:
            low, high = touched
            found[value] = touched if before is None else (min(low, before[0]), max(high, before[1]))

    def _same_memory(self, one: Array, other: Array) -> bool:
        steps = [
            tuple(step for step, length in zip(each.strides, each.shape, strict=True) if length > 1)
            for each in (one, other)
        ]
        same_start = self.engine.address(one) == self.engine.address(other)
        return same_start and one.shape == other.shape and steps[0] == steps[1]

    # -- what rules may ask for -----------------------------------------------------------------------

    def __call__(self, function: Function, *arguments: Any) -> None:
        """Records a call."""
        self.calls.append((function, arguments))
        self.nodes.append(self.node)

    def once(self, function: Function, *arguments: Any) -> None:
        """Records a call that is needed before the first tile only that is written in this way."""
        if self._began.setdefault(self._way, self._number) == self._number:
            self(function, *arguments)

    def scratch(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """A buffer for the node on this tile."""
        array, place = self.scratch_memory.allocate(shape, dtype)
        self._own.append(place)
        return array

    def kept(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """A buffer for the node on all tiles."""
        key = (self._way, self._asked)
        self._asked += 1
        if key not in self._kept:
            self._kept[key] = self.engine.empty(shape, dtype)
        return self._kept[key]

    def constant(self, key: tuple[Any, ...], make: Callable[[], Array]) -> Array:
        """A read-only array, shared by all who ask with `key`."""
        if key not in self.rank.constants:
            self.rank.constants[key] = self.engine.constant(make())
        return self.rank.constants[key]


@writes("outputs")
def run_reference(
    engine: Engine,
    kernel: Function,
    operands: tuple[Any, ...],
    extra: Mapping[str, Any],
    outputs: tuple[Any, ...],
    positions: Any,
) -> None:
    """An operator's own kernel, its results copied to where they belong."""
    made = kernel(engine.xp, *operands, **extra)
    results = made if isinstance(made, tuple) else (made,)
    for i, target in enumerate(outputs):
        if target is not None:
            engine.copy(target, results[i if positions is None else positions[i]])
