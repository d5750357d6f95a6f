"""What a command says that fails: one sentence, and never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pytest

from graphir import cli
from graphir.cli import failure
from graphir.errors import ConfigError
from tests.support.paths import ROOT

Call = Callable[..., tuple[int, str, str]]
Fails = Callable[[Callable[[], object]], None]


def written_to(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has details written into that folder."""
    monkeypatch.setattr(failure.tempfile, "mkstemp", partial(MKSTEMP, dir=folder))


MKSTEMP = tempfile.mkstemp


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fails:
    """Makes the command `bench` one that does what it is given; details are written to `tmp_path`."""
    written_to(monkeypatch, tmp_path)

    def make(body: Callable[[], object]) -> None:
        @click.command()
        def bench() -> None:
            body()

        monkeypatch.setattr(cli._Commands, "get_command", lambda self, ctx, name: bench)

    return make


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> object:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("tp"), "KeyError: 'tp'"),
        (
            RecursionError("maximum recursion depth exceeded\nand more"),
            "RecursionError: maximum recursion depth exceeded",
        ),
        (AssertionError(), "AssertionError"),
        (BaseException("a panic in another language"), "BaseException: a panic in another language"),
    ],
)
def test_a_defect_is_one_sentence(call: Call, fails: Fails, tmp_path: Path, error: BaseException, told: str) -> None:
    fails(raising(error))
    code, out, err = call("bench")
    assert (code, out) == (1, "")
    found = re.fullmatch(
        r"error: a defect of graphir \((.*)\); please report it as an issue of its repository, with the file (.*), "
        r"which has the details \(GRAPHIR_TRACE=1 shows them\)\n",
        err,
    )
    assert found is not None, err
    assert found[1] == told
    details = Path(found[2]).read_text()
    assert Path(found[2]).parent == tmp_path
    assert "Traceback (most recent call last):" in details
    assert details.startswith("command: ")


def test_details_that_cannot_be_written(call: Call, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(raising(KeyError("tp")))
    written_to(monkeypatch, Path("/nowhere/at/all"))
    code, out, err = call("bench")
    assert (code, out) == (1, "")
    assert err.endswith(
        "with what GRAPHIR_TRACE=1 shows: the details could not be written (No such file or directory)\n"
    )


@pytest.mark.parametrize(("error", "code"), [(KeyError("tp"), 1), (ConfigError("no such plan"), 2)])
def test_who_wants_to_see_more(
    call: Call, fails: Fails, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    fails(raising(error))
    monkeypatch.setenv("GRAPHIR_TRACE", "1")
    found, _, err = call("bench")
    assert found == code
    assert err.startswith("Traceback (most recent call last):")
    assert "\nerror: " in err


def test_what_fails_in_a_thread_is_a_sentence_too(call: Call, fails: Fails) -> None:
    def body() -> None:
        thread = threading.Thread(target=raising(KeyError("tp")))
        thread.start()
        thread.join()

    fails(body)
    code, _, err = call("bench")
    assert code == 0
    assert err.startswith("error: a defect of graphir (KeyError: 'tp'); please report")
    assert err.count("\n") == 1


def test_what_python_calls_back_is_a_sentence_too(call: Call, fails: Fails) -> None:
    class Dropped:
        def __del__(self) -> None:
            raise KeyError("tp")

    fails(lambda: Dropped() and None)
    code, _, err = call("bench")
    assert code == 0
    assert err.startswith("error: a defect of graphir (KeyError: 'tp'); please report")
    assert err.count("\n") == 1


def test_a_name_from_elsewhere_does_not_speak_to_the_terminal(call: Call, tmp_path: Path) -> None:
    code, _, err = call("train", "--text", "/nowhere/\x1b[2J\x9b31m", "--out", str(tmp_path / "run"))
    assert code == 2
    assert err == r"error: cannot read the text /nowhere/\x1b[2J\x9b31m: No such file or directory" + "\n"


# -- streams -------------------------------------------------------------------------------------------------


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("graphir", f"{sys.executable} -m graphir")],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_stdout() -> None:
    done = shell("graphir ops > /dev/full")
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a shell of another kind")
def test_streams_that_are_closed() -> None:
    for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = shell(f"graphir ops {closed}")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.name == "nt", reason="a shell of another kind")
def test_a_reader_that_has_seen_enough() -> None:
    done = shell("graphir ops | head -1; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 1)  # as soon as the pipe is closed
    assert done.stderr == ""


def test_an_encoding_that_lacks_what_is_to_be_said() -> None:
    """× is a letter of Latin-1, √ is none."""
    done = subprocess.run(
        [sys.executable, "-m", "graphir", "ops"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert r"\u221a" in done.stdout.decode("latin-1")


def test_exit_codes_differ() -> None:
    assert len({0, failure.USER, failure.DEFECT, 130}) == 4
