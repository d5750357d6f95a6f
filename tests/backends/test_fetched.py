"""Whatever is fetched of a graph, sharded or not, is returned; and what the next run starts from is all there."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends import initialize
from graphir.errors import GraphError, InputError
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, autodiff, dce, optimize, shard
from tests.support.mpi import launch, needs_mpi
from tests.support.sampled import sampled

SIZES = {"B": 4, "S": 4, "D": 8, "N_H": 4, "D_ff": 8, "V": 8}
PLANS = {
    "data": Mesh(dp=2),
    "zero3": Mesh(dp=2),
    "sequence+vocabulary": Mesh(tp=2),
    "data+sequence+zero1": Mesh(dp=2, tp=2),
}
plans = pytest.mark.parametrize("plan", PLANS)


@lru_cache
def training_step() -> Graph:
    model = gi.models.transformer(1, decode=None, dropout=0.1, dtype="float64")
    return optimize(autodiff(model, loss="L"), Optimizer("adamw", clip=1.0))


@lru_cache
def sharded_step(plan: str) -> Graph:
    return dce(shard(training_step(), PLANS[plan], plan, SIZES))


@lru_cache
def arguments() -> dict[str, Any]:
    T, Y = np.random.default_rng(0).integers(0, SIZES["V"], (2, SIZES["B"], SIZES["S"]))
    return {**initialize(training_step(), SIZES, seed=0), "T": T, "Y": Y, "seed": 0, "step": 0}


@lru_cache
def expected() -> dict[str, Any]:
    """Every value of the step on one rank."""
    step = training_step()
    run = gi.compile(step, SIZES, backend="reference", recompute="nothing", fetch=list(step.values))
    return dict(run(arguments()))


def assert_right(run: Any, local: Graph, names: list[str]) -> None:
    """Each of these is returned, whole, and what one rank makes, where that has a value of the name."""
    for name in names:
        assert name in run
        wanted = expected().get(local.origin(local[name]).name)
        if wanted is not None and np.asarray(wanted).dtype.kind != "O":
            np.testing.assert_allclose(run[name], wanted, rtol=1e-9, atol=1e-12, err_msg=name)


@plans
@sampled(1, every=[8, 1])
def test_each_value_is_fetched_alone(plan: str, every: int) -> None:
    local = sharded_step(plan)
    for name in (*local.values, *local.aliases)[::every]:
        run = gi.compile(local, SIZES, backend="reference", fetch=[name])(arguments())
        assert len(run) == 1
        assert_right(run, local, [name])


@plans
@pytest.mark.parametrize("backend", ["reference", "numpy"])
@sampled(1, count=[4, 20])
def test_pairs_are_fetched_beside_some_of_the_rest(plan: str, backend: str, count: int) -> None:
    """Every other pair is of a value and what collectives make of it: two results of one content, laid out apart."""
    local, drawn = sharded_step(plan), random.Random(plan)
    moved = [node for node in local.nodes if node.operator.relayout is not None]
    for number in range(count):
        pair = drawn.sample(list(local.values), 2)
        if number % 2:
            node = drawn.choice(moved)
            pair = drawn.sample([node.inputs[0].name, node.name], 2)
        rest = drawn.sample([value.name for value in local.outputs], drawn.randint(0, 3))
        names = list(dict.fromkeys([*pair, *rest]))
        run = gi.compile(local, SIZES, backend=backend, fetch=names)(arguments())
        assert len(run) == len(set(run)) == len({local.result(name).name for name in names})
        assert_right(run, local, names)


@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_a_value_and_what_collectives_made_of_it_are_two_results(backend: str) -> None:
    """Z_down, a term on each rank, and scattered; either alone bears the name that it was asked for by."""
    local = sharded_step("sequence+vocabulary")
    names = ["layer0/mlp/Z_down", "layer0/mlp/Z_down.RS"]
    for order in (names, names[::-1]):
        both = gi.compile(local, SIZES, backend=backend, fetch=order)(arguments())
        assert list(both) == order
    scattered = gi.compile(local, SIZES, backend=backend, fetch=names[1:])(arguments())
    assert list(scattered) == names[:1]
    assert scattered[names[1]] is scattered[names[0]]


# -- what the next run starts from -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_an_update_that_was_not_fetched_is_told(backend: str) -> None:
    step = training_step()
    run = gi.compile(step, SIZES, backend=backend, fetch=["L"])(arguments())
    with pytest.raises(InputError, match=r"updates what it starts from, but did not return 54 of the 54 updates"):
        run.updated()
    lacking = "layer0/mlp/W_up.m.new"
    fetch = [value.name for value in step.outputs if value.name != lacking]
    run = gi.compile(step, SIZES, backend=backend, fetch=fetch)(arguments())
    with pytest.raises(InputError) as caught:
        run.updated()
    assert str(caught.value) == (
        "graph transformer updates what it starts from, but did not return 1 of the 54 updates; "
        f"compile with fetch=[…, '{lacking}']"
    )


@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_what_is_not_updated_goes_on_as_it_was_handed_in(backend: str) -> None:
    """A step that reads a parameter that it does not train."""
    B, D = gi.dims("B D")
    block = gi.Builder("tuned")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, D))
    frozen = block.parameter("frozen", (D,))
    Y = gi.add(gi.matmul(X, W), gi.broadcast(frozen, (B,)))
    joint = autodiff(block.build(gi.reduce_sum(Y, name="L")), loss="L")
    graph = optimize(joint, Optimizer("sgd"), parameters=["W"])
    sizes = {"B": 2, "D": 3}
    state = initialize(graph, sizes, seed=0)
    run = gi.compile(graph, sizes, backend=backend)
    given = {"X": np.ones((2, 3), np.float32), "step": 0}
    after = run(state, given).updated()
    assert after.keys() == state.keys()
    assert after["frozen"] is state["frozen"]
    assert not np.array_equal(after["W"], state["W"])
    run(after, given)  # takes them as they are


@pytest.mark.parametrize("backend", ["reference", "numpy"])
@pytest.mark.parametrize("plan", [None, "data"])
def test_inference_goes_on_from_what_it_was_given(backend: str, plan: str | None) -> None:
    model = gi.models.transformer(1, decode=None, dropout=0.0)
    graph = model if plan is None else shard(model, PLANS[plan], plan, SIZES)
    state = initialize(model, SIZES, seed=0)
    inputs = {name: arguments()[name] for name in ("T", "Y", "seed", "step")}
    run = gi.compile(graph, SIZES, backend=backend)
    first = run(state, inputs)
    assert all(first.updated()[name] is array for name, array in state.items())
    again = run(first.updated(), inputs)
    np.testing.assert_array_equal(again["L"], first["L"])


def test_what_was_not_fetched_and_what_there_is_not_are_told_apart() -> None:
    run = gi.compile(sharded_step("data"), SIZES, fetch=["L"])(arguments())
    assert "layer0/mlp/A_up" not in run
    assert "nix" not in run
    with pytest.raises(InputError, match=r"^layer0/mlp/A_up was not fetched; compile with fetch=\[…, "):
        run["layer0/mlp/A_up"]
    with pytest.raises(GraphError, match="has no value called 'nix'"):
        run["nix"]


# -- one rank a process ------------------------------------------------------------------------------------


@needs_mpi
@pytest.mark.slow
def test_ranks_fetch_what_they_like() -> None:
    done = launch(2, "-m", "tests.support.mpi_fetched")
    assert (done.returncode, done.stdout) == (0, "alike\n"), done.stderr
