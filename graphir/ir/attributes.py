"""Attributes: what a node knows beside its operands, typed by its kernel's keyword parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Number, Real
from typing import Any, get_args, get_origin

from graphir.errors import TypeCheckError
from graphir.ir.dims import Dim, as_dim

#: Integers are of 64 bits, as arrays hold them.
_BEYOND = 1 << 63


class Size(int):
    """Annotates an attribute that is a `Dim` in the graph and an int in the kernel."""


def exact(value: Any) -> Hashable:
    """`value` as part of a key: equal only to what computes the same. To Python, −0.0 == 0.0 and 1 == 1.0 == True."""
    if isinstance(value, tuple):
        return tuple(map(exact, value))
    if isinstance(value, float):
        return float, value, math.copysign(1, value)
    return type(value), value


class Attributes(dict[str, Any]):
    """A node's attributes: hashable, not to be changed. 0.0 and −0.0 are two, as they are to arithmetic."""

    __slots__ = ("_hash", "_zeros", "spelling")

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__(items)
        self._hash = hash(frozenset(self.items()))
        #: The attributes with a zero among them, which equality of numbers does not tell from its negative.
        self._zeros = {name: exact(value) for name, value in self.items() if _has_zero(value)}
        #: How the dims among them are written; equal attributes may be spelled differently.
        self.spelling = tuple(str(value) for value in self.values() if isinstance(value, (Dim, tuple)))

    def __hash__(self) -> int:  # type: ignore[override]
        return self._hash

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and (not isinstance(other, Attributes) or self._zeros == other._zeros)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("attributes are immutable")

    def __delitem__(self, key: str) -> None:
        raise TypeError("attributes are immutable")


def _has_zero(value: Any) -> bool:
    return any(map(_has_zero, value)) if isinstance(value, tuple) else isinstance(value, float) and value == 0


@dataclass(frozen=True)
class Attribute:
    """A declared attribute: its Python type as annotated, and its default (`inspect.Parameter.empty` if none)."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether a node must say it."""
        return self.default is inspect.Parameter.empty

    @property
    def is_size(self) -> bool:
        """Whether it is a dim in the graph and a number in the kernel."""
        return self.annotation is Size

    @cached_property
    def element(self) -> Any:
        """The type of a tuple's elements; None if it is no tuple."""
        return get_args(self.annotation)[0] if get_origin(self.annotation) is tuple else None

    def convert(self, value: Any) -> Any:
        """`value` in the declared type; TypeCheckError if it is of another."""
        element = self.element
        if element is not None:
            if isinstance(value, (str, Dim)) or not isinstance(value, Iterable):
                raise TypeCheckError(f"attribute {self.name} must be a tuple, not {value!r}")
            return tuple(_convert(self.name, element, each) for each in value)
        return _convert(self.name, self.annotation, value)


def _convert(name: str, kind: Any, value: Any) -> Any:
    if kind is int and type(value) is int and not -_BEYOND <= value < _BEYOND:
        raise TypeCheckError(f"attribute {name} is an integer beyond 64 bits, which no kernel takes")
    if type(value) is kind and value == value:
        return value  # the usual case; NaN, which is not itself, is told below
    if kind is not bool and isinstance(value, Number) and not isinstance(value, (bool, int, float)):
        # An array library's own number, np.float32(0.5) or np.int64(3).
        value = int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value
    if kind is Size and (isinstance(value, Dim) or (isinstance(value, int) and not isinstance(value, bool))):
        return as_dim(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value:
            raise TypeCheckError(f"attribute {name} must be a number, not NaN")
        try:
            return float(value)
        except OverflowError:
            raise TypeCheckError(f"attribute {name} is beyond all floats") from None
    if kind in (int, str, bool) and type(value) is kind:
        return value
    spelled = "a dim" if kind is Size else getattr(kind, "__name__", str(kind))
    raise TypeCheckError(f"attribute {name} must be {spelled}, not {value!r}")
