"""What a check found, for people and for programs.

A run may have been computed by several executors: the compiled program, and the interpreter, whose every node is the
kernel of its operator. Where only one of them departs, the plan is right and graphir is at fault: that is said first.

The first value that departs, in the order of computation, is where the fault lies: all that it was computed from was
right. So a departure is told with its operands' own deviations, the ranks it is on with the block that each holds,
the rule that types the node, the reason a collective was inserted, and the line of the user's program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from graphir.checking.compare import Comparison, block_text
from graphir.ir.dims import Sizes, resolve_sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value


@dataclass(frozen=True)
class Departure:
    """The first node whose result rounding does not explain.

    ranks      (rank, its coordinates and block), for each rank that departs
    operands   what the node read, each with its own comparison, if it was compared
    """

    found: Comparison
    operator: str
    operands: tuple[tuple[Value, Comparison | None], ...]
    ranks: tuple[tuple[int, str], ...]
    split: str
    scope: str
    phase: str
    rule: str
    at: str | None
    why: str | None
    #: What the run was handed.
    given: frozenset[Value]

    def lines(self) -> list[str]:
        """The departure as a paragraph, one fact a line."""
        found, operands = self.found, ", ".join(value.name for value, _ in self.operands)
        made = f" = {self.operator}({operands})" if self.operator else ", handed to the run"
        lines = [f"first departure: {found.name} {found.type}{made}"]
        lines.append(
            f"  deviation  {number(found.deviation)} of its norm, {number(found.largest)} of its largest element; "
            f"rounding explains {number(found.allowed[0])} and {number(found.allowed[1])}"
        )
        lines.extend(f"  on         {where}" for _, where in self.ranks)
        lines.append(f"  split      {self.split}")
        lines.append(f"  in         {self.scope or 'the top scope'}, {self.phase}")
        if self.rule:
            lines.append(f"  rule       {self.rule}")
        lines.extend(f"  {label:<9}  {text}" for label, text in (("why", self.why), ("written", self.at)) if text)
        for value, each in self.operands:
            if each is None:
                verdict = "as given" if value in self.given else "not compared"
            else:
                verdict = f"{'departs' if each.departs else 'right'}, {number(each.deviation)}"
            lines.append(f"  operand    {value.name} {value.type}: {verdict}")
        return lines


@dataclass(frozen=True, repr=False)
class Report:
    """Every value that was compared, in the order of computation, and the first that departs.

    executor   what computed them, in words; empty where that is for the caller to know
    compiled   whether that was a compiled program
    others     reports of other executors, of the same graph and arguments
    unread     those that were not compared, as no result is made of them, though on one rank there is one that is
    """

    graph: Graph
    sizes: Sizes
    comparisons: tuple[Comparison, ...]
    title: str = ""
    notes: tuple[str, ...] = field(default=())
    executor: str = ""
    compiled: bool = False
    others: tuple[Report, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Report, ...]:
        """This report and those of other executors."""
        return self, *self.others

    @property
    def ok(self) -> bool:
        """Whether rounding explains all there is, whatever computed it, and nothing is left out that should be read."""
        return not self.unread and not any(each.departing for each in self.runs)

    @property
    def departing(self) -> tuple[Comparison, ...]:
        """All values of this executor that depart, the first first."""
        return tuple(each for each in self.comparisons if each.departs)

    @property
    def worst(self) -> Comparison:
        """The value with the largest deviation in units of what is allowed it, whatever computed it."""
        return max((each for run in self.runs for each in run.comparisons), key=lambda each: each.excess)

    @property
    def first(self) -> Departure | None:
        """The first departure, of this executor or, if it has none, of the next; None if there is none."""
        return next((each for each in (run._find_first() for run in self.runs) if each is not None), None)

    def _find_first(self) -> Departure | None:
        found = next(iter(self.departing), None)
        if found is None:
            return None
        graph, value = self.graph, self.graph[found.name]
        by_name = {each.name: each for each in self.comparisons}
        node = graph.producers.get(value)
        sizes = resolve_sizes([graph.dims], self.sizes)
        ranks = tuple(
            (rank, f"{graph.mesh.describe(rank)}, block {block_text(value, graph.mesh, rank, sizes)}")
            for rank in found.ranks
        )
        operands = () if node is None else tuple((v, by_name.get(v.name)) for v in node.inputs)
        return Departure(
            found,
            "" if node is None else node.operator.key,
            operands,
            ranks,
            _split_text(value.shape, value.type.layout),
            value.scope if node is None else node.meta.scope,
            "argument" if node is None else node.meta.phase,
            "" if node is None else _rule_text(node),
            None if node is None else node.meta.at,
            None if node is None else node.meta.why,
            frozenset(graph.arguments),
        )

    def blocks(self) -> dict[tuple[str, str], list[Comparison]]:
        """The comparisons by block (`layer0/mha`) and pass, in the order of computation."""
        found: dict[tuple[str, str], list[Comparison]] = {}
        for each in self.comparisons:
            node = self.graph.producers.get(self.graph[each.name])
            key = ("arguments", "") if node is None else (node.meta.scope or "top", node.meta.phase)
            found.setdefault(key, []).append(each)
        return found

    def summary(self) -> str:
        """One line: how many values, the worst of them, the verdict."""
        name = f"{self.title}: " if self.title else ""
        worst = self.worst
        apart = sum(not each.replicas for each in self.comparisons)
        copies = f"; {apart} differ between replicas in their bits" if apart else ""
        if self.ok:
            by = "; ".join(run.executor.removeprefix(f"{self.executor}, ") for run in self.runs if run.executor)
            return (
                f"{name}{len(self.comparisons)} values agree{f' ({by})' if by else ''}; the worst, {worst.name}, "
                f"departs by {number(worst.deviation)}, {number(worst.excess)} of what rounding explains{copies}"
            )
        return f"{name}{'; '.join(run._count() for run in self.runs)}{copies}"

    def _count(self) -> str:
        by = f" ({self.executor})" if self.executor else ""
        return f"{len(self.departing)} of {len(self.comparisons)} values depart{by}"

    def parting(self) -> str | None:
        """The first value that is right in a compiled program and wrong in the interpreter, or the other way round."""
        interpreter = next((run for run in self.runs if not run.compiled), self)
        judged = {each.name: each for each in interpreter.comparisons}
        for run in self.runs:
            for each in run.comparisons:
                other = judged.get(each.name, each)
                if each.departs != other.departs:
                    wrong, right = (run, interpreter) if each.departs else (interpreter, run)
                    gap = number(max(each, other, key=lambda one: one.departs).deviation)
                    return (
                        f"compiled and interpreted part at {each.name}: it departs by {gap} as computed by "
                        f"{_name(wrong)}, not as computed by {_name(right)}; the fault is in graphir, not in the plan: "
                        f"please report it"
                    )
        return None

    def __repr__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Where executors part, the summary, and the first departure if there is one."""
        first, parting = self.first, self.parting()
        lines = [parting, self.summary(), *self._lost(), *(first.lines() if first else ()), *self.notes]
        return "\n".join(filter(None, lines))

    def _lost(self) -> list[str]:
        """A line on what nobody reads, if there is such."""
        if not self.unread:
            return []
        listed = ", ".join(self.unread[:3]) + (", …" if len(self.unread) > 3 else "")
        return [f"nothing that is returned is made of {listed}, as it is on one rank: somebody reads another value"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; an infinite deviation is written as null."""
        first = self.first
        return {
            "title": self.title,
            "ok": self.ok,
            "executor": self.executor,
            "parting": self.parting(),
            "mesh": dict(self.graph.mesh.sizes),
            "sizes": dict(self.sizes),
            "notes": list(self.notes),
            "unread": list(self.unread),
            "first": None if first is None else _departure_dict(first),
            "values": [_comparison_dict(each) for each in self.comparisons],
            "others": [
                {"executor": run.executor, "values": [_comparison_dict(each) for each in run.comparisons]}
                for run in self.others
            ],
        }


def _name(run: Report) -> str:
    return f"the program {run.executor}" if run.compiled else run.executor


def _departure_dict(first: Departure) -> dict[str, Any]:
    return {
        **_comparison_dict(first.found),
        "operator": first.operator,
        "operands": [
            {"name": value.name, "type": str(value.type)} if each is None else _comparison_dict(each)
            for value, each in first.operands
        ],
        "blocks": [{"rank": rank, "where": where} for rank, where in first.ranks],
        "split": first.split,
        "scope": first.scope,
        "phase": first.phase,
        "rule": first.rule,
        "at": first.at,
        "why": first.why,
    }


def _comparison_dict(each: Comparison) -> dict[str, Any]:
    return {
        "name": each.name,
        "origin": each.origin,
        "type": each.type,
        "deviation": _finite(each.deviation),
        "largest": _finite(each.largest),
        "allowed": list(each.allowed),
        "ranks": list(each.ranks),
        "replicas": each.replicas,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rule_text(node: Node) -> str:
    return f"{node.operator.key}  {node.inference.rule}"


def _split_text(shape: Any, layout: Any) -> str:
    parts = [f"{each} over {' and '.join(axes)}" for each, axes in zip(shape, layout.splits, strict=True) if axes]
    parts.extend(f"a pending {kind} over {axis}" for axis, kind in layout.pending)
    return ", ".join(parts) or "nothing: replicated"


def number(value: float) -> str:
    """`3.1e-07`, `0`, `inf`."""
    return f"{value:.1e}" if value else "0"
