"""The benchmark on a GPU, as far as it goes without one: what it says, what it counts, and whether contestants agree.

Contestants compute over the stand-in, or on the processor in PyTorch, what they compute on a device.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from benchmarks import gpu, step
from benchmarks.contestants import ON_GPU, cuda_graphs, graphs
from benchmarks.contestants.problem import PRECISIONS, SIZES, PaddedProblem, Problem
from benchmarks.contestants.rounds import Rounds
from graphir.backends.device import device_properties
from graphir.errors import GraphirError
from tests.cuda import emulator, standin
from tests.support.paths import ROOT

TINY = Problem("tiny", "optimizer")


def why_no_device() -> str:
    """What CuPy or its absence says here; nothing if there is a GPU."""
    try:
        device_properties()
    except GraphirError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(not why_no_device(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {why_no_device()}\n"


def test_the_names_that_the_benchmark_speaks_of() -> None:
    assert {"floor", "graphir", *gpu.RIVALS} <= set(ON_GPU)
    for module, _ in ON_GPU.values():
        assert (ROOT / "benchmarks" / "contestants" / f"{module}.py").exists()


def test_problems() -> None:
    found = gpu.problems(["gpt2"], "optimizer", ["float32", "bfloat16"], [0.0, 0.1])
    assert [(each.precision, each.dropout) for each in found] == [
        ("float32", 0.0), ("float32", 0.1), ("bfloat16", 0.0), ("bfloat16", 0.1),
    ]  # fmt: skip
    assert str(found[-1]) == "gpt2 (L12 B8 S1024 D768 N_H12 D_ff3072 V50257), optimizer, dropout 0.1, bfloat16"
    both = gpu.problems(["gpt2", "gpt2-50304"], "optimizer", ["tf32"], [0.0])
    assert [each.sizes["V"] for each in both] == [50257, 50304]
    # On a GPU the same rows are multiplied.
    assert [PaddedProblem(**vars(each)).vocabulary.rows for each in both] == [50304, 50304]
    assert "V_pad" not in both[0].sizes


def test_the_operations_of_a_step_by_hand() -> None:
    """Y, dX and dW of each product with a weight, and half of attention's six, a row more by blocks of 16."""
    L, T, D, S, V = 12, 8 * 1024, 768, 1024, 50257
    weights = L * (3 * D * D + D * D + 2 * 4 * D * D) + D * V
    attention = L * 6 * 2 * T * S * D * (1 + 16 / S) / 2
    assert gpu.flops(Problem("gpt2", "optimizer")) == 3 * 2 * T * weights + attention


def test_rates_are_those_of_the_median() -> None:
    reports: dict[str, dict[str, Any]] = {name: {"seconds": [], "numbers": {}} for name in ("graphir", "floor")}
    rounds = Rounds({"graphir": [0.2, 0.2, 0.4], "floor": [0.1, 0.1, 0.1]}, kept=3)
    found = step.summarise(TINY, {**reports, "eager": {"unable": "no"}}, rounds, gpu.RIVALS)
    gpu.add_rates(TINY, found)
    mine = found["contestants"]["graphir"]
    assert mine["tokens/s"] == 2 * 32 / 0.2
    assert mine["TFLOP/s"] == pytest.approx(1e-12 * gpu.flops(TINY) / 0.2)
    lower, median, upper = mine["share of the floor"]
    assert (median, upper) == (0.5, 0.5)
    assert lower == pytest.approx(1 / 3)
    assert "tokens/s" not in found["contestants"]["eager"]
    for each in reports.values():
        each["peak bytes"] = 3e6
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    gpu.print_table(TINY, found, console)
    console.file.close()
    text = console.export_text()
    assert "0.50 (0.42–0.50)" in text or "0.50 (" in text
    assert "without eager: no" in text


# -- contestants agree -------------------------------------------------------------------------------------


def numbers(module: Any, problem: Problem, **options: Any) -> dict[str, float]:
    found: dict[str, float] = module.prepare(problem, problem.parameters(), problem.batch(), **options)[1]()
    return found


@pytest.fixture
def device() -> Iterator[None]:
    with standin.installed():
        yield


@pytest.mark.slow
@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_step_on_a_device_agrees_with_the_interpreter(precision: str, device: None) -> None:
    problem = Problem("tiny", "optimizer", precision=precision)
    exact = numbers(graphs, Problem("tiny", "optimizer"), backend="reference")
    mine = numbers(cuda_graphs, problem)
    assert set(mine) == {"loss", "next loss"}
    step.require_agreement(problem, {"reference": exact, "graphir": mine})


@pytest.mark.torch
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_pytorch_agrees(precision: str, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.contestants import cuda_pytorch

    monkeypatch.setattr(cuda_pytorch, "DEVICE", "cpu")
    kept = torch.get_float32_matmul_precision()
    try:
        problem = Problem("tiny", "optimizer", precision=precision)
        exact = numbers(graphs, Problem("tiny", "optimizer"), backend="reference")
        step.require_agreement(problem, {"reference": exact, "eager": numbers(cuda_pytorch, problem, plain=plain)})
    finally:
        torch.set_float32_matmul_precision(kept)


@pytest.mark.torch
def test_the_floor_forms_the_products_of_the_step() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.contestants.cuda_floor import DeviceProducts

    products = DeviceProducts(TINY, torch.bfloat16, "cpu")
    products.multiply()
    # All 32 rows of queries are one block: attention is counted whole, of which the rates count the half.
    L, B, S, D = 2, 2, 32, 64
    whole = L * 6 * 2 * B * S * S * D
    assert products.flops == gpu.flops(TINY) - whole * (1 + 16 / S) / 2 + whole
    assert all(each.dtype == torch.bfloat16 for call in products.calls[0] for each in call)


ODD = {"L": 1, "B": 2, "S": 16, "D": 32, "N_H": 2, "D_ff": 64, "V": 250}


@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
@pytest.mark.parametrize("what", ["forward", "gradients", "optimizer"])
def test_an_odd_vocabulary_is_padded_on_a_device_and_gives_the_same_numbers(
    what: str, monkeypatch: pytest.MonkeyPatch, device: None
) -> None:
    monkeypatch.setitem(SIZES, "odd", ODD)
    compiled: list[dict[str, int]] = []
    real = graphs.gi.compile

    def noting(graph: Any, sizes: dict[str, int], **options: Any) -> Any:
        compiled.append(sizes)
        return real(graph, sizes, **options)

    problem = Problem("odd", what)
    exact = numbers(graphs, problem, backend="reference")
    monkeypatch.setattr(graphs.gi, "compile", noting)
    step.require_agreement(problem, {"reference": exact, "graphir": numbers(cuda_graphs, problem)})
    assert [sizes["V_pad"] for sizes in compiled] == [256]


@pytest.mark.torch
def test_the_floor_multiplies_the_rows_of_a_padded_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.contestants.cuda_floor import DeviceProducts

    monkeypatch.setitem(SIZES, "odd", ODD)
    calls = DeviceProducts(Problem("odd", "gradients"), torch.float32, "cpu").calls[0]
    widths = {size for call in calls for array in call for size in array.shape}
    assert 256 in widths
    assert 250 not in widths


def test_looser_numbers_for_what_reads_less() -> None:
    apart = {"a": {"loss": 10.0}, "b": {"loss": 10.03}}
    with pytest.raises(step.DisagreementError):
        step.require_agreement(Problem("gpt2", "optimizer", precision="tf32"), apart)
    step.require_agreement(Problem("gpt2", "optimizer", precision="bfloat16"), apart)
    assert math.isclose(PRECISIONS["float32"], 2e-4)


def test_what_is_written_down_can_be_read(monkeypatch: pytest.MonkeyPatch, device: None) -> None:
    found = json.loads(json.dumps(gpu.setting()))
    assert found["device"]["name"] == "stand-in"
    assert found["date"][:2] == "20"
    assert "torch" in found["packages"]
