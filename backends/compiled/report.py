"""Which nodes run the kernels that their operators were declared with, as written, and why nothing better was found.

A kernel that has a formula is fused with others, or becomes calls into memory that is planned. One that has none is
called as it is: its results are allocated, and copied to where they belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphir.backends.compiled.program import Program
from graphir.backends.compiled.task import Task
from graphir.backends.compiled.writer import run_reference
from graphir.backends.plan import keywords
from graphir.formula.trace import NoFormula, formula_of
from graphir.ir.graph import Node


@dataclass(frozen=True)
class Fallback:
    """A node whose kernel is called as it was written.

    node      its name
    operator  its operator's key
    at        where the user wrote it
    reason    what of the kernel no formula says, and on which line
    calls     how often it is called in a run, by all ranks and threads
    bytes     of what it is handed in a run, and of what is copied: operands, and twice the results
    """

    node: str
    operator: str
    at: str
    reason: str
    calls: int
    bytes: int

    def __str__(self) -> str:
        at = f" ({self.at})" if self.at else ""
        cost = f"{self.calls} call{'s' if self.calls > 1 else ''} and {self.bytes / 1e6:,.2f} MB a run"
        return f"{self.node} = {self.operator}(…){at} runs its kernel as written, {cost}: {self.reason}"


@dataclass(frozen=True)
class Report:
    """What of a program is not as fast as it could be; empty where all is."""

    fallbacks: tuple[Fallback, ...]

    def __str__(self) -> str:
        if not self.fallbacks:
            return "every node is a product, a rule, or computed by its formula"
        return "\n".join(map(str, self.fallbacks))


def report_of(programs: Sequence[Program], tasks: Sequence[Task]) -> Report:
    """The report on `programs`, one a rank, which were written for `tasks`."""
    found: dict[Node, tuple[int, int]] = {}
    for program in programs:
        for segment in program.segments:
            for calls, nodes in zip(segment.calls, segment.nodes, strict=True):
                for (function, arguments), node in zip(calls, nodes, strict=True):
                    if function is run_reference and node is not None:
                        _, _, operands, _, outputs, _ = arguments
                        handed = sum(each.nbytes for each in operands if each is not None)
                        handed += 2 * sum(each.nbytes for each in outputs if each is not None)
                        count, total = found.get(node, (0, 0))
                        found[node] = count + 1, total + handed
    task_of = {node: task for task in tasks for node in task.nodes}
    sizes = programs[0].rank.sizes if programs else {}
    rows = []
    for node, (count, total) in found.items():
        formula = formula_of(node, keywords(node, task_of[node].shapes, sizes))
        reason = str(formula) if isinstance(formula, NoFormula) else "its arrays lie in no way that its formula takes"
        rows.append(Fallback(node.name, node.operator.key, str(node.meta.at or ""), reason, count, total))
    return Report(tuple(rows))
