"""What the README says is so: its programs run, its commands are there; what it names is there by `test_documents`."""

from __future__ import annotations

import re

import numpy as np
import pytest

from graphir.backends.arrays import is_on_device
from graphir.cli import cli
from tests.cuda import emulator, standin
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


PROGRAM, ON_A_GPU = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(*programs):
    """The names that the programs leave behind, one after the other; they are the project's own text."""
    ids = np.arange(8 * 32).reshape(8, 32) % 256
    names = {"ids": ids, "targets": np.roll(ids, -1, axis=1)}
    for program in programs:
        exec(compile(program, "README.md", "exec"), names)
    return names


def test_the_program_runs(capsys):
    assert float(run(PROGRAM)["out"]["L"]) == pytest.approx(np.log(256), rel=0.02)
    assert "pending sum(tp)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
def test_the_program_for_a_gpu_runs_over_the_stand_in():
    assert "range(1000)" in ON_A_GPU
    with standin.installed():
        names = run(PROGRAM, ON_A_GPU.replace("range(1000)", "range(3)"))
    assert is_on_device(names["tensors"]["embedding/E"])
    assert float(names["loss"]) < float(names["out"]["L"])


def test_every_command_is_in_the_table_and_every_one_in_the_table_exists():
    told = set(re.findall(r"^\| `graphir (\w+)", README, flags=re.MULTILINE))
    assert told == set(cli.list_commands(None))
