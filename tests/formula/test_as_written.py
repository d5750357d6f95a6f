"""Kernels as people write them, whose meaning a formula could miss: what is compiled is what the kernel does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.numpy.fast import kernels as fast
from graphir.ir.operator import Operator

B, D = gi.dims("B D")
SIZES = {"B": 5, "D": 6}
Kernel = Callable[..., Any]
ROWS, NUMBERS, FLAGS = "Z[*b d!]", "Z[*b]", "Z[*b d!] bool"


def _swallowed(xp: Any, X: Any, Y: Any, J: Any) -> Any:
    try:
        return X * xp.sign(X)
    except Exception:
        return X * 7


#: By what may be missed: the kernel, and its result.
KERNELS: dict[str, tuple[Kernel, str]] = {
    # dtypes
    "dtype by type": (lambda xp, X, Y, J: X * (2 if X.dtype == np.float32 else 3), ROWS),
    "dtype by name": (lambda xp, X, Y, J: X * (2 if X.dtype == "float32" else 3), ROWS),
    "dtype by dtype": (lambda xp, X, Y, J: X * (2 if X.dtype == np.dtype("float32") else 3), ROWS),
    "dtype in words": (lambda xp, X, Y, J: X * (2 if str(X.dtype) == "float32" else 3), ROWS),
    "an exception caught": (_swallowed, ROWS),
    # NumPy's own functions
    "NumPy's maximum": (lambda xp, X, Y, J: X - np.asarray(X).max(axis=-1, keepdims=True), ROWS),
    "NumPy's sum": (lambda xp, X, Y, J: X / np.asarray(X).sum(axis=-1, keepdims=True), ROWS),
    # arrays side by side
    "two stacks": (
        lambda xp, X, Y, J: xp.stack([xp.stack([X, Y]), xp.stack([X * X, Y * Y])]).sum(axis=(0, 1)),
        ROWS,
    ),
    "unequal parts": (
        lambda xp, X, Y, J: xp.concatenate([X.max(axis=-1, keepdims=True), Y], axis=-1).sum(axis=-1),
        NUMBERS,
    ),
    "a stack of two": (lambda xp, X, Y, J: xp.stack([X, X * Y], axis=0).sum(axis=0), ROWS),
    "products of unequal axes": (
        lambda xp, X, Y, J: (
            xp.einsum("bd,bd->b", X, np.broadcast_to(Y.max(axis=-1, keepdims=True), X.shape))
            if isinstance(X, np.ndarray)
            else xp.einsum("bd,bd->b", X, Y.max(axis=-1, keepdims=True))
        ),
        NUMBERS,
    ),
    # booleans
    "a sum of booleans": (lambda xp, X, Y, J: ((X > -9) + (Y > -9) + (X > -9)).astype(X.dtype), ROWS),
    "a product of booleans": (lambda xp, X, Y, J: ((X > -9) * (Y > -9) + (X > -9)).astype(X.dtype), ROWS),
    "booleans as they are": (lambda xp, X, Y, J: (X > 0) * (X < 1), FLAGS),
    "the larger boolean": (lambda xp, X, Y, J: xp.maximum(X > 0, X < -1), FLAGS),
    "the truth of integers": (lambda xp, X, Y, J: xp.where(J.astype("bool"), X, Y), ROWS),
    "a choice by integers": (lambda xp, X, Y, J: xp.where(J, X, 1), ROWS),
    "a choice by bits": (lambda xp, X, Y, J: xp.where(J & 1, X, 1), ROWS),
    "a choice by floats": (lambda xp, X, Y, J: xp.where(X - X * (Y > 0), X, Y), ROWS),
    "logic of floats": (lambda xp, X, Y, J: X * xp.logical_and(X, Y * 0), ROWS),
    "logic of integers": (lambda xp, X, Y, J: X * xp.logical_and(J, X > 0), ROWS),
    # integers
    "bits set": (lambda xp, X, Y, J: (J | 4).astype(X.dtype), ROWS),
    "bits inverted": (lambda xp, X, Y, J: (~J).astype(X.dtype), ROWS),
    "bits of a mask": (lambda xp, X, Y, J: (J & 1).astype(X.dtype), ROWS),
    "an integer of a fraction": (lambda xp, X, Y, J: X * J.dtype.type(2.7).astype(X.dtype), ROWS),
    "large integers": (lambda xp, X, Y, J: ((J + 2**30 + X) - (J + 2**30)).astype(X.dtype), ROWS),
    "sines of integers": (lambda xp, X, Y, J: xp.sin((J + 1000001) * X).astype(X.dtype), ROWS),
    "narrow integers": (lambda xp, X, Y, J: (J * 2**31).astype("int32").astype(X.dtype), ROWS),
    "integers of floats": (lambda xp, X, Y, J: ((X * 10).astype("int32") + J).astype(X.dtype), ROWS),
    "narrow floats": (
        lambda xp, X, Y, J: ((xp.arange(X.shape[-1]) + 3001).astype("float16").astype("float32") + Y).astype(X.dtype),
        ROWS,
    ),
    # what is no number
    "NaN not chosen": (lambda xp, X, Y, J: xp.where(X > 0, xp.log(X), -xp.inf), ROWS),
    "NaN not chosen, then the largest": (
        lambda xp, X, Y, J: xp.where(X > 0, xp.log(X), -xp.inf).max(axis=-1),
        NUMBERS,
    ),
    "below what is put in its place": (
        lambda xp, X, Y, J: xp.where(X > 0, X * X.dtype.type(1e36), X.dtype.type(-1e31)),
        ROWS,
    ),
    "the larger, or NaN": (lambda xp, X, Y, J: xp.maximum(X, xp.log(Y)), ROWS),
    "the smaller, or NaN": (lambda xp, X, Y, J: xp.minimum(xp.log(X), xp.log(Y)), ROWS),
    "the largest, or NaN": (lambda xp, X, Y, J: xp.log(X).max(axis=-1), NUMBERS),
    "the least, or NaN": (lambda xp, X, Y, J: xp.sqrt(X * Y).min(axis=-1), NUMBERS),
    "the largest of NaN": (lambda xp, X, Y, J: (X * 0 / (Y * 0)).max(axis=-1), NUMBERS),
    "within bounds, or NaN": (lambda xp, X, Y, J: xp.clip(xp.log(X), -0.5, 0.5), ROWS),
    "masked by a number of one's own": (lambda xp, X, Y, J: xp.where(Y > 0, xp.log(X), -1e30), ROWS),
    # one axis twice
    "all pairs of a row": (lambda xp, X, Y, J: (X[..., :, None] - Y[..., None, :]).sum(-1), ROWS),
    "one of each, counted": (
        lambda xp, X, Y, J: (J[..., None] == xp.arange(X.shape[-1])).astype(X.dtype).sum(-2),
        ROWS,
    ),
    "all pairs by letters": (lambda xp, X, Y, J: xp.einsum("bd,be->b", X, Y), NUMBERS),
    "letters without an arrow": (lambda xp, X, Y, J: xp.einsum("bd,d", X, Y[0]), NUMBERS),
    # orders of computing, where one of them has no number
    "a quotient by what is tiny": (lambda xp, X, Y, J: X / (abs(Y) * 1e-20 * 1e-20).sum(-1)[..., None], ROWS),
    "a quotient by what is huge": (lambda xp, X, Y, J: X / ((abs(Y).sum(-1) + 1) * 1e37)[..., None] * 1e30, ROWS),
    "products of numbers": (lambda xp, X, Y, J: X * 1e-30 * 1e-30 * 1e30 * 1e30, ROWS),
    "a large number, and a small one": (lambda xp, X, Y, J: (X * 1e38 * 1e38) * 1e-38, ROWS),
    "a sum of infinities": (lambda xp, X, Y, J: (X * xp.inf).sum(-1), NUMBERS),
    "a sum times an infinity": (lambda xp, X, Y, J: (X * (X.max(-1, keepdims=True) * xp.inf)).sum(-1), NUMBERS),
    "a product with an inverse": (lambda xp, X, Y, J: X * 1e-30 * (1 / (Y * 1e-30 * 1e-10)), ROWS),
    "a wide argument of tanh": (lambda xp, X, Y, J: 0.5 * (1 + xp.tanh((X + 5) * 3e38)), ROWS),
    "left out, and large": (lambda xp, X, Y, J: X * 1e38 * 10.0 * (X > 9), ROWS),
    # integers of any size
    "beyond 32 bits": (lambda xp, X, Y, J: xp.where(J + 2**32 > 2**32 + 2, X, Y), ROWS),
    "beyond 64 bits": (lambda xp, X, Y, J: xp.where(J + (2**63 - 3) > 0, X, Y), ROWS),
    "a sum beyond 24 bits": (lambda xp, X, Y, J: ((J + 2**30).sum(-1) - 6 * 2**30).astype(X.dtype), NUMBERS),
    # dtypes of numbers
    "a number of float64": (
        lambda xp, X, Y, J: (X * np.float64(1 / 3) + np.float64(1e9) - np.float64(1e9)).astype(X.dtype),
        ROWS,
    ),
    "an array of a number": (lambda xp, X, Y, J: (X * xp.asarray(0.1) + 1e9 - 1e9).astype(X.dtype), ROWS),
    "a choice of two numbers": (
        lambda xp, X, Y, J: (xp.where(X > Y, 1 / 3, 2 / 3) + 1e9 - 1e9).astype(X.dtype),
        ROWS,
    ),
    "a length and numbers": (lambda xp, X, Y, J: X * (X.shape[-1] ** -0.5) + X * (2.0 / (X.shape[-1] - 1)), ROWS),
    # what a kernel asks of what it is handed
    "an array of NumPy": (lambda xp, X, Y, J: X * (2 if isinstance(X, np.ndarray) else 3), ROWS),
    "the array module": (lambda xp, X, Y, J: X * (2 if xp is np else 3), ROWS),
    "the array module's like": (lambda xp, X, Y, J: X * (2 if xp == np else 3), ROWS),
    "the array module's name": (lambda xp, X, Y, J: X * (2 if xp.__name__ == "numpy" else 3), ROWS),
    "what the module has": (lambda xp, X, Y, J: X * (2 if hasattr(xp, "linalg") else 3), ROWS),
    "the very type": (lambda xp, X, Y, J: X * (2 if type(X) is np.ndarray else 3), ROWS),
    "the type's name": (lambda xp, X, Y, J: X * (2 if type(X).__name__ == "ndarray" else 3), ROWS),
    "the class": (lambda xp, X, Y, J: X * (2 if X.__class__ is np.ndarray else 3), ROWS),
    "an interface": (lambda xp, X, Y, J: X * (2 if getattr(X, "__array_interface__", None) else 3), ROWS),
    "its text": (lambda xp, X, Y, J: X * (2 if "[" in f"{X}" else 3), ROWS),
    "a length as a number": (lambda xp, X, Y, J: X * (2 if isinstance(X.shape[-1], int) else 3), ROWS),
    "a length as a key": (lambda xp, X, Y, J: X * {6: 2}.get(X.shape[-1], 3), ROWS),
    "a length as text": (lambda xp, X, Y, J: X * (2 if str(X.shape[-1]) == "6" else 3), ROWS),
    "a dtype as a key": (lambda xp, X, Y, J: X * {np.dtype("float32"): 2}.get(X.dtype, 3), ROWS),
    "a dtype by letters": (lambda xp, X, Y, J: X * (2 if X.dtype == "f4" else 3), ROWS),
    "a dtype by type of Python": (lambda xp, X, Y, J: X * (2 if X.dtype != float else 3), ROWS),
}


@pytest.fixture(autouse=True)
def every_kernel() -> Iterator[None]:
    """Numba's kernels, however little there is to compute; NaN is meant here."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(fast, "LEAST", 0)
        yield


def _arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    X, Y = (rng.standard_normal((5, 6)).astype("float32") for _ in range(2))
    return {"X": X, "Y": Y, "J": rng.integers(0, 6, (5, 6))}


@pytest.mark.parametrize("kernels", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KERNELS)
def test_what_is_compiled_is_what_the_kernel_does(name: str, kernels: str) -> None:
    written, result = KERNELS[name]

    def kernel(xp: gi.Xp, X: gi.Array, Y: gi.Array, J: gi.Array) -> gi.Array:
        """Z, as it is written."""
        return written(xp, X, Y, J)

    signature = f"X[*b d!], Y[*b d!], J[*b d!] int -> {result}"
    operator = Operator("tried", signature, kernel, no_gradient="no test asks for it")
    block = gi.Builder("tried")
    operands = block.input("X", (B, D)), block.input("Y", (B, D)), block.input("J", (B, D), "int64")
    graph = block.build(operator(*operands, name="Z"))
    given = _arrays()
    expected = gi.compile(graph, SIZES, backend="reference")(given)["Z"]
    found = gi.compile(graph, SIZES, kernels=kernels)(given)["Z"]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("kernels", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])
@pytest.mark.parametrize("index", [1, 3, -2])
def test_an_element_that_may_not_be_there_is_left_to_the_kernel(index: int, kernels: str) -> None:
    def kernel(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Z, one element of each row."""
        return X[..., index] * 2

    operator = Operator("one", "X[*b d!] -> Z[*b]", kernel, no_gradient="no test asks for it")
    block = gi.Builder("one")
    graph = block.build(operator(block.input("X", (B, D)), name="Z"))
    X = _arrays()["X"]
    assert np.array_equal(gi.compile(graph, SIZES, kernels=kernels)({"X": X})["Z"], X[:, index] * 2)
    with pytest.raises(IndexError):
        gi.compile(graph, {"B": 5, "D": 1}, kernels=kernels)({"X": X[:, :1]})


@pytest.mark.parametrize("kernels", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(
    "change",
    [lambda J: J + 5, lambda J: J * 3, lambda J: -J - 7, abs, lambda J: J - J.max(axis=-1, keepdims=True)],
    ids=["sum", "product", "negative", "absolute", "difference"],
)
def test_integers_begin_anew_where_those_of_numpy_do(change: Kernel, dtype: str, kernels: str) -> None:
    def kernel(xp: gi.Xp, X: gi.Array, J: gi.Array) -> gi.Array:
        """Z, by the sign of an integer."""
        return xp.where(change(J) > 0, X, -2 * X)

    operator = Operator("anew", "X[*b d!], J[*b d!] int -> Z[*b d!]", kernel, no_gradient="no test asks for it")
    block = gi.Builder("anew")
    graph = block.build(operator(block.input("X", (B, D)), block.input("J", (B, D), dtype), name="Z"))
    ends = np.iinfo(dtype)
    J = np.random.default_rng(1).choice([ends.min, ends.min + 2, -1, 0, 4, ends.max - 3, ends.max], (5, 6))
    given = {"X": _arrays()["X"], "J": J.astype(dtype)}
    expected = gi.compile(graph, SIZES, backend="reference")(given)["Z"]
    assert np.array_equal(gi.compile(graph, SIZES, kernels=kernels)(given)["Z"], expected)


@pytest.mark.parametrize("kernels", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])
def test_numbers_of_elements_that_may_lie_outside_are_left_to_the_kernel(kernels: str) -> None:
    """A kernel by Numba would read whatever lies behind the array."""

    def kernel(xp: gi.Xp, X: gi.Array, J: gi.Array) -> gi.Array:
        """Z = X[J] of each row."""
        return xp.take_along_axis(X, J[..., None], axis=-1)[..., 0]

    operator = Operator("picked", "X[*b d!], J[*b] int -> Z[*b]", kernel, no_gradient="no test asks for it")
    block = gi.Builder("picked")
    graph = block.build(operator(block.input("X", (B, D)), block.input("J", (B,), "int64"), name="Z"))
    X, J = _arrays()["X"], np.array([0, -1, 5, -6, 2])
    run = gi.compile(graph, SIZES, kernels=kernels)
    assert np.array_equal(run({"X": X, "J": J})["Z"], np.take_along_axis(X, J[:, None], axis=-1)[:, 0])
    (fallback,) = run.report().fallbacks  # type: ignore[attr-defined]
    assert "it picks elements by J, which its signature does not say to be in d" in fallback.reason


@pytest.mark.parametrize("threads", [1, 2])
def test_one_place_of_what_is_the_same_in_all_places(threads: int) -> None:
    """Operands that only repeat themselves have one entry in memory, whichever is asked for."""

    def halves(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Z = X₁ − 2 X₂ of two halves."""
        half = X.shape[-1] // 2
        return X[..., :half] - 2 * X[..., half:]

    swapped = Operator("halves", "X[*b (2 c)] -> Z[*b c]", halves, no_gradient="no test asks for it")
    block = gi.Builder("repeated")
    Y, x = block.input("Y", (B,), "int64"), block.input("x", (B,))
    spread = gi.broadcast(block.input("one"), (B, D))
    graph = block.build(
        gi.cross_entropy(gi.broadcast(block.input("logits", (D,)), (B,)), Y, name="L"),
        gi.cross_entropy(spread, Y, name="M"),
        swapped(spread, name="Z"),
        gi.scale(x, by=2.0),
    )
    given = {"Y": np.array([5, 0, 3, 1, 2]), "x": _arrays()["X"][:, 0], "one": np.float32(0.5)}
    given["logits"] = _arrays()["Y"][0]
    expected = gi.compile(graph, SIZES, backend="reference")(given)
    found = gi.compile(graph, SIZES, threads=threads)(given)
    for name, wanted in expected.items():
        np.testing.assert_allclose(found[name], wanted, rtol=2e-6, atol=1e-6, err_msg=name)
