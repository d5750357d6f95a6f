"""Every example runs, says something, and warns of nothing."""

import os
import subprocess
import sys
import tempfile
from functools import cache

import pytest

from tests.support.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
#: What needs another's package, by its name; with the slow tests.
NEEDS = {"export_onnx": "onnxruntime", "second_engine": "jax"}
#: What takes longer than a few seconds, beside those.
SLOW = {*NEEDS, "train_tiny"}


@cache
def run(path):
    """The example's process, run once in a folder of its own, and what it left there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(path)]
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        return result, os.listdir(folder)


def test_there_are_examples():
    assert {"mlp_block.py", "train_tiny.py"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem) for path in EXAMPLES],
)
def test_an_example_runs(path):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    result, left = run(path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert left == []


def test_the_mlp_block_learns_and_refuses():
    lines = run(ROOT / "examples/mlp_block.py")[0].stdout.splitlines()
    losses = [float(line.split()[2]) for line in lines if line.startswith("L = ")]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert "refused: " in lines[-1]
    assert "D_ff" in lines[-1]
    assert "examples/mlp_block.py:" in lines[-1]


@pytest.mark.slow
def test_the_tiny_training_learns():
    lines = run(ROOT / "examples/train_tiny.py")[0].stdout.splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("step ")]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.2


def test_mixed_precision_learns_and_skips_the_bad_step():
    lines = run(ROOT / "examples/mixed_precision.py")[0].stdout.splitlines()
    steps = {int(line.split()[1]): line for line in lines if line.startswith("step ")}
    assert float(steps[59].split()[4]) < 0.2 * float(steps[9].split()[4])
    assert [number for number, line in steps.items() if "skipped" in line] == [30]
    (gathered,) = (line for line in lines if line.startswith("ZeRO-3 gathers"))
    assert "layer0/W.float16 float16[D_in|dp, D_1]" in gathered


def test_the_custom_pass_merges_forward_and_backward():
    printed = run(ROOT / "examples/custom_pass.py")[0].stdout
    _, before, after = printed.split("graph scores")
    assert (before.count("= scale("), after.count("= scale(")) == (4, 2)
    assert after.count("{by=0.0625}") == 2
    assert printed.splitlines()[-1] == "4 scales before, 2 after; L, dW_Q, dW_K are the same"


def test_the_custom_backend_times_every_block_and_refuses_what_its_option_cannot_be():
    lines = run(ROOT / "examples/custom_backend.py")[0].stdout.splitlines()
    seconds = {tuple(line.split()[:2]): float(line.split()[2]) for line in lines if line.endswith(" ms")}
    blocks = [f"layer{layer}/{part}" for layer in range(2) for part in ("mha", "mlp")]
    assert {(phase, block) for phase in ("forward", "backward") for block in blocks} <= seconds.keys()
    assert list(seconds.values()) == sorted(seconds.values(), reverse=True)
    assert "as compiled" in lines[-2]
    assert lines[-1] == "refused: depth must be at least 1, not 0"


@pytest.mark.slow
def test_what_onnxruntime_computes_is_what_graphir_does():
    pytest.importorskip("onnxruntime")
    lines = run(ROOT / "examples/export_onnx.py")[0].stdout.splitlines()
    apart = [float(line.split()[-1]) for line in lines if line.startswith("B=")]
    assert len(apart) == 3
    assert max(apart) < 1e-5
    assert lines[-1] == "softcap of 0 and 1000: [ 0. 30.]"


@pytest.mark.slow
def test_two_engines_agree():
    pytest.importorskip("jax")
    lines = run(ROOT / "examples/second_engine.py")[0].stdout.splitlines()
    apart = [float(line.split()[-1]) for line in lines if "differs from numpy" in line]
    assert len(apart) == 2
    assert max(apart) < 1e-12
