"""Buckets: which reductions travel together, from when, and until when.

Sending has a price for each message, whatever its size, so small all-reduces that are alike (axes, reduction, dtype)
share one. A bucket is filled in the graph's order. It is sent when it is full, or when one of its results is needed,
and waited for before the first node that reads one. All this follows from the graph alone: every rank has the same
buckets, and starts them in the same order.

*Segments* are the stretches of nodes between collectives: segment i comes before collective i, the last one after all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphir.backends.plan import Step
from graphir.ir.traits import ALL_REDUCE
from graphir.ir.value import Value

#: Bytes of a bucket unless told otherwise: at what a core copies in a fraction of a millisecond, the price of a
#: message no longer counts, and what is as large by itself is sent without being copied into a bucket at all.
LIMIT = 1 << 20


@dataclass(frozen=True)
class Bucket:
    """All-reduces, by their number among the collectives, that are sent as one after the last of them.

    due    the segment that first reads a result, or the number of segments if none does
    sent   the collective after which the bucket is sent: nothing joins it later
    """

    members: tuple[int, ...]
    sent: int
    due: int


def plan_buckets(steps: Sequence[Step], sizes: Mapping[Value, int], limit: int = LIMIT) -> list[Bucket]:
    """The buckets of a plan's `steps`, in the order in which they are sent; `sizes` are bytes of one rank's blocks."""
    collectives = [step for step in steps if step.node.operator.relayout is not None]
    due = _first_reads(steps)
    found: list[Bucket] = []
    filling: dict[Any, list[int]] = {}

    def send(kind: Any, after: int) -> None:
        members = filling.pop(kind)
        found.append(Bucket(tuple(members), after, min(due[collectives[i].node.outputs[0]] for i in members)))

    for index, step in enumerate(collectives):
        operand, result = step.node.inputs[0], step.node.outputs[0]
        # Who is read by what comes next cannot wait for company.
        for kind in [kind for kind, members in filling.items() if _read_by(members, collectives, due, index)]:
            send(kind, index - 1)
        if step.node.operator.collective != ALL_REDUCE:
            continue
        kind = step.node.attributes["axes"], step.node.attributes["reduce"], operand.dtype
        held = sum(sizes[collectives[i].node.inputs[0]] for i in filling.get(kind, ()))
        if held and held + sizes[operand] > limit:
            send(kind, index - 1)
        filling.setdefault(kind, []).append(index)
        if sizes[operand] >= limit or due[result] <= index + 1:
            send(kind, index)
    for kind in list(filling):
        send(kind, len(collectives) - 1)
    return sorted(found, key=lambda bucket: (bucket.sent, bucket.members))


def _first_reads(steps: Sequence[Step]) -> dict[Value, int]:
    """For each collective's result, the segment at whose beginning it has to be there."""
    segment, waiting, due = 0, set[Value](), dict[Value, int]()
    for step in steps:
        collective = step.node.operator.relayout is not None
        for value in step.node.inputs:
            if value in waiting:
                waiting.remove(value)
                due[value] = segment
        if collective:
            waiting.update(step.node.outputs)
            segment += 1
    due.update(dict.fromkeys(waiting, segment + 1))
    return due


def _read_by(members: Sequence[int], collectives: Sequence[Step], due: Mapping[Value, int], index: int) -> bool:
    """Whether segment `index`, or the collective after it, reads a result of the bucket."""
    return any(due[collectives[i].node.outputs[0]] <= index for i in members)
