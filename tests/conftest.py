"""What all tests share: goldens, with the flag that writes them anew, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graphir import compiler
from graphir.cli import main
from tests.support.processes import heed_interrupts

#: Whatever a test compiles is proved before it runs.
compiler.CHECK = True

heed_interrupts()

GOLDENS = Path(__file__).parent / "goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="write tests/goldens anew from what the tests produce"
    )


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
