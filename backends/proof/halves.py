"""The causal half: where entries of a value are known without being computed, and which terms of a sum are 0.

A causal operator makes entries with k > q masked, or 0 where it is linear. Who ignores masked entries makes 0 of them;
0 stays 0 through what is linear in it, and what vanishes with it. A term of a sum with a factor that is 0 there is 0:
the sum is whole without it. All of it follows from the operators' traits, value by value, over the whole graph.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphir.backends.proof.boxes import Box, Range
from graphir.backends.proof.items import MASKED, ZERO, Half, Item, Ledger, Work, axes_of
from graphir.ir.analysis import contracted


def find_halves(ledger: Ledger) -> None:
    """Notes `beyond` and `spared` of every value."""
    for work in ledger.works():
        if work.operator.relayout is not None:
            continue
        if work.operator.view:
            _see_through(work)
            continue
        causal = work.operator.causal
        if causal is not None and causal(work.node.attributes):
            _begin(work)
        for position, item in enumerate(work.outputs):
            _carry(work, position, item)
            item.spared = _spared(work, position, item)


def _begin(work: Work) -> None:
    axes = axes_of(work.rule.outputs[0])
    q, k = axes.index(("q",)), axes.index(("k",))
    shift = work.starts.get("k", 0) - work.starts.get("q", 0)
    work.outputs[0].beyond[q, k, shift] = ZERO if work.operator.linear else MASKED


def _see_through(work: Work) -> None:
    before, after = axes_of(work.rule.inputs[0]), axes_of(work.rule.outputs[0])
    for (q, k, shift), what in work.inputs[0].beyond.items():
        if before[q] in after and before[k] in after:
            work.outputs[0].beyond[after.index(before[q]), after.index(before[k]), shift] = what


def _factors(work: Work, operand: int, half: Half) -> tuple[str, str] | None:
    """The factors that are q and k, of a half of an operand; None where a dim is a product of several."""
    axes = axes_of(work.rule.inputs[operand])
    q, k = axes[half[0]], axes[half[1]]
    return (q[0], k[0]) if len(q) == len(k) == 1 else None


def _carry(work: Work, position: int, item: Item) -> None:
    """What the halves of the operands make of those of a result that has q and k, too."""
    axes = axes_of(work.rule.outputs[position])
    for operand in work.depends[position]:
        for half, what in work.inputs[operand].beyond.items():
            names = _factors(work, operand, half)
            if names is None or (names[0],) not in axes or (names[1],) not in axes:
                continue
            if _makes_zero(work, operand, half, what, names):
                item.beyond[axes.index((names[0],)), axes.index((names[1],)), half[2]] = ZERO


def _makes_zero(work: Work, operand: int, half: Half, what: str, names: tuple[str, str]) -> bool:
    operator, name = work.operator, work.rule.inputs[operand].name
    if what == MASKED:
        return name in operator.ignores_masked
    if name in operator.vanishes:
        return True
    if operator.jointly_linear:
        return all(each.beyond.get(half) == ZERO for each in work.inputs)
    return name in operator.linear and work.rule.whole_factors.isdisjoint(names)


def _spared(work: Work, position: int, item: Item) -> tuple[Half, ...]:
    """Over a result's dims and terms, where a term is 0."""
    places = {factors[0]: i for i, factors in enumerate(axes_of(work.rule.outputs[position])) if len(factors) == 1}
    places.update({factor: len(item.shape) + i for i, factor in enumerate(item.terms)})
    found: dict[Half, None] = {}
    for operand in work.depends[position]:
        for half, what in work.inputs[operand].beyond.items():
            names = _factors(work, operand, half)
            if names is None or not {*names} <= places.keys() or item.terms.keys().isdisjoint(names):
                continue
            if _is_nothing(work, operand, what, names):
                found[places[names[0]], places[names[1]], half[2]] = None
    return tuple(found)


def _is_nothing(work: Work, operand: int, what: str, names: tuple[str, str]) -> bool:
    """Whether terms with an entry of an operand that lies beyond add nothing to a result."""
    operator, name = work.operator, work.rule.inputs[operand].name
    if what == MASKED:
        return name in operator.ignores_masked
    # A term of a product is 0 where a factor is.
    if name in operator.vanishes or not set(contracted(work.node)).isdisjoint(names):
        return True
    return name in operator.linear and work.rule.whole_factors.isdisjoint(names)


def lies_beyond(half: Half, box: Box) -> bool:
    """Whether all of a box lies in a half."""
    q, k, shift = half
    return box[k][0] + shift > box[q][1] - 1


def seen_of(half: Half, box: Box) -> Box:
    """The smallest part of a box, which lies in no half, that has all of it that lies outside of this one."""
    q, k, shift = half
    (first, last), (least, most) = box[q], box[k]
    parts = list(box)
    parts[q], parts[k] = (max(first, least + shift), last), (least, min(most, last - shift))
    return tuple(parts)


def may_leave_out(work: Work, factor: str, left_out: Range, queries: Mapping[str, Range | None]) -> bool:
    """Whether a node that needs all of `factor` makes the same without this range of it, for these queries."""
    for operand, item in enumerate(work.inputs):
        for half, what in item.beyond.items():
            names = _factors(work, operand, half)
            if names is None or names[1] != factor or queries.get(names[0]) is None:
                continue
            name, operator = work.rule.inputs[operand].name, work.operator
            harmless = name in (operator.ignores_masked if what == MASKED else operator.vanishes)
            seen = queries[names[0]]
            if harmless and seen is not None and left_out[0] + half[2] > seen[1] - 1:
                return True
    return False
