"""`python -m tests.campaign`: see the package."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from graphir.backends import proof
from graphir.backends.proof.twice import prove_twice
from tests.campaign.case import KINDS
from tests.campaign.reached import measure
from tests.campaign.report import page, table
from tests.campaign.run import Campaign, replay, written
from tests.campaign.shrink import Found


def main(arguments: list[str] | None = None) -> int:
    """Runs a campaign; 1 if anything departs."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, help="for how long (default: 1, unless --graphs is given)")
    parser.add_argument("--graphs", type=int, help="for so many graphs")
    parser.add_argument("--seed", type=int, default=0, help="the first graph's seed; then each next one (default 0)")
    parser.add_argument("--only", choices=KINDS, help="graphs of that kind alone")
    parser.add_argument("--no-numba", action="store_true", help="leave out Numba's kernels")
    parser.add_argument("--no-xla", action="store_true", help="leave out XLA, which is there if JAX is installed")
    parser.add_argument("--no-proofs", action="store_true", help="prove no program, and compare numbers alone")
    parser.add_argument("--shrink", type=int, default=20, help="shrink so many departures, count the rest (default 20)")
    parser.add_argument("--out", type=Path, help="a folder for departures, each as text that gi.parse reads")
    parser.add_argument("--markdown", type=Path, help="where to write the page")
    parser.add_argument("--coverage", action="store_true", help="tell which branches the graphs reach")
    parser.add_argument("--replay", type=Path, help="run a departure's file once more, and nothing else")
    given = parser.parse_args(arguments)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if given.coverage:
        return measure([word for word in words if word != "--coverage"])
    # What is proved by lemmas is proved step by step, too, and has to come out the same.
    proof.prove = prove_twice
    console = Console()
    if given.replay is not None:
        departure = replay(given.replay.read_text(encoding="utf-8")).departure
        console.print("no departure" if departure is None else str(departure), markup=False)
        return int(departure is not None)
    minutes = 1.0 if given.minutes is None and given.graphs is None else given.minutes
    campaign = Campaign(
        given.seed, given.only, not given.no_numba, not given.no_xla, not given.no_proofs, given.shrink, given.out
    )
    began = time.monotonic()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        bar = progress.add_task("graphs", total=given.graphs if given.graphs is not None else 60 * (minutes or 0))

        def told(found: Found) -> None:
            if len(campaign.found) <= given.shrink:
                console.print(written(found), markup=False, highlight=False, soft_wrap=True)

        def step() -> None:
            graphs = sum(row["graphs"] for row in campaign.tally.counts.values()) + campaign.tally.unfit
            done = graphs if given.graphs is not None else time.monotonic() - began
            progress.update(bar, completed=done, description=f"{graphs:,} graphs, {len(campaign.found)} depart")

        campaign.run(given.graphs, None if minutes is None else 60 * minutes, told, step)
    seconds = time.monotonic() - began
    console.print(table(campaign.tally))
    console.print(campaign.tally.summary(seconds), highlight=False)
    if given.markdown is not None:
        # Where it was written to is nobody's business.
        files = {i + more for i, word in enumerate(words) if word in ("--markdown", "--out") for more in (0, 1)}
        kept = [word for i, word in enumerate(words) if i not in files]
        command = " ".join(["python -m tests.campaign", *kept])
        told_of = [f"seed {found.case.seed}, {found.way.executor}: {found.departure}" for found in campaign.found]
        given.markdown.parent.mkdir(parents=True, exist_ok=True)
        given.markdown.write_text(page(campaign.tally, seconds, command, told_of), encoding="utf-8")
    return int(bool(campaign.found))


if __name__ == "__main__":
    sys.exit(main())
