"""Models by name on the command line: `--model llama3-8b`, without weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import graphir as gi
from graphir.checking.options import SettingOptions
from graphir.cli import cli
from graphir.cli.check import setting_of
from graphir.cli.load import subject
from graphir.errors import ConfigError
from graphir.models.sizes import DIMS
from graphir.options import options_of


def run(*arguments: object) -> str:
    """What the command prints; an error is raised."""
    done = CliRunner().invoke(cli, list(map(str, arguments)), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_model_by_name_is_printed_with_fewer_layers() -> None:
    text = run("ir", "--model", "qwen2-0.5b", "--layers", 1)
    assert gi.parse(text) == gi.models.blueprint("qwen2-0.5b", layers=1).graph(decode=None)
    assert text == run("ir", "qwen2-0.5b", "--layers", 1)
    assert "layer0/mha/b_Q" in run("ir", "qwen2", "--stage", "fused", "--layers", 1, "--tp", 2)


def test_why_speaks_of_the_models_own_sizes() -> None:
    began = time.process_time()
    found = json.loads(run("why", "--model", "llama3-8b", "--tp", 8, "--plan", "sequence", "--json"))
    assert time.process_time() - began < 4  # 1.7 s when nothing else runs
    sizes = {"D": 4096, "N_H": 32, "N_KV": 8, "G": 4, "D_h": 128, "D_ff": 14336, "V": 128256, "B": 1, "S": 4096}
    assert {name: found["sizes"][name] for name in sizes} == sizes
    layers = {each["scope"].partition("/")[0] for each in found["collectives"] if each["scope"].startswith("layer")}
    assert len(layers) == 32
    gathered = next(each for each in found["collectives"] if each["name"] == "layer0/mlp/H.AG")
    assert gathered["each"]["bytes"] == 7 * (4096 // 8) * 4096 * 4


def test_a_text_is_as_long_as_ranks_can_share() -> None:
    for options, S in (({}, 4096), ({"tp": 3}, 4095), ({"cp": 4, "tp": 3}, 4092)):
        assert subject("smollm2-135m", options, ()).sizes["S"] == S


def test_sizes_may_be_others() -> None:
    told = run(
        "why",
        "--model",
        "llama3-8b",
        "--layers",
        2,
        "--tp",
        2,
        "--heads",
        8,
        "--width",
        64,
        "--size",
        "S=16",
        "--batch",
        3,
    )
    assert "with B=3, S=16, V=128256, D=64, D_h=8, G=4, N_KV=2, D_ff=224, N_H=8" in told


def test_cost_is_of_the_sizes_that_are_told() -> None:
    found = json.loads(run("cost", "--model", "gpt2", "--vocabulary", 1000, "--width", 96, "--layers", 2, "--json"))
    graph = gi.models.blueprint("gpt2", layers=2, D=96, V=1000).graph()
    sizes = gi.models.blueprint("gpt2", layers=2, D=96, V=1000).bind(graph, B=1, S=8)
    elements = sum(int(np.prod([dim.size(sizes) for dim in each.shape])) for each in graph.parameters)
    assert found["parameters"]["number"] == elements


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3-8b", "gemma2-2b", "bert-base"])
def test_a_model_by_name_is_checked_in_a_small_size(name: str) -> None:
    found = json.loads(run("check", "--model", name, "--dp", 2, "--tp", 2, "--json"))
    assert found["ok"]
    assert len(found["reports"]) == 1


def test_figures_are_drawn_of_it(tmp_path: Path) -> None:
    dot = tmp_path / "mha.dot"
    run("draw", "mha-forward", "--model", "llama3-8b", "-o", dot)
    assert "ROPE" in dot.read_text()
    run("draw", "--model", "gpt2", "--layers", 1, "--view", "layer0/mlp", "-o", dot)
    assert "GL" in dot.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["why", "--model", "gpt2", "--untied"], "--tied: for the documents' Transformer; what gpt2 is, its name says"),
        (["why", "llama3-8b", "--heads", "30"], "N_KV = N_H/G is no whole number of N_H=30 and G=4"),
        (["ir", "gpt2", "--set", "a=1"], "--set is for a function of a Python file; gpt2 is a model"),
        (["ir", "gpt2", "--size", "Q=1"], "gpt2 has no size Q; it has D, N_H, D_ff, V, S_max, N_KV, D_h"),
        (["draw", "chain", "--model", "gpt2"], "--model changes nothing in the figure chain; leave it out"),
        (["draw", "llama", "--model", "gpt2"], "llama is drawn as what it is; --model gpt2 is for figures"),
        (["draw", "mha-forward", "--model", "gpt5"], "no model is called 'gpt5'; did you mean gpt2 or"),
        (["draw", "mha-forward", "--model", "gpt2", "--tied"], "tied: for the documents' Transformer"),
    ],
)
def test_what_a_model_by_name_has_not_is_refused(arguments: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--model", "lama3-8b"], "no model is called 'lama3-8b'; did you mean llama3-8b"),
        (["check", "llama3-8b", "--model", "gpt2"], "llama3-8b and --model gpt2 both say what is asked of; give one"),
        (["ir"], "name a model, or a graph of your own"),
    ],
)
def test_what_is_asked_of_is_one_thing(arguments: list[str], message: str) -> None:

    with pytest.raises(click.UsageError) as caught:
        run(*arguments)
    assert message in caught.value.message


# -- models with their weights ----------------------------------------------------------------------------

FOLDERS = Path(__file__).parents[1] / "fixtures" / "hub"


@pytest.mark.slow
def test_a_folder_is_checked_with_its_weights() -> None:
    found = json.loads(run("check", "--model", FOLDERS / "llama", "--tp", 3, "--json"))
    assert found["ok"]


def test_weights_are_updated_where_that_is_asked_for() -> None:
    options: dict[str, Any] = {name: each.default for name, each in options_of(SettingOptions).items()}
    options |= dict.fromkeys([*DIMS, "dp", "cp"]) | {"tp": 2}
    folder = str(FOLDERS / "llama")
    assert setting_of(folder, options, {"tp"}, small=True).optimizer == "none"
    assert setting_of(folder, options, {"tp", "optimizer"}, small=True).optimizer == "adamw"
    # Why a collective is there is asked of a whole step.
    assert setting_of(folder, options, {"tp"}).optimizer == "adamw"


def test_weights_are_what_is_run() -> None:
    from graphir.checking import Setting

    asked = subject(str(FOLDERS / "qwen3"), {}, (), small=True)
    assert "B" not in asked.sizes
    setting = Setting(mesh=gi.Mesh(tp=2), graph=asked.graph, sizes=asked.sizes, weights=asked.weights)
    arguments = setting.arguments(setting.single())
    assert asked.weights is not None
    for name, array in asked.weights.items():
        assert (arguments[name] == array).all()


def test_what_a_folder_says_is_not_changed() -> None:
    with pytest.raises(ConfigError, match="is as large as its weights are; leave out what changes layers"):
        run("check", "--model", FOLDERS / "llama", "--layers", 1)


def test_a_folder_is_exported_with_its_weights(tmp_path: Path) -> None:
    """What onnxruntime computes of the file is what transformers computed of the folder."""
    runtime = pytest.importorskip("onnxruntime")
    run("export", "--model", FOLDERS / "llama", "-o", tmp_path / "llama.onnx")
    expected = np.load(FOLDERS / "llama" / "expected.npz")
    T = expected["T"]
    session = runtime.InferenceSession(tmp_path / "llama.onnx")
    (found,) = session.run(None, {"T": T, "positions": np.broadcast_to(np.arange(T.shape[1]), T.shape)})
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-5)


def test_a_model_by_name_is_exported_as_a_program_of_every_rank(tmp_path: Path) -> None:
    small = ["--layers", 1, "--width", 24, "--heads", 2, "--feed-forward", 32, "--vocabulary", 11]
    pytest.importorskip("jax")
    run("export", "gpt2", *small, "--tp", 2, "--format", "stablehlo", "--stage", "train", "-o", tmp_path / "g.mlir")
    assert "all_reduce" in (tmp_path / "g.mlir").read_text()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_it_is_exported_with_its_cache(tmp_path: Path, name: str) -> None:
    """Five tokens at once, then one by one, through onnxruntime: the logits that transformers has of the whole text."""
    runtime = pytest.importorskip("onnxruntime")
    run("export", "--model", FOLDERS / name, "--cached", "-o", tmp_path / "model.onnx")
    expected = np.load(FOLDERS / name / "expected.npz")
    T, rows = expected["T"], 12
    B, S = T.shape
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    kept = {each.name: each.shape for each in session.get_inputs() if each.name.endswith("_cache")}
    state = {cache: np.zeros([B, shape[1], rows, shape[3]], np.float32) for cache, shape in kept.items()}
    known, logits = np.full((B, rows), 1 << 30), []
    for begin, end in [(0, 5), *((i, i + 1) for i in range(5, S))]:
        positions = np.broadcast_to(np.arange(begin, end), (B, end - begin)).copy()
        known[:, begin:end] = positions
        given = {"T": T[:, begin:end], "positions": positions, "key_positions": known, "start": np.full(B, begin)}
        found = session.run(None, {**given, **state})
        results = {each.name: array for each, array in zip(session.get_outputs(), found, strict=True)}
        state = {cache: results[f"{cache}d"] for cache in state}
        logits.append(found[0])
    np.testing.assert_allclose(np.concatenate(logits, axis=1), expected["logits"], rtol=0, atol=1e-5)


def test_what_has_no_cache_is_not_exported_with_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transformer keeps no keys and values"):
        run("export", "transformer", "--cached", "-o", tmp_path / "model.onnx")
