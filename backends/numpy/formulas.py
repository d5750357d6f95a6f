"""What is recorded for an operator that has a formula: its steps as NumPy calls, on one tile.

Arrays are seen with an axis for each factor of the formula, of length 1 where there is none, so that NumPy widens them.
What a result lies in is written as soon as nobody needs what is there; until then, as where a result lies in an operand
that is read later, steps lie in scratch memory. So a result is right wherever it may lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, Rule
from graphir.backends.numpy import calls
from graphir.backends.numpy.calls import maximum, minimum
from graphir.backends.numpy.guarded import guarded
from graphir.backends.numpy.known import Known, Region, region_of
from graphir.backends.numpy.masks import can_record_mask, record_mask
from graphir.backends.numpy.recipe import (
    LAST,
    UFUNCS,
    Recipe,
    is_masked_number,
    is_simple,
    is_view,
    last_reads,
    parts_of,
    recipe_of,
    whole_of,
)
from graphir.backends.numpy.shared import full_row, number, record_normal
from graphir.backends.numpy.sums import record_extreme, record_sum
from graphir.backends.numpy.tile_arrays import TileArrays
from graphir.backends.rows.scalars import write_scalars
from graphir.formula.terms import Term
from graphir.formula.trace import Formula
from graphir.ir.operator import Place
from graphir.ir.signature import is_literal

#: How many columns are masked in vain rather than left out: whole rows are one loop, parts of them a loop for each.
_SPARED = 256


@lru_cache(maxsize=4096)
def rule_of(formula: Formula) -> Rule:
    """The rule of an operator that has this formula and no rule of its own."""
    recipe = recipe_of(formula)

    def record(
        call: Calls,
        operands: Mapping[str, Array],
        results: Mapping[str, Array | None],
        place: Place,
        attributes: Mapping[str, Any],
    ) -> bool:
        return _record(recipe, call, operands, results, place, attributes)

    is_placed = any(term.operation == "start" for term in formula.all_terms)
    return Rule(record, recipe.inplace, formula, is_placed)


def _record(
    recipe: Recipe,
    call: Calls,
    operands: Mapping[str, Array],
    results: Mapping[str, Array | None],
    place: Place,
    attributes: Mapping[str, Any],
) -> bool:
    """Records the steps; False, and nothing, where the reference kernel has to do it."""
    wanted = {name: array for name, array in results.items() if array is not None}
    if any(array.size == 0 or array.dtype == object for array in (*operands.values(), *wanted.values())):
        return False
    arrays = TileArrays.of(recipe.formula.rule, operands, wanted, place)
    if arrays is None:
        return False
    if recipe.guard is not None and any(
        np.may_share_memory(array, operand) and other != recipe.old[name].detail
        for name, array in wanted.items()
        for other, operand in operands.items()
    ):
        recipe = recipe_of(recipe.formula, guarded=False)
    steps = recipe.steps(wanted)
    if not all(_can_be_done(step, arrays) for step in steps):
        return False
    if recipe.guard is not None:
        pairs = [(array, operands[recipe.old[name].detail]) for name, array in wanted.items()]
        call = guarded(call, operands[recipe.guard.detail], pairs)
    _Tile(recipe, steps, call, arrays, attributes).record()
    return True


def _can_be_done(step: Term, arrays: TileArrays) -> bool:
    if step.operation == "sum" and step.kind == "float":
        return arrays.dtype.itemsize >= 4  # what has 16 bits is no place to add up in
    return step.operation != "keep" or can_record_mask(arrays.place.sizes[factor] for factor in step.detail[0])


class _Tile:
    """Records the steps of one tile, each into memory that is free by then."""

    def __init__(
        self, recipe: Recipe, steps: tuple[Term, ...], call: Calls, arrays: TileArrays, attributes: Mapping[str, Any]
    ) -> None:
        self.recipe, self.steps, self.call, self.arrays, self.attributes = recipe, steps, call, arrays, attributes
        self.known = Known(call, arrays.order, arrays.lengths, arrays.place, arrays.dtype)
        self.roots: dict[Term, list[str]] = {}
        for name in arrays.results:
            self.roots.setdefault(recipe.results[name], []).append(name)
        #: The array of each term that has one.
        self._made: dict[Term, Array] = {}
        #: In which memory each step lies that is read later: scratch, or a result's.
        self._lent: dict[Term, Array] = {}
        self._free: list[Array] = []
        self._last = last_reads(steps, frozenset(self.roots))
        self._operand_last = {term.detail: until for term, until in self._last.items() if term.operation == "operand"}
        #: What each result's memory holds, and the operands that lie in it, with whether they are the very same array.
        self._holds: dict[str, Term] = {}
        self._shared = {name: list(self._sharing(array)) for name, array in arrays.results.items()}
        #: Up to which step each result's memory may be lent.
        self._room = {name: self._room_of(recipe.results[name]) for name in arrays.results}

    def record(self) -> None:
        """Records every step, and copies what does not lie where it belongs."""
        self._prepare()
        for position, term in enumerate(self.steps):
            target = self._target(term, position)
            self._made[term] = self._compute(term, target)
            self._let_go(term, position)
        self._rescue()
        for root, names in self.roots.items():
            made = self._value(root)
            for name in names:
                # An operand that lies there already is copied onto itself: who proves a program wants to see it made.
                if made is not self.arrays.results[name] or root.operation == "operand":
                    self.call(np.copyto, self.arrays.results[name], made)

    def _rescue(self) -> None:
        """Copies operands that are results, or have one as their part, and lie where another is to be written."""
        for root, names in self.roots.items():
            others = [each for name, shared in self._shared.items() if name not in names for each, _ in shared]
            whole = whole_of(root)
            if whole.operation == "operand" and whole.detail in others:
                array = self._value(root)
                self._made[root] = self.call.scratch(array.shape, array.dtype)
                self.call(np.copyto, self._made[root], array)

    def _prepare(self) -> None:
        """What is computed once a run."""
        terms = self.recipe.scalar_terms
        if any(term in self._last for term in terms):
            scalars = self.recipe.scalars
            given = [self.arrays.given[name] for name in scalars.operands]
            numbers = self.call.prepared((len(terms),), self.arrays.dtype, write_scalars, scalars, *given)
            self._made.update((term, numbers[i, ...]) for i, term in enumerate(terms))

    # -- who is read until when, and where what is made may lie ----------------------------------------

    def _sharing(self, result: Array) -> Iterator[tuple[str, bool]]:
        for name, operand in self.arrays.operands.items():
            if np.may_share_memory(result, operand):
                yield name, _is_same(result, operand)

    def _target(self, term: Term, position: int) -> Array | None:
        """Where a step's array is to lie."""
        if is_view(term):
            return None
        shape, dtype, simple = self.arrays.shape(term), self.arrays.dtype_of(term), is_simple(term)
        for name in (*self.roots.get(term, ()), *self._lenders(term)):
            result = self.arrays.results[name]
            if result.shape == shape and result.dtype == dtype and self._is_free(name, position, simple):
                belongs = name in self.roots.get(term, ())
                reused = None if belongs else self._reused(term, position, shape, dtype, simple)
                if reused is not None:
                    return reused
                self._holds[name], self._lent[term] = term, result
                return result
        reused = self._reused(term, position, shape, dtype, simple)
        if reused is not None:
            return reused
        self._lent[term] = made = self._scratch(shape, dtype)
        return made

    def _scratch(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        for i, buffer in enumerate(self._free):
            if buffer.shape == shape and buffer.dtype == dtype:
                return self._free.pop(i)
        return self.call.scratch(shape, dtype)

    def _spare(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory that a step needs only while it is at work."""
        made = self._scratch(shape, dtype)
        self._free.append(made)
        return made

    def _room_of(self, root: Term) -> int:
        """Up to which step what a result's memory holds may be read: until what belongs there is made, or copied."""
        made = root in self.steps and not is_view(root)
        return self.steps.index(root) - (not is_simple(root)) if made else LAST - 1

    def _lenders(self, term: Term) -> list[str]:
        """The results in whose memory a term may lie until then; in none if it is a result, or has one as its part."""
        return [name for name, until in self._room.items() if self._last[term] <= until]

    def _reused(
        self, term: Term, position: int, shape: tuple[int, ...], dtype: np.dtype[Any], simple: bool
    ) -> Array | None:
        """The memory of an operand of a step that nobody else reads."""
        if not simple:
            return None
        for each in parts_of(term):
            buffer = self._lent.get(each)
            if buffer is None or self._last[each] > position or buffer.shape != shape or buffer.dtype != dtype:
                continue
            if not {name for name, held in self._holds.items() if held is each} <= {*self._lenders(term)}:
                continue
            del self._lent[each]
            self._lent[term] = buffer
            for name, held in self._holds.items():
                if held is each:
                    self._holds[name] = term
            return buffer
        return None

    def _is_free(self, name: str, position: int, simple: bool) -> bool:
        """Whether a result's memory may be written by the step at `position`, element by element if it is `simple`."""
        held = self._holds.get(name)
        if held is not None and (self._last[held] > position or (self._last[held] == position and not simple)):
            return False
        for operand, same in self._shared[name]:
            until = self._operand_last.get(operand, -1)
            if until > position or (until == position and not (simple and same)):
                return False
        return True

    def _let_go(self, term: Term, position: int) -> None:
        for each in parts_of(term):
            if self._last[each] == position and each in self._lent:
                buffer = self._lent.pop(each)
                if not any(buffer is result for result in self.arrays.results.values()):
                    self._free.append(buffer)

    # -- values ---------------------------------------------------------------------------------------

    def _value(self, term: Term) -> Array:
        found = self._made.get(term)
        if found is None:
            found = self.arrays.operands[term.detail] if term.operation == "operand" else self.known.array(term)
            self._made[term] = found
        return found

    # -- steps ----------------------------------------------------------------------------------------

    def _compute(self, term: Term, target: Array | None) -> Array:
        operation = term.operation
        if target is None:
            return self._viewed(term)
        if operation in UFUNCS:
            self._apply(term, target)
        elif operation == "where":
            self._choose(term, target)
        elif operation == "sum":
            parts = [self._value(each) for each in parts_of(term)]
            record_sum(self.call, self.arrays, term, parts, target, self._spare)
        elif operation in ("max", "min"):
            X = np.broadcast_to(self._value(term.operands[0]), self.arrays.shape(term.operands[0]))
            record_extreme(self.call, operation, X, self.arrays.axes(term.detail), target)
        elif operation == "at":
            axis, X = self._along(term)
            self.call(calls.take_along, X, self._value(term.operands[1]), axis, target)
        elif operation == "keep":
            self._draw(term, target)
        elif operation == "normal":
            X = np.broadcast_to(self._value(term.operands[0]), target.shape)
            record_normal(self.call, X, target)
        elif operation == "erf":
            self.call(calls.erf, self._value(term.operands[0]), target)
        elif operation == "convert" and term.kind == "bool":
            X = self._value(term.operands[0])
            self.call(np.not_equal, X, number(0, X.dtype), target)
        else:
            assert operation in ("convert", "round"), f"NumPy has no {operation}"
            self.call(np.copyto, target, self._value(term.operands[0]))
        return target

    def _viewed(self, term: Term) -> Array:
        """One place along a factor."""
        axis, array = self._along(term)
        place = term.operands[1].detail % self.arrays.lengths[term.detail]
        return array[tuple(slice(place, place + 1) if i == axis else slice(None) for i in range(array.ndim))]

    def _along(self, term: Term) -> tuple[int, Array]:
        """The axis along which one place is meant, and what is picked from, with all its places, alike or not."""
        axis, array = self.arrays.order.index(term.detail), self._value(term.operands[0])
        shape = [*array.shape]
        shape[axis] = self.arrays.lengths[term.detail]
        return axis, np.broadcast_to(array, shape)

    def _apply(self, term: Term, target: Array) -> None:
        known = self.recipe.known
        if term.operation == "multiply":
            for X, condition in (term.operands, term.operands[::-1]):
                if condition.kind == "bool" and condition in known and condition.factors:
                    self._mask(X, condition, target, np.multiply, 1.0, 0.0)
                    return
        given = [self._value(each) for each in term.operands]
        if term.operation in ("maximum", "minimum"):
            # Several times slower with a single number.
            given = [full_row(self.call, each.detail, target) if each.operation == "number" else array
                     for each, array in zip(term.operands, given, strict=True)]  # fmt: skip
            self.call(maximum if term.operation == "maximum" else minimum, *given, target)
            return
        self.call(_UFUNCS[term.operation], *given, target)

    def _choose(self, term: Term, target: Array) -> None:
        condition, X, Y = term.operands
        if is_masked_number(Y):
            if condition in self.recipe.known:
                self._mask(X, condition, target, minimum, math.inf, Y.detail)
            else:
                self._cut(X, condition, Y.detail, target)
            return
        if condition in self.recipe.known and all(map(is_literal, condition.factors)) and len(condition.factors) == 1:
            self._interleave(term, target)
            return
        self.call(calls.choose, *map(self._value, term.operands), target)

    def _mask(self, X: Term, condition: Term, target: Array, function: Any, seen: float, hidden: float) -> None:
        """X, and where a condition of the place does not hold everywhere, `function` of it and `seen` or `hidden`."""
        array, width = self._value(X), self.arrays.lengths[self.arrays.order[-1]]
        region = region_of(condition, self.arrays.order, self.arrays.lengths, self.arrays.place)
        few = region.start < region.stop and width - (region.stop - region.start) <= _SPARED
        # All of an operand is written: who proves a program does not know that the rest is right already.
        if few or (X.operation == "operand" and array is target):
            table = self.known.table(condition, Region(0, width), seen, hidden, target.dtype)
            self.call(function, array, table, target)
            return
        if array is not target:
            self.call(np.copyto, target, array)
        if region.start < region.stop:
            table = self.known.table(condition, region, seen, hidden, target.dtype)
            part = target[..., region.start : region.stop]
            self.call(function, part, table, part)

    def _cut(self, X: Term, condition: Term, hidden: float, target: Array) -> None:
        """X where a condition holds, and the masked score elsewhere: the smaller of X and a bound."""
        array, holds = self._value(X), self._value(condition)
        bound = self.call.scratch(holds.shape, target.dtype)
        self.call(calls.upper_bound, holds, number(hidden, target.dtype), bound)
        self.call(minimum, array, bound, target)

    def _interleave(self, term: Term, target: Array) -> None:
        """One of two along a factor of few places, which is known for each of them."""
        condition, *either = term.operands
        (factor,) = condition.factors
        axis = self.arrays.order.index(factor)
        holds = self.known.array(condition).reshape(-1)
        for place in range(self.arrays.lengths[factor]):
            index = tuple(slice(place, place + 1) if i == axis else slice(None) for i in range(target.ndim))
            array = self._value(either[0] if holds[place] else either[1])
            self.call(np.copyto, target[index], array[index] if array.shape[axis] > 1 else array)

    def _draw(self, term: Term, target: Array) -> None:
        factors, _ = term.detail
        seed, step = (self.arrays.given[each.detail] for each in term.operands[:2])
        positions = [self.arrays.order.index(factor) for factor in factors]
        others = [i for i in range(target.ndim) if i not in positions]
        index: tuple[Any, ...] = (*(slice(None) for _ in positions), *(0 for _ in others), ...)
        mask = target.transpose([*positions, *others])[index]
        self.call.anew(record_mask, self.arrays.place, self.attributes, mask, seed, step, term.detail)


_UFUNCS = {name: getattr(np, name) for name in UFUNCS}


def _is_same(one: Array, other: Array) -> bool:
    return (
        one.shape == other.shape
        and one.strides == other.strides
        and one.dtype == other.dtype
        and one.__array_interface__["data"][0] == other.__array_interface__["data"][0]
    )
