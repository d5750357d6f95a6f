"""Whether what is to be run fits into this machine at all, told before it is planned, and before it is allocated.

What is asked is not whether memory is free at the moment, but whether there is as much: what is refused could not run
here even alone. Everything is counted in exact integers, from types and sizes, so that it takes no longer for sizes
that nobody can run. So are plans, which go over tasks and never over tiles; whoever only plans (`cost`, a training's
budget) compiles with `memory=math.inf`, and is refused nothing here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from graphir.backends.plan import ExecutionPlan
from graphir.errors import SizeError
from graphir.ir.extent import count_bytes, described, largest
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.launch import processes_here
from graphir.memory import spelled, total_memory

#: What is never stored whole, as attention's scores are not, is computed piece by piece; but not of so many times what
#: the machine could store, which would be more pieces than anybody waits for.
_PIECEWISE = 64
#: More ranks than these are not simulated in one process.
_MOST_SIMULATED = 1024


def require_room(plan: ExecutionPlan, ranks: int, stored: bool) -> None:
    """SizeError, with the largest tensor and its dims, if what a plan needs anyhow is more than this machine has.

    Those are, for the `ranks` of its mesh that are held here, its arguments and results; and, where all is `stored`
    that passes between nodes, as the interpreter does it, the fullest moment of that.
    """
    graph, mesh = plan.graph, plan.graph.mesh
    if ranks > _MOST_SIMULATED:
        raise SizeError(
            f"graph {graph.name} is for {ranks:,} ranks ({mesh}), all of which this process would simulate; at most "
            f"{_MOST_SIMULATED:,} may be: choose a smaller mesh, or run it by mpiexec"
        )
    machine, alone = _memory(), ranks == mesh.size
    if machine is None:
        return

    def held(value: Value) -> int:
        return count_bytes(value.type, plan.sizes) if alone else _block_bytes(plan, value)

    most = max(map(held, plan.slots), default=0)
    if most > _PIECEWISE * machine:
        raise _refusal(graph, plan.sizes, f"computes, if only piece by piece, a tensor of {spelled(most)}")
    # What is a view takes no memory where all else is stored.
    views = {value for node in graph.nodes if node.operator.view for value in node.outputs} if stored else set[Value]()
    needed = sum(held(value) for value in {*graph.arguments, *graph.outputs} - views)
    if stored:
        needed += _fullest(plan, {*graph.arguments, *graph.outputs, *views}, ranks)
    if needed > machine:
        raise _refusal(graph, plan.sizes, f"needs at least {spelled(needed)}")


def require_planned(plan: ExecutionPlan, needed: int, memory: object) -> None:
    """SizeError, with the plan of its `memory` and the largest tensor, if a plan needs more than this machine has."""
    machine = _memory()
    if machine is not None and needed > machine:
        raise SizeError(f"{_refusal(plan.graph, plan.sizes, f'needs {spelled(needed)}')}\n{memory}")


def require_initial(graph: Graph, sizes: Mapping[str, int]) -> None:
    """SizeError, with the largest tensor and its dims, if parameters and state are more than this machine has."""
    machine, needed = _memory(), sum(count_bytes(value.type, sizes) for value in (*graph.parameters, *graph.state))
    if machine is not None and needed > machine:
        raise _refusal(graph, sizes, f"starts from {spelled(needed)}", (*graph.parameters, *graph.state))


def _fullest(plan: ExecutionPlan, elsewhere: Collection[Value], ranks: int) -> int:
    """The most that values take at once on so many ranks, those `elsewhere` left out, each freed when it is dead."""
    by_slot = list(plan.slots)
    now, most = 0, 0
    for step in plan.steps:
        made = [value for value in step.node.outputs if value not in elsewhere]
        dead = [value for slot in step.dying if (value := by_slot[slot]) not in elsewhere]
        now += sum(_block_bytes(plan, value) for value in made)
        most = max(most, now)
        now -= sum(_block_bytes(plan, value) for value in dead)
    return most * ranks


def _block_bytes(plan: ExecutionPlan, value: Value) -> int:
    """What a rank's block of a value takes."""
    return count_bytes(value.type, plan.sizes) // plan.graph.mesh.count(value.type.layout.split_axes)


def _memory() -> int | None:
    """What there is for this process, of those that share the machine."""
    total = total_memory()
    return None if total is None else total // processes_here()


def _refusal(graph: Graph, sizes: Mapping[str, int], why: str, among: Iterable[Value] | None = None) -> SizeError:
    value, count = largest(graph.values.values() if among is None else among, sizes) or (None, 0)
    largest_one = "" if value is None else f"; its largest tensor is {described(value, sizes)}, {spelled(count)}"
    return SizeError(
        f"graph {graph.name} {why}, and this machine has {spelled(_memory() or 0)} of memory{largest_one}: "
        f"choose smaller sizes, or ranks on more machines"
    )
