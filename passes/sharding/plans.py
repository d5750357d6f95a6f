"""Plans: which named dims lie over which axes of a mesh, and which values are exceptions. All else follows by rule.

Notation. A plan says first of all which dims an axis splits, as logical axis rules do (Mesh-TensorFlow, Flax, MaxText):

    dims={"dp": "B", "tp": "D_ff, (N_KV G), N_H, V"}

Of every argument an axis splits the first dim of its list that there is, and one dim only. W_Q [D, D] is split where
heads are: what its second D stands for, N_H·D_h, follows from the R that takes it apart (`logical`). Of such a product
only the major dim can be split: N_H, not D_h. (N_KV G) are both, where an axis has more ranks than N_KV: the rest of
it splits G (`subaxes`). V means V_pad, too, and D_[1-9]* is a pattern. State that belongs to a parameter lies as the
parameter does.

Entries are for what is otherwise. They say of what, and how it is split. Of what:

    layer*/mha/W_Q   glob patterns of full names
    N_H -> D         parameters by which products make D of N_H, and what these make, whatever it is called (`maps`);
                     like a dim of a list, that need not be there

How, by a *split*:

    [D, D|tp]     by position; the dims' names are checked, `_` stands for any
    B|dp          every dim called B, where one of two stands for others (N_H·D_h), the other; V|tp splits V_pad, too
    ?|dp          the first dim that the axis divides evenly, if it splits none yet; a tensor that has none stays whole
    -dp           as it lies otherwise, but not split over dp
    =             for `gradients`: as the parameter is stored

An axis that an entry names lies there as it says, and not where `dims` would have it; `?` only adds.
Several entries may speak of one value: their axes add up, `?` last. A plan speaks of `inputs`, `parameters` (as they
are stored), `used` (as a parameter is where a node reads it, if otherwise), `state`, `gradients` (of a parameter, by
the parameter's name, before the update), `residual` (the residual stream, see there) and other `activations`. What is
not named is replicated, or lies as what it is computed from. An entry for an activation speaks only of the axes it
names: `S|tp` leaves a batch that is split over dp as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from graphir.errors import LayoutError
from graphir.ir.layout import Mesh
from graphir.passes.sharding.maps import ARROW
from graphir.passes.sharding.splits import axes_named

Entries = tuple[tuple[str, str], ...]

_KINDS = ("inputs", "parameters", "used", "state", "gradients", "residual", "activations")
_NAME = r"[A-Za-z][\w*?\[\]-]*"
_DIMS = re.compile(rf"{_NAME}|\({_NAME} +{_NAME}\)")


def _entries(mapping: Mapping[str, str] | Entries | None) -> Entries:
    pairs = mapping.items() if isinstance(mapping, Mapping) else mapping or ()
    return tuple((f" {ARROW} ".join(map(str.strip, key.split(ARROW))), text) for key, text in pairs)


def is_map(pattern: str) -> bool:
    """Whether an entry is of what products make of what, `N_H -> D`, and not of names."""
    return ARROW in pattern


def is_meant(pattern: str, names: Sequence[str]) -> bool:
    """Whether an entry's pattern means a value with these names and maps."""
    return any(is_map(name) == is_map(pattern) and fnmatchcase(name, pattern) for name in names)


@dataclass(frozen=True)
class Plan:
    """A parallel plan, printable and writable by hand; `a + b` is both."""

    name: str = "plan"
    dims: Mapping[str, str] | Entries = ()
    inputs: Mapping[str, str] | Entries = ()
    parameters: Mapping[str, str] | Entries = ()
    used: Mapping[str, str] | Entries = ()
    state: Mapping[str, str] | Entries = ()
    gradients: Mapping[str, str] | Entries = ()
    residual: Mapping[str, str] | Entries = ()
    activations: Mapping[str, str] | Entries = ()
    axes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for kind in ("dims", *_KINDS):
            object.__setattr__(self, kind, _entries(getattr(self, kind)))
        object.__setattr__(self, "dims", tuple(_merged(self.entries("dims")).items()))
        axes = dict.fromkeys(self.lies)
        for kind in _KINDS:
            for _, split in self.entries(kind):
                axes |= dict.fromkeys(axes_named(split))
        object.__setattr__(self, "axes", tuple(axes))

    def __add__(self, other: Plan) -> Plan:
        both = {kind: (*self.entries(kind), *other.entries(kind)) for kind in ("dims", *_KINDS)}
        return replace(Plan(f"{self.name}+{other.name}"), **both)  # type: ignore[arg-type]

    def __str__(self) -> str:
        lines = [f"plan {self.name}"]
        for kind in ("dims", *_KINDS):
            lines += [f"  {kind:<12}{key:<24}{text}" for key, text in self.entries(kind)]
        return "\n".join(lines)

    @property
    def lies(self) -> Mapping[str, tuple[tuple[str, ...], ...]]:
        """Per axis the dims that it may split, the first first: (D_ff,), (N_KV, G), …"""
        return {axis: _read_dims(axis, dims) for axis, dims in self.entries("dims")}

    def axes_over(self, name: str) -> list[str]:
        """The axes that may split a dim of that name."""
        return [axis for axis, dims in self.lies.items() if any(fnmatchcase(name, each[0]) for each in dims)]

    def splits(self, name: str) -> bool:
        """Whether it says of a dim of that name, anywhere, that it is split."""
        named = re.compile(rf"\b{re.escape(name)}\|")
        return bool(self.axes_over(name)) or any(
            named.search(text) for kind in _KINDS for _, text in self.entries(kind)
        )

    def entries(self, kind: str) -> Entries:
        """The entries of one kind: `inputs`, `parameters`, …; of `dims` the axes with their dims."""
        found: Entries = getattr(self, kind)
        return found

    def matches(self, kind: str, names: Sequence[str]) -> list[str]:
        """The splits that entries of `kind` give a value with these names: its own, its aliases, and its maps."""
        entries = getattr(self, kind)
        if not entries:
            return []
        return list(dict.fromkeys(split for pattern, split in entries if is_meant(pattern, names)))

    @property
    def speaks_of_maps(self) -> bool:
        """Whether some entry is of what products make of what."""
        return any(is_map(pattern) for kind in _KINDS for pattern, _ in self.entries(kind))

    def within(self, mesh: Mesh) -> Plan:
        """This plan where axes that `mesh` lacks have one rank each: what it splits over these alone stays whole."""
        kept: dict[str, Entries] = {"dims": tuple(pair for pair in self.entries("dims") if pair[0] in mesh.sizes)}
        for kind in _KINDS:
            pairs = [(pattern, left) for pattern, split in self.entries(kind) for left in _left(kind, split, mesh)]
            kept[kind] = tuple(pairs)
        return replace(self, **kept)  # type: ignore[arg-type]


def _merged(entries: Entries) -> dict[str, str]:
    """Axes with their dims, each axis once and each of its dims, too."""
    found: dict[str, dict[str, None]] = {}
    for axis, text in entries:
        if not axis.isidentifier():
            raise LayoutError(f"{axis!r} is no mesh axis; dims are given like {{'tp': 'D_ff, N_H'}}")
        found.setdefault(axis, {}).update(dict.fromkeys(part.strip() for part in text.split(",")))
    return {axis: ", ".join(parts) for axis, parts in found.items()}


def _read_dims(axis: str, text: str) -> tuple[tuple[str, ...], ...]:
    found = []
    for part in text.split(", "):
        if not _DIMS.fullmatch(part):
            raise LayoutError(f"{part!r} names no dim to lie over {axis}; dims are given like 'D_ff, (N_KV G), N_H'")
        found.append(tuple(part.strip("()").split()))
    return tuple(found)


def _left(kind: str, split: str, mesh: Mesh) -> list[str]:
    """What of a split speaks of the axes of `mesh`: one split, none, or, to say that nothing is split, a few."""
    if split.startswith("-"):
        return [split] if split[1:] in mesh.sizes else []
    left = re.sub(r"\|(\w+)", lambda axis: axis[0] if axis[1] in mesh.sizes else "", split)
    if left == split or "|" in left:
        return [left]
    return [f"-{axis}" for axis in mesh.names] if kind == "used" else []
