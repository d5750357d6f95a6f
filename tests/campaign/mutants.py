"""Faults planted by machine, and whether the campaign finds them.

    python -m tests.campaign.mutants graphir.backends.compiled.tiles graphir.backends.compiled.writer --count 200

Each mutant runs in a process of its own, under an import hook, on graphs from a fixed seed, until one departs or as
many have run as may. What lives on is given to the tests that are named: a campaign holds programs to their numbers,
and does not see what is only slower, or told wrongly of their memory. What lives then is printed with its line, to be
killed by a better generator, or to be written into `equivalents.toml` with the reason why it is harmless.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.mutations import Changed, Mutant, described, find_path, mutants, sample

EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
#: So many graphs each mutant has to get through, or for so many seconds.
GRAPHS, SECONDS = 150, 120.0
#: A graph that takes so many seconds more has no end; the slowest of those that have one take a tenth of it.
PATIENCE = 60.0
#: And tests that take so many seconds.
TESTING = 900.0
#: How a process ends that could not change the code: no verdict on a mutant.
UNCHANGED = 70


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: killed after so many graphs, by what; or alive, and harmless if there is a reason.

    `tested`: it is a test that has killed it.
    """

    mutant: Mutant
    killed: bool
    graphs: int
    by: str
    reason: str = ""
    tested: bool = False


def read_equivalents(path: Path = EQUIVALENTS) -> dict[tuple[str, str, str], str]:
    """By module, old lines and new lines, why a mutant is harmless."""
    if not path.exists():
        return {}
    listed = tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", [])
    return {(each["module"], each["was"], each["now"]): each["reason"] for each in listed}


def all_mutants(modules: Sequence[str]) -> list[Mutant]:
    """The mutants of all modules."""
    found: list[Mutant] = []
    for module in modules:
        path = find_path(module)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        found += mutants(module, path.read_text(encoding="utf-8"), str(shown))
    return found


# -- one, in its own process ------------------------------------------------------------------------------


def run_alone(module: str | None, number: int, seed: int, graphs: int, seconds: float, only: str | None) -> None:
    """Prints what the campaign makes of one mutant, or of the code as it is, as one line of JSON."""
    if module is not None:
        _install(module, number)
    done, began = 0, time.monotonic()
    try:
        from tests.campaign.run import Campaign
        from tests.support.poison import poisoned

        campaign = Campaign(seed, only, numba=False, xla=False, shrinks=0)
        with poisoned():
            for done in range(1, graphs + 1):
                found = next(iter(campaign.try_seed(seed + done - 1)), None)
                if found is not None:
                    by = f"{found.way.executor}: {found.departure}"
                    print(json.dumps({"killed": True, "graphs": done, "by": by}))
                    return
                if time.monotonic() - began > seconds:
                    break
    except Exception as error:  # where a mutant cannot even be imported, or drawn a graph for
        print(json.dumps({"killed": True, "graphs": done, "by": f"raised {type(error).__name__}: {error}"[:200]}))
        return
    print(json.dumps({"killed": False, "graphs": done, "by": ""}))


def _install(module: str, number: int) -> None:
    try:
        Changed(module, number).install()
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(UNCHANGED)


def run_tests_alone(module: str, number: int, tests: Sequence[str]) -> int:
    """Runs tests on one mutant; pytest's exit status."""
    import pytest

    _install(module, number)
    return int(pytest.main(["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]))


def try_tests(mutant: Mutant, tests: Sequence[str]) -> str:
    """The test that fails on a mutant; none if none does."""
    words = [sys.executable, "-m", "tests.campaign.mutants", "--alone", mutant.module, "--number", str(mutant.number)]
    words += [word for test in tests for word in ("--tests", test)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TESTING, check=False)
    except subprocess.TimeoutExpired:
        return f"tests: no end within {TESTING:.0f} s"
    if done.returncode == UNCHANGED:
        raise RuntimeError(f"{mutant} was never tried: {done.stderr.strip()}")
    if done.returncode == 0:
        return ""
    failed = (line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR")))
    return next(failed, f"tests: they end with {done.returncode}").partition(" - ")[0]


def try_mutant(
    mutant: Mutant | None, seed: int, graphs: int, seconds: float, only: str | None
) -> tuple[bool, int, str]:
    """Whether a mutant (None: the code as it is) is killed, after how many graphs, and by what."""
    words = [sys.executable, "-m", "tests.campaign.mutants", "--alone", "--seed", str(seed), "--graphs", str(graphs)]
    words += ["--seconds", str(seconds)]
    if mutant is not None:
        words += [mutant.module, "--number", str(mutant.number)]
    if only is not None:
        words += ["--only", only]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        # Threads that wait for one another, or a loop without an end.
        return True, 0, f"no end within {seconds + PATIENCE:.0f} s"
    if done.returncode == UNCHANGED:
        raise RuntimeError(f"{mutant} was never tried: {done.stderr.strip()}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return True, 0, f"the process ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
    said = json.loads(lines[-1])
    return bool(said["killed"]), int(said["graphs"]), str(said["by"])


# -- all of them ------------------------------------------------------------------------------------------


def report(fates: Sequence[Fate], seconds: float) -> str:
    """Who was killed and how soon, and who lives, as a page."""
    killed = [fate for fate in fates if fate.killed]
    harmless = [fate for fate in fates if not fate.killed and fate.reason]
    alive = [fate for fate in fates if not fate.killed and not fate.reason]
    soon = sorted(fate.graphs for fate in killed if not fate.tested)
    middle = soon[len(soon) // 2] if soon else 0
    lines = [
        "# Mutants",
        "",
        f"{len(fates)} mutants in {seconds / 60:.0f} minutes: {len(soon)} killed by the campaign, half of them within "
        f"{middle} graphs, the last after {max(soon, default=0)}; {len(killed) - len(soon)} by tests alone; "
        f"{len(harmless)} harmless, for a reason; {len(alive)} alive.",
        "",
        "| kind | mutants | killed by the campaign | by tests | harmless | alive |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind in sorted({fate.mutant.kind for fate in fates}):
        mine = [fate for fate in fates if fate.mutant.kind == kind]
        tested = [fate for fate in killed if fate.tested]
        parts = (mine, [fate for fate in killed if not fate.tested], tested, harmless, alive)
        counts = [sum(fate in some for fate in mine) for some in parts]
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    by_tests = [fate for fate in killed if fate.tested]
    for title, some in (("Alive", alive), ("Killed by tests alone", by_tests), ("Harmless", harmless)):
        if some:
            lines += ["", f"## {title}", ""]
            lines += [f"- {fate.mutant}{f': {why}' if (why := fate.reason or fate.by) else ''}" for fate in some]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Runs mutants; 1 if one lives that nobody has given a reason for."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help="modules to change, such as graphir.backends.compiled.tiles")
    parser.add_argument("--count", type=int, default=200, help="so many mutants (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the graphs, and of which mutants (default 0)")
    parser.add_argument("--graphs", type=int, default=GRAPHS, help=f"each gets so many graphs (default {GRAPHS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"and so many seconds (default {SECONDS:.0f})")
    parser.add_argument("--only", help="graphs of that kind alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side (default 1)")
    parser.add_argument("--markdown", type=Path, help="where to write the page")
    parser.add_argument("--list", action="store_true", help="print the mutants and run none")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--tests", action="append", default=[], help="a test file for who lives; may be repeated")
    given = parser.parse_args(arguments)
    if given.alone and given.tests:
        return run_tests_alone(given.modules[0], given.number, given.tests)
    if given.alone:
        module = given.modules[0] if given.modules else None
        run_alone(module, given.number, given.seed, given.graphs, given.seconds, given.only)
        return 0
    sources = {module: find_path(module).read_text(encoding="utf-8") for module in given.modules}
    drawn = sample(all_mutants(given.modules), given.count, given.seed)
    chosen = [described(mutant, sources[mutant.module]) for mutant in drawn]
    if given.list:
        print("\n".join(map(str, chosen)))
        return 0
    departs, graphs, by = try_mutant(None, given.seed, given.graphs, given.seconds * 5, given.only)
    if departs:
        print(f"without any mutant the campaign departs after {graphs} graphs, {by}: mend that first")
        return 1
    reasons = read_equivalents()
    began = time.monotonic()

    def fate(mutant: Mutant) -> Fate:
        killed, after, what = try_mutant(mutant, given.seed, given.graphs, given.seconds, given.only)
        reason = reasons.get((mutant.module, mutant.was, mutant.now), "")
        tested = "" if killed or reason or not given.tests else try_tests(mutant, given.tests)
        found = Fate(mutant, killed or bool(tested), after, what or tested, reason, bool(tested))
        harmless = f"harmless: {found.reason}" if found.reason else ""
        word = f"killed after {after}, {what}" if killed else harmless or f"ALIVE after {after}"
        print(f"{mutant}: {word}", flush=True)
        return found

    with ThreadPoolExecutor(given.jobs) as pool:
        fates = list(pool.map(fate, chosen))
    text = report(fates, time.monotonic() - began)
    print(text)
    if given.markdown is not None:
        given.markdown.write_text(text, encoding="utf-8")
    return int(any(not fate.killed and not fate.reason for fate in fates))


if __name__ == "__main__":
    sys.exit(main())
