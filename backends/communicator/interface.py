"""What every communicator can do, simulated or real.

A communicator serves the ranks of a mesh. A process *holds* some of them: all if they are simulated, one under MPI.
Collectives take and return lists with a block for each rank that is held; every process calls the same collectives in
the same order. A *group* of axes are the ranks that differ along these axes only, in the order of `Mesh.groups`. In a
group all blocks have one shape and dtype.

Blocks are arrays of NumPy or, on a GPU, of CuPy, of any dtype of a fixed size, with any strides, and may be empty. What
is handed in is never changed. With `out`, results are written there, into C-contiguous arrays that share nothing with
`blocks`, or, of an all-reduce, are `blocks` themselves. Without, a result is not to be written into, for a rank alone
in its group gets back its own block, and a slice is a view. All ranks of a group end a reduction with the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir.backends.arrays import module_of
from graphir.backends.turns import Turn
from graphir.errors import CommunicationError
from graphir.ir.layout import Layout, Mesh
from graphir.ir.operator import Operator

Block: TypeAlias = NDArray[Any]


#: The methods whose results may be written over their operands: they read no operand once they write a result.
IN_PLACE = frozenset({"all_reduce"})


@dataclass
class Traffic:
    """What was sent: messages and bytes, by the rank that sent them."""

    messages: list[int]
    bytes: list[int]

    @classmethod
    def none(cls, ranks: int) -> Traffic:
        """Nothing sent yet."""
        return cls([0] * ranks, [0] * ranks)

    def __add__(self, other: Traffic) -> Traffic:
        messages = [a + b for a, b in zip(self.messages, other.messages, strict=True)]
        return Traffic(messages, [a + b for a, b in zip(self.bytes, other.bytes, strict=True)])

    @property
    def total_messages(self) -> int:
        """Messages sent by all ranks."""
        return sum(self.messages)

    @property
    def total_bytes(self) -> int:
        """Bytes sent by all ranks."""
        return sum(self.bytes)


class Pending(Protocol):
    """A collective under way."""

    def poll(self) -> bool:
        """Whether it is done; asking moves it on."""

    def wait(self) -> list[Block]:
        """Its results, when it is done."""


@dataclass(frozen=True)
class Done:
    """A collective that was carried out when it was started."""

    blocks: list[Block]

    def poll(self) -> bool:
        return True

    def wait(self) -> list[Block]:
        return self.blocks


class Communicator(ABC):
    """Collectives, and messages from rank to rank, for the ranks of `mesh`; `ranks` are those held here."""

    mesh: Mesh
    ranks: Sequence[int]
    traffic: Traffic
    #: What all runs have to take whose collectives travel as this one's do; None where no other's can come between.
    turn: Turn | None = None
    #: In what the ranks' machines differ, so that what they compute alike may differ in its last bits; see `agreement`.
    differences: tuple[str, ...] = ()

    # -- collectives ----------------------------------------------------------------------------------

    @abstractmethod
    def all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        """Each rank's block becomes the sum, max or mean over its group. A mean has its operand's dtype."""

    def start_all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> Pending:
        """As `all_reduce`, but it may go on while this process computes; until it is done, `blocks` must not change."""
        return Done(self.all_reduce(blocks, axes, reduce, out))

    @abstractmethod
    def all_gather(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        """Each rank's block becomes its group's, side by side in `dim`."""

    @abstractmethod
    def reduce_scatter(
        self, blocks: Sequence[Block], dim: int, axis: str, reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        """Each rank's block becomes its part of `dim` of the reduction."""

    @abstractmethod
    def all_to_all(
        self, blocks: Sequence[Block], source: int, target: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        """Each rank keeps its part of `target` and receives the others' parts of `source`."""

    @abstractmethod
    def local_slice(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        """Each rank's own part of `dim`; nothing is sent."""

    @abstractmethod
    def broadcast(
        self, blocks: Sequence[Block], axes: Sequence[str], root: int = 0, out: Sequence[Block] | None = None
    ) -> list[Block]:
        """Each rank's block becomes that of its group's rank number `root`; of the others' only the shape counts."""

    @abstractmethod
    def barrier(self) -> None:
        """Returns when every rank has come here."""

    #: The node whose collectives are carried out, for what is told of one that does not end; empty outside a graph.
    node = ""

    @contextmanager
    def serving(self, node: str) -> Iterator[None]:
        """Collectives inside are those of that node."""
        before, self.node = self.node, node
        try:
            yield
        finally:
            self.node = before

    def purpose(self, what: str, axes: Sequence[str] = ()) -> str:
        """`an all-reduce over dp and tp for layer0/mlp/Z_down`, as it is told of who waits for it."""
        over = f" over {' and '.join(axes)}" if axes else ""
        return f"{what}{over} for {self.node}" if self.node else f"{what}{over}"

    # -- messages -------------------------------------------------------------------------------------

    @abstractmethod
    def send(self, block: Block, source: int, target: int) -> None:
        """Sends a block of rank `source`, held here, to rank `target`; it may be changed as soon as this returns."""

    @abstractmethod
    def receive(self, source: int, target: int, shape: Sequence[int], dtype: Any) -> Block:
        """What rank `source` sent to rank `target`, held here: of several messages the first not yet received."""

    # -- for the process as a whole -------------------------------------------------------------------

    @abstractmethod
    def share(self, data: bytes, purpose: str) -> list[bytes]:
        """What each process hands in, in the order of their ranks; all have to call this."""

    @abstractmethod
    def finish(self, purpose: str) -> None:
        """Returns when a device has done what it was asked for by now: politely, where reading a result is not."""

    @abstractmethod
    def hurry(self, seconds: float) -> None:
        """From now on this process waits no longer than that for others, where it waits for any."""

    @abstractmethod
    def collect(self, blocks: Sequence[Block]) -> list[Block] | None:
        """Every rank's block, on the process that holds rank 0; None on the others."""

    @property
    def is_alone(self) -> bool:
        """Whether this process holds all ranks."""
        return len(self.ranks) == self.mesh.size

    @property
    def meets_others(self) -> bool:
        """Whether other processes hold the other ranks: all have to agree on what they do, and do it in one order."""
        return not self.is_alone

    @property
    def leads(self) -> bool:
        """Whether this process holds rank 0: it speaks for all, and writes what is written once."""
        return self.ranks[0] == 0

    def agree(self, number: int) -> int:
        """The largest of the processes' numbers, on all of them."""
        if self.is_alone:
            return number
        return int(self.all_reduce([np.array(number)] * len(self.ranks), self.mesh.names, "max")[0])

    def whole(self, blocks: Sequence[Block], layout: Layout) -> Block:
        """The whole array of which each rank holds a block under `layout`, on every process."""
        for axis, reduce in layout.pending:
            blocks = self.all_reduce(blocks, (axis,), reduce)
        for dim, axes in enumerate(layout.splits):
            for axis in reversed(axes):
                blocks = self.all_gather(blocks, dim, axis)
        return blocks[0]

    def run(
        self,
        operator: Operator,
        blocks: Sequence[Block],
        attributes: Mapping[str, Any],
        out: Sequence[Block] | None = None,
        node: str = "",
    ) -> list[Block]:
        """The collective that `operator` declares, for a node of that name."""
        assert operator.collective is not None
        with self.serving(node):
            result: list[Block] = getattr(self, operator.collective)(blocks, **attributes, out=out)
        return result

    def take_traffic(self) -> Traffic:
        """What was sent since this was last asked."""
        taken, self.traffic = self.traffic, Traffic.none(self.mesh.size)
        return taken


def resized(shape: Sequence[int], dim: int, count: int) -> tuple[int, ...]:
    """`shape` with one dim `count` times as large."""
    return tuple(size * count if i == dim else size for i, size in enumerate(shape))


def array_kind(shape: Sequence[int], dtype: Any) -> str:
    """Dtype and shape in a word: `float32[2, 3]`."""
    return f"{np.dtype(dtype)}{[int(size) for size in shape]}"


def require_fit(sent: str, expected: str, mesh: Mesh, source: int, target: int) -> None:
    """CommunicationError unless a message is of the kind, as of `array_kind`, that its receiver expects."""
    if sent != expected:
        raise CommunicationError(
            f"{mesh.describe(target)} expects {expected} of {mesh.describe(source)}, which sent {sent}"
        )


def combined(left: Block, right: Block, reduce: str) -> Block:
    """Two terms of a reduction together; truths are added by `or`."""
    xp = module_of(left)
    result: Block = xp.asarray(xp.maximum(left, right) if reduce == "max" else left + right)
    return result


def averaged(block: Block, count: int, reduce: str) -> Block:
    """What a reduction of `count` terms makes of their sum."""
    return module_of(block).asarray(block / count, dtype=block.dtype) if reduce == "mean" else block


def reduction(blocks: Sequence[Block], reduce: str) -> Block:
    """The reduction in the order of `blocks`."""
    total = blocks[0]
    for block in blocks[1:]:
        total = combined(total, block, reduce)
    return averaged(total, len(blocks), reduce)
