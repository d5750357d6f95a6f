"""Which kind of number an operation computes in: what NumPy's promotion of dtypes makes of terms.

A Python number, or a length, is *weak*: it takes the kind of the arrays that it meets. NumPy's own numbers do not, nor
what `xp.asarray(0.1)` makes: that is a float64, and so is what is computed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphir.formula.opaque import Opaque
from graphir.formula.terms import ARITHMETIC, COMPARISONS, Masked, Term, Terms, UntraceableError
from graphir.ir.types import DTYPES, FLOATS

#: What of integers may be beyond those that their dtype has, which is then begun anew at the other end.
_WRAPPING = frozenset({"add", "subtract", "multiply", "power", "negative", "absolute"})


class Kind(Opaque):
    """What a kernel sees as a dtype."""

    what = "a dtype"

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return DTYPES[self.name]

    def type(self, value: Any) -> Any:
        """A number of this dtype: `X.dtype.type(2)`."""
        if not is_weak(value):
            raise UntraceableError("it makes a single number of an array")
        if self.name not in FLOATS and value != int(value):
            raise UntraceableError(f"it rounds {value} to {self.name}")
        return value

    def masked(self, value: float) -> Masked:
        """What takes the place of a masked score."""
        return Masked(value)

    def __eq__(self, other: object) -> Any:
        if type(other) is Kind:
            return other.name == self.name
        if self.name not in FLOATS:
            raise UntraceableError("it asks for the dtype of integers or booleans, which a formula does not know")
        # Of NumPy's types the name, of its dtypes, too. Whatever else NumPy takes for a dtype, as "f4", is not known.
        name = getattr(other, "__name__", getattr(other, "name", other))
        if not isinstance(name, str) or name not in DTYPES:
            raise UntraceableError(f"it compares a dtype with {name}: say X.dtype == 'float32'")
        return self.name == name

    def __str__(self) -> Any:
        return self.name


#: Of each kind of term the dtype that a kernel sees; of floats it is that of the operands.
KINDS = {"wide": Kind("float64"), "int": Kind("int64"), "bool": Kind("bool")}


def is_weak(value: Any) -> bool:
    """Whether a number takes the kind of whatever it meets, as Python's do."""
    # np.float64 is one of Python's floats, and has a dtype of its own all the same.
    return type(value) in (bool, int, float) or (
        issubclass(type(value), (int, float)) and not hasattr(type(value), "dtype")
    )


def double(terms: Terms) -> str:
    """The kind of what is a float64, whatever the operands are."""
    return "float" if terms.dtype == "float64" else "wide"


def number(terms: Terms, value: Any) -> Term:
    """A number as a term: one of Python's, or of NumPy's, which has a dtype of its own."""
    if is_weak(value):
        return terms.number(value)
    dtype = getattr(value, "dtype", None)
    if dtype is None or getattr(value, "ndim", 1) != 0 or not hasattr(value, "item"):
        raise UntraceableError(f"it computes with a {type(value).__name__}")
    name, made = str(dtype), terms.number(value.item())
    if name == "float64":
        return terms.convert(made, double(terms))
    if name == terms.dtype or name in ("int32", "int64", "bool"):
        return made
    if (name, terms.dtype) in (("float32", "float64"), ("float16", "float64"), ("float16", "float32")):
        return made
    raise UntraceableError(f"it computes with {name} beside {terms.dtype}")


def applied(terms: Terms, operation: str, given: Sequence[Term], weak: Sequence[bool]) -> Term:
    """An operation, with the weak operands in the kind of the others; UntraceableError where NumPy computes in a dtype
    that formulas do not have, or bit by bit."""
    _require_own_kind(terms, operation, given, weak)
    kinds = [each.kind for each, by_itself in zip(given, weak, strict=True) if not by_itself]
    operands = [
        _as_kind(terms, each, kinds) if by_itself else each for each, by_itself in zip(given, weak, strict=True)
    ]
    made = terms.apply(operation, *operands)
    if operation in _WRAPPING and made.kind == "int" and not _stays_within(terms, operation, given):
        strong = [each for each, by_itself in zip(given, weak, strict=True) if not by_itself and each.kind == "int"]
        if frozenset[int]().union(*(_widths(terms, each) for each in strong)) == {32}:
            return terms.convert(made, "int", "int32")
    return made


def _require_own_kind(terms: Terms, operation: str, given: Sequence[Term], weak: Sequence[bool]) -> None:
    kinds = {each.kind for each in given}
    strong = [each for each, by_itself in zip(given, weak, strict=True) if not by_itself]
    arrays = {each.kind for each in strong}
    if operation.startswith("logical") and kinds != {"bool"}:
        raise UntraceableError("it takes the bits, or the truth, of what is no boolean: say X != 0")
    if operation in ARITHMETIC | {"negative", "absolute"} and arrays == {"bool"}:
        raise UntraceableError("it computes with booleans: say which are meant by & and |, or make numbers of them")
    mixed = operation in ARITHMETIC | COMPARISONS and {"int", "float"} <= arrays
    if mixed and terms.dtype != "float64":
        raise UntraceableError(f"it computes in float64 with integers and {terms.dtype}: say I.astype(X.dtype)")
    if operation == "power" and kinds <= {"int", "bool"}:
        raise UntraceableError("it takes powers of integers: say X.astype('float64') ** n")


def _widths(terms: Terms, term: Term) -> frozenset[int]:
    """How many bits the integers have that one is made of; none where these are numbers that are known."""
    if term.operation == "operand":
        return frozenset({32 if term.detail in terms.narrow else 64})
    if term.operation == "number":
        return frozenset()
    if term.operation == "round":
        return frozenset({32})
    if term.operation in ("sum", "convert") or not term.operands:
        return frozenset({64})
    return frozenset[int]().union(*(_widths(terms, each) for each in term.operands if each.kind == "int"))


def _stays_within(terms: Terms, operation: str, given: Sequence[Term]) -> bool:
    """Whether it is one of two numbers, or the difference of a place and where a block begins: both are in a dim."""
    if operation == "multiply" and any(each.kind == "bool" for each in given):
        return True
    X, *others = given
    return (
        operation == "subtract"
        and X.operation == "operand"
        and X.detail in terms.places
        and all(each.operation in ("start", "extent", "total") for each in others)
    )


def _as_kind(terms: Terms, term: Term, kinds: Sequence[str]) -> Term:
    """A weak number in the kind of the arrays that it meets; beside no array it is a float64."""
    others = [kind for kind in kinds if kind != "bool"]
    if not others:
        return terms.convert(term, double(terms)) if term.kind == "float" and not kinds else term
    kind = "wide" if "wide" in others else "float" if "float" in others else "int"
    if kind == "int" and term.kind == "float":
        return terms.convert(term, double(terms))
    return terms.convert(term, kind)
