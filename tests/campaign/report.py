"""What a campaign has counted, as a table on the terminal and as a page."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

import graphir as gi
from tests.campaign.case import KINDS, Case
from tests.campaign.trial import Outcome
from tests.campaign.ways import EXECUTORS, Way

#: What is counted of each kind of graph.
COLUMNS = ("graphs", "nodes", "runs", "tilings", "most threads", "comparisons", "departures")


@dataclass
class Tally:
    """Counts by kind of graph, and runs by executor."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    executors: Counter[str] = field(default_factory=Counter)
    unfit: int = 0
    narrow: int = 0
    differences: int = 0
    tilings: set[object] = field(default_factory=set)

    def add_case(self, case: Case) -> None:
        """Counts a graph."""
        row = self.counts[case.kind]
        row["graphs"] += 1
        row["nodes"] += len(case.program.nodes)
        self.narrow += any(value.dtype not in ("float64", "int64", "bool") for value in case.program.values.values())

    def add_trial(self, case: Case, way: Way, outcome: Outcome) -> None:
        """Counts what was run and compared in one way."""
        row = self.counts[case.kind]
        row["runs"] += 1
        row["comparisons"] += outcome.comparisons
        row["departures"] += outcome.departure is not None
        row["most threads"] = max(row["most threads"], way.threads)
        if way.tiling is not None and (case.kind, way.tiling) not in self.tilings:
            self.tilings.add((case.kind, way.tiling))
            row["tilings"] += 1
        self.executors[way.executor] += 1

    @property
    def departures(self) -> int:
        return sum(row["departures"] for row in self.counts.values())

    def rows(self) -> list[list[str]]:
        """The table: a row for each kind of graph that there was, and one of all."""
        found = [[kind, *(f"{row[column]:,}" for column in COLUMNS)] for kind, row in self.counts.items() if row]
        total: Counter[str] = Counter()
        for row in self.counts.values():
            total.update(row)
        total["most threads"] = max((row["most threads"] for row in self.counts.values()), default=0)
        return [*found, ["all", *(f"{total[column]:,}" for column in COLUMNS)]]

    def summary(self, seconds: float) -> str:
        """What the table does not say."""
        graphs = sum(row["graphs"] for row in self.counts.values())
        runs = ", ".join(f"{name} {self.executors[name]:,}" for name in EXECUTORS if self.executors[name])
        return (
            f"{graphs:,} graphs in {seconds / 60:.1f} minutes, {60 * graphs / max(seconds, 1e-9):,.0f} a minute; "
            f"{self.unfit:,} more were drawn whose values are no numbers or too large; {self.narrow:,} are not all "
            f"float64; gradients of {self.differences:,} held to finite differences.\nRuns by executor, each three "
            f"times: {runs}."
        )


def table(tally: Tally) -> Table:
    """The closing table."""
    made = Table("kind", *COLUMNS)
    for column in made.columns[1:]:
        column.justify = "right"
    for row in tally.rows():
        made.add_row(*row)
    return made


def page(tally: Tally, seconds: float, command: str, found: Iterable[str]) -> str:
    """The page that is kept."""
    lines = [
        "# The campaign",
        "",
        f"Written by `{command}`.",
        "",
        "Small random graphs, each run in several ways, every result held to the reference interpreter, memory that",
        "nobody has written full of NaN. A *run* is an executable that is run three times: twice on the same arrays,",
        "which must give the same bits, and once on others, which must leave earlier results alone.",
        "",
        f"{tally.departures} departures. {tally.summary(seconds)}",
        "",
        f"graphir {gi.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"{platform.system()} {platform.machine()}.",
        "",
        f"| kind | {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * len(COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in tally.rows()),
    ]
    departures = list(found)
    if departures:
        lines += ["", "## Departures", "", *(f"- {each}" for each in departures)]
    return "\n".join(lines) + "\n"
