"""Faults put in one after the other, and what each guard made of them.

Two guards are asked of every fault, each without the other's help: the type check, of the program as the fault makes
it; and the parity check, of a run that does wrong though its program is right. The parity check has *located* a
fault if the first value that departs is what the faulty node makes, or what its first reader makes, and if the ranks
that it names are those on which that value is another than in a right run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends import Executable, plan
from graphir.checking.compare import Comparison, compare
from graphir.checking.faults import KINDS, Fault, FaultyExecutable, faults_of, type_error
from graphir.checking.parity import compare_run, require_kinship
from graphir.checking.reference import ROUNDOFF, Reference, make_reference
from graphir.cost import axes_of
from graphir.errors import ConfigError
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value

#: An output whose norm changes by more than so many roundings has changed.
_ROUNDINGS = 64


@dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    typed     what the type check says of it; None if it passes
    found     the first value that departs in a run with it; None if none does
    affected  the ranks on which that value is another than in a right run; for a fault that no value shows, of the
              faulty node's own result
    changes   whether any output of the graph is another than in a right run, by more than a few roundings of its norm
    """

    fault: Fault
    typed: str | None
    found: Comparison | None
    affected: tuple[int, ...]
    changes: bool
    near: frozenset[str]
    harmless: str | None = None

    @property
    def located(self) -> bool:
        """Whether the parity check names the faulty node or its first reader, and every rank affected."""
        return self.found is not None and self.found.name in self.near and self.found.ranks == self.affected

    @property
    def guard(self) -> str:
        """Who found it: `both`, `type check`, `parity check`, or `harmless`; `nobody` is a defect."""
        if self.found is not None:
            return "both" if self.typed else "parity check"
        if self.harmless is not None:
            return "type check, harmless" if self.typed else "harmless"
        return "type check" if self.typed else "nobody"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "kind": self.fault.kind,
            "node": self.fault.node.name,
            "operator": self.fault.node.operator.key,
            "axes": list(self.fault.axes),
            "guard": self.guard,
            "type_check": self.typed,
            "first": None if self.found is None else self.found.name,
            "located": self.located,
            "ranks": [] if self.found is None else list(self.found.ranks),
            "affected": list(self.affected),
            "changes": self.changes,
            "harmless": self.harmless,
        }


@dataclass(frozen=True)
class Campaign:
    """The outcomes of all faults, in the order of the graph's nodes."""

    outcomes: tuple[Outcome, ...]

    @property
    def missed(self) -> tuple[Outcome, ...]:
        """Faults that change a result, and that the parity check did not find, or not where they are."""
        return tuple(each for each in self.outcomes if each.harmless is None and not each.located)

    @property
    def ok(self) -> bool:
        """Whether every fault that changes a result was found, and where it is."""
        return not self.missed

    def counts(self) -> list[tuple[str, Mapping[str, int]]]:
        """Per kind of fault: injected, found by the type check, by the parity check, located, harmless, missed."""
        rows: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        for each in self.outcomes:
            row = rows[each.fault.kind]
            row["injected"] += 1
            row["type check"] += each.typed is not None
            row["parity check"] += each.found is not None
            row["located"] += each.located
            row["type check alone"] += each.typed is not None and each.found is None
            row["harmless"] += each.harmless is not None
            row["missed"] += each in self.missed
        return [(kind, row) for kind, row in rows.items() if row]


def inject(
    single: Graph,
    parallel: Graph,
    sizes: Sizes,
    *arguments: Mapping[str, Any],
    faults: Iterable[Fault] | None = None,
) -> Iterator[Outcome]:
    """The outcome of each of `faults` (default: all that `parallel` admits), as they come.

    Errors: ConfigError if the graphs are no kin, or a run without any fault departs already.
    """
    reference = make_reference(single, parallel, sizes, *arguments)
    require_kinship(single, parallel, reference)
    planned = plan(parallel, sizes)
    clean = _Recording(Executable(planned), arguments)
    wrong = next((c for c in compare_run(Executable(planned), reference, *arguments).values() if c.departs), None)
    if wrong is not None:
        raise ConfigError(f"{wrong.name} departs without any fault; run the check without injection first")
    for fault in faults_of(parallel) if faults is None else faults:
        faulty = _Recording(FaultyExecutable(planned, fault), arguments, clean, reference)
        found = faulty.first
        seen = found.name if found is not None else fault.node.name
        changes = any(_changed(value, faulty, clean, reference) for value in parallel.outputs)
        # Of rounding alone an optimizer that divides by its size may make something.
        unseen = found is None and (not changes or _vanishes(fault.node.outputs[0], reference))
        harmless = _reason(fault, parallel, clean, faulty, reference) if unseen else None
        yield Outcome(
            fault,
            type_error(parallel, fault),
            found,
            faulty.differ(clean, seen),
            changes,
            _near(parallel, fault.node),
            harmless,
        )


class _Recording:
    """Every rank's block of every value that a run makes; and the first value that departs, of a run like `right`.

    What has the bits of a right run, which does not depart, need not be compared.
    """

    def __init__(
        self,
        executable: Executable,
        arguments: Iterable[Mapping[str, Any]],
        right: _Recording | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.held: dict[str, list[NDArray[Any]]] = {}
        self.first: Comparison | None = None
        mesh = executable.mesh

        def look(node: Node, rank: int, results: tuple[Any, ...]) -> None:
            for value, block in zip(node.outputs, results, strict=True):
                blocks = self.held.setdefault(value.name, [])
                blocks.append(np.asarray(block))
                if right is None or reference is None or self.first is not None or len(blocks) < mesh.size:
                    continue
                if self.differ(right, value.name):
                    found = compare(value, blocks, mesh, reference)
                    self.first = found if found.departs else None

        with np.errstate(all="ignore"):  # a fault may well overflow
            executable(*arguments, watch=look)

    def differ(self, other: _Recording, name: str) -> tuple[int, ...]:
        """The ranks whose block of that value has other bits; none for an argument."""
        pairs = zip(self.held.get(name, ()), other.held.get(name, ()), strict=True)
        return tuple(
            rank
            for rank, (mine, theirs) in enumerate(pairs)
            if not np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
        )


def _near(graph: Graph, node: Node) -> frozenset[str]:
    """What a node and the first reader of each of its results make."""
    found = {value.name for value in node.outputs}
    for value in node.outputs:
        for reader, _ in graph.uses[value][:1]:
            found.update(each.name for each in reader.outputs)
    return frozenset(found)


def _changed(value: Value, faulty: _Recording, clean: _Recording, reference: Reference) -> bool:
    """Whether an output changes on some rank; judged by its norm alone, not by the parity check's own tolerance."""
    if not value.type.is_float or _vanishes(value, reference):
        return not value.type.is_float and bool(faulty.differ(clean, value.name))
    limit = _ROUNDINGS * ROUNDOFF[value.dtype] * float(np.linalg.norm(reference.exact[value.name]))
    pairs = zip(faulty.held.get(value.name, ()), clean.held.get(value.name, ()), strict=True)
    return any(not np.linalg.norm(mine.astype(np.float64) - theirs) <= limit for mine, theirs in pairs)


def _vanishes(value: Value, reference: Reference) -> bool:
    """Whether a value is zero but for rounding."""
    limit, _ = reference.tolerance(value.name, value.dtype)
    return value.type.is_float and float(np.linalg.norm(reference.exact[value.name])) <= limit


def _reason(fault: Fault, graph: Graph, clean: _Recording, faulty: _Recording, reference: Reference) -> str:
    """Why a fault changes no result."""
    node = fault.node
    if _vanishes(node.outputs[0], reference):
        return "what it moves is zero but for rounding"
    if fault.kind == "rank seed" and node.attributes.get("p") == 0:
        return "a rate of 0 drops nothing, whatever the seed"
    if fault.kind in ("double", "average") and node.attributes.get("reduce") == "max":
        return "a maximum of maxima is the maximum"
    if graph.mesh.count(axes_of(node) if node.operator.relayout is not None else ()) == 1:
        return "its axis has one rank, so there is nothing to exchange"
    differing = faulty.differ(clean, node.name)
    if not differing:
        return "every rank ends with the same block with it and without"
    return "the block that it changes is read by nothing that an output needs"
