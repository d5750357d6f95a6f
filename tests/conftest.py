"""What all tests share: goldens, with the flag that writes them anew, the command line in this process, skips told."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten

import pytest

from graphir import compiler
from graphir.backends.device import require_device
from graphir.cli import main
from graphir.errors import DeviceError, MissingDependencyError
from tests.support.processes import heed_interrupts

#: Whatever a test compiles is proved before it runs.
compiler.CHECK = True

heed_interrupts()

GOLDENS = Path(__file__).parent / "goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write tests/goldens anew from what the tests produce"
    )


@cache
def absent() -> Mapping[str, str]:
    """What this machine lacks, by the mark of the tests that need it, and why they cannot have it."""
    found = {}
    try:
        require_device()
    except (DeviceError, MissingDependencyError) as error:
        found["gpu"] = str(error)
    if find_spec("torch") is None:
        found["torch"] = "PyTorch is not installed"
    return found


@pytest.hookimpl(trylast=True)  # when it has been said of all tests what they need
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need what is not there are left out: hundreds that are skipped would hide one that should not be."""
    vain = {item: None for item in items if any(item.get_closest_marker(mark) for mark in absent())}
    config.hook.pytest_deselected(items=[*vain])
    items[:] = [item for item in items if item not in vain]


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the garbage collector need not walk through all modules, each time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason to skip tests, where pytest's own has one for each place; and for what is left out."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    lines = [f"SKIPPED [{count}] {reason}" for reason, count in reasons.items()]
    lines += [f"LEFT OUT tests marked {mark}: {why}" for mark, why in absent().items()]
    for line in lines:
        terminalreporter.write_line(shorten(line, 120, placeholder=" …"))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("mlp.txt", text)` asserts that the file of that name holds `text`, or writes it when asked to."""

    def compare(name: str, text: str) -> None:
        path = GOLDENS / name
        if request.config.getoption("--update-goldens"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing; write it with pytest --update-goldens"
        assert text == path.read_text(encoding="utf-8"), (
            f"{path.name} differs; if the change is meant, run pytest --update-goldens and read the diff"
        )

    return compare


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main([str(each) for each in arguments])
        out, err = capfd.readouterr()
        return int(exit.value.code or 0), out, err

    return run
