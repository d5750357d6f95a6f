"""A graph in the making: sizes first, then values, so that none grows large and every shape is known to fit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import graphir as gi
from graphir.ir.dims import product
from graphir.ir.value import Value

#: The names that shapes are drawn from. Of one value two dims may be the same.
NAMES = ("B", "S", "D", "F", "N_H", "E")
#: No value has more elements, no value more dims.
MOST_ELEMENTS = 2048
MOST_DIMS = 5
#: Of how many factors a value may be a product: so it stays of moderate size.
MOST_FACTORS = 3


def draw_sizes(rng: random.Random, multiple: int = 1) -> dict[str, int]:
    """A size for each name, a multiple of `multiple`: mostly tiny, many of them 1, now and then up to 9.

    What a tile, a thread's share or a block can do wrong it does at a boundary, and small sizes are all boundary.
    """
    if multiple > 1:
        return {name: multiple * rng.choice((1, 1, 1, 2)) for name in NAMES}
    choices = rng.choice(((1, 2, 3), (1, 1, 2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 1, 1, 2, 6)))
    return {name: rng.choice(choices) for name in NAMES}


class Writer:
    """A builder, the values to choose from, and which features the graph has come to have.

    degrees   each float value that a move may read, with the number of factors that it is a product of
    unread    those that nothing reads yet
    shown     values that are to be results beside those that nothing reads
    arguments those of them that are handed in
    features  what of the generator's purposes the graph serves; see `FEATURES` of `moves` and `attention`
    """

    def __init__(self, rng: random.Random, sizes: dict[str, int], dtype: str, casts: bool = False) -> None:
        self.rng, self.sizes, self.dtype, self.casts = rng, sizes, dtype, casts
        self.builder = gi.Builder("drawn", dtype=dtype)
        self.dims = [gi.dim(name) for name in NAMES]
        self.degrees: dict[Value, int] = {}
        self.unread: dict[Value, None] = {}
        self.shown: dict[Value, None] = {}
        self.features: set[str] = set()
        self.arguments: set[Value] = set()
        self._inputs: dict[tuple[object, ...], Value] = {}
        self._count = 0

    # -- choices --------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def dim(self) -> gi.Dim:
        """A dim: a name, or now and then the product of two."""
        found = self.rng.choice(self.dims)
        return found * self.rng.choice(self.dims) if self.chance(0.1) else found

    def shape(self, least: int = 1, most: int = 3) -> tuple[gi.Dim, ...]:
        """A shape that is small enough, in which a dim may come twice."""
        while True:
            shape = [self.dim() for _ in range(self.rng.randint(least, most))]
            if len(shape) > 1 and self.chance(0.4):
                shape[-1] = self.rng.choice(shape[:-1])
            if self.fits(shape):
                return tuple(shape)

    def size(self, dim: gi.Dim) -> int:
        return dim.size(self.sizes)

    def fits(self, shape: Iterable[gi.Dim]) -> bool:
        """Whether a value of that shape is small enough."""
        dims = tuple(shape)
        return len(dims) <= MOST_DIMS and product(dims).size(self.sizes) <= MOST_ELEMENTS

    def pick(self, wanted: Callable[[Value], bool] = lambda value: True) -> Value | None:
        """A float value that `wanted` admits, one of the newest as often as not; None if there is none."""
        found = [value for value in self.degrees if wanted(value)]
        if not found:
            return None
        return self.read(self.rng.choice(found[-3:] if self.chance(0.5) else found))

    def read(self, value: Value) -> Value:
        """`value`, which something reads now."""
        # A value that is read may be a result all the same, and often is.
        if value in self.unread and self.chance(0.8):
            del self.unread[value]
        return value

    def can_multiply(self, *values: Value) -> bool:
        """Whether a product of these is still of moderate size."""
        return sum(self.degrees[value] for value in values) <= MOST_FACTORS

    # -- what goes in and what comes of it ------------------------------------------------------------

    def name(self, base: str) -> str:
        """A new name."""
        self._count += 1
        return f"{base}{self._count}"

    def argument(self, shape: Sequence[gi.Dim], dtype: str | None = None) -> Value:
        """A new parameter or input of floats."""
        dims = tuple(shape)
        if len(set(dims)) < len(dims):
            self.features.add("repeated dims")
        kind, name = (self.builder.parameter, "W") if self.chance(0.5) else (self.builder.input, "X")
        value = kind(self.name(name), dims, dtype)
        self.arguments.add(value)
        return value

    def input(self, name: str, shape: Sequence[gi.Dim], dtype: str) -> Value:
        """An input that is no float; mostly one for all uses of that name, shape and dtype."""
        key = (name, tuple(shape), dtype)
        if key not in self._inputs or (name not in ("seed", "step") and self.chance(0.2)):
            full = name if name in ("seed", "step") else self.name(name)
            self._inputs[key] = self.builder.input(full, tuple(shape), dtype)
        return self._inputs[key]

    def made(self, value: Value, degree: int) -> Value:
        """Notes what a move has made, for others to read."""
        self.degrees[value] = degree
        self.unread[value] = None
        if self.chance(0.1):
            self.builder.alias(self.name("alias"), value)
        return value

    def show(self, value: Value) -> None:
        """Makes a value a result."""
        self.shown[value] = None
