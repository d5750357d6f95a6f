"""The training step as a graph: updates, state, clipping by the global norm, schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends import initialize
from graphir.errors import ConfigError
from graphir.ir.graph import UPDATE
from graphir.passes import Optimizer, Schedule, autodiff, optimize

SIZES = {"B": 4, "D_in": 3, "D_1": 5, "D_out": 2}


def step_graph(optimizer: Optimizer, dtype: str = "float64") -> gi.Graph:
    return optimize(autodiff(gi.models.mlp(2, dtype=dtype)), optimizer)


def batch(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {"X": rng.standard_normal((4, 3)), "Target": rng.standard_normal((4, 2)), "step": step}


def start(graph: gi.Graph) -> dict[str, Any]:
    return {**initialize(graph, SIZES, seed=1)}


def names_of(graph: gi.Graph) -> list[str]:
    return [value.name for value in graph.parameters]


# -- updates against their formulas -----------------------------------------------------------------------


def gradients(graph: gi.Graph, tensors: dict[str, Any], step: int) -> dict[str, Any]:
    joint = autodiff(gi.models.mlp(2, dtype="float64"))
    found = gi.compile(joint, SIZES)({name: tensors[name] for name in names_of(joint)}, batch_of(joint, step))
    return {name: found[name.replace("/", "/d")] for name in names_of(joint)}


def batch_of(graph: gi.Graph, step: int) -> dict[str, Any]:
    return {value.name: batch(step)[value.name] for value in graph.inputs}


def test_sgd_with_momentum_and_decay() -> None:
    graph = step_graph(Optimizer(kind="sgd", learning_rate=0.1, momentum=0.8, weight_decay=0.3))
    run, tensors = gi.compile(graph, SIZES), start(graph)
    W = {name: tensors[name].copy() for name in names_of(graph)}
    u = {name: np.zeros_like(W[name]) for name in W}
    for step in range(3):
        dW = gradients(graph, tensors, step)
        tensors = run(tensors, batch(step)).updated()
        for name in W:
            decay = 0.3 if W[name].ndim > 1 else 0.0
            u[name] = 0.8 * u[name] + dW[name] + decay * W[name]
            W[name] = W[name] - 0.1 * u[name]
            assert np.allclose(tensors[name], W[name], rtol=1e-13, atol=1e-15)
            assert np.allclose(tensors[f"{name}.u"], u[name], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_corrects_its_moments_and_decays_beside_them(kind: str) -> None:
    graph = step_graph(Optimizer(kind=kind, learning_rate=0.01, beta1=0.7, beta2=0.9, epsilon=1e-3, weight_decay=0.2))
    run, tensors = gi.compile(graph, SIZES), start(graph)
    W = {name: tensors[name].copy() for name in names_of(graph)}
    m, v = ({name: np.zeros_like(W[name]) for name in W} for _ in range(2))
    for step in range(4):
        dW = gradients(graph, tensors, step)
        tensors = run(tensors, batch(step)).updated()
        for name in W:
            m[name] = 0.7 * m[name] + 0.3 * dW[name]
            v[name] = 0.9 * v[name] + 0.1 * dW[name] ** 2
            m_hat, v_hat = m[name] / (1 - 0.7 ** (step + 1)), v[name] / (1 - 0.9 ** (step + 1))
            decay = 0.2 if kind == "adamw" and W[name].ndim > 1 else 0.0
            W[name] = (1 - 0.01 * decay) * W[name] - 0.01 * m_hat / (np.sqrt(v_hat) + 1e-3)
            assert np.allclose(tensors[name], W[name], rtol=1e-13, atol=1e-15)


def test_a_scalar_parameter_is_updated_too() -> None:
    block = gi.Builder("scalar", dtype="float64")
    X = block.parameter("X", (), init="ones")
    joint = autodiff(block.build(gi.multiply(X, X, name="L")))
    for kind in ("sgd", "adam", "adamw"):
        graph = optimize(joint, Optimizer(kind=kind, learning_rate=0.5, momentum=0.0, weight_decay=0.0))
        result = gi.compile(graph, {})(initialize(graph, {}), {"step": 0})
        # SGD: 1 − 0.5 · 2; Adam's first step is the learning rate in the gradient's direction.
        assert float(result["X.new"]) == pytest.approx(0.0 if kind == "sgd" else 0.5, abs=1e-7)


# -- the graph --------------------------------------------------------------------------------------------


def test_each_parameter_and_state_has_its_new_value() -> None:
    graph = step_graph(Optimizer())
    expected = {name: f"{name}.new" for name in names_of(graph)}
    expected |= {value.name: f"{value.name}.new" for value in graph.state}
    assert {old.name: new.name for old, new in graph.updates.items()} == expected
    assert [value.name for value in graph.state[:2]] == ["layer0/W.m", "layer0/W.v"]
    assert all(value.init == "zeros" for value in graph.state)
    assert all(new in graph.outputs and new.type == old.type for old, new in graph.updates.items())
    assert {"optimizer/lr", "loss/L"} <= {value.name for value in graph.outputs}
    assert all(node.meta.phase == UPDATE for node in graph.nodes if node.updates)
    gi.verify(graph)


def test_the_step_is_an_input_and_shared_with_dropout() -> None:
    assert step_graph(Optimizer())["step"].dtype == "int64"
    model = autodiff(gi.models.transformer(1))
    assert [value.name for value in optimize(model).inputs] == [value.name for value in model.inputs]


def test_inputs_are_untouched_and_state_is_pure() -> None:
    graph = step_graph(Optimizer())
    tensors = start(graph)
    before = {name: array.copy() for name, array in tensors.items()}
    run = gi.compile(graph, SIZES)
    first = {name: array.copy() for name, array in run(tensors, batch(0)).updated().items()}
    second = run(tensors, batch(0)).updated()
    assert all(np.array_equal(tensors[name], before[name]) for name in before)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert set(first) == set(before)


def test_some_parameters_alone() -> None:
    graph = optimize(autodiff(gi.models.mlp(2)), Optimizer(), ["layer1/W"])
    assert [old.name for old in graph.updates] == ["layer1/W", "layer1/W.m", "layer1/W.v"]


def test_which_parameters_decay_is_the_users_choice() -> None:
    graph = step_graph(Optimizer(weight_decay=0.5, decays=lambda parameter: parameter.local_name == "b"))
    decays = {node.meta.of: node.attributes["weight_decay"] for node in graph.nodes if node.updates}
    assert decays == {"layer0/W": 0.0, "layer0/b": 0.5, "layer1/W": 0.0, "layer1/b": 0.5}


def test_without_gradients_there_is_nothing_to_update_by() -> None:
    with pytest.raises(ConfigError, match="graph mlp has no gradient layer0/dW of layer0/W"):
        optimize(gi.models.mlp(2))


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="optimizer 'lion' is unknown; choose from sgd, adam, adamw"):
        step_graph(Optimizer(kind="lion"))


# -- clipping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1e-3, 0.05, 1e3])
def test_clipping_scales_all_gradients_to_the_limit_and_no_further(limit: float) -> None:
    graph = step_graph(Optimizer(kind="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip=limit))
    tensors = start(graph)
    dW = gradients(graph, tensors, 0)
    norm = np.sqrt(sum(np.sum(g * g) for g in dW.values()))
    result = gi.compile(graph, SIZES)(tensors, batch(0))
    assert float(result["optimizer/norm"]) == pytest.approx(norm, rel=1e-13)
    for name, g in dW.items():
        moved = tensors[name] - result.updated()[name]
        assert np.allclose(moved, g * min(1.0, limit / (norm + 1e-6)), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("scaled", [False, True])
def test_parameters_of_several_dtypes_have_one_norm(scaled: bool) -> None:
    b = gi.Builder("mixed")
    squares = []
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        W = b.parameter(f"W_{dtype}", [3], dtype)
        squares.append(gi.reduce_sum(gi.cast(gi.multiply(W, W), to="float64")))
    b.output(gi.add(*squares, name="L"))
    graph = autodiff(b.build(), loss="L", loss_scale=8.0 if scaled else None, dynamic=scaled)
    graph = optimize(graph, Optimizer("sgd", learning_rate=1.0, clip=0.5))
    first = gi.initialize(graph, {})
    run = gi.compile(graph, {})(
        first | {value.name: np.full_like(first[value.name], 0.5) for value in graph.parameters}, {"step": 0}
    )
    norm = np.sqrt(12.0)  # dW = 2 W = 1, of four times three numbers
    np.testing.assert_allclose(run["optimizer/norm"], norm)
    for value in graph.parameters:
        changed = run[f"{value.name}.new"].astype(float)
        np.testing.assert_allclose(changed, 0.5 - 0.5 / norm, rtol=1e-2 if value.dtype.endswith("16") else 1e-6)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_a_guarded_step_leaves_all_as_it_was_where_a_gradient_is_not_finite(backend: str, clip: float | None) -> None:
    plain, guarded = (
        optimize(autodiff(gi.models.mlp(2, dtype="float64")), Optimizer(clip=clip), guarded=each)
        for each in (False, True)
    )
    tensors, good = start(guarded), batch_of(guarded, 0)
    wanted = gi.compile(plain, SIZES, backend=backend)(tensors, good)
    run = gi.compile(guarded, SIZES, backend=backend)
    found = run(tensors, good)
    assert all(np.array_equal(found[name], array) for name, array in wanted.items())
    assert np.isfinite(found["optimizer/norm"])
    bad = run(tensors, {**good, "X": good["X"] * np.nan})
    assert not np.isfinite(bad["optimizer/norm"])
    assert all(np.array_equal(array, tensors[name]) for name, array in bad.updated().items())


def test_a_gradient_of_zero_stays_zero_when_clipped() -> None:
    block = gi.Builder("flat", dtype="float64")
    X = block.parameter("X", (3,), init="zeros")
    joint = autodiff(block.build(gi.reduce_sum(gi.multiply(X, X, name="Y"), name="L")))
    graph = optimize(joint, Optimizer(clip=1.0))
    result = gi.compile(graph, {})(initialize(graph, {}), {"step": 0})
    assert result["X.new"].tolist() == [0, 0, 0]
    assert float(result["optimizer/norm"]) == 0


# -- schedules --------------------------------------------------------------------------------------------


def rates(schedule: float | Schedule, steps: list[int]) -> list[float]:
    graph = step_graph(Optimizer(learning_rate=schedule))
    run = gi.compile(graph, SIZES, fetch=["optimizer/lr"])
    return [float(run(start(graph), batch(0) | {"step": step})["optimizer/lr"]) for step in steps]


def test_a_constant_rate() -> None:
    assert rates(0.25, [0, 1, 10**9]) == [0.25, 0.25, 0.25]
    assert rates(Schedule(0.5, warmup=4), [0, 1, 3, 4, 1000]) == [0.125, 0.25, 0.5, 0.5, 0.5]


def test_a_linear_fall_from_peak_to_floor() -> None:
    schedule = Schedule(peak=1.0, kind="linear", warmup=2, total=10, floor=0.2)
    assert rates(schedule, [0, 1, 2, 6, 10, 11]) == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2, 0.2], rel=1e-15)


def test_half_a_cosine_from_peak_to_floor() -> None:
    schedule = Schedule(peak=1.0, kind="cosine", warmup=2, total=10, floor=0.2)
    quarter = 0.2 + 0.8 * (1 + np.sqrt(0.5)) / 2
    expected = [0.5, 1.0, 1.0, quarter, 0.6, 0.2, 0.2]
    assert rates(schedule, [0, 1, 2, 4, 6, 10, 99]) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        (Schedule(1.0, kind="step"), "kind='step' is no schedule; choose from constant, linear, cosine"),
        (Schedule(-1.0), "need peak > 0, warmup ≥ 0, 0 ≤ floor ≤ peak"),
        (Schedule(1.0, floor=2.0), "need peak > 0, warmup ≥ 0, 0 ≤ floor ≤ peak"),
        (Schedule(1.0, kind="cosine", warmup=5, total=5), "total=5 must exceed warmup=5 for a cosine schedule"),
    ],
)
def test_schedules_that_make_no_sense(schedule: Schedule, complaint: str) -> None:
    with pytest.raises(gi.GraphirError, match=complaint):
        step_graph(Optimizer(learning_rate=schedule))
