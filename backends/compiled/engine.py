"""What a compiled backend brings: its arrays, its memory, its rules, and how large its tiles are.

Everything in this folder is written over an `Engine`, as reference kernels are over `xp`: what it records are calls on
the engine's arrays, whose contents it never looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import DTypeLike

from graphir.backends.compiled.emission import Array, Function, Rules


@dataclass(frozen=True)
class Tiling:
    """How an engine's tasks are cut.

    bytes    what the values of one tile may take together, as if each had memory of its own
    small    bytes below which a task is not worth a second thread
    causal   the least and the most queries of a tile that leaves out the causal half
    scores   how many values as large as the scores a tile of attention has at work, of 4 bytes each
    uneven   by how much a thread's share may be larger than the mean before another loop is tried
    whole    whether tasks stay whole, but for attention, of which only the queries are cut
    """

    bytes: int
    small: int
    causal: tuple[int, int]
    scores: int = 3
    uneven: float = 1.1
    whole: bool = False


class Engine(Protocol):
    """A compiled backend's arrays and what can be done to them.

    name       what the backend is called: "numpy", "cupy"
    xp         the array module, which reference kernels are given
    rules      of the operators
    tiling     how tasks are cut
    alignment  buffers begin at multiples of so many bytes
    """

    @property
    def name(self) -> str:
        """What the backend is called."""

    @property
    def xp(self) -> Any:
        """The array module."""

    @property
    def rules(self) -> Rules:
        """The operators' rules."""

    @property
    def tiling(self) -> Tiling:
        """How tasks are cut."""

    @property
    def alignment(self) -> int:
        """Where buffers may begin."""

    @property
    def add(self) -> Function:
        """add(X, Y, out): out = X + Y, to be recorded; out may be X."""

    @property
    def maximum(self) -> Function:
        """maximum(X, Y, out): the larger of each two, NaN where one is; out may be X."""

    @property
    def copy(self) -> Function:
        """copy(target, source): writes an array or a number into all of `target`, converted if need be."""

    def allocate(self, size: int) -> Array:
        """`size` uninitialised bytes, [size] of uint8, that begin where a buffer should."""

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """An uninitialised C-contiguous array."""

    def view(
        self,
        buffer: Array,
        shape: Sequence[int],
        dtype: DTypeLike,
        offset: int = 0,
        strides: Sequence[int] | None = None,
    ) -> Array:
        """An array in the memory of `buffer`, from byte `offset`; C-contiguous unless strides (bytes) are given."""

    def constant(self, array: Array) -> Array:
        """`array`, NumPy's or the engine's, as the engine's own that nobody will write to."""

    def address(self, array: Array) -> int:
        """Where the first element of `array` lies."""


def rounded(size: int, alignment: int) -> int:
    """`size` in bytes, up to where the next buffer may begin."""
    return -(-size // alignment) * alignment
