"""Arrays that record what is done to them: what a kernel is handed in place of numbers.

A traced array is a term with an order of axes: each is a tuple of factors, the first the slowest, or None where its
length is 1. It does what NumPy's arrays do, as far as that makes an array of what is there: lengths are symbols, so
nothing may depend on how large a length or an element is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphir.formula.shapes import Axis, indexed, reshaped
from graphir.formula.terms import ARITHMETIC, COMPARISONS, Term, Terms, UntraceableError
from graphir.ir.types import DTYPES, FLOATS


@dataclass(frozen=True)
class Kind:
    """What a kernel sees as a dtype."""

    name: str

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return DTYPES[self.name]

    def type(self, value: Any) -> Any:
        """A number of this dtype: `X.dtype.type(2)`."""
        if isinstance(value, (Traced, Extent)):
            raise UntraceableError("it makes a single number of an array")
        if self.name not in FLOATS and value != int(value):
            raise UntraceableError(f"it rounds {value} to {self.name}")
        return value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Kind):
            return other.name == self.name
        if self.name not in FLOATS:
            raise UntraceableError("it asks for the dtype of integers or booleans, which a formula does not know")
        # Of NumPy's types the name, of its dtypes, too.
        return self.name == getattr(other, "__name__", getattr(other, "name", other))

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name


#: Of each kind of term the dtype that a kernel sees; of floats it is that of the operands.
_KINDS = {"wide": Kind("float64"), "int": Kind("int64"), "bool": Kind("bool")}


class Extent:
    """A length: of an axis, or several multiplied up. Its factors may be none, for a length of 1."""

    def __init__(self, terms: Terms, factors: tuple[str, ...], total: bool = False) -> None:
        self.terms, self.factors, self.total = terms, factors, total

    @property
    def term(self) -> Term:
        """The length as a number of the formula."""
        return self.terms.leaf("total" if self.total else "extent", self.factors, (), "int")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Extent):
            if (self.factors, self.total) == (other.factors, other.total):
                return True
            raise UntraceableError(f"it asks whether two lengths, {self} and {other}, are the same")
        raise UntraceableError(f"it asks whether {self} is {other}")

    def __hash__(self) -> int:
        return hash((self.factors, self.total))

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Extent) and not self.total and not other.total:
            return Extent(self.terms, (*self.factors, *other.factors))
        if other == 1 and isinstance(other, int):
            return self
        return scalar(self.terms, self) * other

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        """A length without one of its factors, which is a given number."""
        if isinstance(other, int) and str(other) in self.factors and not self.total:
            left = list(self.factors)
            left.remove(str(other))
            return Extent(self.terms, tuple(left))
        raise UntraceableError(
            f"it divides the length {self}, of which the signature does not say that it can be: write the axis as (2 c)"
        )

    def __add__(self, other: Any) -> Any:
        return scalar(self.terms, self) + other

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return scalar(self.terms, self) - other

    def __rsub__(self, other: Any) -> Any:
        return other - scalar(self.terms, self)

    def __truediv__(self, other: Any) -> Any:
        return scalar(self.terms, self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / scalar(self.terms, self)

    def __lt__(self, other: Any) -> Any:
        raise UntraceableError(f"what it does depends on how long {self} is")

    __gt__ = __le__ = __ge__ = __lt__

    def __int__(self) -> int:
        raise UntraceableError(f"it makes a Python number of the length {self}")

    __index__ = __bool__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __str__(self) -> str:
        return "·".join(self.factors) or "1"


class Traced:
    """A term as an array."""

    #: NumPy's own arrays and numbers leave operations with it to it.
    __array_ufunc__ = None

    def __init__(self, terms: Terms, term: Term, axes: Sequence[Axis]) -> None:
        self.terms, self.term, self.axes = terms, term, tuple(axes)

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
        return Kind(self.terms.dtype) if self.term.kind == "float" else _KINDS[self.term.kind]

    @cached_property
    def shape(self) -> tuple[Any, ...]:
        """The lengths: symbols, and 1."""
        return tuple(1 if axis is None else Extent(self.terms, axis) for axis in self.axes)

    @property
    def size(self) -> Extent:
        """How many elements there are."""
        return Extent(self.terms, tuple(factor for axis in self.axes if axis is not None for factor in axis))

    # -- arithmetic -----------------------------------------------------------------------------------

    def _with(self, operation: str, other: Any, swapped: bool = False) -> Traced:
        operands = (other, self) if swapped else (self, other)
        return elementwise(self.terms, operation, *operands)

    def __add__(self, other: Any) -> Traced:
        return self._with("add", other)

    def __radd__(self, other: Any) -> Traced:
        return self._with("add", other, True)

    def __sub__(self, other: Any) -> Traced:
        return self._with("subtract", other)

    def __rsub__(self, other: Any) -> Traced:
        return self._with("subtract", other, True)

    def __mul__(self, other: Any) -> Traced:
        return self._with("multiply", other)

    def __rmul__(self, other: Any) -> Traced:
        return self._with("multiply", other, True)

    def __truediv__(self, other: Any) -> Traced:
        return self._with("divide", other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self._with("divide", other, True)

    def __pow__(self, other: Any) -> Traced:
        return self._with("power", other)

    def __rpow__(self, other: Any) -> Traced:
        return self._with("power", other, True)

    def __mod__(self, other: Any) -> Traced:
        return self._with("remainder", other)

    def __neg__(self) -> Traced:
        return elementwise(self.terms, "negative", self)

    def __abs__(self) -> Traced:
        return elementwise(self.terms, "absolute", self)

    def __lt__(self, other: Any) -> Traced:
        return self._with("less", other)

    def __le__(self, other: Any) -> Traced:
        return self._with("less_equal", other)

    def __gt__(self, other: Any) -> Traced:
        return self._with("less", other, True)

    def __ge__(self, other: Any) -> Traced:
        return self._with("less_equal", other, True)

    def __eq__(self, other: object) -> Traced:  # type: ignore[override]
        return self._with("equal", other)

    def __ne__(self, other: object) -> Traced:  # type: ignore[override]
        return self._with("not_equal", other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Any) -> Traced:
        return self._with("logical_and", other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Traced:
        return self._with("logical_or", other)

    __ror__ = __or__

    def __invert__(self) -> Traced:
        return elementwise(self.terms, "logical_not", self)

    def __matmul__(self, other: Any) -> Traced:
        raise UntraceableError("it multiplies matrices, which is for an operator of its own")

    # -- other kinds of numbers -----------------------------------------------------------------------

    def astype(self, dtype: Any, copy: bool = True) -> Traced:
        """The same numbers as another dtype holds them: of `X.dtype` itself, or of a name."""
        mine = self.term.kind
        if isinstance(dtype, Kind):
            found = next((name for name, kind in _KINDS.items() if kind is dtype), "float")
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
        gone = [self.axes[i] for i in _positions(axis, self.ndim)]
        count = Extent(self.terms, tuple(factor for each in gone if each is not None for factor in each))
        return self.sum(axis, keepdims) / count

    # -- how it lies ----------------------------------------------------------------------------------

    def transpose(self, *order: Any) -> Traced:
        """The axes in another order."""
        given = order[0] if len(order) == 1 and isinstance(order[0], (tuple, list)) else order
        return Traced(self.terms, self.term, [self.axes[i] for i in given or reversed(range(self.ndim))])

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
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return Traced(self.terms, self.term, reshaped(self.axes, list(wanted)))

    def __getitem__(self, index: Any) -> Traced:
        given = index if isinstance(index, tuple) else (index,)
        return Traced(self.terms, *indexed(self.terms, self.term, self.axes, given))

    # -- what no formula does -------------------------------------------------------------------------

    def __setitem__(self, index: Any, value: Any) -> None:
        raise UntraceableError("it writes into an array in place")

    def _in_place(self, other: Any) -> Traced:
        # Another name of the same array would have to change with it.
        raise UntraceableError("it changes an array in place; say Y = Y + X for Y += X")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imod__ = __iand__ = __ior__ = __imatmul__ = _in_place

    def __bool__(self) -> bool:
        raise UntraceableError("what it does depends on a number that is known at run time only")

    def __int__(self) -> int:
        raise UntraceableError("it makes a Python number of an array's element")

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __iter__(self) -> Any:
        raise UntraceableError("it goes through an array's elements one by one")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UntraceableError(f"it asks for an array's {name}")


# -- making arrays ------------------------------------------------------------------------------------------


def scalar(terms: Terms, value: Any) -> Traced:
    """A number, a length or an array as an array."""
    if isinstance(value, Traced):
        return value
    if isinstance(value, Extent):
        return Traced(terms, value.term, ())
    if isinstance(value, (bool, int, float)):
        return Traced(terms, terms.number(value), ())
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return Traced(terms, terms.number(value.item()), ())
    raise UntraceableError(f"it computes with a {type(value).__name__}")


def elementwise(terms: Terms, operation: str, *operands: Any) -> Traced:
    """An operation on arrays and numbers, widened to one shape."""
    given = [scalar(terms, each) for each in operands]
    axes = together([each.axes for each in given])
    _require_own_kind(terms, operation, given, operands)
    kinds = [each.term.kind for each, operand in zip(given, operands, strict=True) if not _is_weak(operand)]
    made = [
        _as_kind(terms, each.term, kinds) if _is_weak(operand) else each.term
        for each, operand in zip(given, operands, strict=True)
    ]
    return Traced(terms, terms.apply(operation, *made), axes)


def _require_own_kind(terms: Terms, operation: str, given: Sequence[Traced], operands: Sequence[Any]) -> None:
    """UntraceableError where NumPy computes in a dtype that formulas do not have, or bit by bit."""
    kinds = {each.term.kind for each in given}
    arrays = {each.term.kind for each, operand in zip(given, operands, strict=True) if not _is_weak(operand)}
    if operation.startswith("logical") and kinds != {"bool"}:
        raise UntraceableError("it takes the bits, or the truth, of what is no boolean: say X != 0")
    if operation in ARITHMETIC and arrays == {"bool"}:
        raise UntraceableError("it computes with booleans: say which are meant by & and |, or make numbers of them")
    mixed = operation in ARITHMETIC | COMPARISONS and {"int", "float"} <= arrays
    if mixed and terms.dtype != "float64":
        raise UntraceableError(f"it computes in float64 with integers and {terms.dtype}: say I.astype(X.dtype)")


def _is_weak(operand: Any) -> bool:
    """Whether an operand takes the kind of whatever it meets, as Python's numbers and lengths do."""
    return isinstance(operand, (bool, int, float, Extent))


def _as_kind(terms: Terms, term: Term, kinds: Sequence[str]) -> Term:
    """A weak number in the kind of the arrays that it meets."""
    others = [kind for kind in kinds if kind != "bool"]
    if not others:
        return term
    kind = "wide" if "wide" in others else "float" if "float" in others else "int"
    if kind == "int" and term.kind == "float":
        return terms.convert(term, "wide")
    return terms.convert(term, kind)


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


def reduced(operation: str, X: Traced, axis: Any, keepdims: bool) -> Traced:
    """A sum, maximum or minimum over one axis, several or all."""
    gone = _positions(axis, X.ndim)
    over = [factor for i in gone for factor in X.axes[i] or ()]
    axes = [None if i in gone else each for i, each in enumerate(X.axes) if keepdims or i not in gone]
    term = X.term
    absent = [factor for factor in over if factor not in term.factors]
    made = X.terms.reduce(operation, term, [factor for factor in over if factor in term.factors])
    if absent and operation == "sum":
        # What is the same everywhere is added up by multiplying it.
        return Traced(X.terms, made, axes) * Extent(X.terms, tuple(absent))
    return Traced(X.terms, made, axes)


def _positions(axis: Any, ndim: int) -> list[int]:
    given = range(ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    return [i % ndim for i in given]
