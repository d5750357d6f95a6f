"""What each forward operator computes, against formulas and NumPy's own functions; `test_operators_torch.py` has
PyTorch's, `test_updates.py` the optimizers'."""

from __future__ import annotations

import math

import numpy as np
import pytest

import graphir as gi
from graphir.errors import TypeCheckError
from graphir.operators.special import erf
from tests.support.evaluate import evaluate, evaluate_block

RANDOM = np.random.default_rng(2)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order_of_tests():
    RANDOM.bit_generator.state = START


def floats(*shape, dtype="float64"):
    return RANDOM.standard_normal(shape).astype(dtype)


def same(found, expected, rtol=0.0, atol=0.0):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, strict=True)


# -- erf and activations ----------------------------------------------------------------------------------

#: Every interval of the approximation, its seams, and both ends of double precision.
EVERYWHERE = np.unique(
    np.concatenate(
        [np.linspace(0, 0.5, 2001), np.linspace(0.4, 6.5, 6001), 10.0 ** np.arange(-300, 300, 25), [0.46875, 6.0]]
    )
)


def test_erf_to_the_precision_of_float64():
    x = np.concatenate([-EVERYWHERE[::-1], EVERYWHERE])
    expected = np.asarray([math.erf(each) for each in x])
    np.testing.assert_allclose(erf(np, x), expected, rtol=1e-15, atol=0)


def test_erf_to_the_precision_of_float32():
    x = EVERYWHERE[(EVERYWHERE > 1e-30) & (EVERYWHERE < 1e30)].astype("float32")
    found = erf(np, x)
    assert found.dtype == "float32"
    # Four units in the last place: roundings of exp, of the two polynomials, of their quotient and of 1 − it.
    np.testing.assert_allclose(found, [math.erf(each) for each in x], rtol=4 * 2**-23, atol=0)


def test_erf_beyond_all_numbers():
    np.testing.assert_array_equal(erf(np, np.asarray([np.inf, -np.inf, 0.0, np.nan])), [1, -1, 0, np.nan])
    assert np.signbit(erf(np, np.asarray(-0.0)))


def normal_distribution(x):
    # erfc keeps its precision where 1 + erf cancels.
    return 0.5 * math.erfc(-x / math.sqrt(2))


ACTIVATIONS = {
    "gelu": lambda x: x * normal_distribution(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 4e-16), ("float32", 4e-7)])
def test_activations(kind, dtype, atol):
    x = np.concatenate([np.linspace(-30, 30, 1201), floats(200)]).astype(dtype)
    expected = np.asarray([ACTIVATIONS[kind](float(each)) for each in x]).astype(dtype)
    found = evaluate(lambda X: gi.activation(X, kind=kind), x)
    # Absolute where the tail is next to nothing, relative (8 roundings) where it is not.
    same(found, expected, rtol=8 * np.finfo(dtype).eps, atol=8 * atol)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_of_large_values_stay_finite(kind):
    x = np.asarray([-1e5, -1e3, 1e3, 1e5], "float32")
    found = evaluate(lambda X: gi.activation(X, kind=kind), x)
    np.testing.assert_array_equal(np.abs(found), [0, 0, 1e3, 1e5])


# -- arithmetic -------------------------------------------------------------------------------------------


def test_sums_and_products():
    X, W, Z = floats(2, 3), floats(2, 3), floats(2, 3)
    same(evaluate(gi.add, X, W, Z), X + W + Z)
    same(evaluate(gi.multiply, X, W), X * W)
    same(evaluate(gi.exponential, X), np.exp(X))
    same(evaluate(lambda X: gi.scale(X, by=-1.5), X), -1.5 * X)
    same(evaluate(lambda X: gi.reduce_sum(X), X), X.sum(), rtol=1e-15)
    same(evaluate(lambda X: gi.reduce_sum(X, [0]), X), X.sum(axis=0), rtol=1e-15)
    same(evaluate(lambda X: gi.reduce_sum(X, [-1]), X), X.sum(axis=1), rtol=1e-15)


@pytest.mark.parametrize("to", ["float32", "float64", "float16"])
def test_cast(to):
    X = floats(4, dtype="float32")
    same(evaluate(lambda X: gi.cast(X, to=to), X), X.astype(to))


def test_a_scale_keeps_the_dtype():
    assert evaluate(lambda X: gi.scale(X, by=1 / 3), floats(2, dtype="float32")).dtype == "float32"


@pytest.mark.parametrize(
    ("left", "right"), [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((6, 2, 3, 4), (4, 5)), ((2, 6, 3, 4), (2, 6, 4, 5))]
)
def test_matmul_of_one_matrix_and_of_many(left, right):
    X, W = floats(*left), floats(*right)
    same(evaluate(gi.matmul, X, W), np.einsum("...mk,...kn->...mn", X, W), rtol=1e-13, atol=1e-14)


def test_a_mean_over_nothing_is_zero():
    same(evaluate(gi.divide_by_count, np.float64(6.0), np.float64(4.0)), np.float64(1.5))
    same(evaluate(gi.divide_by_count, np.float64(0.0), np.float64(0.0)), np.float64(0.0))


def test_counts():
    Y = np.asarray([[3, -100, 0], [-100, -100, -1]])
    same(evaluate(lambda Y: gi.count_valid(Y), Y), np.float32(3))
    same(evaluate(lambda Y: gi.count_valid(Y, ignore=-1, dtype="float64"), Y), np.float64(5))
    same(evaluate(gi.count_elements, floats(2, 3)), np.float64(6))


# -- what moves elements ----------------------------------------------------------------------------------


def test_transposes():
    X = floats(2, 3, 4, 5)
    same(evaluate(gi.transpose, X), X.swapaxes(2, 3))
    same(evaluate(lambda X: gi.transpose(X, (2, 0, 3, 1)), X), X.transpose(2, 0, 3, 1))


def test_reshapes_keep_the_order_of_elements():
    X = floats(2, 3, 20)
    split = evaluate(lambda X: gi.reshape(X, "b s (h d) -> b s h d", h=4), X)
    same(split, X.reshape(2, 3, 4, 5))
    same(evaluate(lambda X: gi.reshape(X, "b s h d -> (b s) (h d)"), split), X.reshape(6, 20))


def test_a_reshape_by_a_shape_is_told_how_to_write_a_pattern():
    block = gi.Builder("reshaped")
    X = block.input("X", gi.dims("B S"))
    with pytest.raises(TypeCheckError, match=r"told by a pattern like 'b s \(h d\) -> b s h d'.*not by a tuple"):
        gi.reshape(X, gi.dims("S B"))


def test_heads_side_by_side():
    X = floats(2, 3, 4, 5)
    concatenated = evaluate(gi.concatenate, X)
    same(concatenated, np.concatenate([X[:, :, head] for head in range(4)], axis=-1))


def test_broadcasts():
    b = floats(3)
    same(evaluate(lambda X: gi.broadcast(X, (2, 5)), b), np.tile(b, (2, 5, 1)))
    same(evaluate(lambda X: gi.broadcast(X, (2, 5), axes=(0, 2)), b), np.tile(b[None, :, None], (2, 1, 5)))


def test_lookup():
    E, T = floats(7, 4), np.asarray([[0, 6, 3], [3, 3, 1]])
    same(evaluate(gi.lookup, E, T), E[T])


def test_lookup_in_a_block_of_rows_is_a_part_of_a_sum():
    E, T = floats(6, 4), np.asarray([[0, 5, 3], [2, 2, 1]])
    blocks = [evaluate_block(gi.lookup, {"v": v}, {"v": 6}, E[v : v + 2], T) for v in (0, 2, 4)]
    same(sum(blocks), E[T])
    assert not blocks[0][T >= 2].any()


def test_sinusoidal_positions():
    found = evaluate_positions(5, 8)
    for s in range(5):
        for j in range(4):
            angle = s / 10000 ** (2 * j / 8)
            assert found[s, 2 * j] == pytest.approx(math.sin(angle), rel=1e-14, abs=1e-15)
            assert found[s, 2 * j + 1] == pytest.approx(math.cos(angle), rel=1e-14, abs=1e-15)


def evaluate_positions(S, D, **attributes):
    block = gi.Builder("positions")
    P = gi.sinusoidal_positions(s=S, d=D, builder=block, name="P", **{"dtype": "float64", **attributes})
    return gi.compile(block.build(P), {})({})["P"]


def test_sinusoidal_positions_of_odd_width_and_in_blocks():
    whole = evaluate_positions(6, 7)
    assert whole.shape == (6, 7)
    positions = gi.sinusoidal_positions
    sizes, keywords = {"s": 6, "d": 7}, {"s": 6, "d": 7, "dtype": "float64"}
    for s, d in ((0, 0), (3, 0), (2, 5)):
        block = evaluate_block(positions, {"s": s, "d": d}, sizes, shape=(3, 2), **keywords)
        same(block, whole[s : s + 3, d : d + 2])


def test_positions_come_in_the_dtype_asked_for():
    same(evaluate_positions(6, 8, dtype="float32"), evaluate_positions(6, 8).astype("float32"))


# -- normalization, softmax, loss -------------------------------------------------------------------------


def test_layer_norm_by_its_formula():
    X, gamma, beta = floats(2, 3, 5) * 3 + 1, floats(5), floats(5)
    H, mean, rstd = evaluate(lambda *operands: gi.layer_norm.all(*operands, epsilon=1e-3), X, gamma, beta)
    same(mean, X.mean(axis=-1))
    same(rstd, 1 / np.sqrt(X.var(axis=-1) + 1e-3), rtol=1e-14)
    same(H, (X - mean[..., None]) * rstd[..., None] * gamma + beta, rtol=1e-13, atol=1e-14)


def test_layer_norm_survives_a_mean_far_from_zero():
    # One pass (mean of squares minus square of mean) would lose all digits here.
    X = (floats(4, 64) + 1000).astype("float32")
    ones, zeros = np.ones(64, "float32"), np.zeros(64, "float32")
    H = evaluate(gi.layer_norm, X, ones, zeros)
    wide = X.astype("float64")
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    # X itself has 2⁻²⁴ · 1000 ≈ 6e-5 of rounding, the mean of it as much.
    np.testing.assert_allclose(H, expected, atol=2e-4)


def test_layer_norm_of_equal_elements_is_beta():
    beta = floats(4)
    same(evaluate(gi.layer_norm, np.full((3, 4), 2.5), np.ones(4), beta), np.tile(beta, (3, 1)))


def test_softmax_by_its_formula():
    Z = floats(2, 3, 5)
    P = evaluate(gi.softmax, Z)
    same(P, np.exp(Z) / np.exp(Z).sum(axis=-1, keepdims=True), rtol=1e-14)
    same(P.sum(axis=-1), np.ones((2, 3)), rtol=1e-15)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_softmax_does_not_see_a_shift(shift):
    Z = np.asarray([[0.0, 1.0, 2.0]], "float32")
    same(evaluate(gi.softmax, Z + np.float32(shift)), evaluate(gi.softmax, Z))


def test_softmax_of_the_largest_scores():
    Z = np.asarray([[-3e38, 0.0, 3e37]], "float32")
    same(evaluate(gi.softmax, Z), np.asarray([[0, 0, 1]], "float32"))


def test_cross_entropy_by_its_formula():
    Z, Y = floats(2, 3, 5), np.asarray([[0, 4, -100], [2, -100, 2]])
    L, lse = evaluate(lambda Z, Y: gi.cross_entropy.all(Z, Y), Z, Y)
    same(lse, np.log(np.exp(Z).sum(axis=-1)), rtol=1e-14)
    for place in np.ndindex(2, 3):
        expected = 0.0 if Y[place] == -100 else -math.log(math.exp(Z[place][Y[place]]) / np.exp(Z[place]).sum())
        assert L[place] == pytest.approx(expected, rel=1e-13, abs=0)


def test_cross_entropy_of_large_scores_and_another_label_ignored():
    Z = np.asarray([[0.0, 1e4], [1e4, 0.0], [5.0, 5.0]], "float32")
    L = evaluate(lambda Z, Y: gi.cross_entropy(Z, Y, ignore=0), Z, np.asarray([1, 1, 0]))
    same(L, np.asarray([0, 1e4, 0], "float32"))


# -- SM: scale and mask -----------------------------------------------------------------------------------

MASKED = -1e30


def masks(B=2, N_H=3, S=4):
    """Scores, and (operator options, mask operand, which scores count [B, N_H, S, S])."""
    A = floats(B, N_H, S, S)
    tokens = np.asarray([[True, True, True, False], [True, True, False, False]])
    given = np.asarray(RANDOM.integers(0, 2, (S, S)), bool)
    causal = np.tril(np.ones((S, S), bool))
    everywhere = np.broadcast_to(True, A.shape)
    return A, [
        ({}, None, everywhere),
        ({"causal": True}, None, everywhere & causal),
        ({"mask": "padding"}, tokens, everywhere & tokens[:, None, None, :]),
        ({"mask": "given"}, given, everywhere & given),
        ({"mask": "padding", "causal": True}, tokens, everywhere & tokens[:, None, None, :] & causal),
        ({"mask": "given", "causal": True}, given, everywhere & given & causal),
    ]


@pytest.mark.parametrize("which", range(6))
def test_masks_hide_what_they_say(which):
    A, cases = masks()
    options, keep, counts = cases[which]
    operands = (A,) if keep is None else (A, keep)
    Z = evaluate(lambda *operands: gi.scale_mask(*operands, width=16, **options), *operands)
    same(Z, np.where(counts, A / 4, MASKED))
    P = evaluate(gi.softmax, Z)
    assert not P[~counts & counts.any(axis=-1, keepdims=True)].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_that_sees_nothing_is_zero(dtype):
    A = floats(1, 1, 3, 3, dtype=dtype)
    nothing = np.zeros((1, 3), bool)
    P = evaluate(lambda A, keep: gi.softmax(gi.scale_mask(A, keep, width=4, mask="padding")), A, nothing)
    assert np.array_equal(P, np.zeros((1, 1, 3, 3), dtype))


@pytest.mark.parametrize("width", [1, 3, 64])
def test_the_width_divides_by_its_root(width):
    A = floats(1, 1, 2, 2)
    same(evaluate(lambda A: gi.scale_mask(A, width=width), A), A / math.sqrt(width), rtol=4e-16)


def test_the_width_may_be_a_dim():
    A = floats(1, 1, 2, 2)
    same(evaluate(lambda A: gi.scale_mask(A, width=gi.dim("D_h")), A, D_h=9), A / 3, rtol=4e-16)


def test_a_causal_mask_knows_where_its_block_lies():
    A, _ = masks()
    whole = evaluate(lambda A: gi.scale_mask(A, width=4, causal=True), A)
    for q, k in ((0, 2), (2, 0), (1, 1)):
        part = A[..., q : q + 2, k : k + 2]
        found = evaluate_block(
            gi.scale_mask, {"q": q, "k": k}, {"q": 4, "k": 4}, part, width=4, causal=True, mask="none", shape=part.shape
        )
        same(found, whole[..., q : q + 2, k : k + 2])
