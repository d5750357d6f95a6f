"""What a compiled backend brings: its arrays, its memory, its rules, and how large its tiles are.

Everything in this folder is written over an `Engine`, as reference kernels are over `xp`: what it records are calls on
the engine's arrays, whose contents it never looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import DTypeLike

from graphir.backends.compiled.emission import Array, Function, Rules
from graphir.backends.compiled.tiles import Tiling


class Engine(Protocol):
    """A compiled backend's arrays and what can be done to them.

    name       what the backend is called: "numpy", "cupy"
    xp         the array module, which reference kernels are given
    rules      of the operators
    tiling     how tasks are cut
    alignment  buffers begin at multiples of so many bytes
    checks_ids whether ids that a program makes are looked at before they are used, which on a device would have to wait
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
    def checks_ids(self) -> bool:
        """Whether ids that a program makes are looked at."""

    @property
    def follows_sights(self) -> bool:
        """Whether programs are written anew for what the queries of a run see."""

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
