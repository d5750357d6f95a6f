"""A graph in whose run a test has its hands: Y = 2 X, by a kernel that calls `hook` on its way.

with hooked() as graph, during(graph, act): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import graphir as gi
from graphir.backends.executable import Executable
from graphir.ir import operator as language

#: Large enough that three threads share it, and that it is read where it lies.
SIZES = {"B": 128, "D": 96}


class Hook:
    """What the kernel calls, in whatever thread it runs; nothing unless told."""

    def __init__(self) -> None:
        self.act: Callable[[], object] = lambda: None

    def compile(self, threads: int = 2, **options: Any) -> Executable:
        """The graph, compiled."""
        return gi.compile(self.graph, SIZES, threads=threads, **options)

    @property
    def graph(self) -> gi.Graph:
        """Y = 2 X; Z = Y + 1."""
        block = gi.Builder("hooked", dtype="float64")
        B, D = gi.dims("B D")
        Y = self.operator(block.input("X", (B, D)), name="Y")
        # A product between them, where threads meet.
        return block.build(Y, gi.matmul(gi.transpose(Y), Y, name="Z"))

    operator: gi.Operator


@contextmanager
def hooked() -> Iterator[Hook]:
    """A hook, and an operator that calls it, declared as long as this lasts."""
    hook = Hook()
    with patch.object(language, "_REGISTRY", dict(language._REGISTRY)):

        @gi.operator("hooked", "X[*b] -> Y[*b]", elementwise=True, no_gradient="it is for tests")
        def kernel(xp: gi.Xp, X: gi.Array) -> gi.Array:
            """Y = 2 X. It looks at memory, so that it has no formula: a formula has no hook."""
            flat = X.ravel()
            hook.act()
            return (2 * flat).reshape(X.shape)

        hook.operator = kernel
        yield hook


def content(seed: int = 0) -> dict[str, NDArray[Any]]:
    """An argument; of small whole numbers, so that sums are exact."""
    return {"X": np.random.default_rng(seed).integers(-4, 5, (SIZES["B"], SIZES["D"])).astype(np.float64)}


def is_right(made: Any, seed: int = 0) -> bool:
    """Whether a run of `content(seed)` made what it should."""
    Y = 2 * content(seed)["X"]
    return bool(np.array_equal(made["Y"], Y) and np.array_equal(made["Z"], Y.T @ Y))
