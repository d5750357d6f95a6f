"""Training on simulated ranks: the same curve as on one rank, and checkpoints that know nothing of ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphir.errors import ConfigError, LayoutError
from graphir.training import load_checkpoint, train
from graphir.training.metrics import read_metrics
from tests.support.sampled import sampled
from tests.support.small_run import CONFIG


def curve(folder: Path) -> list[tuple[float, float]]:
    return [(record["loss"], record["norm"]) for record in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(CONFIG, folder)
    return folder


MESHES = [
    {"dp": 2},
    {"tp": 3},
    {"dp": 2, "tp": 3, "plan": "sequence"},
    {"dp": 2, "cp": 2, "tp": 2},
    {"dp": 2, "plan": "zero3"},
    {"tp": 3, "plan": "sequence+vocabulary"},  # 256 bytes do not divide: V_pad is 258
]


@sampled(1, mesh=MESHES)
def test_ranks_follow_the_curve_of_one_rank(alone, tmp_path, mesh):
    outcome = train(replace(CONFIG, **mesh), tmp_path)
    assert np.allclose(curve(tmp_path), curve(alone), rtol=1e-9, atol=0)
    expected = load_checkpoint(alone / outcome.checkpoint.name).arrays
    found = load_checkpoint(outcome.checkpoint).arrays
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        # b_K's gradient is zero analytically, and Adam makes steps of its rounding errors.
        assert np.allclose(found[name], array, rtol=1e-7, atol=1e-9), name


@pytest.mark.slow
def test_a_run_goes_on_under_another_mesh(alone, tmp_path):
    train(replace(CONFIG, steps=3, dp=2, tp=3, plan="sequence+vocabulary+zero1"), tmp_path)
    train(replace(CONFIG, tp=2), tmp_path, resume=True)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert np.allclose(curve(tmp_path), curve(alone), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("mesh", "error", "text"),
    [
        ({"tp": 4}, ConfigError, "N_H = 6 of layer0/mha/Q_split"),
        ({"dp": 3}, ConfigError, r"B = 4 of T int64\[B\|dp, S\] cannot be split evenly over dp=3"),
        ({"plan": "nix"}, LayoutError, "no plan is called 'nix'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, mesh, error, text):
    with pytest.raises(error, match=text):
        train(replace(CONFIG, **mesh), tmp_path / "run")
    assert not (tmp_path / "run").exists()
