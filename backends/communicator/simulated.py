"""Simulated ranks' communicator: collectives that move real bytes between blocks in one process, and count them.

Three algorithms, as the documents compare them, for N ranks and a payload of one block (A 2.4, A 3.5):

    naive    everyone sends to a root, which reduces and sends back:   2 (N − 1) payloads, all through the root
    direct   everyone sends to everyone:                               (N − 1) payloads sent by each
    ring     reduce-scatter and all-gather around a ring:              2 (N − 1)/N payloads sent by each

All ranks of a group end with the same bits, whatever the algorithm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphir.backends.arrays import module_of
from graphir.backends.communicator.interface import (
    Block,
    Communicator,
    Traffic,
    array_kind,
    averaged,
    combined,
    reduction,
    require_fit,
)
from graphir.errors import CommunicationError, ConfigError
from graphir.ir.layout import Mesh

ALGORITHMS = ("ring", "direct", "naive")


@dataclass
class SimulatedCommunicator(Communicator):
    """Runs a collective for all ranks of a mesh at once: a list of blocks in, a list of blocks out."""

    mesh: Mesh
    algorithm: str = "ring"
    traffic: Traffic = field(init=False)
    #: Messages sent and not yet received, by source and target.
    _messages: dict[tuple[int, int], deque[Block]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm {self.algorithm!r} is unknown; choose from {', '.join(ALGORITHMS)}")
        self.traffic = Traffic.none(self.mesh.size)

    @property
    def ranks(self) -> Sequence[int]:  # type: ignore[override]
        """All of them."""
        return range(self.mesh.size)

    # -- the collectives ------------------------------------------------------------------------------

    def all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        run = {"naive": self._reduce_naive, "direct": self._reduce_direct, "ring": self._reduce_ring}[self.algorithm]
        return self._by_group(blocks, axes, lambda group, mine: run(group, mine, reduce), out)

    def all_gather(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        return self._by_group(blocks, (axis,), lambda group, mine: self._gather(group, mine, dim), out)

    def reduce_scatter(
        self, blocks: Sequence[Block], dim: int, axis: str, reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        return self._by_group(blocks, (axis,), lambda group, mine: self._scatter(group, mine, dim, reduce), out)

    def all_to_all(
        self, blocks: Sequence[Block], source: int, target: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        def exchange(group: Sequence[int], mine: list[Block]) -> list[Block]:
            xp = module_of(mine[0])
            parts = [xp.split(block, len(group), axis=target) for block in mine]
            rows = [[self._send(group[i], group[j], parts[i][j]) for i in range(len(group))] for j in range(len(group))]
            return [xp.concatenate(row, axis=source) for row in rows]

        return self._by_group(blocks, (axis,), exchange, out)

    def local_slice(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        def cut(group: Sequence[int], mine: list[Block]) -> list[Block]:
            return [module_of(block).split(block, len(group), axis=dim)[i] for i, block in enumerate(mine)]

        return self._by_group(blocks, (axis,), cut, out)

    def broadcast(
        self, blocks: Sequence[Block], axes: Sequence[str], root: int = 0, out: Sequence[Block] | None = None
    ) -> list[Block]:
        def spread(group: Sequence[int], mine: list[Block]) -> list[Block]:
            return [self._send(group[root], rank, mine[root]) for rank in group]

        return self._by_group(blocks, axes, spread, out)

    def barrier(self) -> None:
        """Nothing to wait for: ranks run in lock-step."""

    def send(self, block: Block, source: int, target: int) -> None:
        # A copy even to itself: what is sent may be changed at once.
        self._messages.setdefault((source, target), deque()).append(
            self._send(source, target, module_of(block).array(block))
        )

    def receive(self, source: int, target: int, shape: Sequence[int], dtype: Any) -> Block:
        messages = self._messages.get((source, target))
        if not messages:
            raise CommunicationError(
                f"{self.mesh.describe(target)} waits for {self.mesh.describe(source)}, which has sent it nothing more; "
                f"send before receiving"
            )
        block = messages.popleft()
        sent, expected = array_kind(block.shape, block.dtype), array_kind(shape, dtype)
        require_fit(sent, expected, self.mesh, source, target)
        return block

    def share(self, data: bytes, purpose: str) -> list[bytes]:
        return [data]

    def finish(self, purpose: str) -> None:
        """Nothing to wait for; what lies on a device its own array module waits for."""

    def hurry(self, seconds: float) -> None:
        """Nobody is waited for."""

    def collect(self, blocks: Sequence[Block]) -> list[Block] | None:
        return list(blocks)

    # -- moving and reducing --------------------------------------------------------------------------

    def _by_group(
        self,
        blocks: Sequence[Block],
        axes: Sequence[str],
        run: Callable[[Sequence[int], list[Block]], list[Block]],
        out: Sequence[Block] | None,
    ) -> list[Block]:
        result: list[Block] = list(blocks)
        for group in self.mesh.groups(axes):
            mine = [module_of(blocks[rank]).asarray(blocks[rank]) for rank in group]
            for rank, block in zip(group, mine if len(group) == 1 else run(group, mine), strict=True):
                result[rank] = block
        if out is None:
            return result
        for target, block in zip(out, result, strict=True):
            module_of(target).copyto(target, block)
        return list(out)

    def _send(self, source: int, target: int, block: Block) -> Block:
        """The block as it arrives: a copy, counted, unless it stays where it is."""
        if source == target:
            return block
        self.traffic.messages[source] += 1
        self.traffic.bytes[source] += block.nbytes
        return block.copy()

    def _reduce_naive(self, group: Sequence[int], blocks: list[Block], reduce: str) -> list[Block]:
        root = group[0]
        total = reduction([self._send(rank, root, block) for rank, block in zip(group, blocks, strict=True)], reduce)
        return [self._send(root, rank, total) for rank in group]

    def _reduce_direct(self, group: Sequence[int], blocks: list[Block], reduce: str) -> list[Block]:
        # Everyone adds in rank order, so that all get the same bits.
        return [
            reduction([self._send(other, rank, block) for other, block in zip(group, blocks, strict=True)], reduce)
            for rank in group
        ]

    def _reduce_ring(self, group: Sequence[int], blocks: list[Block], reduce: str) -> list[Block]:
        count, shape, xp = len(group), blocks[0].shape, module_of(blocks[0])
        chunks = [xp.array_split(block.reshape(-1).copy(), count) for block in blocks]
        self._ring_reduce(group, chunks, reduce)
        # Rank i holds chunk i + 1, reduced; now the chunks go once around.
        for step in range(count - 1):
            for i in range(count):
                chunk = (i + 1 - step) % count
                target = (i + 1) % count
                chunks[target][chunk] = self._send(group[i], group[target], chunks[i][chunk])
        return [averaged(xp.concatenate(parts).reshape(shape), count, reduce) for parts in chunks]

    def _ring_reduce(self, group: Sequence[int], chunks: list[list[Block]], reduce: str) -> None:
        """In N − 1 steps, rank i sends chunk i − step on and the next adds it to its own."""
        count = len(group)
        for step in range(count - 1):
            for i in range(count):
                chunk, target = (i - step) % count, (i + 1) % count
                arriving = self._send(group[i], group[target], chunks[i][chunk])
                chunks[target][chunk] = combined(arriving, chunks[target][chunk], reduce)

    def _scatter(self, group: Sequence[int], blocks: list[Block], dim: int, reduce: str) -> list[Block]:
        count, xp = len(group), module_of(blocks[0])
        parts = [xp.split(block, count, axis=dim) for block in blocks]
        if self.algorithm == "naive":
            root = group[0]
            total = reduction([self._send(rank, root, b) for rank, b in zip(group, blocks, strict=True)], reduce)
            return [self._send(root, rank, p) for rank, p in zip(group, xp.split(total, count, axis=dim), strict=True)]
        if self.algorithm == "direct":
            return [
                reduction([self._send(group[i], group[j], parts[i][j]) for i in range(count)], reduce)
                for j in range(count)
            ]
        # Shifted by one, so that rank i ends with chunk i.
        chunks = [[each[(j - 1) % count] for j in range(count)] for each in parts]
        self._ring_reduce(group, chunks, reduce)
        return [averaged(chunks[i][(i + 1) % count], count, reduce) for i in range(count)]

    def _gather(self, group: Sequence[int], blocks: list[Block], dim: int) -> list[Block]:
        count, xp = len(group), module_of(blocks[0])
        if self.algorithm == "naive":
            root = group[0]
            whole = xp.concatenate([self._send(r, root, b) for r, b in zip(group, blocks, strict=True)], axis=dim)
            return [self._send(root, rank, whole) for rank in group]
        if self.algorithm == "direct":
            return [
                xp.concatenate([self._send(o, rank, b) for o, b in zip(group, blocks, strict=True)], axis=dim)
                for rank in group
            ]
        held: list[list[Any]] = [[block if i == j else None for j in range(count)] for i, block in enumerate(blocks)]
        for step in range(count - 1):
            for i in range(count):
                chunk, target = (i - step) % count, (i + 1) % count
                held[target][chunk] = self._send(group[i], group[target], held[i][chunk])
        return [xp.concatenate(parts, axis=dim) for parts in held]
