"""Models of others, trained further: from their weights, on ranks too, and written as the folders that they came in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import graphir as gi
from graphir.errors import CheckpointError, ConfigError, ModelFileError
from graphir.hub import open_model
from graphir.training import Sampler, TrainConfig, load_checkpoint, schema, train
from graphir.training.checkpoint import checkpoint_path, save_checkpoint
from graphir.training.data import draw_batch, load_corpus
from graphir.training.programs import Needs
from tests.support.hub import FOLDERS, with_tokenizer

pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")

RANKS = [
    {"dp": 2, "tp": 3},
    {"tp": 3, "plan": "vocabulary"},
    {"dp": 2, "plan": "zero3"},
    {"tp": 3, "lora": 4},
]
WORDS = np.random.default_rng(0).integers(0, 30, 1000)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and a model beside it."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "text.txt").write_text(" ".join(f"w{word}" for word in WORDS))
    with_tokenizer("llama", folder)
    return folder


def config(place: Path, **changes: Any) -> TrainConfig:
    small = {"steps": 4, "batch": 2, "sequence": 8, "learning_rate": 1e-3, "dtype": "float64", "warmup": 0}
    return TrainConfig(**{"model": str(place / "llama"), "text": (str(place / "text.txt"),), **small, **changes})


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_training_begins_with_the_models_weights_and_ends_with_its_folder(
    dtype: str, place: Path, tmp_path: Path
) -> None:
    asked = config(place, steps=1, dtype=dtype)
    loss = train(asked, tmp_path / "run").loss
    old, new = open_model(place / "llama"), open_model(tmp_path / "run/model")
    corpus = load_corpus(asked.check())
    T, Y = draw_batch(corpus.train, 2, 8, asked.seed, 0)
    graph = old.blueprint.but(dtype=dtype).graph()
    run = gi.compile(graph, old.blueprint.bind(graph, B=2, S=8), backend="reference")
    inputs = {"T": T, "Y": Y, "positions": np.broadcast_to(np.arange(8), (2, 8))}
    assert loss == pytest.approx(float(run(old.arrays(dtype), inputs)["L"]), abs=1e-12 if dtype == "float64" else 1e-6)
    checkpoint = load_checkpoint(tmp_path / "run/step-000001.safetensors")
    saved = checkpoint.arrays
    assert old.weights.keys() == new.weights.keys() <= saved.keys()
    for name, array in new.weights.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, saved[name].astype(np.float32))
        assert not np.array_equal(array, old.weights[name])
    assert new.blueprint == old.blueprint
    assert new.tokenizer.encode("w3 w1") == [3, 1]
    with pytest.raises(CheckpointError, match=r"graphir generate --model .*run/model goes on with that"):
        Sampler(checkpoint)


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(place: Path, tmp_path: Path) -> None:
    through = train(config(place, schedule="constant"), tmp_path / "through")
    train(config(place, steps=2, schedule_steps=4, schedule="constant"), tmp_path / "stopped")
    resumed = train(config(place, schedule="constant"), tmp_path / "stopped", resume=True)
    assert resumed.loss == through.loss
    one, other = (open_model(tmp_path / name / "model").weights for name in ("through", "stopped"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
def test_on_ranks_it_is_the_same_training(ranks: dict[str, Any], place: Path, tmp_path: Path) -> None:
    alone, shared = (
        train(config(place, lora=ranks.get("lora"), **more), tmp_path / name)
        for name, more in (("alone", {}), ("shared", {name: each for name, each in ranks.items() if name != "lora"}))
    )
    assert shared.loss == pytest.approx(alone.loss, abs=1e-12)
    assert shared.val_loss == pytest.approx(alone.val_loss, abs=1e-12)


def test_by_lora_the_weights_stay_and_the_folder_has_what_was_added(place: Path, tmp_path: Path) -> None:
    outcome = train(config(place, lora=2, learning_rate=1e-2), tmp_path / "run")
    first, last = (json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()[::3])
    arrays = load_checkpoint(outcome.checkpoint).arrays
    old, new = open_model(place / "llama").weights, open_model(tmp_path / "run/model").weights
    assert not arrays.keys() & old.keys()
    for name, array in old.items():
        more = arrays[f"{name}.A"] @ arrays[f"{name}.B"] if f"{name}.A" in arrays else 0
        np.testing.assert_allclose(new[name], array + more, rtol=1e-6, atol=1e-7)
        assert np.array_equal(new[name], array) == (f"{name}.A" not in arrays)
    assert sum(name.endswith(".A") for name in arrays) == 2 * 7
    assert first > last
    assert not any(name.endswith("W_Q.m") for name in arrays)


def test_by_lora_a_checkpoint_knows_the_files_beside_it(place: Path, tmp_path: Path) -> None:
    """It holds A and B, and none of the weights; where their files have changed, it says so."""
    shutil.copytree(place / "llama", tmp_path / "llama")
    asked = config(place, model=str(tmp_path / "llama"), lora=2, steps=1, schedule="constant", schedule_steps=4)
    saved = load_checkpoint(train(asked, tmp_path / "run").checkpoint)
    assert {name.split(".")[1] for name in saved.arrays} == {"A", "B"}
    assert saved.base == open_model(tmp_path / "llama").fingerprint
    file = tmp_path / "llama/model.safetensors"
    save_file({name: each + np.float32(1e-3) for name, each in load_file(file).items()}, file)
    with pytest.raises(
        CheckpointError, match=r"beside other weights than those that lie in .*llama now, and holds none"
    ):
        train(replace(asked, steps=3), tmp_path / "run", resume=True)
    save_checkpoint(replace(saved, base=None))
    with pytest.raises(CheckpointError, match="its base is not that of its options"):
        load_checkpoint(saved.path)


@pytest.mark.slow
def test_by_lora_a_run_goes_on_bit_for_bit(place: Path, tmp_path: Path) -> None:
    """From a checkpoint of today's, and from one of those that held the weights, too."""
    first = config(place, lora=2, steps=1, schedule="constant", schedule_steps=4)
    saved = load_checkpoint(train(first, tmp_path / "run").checkpoint)
    held = sum(array.nbytes for array in saved.arrays.values())
    assert Needs(36).need(first.check(), None).checkpoint == 2 * held
    weights = {name: np.asarray(each, "float64") for name, each in open_model(place / "llama").weights.items()}
    older = checkpoint_path(tmp_path / "older", 1)
    older.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "FORMAT", 2)
        save_checkpoint(replace(saved, path=older, base=None, arrays={**weights, **saved.arrays}))
    second = replace(first, steps=2)
    here = [train(second, tmp_path / name, resume=True).loss for name in ("run", "older")]
    assert here == [train(second, tmp_path / "through").loss] * 2


@pytest.mark.slow
def test_by_lora_the_weights_may_stay_as_they_are_stored(place: Path, tmp_path: Path) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    shutil.copytree(place / "llama", tmp_path / "llama")
    file = tmp_path / "llama/model.safetensors"
    save_file({name: each.astype(bfloat16) for name, each in load_file(file).items()}, file)
    asked = config(place, model=str(tmp_path / "llama"), lora=2, learning_rate=1e-2, steps=2, dtype="float32")
    wide = train(asked, tmp_path / "wide")
    train(replace(asked, weights="stored", steps=1, schedule_steps=2), tmp_path / "stored")
    stored = train(replace(asked, weights="stored"), tmp_path / "stored", resume=True)
    assert stored.loss == pytest.approx(wide.loss, abs=1e-5)
    assert not [name for name in load_checkpoint(stored.checkpoint).arrays if name.endswith(".stored")]
    one, other = (open_model(tmp_path / name / "model").weights for name in ("wide", "stored"))
    for name, array in one.items():
        assert array.dtype == bfloat16
        # Sums in another order may round to the neighbour.
        np.testing.assert_allclose(other[name].astype(np.float32), array.astype(np.float32), rtol=2**-7, err_msg=name)


def test_what_the_model_says_itself_is_no_option(place: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"layers": 3}, "--layers is what the model"),
        ({"width": 64}, "--width is what the model"),
        ({"feed_forward": 64}, "--feed-forward is what the model"),
        ({"weights": "stored"}, "--weights stored holds weights as they are"),
        ({"lora": 2, "model": None}, "--lora 2 adds to the weights of a folder or file by --model; name one"),
        ({"lora": 2, "model": "gpt2"}, "--lora 2 adds to the weights of .*; gpt2 by its name alone has none"),
        ({"size": ("N_KV=1",)}, "--size N_KV=1: .*llama is as large as its weights are; leave it out"),
        ({"sequence": 33}, "--sequence 33: .* was made for S_max=32 positions"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(config(place, **options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained(place: Path, tmp_path: Path) -> None:
    text = config(place).text
    larger = with_tokenizer("gpt2", tmp_path, 37)
    for model, tokenizer, error, message in (
        (FOLDERS / "bert", place / "llama/tokenizer.json", ConfigError, "is an encoder"),
        (FOLDERS / "gpt2", None, ConfigError, "has no tokenizer.json, which a text needs; give one by --tokenizer"),
        (tmp_path / "nowhere", place / "llama/tokenizer.json", ModelFileError, "is neither a folder with a model nor"),
        (larger, None, ConfigError, "ids up to 36, .* V = 36 tokens; they do not belong together"),
    ):
        asked = TrainConfig(model=str(model), text=text, tokenizer=str(tokenizer or "bytes"), sequence=8)
        with pytest.raises(error, match=message):
            train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_gguf_file_with_its_own_tokenizer_becomes_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    text, model = tmp_path / "text.txt", str(FOLDERS / "smollm.gguf")
    text.write_text("abc" * 60 + "bca" * 60)
    asked = TrainConfig(
        model=model, text=(str(text),), steps=1, batch=2, sequence=8, schedule="constant", warmup=0, schedule_steps=2
    )
    train(asked, tmp_path / "run")
    old, new = open_model(model), open_model(tmp_path / "run/model")
    # What went on of the run's own copy of the tokenizer is what was begun with the file's.
    copy = tmp_path / "run/tokenizer.json"
    assert train(replace(asked, steps=2, tokenizer=str(copy)), tmp_path / "run", resume=True).step == 2
    tokens = load_corpus(asked.check()).train
    assert tokens.tolist() == load_corpus(replace(asked, tokenizer=str(copy)).check()).train.tolist()
    assert set(tokens.tolist()) >= {34}
    assert new.blueprint == old.blueprint
    assert new.speech.ends == old.speech.ends
    assert new.tokenizer.encode("abcab") == old.tokenizer.encode("abcab")
