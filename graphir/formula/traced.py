"""Arrays that record what is done to them: what a kernel is handed in place of numbers.

A traced array is a term with an order of axes: each is a tuple of factors, the first the slowest, or None where its
length is 1. It does what NumPy's arrays do, as far as that makes an array of what is there: lengths are symbols, so
nothing may depend on how large a length or an element is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from graphir.formula.arithmetic import Arithmetic
from graphir.formula.kinds import KINDS, Kind, applied, double, is_weak, number
from graphir.formula.shapes import Axis, indexed, positions, reshaped, together
from graphir.formula.terms import Term, Terms, UntraceableError
from graphir.ir.types import DTYPES, FLOATS


class Extent(Arithmetic):
    """A length: of an axis, or several multiplied up. Its factors may be none, for a length of 1."""

    what = "a length"

    def __init__(self, terms: Terms, factors: tuple[str, ...], total: bool = False) -> None:
        self.terms, self.factors, self.total = terms, factors, total

    @property
    def term(self) -> Term:
        """The length as a number of the formula."""
        return self.terms.leaf("total" if self.total else "extent", self.factors, (), "int")

    @property
    def text(self) -> str:
        """As it is called in messages."""
        return "·".join(self.factors) or "1"

    def __mul__(self, other: Any) -> Any:
        if type(other) is Extent and not self.total and not other.total:
            return Extent(self.terms, (*self.factors, *other.factors))
        return self if type(other) is int and other == 1 else super().__mul__(other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        """A length without one of its factors, which is a given number."""
        if type(other) is int and str(other) in self.factors and not self.total:
            left = list(self.factors)
            left.remove(str(other))
            return Extent(self.terms, tuple(left))
        raise UntraceableError(
            f"it divides the length {self.text}, of which the signature does not say that it can be: "
            "write the axis as (2 c)"
        )

    def __eq__(self, other: object) -> Any:
        if type(other) is not Extent:
            raise UntraceableError(f"it asks whether the length {self.text} is a number")
        if (self.factors, self.total) != (other.factors, other.total):
            raise UntraceableError(f"it asks whether two lengths, {self.text} and {other.text}, are the same")
        return True

    def __ne__(self, other: object) -> Any:
        return not self == other

    def __lt__(self, other: Any) -> Any:
        raise UntraceableError(f"what it does depends on how long {self.text} is")

    __gt__ = __le__ = __ge__ = __lt__

    def __int__(self) -> int:
        raise UntraceableError(f"it makes a Python number of the length {self.text}")

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(int(self))

    def _with(self, operation: str, *operands: Any) -> Traced:
        return _computed(self.terms, operation, *operands)


class Traced(Arithmetic):
    """A term as an array; `weak` is what a kernel computes of lengths in Python, before it meets an array."""

    #: NumPy's own arrays and numbers leave operations with it to it.
    __array_ufunc__ = None

    def __init__(self, terms: Terms, term: Term, axes: Sequence[Axis], weak: bool = False) -> None:
        self.terms, self.term, self.axes, self.weak = terms, term, tuple(axes), weak
        factors = [factor for axis in self.axes for factor in axis or ()]
        if len(set(factors)) < len(factors):
            # All pairs of its places would be those where the two are the same.
            twice = next(each for each in factors if factors.count(each) > 1)
            raise UntraceableError(f"it has {twice} along two axes of one array")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise UntraceableError("it makes an array of NumPy's own, whatever the array module")

    # -- what it is -----------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.axes)

    @property
    def dtype(self) -> Kind:
        """The dtype."""
        return Kind(self.terms.dtype) if self.term.kind == "float" else KINDS[self.term.kind]

    @cached_property
    def shape(self) -> tuple[Any, ...]:
        """The lengths: symbols, and 1."""
        return tuple(1 if axis is None else Extent(self.terms, axis) for axis in self.axes)

    @property
    def size(self) -> Extent:
        """How many elements there are."""
        return Extent(self.terms, tuple(factor for axis in self.axes if axis is not None for factor in axis))

    def _with(self, operation: str, *operands: Any) -> Traced:
        return _computed(self.terms, operation, *operands)

    # -- other kinds of numbers -----------------------------------------------------------------------

    def astype(self, dtype: Any, copy: bool = True) -> Traced:
        """The same numbers as another dtype holds them: of `X.dtype` itself, or of a name."""
        mine = self.term.kind
        if type(dtype) is Kind:
            found = next((name for name, kind in KINDS.items() if kind is dtype), "float")
            if found == "int" and mine not in ("int", "bool"):
                raise UntraceableError("it makes integers of other numbers")
            return self._like(self.terms.convert(self.term, found))
        name = str(dtype)
        if name not in DTYPES:
            raise UntraceableError(f"it makes numbers of the dtype {name}")
        if name in FLOATS and self.term.kind == "float":
            return self._like(self.terms.convert(self.term, "float", name))
        kind = "wide" if name == "float64" else "float" if name in FLOATS else "bool" if name == "bool" else "int"
        if kind == "int" and (mine not in ("int", "bool") or name != "int64"):
            raise UntraceableError(f"it makes {name} of other numbers")
        if kind == "float" and mine in ("int", "wide") and name != self.terms.dtype:
            raise UntraceableError(f"it rounds to {name}, beside {self.terms.dtype}")
        return self._like(self.terms.convert(self.term, kind))

    def copy(self) -> Traced:
        """Itself: nothing is written in place."""
        return self

    def _like(self, term: Term) -> Traced:
        return Traced(self.terms, term, self.axes)

    # -- reductions -----------------------------------------------------------------------------------

    def sum(self, axis: Any = None, keepdims: bool = False) -> Traced:
        """Σ over one axis, several or all."""
        return reduced("sum", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Traced:
        """The largest."""
        return reduced("max", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Traced:
        """The least."""
        return reduced("min", self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Traced:
        """Σ over the number of terms."""
        gone = [self.axes[i] for i in positions(axis, self.ndim)]
        count = Extent(self.terms, tuple(factor for each in gone if each is not None for factor in each))
        # Of integers NumPy adds up floats.
        X = self._like(self.terms.convert(self.term, double(self.terms))) if self.term.kind == "int" else self
        made: Traced = X.sum(axis, keepdims) / count
        return made

    # -- how it lies ----------------------------------------------------------------------------------

    def transpose(self, *order: Any) -> Traced:
        """The axes in another order."""
        given = order[0] if len(order) == 1 and type(order[0]) in (tuple, list) else order
        places = positions(tuple(given), self.ndim) if given else list(reversed(range(self.ndim)))
        if len(places) != self.ndim:
            raise UntraceableError("it orders other axes than there are")
        return Traced(self.terms, self.term, [self.axes[i] for i in places])

    @property
    def T(self) -> Traced:  # noqa: N802
        """The axes in reverse order."""
        return self.transpose()

    def swapaxes(self, one: int, other: int) -> Traced:
        """Two axes exchanged."""
        axes = list(self.axes)
        axes[one], axes[other] = axes[other], axes[one]
        return Traced(self.terms, self.term, axes)

    def reshape(self, *shape: Any) -> Traced:
        """Axes split and merged between factors."""
        wanted = shape[0] if len(shape) == 1 and type(shape[0]) in (tuple, list) else shape
        return Traced(self.terms, self.term, reshaped(self.axes, list(wanted)))

    def __getitem__(self, index: Any) -> Traced:
        given = index if type(index) is tuple else (index,)
        return Traced(self.terms, *indexed(self.terms, self.term, self.axes, given))


# -- making arrays ------------------------------------------------------------------------------------------


def scalar(terms: Terms, value: Any) -> Traced:
    """A number, a length or an array as an array."""
    if type(value) is Traced:
        return value
    return Traced(terms, value.term if type(value) is Extent else number(terms, value), ())


def elementwise(terms: Terms, operation: str, *operands: Any) -> Traced:
    """An operation on arrays and numbers, widened to one shape."""
    given = [scalar(terms, each) for each in operands]
    made = applied(terms, operation, [each.term for each in given], [_is_weak(each) for each in operands])
    return Traced(terms, made, together([each.axes for each in given]))


def _computed(terms: Terms, operation: str, *operands: Any) -> Traced:
    """As Python's operator has it: what it makes of Python's numbers is one of them."""
    made = elementwise(terms, operation, *operands)
    return Traced(terms, made.term, made.axes, weak=all(map(_is_weak, operands)))


def _is_weak(operand: Any) -> bool:
    if type(operand) is Traced:
        return operand.weak
    # A length is a number of Python's to a kernel.
    return type(operand) is Extent or is_weak(operand)


def reduced(operation: str, X: Traced, axis: Any, keepdims: bool) -> Traced:
    """A sum, maximum or minimum over one axis, several or all."""
    gone = positions(axis, X.ndim)
    over = [factor for i in gone for factor in X.axes[i] or ()]
    axes = [None if i in gone else each for i, each in enumerate(X.axes) if keepdims or i not in gone]
    term = X.term
    absent = [factor for factor in over if factor not in term.factors]
    made = X.terms.reduce(operation, term, [factor for factor in over if factor in term.factors])
    if absent and operation == "sum":
        # What is the same everywhere is added up by multiplying it.
        multiplied: Traced = Traced(X.terms, made, axes) * Extent(X.terms, tuple(absent))
        return multiplied
    return Traced(X.terms, made, axes)
