"""The array module that goes with traced arrays: what a kernel finds under `xp` while it is traced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphir.formula.kinds import double, is_weak
from graphir.formula.opaque import Opaque
from graphir.formula.shapes import Axis, positions, together
from graphir.formula.terms import Terms, UntraceableError
from graphir.formula.traced import Extent, Traced, elementwise, reduced, scalar

#: NumPy's functions of elements, by the name of the operation that they are.
_ELEMENTWISE = {
    **{name: name for name in ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "remainder")},
    **{name: name for name in ("exp", "log", "sqrt", "tanh", "sin", "cos", "negative", "absolute", "isfinite")},
    **{name: name for name in ("equal", "not_equal", "less", "less_equal")},
    **{name: name for name in ("logical_and", "logical_or", "logical_not")},
    "abs": "absolute",
    "mod": "remainder",
    "true_divide": "divide",
}
_SWAPPED = {"greater": "less", "greater_equal": "less_equal"}
_REDUCTIONS = ("sum", "max", "min")


class TracingModule(Opaque):
    """As NumPy, of traced arrays. What it lacks has no formula: UntraceableError says so."""

    what = "the array module"
    pi, e, inf, nan, newaxis = math.pi, math.e, math.inf, math.nan, None
    float32, float64, int32, int64, bool_ = "float32", "float64", "int32", "int64", "bool"

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def __getattr__(self, name: str) -> Any:
        if name in _ELEMENTWISE:
            return lambda *operands: elementwise(self.terms, _ELEMENTWISE[name], *operands)
        if name in _SWAPPED:
            return lambda X, Y: elementwise(self.terms, _SWAPPED[name], Y, X)
        if name in _REDUCTIONS:
            return lambda X, axis=None, keepdims=False: reduced(name, X, axis, keepdims)
        raise UntraceableError(f"it calls xp.{name}, which no formula has")

    # -- making arrays --------------------------------------------------------------------------------

    def asarray(self, value: Any, dtype: Any = None) -> Traced:
        """A number or an array as an array."""
        made = scalar(self.terms, value)
        if dtype is None and type(value) is not Traced and is_weak(value) and made.term.kind == "float":
            return Traced(self.terms, self.terms.convert(made.term, double(self.terms)), ())
        return made if dtype is None else made.astype(dtype)

    array = asarray

    def arange(self, count: Any, dtype: Any = None) -> Traced:
        """0, 1, … along the axis whose length is `count`."""
        if type(count) is not Extent or count.total or len(count.factors) != 1:
            raise UntraceableError("it numbers the places of what is no single axis")
        made = Traced(self.terms, self.terms.leaf("index", count.factors[0], count.factors, "int"), [count.factors])
        return made if dtype is None else made.astype(dtype)

    def full(self, shape: Any, value: Any, dtype: Any = None) -> Traced:
        """A number everywhere."""
        return self.broadcast_to(self.asarray(value, dtype), shape)

    def zeros(self, shape: Any, dtype: Any = None) -> Traced:
        """0 everywhere."""
        return self.full(shape, 0.0, dtype)

    def ones(self, shape: Any, dtype: Any = None) -> Traced:
        """1 everywhere."""
        return self.full(shape, 1.0, dtype)

    def full_like(self, X: Traced, value: float) -> Traced:
        """A number in each place of X."""
        return self._everywhere(value, X)

    def zeros_like(self, X: Traced) -> Traced:
        """0 in each place of X."""
        return self._everywhere(0.0, X)

    def ones_like(self, X: Traced) -> Traced:
        """1 in each place of X."""
        return self._everywhere(1.0, X)

    def _everywhere(self, value: float, X: Traced) -> Traced:
        kind = X.term.kind
        return Traced(self.terms, self.terms.convert(self.terms.number(value), kind), X.axes)

    # -- elements -------------------------------------------------------------------------------------

    def where(self, condition: Any, X: Any, Y: Any) -> Traced:
        """X where the condition holds, Y elsewhere."""
        given = [scalar(self.terms, each) for each in (condition, X, Y)]
        if given[0].term.kind != "bool":
            raise UntraceableError("it chooses by what is no boolean: say X != 0")
        kinds = {each.term.kind for each in given[1:]}
        # As the larger one's: the kind that the two have together.
        kind = "bool" if kinds == {"bool"} else elementwise(self.terms, "maximum", X, Y).term.kind
        one, other = (self.terms.convert(each.term, kind) for each in given[1:])
        axes = together([each.axes for each in given])
        return Traced(self.terms, self.terms.apply("where", given[0].term, one, other), axes)

    def clip(self, X: Traced, low: Any, high: Any) -> Traced:
        """X, where it lies within the two bounds, and the nearer one elsewhere; NaN stays."""
        return elementwise(self.terms, "minimum", elementwise(self.terms, "maximum", X, low), high)

    def square(self, X: Traced) -> Traced:
        """X²."""
        return elementwise(self.terms, "multiply", X, X)

    def reciprocal(self, X: Traced) -> Traced:
        """1 / X."""
        return elementwise(self.terms, "divide", 1.0, X)

    def mean(self, X: Traced, axis: Any = None, keepdims: bool = False) -> Traced:
        """Σ over the number of terms."""
        return X.mean(axis, keepdims)

    def take_along_axis(self, X: Traced, indices: Traced, axis: int) -> Traced:
        """Of each row of X the element of which `indices`, one to a row, has the number."""
        (place,) = positions(axis, X.ndim)
        factors = X.axes[place]
        if factors is None or len(factors) != 1 or indices.axes[axis] is not None:
            raise UntraceableError("it takes several elements along an axis")
        axes = [None if i == place else each for i, each in enumerate(X.axes)]
        made = together([axes, indices.axes])
        return Traced(self.terms, self.terms.at(X.term, factors[0], indices.term), made)

    # -- sums of products -----------------------------------------------------------------------------

    def einsum(self, pattern: str, *operands: Traced) -> Traced:
        """A sum of products over the letters that the result lacks, with dots for what all have in common."""
        left, arrow, right = pattern.replace(" ", "").partition("->")
        if not arrow or "..." in right[1:] or ("..." in left) != ("..." in right):
            raise UntraceableError(f"it sums products by the pattern {pattern}: say what is left, dots first")
        known: dict[str, Axis] = {}
        dots: list[tuple[Axis, ...]] = []
        product: Traced | None = None
        for letters, X in zip(left.split(","), operands, strict=True):
            named = letters.replace("...", "")
            if "..." in letters:
                if not letters.startswith("..."):
                    raise UntraceableError(f"it sums products by the pattern {pattern}")
                dots.append(X.axes[: X.ndim - len(named)])
            for letter, axis in zip(named, X.axes[X.ndim - len(named) :], strict=True):
                if known.setdefault(letter, axis) != axis:
                    raise UntraceableError(f"it sums products by the pattern {pattern} over axes of several lengths")
            plain = Traced(self.terms, X.term, ())
            product = plain if product is None else product * plain
        assert product is not None
        summed = [factor for axis in known.values() for factor in axis or ()]
        if len(set(summed)) < len(summed) or any(
            len(set(each)) < len(each) for each in left.replace(".", "").split(",")
        ):
            raise UntraceableError(f"it sums products by the pattern {pattern} over one axis by two letters")
        leading = together(dots) if dots else ()
        over = [factor for letter, axis in known.items() if letter not in right for factor in axis or ()]
        axes = [*(leading if right.startswith("...") else ()), *(known[each] for each in right.replace("...", ""))]
        return Traced(self.terms, self.terms.reduce("sum", product.term, over), axes)

    # -- shapes ---------------------------------------------------------------------------------------

    def broadcast_to(self, X: Any, shape: Sequence[Any]) -> Traced:
        """X with the same elements along further axes."""
        made = scalar(self.terms, X)
        axes = [_axis(length) for length in (shape if type(shape) in (tuple, list) else (shape,))]
        if together([made.axes, axes]) != tuple(axes):
            raise UntraceableError("it widens an array to a shape that it does not fit")
        return Traced(self.terms, made.term, axes)

    def reshape(self, X: Traced, shape: Any) -> Traced:
        """Axes split and merged between factors."""
        return X.reshape(shape)

    def transpose(self, X: Traced, axes: Any = None) -> Traced:
        """The axes in another order."""
        return X.transpose(axes) if axes is not None else X.T

    def swapaxes(self, X: Traced, one: int, other: int) -> Traced:
        """Two axes exchanged."""
        return X.swapaxes(one, other)

    def expand_dims(self, X: Traced, axis: int) -> Traced:
        """A new axis of length 1."""
        axes = list(X.axes)
        for place in sorted(positions(axis, X.ndim + 1)):
            axes.insert(place, None)
        return Traced(self.terms, X.term, axes)

    def ascontiguousarray(self, X: Traced) -> Traced:
        """X: a formula says nothing of memory."""
        return X

    def concatenate(self, parts: Sequence[Traced], axis: int = 0) -> Traced:
        """Arrays one behind the other: an axis (2 c) of two of c."""
        return self._side_by_side(parts, axis)

    def stack(self, parts: Sequence[Traced], axis: int = 0) -> Traced:
        """Arrays along a new axis, of as many places as there are arrays."""
        (place,) = positions(axis, parts[0].ndim + 1)
        return self._side_by_side([self.expand_dims(each, place) for each in parts], place)

    def split(self, X: Traced, parts: int, axis: int = 0) -> list[Traced]:
        """Equal parts of an axis: of (2 c), two of c."""
        (place,) = positions(axis, X.ndim)
        first, *inner = X.axes[place] or ("",)
        if type(parts) is not int or first != str(parts) or not inner:
            raise UntraceableError(f"it splits an axis that its signature does not name: write the axis as ({parts} c)")
        axes = [*X.axes[:place], tuple(inner), *X.axes[place + 1 :]]
        terms = self.terms
        return [Traced(terms, terms.at(X.term, first, terms.number(i, "int")), axes) for i in range(parts)]

    def _side_by_side(self, parts: Sequence[Traced], axis: int) -> Traced:
        count = str(len(parts))
        if len({each.axes for each in parts}) > 1:
            raise UntraceableError("it puts arrays of several shapes side by side")
        if any(count in each.term.factors or any(count in (axis or ()) for axis in each.axes) for each in parts):
            raise UntraceableError(f"it has two axes of {count}")
        axes = list(parts[0].axes)
        (place,) = positions(axis, len(axes))
        axes[place] = (count, *(axes[place] or ()))
        which = Traced(self.terms, self.terms.leaf("index", count, (count,), "int"), ())
        made = Traced(self.terms, parts[-1].term, ())
        for i, each in reversed(list(enumerate(parts[:-1]))):
            made = self.where(which == i, Traced(self.terms, each.term, ()), made)
        return Traced(self.terms, made.term, axes)

    # -- what is not made of these --------------------------------------------------------------------

    def erf(self, X: Traced) -> Traced:
        """The error function."""
        return elementwise(self.terms, "erf", X)

    def keep_mask(
        self, starts: Sequence[Traced], sizes: Any, shape: Any, seed: Any, step: Any, key: Any, p: float
    ) -> Traced:
        """Which elements a dropout mask keeps; see `graphir.operators.dropout`."""
        leaves = [each.term.operation if type(each) is Traced else "" for each in (seed, step, key)]
        if leaves != ["operand", "operand", "attribute"]:
            raise UntraceableError("it draws a mask by other than its operands seed and step and its key")
        factors = tuple(each.term.detail for each in starts)
        return self.primitive("keep", (seed, step, key), (factors, p), shape, "bool")

    def primitive(self, name: str, operands: Sequence[Any], detail: Any, shape: Sequence[Any], kind: str) -> Traced:
        """What a machine does in a way of its own: `name` of `operands`, with `detail`, an array of `shape`."""
        given = tuple(scalar(self.terms, each).term for each in operands)
        axes = [_axis(length) for length in shape]
        factors = frozenset(factor for axis in axes for factor in axis or ()).union(*(each.factors for each in given))
        return Traced(self.terms, self.terms.primitive(name, given, detail, factors, kind), axes)


def _axis(length: Any) -> Axis:
    if type(length) is Extent and not length.total:
        return length.factors or None
    if type(length) is int:
        return None if length == 1 else (str(length),)
    raise UntraceableError("it makes an array of a length that is computed")
