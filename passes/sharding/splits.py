"""Splits: how an entry of a plan says in which dims of one value which axes lie. Notation: see `plans`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from graphir.errors import LayoutError
from graphir.ir.dims import Dim, Sizes
from graphir.ir.layout import Layout, Mesh
from graphir.ir.value import Value

#: Axes by position.
Splits = Sequence[Sequence[str]]


def read_splits(
    value: Value,
    splits: Sequence[str],
    mesh: Mesh,
    sizes: Sizes | None,
    base: Splits | None = None,
    products: Collection[int] = (),
) -> Layout:
    """The layout that `splits` together give `value`, which lies as `base` where they say nothing.

    An axis that some split names lies where it says, and no longer where `base` has it. `products` are the positions of
    dims that stand for others.
    LayoutError for a malformed split, one for another shape, or an axis that occurs twice.
    """
    named = [split for split in splits if not split.startswith("-")]
    spoken = _dropped(splits, mesh)
    spoken.update(part for s in named if not s.startswith("?") for axis in axes_named(s) for part in mesh.parts(axis))
    found = [[axis for axis in axes if axis not in spoken] for axes in base or [()] * len(value.shape)]
    for split in sorted(named, key=lambda text: text.startswith("?")):
        for position, axes in _read(value, split, found, mesh, sizes, products):
            found[position].extend(axes)
    try:
        return Layout(found)
    except LayoutError as error:
        raise LayoutError(f"{value.name} {value.type} under {' and '.join(splits)}: {error}") from None


@dataclass(frozen=True)
class Pin:
    """Where some axes must lie in a value, whatever the others do: (dim, axes) to append after dropping `axes`."""

    axes: frozenset[str]
    splits: tuple[tuple[int, tuple[str, ...]], ...] = ()

    @classmethod
    def to(cls, layout: Layout, mesh: Mesh) -> Pin:
        """Exactly `layout`."""
        return cls(frozenset(mesh.names), tuple(enumerate(layout.splits)))

    def apply(self, layout: Layout) -> Layout:
        """`layout` with the pinned axes where they must be, nothing pending."""
        return _pinned(self, layout)


@lru_cache(maxsize=4096)
def _pinned(pin: Pin, layout: Layout) -> Layout:
    found = [[axis for axis in axes if axis not in pin.axes] for axes in layout.splits]
    for position, axes in pin.splits:
        found[position].extend(axes)
    return Layout(found)


def read_pin(value: Value, splits: Sequence[str], mesh: Mesh, sizes: Sizes | None) -> Pin:
    """The pin that entries for an activation together make."""
    layout = read_splits(value, splits, mesh, sizes)
    return Pin(frozenset(_dropped(splits, mesh) | set(layout.split_axes)), tuple(enumerate(layout.splits)))


def axes_named(split: str) -> list[str]:
    """The axes of a split, in order: of `[B|dp, S|cp|tp, D]` dp, cp and tp."""
    return re.findall(r"\|(\w+)", split)


def speaks_of(split: str, value: Value) -> bool:
    """Whether `value` has the dim that a split such as `V|tp` names; the other forms name none, or check it."""
    name, *axes = split.strip().split("|")
    return name.startswith(("[", "?")) or not axes or bool(_dims_called(name, value))


def is_called(dim: Dim, name: str) -> bool:
    """Whether `name` means this dim: V means V_pad, too."""
    return str(dim) in (name, f"{name}_pad")


def is_named(dim: Dim, name: str) -> bool:
    """Whether `name`, which may be a pattern, means this dim."""
    return is_called(dim, name) or fnmatchcase(str(dim), name)


def divides(dim: Dim, axes: Iterable[str], mesh: Mesh, sizes: Sizes | None) -> bool:
    """Whether the axes divide the dim evenly, as far as sizes are known."""
    return sizes is None or dim.size(sizes) % mesh.count(axes) == 0


def _dropped(splits: Iterable[str], mesh: Mesh) -> set[str]:
    return {part for split in splits if split.startswith("-") for part in mesh.parts(split[1:])}


def _read(
    value: Value,
    split: str,
    found: list[list[str]],
    mesh: Mesh,
    sizes: Sizes | None,
    products: Collection[int],
) -> list[tuple[int, list[str]]]:
    text = split.strip()
    if text.startswith("["):
        if not text.endswith("]"):
            raise LayoutError(f"split {split!r} of {value.name} has no closing bracket")
        parts = [part.strip() for part in text[1:-1].split(",")] if text != "[]" else []
        if len(parts) != len(value.shape):
            raise LayoutError(f"split {split} has {len(parts)} dims, but {value.name} is {value.type}")
        result = []
        for position, part in enumerate(parts):
            name, *axes = part.split("|")
            if not name or not all(map(str.isidentifier, axes)):
                raise _malformed(split, value)
            if name not in ("_", str(value.shape[position])):
                raise LayoutError(f"split {split} says {name}, but {value.name} is {value.type}")
            result.append((position, _parts(axes, mesh)))
        return result
    name, *axes = text.split("|")
    if not name or not axes or not all(map(str.isidentifier, axes)):
        raise _malformed(split, value)
    if name == "?":
        free = [axis for axis in _parts(axes, mesh) if not any(axis in each for each in found)]
        for position, dim in enumerate(value.shape):
            if free and divides(dim, [*found[position], *free], mesh, sizes):
                return [(position, free)]
        return []
    called = _dims_called(name, value)
    plain = [position for position in called if position not in products]
    return [(position, _parts(axes, mesh)) for position in plain or called]


def _parts(axes: Iterable[str], mesh: Mesh) -> list[str]:
    """The axes of the mesh that a plan means by `axes`; one that it lacks is told of later."""
    return [part for axis in axes for part in mesh.parts(axis) or (axis,)]


def _dims_called(name: str, value: Value) -> list[int]:
    return [position for position, dim in enumerate(value.shape) if is_called(dim, name)]


def _malformed(split: str, value: Value) -> LayoutError:
    return LayoutError(f"split {split!r} of {value.name} is not of the form B|dp, [B|dp, S|cp, D] or ?|dp")
