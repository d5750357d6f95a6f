"""Parallel = single: the same loss, gradients, parameters, state and masks, whatever the mesh and the plan.

The whole lattice of meshes and plans is run by `python -m tests.passes.sharding.lattice`; its result is kept in
benchmarks/results/lattice.md. Here is a sample of it, and what it does not reach: float32, masks, algorithms.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import graphir as gi
from graphir.backends.communicator import ALGORITHMS
from graphir.ir.layout import Mesh
from graphir.passes import PLANS, Optimizer, Plan, autodiff, optimize, shard
from tests.passes.sharding.lattice import COUNTS, LATTICE, TOLERANCE, cases, sample
from tests.support.sampled import sampled
from tests.support.sharding_cases import Case, batch, deviations, sharded_step_of, single, start, step_of, worst

DP_TP = (("dp", 2), ("tp", 2))


# -- float64: to rounding ----------------------------------------------------------------------------------


@sampled(len(LATTICE) // 3, case=sample(84, ranks=9))
def test_parallel_is_single(case: Case) -> None:
    """Loss, gradients, parameters, moments over three AdamW steps, to 1e-10 of each tensor's norm."""
    deviation, where = worst(case)
    assert deviation <= TOLERANCE, where


def test_the_lattice_has_every_plan_and_mesh() -> None:
    assert set(PLANS) - {"single"} <= {part for plan in LATTICE for part in plan.split("+")}
    for plan, axes in LATTICE.items():
        found = {case.mesh for case in cases(plan)}
        assert len(found) == len(COUNTS) ** len(axes), plan


@pytest.mark.slow
@sampled(1, algorithm=ALGORITHMS)
def test_every_algorithm_computes_the_same(algorithm: str) -> None:
    case = Case("data+sequence+vocabulary+zero1", (("dp", 3), ("tp", 3)))
    deviation, where = worst(case, algorithm=algorithm)
    assert deviation <= TOLERANCE, where


def test_axes_of_one_rank_send_nothing() -> None:
    case = Case("data+context+sequence+vocabulary+zero3", (("dp", 1), ("tp", 1), ("cp", 1)))
    run = gi.compile(sharded_step_of(case), case.sizes)(
        start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0)
    )
    assert run.traffic
    assert sum(traffic.total_bytes for traffic in run.traffic.values()) == 0
    assert worst(case)[0] <= TOLERANCE


def test_the_labels_lie_unevenly() -> None:
    """What the lattice is run on: rows, and so replicas, differ in how many tokens count; and clipping bites."""
    case = Case("data", (("dp", 3),))
    valid = (batch(case.sizes, 0)["Y"] != -100).sum(axis=1)
    assert len(set(valid.tolist())) == 3
    assert all(results["optimizer/norm"] > 0.1 for results in single(case))


@pytest.mark.slow
def test_the_mean_is_over_all_tokens_not_over_replicas() -> None:
    """The means of two replicas with unlike counts of tokens, averaged, are something else; both are to be had."""
    tokens = Case("data", (("dp", 2),), dropout=0.0)
    replicas = replace(tokens, mean="replicas")
    first, second = single(tokens)[0]["output/L"], single(replicas)[0]["output/L"]
    assert abs(first - second) > 1e-3
    assert worst(tokens)[0] <= TOLERANCE
    assert worst(replicas)[0] <= TOLERANCE


def test_a_deviation_is_seen() -> None:
    """The measure itself: a change in the tenth digit of one element of a tensor of two."""
    found = deviations({"dW": np.array([1.0, 1.0 + 1e-9])}, {"dW": np.array([1.0, 1.0])})
    assert 1e-10 < found["dW"] < 1e-9
    # What is all rounding is held against its kind, and nothing else is.
    rounding = {"dW": np.ones(4), "db_K": np.full(4, 1e-17)}
    assert deviations({**rounding, "db_K": np.full(4, 3e-17)}, rounding)["db_K"] < 1e-16
    assert deviations({**rounding, "db_K": np.full(4, 1e-8)}, rounding)["db_K"] > 1e-9


# -- masks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["data+megatron", "data+sequence", "data+context+megatron"])
def test_masks_are_the_same_bits(plan: str) -> None:
    """m of every DO, fetched whole from both runs."""
    case = Case(plan, (*DP_TP, ("cp", 2)))
    alone, local = step_of(case), sharded_step_of(case)
    masks = [node.outputs[1].name for node in alone.nodes if node.operator.key == "DO"]
    assert len(masks) == 5
    arguments = start(alone, tuple(case.sizes.items())), batch(case.sizes, 0)
    fetched = [gi.compile(g, case.sizes, fetch=masks, recompute="nothing")(*arguments) for g in (alone, local)]
    for name in masks:
        assert fetched[0][name].dtype == bool
        assert 0 < fetched[0][name].mean() < 1
        np.testing.assert_array_equal(fetched[1][name], fetched[0][name], err_msg=name)


# -- float32: no worse than the single run -----------------------------------------------------------------

#: Batches that errors are averaged over (root mean square): a single run may be exact by chance, all are not.
BATCHES = 16
ULP = 2.0**-23


@pytest.mark.slow
@sampled(
    1,
    case=[
        Case("data+megatron", DP_TP),
        Case("data+sequence+vocabulary", (("dp", 2), ("tp", 3)), tied=False, padded=True),
        Case("zero3", (("dp", 4),), dropout=0.0),
        Case("context+megatron", (("cp", 2), ("tp", 2)), positions="sinusoidal", qkv_bias=True),
        Case("column+vocabulary", (("tp", 4),)),
    ],
)
def test_float32_is_no_worse_than_single(case: Case) -> None:
    """Of each tensor, the distance to the float64 result is at most twice that of the single float32 run.

    Distances are relative to the tensor's norm in the batch, and their root mean square over BATCHES batches is what
    is compared. One unit in the last place is allowed to both: a scalar (L, the norm) that the single run happens to
    round well leaves no factor to compare with.
    """
    narrow = replace(case, dtype="float32")
    held = start(step_of(narrow), tuple(case.sizes.items()))
    wide = {name: array.astype("float64") if array.dtype == "float32" else array for name, array in held.items()}
    exact, alone, parallel = (
        gi.compile(graph, case.sizes) for graph in (step_of(case), step_of(narrow), sharded_step_of(narrow))
    )
    squares: dict[str, np.ndarray] = {}
    for step in range(BATCHES):
        given = batch(case.sizes, step)
        truth, mine, theirs = exact(wide, given), alone(held, given), parallel(held, given)
        single_error, parallel_error = deviations(mine, truth, 1e-6), deviations(theirs, truth, 1e-6)
        for name in truth:
            squares[name] = squares.get(name, 0.0) + np.square([single_error[name], parallel_error[name]])
    for name, sums in squares.items():
        of_single, of_parallel = np.sqrt(sums / BATCHES)
        assert of_parallel <= max(2 * of_single, ULP), name


# -- what is left of the graph -----------------------------------------------------------------------------


def test_names_shapes_and_outputs_stay() -> None:
    case = Case("data+sequence+zero1", DP_TP)
    alone, local = step_of(case), sharded_step_of(case)
    assert [local.origin(value).name for value in local.outputs] == [value.name for value in alone.outputs]
    for mine, theirs in zip(alone.arguments, local.arguments, strict=True):
        assert (mine.name, mine.shape, mine.dtype) == (theirs.name, theirs.shape, theirs.dtype)
    for name in ("L", "layer0/mha/X", "layer0/mlp/dU_in"):
        assert name in local
    assert local.mesh == Mesh(DP_TP)
    assert all(value.type.layout.is_replicated for value in alone.values.values())  # the input is untouched


def test_updates_stay_where_they_are_stored() -> None:
    """An update's result lies as what it updates, so that the next step can start from it."""
    for plan in ("zero1", "zero2", "zero3", "sequence", "data+megatron+zero1"):
        local = sharded_step_of(Case(plan, DP_TP))
        assert local.updates
        outputs = {local.origin(value): value for value in local.outputs}
        for old, new in local.updates.items():
            assert outputs[new].type.layout == old.type.layout, (plan, old.name)


def test_a_forward_graph_is_sharded_as_well() -> None:
    """Inference: no d-nodes, no optimizer."""
    model = gi.models.transformer(1, dtype="float64")
    sizes = {"B": 2, "S": 4, "D": 8, "N_H": 4, "D_ff": 8, "V": 8}
    local = gi.verify(shard(model, Mesh(dp=2, tp=4), "data+megatron+vocabulary"))
    held = start(model, tuple(sizes.items()))
    fetch = ["output/L", "output/ids"]
    mine, theirs = (gi.compile(g, sizes, fetch=["output/L"])(held, batch(sizes, 0)) for g in (local, model))
    assert abs(mine["output/L"] - theirs["output/L"]) < 1e-12
    assert fetch[1] in model  # and the decoding branch, which no output needs, is dropped
    assert fetch[1] not in local


# -- what random graphs have found -------------------------------------------------------------------------


def test_a_single_id_is_looked_up_in_a_split_vocabulary() -> None:
    """One id, not a list: the row is not a view of E that masking the ids of other ranks would write into."""
    V, D = gi.dims("V D")
    block = gi.Builder("g", dtype="float64")
    X = gi.lookup(block.parameter("E", (V, D)), block.input("id", (), "int64"), name="X")
    graph = autodiff(block.build(gi.reduce_sum(gi.multiply(X, X), name="L")))
    local = shard(graph, Mesh(tp=2), Plan("rows", parameters={"E": "V|tp"}))
    E = np.arange(8.0).reshape(4, 2)
    for which in range(4):
        run = gi.compile(gi.verify(local), {"V": 4, "D": 2})({"E": E, "id": which})
        assert run["L"] == (E[which] ** 2).sum()
        np.testing.assert_array_equal(E, np.arange(8.0).reshape(4, 2))


def test_the_loss_of_transposed_logits_has_its_gradient() -> None:
    """dCE of a transposed Z, whose rows do not lie side by side in memory, takes 1 off at each label."""
    N, S, V = gi.dims("N S V")
    block = gi.Builder("g", dtype="float64")
    Z = gi.transpose(block.parameter("W", (S, N, V)), (1, 0, 2))
    labels = block.input("Y", (N, S), "int64")
    graph = autodiff(block.build(gi.reduce_sum(gi.cross_entropy(Z, labels), name="L")))
    local = shard(graph, Mesh(dp=2), Plan("rows", inputs={"Y": "N|dp"}))
    W, Y = np.random.default_rng(0).standard_normal((3, 4, 5)), np.arange(12).reshape(4, 3) % 5
    P = np.exp(W) / np.exp(W).sum(-1, keepdims=True)
    for each in (graph, local):
        dW = gi.compile(each, {"N": 4, "S": 3, "V": 5})({"W": W, "Y": Y})["dW"]
        np.testing.assert_allclose(dW, P - np.eye(5)[Y.T], atol=1e-15)


def test_an_output_that_is_made_anew_for_each_reader_keeps_its_name() -> None:
    """dW = BC(dL) is read whole by the update and wanted split: what is returned is still dW."""
    W = (block := gi.Builder("g", dtype="float64")).parameter("W", (gi.dim("D"),))
    graph = optimize(autodiff(block.build(gi.reduce_sum(W, name="L"))), Optimizer("sgd"))
    local = gi.verify(shard(graph, Mesh(dp=2), Plan("split", activations={"dW": "[_|dp]"})))
    outputs = {local.origin(value).name: value for value in local.outputs}
    assert str(outputs["dW"].type) == "float64[D|dp]"
    run = gi.compile(local, {"D": 4})({"W": np.ones(4), "W.u": np.zeros(4), "step": 0})
    np.testing.assert_array_equal(run["dW"], np.ones(4))
