"""The CuPy backend's executable: programs on one GPU, captured into CUDA graphs, their buffers where they are for good.

Arguments are copied into the program's own buffers, so that what is captured stays right whatever the caller hands in:
from NumPy's memory or the device's; not at all if it is the buffer itself, as `run.updated()` of a donating executable
is. Results are copied out of them, so that they are the caller's. Nothing waits for the device but who looks at a
result: `float(run["L"])`, `run.numpy("logits")`.

So a donating executable has room for the state of one training. Where another's is handed in, it is written over the
first, whose arrays are known by the memory that they were lent as, and refused.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

from graphir.backends.arrays import is_on_device
from graphir.backends.compiled.buffers import Span, addresses
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.backends.compiled.kernels import Kernels
from graphir.backends.compiled.program import Program
from graphir.backends.cupy.attention import AttentionKernels
from graphir.backends.cupy.capture import Recording
from graphir.backends.cupy.engine import CupyEngine
from graphir.backends.cupy.kernels import CudaKernels
from graphir.backends.cupy.staging import Staging
from graphir.backends.device import free_memory, spelled
from graphir.backends.plan import ExecutionPlan
from graphir.errors import DeviceError, InputError
from graphir.ir.graph import Graph
from graphir.ir.value import Value


class CupyExecutable(CompiledExecutable):
    """As `CompiledExecutable`, on the current device. With `tf32`, products of float32 round their factors.

    The first run carries calls out one by one, the second captures them, all others launch what was captured.
    Errors: MissingDependencyError without CuPy, DeviceError without a GPU or where its memory does not suffice.
    """

    engine: CupyEngine
    no_child = "CUDA does not go along; start processes by 'spawn', and compile there"

    def __init__(
        self,
        reference: ExecutionPlan,
        optimised: Graph,
        *,
        tf32: bool = False,
        kernels: Kernels | None = None,
        **options: Any,
    ) -> None:
        engine = CupyEngine(tf32)
        made = kernels or AttentionKernels(engine, CudaKernels(engine))
        super().__init__(reference, optimised, engine, kernels=made, **options)

    # -- programs -------------------------------------------------------------------------------------

    @cached_property
    def _stream(self) -> Any:
        # The default stream cannot be captured.
        return self.xp.cuda.Stream(non_blocking=True)

    @cached_property
    def _staging(self) -> Staging:
        return Staging(self.xp)

    def _write(self, rank: int, before: Mapping[int, Program]) -> Program:
        try:
            with self._stream:
                return super()._write(rank, before)
        except self.xp.cuda.memory.OutOfMemoryError:
            count = len(self.communicator.ranks)
            ranks = f" for each of {count} ranks" if count > 1 else ""
            needed, left = spelled(self.memory.bytes), spelled(free_memory())
            raise DeviceError(
                f"{self.graph.name} needs {needed}{ranks}, and the device has {left} left; compile with memory=… to "
                f"recompute more, or for smaller sizes\n{self.memory}"
            ) from None

    @cached_property
    def recordings(self) -> list[list[Recording]]:
        """For each rank held here, its segments, as they are captured."""
        return [
            [Recording(self.xp, self._stream, segment.calls[0]) for segment in program.segments]
            for program in self.programs
        ]

    @cached_property
    def _rooms(self) -> list[tuple[Span, Value]]:
        """The buffers of arguments, in the order of their addresses."""
        spans = (
            (addresses(self.engine, program.rank.arrays[value]), value)
            for program in self.programs
            for value in self.optimised.arguments
            if value.dtype != "text"
        )
        return sorted(((span, value) for span, value in spans if span), key=lambda each: each[0])

    # -- running --------------------------------------------------------------------------------------

    def _receive(self, given: Mapping[Value, Any]) -> dict[Value, Any]:
        return {value: self._found_apart(value, array) for value, array in given.items()}

    def _found_apart(self, value: Value, array: Any) -> Any:
        """An argument, as a copy if it lies in the room of another, which may be written before it is read."""
        if not is_on_device(array) or self._lent.get(value.name) is array:
            return array
        address = self.engine.address(array)
        at = bisect.bisect_right(self._rooms, address, key=lambda each: each[0][0]) - 1
        if at < 0 or address >= self._rooms[at][0][1]:
            return array
        name = self._rooms[at][1].name
        lent = self._lent.get(name)
        if lent is None or array.data.mem is not lent.data.mem:
            raise InputError(
                f"the array that is given for {value.name} is {name} of an earlier run, and other content has been "
                f"handed in for {name} since: with donate=True it was written over; go on from run.updated() of the "
                f"latest run, and compile an executable for each training"
            )
        return array if name == value.name else array.copy()

    def _computing(self) -> AbstractContextManager[object]:
        return self._on_stream()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """What the caller's stream has been asked for comes before the run, and what it is asked for later, behind."""
        callers = self.xp.cuda.get_current_stream()
        self._stream.wait_event(callers.record())
        self._staging.begin()
        try:
            with self._stream:
                yield
        finally:
            callers.wait_event(self._stream.record())

    def _hand_in(self, program: Program, value: Value, block: Any) -> None:
        held = program.rank.arrays[value]
        on_device = is_on_device(block)
        if on_device and self.engine.address(block) == self.engine.address(held) and block.flags.c_contiguous:
            return
        if program is self.programs[0]:
            # What an earlier run has lent will not be what lies there.
            self._lent.pop(value.name, None)
        if on_device or value.dtype == "text":
            self.engine.copy(held, block)
        else:
            self._staging.send(block, held)

    def _prepare_run(self) -> None:
        self._staging.end()

    def _run_segment(self, rank: int, index: int) -> None:
        self.recordings[rank][index].run()

    @cached_property
    def _old(self) -> dict[Value, Value]:
        """For each donated argument's new content the argument."""
        return {new: old for old, new in self.prepared.updates.items()}

    def _hand_out(self, value: Value, given: Any) -> Any:
        if value in self._old:
            old = self._old[value]
            for program in self.programs:
                arrays = program.rank.arrays
                if arrays[old] is not arrays[value]:
                    self.engine.copy(arrays[old], arrays[value])
            blocks = self._blocks(old)
            made = self.local.join(value, blocks)
            return self._lend(old.name, made) if made is blocks[0] else made
        blocks = self._blocks(value)
        made = self.local.join(value, blocks)
        return made.copy() if any(made is block for block in blocks) else made

    @cached_property
    def _lent(self) -> dict[str, Any]:
        """What donated arguments are lent as, by name, as long as nothing else is handed in for them."""
        return {}

    def _lend(self, name: str, buffer: Any) -> Any:
        """An array over a buffer, in memory that is told apart from what was lent before."""
        if name not in self._lent:
            cuda = self.xp.cuda
            memory = cuda.UnownedMemory(self.engine.address(buffer), buffer.nbytes, buffer)
            self._lent[name] = self.xp.ndarray(buffer.shape, buffer.dtype, cuda.MemoryPointer(memory, 0))
        return self._lent[name]


__all__ = ["CupyExecutable"]
