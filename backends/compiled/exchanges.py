"""A compiled run's collectives: carried out where they stand, or started there and waited for when they are needed.

Between ranks that are simulated nothing travels while something is computed: each collective is carried out at once.
Between processes all-reduces travel in buckets (`backends.buckets`). A bucket of one is reduced in place, where its
result belongs; of several, in a buffer of their own, because the memory of an operand may be given to another value
as soon as its node is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphir.backends.buckets import LIMIT, Bucket, plan_buckets
from graphir.backends.communicator import Communicator, Pending, Traffic
from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.engine import Engine
from graphir.backends.plan import Step
from graphir.backends.trace import Exchange
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


@dataclass
class _Sent:
    """A bucket under way, and where its results belong."""

    bucket: Bucket
    pending: Pending
    parts: list[tuple[Array, Array]]


class Exchanges:
    """The collectives among `steps`, in order. `blocks` gives each held rank's array of a value.

    With `limit` 0 nothing is put off, whatever the communicator.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        shapes: Mapping[Value, tuple[int, ...]],
        communicator: Communicator,
        engine: Engine,
        blocks: Callable[[Value], list[Array]],
        limit: int = LIMIT,
    ) -> None:
        self.steps = [step for step in steps if step.node.operator.relayout is not None]
        self._numbers = {step: number for number, step in enumerate(self.steps)}
        self._communicator, self._engine, self._blocks, self._shapes = communicator, engine, blocks, shapes
        apart = not communicator.is_alone
        sizes = {v: math.prod(shape) * DTYPES.get(v.dtype, 0) for v, shape in shapes.items()}
        self.buckets = plan_buckets(steps, sizes, limit) if apart and limit else []
        self._bucket_of = {member: bucket for bucket in self.buckets for member in bucket.members}
        self._buffers: dict[Bucket, Array] = {}
        self._under_way: list[_Sent] = []

    def carry_out(self, step: Step) -> Traffic:
        """The collective of that step, or its part in a bucket; what was sent."""
        node, number = step.node, self._numbers[step]
        operands, results = self._blocks(node.inputs[0]), self._blocks(node.outputs[0])
        self._communicator.take_traffic()
        bucket = self._bucket_of.get(number)
        if bucket is None:
            self._communicator.run(node.operator, operands, step.keywords, results, node.name)
        else:
            self._engine.copy(self._part(bucket, number), operands[0])
        for each in self.buckets:
            if each.sent == number:
                self._send(each)
        return self._communicator.take_traffic()

    def settle(self, segment: int) -> None:
        """Waits for what that segment reads, and moves on what is still under way."""
        for sent in [each for each in self._under_way if each.bucket.due <= segment]:
            sent.pending.wait()
            for target, part in sent.parts:
                if target is not part:
                    self._engine.copy(target, part)
            # Last, so that what an interrupt breaks off here is waited for by the next run.
            self._under_way.remove(sent)
        for sent in self._under_way:
            sent.pending.poll()

    def settle_all(self) -> None:
        """Waits for everything that is under way."""
        self.settle(len(self.steps) + 1)

    def trace(self, rank: int) -> list[list[Exchange]]:
        """What a rank, counted among those held here, takes part in before each segment, and behind the last."""
        before: list[list[Exchange]] = [[] for _ in range(len(self.steps) + 2)]

        def add(at: int, kind: str, member: int, operand: Array | None = None, result: Array | None = None) -> None:
            before[at].append(Exchange(kind, self.steps[member].node, operand, result))

        for number, step in enumerate(self.steps):
            operand, result = (self._blocks(value)[rank] for value in (step.node.inputs[0], step.node.outputs[0]))
            bucket = self._bucket_of.get(number)
            if bucket is None:
                add(number + 1, "run", number, operand, result)
            else:
                add(number + 1, "pack", number, operand, self._part(bucket, number))
            for each in (each for each in self.buckets if each.sent == number):
                for member in each.members:
                    part = self._part(each, member)
                    add(number + 1, "start", member, part, part)
            for each in (each for each in self.buckets if each.due == number + 1):
                self._trace_arrival(each, rank, add)
        for each in (each for each in self.buckets if each.due > len(self.steps)):
            self._trace_arrival(each, rank, add)
        return before

    def _trace_arrival(self, bucket: Bucket, rank: int, add: Callable[..., None]) -> None:
        at = min(bucket.due, len(self.steps) + 1)
        for member in bucket.members:
            part, target = self._part(bucket, member), self._blocks(self.steps[member].node.outputs[0])[rank]
            add(at, "wait", member, part, part)
            if target is not part:
                add(at, "unpack", member, part, target)

    def _send(self, bucket: Bucket) -> None:
        step = self.steps[bucket.members[-1]]
        targets = [self._blocks(self.steps[member].node.outputs[0])[0] for member in bucket.members]
        parts = [self._part(bucket, member) for member in bucket.members]
        whole = parts[0] if len(parts) == 1 else self._buffers[bucket]
        more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        with self._communicator.serving(f"{step.node.name}{more}"):
            pending = self._communicator.start_all_reduce([whole], **step.keywords, out=[whole])
        self._under_way.append(_Sent(bucket, pending, list(zip(targets, parts, strict=True))))

    def _part(self, bucket: Bucket, member: int) -> Array:
        """Where a member's operand goes, and its result arrives."""
        result: Value = self.steps[member].node.outputs[0]
        if len(bucket.members) == 1:
            return self._blocks(result)[0]
        counts = [math.prod(self._shapes[self.steps[i].node.outputs[0]]) for i in bucket.members]
        if bucket not in self._buffers:
            self._buffers[bucket] = self._engine.empty([sum(counts)], result.dtype)
        start = sum(counts[: bucket.members.index(member)])
        part: Any = self._buffers[bucket][start : start + counts[bucket.members.index(member)]]
        return part.reshape(self._shapes[result])  # type: ignore[no-any-return]
