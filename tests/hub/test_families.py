"""Each family, read from a folder as transformers writes it, has the logits, loss and gradients that it has there."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.errors import LayoutError
from graphir.passes import complete_plan, shard
from tests.support.hub import FAMILIES, expected, gradient, inputs, opened, training_graph


def largest_difference(name: str, backend: str, mesh: gi.Mesh | None = None, plan: str = "megatron") -> float:
    """How far logits, loss and all gradients are from what was recorded, at most, on one rank or on a mesh."""
    model, said = opened(name), expected(name)
    graph = training_graph(model, name)
    B, S = said["T"].shape
    sizes = model.blueprint.bind(graph, B=B, S=S)
    answer = model.blueprint.composition.answer
    gradients = {value.name: gradient(value.name) for value in graph.parameters}
    fetch = [answer, "L", *gradients.values()]
    parallel = graph if mesh is None else shard(graph, mesh, complete_plan(plan, mesh), sizes)
    run = gi.compile(parallel, sizes, backend=backend, fetch=fetch)
    ran = run(model.arrays("float64"), inputs(graph, name))
    out = {value: np.asarray(ran[value]) for value in fetch}
    found = [(out[answer], said["logits"]), (out["L"], said["loss"])]
    names = model.weights.names
    for stored in names.stored:
        joined = names.join(stored, lambda parameter: out[gradients[parameter]])
        found.append((joined, said[f"gradients/{stored.name}"]))
    assert all(one.shape == other.shape for one, other in found)
    return max(float(np.abs(one - other).max()) for one, other in found)


def test_every_family_has_a_folder() -> None:
    families = {"bert", "gemma2", "gemma3", "gpt2", "llama", "mistral", "phi3", "phi3_long", "qwen2", "qwen3", "smollm"}
    assert set(FAMILIES) == families


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_logits_loss_and_gradients_are_those_of_transformers(name: str) -> None:
    assert largest_difference(name, "reference") < 1e-12


def test_short_texts_are_turned_by_other_angles_than_long_ones() -> None:
    model, said = opened("phi3_long"), expected("phi3_long")
    wanted, graph = said["short_logits"], model.blueprint.but(dtype="float64").graph(loss=False)
    B, S = wanted.shape[:2]
    assert model.blueprint.composition.positions.scaling.original == S
    answer = model.blueprint.composition.answer
    run = gi.compile(graph, model.blueprint.bind(graph, B=B, S=S), backend="reference", fetch=[answer])
    given = inputs(graph, "phi3_long")
    short = {name: each[:, :S] for name, each in given.items() if name != "length"}
    apart = {
        length: np.abs(run(model.arrays("float64"), {**short, "length": length})[answer] - wanted).max()
        for length in (S, S + 1)
    }
    assert apart[S] < 1e-12
    assert apart[S + 1] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_they_are_the_same(name: str) -> None:
    assert largest_difference(name, "numpy") < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_by_xla_they_are_the_same(name: str) -> None:
    pytest.importorskip("jax")
    assert largest_difference(name, "xla") < 1e-12


#: How many ranks may share the heads: as many as there are heads of keys, fewer, or several for each of them.
RANKS = [
    (name, ranks)
    for name in FAMILIES
    for ranks in {1: (2, 3), 2: (2, 6), 3: (3, 6), 6: (2, 3)}[opened(name).blueprint.sizes["N_KV"]]
]


@pytest.mark.parametrize(("name", "ranks"), RANKS)
def test_on_ranks_that_share_its_heads_they_are_the_same(name: str, ranks: int) -> None:
    assert largest_difference(name, "reference", gi.Mesh(tp=ranks)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["sequence", "vocabulary", "zero3"])
@pytest.mark.parametrize("name", ["gemma3", "llama", "phi3"])
def test_under_other_plans_they_are_the_same(name: str, plan: str) -> None:
    mesh = gi.Mesh(dp=2) if plan == "zero3" else gi.Mesh(tp=3)
    assert largest_difference(name, "numpy", mesh, plan) < 1e-12


def test_ranks_that_do_not_fit_the_heads_are_refused_in_named_dims() -> None:
    with pytest.raises((LayoutError, gi.errors.DimError), match="N_KV"):
        largest_difference("llama", "reference", gi.Mesh(tp=2))
