"""The causal half: where entries of a value are known without being computed, and which terms of a sum are 0.

A causal operator makes entries with k > q masked, or 0 where it is linear; one that masks by what its operands say
makes those so that no query of the run sees, which the trace tells. Who ignores masked entries makes 0 of them; 0 stays
0 through what is linear in it, and what vanishes with it. A term of a sum with a factor that is 0 there is 0: the sum
is whole without it. All of it follows from the operators' traits, value by value, over the whole graph.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphir.backends.proof.boxes import Box, Range
from graphir.backends.proof.items import MASKED, ZERO, Half, Item, Ledger, Work, axes_of
from graphir.backends.trace import Seen
from graphir.ir.analysis import contracted
from graphir.ir.graph import Node
from graphir.ir.traits import Sees


def find_halves(ledger: Ledger, seen: Mapping[Node, Seen] | None = None) -> None:
    """Notes `beyond` and `spared` of every value; `seen` is what nodes show that mask by what their operands say."""
    for work in ledger.works():
        if work.operator.relayout is not None:
            continue
        if work.operator.view:
            _see_through(work)
            continue
        causal = work.operator.causal
        if causal is not None and causal(work.node.attributes):
            _begin(work, work.starts.get("k", 0) - work.starts.get("q", 0))
        elif seen is not None and work.node in seen and work.operator.trait(Sees) is not None:
            _begin(work, 0, seen[work.node])
        for position, item in enumerate(work.outputs):
            _carry(work, position, item)
            item.spared = _spared(work, position, item)


def _begin(work: Work, shift: int, seen: Seen | None = None) -> None:
    axes = axes_of(work.rule.outputs[0])
    b = None if seen is None else axes.index(("b",))
    half = Half(axes.index(("q",)), axes.index(("k",)), shift, b, seen)
    work.outputs[0].beyond[half] = ZERO if work.operator.linear else MASKED


def _see_through(work: Work) -> None:
    before, after = axes_of(work.rule.inputs[0]), axes_of(work.rule.outputs[0])
    for half, what in work.inputs[0].beyond.items():
        mine = [before[dim] for dim in half.dims]
        if all(axis in after for axis in mine):
            work.outputs[0].beyond[half.at([after.index(axis) for axis in mine])] = what


def _factors(work: Work, operand: int, half: Half) -> tuple[str, ...] | None:
    """The factors that are q and k, and b, of a half of an operand; None where a dim is a product of several."""
    axes = axes_of(work.rule.inputs[operand])
    found = [axes[dim] for dim in half.dims]
    return tuple(axis[0] for axis in found) if all(len(axis) == 1 for axis in found) else None


def _carry(work: Work, position: int, item: Item) -> None:
    """What the halves of the operands make of those of a result that has q and k, too."""
    axes = axes_of(work.rule.outputs[position])
    for operand in work.depends[position]:
        for half, what in work.inputs[operand].beyond.items():
            names = _factors(work, operand, half)
            if names is None or any((name,) not in axes for name in names):
                continue
            if _makes_zero(work, operand, half, what, names):
                item.beyond[half.at([axes.index((name,)) for name in names])] = ZERO


def _makes_zero(work: Work, operand: int, half: Half, what: str, names: tuple[str, ...]) -> bool:
    operator, name = work.operator, work.rule.inputs[operand].name
    if what == MASKED:
        return name in operator.ignores_masked
    if name in operator.vanishes:
        return True
    if operator.jointly_linear:
        return all(each.beyond.get(half) == ZERO for each in work.inputs)
    return name in operator.linear and work.rule.whole_factors.isdisjoint(names[:2])


def _spared(work: Work, position: int, item: Item) -> tuple[Half, ...]:
    """Over a result's dims and terms, where a term is 0."""
    places = {factors[0]: i for i, factors in enumerate(axes_of(work.rule.outputs[position])) if len(factors) == 1}
    places.update({factor: len(item.shape) + i for i, factor in enumerate(item.terms)})
    found: dict[Half, None] = {}
    for operand in work.depends[position]:
        for half, what in work.inputs[operand].beyond.items():
            names = _factors(work, operand, half)
            if names is None or not {*names} <= places.keys() or item.terms.keys().isdisjoint(names[:2]):
                continue
            if _is_nothing(work, operand, what, names[:2]):
                found[half.at([places[name] for name in names])] = None
    return tuple(found)


def _is_nothing(work: Work, operand: int, what: str, names: tuple[str, ...]) -> bool:
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
    low, high = _keys(half, box)
    return box[half.k][0] >= high or box[half.k][1] <= low


def seen_of(half: Half, box: Box) -> list[Box]:
    """The smallest parts of a box that have all of it that lies outside of a half."""
    if lies_beyond(half, box):
        return []
    (first, last), (least, most) = box[half.q], box[half.k]
    if half.seen is None:
        _, high = _keys(half, box)
        return [_with(box, {half.q: (max(first, least + half.shift), last), half.k: (least, min(most, high))})]
    # What queries see between them may be much more than what each of them sees.
    rows = [None] if half.b is None else [(row, row + 1) for row in range(*box[half.b])]
    step = half.seen.queries
    found = []
    for start in range(first - first % step, last, step):
        queries = max(first, start), min(last, start + step)
        for row in rows:
            low, high = half.keys(queries, row)
            keys = int(max(least, low)), min(most, high)
            if keys[0] < keys[1]:
                ranges = {half.q: queries, half.k: keys} | ({} if half.b is None or row is None else {half.b: row})
                found.append(_with(box, ranges))
    return found


def _with(box: Box, ranges: Mapping[int, Range]) -> Box:
    return tuple([ranges.get(dim, each) for dim, each in enumerate(box)])


def _keys(half: Half, box: Box) -> tuple[float, int]:
    return half.keys(box[half.q], None if half.b is None else box[half.b])


def may_leave_out(work: Work, factor: str, left_out: Range, spans: Mapping[str, Range | None]) -> bool:
    """Whether a node that needs all of `factor` makes the same without this range of it, of what it computes."""
    for operand, item in enumerate(work.inputs):
        for half, what in item.beyond.items():
            names = _factors(work, operand, half)
            if names is None or names[1] != factor:
                continue
            name, operator = work.rule.inputs[operand].name, work.operator
            harmless = name in (operator.ignores_masked if what == MASKED else operator.vanishes)
            queries, b = spans.get(names[0]), None if half.b is None else spans.get(names[2])
            if harmless and queries is not None:
                low, high = half.keys(queries, b)
                if left_out[0] >= high or left_out[1] <= low:
                    return True
    return False
