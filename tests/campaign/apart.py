"""Ranks apart: each an executable of its own, in a thread of this process, whose collectives travel between them.

So all-reduces go in buckets, are started, put off and waited for, as between processes, without any. What is handed
to an all-reduce that is to be done in place is poisoned until it has been waited for: who reads it too early reads
NaN, who writes there is told.

Nobody waits for ever: a rank that fails ends all others, and so does one that ends while another waits for it, or
ranks that all wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from graphir.backends import Executable
from graphir.backends.blocks import join_blocks, split_blocks
from graphir.backends.communicator import Communicator, Pending, Traffic
from graphir.backends.communicator.interface import Block, Done, array_kind, reduction, require_fit
from graphir.backends.communicator.peers import RankError
from graphir.errors import CommunicationError
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from tests.support.poison import fill

#: A message: between which ranks, and which of those that go between them.
_Key = tuple[int, int, object]


class Post:
    """What has been sent between ranks and not been fetched yet, and who waits for what."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._changed = threading.Condition()
        self._messages: dict[_Key, list[Any]] = {}
        self._waiting: dict[int, _Key] = {}
        self._ended: set[int] = set()
        self._failure = ""

    def send(self, key: _Key, message: Any) -> None:
        """Leaves a message."""
        with self._changed:
            self._messages.setdefault(key, []).append(message)
            self._changed.notify_all()

    def has(self, key: _Key) -> bool:
        """Whether there is a message."""
        with self._changed:
            return key in self._messages

    def fetch(self, key: _Key) -> Any:
        """A message, as soon as there is one. Errors: RankError if there will be none."""
        source, target, what = key
        with self._changed:
            self._waiting[target] = key
            while key not in self._messages:
                if source in self._ended:
                    self._fail(f"rank {target} waits for {what} of rank {source}, which has come to its end")
                elif all(rank in self._ended or self._is_stuck(rank) for rank in range(self.ranks)):
                    self._fail(f"all ranks wait: rank {target} for {what} of rank {source}")
                if self._failure:
                    raise RankError(self._failure)
                self._changed.wait()
            del self._waiting[target]
            messages = self._messages[key]
            found = messages.pop(0)
            if not messages:
                del self._messages[key]
            return found

    def _is_stuck(self, rank: int) -> bool:
        return rank in self._waiting and self._waiting[rank] not in self._messages

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why
        self._changed.notify_all()

    def begin(self) -> None:
        """All ranks begin a run. Errors: CommunicationError if something was sent that nobody has fetched."""
        left = [f"{what} of rank {source} for rank {target}" for source, target, what in self._messages]
        if left:
            raise CommunicationError(f"never fetched: {', '.join(left)}")
        self._ended.clear()

    def end(self, rank: int, error: BaseException | None = None) -> None:
        """A rank has come to its end, or has failed: whoever waits for it, or does from now on, fails too."""
        with self._changed:
            self._ended.add(rank)
            if error is not None:
                self._fail(f"rank {rank} has failed: {error}")
            self._changed.notify_all()


@dataclass
class _Flight:
    """An all-reduce under way: what was handed in may not change, or, `out` of it, not even be read."""

    communicator: ApartCommunicator
    group: Sequence[int]
    key: tuple[object, ...]
    block: Block
    reduce: str
    out: Block | None
    mine: Block = field(init=False)
    left: bytes = field(init=False)
    result: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mine = np.array(self.block)
        if self.out is self.block:
            fill(self.block)
        self.left = self.block.tobytes()

    def poll(self) -> bool:
        return bool(self.result) or self.communicator.has_come(self.group, self.key)

    def wait(self) -> list[Block]:
        if not self.result:
            terms = self.communicator.gathered(self.group, self.key, self.mine)
            if self.block.tobytes() != self.left:
                raise CommunicationError(f"rank {self.communicator.rank} writes to what is under way: {self.key[0]}")
            self.result = [_put(reduction(terms, self.reduce), None if self.out is None else [self.out])]
        return self.result


class ApartCommunicator(Communicator):
    """One rank of `mesh`, beside others that share its `post`."""

    #: They are threads of one process, which compiles for all of them alike.
    meets_others = False

    def __init__(self, mesh: Mesh, rank: int, post: Post) -> None:
        self.mesh, self.rank, self.ranks, self._post = mesh, rank, (rank,), post
        self.traffic = Traffic.none(mesh.size)
        self._begun = 0

    # -- collectives ----------------------------------------------------------------------------------

    def all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        return self.start_all_reduce(blocks, axes, reduce, out).wait()

    def start_all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> Pending:
        group, (block,) = self._group(axes), blocks
        if len(group) == 1:
            return Done([_put(block, out)])
        key = self._spread(group, ("all-reduce", *axes, reduce), [block] * len(group))
        self._count(2 * (len(group) - 1) * block.nbytes // len(group))
        return _Flight(self, group, key, block, reduce, None if out is None else out[0])

    def all_gather(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        return [_put(np.concatenate(self._swap(group, ("all-gather", dim), [block] * len(group)), axis=dim), out)]

    def reduce_scatter(
        self, blocks: Sequence[Block], dim: int, axis: str, reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        parts = np.split(block, len(group), axis=dim)
        return [_put(reduction(self._swap(group, ("reduce-scatter", dim, reduce), parts), reduce), out)]

    def all_to_all(
        self, blocks: Sequence[Block], source: int, target: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        parts = np.split(block, len(group), axis=target)
        return [_put(np.concatenate(self._swap(group, ("all-to-all", source, target), parts), axis=source), out)]

    def local_slice(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        return [_put(np.split(block, len(group), axis=dim)[group.index(self.rank)], out)]

    def broadcast(
        self, blocks: Sequence[Block], axes: Sequence[str], root: int = 0, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group(axes), blocks
        return [_put(self._swap(group, ("broadcast", root), [block] * len(group))[root], out)]

    def barrier(self) -> None:
        self._swap(range(self.mesh.size), ("barrier",), [np.empty(0)] * self.mesh.size)

    # -- messages -------------------------------------------------------------------------------------

    def send(self, block: Block, source: int, target: int) -> None:
        self._post.send((source, target, "a letter"), np.array(block))
        if source != target:
            self._count(block.nbytes)

    def receive(self, source: int, target: int, shape: Sequence[int], dtype: Any) -> Block:
        block: Block = self._post.fetch((source, target, "a letter"))
        require_fit(array_kind(block.shape, block.dtype), array_kind(shape, dtype), self.mesh, source, target)
        return block

    def collect(self, blocks: Sequence[Block]) -> list[Block] | None:
        found = self._swap(range(self.mesh.size), ("collection",), [blocks[0]] * self.mesh.size)
        return found if self.leads else None

    def share(self, data: bytes, purpose: str) -> list[bytes]:
        parts = self._swap(range(self.mesh.size), (purpose,), [np.frombuffer(data, np.uint8)] * self.mesh.size)
        return [part.tobytes() for part in parts]

    def finish(self, purpose: str) -> None:
        """What has been asked for is done when it is there."""

    def hurry(self, seconds: float) -> None:
        """Nobody waits here for who does not come."""

    # -- by post --------------------------------------------------------------------------------------

    def _group(self, axes: Sequence[str]) -> Sequence[int]:
        return next(group for group in self.mesh.groups(axes) if self.rank in group)

    def _spread(self, group: Sequence[int], what: tuple[object, ...], parts: Sequence[Block]) -> tuple[object, ...]:
        """Sends each of a group its part; the key, by number, of what all of them send now."""
        self._begun += 1
        key = (*what, self._begun)
        for rank, part in zip(group, parts, strict=True):
            if rank != self.rank:
                self._post.send((self.rank, rank, key), np.array(part))
        return key

    def has_come(self, group: Sequence[int], key: tuple[object, ...]) -> bool:
        """Whether all of a group have sent their parts."""
        return all(self._post.has((rank, self.rank, key)) for rank in group if rank != self.rank)

    def gathered(self, group: Sequence[int], key: tuple[object, ...], mine: Block) -> list[Block]:
        """The parts of a group, as they come, in the order of its ranks."""
        return [mine if rank == self.rank else self._post.fetch((rank, self.rank, key)) for rank in group]

    def _swap(self, group: Sequence[int], what: tuple[object, ...], parts: Sequence[Block]) -> list[Block]:
        self._count((len(group) - 1) * parts[0].nbytes)
        return self.gathered(group, self._spread(group, what, parts), parts[list(group).index(self.rank)])

    def _count(self, sent: int) -> None:
        self.traffic.messages[self.rank] += 1
        self.traffic.bytes[self.rank] += sent


def _put(block: Block, out: Sequence[Block] | None) -> Block:
    if out is None:
        return block
    np.copyto(out[0], block)
    return out[0]


class DisagreementError(Exception):
    """Ranks that should hold the same do not."""


class Apart:
    """Executables of all ranks of a mesh, run side by side, as if they were one.

    `make` compiles for the rank whose communicator `gi.compile` finds; each is compiled in the thread that runs it.
    With `blocks`, ranks are handed blocks of their own, which they may keep.
    """

    def __init__(self, mesh: Mesh, make: Callable[[], Executable], blocks: bool = False) -> None:
        self._mesh, self._blocks, self._post = mesh, blocks, Post(mesh.size)
        self._threads = [ThreadPoolExecutor(1, f"rank {rank}") for rank in range(mesh.size)]
        self.executables: list[Executable] = []
        for rank, thread in enumerate(self._threads):
            communicator = ApartCommunicator(mesh, rank, self._post)
            with patch("graphir.backends.communicator.communicator_for", lambda *_, found=communicator: found):
                self.executables.append(thread.submit(make).result())

    def __call__(self, given: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """What a run returns, put together. Errors: the first of a rank; DisagreementError."""
        self._post.begin()
        runs = [
            thread.submit(self._run, rank, self._arguments(rank, given)) for rank, thread in enumerate(self._threads)
        ]
        failures = [error for error in (run.exception() for run in runs) if error is not None]
        if failures:
            raise next((error for error in failures if not isinstance(error, RankError)), failures[0])
        found = [run.result() for run in runs]
        titles = self.executables[0].fetched.titles
        return {name: self._whole(value, [each[name] for each in found]) for value, name in titles.items()}

    def _arguments(self, rank: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._blocks:
            return given
        layouts = {value.name: value.type.layout for value in self.executables[rank].graph.arguments}
        return {name: np.array(split_blocks(array, layouts[name], self._mesh)[rank]) for name, array in given.items()}

    def _run(self, rank: int, given: Mapping[str, Any]) -> dict[str, Any]:
        try:
            run = self.executables[rank](given)
        except BaseException as error:
            self._post.end(rank, error)
            raise
        self._post.end(rank)
        return {name: run.block(name) for name in run}

    def _whole(self, value: Value, blocks: Sequence[Any]) -> NDArray[Any]:
        layout = value.type.layout
        whole = np.asarray(join_blocks(blocks, layout, self._mesh))
        if not layout.pending:
            for rank, (mine, right) in enumerate(zip(blocks, split_blocks(whole, layout, self._mesh), strict=True)):
                if np.asarray(mine).tobytes() != right.tobytes():
                    raise DisagreementError(f"{value.name} has other bits on rank {rank}")
        return whole


__all__ = ["Apart", "ApartCommunicator", "DisagreementError", "Post"]
