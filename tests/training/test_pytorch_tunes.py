"""Training models of others further gives PyTorch's losses, step after step: of all weights, and by LoRA."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.backends import initialize
from graphir.training import TrainConfig
from graphir.training.programs import training_graph
from graphir.training.subject import subject_of
from tests.support.hub import FOLDERS, smollm2_file

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
PUBLISHED, FIRST = replace(TUNING, batch=2, sequence=8, learning_rate=1e-4), 4

Batch = tuple[np.ndarray, np.ndarray]


def counted(vocabulary: int, step: int) -> Batch:
    """T and Y [B, S] of a step: rows that count on from a random token, now and then by two."""
    draw = np.random.default_rng([7, step])
    start, steps = draw.integers(vocabulary, size=(B, 1)), draw.integers(1, 3, size=(B, S))
    row = np.concatenate([start, start + steps.cumsum(1)], axis=1) % vocabulary
    return row[:, :-1], row[:, 1:]


def windows(config: TrainConfig, step: int) -> Batch:
    """T and Y of a step: windows of the text that was recorded of SmolLM2."""
    with np.load(FOLDERS / "smollm2.npz") as recorded:
        ids = recorded["T"][0]
    starts = np.random.default_rng([7, step]).integers(len(ids) - config.sequence, size=(config.batch, 1))
    rows = ids[starts + np.arange(config.sequence + 1)]
    return rows[:, :-1], rows[:, 1:]


def inputs_of(graph: gi.Graph, T: np.ndarray, Y: np.ndarray, step: int) -> dict[str, np.ndarray | int]:
    known = {"T": T, "Y": Y, "step": step, "positions": np.broadcast_to(np.arange(T.shape[1]), T.shape)}
    return {value.name: known[value.name] for value in graph.inputs}


def losses(config: TrainConfig, model: Path | None = None) -> Iterator[float]:
    """The loss of each step, on batches that count, or, of a `model` of texts, on one."""
    config = replace(config, model=str(model or config.model))
    subject, graph = subject_of(config), training_graph(config)
    V = subject.tokens(0)
    sizes = subject.sizes(V)
    fetch = ["L", *(value.name for value in graph.updates.values())]
    run = gi.compile(graph, sizes, fetch=fetch, donate=True)
    tensors = initialize(graph, sizes, known=subject.weights())
    for name in tensors:
        if name.endswith(".A"):
            tensors[name] = np.random.default_rng(len(tensors[name])).standard_normal(tensors[name].shape) * 0.02
    for step in range(config.steps):
        T, Y = counted(V, step) if model is None else windows(config, step)
        result = run(tensors, inputs_of(graph, T, Y, step))
        yield float(result["L"])
        tensors |= result.updated()


def require_close(found: Iterator[float], wanted: list[float], apart: float) -> None:
    np.testing.assert_allclose(list(found), wanted, rtol=0, atol=apart)


@pytest.mark.parametrize(
    "name", ["smollm", *(pytest.param(each, marks=pytest.mark.slow) for each in ("gpt2", "qwen3"))]
)
def test_fifty_steps_are_those_of_pytorch(name: str) -> None:
    require_close(losses(replace(TUNING, model=str(FOLDERS / name))), RECORDED[name], 1e-9)


def test_fifty_steps_by_lora_are_those_of_pytorch() -> None:
    config = replace(TUNING, lora=3, lora_on="W_Q,W_down", lora_scale=2.0)
    require_close(losses(config), RECORDED["smollm, low rank"], 1e-9)


@pytest.mark.slow
def test_smollm2s_first_steps_are_those_of_pytorch() -> None:
    """All its layers and weights; of the 50 steps that are recorded the first, as each takes seconds."""
    found = islice(losses(PUBLISHED, smollm2_file()), FIRST)
    require_close(found, RECORDED["SmolLM2"][:FIRST], 1e-9)
