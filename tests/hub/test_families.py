"""Each family, read from a folder as transformers writes it, has the logits, loss and gradients that it has there."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from tests.support.hub import FAMILIES, expected, gradient, inputs, opened, training_graph


def largest_difference(name: str, backend: str) -> float:
    """How far logits, loss and all gradients are from what was recorded, at most."""
    model, said = opened(name), expected(name)
    graph = training_graph(model, name)
    B, S = said["T"].shape
    answer = model.blueprint.composition.answer
    gradients = {value.name: gradient(value.name) for value in graph.parameters}
    fetch = [answer, "L", *gradients.values()]
    run = gi.compile(graph, model.blueprint.bind(graph, B=B, S=S), backend=backend, fetch=fetch)
    out = run(model.arrays("float64"), inputs(graph, name))
    found = [(out[answer], said["logits"]), (out["L"], said["loss"])]
    names = model.weights.names
    for stored in names.stored:
        joined = names.join(stored, lambda parameter: out[gradients[parameter]])
        found.append((joined, said[f"gradients/{stored.name}"]))
    assert all(one.shape == other.shape for one, other in found)
    return max(float(np.abs(one - other).max()) for one, other in found)


def test_every_family_has_a_folder() -> None:
    families = {"bert", "gemma2", "gemma3", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm"}
    assert set(FAMILIES) == families


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_logits_loss_and_gradients_are_those_of_transformers(name: str) -> None:
    assert largest_difference(name, "reference") < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_they_are_the_same(name: str) -> None:
    assert largest_difference(name, "numpy") < 1e-12
