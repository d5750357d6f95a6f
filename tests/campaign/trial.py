"""A trial: one case, run in one way, held to the reference interpreter on one rank.

An executable runs twice on the same arrays, which must give the same bits, and a third time on others, which must
leave what the first two returned as it was. All of it is compared with the interpreter, whose graph no pass but
autodiff and the optimizer's has seen.

How far apart two results may be. Both executors compute the same sums in another order, so they differ by rounding: of
the dtype's unit roundoff u, times what it is applied to, times how often. A drawn graph has up to a hundred nodes, sums
of up to some hundred terms, and conditions its values by LN with ε ≥ 0.1, softmax and exp of values of size one: 4096 u
of the largest value in the whole graph covers the product of these, and the largest departure of graphs that are
right is two orders below. What is 16 bits wide is rounded once a product, of sums that differ in their last digits,
so a few values fall to the other side: 16 u of these dtypes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphir as gi
from graphir.backends import Executable
from graphir.backends.compiled.arena import Block
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.ir.graph import Graph, Node
from graphir.operators import is_finite
from tests.campaign.apart import Apart
from tests.campaign.case import Case
from tests.campaign.ways import Way

_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_ROUNDINGS = {"float64": 2**12, "float32": 2**12, "float16": 2**4, "bfloat16": 2**4}
#: At or below this a score is masked, and no measure of size.
MASKED = -1e29
#: Graphs with larger values than this have lost their digits.
_LARGEST = 1e6


class UnfitError(Exception):
    """A case that says nothing: its values are no numbers, or larger than what rounding can be told from."""


@dataclass(frozen=True)
class Departure:
    """What is wrong: `fault` is of a kind, `where` a value or an exception, `by` how far it is off, relatively."""

    fault: str
    where: str
    by: float = 0.0

    def __str__(self) -> str:
        return f"{self.fault}: {self.where}" + (f", off by {self.by:.1e}" if self.by else "")


@dataclass
class Outcome:
    """What a trial found: a departure or none, and how many arrays were compared."""

    departure: Departure | None = None
    comparisons: int = 0


class Reference:
    """What the interpreter makes of a case: every value, for as many contents as are asked for."""

    def __init__(self, case: Case) -> None:
        self.case = case
        every = list(case.program.values)
        self._executable: Executable = gi.compile(case.program, case.bound, backend="reference", fetch=every)
        self._found: dict[int, tuple[dict[str, NDArray[Any]], float]] = {}
        dtypes = {value.dtype for value in case.program.values.values() if value.type.is_float}
        #: By how much of the largest value two executors may differ.
        self.tolerance = max((_ROUNDOFF[dtype] * _ROUNDINGS[dtype] for dtype in dtypes), default=0.0)
        #: What says nothing: of gradients that overflow every digit may be another.
        self.swollen = _swollen(case.program) if case.overflows else frozenset[str]()

    def values(self, again: int = 0) -> tuple[dict[str, NDArray[Any]], float]:
        """Every value by name, and the size of the largest; UnfitError where that is no number, or a huge one."""
        if again not in self._found:
            held = self.case.arrays(again)
            made: dict[str, NDArray[Any]] = {name: np.asarray(array) for name, array in held.items()}

            def look(node: Node, rank: int, results: tuple[Any, ...]) -> None:
                made.update((value.name, np.array(x)) for value, x in zip(node.outputs, results, strict=True))

            with np.errstate(all="ignore"):
                self._executable(held, watch=look)
            if self.swollen and all(_size(made[name]) < np.inf for name in self.swollen & made.keys()):
                # Rounding alone would say whether the step is made: a gradient that should be 0 is u of its terms.
                raise UnfitError("nothing overflows")
            self._found[again] = made, _largest(made, self.case.overflows)
        return self._found[again]


def _swollen(program: Graph) -> frozenset[str]:
    """What the loss's scale makes too large: all that follows from it, as far as whoever looks whether it is finite."""
    found = {program.values["loss_scale/scale"]}
    for node in program.nodes:
        if not found.isdisjoint(node.inputs) and not node.operator.updates and node.operator is not is_finite:
            found.update(node.outputs)
    return frozenset(value.name for value in found)


def refer(case: Case) -> Reference:
    """What a case is held to, on one rank. UnfitError where the case says nothing, sharded or not."""
    known = Reference(case)
    known.values()
    if case.mesh:
        _ = case.sharded
    return known


def _largest(values: Mapping[str, NDArray[Any]], overflows: bool) -> float:
    """The size of the largest value that says something; UnfitError if one does not, though none `overflows`."""
    largest = 1.0
    for name, array in values.items():
        size = _size(array)
        if size <= _LARGEST:
            largest = max(largest, size)
        elif not overflows:
            raise UnfitError(name)
    return largest


def _size(array: NDArray[Any]) -> float:
    """The size of an array's largest number that is no masked score; infinity if it holds what is no number."""
    if array.dtype.kind in "iub":
        return 0.0
    wide = array.astype(np.float64)
    seen = np.where(wide <= MASKED, 0.0, np.abs(wide))
    return float(seen.max(initial=0.0)) if np.isfinite(seen).all() else np.inf


def attempt(case: Case, way: Way, known: Reference | None = None) -> Outcome:
    """Runs a case in one way. UnfitError where the case itself says nothing."""
    known = known or Reference(case)
    known.values()
    outcome = Outcome()
    try:
        # What overflows on purpose is no news.
        with way.applied(), np.errstate(all="ignore"):
            executable = way.compile(case)
            outcome.departure = false_plan(executable)
            if outcome.departure is None:
                _run_thrice(executable, case, way, known, outcome)
    except UnfitError:
        raise
    except Exception as error:  # whatever is raised of a graph that the interpreter runs is a departure
        outcome.departure = Departure(f"raised {type(error).__name__}", str(error).partition("\n")[0][:200])
    return outcome


def _all_of(executable: Executable | Apart) -> Sequence[Executable]:
    return executable.executables if isinstance(executable, Apart) else [executable]


def false_plan(executable: Executable | Apart) -> Departure | None:
    """Whether a plan of memory says what is not so of what has been laid out."""
    for each in _all_of(executable):
        if isinstance(each, CompiledExecutable):
            wrong = _false_numbers(each)
            if wrong:
                return Departure("a false memory plan", wrong)
    return None


def _false_numbers(executable: CompiledExecutable) -> str:
    """Which number of the plan is wrong: bytes are counted anew, of arrays and of what is alive at each task."""
    plan, arena = executable.memory, executable.prepared.arena
    held, graph = executable.programs[0].rank, executable.optimised
    returned = [value for value in graph.outputs if value not in executable.prepared.updates.values()]
    alive = [[b for b in arena.blocks if b.start <= at <= b.end] for at in range(len(executable.prepared.tasks))]
    totals = [sum(block.size for block in blocks) for blocks in alive] or [0]
    text = str(plan)
    facts = {
        "places": not any(_meet(one, other) for blocks in alive for one, other in itertools.combinations(blocks, 2)),
        "arguments": plan.arguments == sum(held.arrays[value].nbytes for value in graph.arguments),
        "results": plan.results == sum(held.arrays[value].nbytes for value in returned),
        "arena": plan.arena == arena.size <= held.arena.nbytes,
        "all": plan.bytes == plan.arguments + plan.results + plan.arena + plan.scratch + plan.shared,
        "the fullest moment": sum(size for _, size in plan.alive) == max(totals) <= plan.arena,
        "its order": [size for _, size in plan.alive] == sorted((size for _, size in plan.alive), reverse=True),
        "its task": totals[arena.fullest()] == max(totals),
        "text": text.startswith("planned peak ") and all(name in text for name, _ in plan.alive[:3]),
    }
    return next((name for name, holds in facts.items() if not holds), "")


def _meet(one: Block, other: Block) -> bool:
    return one.offset < other.offset + other.size and other.offset < one.offset + one.size


def _run_thrice(executable: Executable | Apart, case: Case, way: Way, known: Reference, outcome: Outcome) -> None:
    seen: dict[str, NDArray[Any]] = {}

    def look(node: Node, rank: int, results: tuple[Any, ...]) -> None:
        seen.update((value.name, np.array(x)) for value, x in zip(node.outputs, results, strict=True))

    def run(again: int) -> dict[str, NDArray[Any]]:
        held = case.arrays(again)
        before = {name: np.array(array) for name, array in held.items()}
        watched = {"watch": look} if way.watch and again else {}
        given = {name: np.array(array) for name, array in held.items()} if way.donate else held
        made = executable(given, **watched)
        changed = [name for name in held if not _same(held[name], before[name])]
        if changed and outcome.departure is None:
            outcome.departure = Departure("an argument changed", changed[0])
        return {name: np.asarray(made[name]) for name in made}

    first = run(0)
    outcome.departure = outcome.departure or _compare(first, known, 0, outcome)
    if outcome.departure is not None:
        return
    kept = {name: array.copy() for name, array in first.items()}
    second = run(0)
    different = [name for name in kept if not _same(second[name], kept[name])]
    if different:
        outcome.departure = Departure("other bits in the second run", different[0])
        return
    try:
        third = run(1)
        outcome.departure = outcome.departure or _compare({**seen, **third}, known, 1, outcome)
    except UnfitError:
        return
    for held in (first, second):
        changed = [name for name in kept if not _same(held[name], kept[name])]
        if changed and outcome.departure is None:
            outcome.departure = Departure("an earlier result changed", changed[0])


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _compare(made: Mapping[str, NDArray[Any]], known: Reference, again: int, outcome: Outcome) -> Departure | None:
    """The value that is farthest off, if it is too far."""
    wanted, largest = known.values(again)
    worst: Departure | None = None
    for name, array in made.items():
        right = wanted[name]
        if name in known.swollen or (known.swollen and _size(right) > _LARGEST):
            continue
        outcome.comparisons += 1
        if array.shape != right.shape or array.dtype != right.dtype:
            return Departure("another type", f"{name}: {array.dtype}{list(array.shape)}")
        if array.dtype.kind in "iub":
            off = 0.0 if np.array_equal(array, right) else np.inf
        else:
            off = _distance(array.astype(np.float64), right.astype(np.float64), largest)
        if not off <= known.tolerance and (worst is None or not off <= worst.by):
            worst = Departure("other numbers", name, off)
    return worst


def _distance(made: NDArray[Any], right: NDArray[Any], largest: float) -> float:
    """The largest difference, relative to the largest value; of a masked score only whether it is masked."""
    masked = right <= MASKED
    if not np.array_equal(made <= MASKED, masked):
        return float("inf")
    difference = np.abs(np.where(masked, 0.0, made) - np.where(masked, 0.0, right))
    return float(difference.max(initial=0.0)) / largest if not np.isnan(difference).any() else float("nan")
