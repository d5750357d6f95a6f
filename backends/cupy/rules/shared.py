"""What the rules share: the device's calls, and kernels from the texts in `backends/cupy/cuda`.

A recorded launch is `kernel(grid, block, arguments)`: arrays are handed over by their address, with strides, in
elements, beside it. Kernels number positions over two axes at most; `positions` merges an array's axes to two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphir.backends.compiled.emission import Calls, Function
from graphir.backends.cupy.engine import CupyEngine
from graphir.backends.cupy.matmul import Axis, merged, steps
from graphir.backends.cupy.module import compiled
from graphir.backends.cupy.text import TYPES, included
from graphir.backends.effects import launches

#: The largest grid of blocks that go through their rows in turns: enough to fill any device several times over.
_MOST_BLOCKS = 1 << 16
_FOLDER = Path(__file__).parent.parent / "cuda"


class DeviceCalls(Calls, Protocol):
    """As `Calls`, for a device. Nothing recorded may synchronise with the host or allocate: it will be captured."""

    @property
    def engine(self) -> CupyEngine:
        """The engine that the calls are for."""


# -- kernels ----------------------------------------------------------------------------------------------


def source(file: str, **dtypes: str) -> str:
    """The text of a module: `file`, whose kernel is `run`, and in which the names given stand for these dtypes."""
    types = "".join(f"typedef {TYPES[dtype]} {name};\n" for name, dtype in dtypes.items())
    return "\n".join([included("conversions"), types, (_FOLDER / file).read_text(encoding="utf-8")])


def sum_dtype(dtype: Any) -> str:
    """What numbers of `dtype` are added up in."""
    return "float64" if dtype == np.float64 else "float32"


def kernel(call: DeviceCalls, file: str, output: int, **dtypes: str) -> Function:
    """The kernel of `file`, compiled once a process, which writes the argument at `output`."""
    return launches(compiled(call.engine.xp, source(file, **dtypes)), [output])


def launch(call: DeviceCalls, function: Function, blocks: int, threads: int, *arguments: Any) -> None:
    """Records a launch; Python's integers are 64-bit ones to the kernel."""
    call(function, (min(max(blocks, 1), _MOST_BLOCKS),), (threads,), tuple(map(_number, arguments)))


def _number(argument: Any) -> Any:
    return np.int64(argument) if isinstance(argument, int) else argument


# -- geometry ---------------------------------------------------------------------------------------------


def positions(shape: Sequence[int], one: Sequence[int], other: Sequence[int]) -> list[Axis] | None:
    """The axes of `shape`, two, with strides `x` in one array and `y` in another; None if they are more."""
    axes = merged([Axis(size, x, 0, y) for size, x, y in zip(shape, one, other, strict=True)])
    return None if len(axes) > 2 else [Axis(1, 0, 0, 0)] * (2 - len(axes)) + axes


__all__ = ["Axis", "DeviceCalls", "kernel", "launch", "positions", "source", "steps", "sum_dtype"]
