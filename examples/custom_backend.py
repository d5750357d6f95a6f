"""A backend of one's own, in one entry: the interpreter with a watch, which tells the seconds of each block.

    python examples/custom_backend.py

From then on `gi.compile(…, backend="timed", depth=2)` checks its options, and runs on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

import graphir as gi
from graphir.backends import Executable
from graphir.backends.entries import REFERENCE, Job
from graphir.backends.plan import Step, plan_complete
from graphir.backends.registry import register
from graphir.options import Option
from graphir.passes import autodiff


class TimedExecutable(Executable):
    """Interprets a graph node by node, and adds up the seconds of the blocks that the nodes stand in."""

    depth = 1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        #: By phase, and the first `depth` names of a node's scope.
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def apply(self, step: Step, operands: Sequence[Any], rank: int) -> tuple[Any, ...]:
        """The kernel's results, as the interpreter has them."""
        begun, meta = perf_counter(), step.node.meta
        results = super().apply(step, operands, rank)
        self.seconds[meta.phase, "/".join(meta.scope.split("/")[: self.depth])] += perf_counter() - begun
        return results


def make(job: Job) -> TimedExecutable:
    """An executable of what the passes have left of a graph; `gi.compile` has checked the options."""
    plan = plan_complete(job.optimised, job.plan.sizes)
    made = TimedExecutable(plan, job.options["algorithm"], job.source, job.communicator)
    made.depth = job.options["depth"]
    return made


DEPTH = Option(default=1, help="How many names of a scope are told apart.", kind=int, least=1)
# All else is as the interpreter's own entry says.
TIMED = register(
    replace(
        REFERENCE,
        name="timed",
        help="the interpreter with a watch",
        make=make,
        options={**REFERENCE.options, "depth": DEPTH},
    )
)


def main() -> None:
    """Prints where the time of a step goes; its loss is that of the compiled step. A wrong option is refused."""
    step = autodiff(gi.models.transformer(layers=2, decode=None))
    sizes = {"B": 2, "S": 32, "D": 48, "N_H": 4, "D_ff": 96, "V": 64}
    ids = np.random.default_rng(0).integers(0, 64, (2, 32))
    given = gi.initialize(step, sizes), {"T": ids, "Y": np.roll(ids, -1, axis=1), "seed": 0, "step": 0}

    run: Any = gi.compile(step, sizes, backend="timed", depth=2)
    run(*given)  # what is met for the first time takes longer
    run.seconds.clear()
    loss = run(*given)["L"]
    for (phase, block), seconds in sorted(run.seconds.items(), key=lambda item: -item[1]):
        print(f"{phase:<9} {block:<12} {seconds * 1e3:7.2f} ms")
    np.testing.assert_allclose(loss, gi.compile(step, sizes)(*given)["L"], rtol=1e-5)
    print(f"L = {loss:.6f}, as compiled")

    try:
        gi.compile(step, sizes, backend="timed", depth=0)
    except gi.GraphirError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
