"""Which branches of the compiled executor a campaign reaches, and which it does not.

    python -m tests.campaign --graphs 2000 --coverage

The campaign runs in a process of its own under `coverage`, by branches; here its data are read and told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What the graphs are to reach: the folders, and how many per cent of the branches of all together.
FOLDERS = ("backends/compiled", "passes/fuse", "backends/numpy/rules")
GOAL = 95.0


def measure(arguments: Sequence[str]) -> int:
    """Runs `python -m tests.campaign` with these arguments and prints what it reached; its exit status."""
    try:
        import coverage  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("coverage is not installed; pip install coverage")
        return 2
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        data, settings = Path(folder) / "data", Path(folder) / "settings"
        include = "\n    ".join(f"{root}/{each}/*" for each in FOLDERS)
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
        print(_told(json.loads(report.read_text(encoding="utf-8"))))
    return status


def _told(report: Mapping[str, Any]) -> str:
    """A line for each file, the branches never taken below, and the sum."""
    lines = []
    for name, file in sorted(report["files"].items()):
        summary = file["summary"]
        lines.append(f"{name}: {summary['covered_branches']} of {summary['num_branches']} branches")
        lines += [f"    {start} to {end if end > 0 else 'the end'}" for start, end in file["missing_branches"]]
    taken, there = (report["totals"][each] for each in ("covered_branches", "num_branches"))
    return "\n".join([*lines, f"{taken} of {there} branches, {100 * taken / there:.1f} %; the goal is {GOAL:.0f} %"])
