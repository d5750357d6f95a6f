"""Every ready-made plan on every mesh, in each command that takes both: a sensible result, or a sentence that helps.

Options that say nothing of an axis leave it at one rank, as their help says; a plan then splits nothing over it. Where
none says anything, a plan is an option without effect, and refused.
"""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

import graphir as gi
from graphir.backends import initialize
from graphir.ir.layout import Mesh
from graphir.passes import PLANS, Optimizer, Plan, autodiff, complete_plan, lower, optimize, shard
from graphir.training import TrainConfig, load_checkpoint, train
from graphir.training.checkpoint import list_checkpoints
from graphir.training.parallel import Parallel, plan_of
from tests.support.sampled import sampled

AXES = ("dp", "cp", "tp")
#: Every set of axes with two ranks; the last, all axes of one rank, written out.
MESHES = [dict.fromkeys(axes, 2) for count in range(4) for axes in combinations(AXES, count)]
MESHES.append(dict.fromkeys(AXES, 1))
NAMES = [None, *PLANS, "sequence+vocabulary+zero3"]
SMALL = ["--layers=1", "--width=8", "--heads=2", "--batch=2", "--sequence=4"]


def options(mesh: dict[str, int], plan: str | None) -> list[str]:
    return [*(f"--{axis}={count}" for axis, count in mesh.items()), *([f"--plan={plan}"] if plan else [])]


def is_refused(mesh: dict[str, int], plan: str | None, code: int, err: str) -> bool:
    """Whether the plan has no rank to split over, and is refused; that it is not refused anywhere else is asserted."""
    if plan and not mesh:
        assert (code, err) == (2, f"error: --plan {plan} splits nothing on one rank; add --tp 2, say\n")
        return True
    assert (code, err) == (0, "")
    return False


@sampled(plan=NAMES, mesh=MESHES)
def test_costs_of_every_plan_on_every_mesh(call, plan, mesh):
    code, out, err = call("cost", *SMALL, "--vocabulary=7", "--json", *options(mesh, plan))
    if is_refused(mesh, plan, code, err):
        return
    more = {axis: count for axis, count in mesh.items() if count > 1}
    assert json.loads(out)["mesh"] == str(Mesh(more))


@sampled(stage=["forward", "autodiff", "train", "lowered", "fused"], mesh=MESHES)
def test_every_stage_prints_under_every_plan(call, stage, mesh):
    for plan in NAMES:
        code, out, err = call("ir", "transformer", "--stage", stage, "--layers=1", *options(mesh, plan))
        # Nodes of the fused stage hold graphs, which are not read back.
        if not is_refused(mesh, plan, code, err) and stage != "fused":
            assert gi.verify(gi.parse(out)).mesh.size == np.prod([*mesh.values(), 1])


@pytest.mark.parametrize("mesh", MESHES[1:-1], ids=str)
def test_what_is_taken_apart_computes_the_same_on_ranks(mesh):
    """dW of a W shared by sequences that are cut: a product for each sequence, added up."""
    sizes = {"B": 2, "S": 4, "D": 8, "N_H": 4, "D_ff": 8, "V": 8}
    model = gi.models.transformer(1, decode=None, dropout=0, dtype="float64")
    step = optimize(autodiff(model, loss="L"), Optimizer("sgd"))
    arrays = dict(initialize(step, sizes, seed=0))
    T, Y = np.random.default_rng(0).integers(0, 8, (2, 2, 4))
    given = {"T": T, "Y": Y, "seed": 0, "step": 0}
    alone = gi.compile(step, sizes, backend="reference")(arrays, given)
    for name in (None, "sequence"):
        if name is None or "tp" in mesh:
            local = shard(step, Mesh(mesh), complete_plan(name, Mesh(mesh)), sizes)
            apart = gi.verify(lower(local))
            assert not any(node.operator.lower for node in apart.nodes)
            assert [value.type for value in apart.outputs] == [value.type for value in local.outputs]
            run = gi.compile(apart, sizes, backend="reference")(arrays, given)
            for value in step.outputs:
                np.testing.assert_allclose(run[value.name], alone[value.name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("command", ["check", "why"])
@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        (["--dp=2", "--plan=megatron"], "plan data+megatron splits over tp, which the mesh (dp=2) lacks; add tp=… to"),
        (["--plan=context"], "plan data+megatron+context splits over cp, which the mesh (dp=2, tp=3) lacks; add cp=…"),
        (["--cp=2", "--plan=vocabulary+zero1"], "over tp, dp, which the mesh (cp=2) lacks; add tp=…, dp=… to the mesh"),
    ],
)
def test_a_mesh_that_is_named_in_part_is_told_what_it_lacks(call, command, arguments, lacking):
    """Where a mesh is checked, an axis that was forgotten would check less than was meant."""
    code, out, err = call(command, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert lacking in err


@pytest.mark.slow
@sampled(1, plan=["sequence+vocabulary+zero3", "vocabulary"])
def test_training_without_the_axes_of_its_plan_is_training_on_one_rank(tmp_path, plan):
    config = TrainConfig(
        layers=1, sequence=8, width=8, heads=2, batch=2, steps=2, schedule_steps=2, validate_batches=1, sample=0
    )
    alone, planned = tmp_path / "alone", tmp_path / "planned"
    train(config, alone)
    train(TrainConfig(**{**config.as_dict(), "steps": 1, "plan": plan, "tp": 2}), planned)
    train(TrainConfig(**{**config.as_dict(), "plan": plan}), planned, resume=True)
    expected, found = (load_checkpoint(list_checkpoints(folder)[-1][1]).arrays for folder in (alone, planned))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-5)


def test_a_plan_within_a_mesh_speaks_of_its_axes_alone():
    plan = Plan(
        "mine",
        inputs={"*": "B|dp"},
        parameters={"*/W": "[_|tp, _|dp]", "*/E": "V|tp", "*/b": "?|dp|tp"},
        used={"*/W": "-dp", "*/E": "-tp", "*/b": "D|tp"},
        gradients={"*": "="},
        activations={"*/X": "S|tp", "*/Y": "-tp"},
    )
    assert str(plan.within(Mesh(dp=2))) == (
        "plan mine\n"
        "  inputs      *                       B|dp\n"
        "  parameters  */W                     [_, _|dp]\n"
        "  parameters  */b                     ?|dp\n"
        "  used        */W                     -dp\n"
        "  used        */b                     -dp\n"
        "  gradients   *                       ="
    )
    assert plan.within(Mesh(dp=2)).axes == ("dp",)
    assert plan.within(Mesh(dp=1, tp=1)) == plan
    assert plan.within(Mesh()).axes == ()


def test_a_vocabulary_is_shared_by_the_ranks_that_there_are():
    config = TrainConfig(plan="vocabulary", vocabulary_multiple=1)
    assert Parallel.of(config, 7).vocabulary.rows == 7
    assert Parallel.of(TrainConfig(plan="vocabulary", vocabulary_multiple=1, tp=2), 7).vocabulary.rows == 8
    assert plan_of(config).axes == ()
