"""Dims: the named sizes that shapes are made of.

Notation (B 4.1): `B` batch, `S` sequence, `D` model, `D_ff` feed-forward, `N_H` heads, `D_h` a head's
width, `V` vocabulary. A dim is a product of powers of names and a rational number: `N_H*D_h`, `D/N_T`,
`4*D`, `3`. A name may be *defined* by another dim (`D_h = D/N_H`); two dims are equal when their
products are equal after definitions are filled in, so `N_H*D_h == D` holds without any number.

Sizes are bound late: `dim.size({"D": 384, "N_H": 6})`. A number is whatever Python takes for an index, NumPy's
integers included, but no bool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from operator import index
from typing import Any, NoReturn, SupportsIndex, TypeAlias

from graphir.errors import DimError

Sizes: TypeAlias = Mapping[str, int]
DimLike: TypeAlias = "Dim | SupportsIndex"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
#: Words that a text means otherwise, so no dim may be called so.
RESERVED = frozenset({"true", "false", "none", "inf", "nan"})
#: How many definitions may build on each other. The documents need two; what reads or writes a dim follows them
#: by recursion.
DEEPEST = 64
#: How many definitions a dim may rest on, near and far; how many factors it may have, powers counted and definitions
#: filled in; and how many digits its number. What is made of dims by multiplying stays as small as that.
MOST_DEFINITIONS = 64
MOST_FACTORS = 128
MOST_DIGITS = 64
_BEYOND = 10**MOST_DIGITS
#: The largest size: arrays count in 64 bits.
LARGEST = (1 << 63) - 1


class Dim:
    """A named size, or a product or quotient of named sizes. Immutable, hashable."""

    __slots__ = ("_hash", "_key", "_text", "coefficient", "definitions", "depth", "powers")

    coefficient: Fraction
    #: The dim as written: (name, power), in the order of first appearance.
    powers: tuple[tuple[str, int], ...]
    #: What the names in `powers` are defined as, transitively, if they are.
    definitions: dict[str, Dim]
    #: How many definitions stand one behind the other: 0 of `D`, 1 of `D_h = D/N_H`.
    depth: int

    def __init__(
        self,
        powers: Iterable[tuple[str, int]] = (),
        coefficient: Fraction | int = 1,
        definitions: Mapping[str, Dim] | None = None,
    ) -> None:
        self.powers = tuple((name, power) for name, power in powers if power)
        self.coefficient = Fraction(coefficient)
        if self.coefficient <= 0:
            raise DimError(f"a dim is a positive size, not {self.coefficient}")
        self.definitions = dict(definitions or {})
        _require_moderate(self.coefficient, self.powers, len(self.definitions))
        self.depth = 0
        if self.definitions:
            used = [self.definitions[name] for name, _ in self.powers if name in self.definitions]
            self.depth = max((1 + each.depth for each in used), default=0)
        self._key = self._expand()
        if self.definitions:
            _require_moderate(*self._key)
        # A constant equals its number, so it must hash like it.
        self._hash = hash(self._key) if self._key[1] else hash(self._key[0])
        self._text = self._print()

    def _expand(self) -> tuple[Fraction, frozenset[tuple[str, int]]]:
        coefficient, powers = self.coefficient, dict[str, int]()
        for name, power in self.powers:
            definition = self.definitions.get(name)
            if definition is None:
                powers[name] = powers.get(name, 0) + power
                continue
            inner_coefficient, inner = definition._key
            coefficient *= inner_coefficient**power
            for inner_name, inner_power in inner:
                powers[inner_name] = powers.get(inner_name, 0) + power * inner_power
        return coefficient, frozenset((n, p) for n, p in powers.items() if p)

    def _print(self) -> str:
        above = [_power(n, p) for n, p in self.powers if p > 0]
        below = [n for n, p in self.powers if p < 0 for _ in range(-p)]
        if self.coefficient.numerator != 1 or not above:
            above.insert(0, str(self.coefficient.numerator))
        if self.coefficient.denominator != 1:
            below.insert(0, str(self.coefficient.denominator))
        return "/".join(["*".join(above), *below])

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Dim):
            return self._key == other._key
        number = whole(other)
        return number is not None and 0 < number < _BEYOND and self._key == _constant(number)._key

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Dim({self._text})"

    def __reduce__(self) -> tuple[object, ...]:
        return Dim, (self.powers, self.coefficient, self.definitions)

    def __mul__(self, other: DimLike) -> Dim:
        return _multiply(self, as_dim(other), 1)

    __rmul__ = __mul__

    def __truediv__(self, other: DimLike) -> Dim:
        return _multiply(self, as_dim(other), -1)

    def __rtruediv__(self, other: DimLike) -> Dim:
        return as_dim(other) / self

    def __add__(self, other: object) -> NoReturn:
        _refuse_sum(self, "+", other)

    def __radd__(self, other: object) -> NoReturn:
        _refuse_sum(other, "+", self)

    def __sub__(self, other: object) -> NoReturn:
        _refuse_sum(self, "-", other)

    def __rsub__(self, other: object) -> NoReturn:
        _refuse_sum(other, "-", self)

    def __floordiv__(self, other: object) -> NoReturn:
        raise DimError(f"{self} // {other}: dims divide exactly, by /; sizes that do not divide are refused when bound")

    @property
    def names(self) -> frozenset[str]:
        """The names whose sizes this dim's size follows from, definitions filled in."""
        return frozenset(name for name, _ in self._key[1])

    @property
    def expanded(self) -> tuple[Fraction, tuple[tuple[str, int], ...]]:
        """The coefficient and the powers of names, in alphabetical order, definitions filled in."""
        return self._key[0], tuple(sorted(self._key[1]))

    def size(self, sizes: Sizes) -> int:
        """The dim's number under `sizes`; DimError if a name is unbound or the result is not whole."""
        coefficient, powers = self._key
        # Two integers rather than a fraction: planning asks for sizes more often than for anything else.
        above, below = coefficient.numerator, coefficient.denominator
        for name, power in powers:
            if name not in sizes:
                raise DimError(f"dim {self} has no size: {name} is not given; add {name}=… to the sizes")
            if power > 0:
                above *= index(sizes[name]) ** power
            else:
                below *= index(sizes[name]) ** -power
        size, rest = divmod(above, below)
        if rest:
            bound = ", ".join(f"{name}={sizes[name]}" for name in sorted(self.names))
            definition = self.definitions.get(self._text)
            spelled = f"{self} = {definition}" if definition is not None else str(self)
            value = Fraction(above, below)
            raise DimError(f"{spelled} is not whole: {bound} gives {value}; choose sizes that divide")
        return size


def _require_moderate(coefficient: Fraction, powers: Iterable[tuple[str, int]], definitions: int = 0) -> None:
    """DimError for a dim beyond what a size, however it was come by, has of factors, digits and definitions."""
    factors = sum([abs(power) for _, power in powers])
    if factors > MOST_FACTORS:
        raise DimError(f"a dim of {factors} factors, definitions filled in; at most {MOST_FACTORS} may be")
    if max(coefficient.numerator, coefficient.denominator) >= _BEYOND:
        raise DimError(f"a dim whose number has more than {MOST_DIGITS} digits; no size is as large")
    if definitions > MOST_DEFINITIONS:
        raise DimError(f"a dim that rests on {definitions} definitions; at most {MOST_DEFINITIONS} may be, near or far")


def _power(name: str, power: int) -> str:
    return "*".join([name] * power)


def _refuse_sum(left: object, sign: str, right: object) -> NoReturn:
    what = "sum" if sign == "+" else "difference"
    raise DimError(
        f"{left} {sign} {right}: dims multiply and divide only; give the {what} a name of its own, by gi.dim, and bind "
        "its size with the others"
    )


def _multiply(left: Dim, right: Dim, sign: int) -> Dim:
    for name in left.definitions.keys() & right.definitions.keys():
        if left.definitions[name] != right.definitions[name]:
            raise DimError(f"dim {name} is both {left.definitions[name]} and {right.definitions[name]}")
    powers = dict(left.powers)
    for name, power in right.powers:
        powers[name] = powers.get(name, 0) + sign * power
    result = Dim(powers.items(), left.coefficient * right.coefficient**sign, left.definitions | right.definitions)
    # N_H*D_h is written D where D_h = D/N_H: the shorter of the two spellings.
    coefficient, expanded = result._key
    if len(expanded) < len(result.powers):
        return Dim(sorted(expanded), coefficient)
    return result


@lru_cache(maxsize=4096)
def _constant(value: int) -> Dim:
    return Dim((), value)


def whole(value: Any) -> int | None:
    """`value` as an int if it is a whole number of any library's; None for all else, a bool included."""
    if isinstance(value, bool):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def as_dim(value: DimLike) -> Dim:
    """`value` itself if it is a dim, the constant dim if it is a positive number."""
    if isinstance(value, Dim):
        return value
    number = whole(value)
    if number is None:
        hint = f"; a name becomes one by gi.dim({value!r})" if isinstance(value, str) else ""
        raise DimError(f"a dim is a Dim or a positive int, not {value!r}{hint}")
    return _constant(number)


def dim(name: str, definition: DimLike | None = None) -> Dim:
    """The dim called `name`; with a definition, `dim("D_h", D / N_H)`, it equals what defines it."""
    if not isinstance(name, str) or not _NAME.match(name) or name in RESERVED:
        raise DimError(f"{name!r} cannot name a dim: a letter, then letters, digits and _ (not {sorted(RESERVED)})")
    if definition is None:
        return Dim([(name, 1)])
    definition = as_dim(definition)
    if name in definition.names or name in definition.definitions or name in dict(definition.powers):
        raise DimError(f"dim {name} cannot be defined by itself: {name} = {definition}")
    if definition.depth >= DEEPEST:
        raise DimError(
            f"dim {name} = {definition} is the last of {definition.depth + 1} definitions that build on each other; "
            f"at most {DEEPEST} may: define it by names that are nearer to the first"
        )
    return Dim([(name, 1)], definitions={**definition.definitions, name: definition})


def dims(names: str) -> tuple[Dim, ...]:
    """`B, S, D = dims("B S D")`."""
    if not isinstance(names, str):
        raise DimError(f'dims takes names in one string, as in dims("B S D"), not {names!r}')
    return tuple(dim(name) for name in names.split())


def shape_text(shape: Iterable[Dim]) -> str:
    """`[B, S, D]`, as the documents write it."""
    return f"[{', '.join(map(str, shape))}]"


def product(dims: Iterable[Dim]) -> Dim:
    """The product of `dims`; 1 of none."""
    result = as_dim(1)
    for each in dims:
        result = result * each
    return result


def dim_names(shapes: Iterable[Iterable[Dim]]) -> set[str]:
    """All names that the dims of `shapes` are written in or defined by."""
    names: set[str] = set()
    seen: set[int] = set()
    for each in {each for shape in shapes for each in shape}:
        names |= each.names
        for name, definition in each.definitions.items():
            # Dims of one graph share their definitions.
            if id(definition) not in seen:
                seen.add(id(definition))
                names.add(name)
                names |= definition.names
    return names


def resolve_sizes(shapes: Iterable[Iterable[Dim]], sizes: Sizes) -> dict[str, int]:
    """`sizes`, checked against the dims in use and completed by the defined ones.

    DimError if a size is not a positive whole number, a dim in use has none, a given one contradicts its definition
    (`D_h=64` where `D/N_H` is 32), or a name belongs to no dim.
    """
    used = {each for shape in shapes for each in shape}
    definitions: dict[str, Dim] = {}
    for each in used:
        definitions |= each.definitions
    names = dim_names([used])
    complete: dict[str, int] = {}
    for name, size in sizes.items():
        number = whole(size)
        if number is None or number < 1:
            raise DimError(f"the size of dim {name} must be a positive int, not {size!r}")
        if number > LARGEST:
            raise DimError(f"the size of dim {name} is beyond 2^63 - 1, the longest that an array can be")
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise DimError(f"no dim of this graph is called {name}; its dims are {known}")
        complete[name] = number
    for name, definition in definitions.items():
        value = dim(name, definition).size(sizes)
        if complete.get(name, value) != value:
            raise DimError(f"{name}={sizes[name]} contradicts {name} = {definition}, which is {value}")
        complete[name] = value
    for each in used:
        if each.size(complete) > LARGEST:
            raise DimError(f"dim {each} is beyond 2^63 - 1, the longest that an array can be; choose smaller sizes")
    return complete
