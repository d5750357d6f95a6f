"""Writing a task's calls: for one thread, tile by tile, node by node, on views of buffers that exist already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.buffers import Scratch
from graphir.backends.compiled.emission import Array, Function, Rule
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.firsts import Firsts
from graphir.backends.compiled.locations import Locations, Rank
from graphir.backends.compiled.recorder import Recorder
from graphir.backends.compiled.sums import Sums, Target
from graphir.backends.compiled.task import Task, Tile
from graphir.backends.effects import writes
from graphir.backends.indices import check_indices
from graphir.backends.plan import keywords
from graphir.backends.rows.plan import RunTile
from graphir.backends.rows.runs import FusedRun
from graphir.ir.attributes import exact
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.signature import Signature
from graphir.ir.value import Value

Call: TypeAlias = tuple[Function, tuple[Any, ...]]


class Writer:
    """Writes one task for one thread."""

    def __init__(self, task: Task, assignment: Assignment, rank: Rank, scratch: Scratch, thread: int = 0) -> None:
        self.task, self.assignment, self.rank, self.memory = task, assignment, rank, scratch
        self.engine = rank.engine
        self.recorder = Recorder(task, rank.traced)
        self.tile: Tile = {}
        #: The tile's part of each value that has been asked for, and where in scratch it lies if it does.
        self._views: dict[Value, Array] = {}
        self._frames: dict[Value, tuple[int, int, int]] = {}
        self._entering = set(task.entering)
        self._keywords = {node: keywords(node, task.shapes, rank.sizes) for node in task.nodes}
        self.located = Locations(task, assignment, rank, thread, self._keywords)
        self._firsts = Firsts()
        self._sums = Sums(task, self.engine, self.located, self.recorder, self._firsts)
        self._until = assignment.ends()
        self._signatures: dict[Node, Signature] = {}
        #: The rules that follow from formulas: the same on every tile.
        self._general: dict[Node, Rule | None] = {}
        self._prepared: dict[tuple[Any, ...], Array] = {}
        #: Where each tile's calls, and steps, begin.
        self.marks: list[tuple[int, int]] = []
        #: The node's own scratch, until its calls on this tile end.
        self._own: list[tuple[int, int, int]] = []
        #: Nodes that one fused kernel computes, by the position of the first.
        self._runs: Mapping[int, FusedRun] = (
            {} if rank.kernels is None else rank.kernels.runs(task, assignment, self._keywords)
        )

    @property
    def calls(self) -> list[Call]:
        """What has been written."""
        return self.recorder.calls

    def write(self, tiles: Iterable[Tile]) -> None:
        """The calls for `tiles`."""
        for tile in tiles:
            self.marks.append((self.recorder.now, len(self.recorder.steps)))
            self._firsts.begin()
            self._write_tile(tile)

    def rewrite(self, number: int, tile: Tile) -> Recorder | None:
        """What stands in for the calls of a tile that has been written: its own with another range of what is no loop.

        None where others would miss what they leave to that tile.
        """
        self._firsts.again(number)
        self.recorder.clear()
        self._write_tile(tile)
        return self.recorder if self._firsts.is_complete else None

    def _write_tile(self, tile: Tile) -> None:
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
            self.recorder.node = self.task.producers[value]
            self._sums.add_up(value, active)
        for value in self.assignment.late:
            self._copy_out(value)

    def _begin(self, tile: Tile) -> None:
        self.tile, self._views, self._frames = tile, {}, {}
        self.memory.clear()

    # -- nodes ----------------------------------------------------------------------------------------

    def _write_run(self, run: FusedRun) -> bool:
        """Writes the nodes of a run as one call; False if this tile is to be written node by node."""
        assert self.rank.kernels is not None
        self.recorder.node = run.nodes[0]
        arrays = {value: self._get(value) for value in run.inputs}
        targets = [target for value in run.outputs if (target := self._target(value)) is not None]
        arrays.update((target.value, target.array) for target in targets)
        self._sums.clear(targets)
        start = self.recorder.now
        for node in run.nodes:
            self._check_ids(node, [arrays.get(value) for value in node.inputs])
        sizes = [self.task.width(axis, self.tile) for axis in run.axes]
        tile = RunTile(arrays, sizes, self._place, self._keywords)
        written = self.rank.kernels.write(self, run, tile)
        if written:
            self.recorder.computed(start, run.nodes, arrays, self._place)
            self._sums.settle(targets, self.tile)
        else:
            self.recorder.forget(start)
        self._free_own()
        return written

    def _write_node(self, node: Node) -> None:
        self.recorder.node = node
        operands = [self._get(value) for value in node.inputs]
        targets = [target for value in node.outputs if (target := self._target(value)) is not None]
        if targets:
            self._sums.clear(targets)
            start, wanted = self.recorder.now, {target.value: target.array for target in targets}
            self._check_ids(node, operands)
            self._emit(node, operands, [wanted.get(value) for value in node.outputs])
            arrays = {**dict(zip(node.inputs, operands, strict=True)), **wanted}
            self.recorder.computed(start, (node,), arrays, self._place)
            self._sums.settle(targets, self.tile)
        self._free_own()

    def _check_ids(self, node: Node, operands: Sequence[Array | None]) -> None:
        """Has ids looked at that the program makes itself; those that are arguments have been before it runs."""
        rule, factors, _ = node.inference
        for i, (operand, value, array) in enumerate(zip(rule.inputs, node.inputs, operands, strict=True)):
            if not operand.is_bounded or array is None or not self.engine.checks_ids:
                continue
            if self.task.outer.get(value) not in self.rank.arguments:
                exempt = node.operator.exempt and node.attributes[node.operator.exempt]
                count = None if operand.indexes is None else factors[operand.indexes].size(self.rank.sizes)
                self(check_indices, node, i, array, count, exempt)

    def _emit(self, node: Node, operands: list[Array], outputs: list[Array | None]) -> None:
        operator, attributes, signature = node.operator, self._keywords[node], node.inference.rule
        given = dict(zip((o.name for o in signature.inputs), operands, strict=True))
        results = dict(zip((o.name for o in signature.outputs), outputs, strict=True))
        extra: dict[str, Any] = {k: v for k, v in attributes.items() if k not in ("shape", "only")}
        if "at" in operator.keywords:
            extra["at"] = self._place(node)
        rules = self.engine.rules
        rule = rules.find(operator)
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
        if node not in self._general:
            self._general[node] = rules.by_formula(node, attributes)
        general = self._general[node]
        place, recordings = self._place(node), self.rank.recordings
        if general is not None and recordings.record(self.engine, self, general, given, results, place, attributes):
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
        """Where the tile's part of a node lies in the global tensors, as far as its kernel asks."""
        place = self.rank.places.get(node)
        if place is None:
            return Place(node.inference.rule, {}, {}, node.operator.known_factors)
        names = self.task.space.factors[node]
        starts = {name: place.starts.get(name, 0) + self.tile.get(names[name], (0, 0))[0] for name in names}
        return Place(place.rule, starts, place.sizes, place.known)

    # -- operands -------------------------------------------------------------------------------------

    def _get(self, value: Value) -> Array:
        """The tile's part of a value that is read."""
        found = self._views.get(value)
        if found is None:
            maker = self.task.producers.get(value)
            if maker is not None and maker.operator.view:
                found = self._view(maker)
            else:
                found = self.located.part(value, self.tile)
                self.located.read(value, found)
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

    def _target(self, value: Value) -> Target | None:
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
            return Target(value, array)
        found = self.located.part(value, self.tile)
        self.located.written(value, found)
        if value not in self.task.space.summed:
            self._views[value] = found
            return Target(value, found)
        if self._sums.has_begun(value, self.tile):
            # It lies as its sum does, so that adding goes through both in one way.
            order = sorted(range(found.ndim), key=found.strides.__getitem__, reverse=True)
            array, place = self.memory.allocate([found.shape[axis] for axis in order], found.dtype)
            term = array.transpose(sorted(range(found.ndim), key=order.__getitem__))
            self._own.append(place)
            return Target(value, term, total=found)
        return Target(value, found, rest=self._sums.beyond(value, self.tile))

    def _copy_out(self, value: Value) -> None:
        """Copies what leaves to where it belongs."""
        self.recorder.node = self.task.producers.get(value, self.task.nodes[-1])
        root = self.task.root[value]
        if root in self.task.space.summed:
            self._views[root] = self.located.total(root)
            self.located.read(root, self._views[root], whole=True)
        made, target = self._get(value), self.located.target(value, self.tile)
        if made.size == 0:
            return
        start = self.recorder.now
        self(self.engine.copy, target, made)
        self.recorder.copied(start, value, made, target)

    # -- scratch ---------------------------------------------------------------------------------------

    def _release(self, position: int) -> None:
        """Gives back the scratch memory of values that no later node reads."""
        for first in [first for first in self._frames if self._until[first] <= position]:
            self.memory.free(self._frames.pop(first))

    def _free_own(self) -> None:
        for place in self._own:
            self.memory.free(place)
        self._own = []

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
        key = self.recorder.node, function, given, tuple(shape), np.dtype(dtype).str
        if key not in self._prepared:
            self._prepared[key] = self.engine.empty(shape, dtype)
        if not self._firsts.is_done(key):
            self(function, *arguments, self._prepared[key])
            self._firsts.do(key)
        return self._prepared[key]

    def _identity(self, argument: Any) -> Any:
        """Equal for arguments that are the same array, or that compute the same."""
        if isinstance(argument, self.engine.xp.ndarray):
            return self.engine.address(argument), argument.shape, argument.strides, argument.dtype.str
        return exact(argument)

    def anew(self, record: Function, place: Place, attributes: Mapping[str, Any], *arguments: Any) -> None:
        """`record(self, place, attributes, *arguments)`."""
        record(self, place, attributes, *arguments)

    def constant(self, make: Callable[..., Array], *arguments: Any) -> Array:
        """A read-only array, shared by all who ask for what `make` makes of these arguments."""
        key = make, exact(arguments)
        if key not in self.rank.constants:
            self.rank.constants[key] = self.engine.constant(make(*arguments))
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
