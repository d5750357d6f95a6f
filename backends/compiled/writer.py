"""Writing a task's calls: for one thread, tile by tile, node by node, on views of buffers that exist already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from graphir.backends.compiled.assignment import Assignment, Own
from graphir.backends.compiled.buffers import Scratch, Span, addresses
from graphir.backends.compiled.causal import Half
from graphir.backends.compiled.emission import Array, Function, Kernels
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.recorder import Recorder
from graphir.backends.compiled.task import Task, Tile
from graphir.backends.plan import keywords
from graphir.errors import PlanError
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

    arrays     the whole buffer of each of the graph's values, and those that a task alone has; of a half the flat one
    halves     values of which only the causal half is stored, and where its parts lie
    places     where the rank's blocks lie, of each node that asks
    kernels    of what fused kernels are made for, if any are wanted
    traced     whether what is written is put down step by step, for a proof
    copied     arguments that are copied into buffers of the rank's own
    """

    engine: Engine
    arrays: dict[Value | Own, Array]
    halves: Mapping[Value, Half]
    places: Mapping[Node, Place]
    sizes: Mapping[str, int]
    kernels: Kernels | None = None
    traced: bool = False
    constants: dict[tuple[Any, ...], Array] = field(default_factory=dict)
    copied: set[Value] = field(default_factory=set)


@dataclass(frozen=True)
class _Target:
    """Where a result goes: `array`; of a sum that has terms already, a term of it, to be added to `total`."""

    value: Value
    array: Array
    total: Array | None = None
    #: Of a sum, what this is the first term of, if that is more than the tile.
    rest: Array | None = None


class Writer:
    """Writes one task for one thread."""

    def __init__(self, task: Task, assignment: Assignment, rank: Rank, scratch: Scratch, thread: int = 0) -> None:
        self.task, self.assignment, self.rank, self.memory, self.thread = task, assignment, rank, scratch, thread
        self.engine = rank.engine
        self.recorder = Recorder(task, rank.traced)
        #: What is read and written of each buffer, as a range of addresses.
        self.reads: dict[Value | Own, Span] = {}
        self.writes: dict[Value | Own, Span] = {}
        self.tile: Tile = {}
        #: The tile's part of each value that has been asked for, and where in scratch it lies if it does.
        self._views: dict[Value, Array] = {}
        self._frames: dict[Value, tuple[int, int, int]] = {}
        self._entering = set(task.entering)
        self._keywords = {node: keywords(node, task.shapes, rank.sizes) for node in task.nodes}
        self._until = {first: assignment.until(first) for first in dict.fromkeys(assignment.first.values())}
        self._signatures: dict[Node, Signature] = {}
        #: The parts of sums that have their first term.
        self._begun: set[tuple[Any, ...]] = set()
        self._prepared: dict[tuple[Any, ...], Array] = {}
        #: The node's own scratch, until its calls on this tile end.
        self._own: list[tuple[int, int, int]] = []
        #: Nodes that one fused kernel computes, by the position of the first.
        self._runs: Mapping[int, Run] = {} if rank.kernels is None else rank.kernels.runs(task, assignment)

    @property
    def calls(self) -> list[Call]:
        """What has been written."""
        return self.recorder.calls

    def write(self, tiles: Iterable[Tile]) -> None:
        """The calls for `tiles`."""
        for tile in tiles:
            self._begin(tile)
            done = 0
            for position, node in enumerate(self.task.nodes):
                if position >= done and position in self._runs and self._write_run(self._runs[position]):
                    done = self._runs[position].stop
                if position >= done and not node.operator.view:
                    self._write_node(node)
                self._release(position)
            for value in self.assignment.finish:
                self._copy_out(value)

    def conclude(self, active: Sequence[int]) -> None:
        """What is left to do when all threads, of which those `active` had tiles, are done: sums, and what they become.

        Written for one of the threads, which works on the whole.
        """
        self._begin({})
        for value in self.assignment.terms:
            self._add_up(value, active)
        for value in self.assignment.late:
            self._copy_out(value)

    def _begin(self, tile: Tile) -> None:
        self.tile, self._views, self._frames = tile, {}, {}
        self.memory.clear()

    # -- nodes ----------------------------------------------------------------------------------------

    def _write_run(self, run: Run) -> bool:
        """Writes the nodes of a run as one call; False if this tile is to be written node by node."""
        assert self.rank.kernels is not None
        self.recorder.node = run.nodes[0]
        arrays = {value: self._get(value) for value in run.inputs}
        targets = [target for value in run.outputs if (target := self._target(value)) is not None]
        arrays.update((target.value, target.array) for target in targets)
        self._clear(targets)
        start = self.recorder.now
        sizes = [self.task.width(axis, self.tile) for axis in run.axes]
        written = self.rank.kernels.write(self, run, arrays, sizes, self._place, self._keywords)
        if written:
            self.recorder.computed(start, run.nodes, arrays)
            self._settle(targets)
        self._free_own()
        return written

    def _write_node(self, node: Node) -> None:
        self.recorder.node = node
        operands = [self._get(value) for value in node.inputs]
        targets = [target for value in node.outputs if (target := self._target(value)) is not None]
        if targets:
            self._clear(targets)
            start, wanted = self.recorder.now, {target.value: target.array for target in targets}
            self._emit(node, operands, [wanted.get(value) for value in node.outputs])
            self.recorder.computed(start, (node,), {**dict(zip(node.inputs, operands, strict=True)), **wanted})
            self._settle(targets)
        self._free_own()

    def _emit(self, node: Node, operands: list[Array], outputs: list[Array | None]) -> None:
        operator, attributes, signature = node.operator, self._keywords[node], node.inference.rule
        given = dict(zip((o.name for o in signature.inputs), operands, strict=True))
        results = dict(zip((o.name for o in signature.outputs), outputs, strict=True))
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
        positions = [names.index(o.name) for o in signature.outputs] if extra.get("only") else None
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

    # -- operands -------------------------------------------------------------------------------------

    def _get(self, value: Value) -> Array:
        """The tile's part of a value that is read."""
        found = self._views.get(value)
        if found is None:
            maker = self.task.producers.get(value)
            if maker is not None and maker.operator.view:
                found = self._view(maker)
            else:
                found = self._stored(value)
                self._touch(self.reads, value, found)
            self._views[value] = found
        return found

    def _view(self, node: Node) -> Array:
        """What a view node makes of its operand: a view, or where that cannot be, a copy that lasts for the tile."""
        operand, value = self._get(node.inputs[0]), node.outputs[0]
        extra = self._keywords[node]
        if "shape" in extra:
            extra = {**extra, "shape": self.task.shape(value, self.tile)}
        made: Array = node.operator.kernel(self.engine.xp, operand, **extra)
        if made.size == 0 or self.engine.xp.may_share_memory(made, operand):
            return made
        target, _ = self.memory.allocate(made.shape, made.dtype)
        start, inverse = self.recorder.now, node.operator.inverse
        # Seen through the view that leads back, the copy lies as the operand does.
        back = None if inverse is None else inverse(target, operand.shape, self._keywords[node])
        if back is not None and self.engine.xp.may_share_memory(back, target):
            self(self.engine.copy, back, operand)
        else:
            self(run_reference, self.engine, node.operator.kernel, (operand,), extra, (target,), None)
        self.recorder.computed(start, (node,), {node.inputs[0]: operand, value: target})
        return target

    # -- results --------------------------------------------------------------------------------------

    def _target(self, value: Value) -> _Target | None:
        """Where the tile's part of a result goes; None if nobody wants it."""
        if value not in self.assignment.last:
            return None
        if self.assignment.buffer(value) is None:
            first = self.assignment.first[value]
            if first not in self._views:
                self._views[first], self._frames[first] = self.memory.allocate(
                    self.task.shape(value, self.tile), value.dtype
                )
            array = self._views[value] = self._views[first]
            return _Target(value, array)
        found = self._stored(value)
        self._touch(self.writes, value, found)
        if value not in self.task.space.summed:
            self._views[value] = found
            return _Target(value, found)
        if self._part_of_sum(value) in self._begun:
            term, place = self.memory.allocate(found.shape, found.dtype)
            self._own.append(place)
            return _Target(value, term, total=found)
        return _Target(value, found, rest=self._beyond(value))

    def _clear(self, targets: Iterable[_Target]) -> None:
        """What is to be done before results are made: a sum that a tile begins with less than all of it begins at 0."""
        for target in targets:
            if target.rest is not None:
                start = self.recorder.now
                self(self.engine.copy, target.rest, target.rest.dtype.type(0))
                self.recorder.cleared(start, target.value, target.rest)

    def _settle(self, targets: Iterable[_Target]) -> None:
        """What is to be done with results that have been made: terms are added to their sums."""
        for target in targets:
            value = target.value
            if target.total is not None:
                self._combine(value, target.total, target.array, target.total)
            elif value in self.task.space.summed:
                self._begun.add(self._part_of_sum(value))

    def _part_of_sum(self, value: Value) -> tuple[Any, ...]:
        mine = {factor for axis in self.task.space.dims[value] for factor in axis}
        return value, *(self.tile[loop] for loop in self.task.space.loops if loop in mine)

    def _combine(self, value: Value, one: Array, other: Array, total: Array) -> None:
        start, reduction = self.recorder.now, self.task.producers[value].operator.reduction
        self(self.engine.maximum if reduction == "max" else self.engine.add, one, other, total)
        self.recorder.added(start, value, (one, other), total, reduction)

    def _beyond(self, value: Value) -> Array | None:
        """Of a sum to which this tile adds without the causal rest, all of it: there it starts at 0."""
        if self.task.causal is None:
            return None
        k = self.task.causal[1]
        if self.tile[k] == (0, self.task.sizes[k]) or (k,) not in self.task.space.dims[value]:
            return None
        tile, self.tile = self.tile, {**self.tile, k: (0, self.task.sizes[k])}
        whole = self._stored(value)
        self._touch(self.writes, value, whole)
        self.tile = tile
        return whole

    def _add_up(self, value: Value, active: Sequence[int]) -> None:
        """The sum of the threads' terms."""
        total, terms = self._stored(value, whole=True), self.rank.arrays[self.assignment.terms[value]]
        self._touch(self.writes, value, total, whole=True)
        found = addresses(self.engine, terms)
        if found is not None:
            self.reads[self.assignment.terms[value]] = found
        self.recorder.node = self.task.producers[value]
        first, second, *others = [self._seen_back(value, terms[thread, ...]) for thread in active]
        self._combine(value, first, second, total)
        for term in others:
            self._combine(value, total, term, total)

    def _copy_out(self, value: Value) -> None:
        """Copies what leaves to where it belongs."""
        self.recorder.node = self.task.producers.get(value, self.task.nodes[-1])
        root = self.task.root[value]
        if root in self.task.space.summed:
            self._views[root] = self._stored(root, whole=True)
            self._touch(self.reads, root, self._views[root], whole=True)
        made, target = self._get(value), self._region(value, self.task.outer[value])
        if made.size == 0:
            return
        self._widen(self.writes, self.task.outer[value], target)
        start = self.recorder.now
        self(self.engine.copy, target, made)
        self.recorder.copied(start, value, made, target)

    # -- where values lie -----------------------------------------------------------------------------

    def _stored(self, value: Value, whole: bool = False) -> Array:
        """The tile's part of a value where it lies: of a sum that threads share the thread's terms, or the `whole`."""
        assignment = self.assignment
        buffer = assignment.buffer(value)
        if buffer is None:
            raise PlanError(f"{self.task.node.name}: {value.name} is read before it is made")
        array = None
        if value in assignment.terms and not whole:
            array = self.rank.arrays[assignment.terms[value]][self.thread, ...]
        if value in assignment.paths:
            final = assignment.paths[value][0].outputs[0]
            return self._seen_back(value, self._region(final, buffer, array))
        return self._region(value, buffer, array)

    def _region(self, value: Value, buffer: Value | Own, array: Array | None = None) -> Array:
        """The tile's part of a buffer that has the dims of `value`, or of `array`, where that stands for the buffer."""
        array = self.rank.arrays[buffer] if array is None else array
        half = self.rank.halves.get(buffer) if isinstance(buffer, Value) else None
        if half is not None:
            shape = self.task.shape(value, self.tile)
            start = half.start(self.task, value, self.tile)
            size = 1
            for length in shape:
                size *= length
            flat: Array = array[start : start + size].reshape(shape)
            return flat
        # The dots keep a scalar an array.
        where: tuple[Any, ...] = (*self.task.region(value, self.tile), ...)
        part: Array = array[where]
        return part

    def _seen_back(self, value: Value, array: Array) -> Array:
        """The tile's part of what leaves, or of one that lies as it does, as `value`."""
        for node in self.assignment.paths.get(value, ()):
            assert node.operator.inverse is not None
            shape = self.task.shape(node.inputs[0], self.tile)
            found = node.operator.inverse(array, shape, self._keywords[node])
            if found.size and not self.engine.xp.may_share_memory(found, array):
                raise PlanError(
                    f"{self.task.node.name}: {value.name} cannot be written as {node.outputs[0].name} lies, "
                    f"{array.shape} by {array.strides}, though it was planned so"
                )
            array = found
        return array

    def _release(self, position: int) -> None:
        """Gives back the scratch memory of values that no later node reads."""
        for first in [first for first in self._frames if self._until[first] <= position]:
            self.memory.free(self._frames.pop(first))

    def _free_own(self) -> None:
        for place in self._own:
            self.memory.free(place)
        self._own = []

    # -- what is touched ------------------------------------------------------------------------------

    def _touch(self, found: dict[Value | Own, Span], value: Value, part: Array, whole: bool = False) -> None:
        """Widens the range of addresses that is touched of the buffer in which `value` lies."""
        buffer = self.assignment.buffer(value)
        if value in self.assignment.terms and not whole:
            buffer = self.assignment.terms[value]
        if buffer is not None:
            self._widen(found, buffer, part)

    def _widen(self, found: dict[Value | Own, Span], buffer: Value | Own, part: Array) -> None:
        touched, before = addresses(self.engine, part), found.get(buffer)
        if touched is not None:
            low, high = touched
            found[buffer] = touched if before is None else (min(low, before[0]), max(high, before[1]))

    # -- what rules may ask for -----------------------------------------------------------------------

    def __call__(self, function: Function, *arguments: Any) -> None:
        """Records a call."""
        self.recorder(function, arguments)

    def scratch(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """A buffer for the node on this tile."""
        array, place = self.memory.allocate(shape, dtype)
        self._own.append(place)
        return array

    def prepared(self, shape: Sequence[int], dtype: DTypeLike, function: Function, *arguments: Any) -> Array:
        """A buffer that `function(*arguments, buffer)` fills once a run."""
        given = tuple(self._identity(each) for each in arguments)
        key = function, given, tuple(shape), np.dtype(dtype).str
        if key not in self._prepared:
            self._prepared[key] = self.engine.empty(shape, dtype)
            self(function, *arguments, self._prepared[key])
        return self._prepared[key]

    def _identity(self, argument: Any) -> Any:
        """Equal for arguments that are the same array, or equal numbers."""
        if isinstance(argument, self.engine.xp.ndarray):
            return self.engine.address(argument), argument.shape, argument.strides, argument.dtype.str
        return argument

    def constant(self, key: tuple[Any, ...], make: Callable[[], Array]) -> Array:
        """A read-only array, shared by all who ask with `key`."""
        if key not in self.rank.constants:
            self.rank.constants[key] = self.engine.constant(make())
        return self.rank.constants[key]


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
