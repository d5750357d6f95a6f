"""What the README says is so: its program runs, its commands and links are there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from graphir.cli import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_program_runs(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    ids = np.arange(8 * 32).reshape(8, 32) % 256
    names = {"ids": ids, "targets": np.roll(ids, -1, axis=1)}
    exec(compile(program, "README.md", "exec"), names)  # the project's own text
    assert float(names["out"]["L"]) == pytest.approx(np.log(256), rel=0.02)
    assert "pending sum(tp)" in capsys.readouterr().out


def test_every_command_is_in_the_table_and_every_one_in_the_table_exists():
    told = set(re.findall(r"^\| `graphir (\w+)", README, flags=re.MULTILINE))
    assert told == set(cli.list_commands(None))


def test_what_it_points_to_is_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
