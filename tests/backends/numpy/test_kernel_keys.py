"""What distinguishes two computations is part of every key that they are found by: pairs made to collide, told apart.

Kernels run over the emulator and, marked `gpu`, on a device; Numba's share their plans, and one test of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.emission import Rules
from graphir.backends.numpy.engine import rules
from graphir.backends.rows import snippets
from graphir.backends.rows.expressions import Row
from graphir.backends.rows.snippets import snippet
from graphir.errors import OperatorError
from graphir.ir import operator as language
from graphir.ir.attributes import Attributes
from graphir.passes import cse
from tests.cuda.harness import compile_with_kernels, to_numpy, where

__all__ = ["where"]

SIZES = {"B": 5, "D": 8}
ATTRIBUTES = ("key", "dims", "split_at", "axes", "by")


@pytest.fixture(autouse=True)
def own_registries() -> Iterator[None]:
    """What a test declares is gone after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_REGISTRY", dict(language._REGISTRY))
        patch.setattr(snippets, "_SNIPPETS", dict(snippets._SNIPPETS))
        patch.setattr(rules, "_rules", dict(rules._rules))
        yield


def _times(attribute: str, kind: str = "float") -> gi.Operator:
    """An operator of a user's own: Y = X times its attribute, called as is said, with a snippet that bakes it in."""
    names: dict[str, Any] = {"gi": gi}
    lines = (
        f"def kernel(xp, X, *, {attribute}: {kind}):",
        '    """Y = c X."""',
        f"    return X * X.dtype.type({attribute})",
        f"def of_a_row(row, X, *, {attribute}):",
        f'    return {{"Y": X * {attribute}}}',
    )
    exec("\n".join(lines), names)
    made = gi.operator("times", "X[*b] -> Y[*b]", elementwise=True, no_gradient="a test asks for none")(names["kernel"])
    snippet(made)(names["of_a_row"])
    return made


def _two_runs(times: gi.Operator, attribute: str, one: Any, other: Any) -> gi.Graph:
    """c X • W and c' X' • W: two runs that differ in their attribute alone."""
    B, D = gi.dims("B D")
    block = gi.Builder("two")
    W = block.input("W", (D, D))
    pairs = (("Y", one), ("Z", other))
    inputs = {name: times(block.input(f"X_{name}", (B, D)), **{attribute: c}) for name, c in pairs}
    return block.build(*(gi.matmul(X, W, name=name) for name, X in inputs.items()))


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    shapes = {"W": (8, 8), "X_Y": (5, 8), "X_Z": (5, 8)}
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_is_part_of_a_kernel_whatever_it_is_called(attribute: str, where: str) -> None:
    arrays = _arrays()
    graph = _two_runs(_times(attribute), attribute, 2.0, 3.0)
    found = compile_with_kernels(graph, SIZES, where)(arrays)
    for name, c in (("Y", 2), ("Z", 3)):
        right = c * arrays[f"X_{name}"] @ arrays["W"]
        assert np.allclose(to_numpy(found[name]), right, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed: extra `fast`")
@pytest.mark.parametrize("attribute", ["key", "dims"])
def test_numbas_kernels_keep_such_attributes_apart(
    attribute: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from graphir.backends.numpy.fast import build, kernels

    monkeypatch.setattr(kernels, "LEAST", 0)
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path)
    arrays = _arrays()
    graph = _two_runs(_times(attribute), attribute, 2.0, 3.0)
    found = gi.compile(graph, SIZES, kernels="numba", threads=1)(arrays)
    assert np.allclose(found["Z"], 3 * arrays["X_Z"] @ arrays["W"], rtol=1e-5, atol=1e-5)


def test_what_is_handed_over_at_run_time_is_not_given_to_the_snippet(where: str) -> None:
    """Two nodes of different keys share one kernel, and each has its own number."""

    @gi.operator("plus", "X[*b], c[] -> Y[*b]", elementwise=True, no_gradient="a test asks for none")
    def plus(xp: gi.Xp, X: gi.Array, c: gi.Array, *, key: int) -> gi.Array:
        """Y = key X + c."""
        return X * X.dtype.type(key) + c

    given: list[dict[str, Any]] = []

    @snippet(plus, at_run_time="key")
    def _plus(row: Row, X: Any, c: Any, **attributes: Any) -> Any:
        given.append(attributes)
        return None

    B, D = gi.dims("B D")
    block, made = gi.Builder("two"), []
    for name, key in (("Y", 2), ("Z", 3)):
        X, c, W = (block.input(f"{each}_{name}", shape) for each, shape in (("X", (B, D)), ("c", ()), ("W", (D, D))))
        made.append(gi.matmul(plus(X, c, key=key), W, name=name))
    arrays = _arrays()
    for name in ("Y", "Z"):
        arrays |= {f"c_{name}": np.float32(1), f"W_{name}": np.eye(8, dtype=np.float32)}
    del arrays["W"]
    found = compile_with_kernels(block.build(*made), SIZES, where)(arrays)
    assert given == [{}]
    for name, key in (("Y", 2), ("Z", 3)):
        assert np.allclose(to_numpy(found[name]), key * arrays[f"X_{name}"] + 1, atol=1e-5)


def test_an_attribute_that_no_operator_has_cannot_be_handed_over() -> None:
    with pytest.raises(OperatorError, match="a snippet of times is not to be given seed, which is no attribute of it"):
        snippet(_times("by"), at_run_time="seed")


def test_a_function_of_a_users_own_is_not_taken_for_the_devices_of_the_same_name(where: str) -> None:
    """`write_rate` on the device copies the learning rate; here it doubles it."""

    @gi.operator("rated", "X[*b], lr[] -> Y[*b]", elementwise=True, no_gradient="a test asks for none")
    def rated(xp: gi.Xp, X: gi.Array, lr: gi.Array) -> gi.Array:
        """Y = 2 lr X."""
        return X * (2 * lr)

    def write_rate(lr: Any, numbers: Any) -> None:
        numbers[0] = 2 * lr

    @snippet(rated)
    def _rated(row: Row, X: Any, lr: Any) -> Any:
        (rate,) = row.prepare(write_rate, 1, lr)
        return {"Y": X * rate}

    B, D = gi.dims("B D")
    block = gi.Builder("rated")
    graph = block.build(rated(block.input("X", (B, D)), block.input("lr", ()), name="Y"))
    X = _arrays()["X_Y"]
    found = compile_with_kernels(graph, SIZES, where)({"X": X, "lr": np.float32(0.25)})
    assert np.array_equal(to_numpy(found["Y"]), X / 2)


def test_two_rules_whose_constants_look_alike_each_have_their_own() -> None:
    B, D = gi.dims("B D")
    block, made = gi.Builder("two"), []
    for number, make in ((1, _counted_up), (2, _counted_down)):

        @gi.operator(f"count{number}", "X[*b d] -> Y[*b d]", no_gradient="a test asks for none")
        def kernel(xp: gi.Xp, X: gi.Array) -> gi.Array:
            """Y = X."""
            return X

        @rules.emits(kernel)
        def _rule(call: Any, X: Any, Y: Any, make: Any = make) -> None:
            call(np.add, X, call.constant(make, X.shape[-1]), Y)

        made.append(kernel(block.input(f"X{number}", (B, D)), name=f"Y{number}"))
    zeros = np.zeros((5, 8), np.float32)
    found = gi.compile(block.build(*made), SIZES, threads=1)({"X1": zeros, "X2": zeros})
    assert np.array_equal(found["Y1"][0], np.arange(8))
    assert np.array_equal(found["Y2"][0], -np.arange(8))


def _counted_up(count: int) -> Any:
    return np.arange(count, dtype=np.float32)


def _counted_down(count: int) -> Any:
    return -np.arange(count, dtype=np.float32)


def test_zero_and_its_negative_are_two_attributes() -> None:
    """0 · X and −0 · X differ in the sign of their zeros, so neither stands for the other."""
    assert Attributes({"by": 0.0}) != Attributes({"by": -0.0})
    assert Attributes({"by": (1.0, 0.0)}) != Attributes({"by": (1.0, -0.0)})
    assert Attributes({"by": 0.0}) == Attributes({"by": 0.0})
    X = gi.Builder("zeros").input("X", gi.dims("B D"))
    graph = cse(X.owner.build(gi.scale(X, by=0.0, name="Y"), gi.scale(X, by=-0.0, name="Z")))
    for backend in ("reference", "numpy"):
        found = gi.compile(graph, SIZES, backend=backend)({"X": np.ones((5, 8), np.float32)})
        assert not np.signbit(found["Y"]).any()
        assert np.signbit(found["Z"]).all()


def test_a_kernel_tells_the_two_zeros_apart(where: str) -> None:
    B, D = gi.dims("B D")
    block = gi.Builder("zeros")
    X = block.input("X", (B, D))
    graph = block.build(gi.scale(X, by=0.0, name="Y"), gi.scale(X, by=-0.0, name="Z"))
    found = compile_with_kernels(graph, SIZES, where)({"X": np.ones((5, 8), np.float32)})
    assert not np.signbit(to_numpy(found["Y"])).any()
    assert np.signbit(to_numpy(found["Z"])).all()


def test_an_operator_that_is_declared_again_has_neither_rule_nor_snippet_of_the_old() -> None:
    """A notebook's cell that is run twice declares a key again; what was said of the first is not said of the other."""
    first, own = _times("by"), Rules()
    own.emits(first)(lambda call, X, Y, *, by: None)

    def kernel(xp: gi.Xp, X: gi.Array, *, by: float) -> gi.Array:
        """Y = X / c."""
        return X / by

    kernel.__module__, kernel.__qualname__ = first.kernel.__module__, first.kernel.__qualname__
    again = gi.operator("times", "X[*b] -> Y[*b]", elementwise=True, no_gradient="a test asks for none")(kernel)
    for find in (own.find, snippets.find_snippet):
        assert find(first) is not None
        assert find(again) is None
