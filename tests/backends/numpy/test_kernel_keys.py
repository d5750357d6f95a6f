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
from graphir.formula.trace import find_formula
from graphir.ir import operator as language
from graphir.ir.attributes import Attributes
from graphir.ir.signature import expand
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
        patch.setattr(rules, "_rules", dict(rules._rules))
        yield


def _times(attribute: str, kind: str = "float") -> gi.Operator:
    """An operator of a user's own: Y = X times its attribute, called as is said."""
    names: dict[str, Any] = {"gi": gi}
    lines = (
        f"def kernel(xp, X, *, {attribute}: {kind}):",
        '    """Y = c X."""',
        f"    return X * X.dtype.type({attribute})",
    )
    exec("\n".join(lines), names)
    return gi.operator("times", "X[*b] -> Y[*b]", elementwise=True, no_gradient="a test asks for none")(names["kernel"])


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


def test_masks_of_all_keys_are_one_formula(where: str) -> None:
    """Two nodes of different keys share one kernel, and each has its own draws."""
    B, D = gi.dims("B D")
    block = gi.Builder("two")
    seed, step = (block.input(name, dtype="int64") for name in ("seed", "step"))
    X = block.input("X", (B, D))
    graph = block.build(*(gi.dropout(X, seed, step, p=0.5, key=key, name=f"Y{key}") for key in (1, 2)))
    one, other = (find_formula(node.operator, node.inference.rule, node.attributes) for node in graph.nodes)
    assert one is other
    arrays = {"X": np.ones((5, 8), np.float32), "seed": 3, "step": 0}
    expected = gi.compile(graph, SIZES, backend="reference")(arrays)
    found = compile_with_kernels(graph, SIZES, where)(arrays)
    assert not np.array_equal(expected["Y1"], expected["Y2"])
    for name, array in expected.items():
        assert np.array_equal(to_numpy(found[name]), array), name


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


def test_an_operator_that_is_declared_again_has_neither_rule_nor_formula_of_the_old() -> None:
    """A notebook's cell that is run twice declares a key again; what was said of the first is not said of the other."""
    first, own = _times("by"), Rules()
    own.emits(first)(lambda call, X, Y, *, by: None)

    def kernel(xp: gi.Xp, X: gi.Array, *, by: float) -> gi.Array:
        """Y = X / c."""
        return X / by

    kernel.__module__, kernel.__qualname__ = first.kernel.__module__, first.kernel.__qualname__
    again = gi.operator("times", "X[*b] -> Y[*b]", elementwise=True, no_gradient="a test asks for none")(kernel)
    assert own.find(first) is not None
    assert own.find(again) is None
    found = []
    for each in (first, again):
        rule = expand(each.signatures({})[0], (1,))
        assert rule is not None
        found.append(find_formula(each, rule, {"by": 2.0}))
    assert found[0] is not found[1]
