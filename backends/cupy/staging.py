"""From NumPy's memory to the device's without waiting: by page-locked memory, which the device reads by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array

#: Larger arrays are copied from where they lie: waiting for them costs less than so much page-locked memory.
_LARGEST = 1 << 20


class Staging:
    """Page-locked buffers, one for each array on the device that something is sent to."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._buffers: dict[int, Any] = {}
        self._sent: Any = None

    def begin(self) -> None:
        """Before a run sends anything: waits until the device has read what the one before sent."""
        if self._sent is not None:
            self._sent.synchronize()
            self._sent = None

    def send(self, source: Array, target: Any) -> None:
        """Copies NumPy's `source` into `target` [like source], C-contiguous, on the current stream."""
        if source.nbytes == 0:
            return
        if source.nbytes > _LARGEST:
            target.set(np.ascontiguousarray(source))
            return
        key = target.data.ptr
        if key not in self._buffers:
            self._buffers[key] = self._cupy.cuda.alloc_pinned_memory(source.nbytes)
        buffer = self._buffers[key]
        np.frombuffer(buffer, source.dtype, source.size).reshape(source.shape)[...] = source
        target.data.copy_from_host_async(buffer.ptr, source.nbytes)

    def end(self) -> None:
        """After a run has sent everything."""
        self._sent = self._cupy.cuda.get_current_stream().record()
