"""Training in mixed precision: it learns, resumes bit for bit with its loss scale, and says what it skips."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphir.cli import main
from graphir.errors import CheckpointError, ConfigError, NonFiniteError
from graphir.training import load_checkpoint, train
from graphir.training.metrics import read_metrics
from tests.support import small_run
from tests.support.sampled import sampled

CONFIG = replace(small_run.CONFIG, dtype="float32", dropout=0.0)
SCALE, GOOD = "loss_scale/scale", "loss_scale/good"


def records(folder: Path) -> list[dict[str, float]]:
    return read_metrics(folder / "metrics.jsonl")


@pytest.fixture(autouse=True)
def _bfloat16() -> None:
    pytest.importorskip("ml_dtypes")


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    train(CONFIG, folder)
    return folder


@pytest.mark.slow
@sampled(
    results=["wide", "narrow"],
    precision=["bfloat16", "float16"],
    ranks=[{}, {"tp": 3, "plan": "sequence+vocabulary"}, {"dp": 2, "plan": "zero3"}],
)
def test_the_curve_is_that_of_float32(
    results: str, precision: str, ranks: dict[str, Any], in_float32: Path, tmp_path: Path
) -> None:
    train(replace(CONFIG, precision=precision, results=results, **ranks), tmp_path)
    for wide, narrow in zip(records(in_float32), records(tmp_path), strict=True):
        assert narrow["loss"] == pytest.approx(wide["loss"], rel=2e-3)
        assert narrow["norm"] == pytest.approx(wide["norm"], rel=2e-2)
        assert narrow["loss"] != wide["loss"]
        assert ("scale" in narrow) == (precision == "float16")


@pytest.mark.slow
@sampled(1, ranks=[{}, {"tp": 3, "plan": "sequence+vocabulary"}])
def test_two_halves_are_one_whole_bit_for_bit(
    ranks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss scale starts so high that the first steps are skipped, in the first half."""
    monkeypatch.setattr("graphir.training.config.DYNAMIC_START", 2.0**26)
    config = replace(CONFIG, precision="float16", steps=10, schedule_steps=10, **ranks)
    whole = train(config, tmp_path / "whole")
    train(replace(config, steps=5), tmp_path / "halves")
    second = train(config, tmp_path / "halves", resume=True)
    one, two = load_checkpoint(whole.checkpoint).arrays, load_checkpoint(second.checkpoint).arrays
    assert {name: array.tobytes() for name, array in one.items()} == {n: a.tobytes() for n, a in two.items()}
    assert one[SCALE].shape == ()
    assert one[SCALE] < 2.0**26
    told, told_in_halves = (
        [(each["loss"], each["lr"], each["scale"], each.get("norm")) for each in records(tmp_path / name)]
        for name in ("whole", "halves")
    )
    assert told == told_in_halves


def test_a_step_that_was_skipped_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphir.training.config.DYNAMIC_START", 2.0**26)
    train(replace(CONFIG, precision="float16", steps=8, schedule_steps=8), tmp_path)
    told = records(tmp_path)
    skipped = [record for record in told if "skipped" in record]
    assert 1 <= len(skipped) < len(told)
    assert [record["scale"] for record in skipped] == [2.0 ** (26 - i) for i in range(len(skipped))]
    for record in told:
        assert ("norm" in record) != ("skipped" in record)
        assert np.isfinite(list(record.values())).all()
    # Nothing was learnt while steps were skipped, and something since; the lines are plain JSON.
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_a_scale_that_falls_and_falls_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights beyond float16's range make infinities at any scale; that names the node, as without a scale."""
    monkeypatch.setattr("graphir.training.config.DYNAMIC_START", 2.0**-14)
    monkeypatch.setattr("graphir.training.loop._Training._save", lambda self: self.folder)
    config = replace(CONFIG, precision="float16", learning_rate=1e9, clip=0.0, optimizer="sgd", steps=200)
    with pytest.raises(NonFiniteError, match=r"step \d+ gives loss .* is the first value to hold .*cast\(.*float32"):
        train(config, tmp_path)


def test_a_fixed_scale_is_a_constant_of_the_graph(tmp_path: Path) -> None:
    outcome = train(replace(CONFIG, precision="float16", loss_scale=1024.0), tmp_path)
    assert SCALE not in load_checkpoint(outcome.checkpoint).arrays
    assert all("scale" not in record for record in records(tmp_path))


def test_a_run_goes_on_in_its_precision_only(tmp_path: Path) -> None:
    train(replace(CONFIG, precision="bfloat16", steps=2), tmp_path)
    with pytest.raises(CheckpointError, match="--precision float32, not bfloat16"):
        train(CONFIG, tmp_path, resume=True)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(replace(CONFIG, loss_scale=8.0, precision="bfloat16"), tmp_path)
    assert str(caught.value) == (
        "--loss-scale 8 is for --precision float16, whose range is small; leave it out of bfloat16"
    )
    with pytest.raises(ConfigError) as caught:
        train(replace(CONFIG, results="narrow"), tmp_path)
    assert str(caught.value) == (
        "--results narrow rounds what products of 16 bits return; --precision float32 has none: "
        "choose bfloat16 or float16"
    )
    with pytest.raises(ConfigError, match="--precision 'float8' is none of float32, bfloat16, float16, tf32"):
        train(replace(CONFIG, precision="float8"), tmp_path)
    with pytest.raises(
        ConfigError, match=r"^precision is no option of backend 'numpy', which has .*; it is one of 'cupy'$"
    ):
        train(replace(CONFIG, precision="tf32"), tmp_path)


def test_the_precisions_are_those_of_the_pass() -> None:
    from graphir.backends.registry import find_backend
    from graphir.passes import PRECISIONS, RESULTS
    from graphir.training import config

    assert (config.PRECISIONS, config.RESULTS) == (PRECISIONS, RESULTS)
    assert config.TF32 in find_backend("cupy").options["precision"].choices


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line in this process: what it prints."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit:
            main(list(arguments))
        assert exit.value.code == 0
        return capfd.readouterr().out

    return run


def test_cost_counts_16_bits_as_two_bytes(call: Callable[..., str]) -> None:
    def cost(*options: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            call("cost", "--layers=1", "--sequence=16", "--width=32", "--json", *options)
        )
        return found

    zero3 = ("--dp=2", "--plan=zero3")
    wide, narrow = cost(*zero3), cost(*zero3, "--precision=bfloat16")
    assert narrow["parameters"] == wide["parameters"]
    assert narrow["FLOPs, forward"] == wide["FLOPs, forward"]
    # The layer's matrices, 12 D² elements, are gathered again in the backward pass: each rank sends its half.
    sent = "AG over dp, backward"
    assert wide["bytes sent"][sent] - narrow["bytes sent"][sent] == (4 - 2) * 12 * 32 * 32 // 2
    # What the backward pass reads of products' operands is half as large; a copy of a weight costs D² · 2 bytes.
    large = ("--sequence=128", "--batch=4")
    planned = [cost(*large, "--planned", *more)["planned"]["arena"] for more in (["--precision=bfloat16"], [])]
    assert planned[0] < planned[1]


def test_the_command_line_has_it(call: Callable[..., str], tmp_path: Path) -> None:
    options = ["--layers=1", "--width=16", "--heads=2", "--sequence=8", "--batch=2", "--sample=0", "--steps=2"]
    out = call("train", "--precision=float16", "--validate-batches=1", *options, f"--out={tmp_path / 'run'}")
    assert "products of float16\n" in out
    assert "scale 65536" in out
