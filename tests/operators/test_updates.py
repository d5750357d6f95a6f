"""Optimizers' updates, clipping and learning rates, against their papers' formulas in plain Python numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import graphir as gi
from tests.support.evaluate import evaluate

RANDOM = np.random.default_rng(4)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order_of_tests():
    RANDOM.bit_generator.state = START


def floats(count=5):
    return [RANDOM.standard_normal(3) for _ in range(count)]


def close(found, expected, rtol=1e-14):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-15)


# -- one update -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.1), (0.0, 0.1)])
def test_sgd(momentum, decay):
    W, dW, u = floats(3)
    W_new, u_new = evaluate(
        lambda *operands: gi.sgd.all(*operands, momentum=momentum, weight_decay=decay), W, dW, u, np.float64(0.25)
    )
    velocity = momentum * u + dW + decay * W
    close(u_new, velocity)
    close(W_new, W - 0.25 * velocity)


@pytest.mark.parametrize("step", [0, 1, 999])
@pytest.mark.parametrize("decay", [None, 0.0, 0.1])
def test_adam_and_adamw(step, decay):
    W, dW, m, v = floats(4)
    v = v * v
    beta1, beta2, epsilon, rate = 0.8, 0.95, 1e-6, 0.01
    constants = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon}
    if decay is not None:
        constants["weight_decay"] = decay
    operator = gi.adam if decay is None else gi.adamw
    W_new, m_new, v_new = evaluate(
        lambda *operands: operator.all(*operands, **constants), W, dW, m, v, step, np.float64(rate)
    )
    t = step + 1
    for i in range(3):
        first = beta1 * m[i] + (1 - beta1) * dW[i]
        second = beta2 * v[i] + (1 - beta2) * dW[i] ** 2
        change = rate * (first / (1 - beta1**t)) / (math.sqrt(second / (1 - beta2**t)) + epsilon)
        close([m_new[i], v_new[i], W_new[i]], [first, second, W[i] - rate * (decay or 0.0) * W[i] - change], 1e-13)


def test_adams_first_step_is_the_sign_of_the_gradient():
    W, dW = np.zeros(3), np.asarray([1e-3, -7.0, 1e3])
    W_new, _, _ = evaluate(gi.adam.all, W, dW, np.zeros(3), np.zeros(3), 0, np.float64(0.1))
    close(W_new, [-0.1, 0.1, -0.1], rtol=2e-5)  # up to ε/|dW| = 1e-5


def test_without_a_gradient_adamw_only_decays():
    W, zeros = floats(1)[0], np.zeros(3)
    W_new, _, _ = evaluate(
        lambda *operands: gi.adamw.all(*operands, weight_decay=0.5), W, zeros, zeros, zeros, 0, np.float64(0.1)
    )
    close(W_new, 0.95 * W)


def test_an_update_keeps_the_parameters_dtype():
    W, dW, m, v = (each.astype("float32") for each in floats(4))
    results = evaluate(gi.adamw.all, W, dW, m, v * v, 3, np.float64(1e-3))
    assert [each.dtype for each in results] == ["float32"] * 3


def test_an_update_of_a_scalar():
    W, dW, m, v = np.float64(2.0), np.float64(1.0), np.float64(0.0), np.float64(0.0)
    W_new, _, _ = evaluate(gi.adam.all, W, dW, m, v, 0, np.float64(0.5))
    close(W_new, 1.5, rtol=1e-7)


# -- clipping ---------------------------------------------------------------------------------------------


def test_square_sum():
    X = RANDOM.standard_normal((2, 3, 4))
    close(evaluate(gi.square_sum, X), math.fsum(x * x for x in X.reshape(-1)))


@pytest.mark.parametrize(("norm", "factor"), [(0.0, 1.0), (0.5, 1.0), (4.0, 2.0 / (4.0 + 1e-6)), (2.0, 2 / 2.000001)])
def test_gradients_are_brought_within_the_limit(norm, factor):
    c, found = evaluate(lambda n: gi.clip_factor.all(n, limit=2.0), np.float64(norm**2))
    close([c, found], [factor, norm])


def test_rescaling():
    X = floats(1)[0]
    close(evaluate(gi.rescale, X, np.float64(0.5)), X / 2)


# -- learning rates ---------------------------------------------------------------------------------------


def rate(step, **options):
    return float(evaluate(lambda t: gi.schedule(t, **{"peak": 0.8, **options}), step))


def test_a_constant_rate():
    assert [rate(t) for t in (0, 1, 10**9)] == [0.8] * 3


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_the_rise_reaches_the_peak_in_its_last_step(kind):
    rates = [rate(t, kind=kind, warmup=4, total=20) for t in range(5)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-15)


def test_the_linear_fall():
    rates = [rate(t, kind="linear", warmup=2, total=10, floor=0.2) for t in (2, 4, 6, 8, 10, 11, 10**6)]
    np.testing.assert_allclose(rates, [0.8, 0.65, 0.5, 0.35, 0.2, 0.2, 0.2], rtol=1e-14)


def test_the_cosine_fall():
    rates = [rate(t, kind="cosine", warmup=2, total=8, floor=0.2) for t in (2, 4, 5, 6, 8, 9, 10**6)]
    # cos runs from 0 to π over six steps: at a third of the way it is ½.
    np.testing.assert_allclose(rates, [0.8, 0.65, 0.5, 0.35, 0.2, 0.2, 0.2], rtol=1e-14)


def test_rates_come_in_float64_unless_asked():
    assert evaluate(lambda t: gi.schedule(t, peak=0.1), 0).dtype == "float64"
    assert evaluate(lambda t: gi.schedule(t, peak=0.1, dtype="float32"), 0).dtype == "float32"
