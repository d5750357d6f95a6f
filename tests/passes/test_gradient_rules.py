"""Gradients of users' operators and of blocks: which d-node is made, from what, and under which name."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.errors import DifferentiationError
from graphir.passes import autodiff

D = gi.dim("D")


def test_a_value_that_bears_the_name_of_a_gradient_is_refused():
    block = gi.Builder("clash")
    X, W, dW = block.input("X", (D,)), block.parameter("W", (D,)), block.parameter("dW", (D,))
    graph = block.build(gi.reduce_sum(gi.multiply(gi.multiply(X, W), dW), name="L"))
    with pytest.raises(DifferentiationError, match="the gradient of W is called dW, but graph clash has"):
        autodiff(graph)


def test_what_flows_back_through_a_block_includes_the_blocks_inside():
    """One use outside of a, one in a, one in a/b: 10, 2 and 3 times X."""
    block = gi.Builder("nested", "float64")
    X = block.parameter("X", (D,))
    parts = [gi.scale(X, by=10.0)]
    with block.scope("a"):
        block.alias("X", X)
        parts.append(gi.scale(X, by=2.0))
        with block.scope("b"):
            block.alias("X", X)
            parts.append(gi.scale(X, by=3.0))
    with block.scope("unused"):
        block.alias("X", X)
    joint = gi.verify(autodiff(block.build(gi.reduce_sum(gi.add(*parts), name="L"))))
    found = gi.compile(joint, {"D": 1}, fetch=["dX", "a/dX", "a/b/dX"])({"X": np.ones(1)})
    assert [float(found[name][0]) for name in ("dX", "a/dX", "a/b/dX")] == [15.0, 5.0, 3.0]
    assert "unused/dX" not in joint


def test_an_output_that_the_loss_does_not_depend_on_has_zeros_for_a_gradient():
    @gi.operator("sincos", "X[*b] -> S[*b], C[*b]")
    def sincos(xp, X):
        """S = sin X, C = cos X."""
        return xp.sin(X), xp.cos(X)

    @sincos.backward("dSincos", "X[*b], dS[*b], dC[*b] -> dX[*b]")
    def d_sincos(xp, X, dS, dC):
        """dX = dS cos X − dC sin X."""
        return dS * xp.cos(X) - dC * xp.sin(X)

    block = gi.Builder("one_of_two", "float64")
    S, _ = sincos.all(block.parameter("X", (D,)))
    joint = autodiff(block.build(gi.reduce_sum(S, name="L")))
    X = np.array([0.3, 1.2])
    assert np.allclose(gi.compile(joint, {"D": 2})({"X": X})["dX"], np.cos(X), rtol=1e-15)


def test_a_variadic_operator_with_a_d_node_of_its_own():
    @gi.operator("hypot", "X...[*b] -> Y[*b]")
    def hypot(xp, *X):
        """Y = √(X0² + X1² + …)."""
        return xp.sqrt(sum(x * x for x in X))

    @hypot.backward("dHypot", "X...[*b], Y[*b], dY[*b] -> dX...[*b]")
    def d_hypot(xp, *operands):
        """dX_i = dY X_i / Y."""
        *X, Y, dY = operands
        return tuple(dY * x / Y for x in X)

    block = gi.Builder("variadic", "float64")
    X = [block.parameter(f"P{i}", (D,)) for i in range(3)]
    joint = gi.verify(autodiff(block.build(gi.reduce_sum(hypot(*X), name="L"))))
    given = {f"P{i}": np.array([1.0 + i, 2.0]) for i in range(3)}
    norm = np.sqrt(sum(array**2 for array in given.values()))
    found = gi.compile(joint, {"D": 2})(given)
    assert all(np.allclose(found[f"dP{i}"], given[f"P{i}"] / norm, rtol=1e-15) for i in range(3))


def test_the_backward_signature_that_fits_is_found():
    @gi.operator("affine", ("X[*b], c[*b] -> Y[*b]", "X[*b] -> Y[*b]"))
    def affine(xp, X, c=None):
        """Y = 2 X + c."""
        return 2 * X if c is None else 2 * X + c

    @affine.backward("dAffine", ("X[*b], c[*b], dY[*b] -> dX[*b], dc[*b]", "X[*b], dY[*b] -> dX[*b]"))
    def d_affine(xp, X, c=None, dY=None):
        """dX = 2 dY, dc = dY."""
        return 2 * dY, dY

    block = gi.Builder("alternatives", "float64")
    X, c = block.parameter("X", (D,)), block.parameter("c", (D,))
    joint = gi.verify(autodiff(block.build(gi.reduce_sum(gi.add(affine(X, c), affine(X)), name="L"))))
    found = gi.compile(joint, {"D": 1})({"X": np.ones(1), "c": np.ones(1)})
    assert (found["dX"][0], found["dc"][0]) == (4.0, 1.0)


def test_a_d_operator_that_makes_the_wrong_shape_is_named():
    @gi.operator("wrong_shape", "X[*b d] -> Y[*b d]")
    def wrong_shape(xp, X):
        """Y = X."""
        return X * 1

    @wrong_shape.backward("dWrong_shape", "dY[*b d] -> dX[*b]")
    def d_wrong_shape(xp, dY):
        """dX = Σ dY, which is not the shape of X."""
        return dY.sum(axis=-1)

    block = gi.Builder("wrong")
    graph = block.build(gi.reduce_sum(wrong_shape(block.parameter("X", (D,))), name="L"))
    with pytest.raises(DifferentiationError, match=r"the gradient of its operand X is float32\[\], but X"):
        autodiff(graph)
