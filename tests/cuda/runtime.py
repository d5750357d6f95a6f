"""The stand-in's device: streams, captures, memory, and what CUDA says of itself.

Work on a stream is carried out at once, or as late as may be where a test asks for that; while it is captured, it is
recorded and not carried out, and whatever would wait for the device raises: what CUDA refuses spoils the capture, what
CuPy refuses of itself does not. Allocating is left alone, as CuPy captures: who must not has `using_allocator`.
"""

from __future__ import annotations

import ctypes
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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


class Capture:
    """Work that streams collect: the one that began, and those that wait for an event in it."""

    def __init__(self, origin: Stream) -> None:
        self.origin = origin
        self.work: list[Callable[[], None]] = []
        self.is_broken = False
        #: Streams that have joined, and those whose work the first does not wait for yet.
        self.joined, self.apart = {origin}, set[Stream]()

    def spoil(self, error: str) -> CUDARuntimeError:
        """What is raised for something that no capture survives."""
        self.is_broken = True
        return CUDARuntimeError(error)


class Event:
    """A mark in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.is_timed = not disable_timing
        self.stream: Stream | None = None
        self.behind = 0
        #: What the stream was captured into when the event was recorded.
        self.capture: Capture | None = None

    def record(self, stream: Stream | None = None) -> None:
        assert stream is None or isinstance(stream, Stream)
        (stream or STATE.stream).record(self)

    def synchronize(self) -> None:
        if self.capture is not None:
            raise self.capture.spoil("cudaErrorCapturedEvent: the event is part of a capture")
        waits("Event.synchronize")
        if self.stream is not None:
            self.stream.work_off(self.behind)

    @property
    def done(self) -> bool:
        if self.capture is not None:
            # CUDA's error is not told: CuPy asks whether there was none.
            self.capture.is_broken = True
        return self.capture is None


class Stream:
    """A stream; work on it is carried out at once, or when somebody waits for it, unless it is captured."""

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.null, self.non_blocking = null, non_blocking
        self.capture: Capture | None = None
        self._before: list[Stream] = []
        self._queue: deque[Callable[[], None]] = deque()
        self._given = self._done = 0
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
        if self.capture is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is captured already")
        self.capture = Capture(self)
        STATE.captures.append(self.capture)

    def end_capture(self) -> Graph:
        capture = self.capture
        if capture is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not captured")
        if capture.origin is not self:
            raise capture.spoil("cudaErrorStreamCaptureUnmatched: another stream began the capture")
        STATE.captures.remove(capture)
        for stream in capture.joined:
            stream.capture = None
        if capture.is_broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: the capture has failed before")
        if capture.apart:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnjoined: work of other streams is not waited for")
        STATE.graphs.append(Graph(capture.work))
        return STATE.graphs[-1]

    def is_capturing(self) -> bool:
        return self.capture is not None

    def record(self, event: Event | None = None) -> Event:
        self.require_legal()
        event = event or Event()
        event.stream, event.capture, event.behind = self, self.capture, self._given
        return event

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)
        self.require_legal()
        capture = event.capture
        if capture is not None:
            if self.capture not in (None, capture):
                raise capture.spoil("cudaErrorStreamCaptureMerge: the event is part of another capture")
            self.capture = capture
            capture.joined.add(self)
            if self is capture.origin and event.stream is not None:
                capture.apart.discard(event.stream)
            elif self is not capture.origin:
                capture.apart.add(self)
        elif self.capture is not None and event.stream is not None:
            raise self.capture.spoil("cudaErrorStreamCaptureIsolation: the event is no part of the capture")
        elif event.stream is not None:
            self.put(partial(event.stream.work_off, event.behind))

    def synchronize(self) -> None:
        waits("Stream.synchronize")
        self.work_off()

    def put(self, work: Callable[[], None]) -> None:
        """Adds work."""
        self._queue.append(work)
        self._given += 1
        if not STATE.is_late:
            self.work_off()

    def work_off(self, number: int | None = None) -> None:
        """Carries out what was added first, as many as `number` in all, or everything."""
        while self._queue and (number is None or self._done < number):
            self._done += 1
            self._queue.popleft()()

    def require_legal(self) -> None:
        """The default stream waits for all streams that are not told otherwise, and so spoils what they capture."""
        waited_for = [capture for capture in STATE.captures if not capture.origin.non_blocking]
        if self.null and waited_for:
            raise waited_for[0].spoil("cudaErrorStreamCaptureImplicit: the default stream waits for a captured one")
        if self.capture is not None and self.capture.is_broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: the capture has failed before")


class State:
    """The device: its current stream, the graphs that were captured, and how often it was waited for.

    Each thread has a current stream, and an allocator that is asked first, of its own.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self.graphs: list[Graph] = []
        self.captures: list[Capture] = []
        #: Whether streams work as late as they may: what nobody waits for stays undone.
        self.is_late = False
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
    STATE.stream.require_legal()
    capture = STATE.stream.capture
    if capture is None:
        STATE.stream.put(work)
        return
    capture.work.append(work)
    if STATE.stream is not capture.origin:
        capture.apart.add(STATE.stream)


def waits(what: str) -> None:
    """Notes that something waits for the device, which no capture survives."""
    if STATE.stream.capture is not None:
        raise STATE.stream.capture.spoil(f"cudaErrorStreamCaptureUnsupported: {what} waits while a stream is captured")
    STATE.waits.append(what)


def transfers(what: str, direction: str) -> None:
    """Notes that something waits for a copy between host and device. CuPy itself refuses it in a capture, which goes
    on."""
    refuse_transfer(direction)
    STATE.stream.work_off()
    STATE.waits.append(what)


def refuse_transfer(direction: str) -> None:
    if STATE.stream.capture is not None:
        raise RuntimeError(f"the current stream is capturing, so {direction} transfers are disallowed")


def refuse_cublas() -> None:
    """CuPy's own calls of cuBLAS."""
    if STATE.stream.capture is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


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


# -- memory -----------------------------------------------------------------------------------------------


class UnownedMemory:
    """Memory at an address, which `owner` keeps there."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1) -> None:
        self.ptr, self.size, self._owner = ptr, size, owner


class MemoryPointer:
    """An address in some memory, which it keeps."""

    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + int(offset)

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + int(offset))

    def copy_from_host_async(self, source: int, size: int, stream: Stream | None = None) -> None:
        refuse_transfer("H2D")
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
