"""Training, sampling and checking with `--backend cupy`, over the stand-in for CuPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphir.backends.arrays import is_on_device
from graphir.cli import main
from graphir.errors import NonFiniteError
from graphir.training import Sampler, TrainConfig, load_checkpoint, train
from tests.cuda import emulator, standin
from tests.support import small_run
from tests.support.sampled import sampled

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

SMALL = replace(small_run.SMALL, steps=4, checkpoint_every=2, schedule_steps=4)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cupy() -> Iterator[Any]:
    with standin.installed() as module:
        yield module


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(each) for each in arguments])
        shown = capsys.readouterr()
        return int(caught.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture
def small(tmp_path: Path) -> TrainConfig:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat, and the rat sat on the cat. " * 40)
    return replace(SMALL, text=(str(path),))


@pytest.mark.slow
@sampled(1, mesh=[{"dp": 2}, {}])
def test_a_run_on_a_gpu_is_that_on_the_processor(
    cupy: Any, small: TrainConfig, tmp_path: Path, mesh: dict[str, int]
) -> None:
    config = replace(small, **mesh)  # type: ignore[arg-type]
    on_gpu, on_cpu = (train(config, tmp_path / each, backend=each) for each in ("cupy", "numpy"))
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-5)
    assert on_gpu.val_loss == pytest.approx(on_cpu.val_loss, rel=1e-5)
    one, two = load_checkpoint(on_gpu.checkpoint), load_checkpoint(on_cpu.checkpoint)
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        # Adam's first steps depend on little more than a gradient's sign: what is almost 0 may go either way.
        assert np.mean(np.abs(array - two.arrays[name]) > 1e-4) < 0.02, name


@pytest.mark.slow
@pytest.mark.parametrize("backends", [("cupy", "cupy"), ("cupy", "numpy"), ("numpy", "cupy")])
def test_a_checkpoint_goes_on_on_either(
    cupy: Any, small: TrainConfig, tmp_path: Path, backends: tuple[str, str]
) -> None:
    first, second = backends
    train(replace(small, steps=2), tmp_path / "halves", backend=first)
    ended = train(small, tmp_path / "halves", resume=True, backend=second)
    whole = train(small, tmp_path / "whole", backend=first)
    assert ended.loss == pytest.approx(whole.loss, rel=1e-5)
    if first == second:
        assert ended.loss == whole.loss


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_blamed_on_a_node(cupy: Any, small: TrainConfig, tmp_path: Path) -> None:
    config = replace(small, learning_rate=1e30, clip=0.0, warmup=0, steps=8, schedule_steps=8)
    with pytest.raises(NonFiniteError, match="is the first value to hold"):
        train(config, tmp_path / "run", backend="cupy")


@pytest.mark.slow
def test_samples_are_those_of_the_processor(cupy: Any, small: TrainConfig, tmp_path: Path) -> None:
    saved = load_checkpoint(train(small, tmp_path / "run").checkpoint)
    texts = ["".join(Sampler(saved, backend=each).stream("the ", 12)) for each in ("numpy", "cupy")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_the_command_line(cupy: Any, small: TrainConfig, tmp_path: Path, command: Command) -> None:
    options: list[object] = ["--layers", 1, "--sequence", 16, "--width", 16, "--heads", 2, "--batch", 2, "--steps", 2]
    options += ["--text", small.text[0], "--out", tmp_path / "run", "--quiet", "--backend", "cupy"]
    assert command("train", *options) == (0, "", "")
    assert load_checkpoint(next((tmp_path / "run").glob("step-*.safetensors"))).step == 2
    code, text, _ = command("generate", tmp_path / "run", "--tokens", 3, "--backend", "cupy")
    assert code == 0
    assert text.startswith("The ")


@pytest.mark.slow
def test_a_check_runs_its_ranks_on_the_device(cupy: Any, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[bool] = []
    from graphir.checking import compare

    real = compare.to_numpy
    monkeypatch.setattr(compare, "to_numpy", lambda array: places.append(is_on_device(array)) or real(array))
    code, text, _ = command("check", "--layers", 1, "--dp", 2, "--tp", 2, "--backend", "cupy")
    assert code == 0, text
    assert places
    assert all(places)


def test_what_needs_no_gpu_is_refused_one(command: Command) -> None:
    code, _, error = command("check", "--inject", "--backend", "cupy")
    assert code == 2
    assert "--inject and --dump compare on the processor and compile nothing; leave out --backend" in error


@pytest.mark.parametrize("words", [["train"], ["check"]], ids=" ".join)
def test_without_a_gpu_a_command_says_so(
    cupy: Any, words: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "devices", 0)
    monkeypatch.chdir(tmp_path)
    code, _, error = command(*words, "--backend", "cupy")
    assert code == 2
    assert 'backend="cupy" needs an NVIDIA GPU and its driver' in error
