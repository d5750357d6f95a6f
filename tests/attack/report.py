"""What was counted, as a table on the terminal and as a page."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

import graphir as gi
from tests.attack.attacks import ATTACKS
from tests.attack.outcome import AttackError, HangError, LossError, RawError

#: What must not happen; each has a column.
FAULTS = tuple(error.column for error in (RawError, LossError, HangError))
COLUMNS = ("attack", "what was attacked", "trials", "what came of it", *FAULTS)


@dataclass
class Tally:
    """Counts by attack and by what was attacked, and how long each attack took."""

    outcomes: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    faults: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    minutes: Counter[str] = field(default_factory=Counter)

    def add(self, attack: str, target: str, what: str) -> None:
        """Counts a trial that ended as it should."""
        self.outcomes.setdefault((attack, target), Counter())[what] += 1

    def add_error(self, attack: str, error: AttackError) -> None:
        """Counts a trial that did not."""
        self.outcomes.setdefault((attack, error.target), Counter())
        self.faults.setdefault((attack, error.target), Counter())[error.column] += 1

    def rows(self) -> list[list[str]]:
        """The table: a row for each thing that was attacked."""
        made = []
        for attack, target in sorted(self.outcomes, key=lambda key: (list(ATTACKS).index(key[0]), key[1])):
            outcomes, faults = self.outcomes[attack, target], self.faults.get((attack, target), Counter())
            trials = outcomes.total() + faults.total()
            what = "; ".join(f"{what} {count:,}" for what, count in outcomes.most_common())
            made.append([attack, target, f"{trials:,}", what, *(f"{faults[column]:,}" for column in FAULTS)])
        return made

    def summary(self) -> str:
        """How long each attack took."""
        return ", ".join(f"{attack} {minutes:.1f}" for attack, minutes in self.minutes.items())


def table(tally: Tally) -> Table:
    """The closing table."""
    made = Table(*COLUMNS)
    for row in tally.rows():
        made.add_row(*row)
    return made


def page(tally: Tally, command: str, found: Iterable[object], before: str = "") -> str:
    """The page that is kept; of attacks that were not run, it has the rows of the page that was there before."""
    kept = [row for row in _rows(before) if row[0] not in tally.minutes]
    commands = [
        line for line in before.splitlines() if line.startswith("- `") and _attack_of(line) not in tally.minutes
    ]
    about = f"graphir {gi.__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    system = f"{platform.system()} {platform.machine()}"
    commands += [
        f"- `{attack}`, {minutes:.1f} minutes: `{command}`; {about}, {system}"
        for attack, minutes in tally.minutes.items()
    ]
    rows = sorted([*kept, *tally.rows()], key=lambda row: (list(ATTACKS).index(row[0]), row[1]))
    lines = [
        "# Attacks",
        "",
        "What strangers, accidents and impatience do to graphir, done on purpose. A *trial* has to end in what was",
        "asked for or in an error of graphir's that says what to do. A *raw error* is a traceback, an error of anybody",
        "else's or a crash; a *loss* is work lost, another number than without the attack, a stranger let in, memory",
        "that grows; a *hang* is whatever does not end within its limit.",
        "",
        *(f"- *{attack}*: {about}." for attack, about in ATTACKS.items() if any(row[0] == attack for row in rows)),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|---:|---|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "## How long, and by what",
        "",
        *sorted(commands, key=lambda line: list(ATTACKS).index(_attack_of(line))),
    ]
    found = list(found)
    if found:
        lines += ["", "## What must not happen, and has", "", *(f"- {each}" for each in found)]
    return "\n".join(lines) + "\n"


def write_page(path: Path, tally: Tally, command: str, found: Iterable[object]) -> None:
    """Writes the page anew, or into the one that is there."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(tally, command, found, before), encoding="utf-8")


def _rows(text: str) -> list[list[str]]:
    """The rows of the table in a page."""
    lines = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return [cells for cells in lines if cells[0] in ATTACKS]


def _attack_of(line: str) -> str:
    return line.split("`")[1]
