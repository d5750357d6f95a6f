"""The profile of a compiled graph: where the time of a run goes, node by node. It is made by `profiler`.

    step       one run of the graph; its threads together spend `threads` times as long on it
    product    a call that multiplies matrices; the *floor* is what products alone take, spread evenly over the threads
    waiting    what a thread does while another has not come to their meeting, or is not done
    overhead   Python between two calls
    binding    what a run does before its first call and after its last: check and bind arguments, collect results

Binding, and what passes between simulated ranks, is one thread's work and takes the time of all.

Seconds are medians over some runs, row by row, so that a hiccup in one of them is left out. The rows of a thread add
up to the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from graphir.errors import ConfigError

PRODUCT, ATTENTION_PRODUCT, ATTENTION, ELEMENTWISE = "product", "attention product", "attention", "elementwise"
UPDATING, COLLECTIVE, WAITING, OVERHEAD, BINDING = "update", "collective", "waiting", "overhead", "binding"
#: What a row may be. Attention's are the nodes of back-to-back products, with what lies between them;
#: elementwise is all else that is not an optimizer's: sums, norms, losses and lookups, too.
KINDS = (PRODUCT, ATTENTION_PRODUCT, ATTENTION, ELEMENTWISE, UPDATING, COLLECTIVE, WAITING, OVERHEAD, BINDING)
#: What is no node's work.
IDLE = (WAITING, OVERHEAD, BINDING)
#: What rows may be put together by.
GROUPINGS = ("node", "operator", "scope", "phase", "task", "kind")

T = TypeVar("T")


@dataclass(frozen=True)
class Measure:
    """What some calls took and did: seconds of each thread; calls, FLOPs and bytes of all."""

    seconds: tuple[float, ...]
    calls: int
    flops: int
    bytes: int

    @property
    def mean(self) -> float:
        """Seconds of a thread on average: the part of the step that the calls take."""
        return sum(self.seconds) / len(self.seconds)

    @property
    def flop_rate(self) -> float:
        """FLOP/s of the threads that take part, together."""
        return self._rate(self.flops)

    @property
    def byte_rate(self) -> float:
        """Bytes/s of the threads that take part, together."""
        return self._rate(self.bytes)

    def _rate(self, amount: int) -> float:
        busy = [each for each in self.seconds if each > 0]
        return amount * len(busy) / sum(busy) if busy else 0.0


def total(measures: Sequence[Measure], threads: int) -> Measure:
    """Some measures together."""
    seconds = tuple(sum(each.seconds[thread] for each in measures) for thread in range(threads))
    return Measure(
        seconds, sum(m.calls for m in measures), sum(m.flops for m in measures), sum(m.bytes for m in measures)
    )


@dataclass(frozen=True)
class Row(Measure):
    """The measure of one node of one rank, or of the waiting or the overhead that a task brings.

    node      its name; of waiting and overhead the task's, if they are any task's
    operator  its operator's key; empty where there is no node
    scope     the block that it belongs to, `layer3/mha`
    phase     forward, backward or update
    task      the node of the optimised graph that it is part of
    kind      one of `KINDS`
    rank      whose it is; None for what is done for all ranks at once
    """

    node: str
    operator: str
    scope: str
    phase: str
    task: str
    kind: str
    rank: int | None


@dataclass(frozen=True)
class Profile:
    """Where the time of a step goes; seconds are medians.

    rows         in order of execution
    threads      how many worked
    repetitions  how many steps were profiled, and as many timed as they are
    plain        seconds of a step that is not profiled
    profiled     seconds of one that is, every look at the clock included
    look         seconds that a look at the clock takes, which are left out of the rows
    fallbacks    a sentence for each node whose kernel is called as it was written: which, and why
    """

    rows: tuple[Row, ...]
    threads: int
    repetitions: int
    plain: float
    profiled: float
    look: float
    fallbacks: tuple[str, ...] = ()

    @property
    def step(self) -> float:
        """Seconds of a profiled step without the looks at the clock: what the rows add up to."""
        return sum(row.mean for row in self.rows)

    @property
    def floor(self) -> float:
        """Seconds that the products take in these steps, spread evenly over the threads."""
        return sum(row.mean for row in self.rows if row.kind in (PRODUCT, ATTENTION_PRODUCT))

    @property
    def ratio(self) -> float | None:
        """The step as a multiple of its floor; None of a graph without products."""
        return self.step / self.floor if self.floor else None

    @property
    def slowdown(self) -> float:
        """How many times as long a step takes when it is profiled."""
        return self.profiled / self.plain

    def by(self, grouping: str) -> dict[str, Measure]:
        """The rows put together by node, operator, scope, phase, task or kind, the longest first.

        Waiting, overhead and binding are groups of their own. ConfigError for another grouping.
        """
        if grouping not in GROUPINGS:
            raise ConfigError(f"a profile has no groups by {grouping!r}; choose from {', '.join(GROUPINGS)}")

        def label(row: Row) -> str:
            return row.kind if row.kind in IDLE else getattr(row, grouping) or "—"

        groups = {name: total(rows, self.threads) for name, rows in grouped(self.rows, label).items()}
        return dict(sorted(groups.items(), key=lambda item: -item[1].mean))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """The profile that `as_dict` made data of, JSON's lists included."""
        rows = tuple(Row(**{**row, "seconds": tuple(row["seconds"])}) for row in data["rows"])
        given = {each.name: data[each.name] for each in fields(cls)}
        return cls(**{**given, "rows": rows, "fallbacks": tuple(given["fallbacks"])})


def grouped(rows: Iterable[Row], label: Callable[[Row], T]) -> dict[T, list[Row]]:
    """The rows by their labels, in order of appearance."""
    found: dict[T, list[Row]] = {}
    for row in rows:
        found.setdefault(label(row), []).append(row)
    return found
