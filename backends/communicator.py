"""Simulated ranks' communicator: collectives that move real bytes between blocks in one process, and count them.

Three algorithms, as the documents compare them, for N ranks and a payload of one block (A 2.4, A 3.5):

    naive    everyone sends to a root, which reduces and sends back:   2 (N − 1) payloads, all through the root
    direct   everyone sends to everyone:                               (N − 1) payloads sent by each
    ring     reduce-scatter and all-gather around a ring:              2 (N − 1)/N payloads sent by each

All ranks of a group end with the same bits, whatever the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
from graphir.ir.operator import Operator

ALGORITHMS = ("ring", "direct", "naive")
Block: TypeAlias = NDArray[Any]


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


@dataclass
class SimulatedCommunicator:
    """Runs a collective for all ranks of a mesh at once: a list of blocks in, a list of blocks out."""

    mesh: Mesh
    algorithm: str = "ring"
    traffic: Traffic = field(init=False)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm {self.algorithm!r} is unknown; choose from {', '.join(ALGORITHMS)}")
        self.traffic = Traffic.none(self.mesh.size)

    def run(self, operator: Operator, blocks: Sequence[Block], attributes: Mapping[str, Any]) -> list[Block]:
        """The collective that `operator` declares, on all ranks' blocks."""
        assert operator.collective is not None
        result: list[Block] = getattr(self, operator.collective)(blocks, **attributes)
        return result

    # -- the collectives ------------------------------------------------------------------------------

    def all_reduce(self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum") -> list[Block]:
        """Each rank's block becomes the reduction over its group."""
        run = {"naive": self._reduce_naive, "direct": self._reduce_direct, "ring": self._reduce_ring}[self.algorithm]
        return self._by_group(blocks, axes, lambda group, mine: run(group, mine, reduce))

    def all_gather(self, blocks: Sequence[Block], dim: int, axis: str) -> list[Block]:
        """Each rank's block becomes its group's, side by side in `dim`."""
        return self._by_group(blocks, (axis,), lambda group, mine: self._gather(group, mine, dim))

    def reduce_scatter(self, blocks: Sequence[Block], dim: int, axis: str, reduce: str = "sum") -> list[Block]:
        """Each rank's block becomes its part of `dim` of the reduction."""
        return self._by_group(blocks, (axis,), lambda group, mine: self._scatter(group, mine, dim, reduce))

    def all_to_all(self, blocks: Sequence[Block], source: int, target: int, axis: str) -> list[Block]:
        """Each rank keeps its part of `target` and receives the others' parts of `source`."""

        def exchange(group: Sequence[int], mine: list[Block]) -> list[Block]:
            parts = [np.split(block, len(group), axis=target) for block in mine]
            rows = [[self._send(group[i], group[j], parts[i][j]) for i in range(len(group))] for j in range(len(group))]
            return [np.concatenate(row, axis=source) for row in rows]

        return self._by_group(blocks, (axis,), exchange)

    def local_slice(self, blocks: Sequence[Block], dim: int, axis: str) -> list[Block]:
        """Each rank's own part of `dim`; nothing is sent."""
        return self._by_group(
            blocks,
            (axis,),
            lambda group, mine: [np.split(block, len(group), axis=dim)[i] for i, block in enumerate(mine)],
        )

    # -- moving and reducing --------------------------------------------------------------------------

    def _by_group(
        self,
        blocks: Sequence[Block],
        axes: Sequence[str],
        run: Callable[[Sequence[int], list[Block]], list[Block]],
    ) -> list[Block]:
        result: list[Block] = list(blocks)
        for group in self.mesh.groups(axes):
            mine = [np.asarray(blocks[rank]) for rank in group]
            for rank, block in zip(group, mine if len(group) == 1 else run(group, mine), strict=True):
                result[rank] = block
        return result

    def _send(self, source: int, target: int, block: Block) -> Block:
        """The block as it arrives: a copy, counted, unless it stays where it is."""
        if source == target:
            return block
        self.traffic.messages[source] += 1
        self.traffic.bytes[source] += block.nbytes
        return block.copy()

    def _reduce_naive(self, group: Sequence[int], blocks: list[Block], reduce: str) -> list[Block]:
        root = group[0]
        total = _reduction([self._send(rank, root, block) for rank, block in zip(group, blocks, strict=True)], reduce)
        return [self._send(root, rank, total) for rank in group]

    def _reduce_direct(self, group: Sequence[int], blocks: list[Block], reduce: str) -> list[Block]:
        # Everyone adds in rank order, so that all get the same bits.
        return [
            _reduction([self._send(other, rank, block) for other, block in zip(group, blocks, strict=True)], reduce)
            for rank in group
        ]

    def _reduce_ring(self, group: Sequence[int], blocks: list[Block], reduce: str) -> list[Block]:
        count, shape = len(group), blocks[0].shape
        chunks = [np.array_split(block.reshape(-1).copy(), count) for block in blocks]
        self._ring_reduce(group, chunks, reduce)
        # Rank i holds chunk i + 1, reduced; now the chunks go once around.
        for step in range(count - 1):
            for i in range(count):
                chunk = (i + 1 - step) % count
                target = (i + 1) % count
                chunks[target][chunk] = self._send(group[i], group[target], chunks[i][chunk])
        return [_averaged(np.concatenate(parts).reshape(shape), count, reduce) for parts in chunks]

    def _ring_reduce(self, group: Sequence[int], chunks: list[list[Block]], reduce: str) -> None:
        """In N − 1 steps, rank i sends chunk i − step on and the next adds it to its own."""
        count = len(group)
        for step in range(count - 1):
            for i in range(count):
                chunk, target = (i - step) % count, (i + 1) % count
                arriving = self._send(group[i], group[target], chunks[i][chunk])
                chunks[target][chunk] = _combine(arriving, chunks[target][chunk], reduce)

    def _scatter(self, group: Sequence[int], blocks: list[Block], dim: int, reduce: str) -> list[Block]:
        count = len(group)
        parts = [np.split(block, count, axis=dim) for block in blocks]
        if self.algorithm == "naive":
            root = group[0]
            total = _reduction([self._send(rank, root, b) for rank, b in zip(group, blocks, strict=True)], reduce)
            return [self._send(root, rank, p) for rank, p in zip(group, np.split(total, count, axis=dim), strict=True)]
        if self.algorithm == "direct":
            return [
                _reduction([self._send(group[i], group[j], parts[i][j]) for i in range(count)], reduce)
                for j in range(count)
            ]
        # Shifted by one, so that rank i ends with chunk i.
        chunks = [[each[(j - 1) % count] for j in range(count)] for each in parts]
        self._ring_reduce(group, chunks, reduce)
        return [_averaged(chunks[i][(i + 1) % count], count, reduce) for i in range(count)]

    def _gather(self, group: Sequence[int], blocks: list[Block], dim: int) -> list[Block]:
        count = len(group)
        if self.algorithm == "naive":
            root = group[0]
            whole = np.concatenate([self._send(r, root, b) for r, b in zip(group, blocks, strict=True)], axis=dim)
            return [self._send(root, rank, whole) for rank in group]
        if self.algorithm == "direct":
            return [
                np.concatenate([self._send(o, rank, b) for o, b in zip(group, blocks, strict=True)], axis=dim)
                for rank in group
            ]
        held: list[list[Any]] = [[block if i == j else None for j in range(count)] for i, block in enumerate(blocks)]
        for step in range(count - 1):
            for i in range(count):
                chunk, target = (i - step) % count, (i + 1) % count
                held[target][chunk] = self._send(group[i], group[target], held[i][chunk])
        return [np.concatenate(parts, axis=dim) for parts in held]


def _combine(left: Block, right: Block, reduce: str) -> Block:
    return np.asarray(np.maximum(left, right) if reduce == "max" else left + right)


def _averaged(block: Block, count: int, reduce: str) -> Block:
    return np.asarray(block / count, dtype=block.dtype) if reduce == "mean" else block


def _reduction(blocks: Sequence[Block], reduce: str) -> Block:
    total = blocks[0]
    for block in blocks[1:]:
        total = _combine(total, block, reduce)
    return _averaged(total, len(blocks), reduce)
