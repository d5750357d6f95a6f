"""The stand-in's device: streams, captures, memory, and what CUDA says of itself.

Work on a stream is carried out at once; while it is captured, it is recorded and not carried out, and whatever would
wait for the device raises. Allocating is left alone, as CuPy captures: who must not has `using_allocator`.
"""

from __future__ import annotations

import ctypes
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class CUDARuntimeError(RuntimeError):
    """What CUDA refuses."""


class OutOfMemoryError(MemoryError):
    """What the device's memory does not suffice for."""


# -- streams ----------------------------------------------------------------------------------------------


class Graph:
    """A captured graph: work in the order in which it was asked for."""

    def __init__(self, work: list[Callable[[], None]]) -> None:
        self.work = work
        self.launches = 0

    def launch(self, stream: Stream | None = None) -> None:
        self.launches += 1
        for each in self.work:
            enqueue(each)


class Event:
    """A mark in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.is_timed = not disable_timing

    def record(self, stream: Stream | None = None) -> None:
        assert stream is None or isinstance(stream, Stream)

    def synchronize(self) -> None:
        waits("Event.synchronize")

    @property
    def done(self) -> bool:
        return True


class Stream:
    """A stream; work on it is carried out at once, unless it is captured."""

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.null, self.non_blocking = null, non_blocking
        self.capture: list[Callable[[], None]] | None = None
        self.is_broken = False
        self._before: list[Stream] = []
        self.ptr = 0 if null else id(self)

    def __enter__(self) -> Stream:
        self._before.append(STATE.stream)
        STATE.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        STATE.stream = self._before.pop()

    def begin_capture(self, mode: int | None = None) -> None:
        if self.null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert self.capture is None, "the stream is captured already"
        self.capture, self.is_broken = [], False

    def end_capture(self) -> Graph:
        assert self.capture is not None, "the stream is not captured"
        work, self.capture = self.capture, None
        if self.is_broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: the capture has failed before")
        STATE.graphs.append(Graph(work))
        return STATE.graphs[-1]

    def is_capturing(self) -> bool:
        return self.capture is not None

    def record(self, event: Event | None = None) -> Event:
        return event or Event()

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)

    def synchronize(self) -> None:
        waits("Stream.synchronize")


class State:
    """The device: its current stream, the graphs that were captured, and how often it was waited for.

    Each thread has a current stream, and an allocator that is asked first, of its own.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self.graphs: list[Graph] = []
        self.waits: list[str] = []
        self.allocations = 0
        #: Bytes that can still be allocated; None for all that the machine has.
        self.memory: int | None = None

    @property
    def stream(self) -> Stream:
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = Stream(null=True)
        found: Stream = self._of_thread.stream
        return found

    @stream.setter
    def stream(self, stream: Stream) -> None:
        self._of_thread.stream = stream

    @property
    def allocator(self) -> Callable[[int], Any] | None:
        return getattr(self._of_thread, "allocator", None)

    @allocator.setter
    def allocator(self, allocator: Callable[[int], Any] | None) -> None:
        self._of_thread.allocator = allocator


STATE = State()


def enqueue(work: Callable[[], None]) -> None:
    """Hands work to the current stream."""
    if STATE.stream.capture is None:
        work()
    else:
        STATE.stream.capture.append(work)


def waits(what: str) -> None:
    """Notes that something waits for the device; nothing may while a stream is captured."""
    refuse_in_capture(f"{what} waits for the device")
    STATE.waits.append(what)


def allocates(size: int) -> None:
    if STATE.allocator is not None:
        STATE.allocator(size)
    STATE.allocations += 1
    if STATE.memory is not None and size > STATE.memory:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: 0 bytes).")


@contextmanager
def using_allocator(allocator: Callable[[int], Any] | None = None) -> Iterator[None]:
    """Whatever is allocated inside is asked of `allocator` first."""
    before, STATE.allocator = STATE.allocator, allocator
    try:
        yield
    finally:
        STATE.allocator = before


def refuse_in_capture(why: str) -> None:
    if STATE.stream.capture is not None:
        STATE.stream.is_broken = True
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {why} while a stream is captured")


# -- memory -----------------------------------------------------------------------------------------------


class MemoryPointer:
    """An address, and the array that keeps what is there alive."""

    def __init__(self, ptr: int, mem: Any) -> None:
        self.ptr, self.mem = ptr, mem

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.ptr + int(offset), self.mem)

    def copy_from_host_async(self, source: int, size: int, stream: Stream | None = None) -> None:
        if STATE.stream.capture is not None:
            # CuPy's own refusal, after which the capture goes on.
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        enqueue(lambda: _move(self.ptr, source, size))

    def copy_from_async(self, source: MemoryPointer, size: int, stream: Stream | None = None) -> None:
        enqueue(lambda: _move(self.ptr, source.ptr, size))

    def memset_async(self, value: int, size: int, stream: Stream | None = None) -> None:
        enqueue(lambda: ctypes.memset(self.ptr, value, size) and None)


def _move(target: int, source: int, size: int) -> None:
    ctypes.memmove(target, source, size)


def alloc_pinned_memory(size: int) -> Any:
    """`size` bytes that NumPy can look at, with their address as `ptr`."""
    kind = type("PinnedMemoryPointer", (ctypes.c_char * size,), {"ptr": property(ctypes.addressof)})
    return kind()


# -- the device -----------------------------------------------------------------------------------------


class Device:
    """A device by its number."""

    def __init__(self, number: int = 0) -> None:
        self.id = number

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        waits("Device.synchronize")


class Runtime(types.SimpleNamespace):
    """`cupy.cuda.runtime`: one device of 8 GiB."""

    CUDARuntimeError = CUDARuntimeError
    streamCaptureModeRelaxed = 2  # noqa: N815

    def __init__(self) -> None:
        super().__init__(devices=1)

    def getDeviceCount(self) -> int:
        if self.devices == 0:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return int(self.devices)

    def getDevice(self) -> int:
        return 0

    def setDevice(self, number: int) -> None:
        assert 0 <= number < self.devices

    def memGetInfo(self) -> tuple[int, int]:
        return 8 << 30 if STATE.memory is None else STATE.memory, 8 << 30

    def getDeviceProperties(self, number: int) -> dict[str, Any]:
        return {
            "name": b"stand-in", "major": 9, "minor": 0, "multiProcessorCount": 4, "totalGlobalMem": 8 << 30,
            "warpSize": 32, "maxThreadsPerBlock": 1024, "sharedMemPerBlock": 48 << 10,
            "sharedMemPerBlockOptin": 227 << 10,
        }  # fmt: skip

    def driverGetVersion(self) -> int:
        return 13000

    def runtimeGetVersion(self) -> int:
        return 13000

    def deviceSynchronize(self) -> None:
        waits("deviceSynchronize")
