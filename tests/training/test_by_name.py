"""Models by name, trained from random weights: in a size of their own or another, and written as others read them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import CheckpointError, ConfigError
from graphir.hub import open_model
from graphir.models.presets import PRESETS
from graphir.training import Sampler, TrainConfig, load_checkpoint, loop, train
from graphir.training.budget import Need
from graphir.training.data import draw_batch, load_corpus
from graphir.training.programs import Needs
from graphir.training.subject import subject_of

SMALL: dict[str, Any] = {"layers": 1, "width": 16, "heads": 4, "steps": 2, "batch": 2, "sequence": 8, "sample": 0}
SMALL["schedule_steps"] = 9


def config(model: str = "llama3-8b", **changes: Any) -> TrainConfig:
    return TrainConfig(model=model, **{**SMALL, "validate_batches": 1, "schedule": "constant", "warmup": 0, **changes})


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("bert")])
def test_what_nobody_says_is_as_the_name_says(name: str) -> None:
    asked, told = TrainConfig(model=name).check(), PRESETS[name]
    assert asked.check() == asked
    assert asked.blueprint() == told
    assert asked.layers == told.composition.layers
    assert subject_of(asked).sizes(256) == told.bind(told.but(layers=1).graph(decode=None), B=16, S=64) | {"V": 256}
    assert asked.tokenizer == "bytes"
    assert asked.resolved().learning_rate == TrainConfig().resolved().learning_rate


def test_what_is_said_is_another_size_of_the_same_model() -> None:
    asked = config(layers=None, heads=8, size=("N_KV=4", "S_max=32")).check()
    sizes = {"D": 16, "N_H": 8, "N_KV": 4, "D_h": 2, "D_ff": 56, "V": 128256, "S_max": 32}
    assert asked.blueprint().sizes == sizes
    assert asked.layers == 32
    assert TrainConfig.from_dict(asked.as_dict(), "here") == asked


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3-8b", "gpt2"])
def test_it_begins_at_random_goes_on_and_becomes_a_folder(name: str, tmp_path: Path) -> None:
    asked = config(name)
    outcome = train(asked, tmp_path / "run")
    saved = load_checkpoint(outcome.checkpoint)
    graph = asked.check().blueprint().graph()
    assert saved.arrays.keys() >= {value.name for value in graph.parameters}
    # One step on by both ways.
    more = replace(asked, steps=3)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert train(more, tmp_path / "copy", resume=True).loss == train(more, tmp_path / "through").loss
    # What the folder computes is what the checkpoint's arrays are.
    model = open_model(tmp_path / "run/model")
    assert model.blueprint.sizes == asked.check().blueprint().sizes | {"V": 256}
    T, Y = draw_batch(load_corpus(asked.check()).train, 2, 8, 0, 0)
    inputs = {"T": T, "Y": Y, "positions": np.broadcast_to(np.arange(8), T.shape)}
    losses = [
        gi.compile(graph, model.blueprint.bind(graph, B=2, S=8), backend="reference")(arrays, inputs)["L"]
        for arrays in (model.arrays(), {each.name: saved.arrays[each.name] for each in graph.parameters})
    ]
    assert losses[0] == losses[1]


def test_it_speaks_as_a_checkpoint_and_as_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    outcome = train(config(), tmp_path / "run")
    sampler = Sampler(load_checkpoint(outcome.checkpoint), temperature=0)
    said = "".join(sampler.stream("Thé ", 6))
    again = gi.generate(tmp_path / "run/model", "Thé ", temperature=0, max_tokens=6)
    assert "".join(map(str, again)) == said


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [{"tp": 2, "plan": "sequence+vocabulary"}, {"dp": 2, "tp": 4, "plan": "zero3"}])
def test_on_ranks_it_is_the_same_training(ranks: dict[str, Any], tmp_path: Path) -> None:
    alone, shared = (
        train(config("gemma3", dtype="float64", **more), tmp_path / f"{len(more)}") for more in ({}, ranks)
    )
    assert shared.loss == pytest.approx(alone.loss, abs=1e-12)
    assert shared.val_loss == pytest.approx(alone.val_loss, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"N_KV = N_H/G is no whole number of N_H=3 and G=4"),
        ({"width": 18}, r"D_h = D/N_H is no whole number of D=18 and N_H=4"),
        ({"size": ("V=9",)}, "--size V=9: the tokenizer says it"),
        ({"size": ("B=9",)}, "--size B=9: give it by --batch"),
        ({"size": ("D=9",)}, "--width and --size D=… both say D; give one"),
        ({"size": ("Q=9",)}, "llama has no size Q; it has D, N_H"),
        ({"size": ("N_KV",)}, "--size N_KV is no dim and its size"),
        ({"tied": False}, "--tied is what the name of llama3-8b says; leave it out beside --model"),
        ({"sequence": 8193}, "--sequence 8193: llama3-8b was made for S_max=8192 positions"),
        ({"model": "bert-base", "heads": 4}, "bert-base is an encoder, which sees what it would be trained to predict"),
        ({"model": None, "size": ("N_KV=1",)}, "--size N_KV=1 is for a model by name; say which by --model"),
    ],
)
def test_what_it_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(replace(config(), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_same_name_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2/config.json").touch()
    with pytest.raises(ConfigError, match=r"--model gpt2 is a model by name, .* and a folder here; write ./gpt2 for"):
        train(config("gpt2"), "run")
    assert config("./gpt2", layers=None, width=None, heads=None).has_weights


def test_one_that_is_too_large_is_refused_before_all_of_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "free_memory", lambda: 1 << 33)
    planned: list[int] = []
    monkeypatch.setattr(Needs, "need", lambda self, config, *rest: (planned.append(config.layers), Need(1 << 40))[1])
    with pytest.raises(ConfigError, match=r"^training needs at least 2,464.4 GB: tensors 821.5 GB, .*; 8,589.9 MB of"):
        train(TrainConfig(model="llama3-70b"), tmp_path / "run")
    assert set(planned) == {2, 3}


def test_a_checkpoint_that_speaks_of_very_many_layers_is_not_believed(tmp_path: Path) -> None:
    from graphir.training.checkpoint import save_checkpoint

    saved = load_checkpoint(train(config(), tmp_path / "run").checkpoint)
    save_checkpoint(replace(saved, config=replace(saved.config, layers=10**9)))
    with pytest.raises(CheckpointError, match="speaks of 1000000000 layers, but holds"):
        load_checkpoint(saved.path)
