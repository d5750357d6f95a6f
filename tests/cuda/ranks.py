"""Ranks for tests of NCCL: threads of one process over the stand-in, and communicators whose blocks lie on a device."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphir.backends.arrays import to_numpy
from graphir.backends.communicator import Communicator, Pending
from graphir.backends.communicator.nccl import NcclCommunicator
from graphir.backends.communicator.tcp_peers import TcpPeers
from graphir.ir.layout import Mesh
from graphir.launch import Launch
from tests.support.free_port import free_port
from tests.support.processes import LIMIT


def on_threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    """What `run` returns for each rank, each in a thread of its own; the first rank's error if any raises."""
    found: list[Any] = [None] * count
    failures: dict[int, BaseException] = {}

    def work(rank: int) -> None:
        try:
            found[rank] = run(rank)
        except BaseException as error:
            failures[rank] = error

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(LIMIT)
    hanging = [rank for rank, each in enumerate(threads) if each.is_alive()]
    if failures:
        raise failures[min(failures)]
    assert not hanging, f"ranks {hanging} hang"
    return found


class Ranks:
    """As many TCP peers as asked for, in this process: what a launcher would start as processes."""

    def __init__(self, count: int) -> None:
        address = "127.0.0.1", free_port()
        self.peers: list[TcpPeers] = on_threads(
            count, lambda rank: TcpPeers(Launch(count, rank, count, rank, address), LIMIT)
        )

    def run(self, mesh: Mesh, work: Callable[[NcclCommunicator], Any]) -> list[Any]:
        """What `work` returns for each rank's communicator of `mesh`."""
        return on_threads(len(self.peers), lambda rank: work(NcclCommunicator(mesh, self.peers[rank], rank)))

    def failures(self, mesh: Mesh, work: Callable[[Communicator], None]) -> str:
        """What went wrong on any rank; nothing if nothing did."""
        try:
            self.run(mesh, lambda communicator: work(OnDevice(communicator)))
        except Exception:
            return traceback.format_exc()
        return ""

    def close(self) -> None:
        """Lets all leave."""
        for each in reversed(self.peers):
            each.close()


class OnDevice:
    """A communicator as it is, but for blocks: what comes as NumPy's goes through it as CuPy's, and comes back.

    So the conformance suite, which makes and compares NumPy's arrays, tests what happens to those on a device.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._inner = communicator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _call(self, operation: str, blocks: Sequence[Any], out: Sequence[Any] | None, given: dict[str, Any]) -> Any:
        placed = [place(block) for block in blocks]
        own = {id(block): each for block, each in zip(blocks, placed, strict=True)}
        targets = None if out is None else [own.get(id(each)) for each in out]
        if out is not None and targets is not None:
            # A target that is no operand is filled with what would be noticed.
            targets = [place(each) if target is None else target for each, target in zip(out, targets, strict=True)]
        before = [to_numpy(each).copy() for each in placed]
        made = getattr(self._inner, operation)(placed, **given, out=targets)
        return made, targets, placed, before

    def _carry_out(
        self, operation: str, blocks: Sequence[Any], out: Sequence[Any] | None, given: dict[str, Any]
    ) -> Any:
        made, targets, placed, before = self._call(operation, blocks, out, given)
        for each, kept in zip(placed, before, strict=True):
            if targets is None or not any(each is target for target in targets):
                np.testing.assert_array_equal(to_numpy(each), kept, err_msg="an operand was changed")
        if targets is None:
            return [home(each) for each in made]
        assert all(mine is target for mine, target in zip(made, targets, strict=True)), "out was not used"
        for target, each in zip(out or (), made, strict=True):
            np.copyto(target, to_numpy(each))
        return list(out or ())

    def all_reduce(self, blocks: Any, axes: Any, reduce: str = "sum", out: Any = None) -> Any:
        return self._carry_out("all_reduce", blocks, out, {"axes": axes, "reduce": reduce})

    def start_all_reduce(self, blocks: Any, axes: Any, reduce: str = "sum", out: Any = None) -> Pending:
        started, targets, _, _ = self._call("start_all_reduce", blocks, out, {"axes": axes, "reduce": reduce})
        return _Started(started, targets, out)

    def all_gather(self, blocks: Any, dim: int, axis: str, out: Any = None) -> Any:
        return self._carry_out("all_gather", blocks, out, {"dim": dim, "axis": axis})

    def reduce_scatter(self, blocks: Any, dim: int, axis: str, reduce: str = "sum", out: Any = None) -> Any:
        return self._carry_out("reduce_scatter", blocks, out, {"dim": dim, "axis": axis, "reduce": reduce})

    def all_to_all(self, blocks: Any, source: int, target: int, axis: str, out: Any = None) -> Any:
        return self._carry_out("all_to_all", blocks, out, {"source": source, "target": target, "axis": axis})

    def local_slice(self, blocks: Any, dim: int, axis: str, out: Any = None) -> Any:
        return self._carry_out("local_slice", blocks, out, {"dim": dim, "axis": axis})

    def broadcast(self, blocks: Any, axes: Any, root: int = 0, out: Any = None) -> Any:
        return self._carry_out("broadcast", blocks, out, {"axes": axes, "root": root})

    def send(self, block: Any, source: int, target: int) -> None:
        placed = place(block)
        self._inner.send(placed, source, target)
        placed[...] = 1  # it may be changed at once

    def receive(self, source: int, target: int, shape: Any, dtype: Any) -> Any:
        return home(self._inner.receive(source, target, shape, dtype))

    def collect(self, blocks: Any) -> Any:
        found = self._inner.collect([place(block) for block in blocks])
        return None if found is None else [home(each) for each in found]

    def whole(self, blocks: Any, layout: Any) -> Any:
        return home(self._inner.whole([place(block) for block in blocks], layout))


class _Started:
    """A collective under way on the device."""

    def __init__(self, inner: Pending, targets: Any, out: Any) -> None:
        self._inner, self._targets, self._out = inner, targets, out

    def poll(self) -> bool:
        return self._inner.poll()

    def wait(self) -> list[Any]:
        for made, target, out in zip(self._inner.wait(), self._targets, self._out, strict=True):
            assert made is target
            np.copyto(out, home(made))
        return list(self._out)


def place(array: Any) -> Any:
    """An array of CuPy with the same content, as little contiguous as `array` is."""
    import cupy

    array = np.asarray(array)
    if array.flags.c_contiguous:
        return cupy.array(array)
    twice = cupy.empty((*array.shape, 2), array.dtype)
    strided = twice[..., 0]
    strided[...] = cupy.array(np.ascontiguousarray(array))
    return strided


def home(array: Any) -> Any:
    """The same as an array of NumPy. That it lay on the device is held to."""
    import cupy

    assert isinstance(array, cupy.ndarray), f"{type(array).__name__} is not on the device"
    return np.asarray(to_numpy(array))


__all__ = ["OnDevice", "Ranks", "home", "on_threads", "place"]
