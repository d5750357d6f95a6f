"""The loss scale: where the backward pass starts, what the update divides by, and what follows a bad step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import ConfigError, TypeCheckError
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, autodiff, dce, mixed_precision, optimize, shard
from graphir.testing import check_operator, same_bits

SIZES = {"B": 4, "D_in": 3, "D_1": 5, "D_out": 2}
SCALE, GOOD = "loss_scale/scale", "loss_scale/good"


def mlp() -> gi.Graph:
    return mixed_precision(gi.models.mlp(2), "float16")


def batch(step: int, factor: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return {"X": draw(4, 3) * np.float32(factor), "Target": draw(4, 2)}


def step_graph(start: float = 1024.0, **options: Any) -> gi.Graph:
    return optimize(autodiff(mlp(), loss_scale=start, dynamic=True), Optimizer(**options))


# -- gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [False, True])
def test_gradients_are_s_times_as_large(dynamic: bool) -> None:
    """A power of two moves no digit: all but what is too small for float16 is the same to the last bit."""
    plain, scaled = autodiff(mlp()), autodiff(mlp(), loss_scale=256.0, dynamic=dynamic)
    parameters = gi.initialize(scaled, SIZES, 1)
    assert set(parameters) - {value.name for value in plain.parameters} == ({SCALE, GOOD} if dynamic else set())
    one = gi.compile(plain, SIZES)({v.name: parameters[v.name] for v in plain.parameters}, batch(0))
    many = gi.compile(scaled, SIZES)(parameters, batch(0))
    assert many["L"] == one["L"]
    for value in plain.parameters:
        name = value.name.replace("/", "/d")
        assert np.array_equal(many[name], one[name] * 256)


def test_where_it_starts_is_in_the_graph() -> None:
    static, dynamic = autodiff(mlp(), loss_scale=512.0), autodiff(mlp(), loss_scale=512.0, dynamic=True)
    assert static["dL"] is static[SCALE]
    assert static.producers[static[SCALE]].attributes["by"] == 512.0
    assert dynamic["dL"] is dynamic[SCALE]
    assert [(v.name, str(v.type), v.init) for v in dynamic.state] == [
        (GOOD, "int64[]", "zeros"),
        (SCALE, "float32[]", "full(512)"),
    ]
    assert gi.initialize(dynamic, SIZES)[SCALE] == 512
    assert "loss_scale/scale  []        ~ full(512)" in gi.to_text(dynamic)


def test_small_gradients_survive_float16() -> None:
    """A loss that is a mean over so much that dL/dy is below float16's least number, 6e-8."""
    block = gi.Builder("tiny")
    B, D = gi.dims("B D")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, D))
    L = gi.scale(gi.reduce_sum(gi.matmul(X, W, name="Y")), by=2.0**-26, name="L")
    graph = mixed_precision(block.build(L), "float16")
    arrays = {"X": np.ones((2, 3), np.float32), "W": np.ones((3, 3), np.float32)}
    lost = gi.compile(autodiff(graph), {"B": 2, "D": 3})(arrays)["dW"]
    kept = gi.compile(autodiff(graph, loss_scale=2.0**16), {"B": 2, "D": 3})(arrays)["dW"]
    assert (lost == 0).all()
    assert (kept == 2.0**-9).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dynamic": True},
            "dynamic=True moves a loss scale, but none is given; say where it starts: loss_scale=65536",
        ),
        ({"loss_scale": 0.0}, "loss_scale=0.0 must be a positive number"),
        ({"loss_scale": float("inf"), "dynamic": True}, "loss_scale=inf must be a positive number"),
    ],
)
def test_a_loss_scale_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        autodiff(mlp(), **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["growth", "backoff", "growth_interval"])
def test_constants_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0 of the optimizer must be "):
        Optimizer(**{name: 0})
    block = gi.Builder("scale")
    s, good, norm = block.input("s"), block.input("good", dtype="int64"), block.input("norm")
    with pytest.raises(TypeCheckError, match="need growth ≥ 1, 0 < backoff ≤ 1, interval ≥ 1"):
        gi.adjust_scale(s, good, norm, interval=0)


def test_the_declaration_holds() -> None:
    check_operator(gi.adjust_scale)


# -- the update -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_the_update_divides_by_it(kernels: str, kind: str, clip: float | None) -> None:
    if kernels == "numba":
        pytest.importorskip("numba")
    options = {"kind": kind, "clip": clip, "learning_rate": 0.01}
    plain = optimize(autodiff(mlp()), Optimizer(**options))
    static = optimize(autodiff(mlp(), loss_scale=256.0), Optimizer(**options))
    dynamic = step_graph(256.0, **options)
    results = []
    for graph in (plain, static, dynamic):
        run, tensors = gi.compile(graph, SIZES, kernels=kernels), gi.initialize(graph, SIZES, 1)
        for step in range(3):
            result = run(tensors, {**batch(step), "step": step})
            tensors = result.updated()
        results.append((tensors, result))
    right = results[0][0]
    for tensors, result in results[1:]:
        # √(s² n) / s and √n differ by a rounding.
        assert all(np.allclose(tensors[name], right[name], rtol=1e-6, atol=1e-8) for name in right)
        if clip is not None:
            assert result["optimizer/norm"] == pytest.approx(float(results[0][1]["optimizer/norm"]), rel=1e-6)


@pytest.mark.parametrize("backend", ["reference", "numpy"])
@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_bad_step_changes_nothing_but_the_scale(kind: str, backend: str) -> None:
    graph = step_graph(kind=kind)
    run, tensors = gi.compile(graph, SIZES, backend=backend), gi.initialize(graph, SIZES, 1)
    tensors = run(tensors, {**batch(0), "step": 0}).updated()
    result = run(tensors, {**batch(1, 1e5), "step": 1})
    assert not np.isfinite(result["optimizer/norm"])
    after = result.updated()
    assert (after.pop(SCALE), after.pop(GOOD)) == (512, 0)
    assert all(same_bits(after[name], tensors[name]) for name in after)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_it_goes_as_pytorchs_scaler_does() -> None:
    """A made-up overflow in step 4, growth after three good steps: scale, count and parameters, step by step."""
    torch = pytest.importorskip("torch")
    start, interval, overflow = 1024.0, 3, 4
    graph = step_graph(start, kind="sgd", learning_rate=0.05, momentum=0.9, weight_decay=0.0, growth_interval=interval)
    run, tensors = gi.compile(graph, SIZES), gi.initialize(graph, SIZES, 1)
    names = [value.name for value in graph.parameters]
    theirs = {name: torch.nn.Parameter(torch.tensor(tensors[name])) for name in names}
    optimizer = torch.optim.SGD(theirs.values(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=interval)
    gradients = gi.compile(autodiff(mlp(), loss_scale=1.0), SIZES)
    seen = []
    for step in range(10):
        given = batch(step, 1e5 if step == overflow else 1.0)
        exact = gradients({name: theirs[name].detach().numpy() for name in names}, given)
        optimizer.zero_grad()
        # The scaled loss of a linear function has these gradients: what PyTorch's scaler is told, and nothing else.
        linear = sum((theirs[name] * torch.tensor(exact[name.replace("/", "/d")])).sum() for name in names)
        scaler.scale(linear).backward()
        if step == overflow:
            next(iter(theirs.values())).grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        tensors = run(tensors, {**given, "step": step}).updated()
        assert tensors[SCALE] == scaler.get_scale()
        assert tensors[GOOD] == scaler._get_growth_tracker()
        for name in names:
            assert np.allclose(tensors[name], theirs[name].detach().numpy(), rtol=2e-3, atol=2e-4)
        seen.append((float(tensors[SCALE]), int(tensors[GOOD])))
    assert seen[:6] == [(1024, 1), (1024, 2), (2048, 0), (2048, 1), (1024, 0), (1024, 1)]
    assert seen[7] == (2048, 0)


def test_it_never_grows_to_infinity() -> None:
    block = gi.Builder("scale")
    s, good, norm = block.input("s"), block.input("good", dtype="int64"), block.input("norm")
    graph = block.build(*gi.adjust_scale.all(s, good, norm, interval=2))
    found = gi.compile(graph, {})({"s": np.float32(2.0**127), "good": 1, "norm": np.float32(1)})
    assert [float(found[value.name]) for value in graph.outputs] == [2.0**127, 0, 1]


# -- several ranks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["data", "zero1", "zero2", "zero3"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_overflows_on_one_rank_stops_all(plan: str) -> None:
    graph = step_graph()
    made = shard(dce(graph), Mesh(dp=2), plan, SIZES)
    alone, together = gi.compile(graph, SIZES), gi.compile(made, SIZES)
    one = many = gi.initialize(graph, SIZES, 1)
    for step in range(4):
        given = {**batch(step), "step": step}
        if step == 2:
            given["X"][0] *= 1e7  # in the first rank's half of the batch
        one, many = alone(one, given).updated(), together(many, given).updated()
        assert many[SCALE] == one[SCALE] == (512 if step >= 2 else 1024)
        assert many[GOOD] == one[GOOD] == (step + 1, step + 1, 0, 1)[step]
        for name in one:
            assert np.allclose(many[name], one[name], rtol=1e-3, atol=1e-6)
