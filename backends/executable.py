"""Running a plan: the interpreter over the reference kernels, and the checks of what comes in.

A sharded graph is run for those ranks of its mesh that the process holds: all of them, simulated, in lock-step, each
node on every rank's own blocks, then the next; or one of several processes' own. A communicator moves bytes between
ranks, wherever they are.

Simulated ranks take and return whole arrays. One process a rank takes whole arrays, of which it uses its block, or
its own block; it returns what all ranks have alike, and keeps its blocks of what is split until all ask for the whole.

An executable may be called from several threads: their runs take turns. What a run has returned is not touched by the
runs that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np

from graphir.backends.arrays import holder_of, is_on_device, module_of
from graphir.backends.communicator import Communicator, SimulatedCommunicator, Traffic
from graphir.backends.dtypes import is_float
from graphir.backends.indices import check_indices
from graphir.backends.local_ranks import LocalRanks
from graphir.backends.plan import ExecutionPlan, Indexed, Step
from graphir.backends.run import Fetched, Run
from graphir.backends.turns import Turn
from graphir.errors import InputError, NonFiniteError, OperatorError
from graphir.ir.dims import shape_text
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value

#: Sees each node, for each rank in turn, with that rank's results as they are computed.
Watch: TypeAlias = Callable[[Node, int, tuple[Any, ...]], None]


class Memory(Protocol):
    """What one rank needs; it prints well."""

    @property
    def bytes(self) -> int:
        """All together."""


class Executable:
    """A planned graph. Call it with mappings from names to arrays; all arguments, no others.

    `communicator` says which ranks run here, and moves blocks between them: unless given, all, simulated, and
    `algorithm` is how these reduce and gather: ring, direct or naive. `source` is the graph that the planned one was
    pruned from, if it was: it knows the names of what was not fetched. `xp` is the array module that kernels run
    on, NumPy unless given.

    A child that the process forks has an executable of its own in it, which runs there unless it is one of several
    ranks, or on a GPU. Where each process is one rank, all ranks have to make the same calls in one order: from one
    thread.
    """

    #: Why a forked child cannot run it; empty if it can.
    no_child = ""
    #: What has been proved of what it runs.
    proofs: Sequence[Any] = ()

    def __init__(
        self,
        plan: ExecutionPlan,
        algorithm: str = "ring",
        source: Graph | None = None,
        communicator: Communicator | None = None,
        xp: Any = None,
    ) -> None:
        self.xp = np if xp is None else xp
        self.plan = plan
        self.graph = plan.graph
        self.source = source or plan.graph
        self.fetched = Fetched(plan.graph, self.source)
        self.mesh = plan.graph.mesh
        self.algorithm = algorithm
        self.communicator = communicator or SimulatedCommunicator(self.mesh, algorithm)
        self.local = LocalRanks(self.communicator, Turn(f"the executable of {plan.graph.name}", self.no_child))
        #: Steps whose kernel has been seen to keep to its signature.
        self._seen: set[Step] = set()
        self._arguments = {value.name: value for value in plan.graph.arguments}
        #: Whole shapes, as the caller hands arguments in.
        self._shapes = {v: tuple(dim.size(plan.sizes) for dim in v.shape) for v in plan.graph.arguments}

    def __call__(self, *arguments: Mapping[str, Any], watch: Watch | None = None) -> Run:
        """Runs the graph: `run(parameters, state, {"T": ids, "Y": targets, "seed": 0, "step": 3})`.

        Arrays of the argument's dtype and shape are used as they are, never changed; others are converted
        where no information is lost. Errors: InputError for a missing, unknown or misshapen argument, or an
        index out of range; RunError for a call from within a run of itself.
        """
        given = self._check(arguments)
        return self.local.turn.take(self._interpret, arguments, given, watch)

    def _interpret(
        self, arguments: Sequence[Mapping[str, Any]], given: Mapping[Value, Any], watch: Watch | None
    ) -> Run:
        held = self.communicator.ranks
        ranks: list[list[Any]] = [[None] * len(self.plan.slots) for _ in held]
        for value, array in given.items():
            array = self._placed(value, array)
            for slots, block in zip(ranks, self._split(value, array), strict=True):
                slots[self.plan.slots[value]] = block
        traffic: dict[str, Traffic] = {}
        for step in self.plan.steps:
            if step.node.operator.relayout is not None:
                traffic[step.node.name] = self._communicate(step, ranks)
            else:
                for rank, slots in zip(held, ranks, strict=True):
                    self._compute(step, slots, rank)
            if watch is not None:
                for rank, slots in zip(held, ranks, strict=True):
                    watch(step.node, rank, tuple(slots[slot] for slot in step.outputs))
            for slots in ranks:
                for slot in step.dying:
                    slots[slot] = None
        results = {}
        for value, title in self.fetched.titles.items():
            blocks = [slots[self.plan.slots[value]] for slots in ranks]
            results[title] = value, self.local.join(value, blocks)
        return self._ran(results, traffic, arguments)

    def _ran(
        self,
        results: Mapping[str, tuple[Value, Any]],
        traffic: Mapping[str, Traffic],
        arguments: Sequence[Mapping[str, Any]],
    ) -> Run:
        """What the caller gets for a run. It holds nothing of the executable, which may end before it."""
        names = self.fetched.unchanged
        given = (
            ((self.find_argument(name), array) for each in arguments for name, array in each.items()) if names else ()
        )
        unchanged = {value.name: array for value, array in given if value is not None and value.name in names}
        return Run(self.fetched, self.local, results, traffic, unchanged)

    @property
    def memory(self) -> Memory | None:
        """What one rank needs, where somebody has planned it."""
        return None

    def working_bytes(self, alone: bool = False) -> int:
        """What the ranks held here take beside the caller's arrays, as planned; if `alone`, what a single one takes."""
        return 0

    def left_blocks(self, value: Value) -> Sequence[Any] | None:
        """What the last run has left of a result in each held rank's own memory; None where no such memory stays."""
        return None

    def whole(self, name: str, array: Any) -> Any:
        """The whole of an argument of which each process holds the whole or a block; all have to call this."""
        value = self._arguments[name]
        if self.local.holds_whole(value) or array.shape == self._shapes[value]:
            return array
        return self.local.gather(value, array)

    def _split(self, value: Value, array: Any) -> list[Any]:
        """The blocks of an argument for the ranks held here, as views."""
        return self.local.split(value, array, self.plan.shapes[value])

    def _compute(self, step: Step, slots: list[Any], rank: int) -> None:
        """One kernel call on one rank's blocks."""
        for slot, position, count, exempt in step.indices:
            check_indices(step.node, position, slots[slot], count, exempt)
        results = self.apply(step, [None if slot is None else slots[slot] for slot in step.operands], rank)
        if step not in self._seen:
            self._check_results(step, results)
        for position, slot in zip(step.results, step.outputs, strict=True):
            slots[slot] = results[position]

    def _check_results(self, step: Step, results: tuple[Any, ...]) -> None:
        """Holds a kernel to its signature, the first time it runs: a wrong dtype would go unnoticed for long."""
        mistake = step.mistake(results, self.plan.shapes)
        if mistake:
            raise OperatorError(f"the kernel of {step.node.operator.key} {mistake}")
        self._seen.add(step)

    def _communicate(self, step: Step, ranks: list[list[Any]]) -> Traffic:
        """One collective, for all ranks together."""
        blocks, traffic = self.exchange(step, [slots[step.operands[0] or 0] for slots in ranks])
        for slots, block in zip(ranks, blocks, strict=True):
            slots[step.outputs[0]] = block
        return traffic

    def _check_given_indices(self, given: Mapping[Value, Any]) -> None:
        """InputError for ids out of range among the arguments, before anything is read or written by them."""
        for node, position, value, end, exempt in self._indexed:
            check_indices(node, position, given[value], end, exempt)

    @cached_property
    def _indexed(self) -> list[Indexed]:
        return self.plan.indexed(self.graph.arguments)

    # -- what a subclass may do otherwise -------------------------------------------------------------

    def apply(self, step: Step, operands: Sequence[Any], rank: int) -> tuple[Any, ...]:
        """The kernel's results on one rank's operands, in the order that the kernel returns them."""
        keywords = step.keywords if step.places is None else {**step.keywords, "at": step.places[rank]}
        try:
            made = step.node.operator.kernel(self.xp, *operands, **keywords)
        except ValueError as error:
            if "read-only" in str(error):
                why = "writes into an operand; kernels return new arrays"
                raise OperatorError(f"the kernel of {step.node.operator.key} {why}") from error
            raise
        return made if isinstance(made, tuple) else (made,)

    def exchange(self, step: Step, blocks: Sequence[Any]) -> tuple[list[Any], Traffic]:
        """What a collective makes of the blocks of the ranks held here, and what was sent."""
        self.communicator.take_traffic()
        made = self.communicator.run(step.node.operator, blocks, step.keywords, node=step.node.name)
        return made, self.communicator.take_traffic()

    # -- what is not a number -------------------------------------------------------------------------

    def find_non_finite(self, *arguments: Mapping[str, Any]) -> None:
        """Runs again with every node watched; NonFiniteError names the first that makes NaN or infinity.

        Where each process is one rank, all raise the same error.
        """
        for value, array in self._check(arguments).items():
            found, _ = self._find(array, self.communicator.ranks[0])
            if found:
                raise NonFiniteError(f"{value.name} {value.type} holds {found} before the run starts")

        def look(node: Node, rank: int, results: tuple[Any, ...]) -> None:
            for value, array in zip(node.outputs, results, strict=True):
                found, first = self._find(array, rank)
                if found:
                    at = f", written at {node.meta.at}" if node.meta.at else ""
                    operands = ", ".join(f"{each.name} {each.type}" for each in node.inputs)
                    on = f" on {self.mesh.describe(first)}" if self.mesh.size > 1 else ""
                    raise NonFiniteError(
                        f"{value.name} {value.type} is the first value to hold {found}{on}: "
                        f"{node.operator.key}({operands}){at}"
                    )

        self(*arguments, watch=look)

    def _find(self, array: Any, rank: int) -> tuple[str, int]:
        """What an array of any process holds that is no number, and the first rank that holds it."""
        kinds, size = ("", "infinity", "NaN"), self.mesh.size
        mine = kinds.index(_non_finite(array))
        # One number says both: of the lowest rank it is the largest.
        told = self.communicator.agree(mine + len(kinds) * (size - rank) if mine else 0)
        return kinds[told % len(kinds)], size - told // len(kinds)

    # -- what comes in --------------------------------------------------------------------------------

    def find_argument(self, name: str) -> Value | None:
        """The argument that is meant by `name`, a name or an alias."""
        value = self._arguments.get(name, self.graph.find(name))
        return value if value is not None and value.name in self._arguments else None

    def _check(self, arguments: tuple[Mapping[str, Any], ...]) -> dict[Value, Any]:
        given: dict[Value, Any] = {}
        for mapping in arguments:
            if not isinstance(mapping, Mapping):
                raise InputError(f"arguments are mappings from names to arrays, not {type(mapping).__name__}")
            for name, array in mapping.items():
                value = self.find_argument(name)
                if value is None:
                    expected = ", ".join(self._arguments)
                    raise InputError(f"graph {self.graph.name} takes no {name!r}; it takes {expected}")
                if value in given:
                    raise InputError(f"{value.name} is given twice")
                given[value] = self._check_array(value, array)
        missing = [value for value in self._arguments.values() if value not in given]
        if missing:
            listed = ", ".join(f"{value.name} {value.type}" for value in missing[:6])
            more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
            raise InputError(f"graph {self.graph.name} is not given {listed}{more}")
        return given

    def _check_array(self, value: Value, array: Any) -> Any:
        if np.ma.isMaskedArray(array):
            raise InputError(f"{value.name} is a masked array, whose mask nothing here obeys; hand in its .filled()")
        if value.dtype == "text":
            result = np.asarray(array, dtype=object)
        else:
            try:
                found = array if is_on_device(array) else np.asarray(array)
            except ValueError as error:
                raise InputError(f"{value.name} {value.type} is no array: {error}") from None
            holder = holder_of(array)
            if found is array and self.xp is np and holder is not None:
                raise InputError(
                    f"{value.name} {value.type} lies on a GPU: hand in its .get(), or compile with backend="
                    f'"{holder.name}"'
                )
            if found.dtype != value.dtype and not _converts(found, value.dtype):
                raise InputError(f"{value.name} must be {value.dtype}, not {found.dtype}; convert it on purpose")
            result = found.astype(value.dtype, copy=False)
            if found.ndim == 0 and found.dtype.kind in "iu" and found.dtype != result.dtype and result != found:
                raise InputError(f"{value.name} = {found} does not fit into {value.dtype}")
            if not is_on_device(result):
                # A kernel that writes into what it is given would change the caller's array.
                result = self._protected(value, result)
        shape = self._shapes[value]
        mine = self.plan.shapes[value]
        if result.shape != shape and (self.local.is_alone or result.shape != mine):
            block = f", or this rank's block {list(mine)}" if not self.local.is_alone and mine != shape else ""
            raise InputError(
                f"{value.name} must be {shape_text(value.shape)} = {list(shape)}{block}, not {list(result.shape)}"
            )
        return result

    def _placed(self, value: Value, array: Any) -> Any:
        """An argument where kernels find it."""
        return array if self.xp is np or value.dtype == "text" else self.xp.asarray(array)

    def _protected(self, value: Value, array: Any) -> Any:
        result = array.view()
        result.flags.writeable = False
        return result


def _converts(array: Any, dtype: str) -> bool:
    """Whether an array's numbers may become `dtype` unasked: the same kind, no narrower; or Python's own."""
    if array.dtype == object:
        return False
    try:
        return bool(np.can_cast(array.dtype, dtype, casting="safe")) or (
            array.ndim == 0 and np.can_cast(array.dtype, dtype, casting="same_kind")
        )
    except TypeError:
        return False


def _non_finite(array: Any) -> str:
    if not hasattr(array, "dtype") or not is_float(array.dtype):
        return ""
    xp = module_of(array)
    if bool(xp.isfinite(array).all()):
        return ""
    return "NaN" if bool(xp.isnan(array).any()) else "infinity"


__all__ = ["Executable", "Run", "Watch"]
