"""Fused CUDA kernels for the runs of a task; how each is launched says `launch`."""

from __future__ import annotations

from collections.abc import Mapping

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.emission import Calls
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.task import Task
from graphir.backends.cupy.launch import Launch
from graphir.backends.rows.geometry import lay_ramps, overlap
from graphir.backends.rows.plan import KernelPlans, RunTile
from graphir.backends.rows.runs import FusedRun, Keywords, find_runs
from graphir.ir.value import Value

#: Kernels compute in float32, or in float64 where an array is of it, whatever the others are.
_FLOATS = (frozenset({"float16", "bfloat16", "float32", "float64"}),)


class CudaKernels:
    """Writes the launches of runs, for the arrays of `engine`, whose array module is `cupy` or stands in for it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._plans = KernelPlans(engine.address, packed=False, converts=True)

    def runs(self, task: Task, assignment: Assignment, keywords: Keywords) -> Mapping[int, FusedRun]:
        """The runs of a task, by the position of their first node: all that has a formula, however small."""
        return find_runs(task, assignment, keywords, 0, _FLOATS, numbers=True)

    def in_registers(self, task: Task) -> frozenset[Value]:
        """None: what these kernels are for is cut into tiles beforehand."""
        return frozenset()

    def write(self, call: Calls, run: FusedRun, tile: RunTile) -> bool:
        """Records the launches that compute a run on a tile; False where the tile's arrays lie in no way for it."""
        planned = self._plans.find(run, tile)
        if planned is None:
            return False
        plan, lying, dtypes = planned
        ramps = lay_ramps(run, plan.row, tile.place)
        if ramps is None or overlap(lying, plan.written):
            return False
        return Launch(self.engine, call, run, plan, tile, lying, dtypes, ramps).record()


__all__ = ["CudaKernels"]
