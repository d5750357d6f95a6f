"""`python -m tests.attack`: see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.attack.attacks import ATTACKS, available
from tests.attack.report import table, write_page
from tests.attack.run import Found, Run
from tests.support.processes import heed_interrupts


def _rounds(text: str) -> dict[str, int]:
    """`files=20000,kills=200`, or a number for all attacks."""
    if text.isdigit():
        return {name: int(text) for name in available()}
    pairs = dict(part.split("=") for part in text.split(","))
    if not set(pairs) <= set(available()):
        raise argparse.ArgumentTypeError(f"the attacks are {', '.join(available())}")
    return {name: int(pairs[name]) for name in available() if name in pairs}


def main(arguments: list[str] | None = None) -> int:
    """Runs attacks; 1 if anything happens that must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--minutes", type=float, help="for how long, all attacks together (default 1)")
    parser.add_argument("--rounds", type=_rounds, help="for so many trials: files=20000,kills=200, or 5 for 5 of each")
    parser.add_argument("--seed", type=int, default=0, help="what trials are drawn from (default 0)")
    parser.add_argument("--only", action="append", choices=list(ATTACKS), help="that attack alone; repeatable")
    parser.add_argument("--markdown", type=Path, help="the page to write to; rows of other attacks stay as they are")
    given = parser.parse_args(arguments)
    heed_interrupts()
    names = [name for name in available() if given.only is None or name in given.only]
    rounds = given.rounds and {name: trials for name, trials in given.rounds.items() if name in names}
    console = Console()
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("attacks", total=sum(rounds.values()) if rounds else None)

        def told(found: Found) -> None:
            console.print(str(found), markup=False, highlight=False, soft_wrap=True)

        def step(attack: str) -> None:
            progress.update(bar, advance=1, description=f"{attack}, {len(run.found)} faults")

        run = Run(given.seed, told, step)
        if rounds:
            run.for_rounds(rounds)
        else:
            run.for_seconds(names, 60 * (given.minutes or 1.0))
    console.print(table(run.tally))
    console.print(f"minutes: {run.tally.summary()}", highlight=False)
    if given.markdown is not None:
        words = list(sys.argv[1:] if arguments is None else arguments)
        # Where it was written to is nobody's business.
        at = words.index("--markdown") if "--markdown" in words else None
        kept = words if at is None else words[:at] + words[at + 2 :]
        write_page(given.markdown, run.tally, " ".join(["python -m tests.attack", *kept]), run.found)
    return int(bool(run.found))


if __name__ == "__main__":
    sys.exit(main())
