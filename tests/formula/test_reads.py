"""A formula is good for as long as what its kernel reads is what it was; what may change unnoticed is not traced."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.formula.reads import what_it_reads
from graphir.formula.terms import UntraceableError
from graphir.ir.operator import Operator

B, D = gi.dims("B D")
SIZES = {"B": 3, "D": 4}
Kernel = Callable[..., Any]

SCALE: Any = 2.0
PARTS = (1, 2.0)
CONFIG: Any = SimpleNamespace(scale=2.0, inner=SimpleNamespace(scale=2.0))
TABLE = {"scale": 2.0}
LIST = [2.0]
ARRAY = np.array([2.0])


class Settings:
    """Holds a number."""

    scale: Any = 2.0


def helper(X: Any) -> Any:
    """Reads a global, too."""
    return X * SCALE


@functools.lru_cache
def remembered(n: float) -> float:
    """A number that somebody remembers."""
    return n * PARTS[0]


def _by_global(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Z"""
    return X * SCALE


def _by_helper(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Z"""
    return helper(X)


def _by_inner_function(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Z"""
    return (lambda Y: Y * SCALE)(X)


def _by_attribute(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Z"""
    return X * CONFIG.scale


def _by_attributes(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Z"""
    return X * CONFIG.inner.scale


def _by_class(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Z"""
    return X * Settings.scale


@pytest.mark.parametrize("kernels", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kernel", "where", "name"),
    [
        (_by_global, globals(), "SCALE"),
        (_by_helper, globals(), "SCALE"),
        (_by_inner_function, globals(), "SCALE"),
        (_by_attribute, CONFIG.__dict__, "scale"),
        (_by_attributes, CONFIG.inner.__dict__, "scale"),
        (_by_class, Settings, "scale"),
    ],
    ids=lambda each: getattr(each, "__name__", "") if callable(each) else "",
)
def test_what_is_compiled_anew_has_the_new_number(
    kernel: Kernel, where: Any, name: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = _graph(kernel)
    X = np.ones((3, 4), "float32")
    for number in (2.0, 3.0, -0.0, 2.0):
        if isinstance(where, dict):
            monkeypatch.setitem(where, name, number)
        else:
            monkeypatch.setattr(where, name, number)
        run = gi.compile(graph, SIZES, kernels=kernels)
        assert not run.report().fallbacks  # type: ignore[attr-defined]
        found = run({"X": X})["Z"]
        assert np.array_equal(found, X * np.float32(number))
        assert np.array_equal(np.signbit(found), np.signbit(X * np.float32(number)))


def test_a_cell_and_a_default_that_change() -> None:
    number = 2.0

    def kernel(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Z"""
        return helped(X * number)

    def helped(X: Any, by: float = 1.0) -> Any:
        return X * by

    graph, X = _graph(kernel), np.ones((3, 4), "float32")
    assert np.array_equal(gi.compile(graph, SIZES)({"X": X})["Z"], 2 * X)
    number = 5.0
    assert np.array_equal(gi.compile(graph, SIZES)({"X": X})["Z"], 5 * X)
    helped.__defaults__ = (3.0,)
    assert np.array_equal(gi.compile(graph, SIZES)({"X": X})["Z"], 15 * X)


def _counted() -> Kernel:
    calls = 0

    def kernel(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Z"""
        nonlocal calls
        calls += 1
        return X * calls

    return kernel


def _written(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Z"""
    global SCALE
    SCALE = 2.0
    return X * SCALE


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (lambda xp, X: X * TABLE["scale"], "it reads TABLE, a dict, which may change"),
        (lambda xp, X: X * LIST[0], "it reads LIST, a list, which may change"),
        (lambda xp, X: X * ARRAY[0], "it reads ARRAY, a ndarray, which may change"),
        (lambda xp, X: X * CONFIG.inner.other, "it reads CONFIG.inner.other, which may change"),
        (lambda xp, X: X * getattr(CONFIG, "scale"), "it asks for getattr"),  # noqa: B009
        (lambda xp, X: X * random.random(), "it calls Random.random, whose code cannot be read"),
        (lambda xp, X: X * np.random.default_rng(0).random(), "it reads the module np.random, which may change"),
        (lambda xp, X: X * Settings().scale, "it uses the class Settings, whose code cannot be read"),
        (_counted(), "it changes calls, which is not its own"),
        (_written, "it changes the global SCALE"),
        (lambda xp, X: X if type(X) is not X else 2, "it asks"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_may_change_unnoticed_is_not_traced(kernel: Kernel, reason: str) -> None:
    with pytest.raises(UntraceableError, match=reason):
        what_it_reads(kernel)


@pytest.mark.parametrize(
    "kernel",
    [
        lambda xp, X: X * np.pi + np.float32(2) + PARTS[0] + remembered(2.0),
        lambda xp, X: xp.where(X > 0, X, 0) if X is not None else X,
        lambda xp, X: sum(X * part for part in PARTS) + max(1, 2) + np.maximum(1, 2),
    ],
)
def test_what_cannot_change_is_read(kernel: Kernel) -> None:
    assert what_it_reads(kernel) == what_it_reads(kernel)
    hash(what_it_reads(kernel))


def _graph(kernel: Kernel) -> gi.Graph:
    operator = Operator("reads", "X[*b d!] -> Z[*b d!]", kernel, no_gradient="no test asks for it")
    block = gi.Builder("reads")
    return block.build(operator(block.input("X", (B, D)), name="Z"))
