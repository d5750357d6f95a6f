"""`graphir export`: models and checkpoints as files, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.training import find_checkpoint, load_checkpoint

Call = Callable[..., tuple[int, str, str]]
SMALL = ["--layers=1", "--width=16", "--heads=2"]


@pytest.fixture
def trained(call: Call, tmp_path: Path) -> Path:
    """A folder with a small run of 2 steps, of 12 places."""
    text, folder = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the cat sat on the mat, and the rat sat on the cat. " * 40)
    options = ["--batch=2", "--sequence=12", "--validation=0.2", "--validate-batches=1", "--steps=2"]
    code, _, err = call("train", "--text", text, *SMALL, *options, "--out", folder, "--quiet")
    assert (code, err) == (0, "")
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mlp", "--tied", "--width=8"], "the model mlp has no --tied, --width"),
        (["mlp", "--size=D_in"], "--size D_in is no dim and its size; write it like B=8"),
        (["mlp", "--checkpoint=run"], "a checkpoint is of a transformer, not of mlp"),
        (["transformer", "--checkpoint=run", "--layers=3", "--width=8"], "leave out --layers, --width"),
        (["transformer", "--checkpoint=nowhere"], "nowhere does not exist"),
        (["transformer", "--opset=0"], "--opset must be at least 1, not 0"),
        (["transformer", "--dropout=0.5"], "--dropout: what is exported so is the forward graph of one rank"),
        (["transformer", "--dp=2", "--stage=train"], "--dp, --stage: what is exported so is the forward graph"),
        (["transformer", "--format=stablehlo", "--opset=20"], "the format stablehlo has no --opset"),
        (["transformer", "--format=stablehlo"], "model.onnx is to be named ….mlir"),
        (["transformer", "--format=png"], "'png' is not"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_cannot_be_is_refused(call: Call, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, out, err = call("export", *arguments, "--out", tmp_path / "model.onnx")
    assert (code, out) == (2, "")
    assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_checkpoint_is_exported_with_its_parameters(call: Call, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.support import onnx_runs

    saved = load_checkpoint(find_checkpoint(trained))
    graph = gi.models.transformer(**saved.config.model_options(dropout=0.0))
    for fixed in ([], ["--sequence=7"]):
        assert call("export", "transformer", "--checkpoint", trained, "-o", tmp_path / "m.onnx", *fixed) == (0, "", "")
        model: Any = onnx_runs.onnx.load(tmp_path / "m.onnx")
        onnx_runs.check(model)
        T = np.random.default_rng(0).integers(0, 256, (3, 7))
        arrays = {value.name: saved.arrays[value.name] for value in graph.parameters}
        arrays["embedding/P_theta"] = arrays["embedding/P_theta"][:7]
        run = gi.compile(graph, {**saved.sizes, "B": 3, "S": 7}, fetch=["output/Z_bias"], backend="reference")
        wanted = run(arrays, {"T": T, "Y": T, "seed": 0, "step": 0})
        found = onnx_runs.run(model, {"T": T})
        assert list(found) == ["output/Z_bias"]
        onnx_runs.assert_close(found["output/Z_bias"], wanted["output/Z_bias"], 1e-5)


@pytest.mark.slow
def test_a_model_is_exported_for_its_answers_or_for_what_is_named(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.support import onnx_runs

    def exported(*arguments: str) -> Any:
        assert call("export", *arguments, "--out", tmp_path / "model.onnx") == (0, "", "")
        model = onnx_runs.onnx.load(tmp_path / "model.onnx")
        onnx_runs.check(model)
        return model

    mlp = exported("mlp", "--size=D_in=3", "--size=D_1=4", "--size=D_out=2", "--opset=20")
    assert [each.name for each in mlp.graph.input] == ["X", "layer0/W", "layer0/b", "layer1/W", "layer1/b"]
    assert [each.name for each in mlp.graph.output] == ["layer1/Z"]
    assert mlp.opset_import[0].version == 20
    model = exported("transformer", *SMALL, "--batch=1", "--fetch=output/ids, output/L")
    assert [each.name for each in model.graph.output] == ["output/ids", "output/L"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, "S"]


@pytest.mark.slow
def test_a_missing_folder_and_an_old_opset_are_told(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    code, _, err = call("export", "transformer", "--out", tmp_path / "nowhere/model.onnx")
    assert code == 2
    assert "cannot write" in err
    code, _, err = call("export", "transformer", "--opset=9", "--out", tmp_path / "model.onnx")
    assert code == 2
    assert "the least that will do is 18" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_step_of_every_rank_is_exported_as_stablehlo(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    step = ["--format=stablehlo", "--stage=train", "--dp=2", "--tp=2", "--batch=4", "--sequence=6", "--dropout=0.1"]
    assert call("export", "transformer", *SMALL, *step, "-o", tmp_path / "step.mlir") == (0, "", "")
    assert {each.name for each in tmp_path.iterdir()} == {"step.mlir", "step.mlirbc", "step.json"}
    text = (tmp_path / "step.mlir").read_text()
    assert '{graphir.name = "T", graphir.type = "int64[B|dp, S]"}' in text
    assert "stablehlo.all_reduce" in text
    assert call("export", "transformer", "--format=stablehlo", "-o", tmp_path / "step.onnx")[0] == 2
