"""Ctrl-C on the command line: at any moment the same clean end."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from graphir import cli, interrupts
from graphir.interrupts import break_in, watched
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of another kind")

#: Interrupts its process as soon as it looks for the module MODULE, so many times.
FINDER = """
import os, signal, sys

class Finder:
    left = int(os.environ["TIMES"])

    def find_spec(self, name, path=None, target=None):
        if name == os.environ["MODULE"]:
            while Finder.left:
                Finder.left -= 1
                os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def interrupted_at(folder: Path, module: str, *arguments: object, times: int = 1) -> subprocess.CompletedProcess[str]:
    """A command that is interrupted when it is about to import a module."""
    (folder / "sitecustomize.py").write_text(FINDER)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "MODULE": module, "TIMES": str(times)}
    command = [sys.executable, "-m", "graphir", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "times"),
    [
        ("graphir.errors", 1),
        ("graphir.operators.loss", 3),
        ("graphir.__main__", 1),
        ("click", 3),
        ("graphir.cli.train", 1),
        ("numpy", 1),
        ("numpy._core._multiarray_umath", 1),
        ("numpy._core._multiarray_umath", 3),
        ("numpy.random._philox", 1),
        ("graphir.backends.numpy", 1),
        ("graphir.backends.numpy", 3),
        ("matplotlib.figure", 1),
    ],
)
def test_in_the_midst_of_an_import(tmp_path: Path, module: str, times: int) -> None:
    (tmp_path / "text").write_text("the cat sat on the mat. " * 40)
    sizes = ["--layers=1", "--sequence=8", "--width=8", "--heads=2", "--validation=0.2", "--steps=1", "--quiet"]
    done = interrupted_at(tmp_path, module, "train", "--text", "text", *sizes, "--out", "run", times=times)
    assert (done.returncode, done.stdout, done.stderr.split()) == (130, "", ["interrupted"])
    left = sorted(path.name for path in tmp_path.glob("run/*") if path.suffix not in (".jsonl", ".safetensors"))
    assert left == []


# -- what the handler does ----------------------------------------------------------------------------------


class EndError(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise EndError

    monkeypatch.setattr(os, "_exit", end)
    return codes


def test_the_second_ends_at_once_and_takes_what_is_half_written(tmp_path: Path, ends: list[int]) -> None:
    half = tmp_path / "half"
    half.touch()
    interrupts.LEFTOVERS.update({str(half), str(tmp_path / "gone")})
    with watched() as watch:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert watch.interrupted
        with pytest.raises(EndError):
            signal.raise_signal(signal.SIGINT)
    interrupts.LEFTOVERS.clear()
    assert ends == [130]
    assert not half.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_becomes_of_an_interruption_is_not_seen() -> None:
    usual = sys.stderr
    with watched() as watch:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert isinstance(sys.stderr, io.StringIO)
        watch.unmute()
        assert sys.stderr is usual
    assert sys.stderr is usual


def test_an_interruption_that_is_dropped_is_none_the_less_the_end(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def bench() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cli._Commands, "get_command", lambda self, ctx, name: bench)
    assert call("bench") == (130, "", "interrupted\n")


@pytest.mark.slow
def test_a_program_of_its_own_keeps_its_signals() -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            break_in(signal.SIGINT, None)

    def own(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGINT, own)
    with watched():
        assert signal.getsignal(signal.SIGINT) is own
    signal.signal(signal.SIGINT, before)
    program = "import graphir, signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=300)


def test_another_thread_has_no_say() -> None:
    def watch() -> None:
        with watched():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    failed: list[BaseException] = []
    thread = threading.Thread(target=lambda: _noting(watch, failed))
    thread.start()
    thread.join()
    assert failed == []


def _noting(call: Callable[[], None], failed: list[BaseException]) -> None:
    try:
        call()
    except BaseException as error:
        failed.append(error)


@pytest.mark.parametrize(
    ("words", "original", "expected"),
    [
        (["-m"], ["python", "-m", "graphir", "train"], True),
        (["-m"], ["python", "-mgraphir"], True),
        (["-m"], ["python", "-m", "pytest", "graphir"], False),
        (["/venv/bin/graphir", "train"], [], True),
        ([r"graphir.exe"], [], True),
        (["graphir_plot.py"], [], False),
        ([""], [], False),
        ([], [], False),
    ],
)
def test_which_processes_are_the_command_line(
    monkeypatch: pytest.MonkeyPatch, words: list[str], original: list[str], expected: bool
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert interrupts.is_command_line() is expected
