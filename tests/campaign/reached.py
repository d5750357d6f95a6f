"""Which branches of the compiled executor a campaign reaches, and which it does not.

    python -m tests.campaign --graphs 2000 --coverage

The campaign runs in a process of its own under `coverage`, by branches; here its data are read and told. What no graph
can reach, or hardly any, `unreached.toml` lists, with the reason: of each branch that was missed that is told, or that
it is not listed, and of each that is listed whether it was reached after all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

#: What the graphs are to reach: the folders, and how many per cent of the branches of all together.
FOLDERS = ("backends/compiled", "passes/fuse", "backends/numpy/rules")
GOAL = 95.0
LIST = Path(__file__).with_name("unreached.toml")


@dataclass(frozen=True)
class Branch:
    """A branch by its file, the line that it leaves and the line that it leads to, "" where that is the end."""

    file: str
    start: str
    to: str


def listed(path: Path = LIST) -> dict[Branch, str]:
    """The branches that need not be reached, and why."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    reasons = found["reasons"]
    return {
        Branch(file, start, to): reasons.get(reason, reason)
        for file, rows in found["unreached"].items()
        for start, to, reason in rows
    }


def measure(arguments: Sequence[str]) -> int:
    """Runs `python -m tests.campaign` with these arguments and prints what it reached; its exit status."""
    try:
        import coverage  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("coverage is not installed; pip install coverage")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        data, settings = Path(folder) / "data", Path(folder) / "settings"
        include = "\n    ".join(f"{ROOT}/{each}/*" for each in FOLDERS)
        settings.write_text(
            f"[run]\nbranch = true\nconcurrency = thread\ndata_file = {data}\ninclude =\n    {include}\n",
            encoding="utf-8",
        )
        words = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "tests.campaign", *arguments]
        status = subprocess.run(words, check=False, env=os.environ).returncode
        report = Path(folder) / "report"
        found = coverage.Coverage(data_file=str(data), config_file=str(settings))
        found.load()
        found.json_report(outfile=str(report))
        print(told(json.loads(report.read_text(encoding="utf-8")), listed()))
    return status


def told(report: Mapping[str, Any], reasons: Mapping[Branch, str]) -> str:
    """A line for each file, the branches never taken below, each with its reason, and the sum."""
    lines: list[str] = []
    missed: set[Branch] = set()
    for name, file in sorted(report["files"].items()):
        summary = file["summary"]
        lines.append(f"{name}: {summary['covered_branches']} of {summary['num_branches']} branches")
        for start, end in file["missing_branches"]:
            branch = _branch(name, start, end)
            missed.add(branch)
            where = f"{start} to {end if end > 0 else 'the end'}"
            lines.append(f"    {where}: {reasons.get(branch, 'not listed')}")
    reached = [branch for branch in reasons if branch not in missed]
    lines += [f"listed, but reached: {each.file}: {each.start} to {each.to or 'the end'}" for each in reached]
    taken, there = (report["totals"][each] for each in ("covered_branches", "num_branches"))
    return "\n".join([*lines, f"{taken} of {there} branches, {100 * taken / there:.1f} %; the goal is {GOAL:.0f} %"])


def _branch(file: str, start: int, end: int) -> Branch:
    lines = _lines(file)
    return Branch(file, lines[start - 1].strip(), lines[end - 1].strip() if end > 0 else "")


@cache
def _lines(file: str) -> list[str]:
    return (ROOT / file).read_text(encoding="utf-8").splitlines()
