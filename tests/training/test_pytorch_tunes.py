"""Training models of others further gives PyTorch's losses, step after step: of all weights, and by LoRA."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import graphir as gi
from graphir.training import TrainConfig
from graphir.training.programs import training_graph
from graphir.training.subject import subject_of
from tests.support.hub import FOLDERS

#: The losses of 50 steps, as tests/fixtures/hub/tuning.py records them: with these batches and options.
RECORDED: dict[str, list[float]] = json.loads((FOLDERS / "tuning.json").read_text())
B, S = 3, 12
TUNING = TrainConfig(
    model=str(FOLDERS / "smollm"),
    tokenizer="none",
    dtype="float64",
    batch=B,
    sequence=S,
    steps=50,
    learning_rate=3e-3,
    schedule="constant",
    warmup=0,
    weight_decay=0.1,
    clip=1.0,
)


def batch(vocabulary: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng([7, step])
    start, steps = draw.integers(vocabulary, size=(B, 1)), draw.integers(1, 3, size=(B, S))
    row = np.concatenate([start, start + steps.cumsum(1)], axis=1) % vocabulary
    return row[:, :-1], row[:, 1:]


def inputs_of(graph: gi.Graph, T: np.ndarray, Y: np.ndarray, step: int) -> dict[str, np.ndarray | int]:
    known = {"T": T, "Y": Y, "step": step, "positions": np.broadcast_to(np.arange(S), T.shape)}
    return {value.name: known[value.name] for value in graph.inputs}


def losses(config: TrainConfig) -> list[float]:
    subject, graph = subject_of(config), training_graph(config)
    V = subject.tokens(0)
    sizes = subject.sizes(V)
    run = gi.compile(graph, sizes)
    tensors = gi.initialize(graph, sizes) | subject.weights()
    for name in tensors:
        if name.endswith(".A"):
            tensors[name] = np.random.default_rng(len(tensors[name])).standard_normal(tensors[name].shape) * 0.02
    found = []
    for step in range(config.steps):
        T, Y = batch(V, step)
        result = run(tensors, inputs_of(graph, T, Y, step))
        found.append(float(result["L"]))
        tensors = result.updated()
    return found


@pytest.mark.parametrize(
    "name", ["smollm", *(pytest.param(each, marks=pytest.mark.slow) for each in ("gpt2", "qwen3"))]
)
def test_fifty_steps_are_those_of_pytorch(name: str) -> None:
    np.testing.assert_allclose(losses(replace(TUNING, model=str(FOLDERS / name))), RECORDED[name], atol=1e-9)


def test_fifty_steps_by_lora_are_those_of_pytorch() -> None:
    config = replace(TUNING, lora=3, lora_on="W_Q,W_down", lora_scale=2.0)
    np.testing.assert_allclose(losses(config), RECORDED["smollm, low rank"], atol=1e-9)
