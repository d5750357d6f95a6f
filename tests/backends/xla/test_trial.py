"""What a kernel that is written for NumPy may mean on XLA without a word: it is tried on numbers, and refused."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import OperatorError
from tests.support import xla  # noqa: F401  which has devices

pytestmark = pytest.mark.slow


def _adds(Y: Any, X: Any) -> None:
    Y += X


def sorts(xp: gi.Xp, X: gi.Array) -> gi.Array:
    Y = X.copy()
    Y.sort(axis=-1)
    return Y


def adds_by_a_function(xp: gi.Xp, X: gi.Array) -> gi.Array:
    Y = X + 0
    operator.iadd(Y, X)
    return Y


def adds_by_what_it_closes_over() -> Callable[..., Any]:
    helper = _adds

    def kernel(xp: gi.Xp, X: gi.Array) -> gi.Array:
        Y = X + 0
        helper(Y, X)
        return Y

    return kernel


def adds_by_a_partial(xp: gi.Xp, X: gi.Array) -> gi.Array:
    Y = X + 0
    functools.partial(_adds, Y)(X)
    return Y


def writes_into_an_operand(xp: gi.Xp, X: gi.Array) -> gi.Array:
    X += 1
    return X


def adds_to_a_column(xp: gi.Xp, X: gi.Array) -> gi.Array:
    Y = X.copy()
    Y[..., 0] += 1
    return Y


def draws(xp: gi.Xp, X: gi.Array) -> gi.Array:
    return X + np.random.default_rng().normal(size=X.shape).astype(X.dtype)


def reads_beyond_the_end(xp: gi.Xp, X: gi.Array) -> gi.Array:
    return X * X[..., 25][..., None]


def widens(xp: gi.Xp, X: gi.Array) -> gi.Array:
    return X * xp.where(X > 0, 0.1, 0.2)  # float64 to NumPy, float32 to JAX


@pytest.mark.parametrize(
    "kernel",
    [
        sorts,
        adds_by_a_function,
        adds_by_what_it_closes_over(),
        adds_by_a_partial,
        writes_into_an_operand,
        adds_to_a_column,
        draws,
        reads_beyond_the_end,
        widens,
    ],
    ids=lambda kernel: kernel.__name__,
)
def test_a_kernel_that_means_something_else_is_refused(kernel: Any) -> None:
    kernel.__doc__ = "Y is said by its name."
    tried = gi.operator(f"Trial{kernel.__name__}", "X[*b d] -> Y[*b d]", no_gradient="it is for a test")(kernel)
    b = gi.Builder("own")
    b.output(tried(b.input("X", [3, 20]), name="Y"))
    with pytest.raises(OperatorError, match=rf"Y = {tried.key}\(…\), written at .*test_trial.py:\d+: its kernel"):
        gi.compile(b.build(), {}, backend="xla")


@gi.operator("TrialJumps", "X[*b d] -> Y[*b d]", no_gradient="it is for a test")
def jumps(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = X where it is above the mean."""
    Y = X - X.mean(axis=-1, keepdims=True)
    Y *= Y > 0
    return Y


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_kernel_that_means_the_same_is_let_through(dtype: str) -> None:
    b = gi.Builder("own")
    b.output(jumps(b.input("X", [64, 1000], dtype), name="Y"))
    gi.compile(b.build(), {}, backend="xla")
