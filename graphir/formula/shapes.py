"""Axes as factors: what indices and new shapes make of them.

A length is anything that has `factors`; 1 is the length of an axis that has none, and a number that of the factor whose
name it is: of an axis (2 c) a half, of (c 2) every other element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from graphir.formula.terms import Term, Terms, UntraceableError
from graphir.ir.signature import is_literal

#: The factors of an axis, the first the slowest; None for one of length 1.
Axis: TypeAlias = tuple[str, ...] | None


def indexed(terms: Terms, term: Term, axes: Sequence[Axis], index: tuple[Any, ...]) -> tuple[Term, list[Axis]]:
    """What an index takes of a term with these axes; UntraceableError where that is no such term."""
    given = list(index)
    fixed = sum(each is not None and each is not Ellipsis for each in given)
    dots = next((i for i, each in enumerate(given) if each is Ellipsis), None)
    rest = [slice(None)] * (len(axes) - fixed)
    given = [*given, *rest] if dots is None else [*given[:dots], *rest, *given[dots + 1 :]]
    made, position = list[Axis](), 0
    for each in given:
        if each is None:
            made.append(None)
            continue
        axis = axes[position]
        position += 1
        if type(each) is slice:
            term, kept = _sliced(terms, term, axis, each)
            made.append(kept)
        elif type(each) is int:
            term = _fixed(terms, term, axis, each)
        else:
            raise UntraceableError("it indexes an array by what is no number")
    return term, made


def _fixed(terms: Terms, term: Term, axis: Axis, index: int) -> Term:
    """One element of an axis: of one whose length is known any that it has, of another the first or the last."""
    if axis is None and index in (0, -1):
        return term
    if axis is not None and len(axis) == 1:
        (factor,) = axis
        if is_literal(factor) and -int(factor) <= index < int(factor):
            return terms.at(term, factor, terms.number(index % int(factor), "int"))
        if index == 0:
            return terms.at(term, factor, terms.number(0, "int"))
        if index == -1:
            last = terms.apply("add", terms.leaf("extent", axis, (), "int"), terms.number(-1, "int"))
            return terms.at(term, factor, last)
    raise UntraceableError(f"it takes the element {index} of an axis that may have none there")


def _sliced(terms: Terms, term: Term, axis: Axis, cut: slice) -> tuple[Term, Axis]:
    """Of an axis (2 c) a half, of (c 2) every other element; or all of it."""
    if cut.start is cut.stop is cut.step is None:
        return term, axis
    if axis is not None and len(axis) > 1:
        first, *inner = axis
        *outer, last = axis
        if is_literal(last) and cut.step == int(last) and cut.stop is None and cut.start in (None, *range(int(last))):
            return terms.at(term, last, terms.number(cut.start or 0, "int")), tuple(outer)
        if first == "2" and cut.step in (None, 1):
            half = tuple(inner)
            for i, ends in enumerate(((None, half), (half, None))):
                if (_factors_of(cut.start), _factors_of(cut.stop)) == ends:
                    return terms.at(term, first, terms.number(i, "int")), half
    raise UntraceableError("it takes a part of an axis that its signature does not name: write the axis as (2 c)")


def _factors_of(length: Any) -> tuple[str, ...] | None:
    """The factors of a length; None of what is none, or is not there."""
    found: tuple[str, ...] | None = getattr(length, "factors", None)
    return None if found is None or length.total else found


def reshaped(axes: Sequence[Axis], wanted: Sequence[Any]) -> list[Axis]:
    """The axes with other ends, in these lengths, of which one may be −1; UntraceableError where a factor is cut."""
    factors = [factor for axis in axes if axis is not None for factor in axis]
    open_at = next((i for i, each in enumerate(wanted) if type(each) is int and each == -1), None)
    before = _taken(factors, wanted[:open_at])
    if open_at is None:
        if sum(len(axis or ()) for axis in before) < len(factors):
            raise UntraceableError("it reshapes an array into one with fewer elements")
        return before
    left = factors[sum(len(axis or ()) for axis in before) :]
    behind = _taken(list(reversed(left)), list(reversed(wanted[open_at + 1 :])), backwards=True)
    middle = left[: len(left) - sum(len(axis or ()) for axis in behind)]
    return [*before, tuple(middle) or None, *reversed(behind)]


def _taken(factors: Sequence[str], lengths: Sequence[Any], backwards: bool = False) -> list[Axis]:
    """The axes of `factors` that have these lengths, from the first on."""
    rest, made = list(factors), list[Axis]()
    for length in lengths:
        if type(length) is int and length == 1:
            made.append(None)
            continue
        names = (str(length),) if type(length) is int else _factors_of(length)
        if names is None:
            raise UntraceableError("it reshapes an array to a length that is computed")
        order = tuple(reversed(names)) if backwards else names
        if tuple(rest[: len(order)]) != order:
            raise UntraceableError(
                f"it reshapes an array where a length of {'·'.join(names)} cuts through {', '.join(rest)}"
            )
        del rest[: len(order)]
        made.append(tuple(names) or None)
    return made


def together(shapes: Sequence[Sequence[Axis]]) -> tuple[Axis, ...]:
    """The axes of what arrays of these axes make together."""
    rank = max(map(len, shapes))
    made: list[Axis] = []
    for i in range(-rank, 0):
        found = {axes[i] for axes in shapes if len(axes) >= -i} - {None}
        if len(found) > 1:
            raise UntraceableError(f"it puts {' and '.join(sorted(map(str, found)))} side by side")
        made.append(found.pop() if found else None)
    return tuple(made)


def positions(axis: Any, ndim: int) -> list[int]:
    """The axes that are meant, of `ndim`, counted from the first: of all, one or several."""
    given = range(ndim) if axis is None else axis if type(axis) in (tuple, list) else (axis,)
    if not all(type(i) is int and -ndim <= i < ndim for i in given) or len({i % ndim for i in given}) < len(given):
        raise UntraceableError("it names axes that there are not, or one twice")
    return [i % ndim for i in given]
