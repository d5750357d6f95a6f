"""Plans: which values lie how. All else follows by rule.

Notation. A plan maps glob patterns of full names (`layer*/mha/W_Q`, `*/W_Q`) to a *split*:

    [D, D|tp]     by position; the dims' names are checked, `_` stands for any
    B|dp          every dim called B; V|tp splits V_pad, too
    ?|dp          the first dim that the axis divides evenly; a tensor that has none stays whole
    -dp           for `used` and `activations`: as it lies otherwise, but not split over dp
    =             for `gradients`: as the parameter is stored

Several entries may speak of one value: their axes add up, `?` last. A plan speaks of `inputs`, `parameters`
(as they are stored), `used` (as a parameter is where a node reads it, if otherwise), `state`, `gradients` (of a
parameter, by the parameter's name, before the update) and `activations`. What is not named is replicated, or
lies as what it is computed from; state lies as its parameter does. An entry for an activation speaks only of the
axes it names: `S|tp` leaves a batch that is split over dp as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache

from graphir.errors import LayoutError
from graphir.ir.dims import Dim, Sizes
from graphir.ir.layout import Layout, Mesh
from graphir.ir.value import Value

Entries = tuple[tuple[str, str], ...]

_KINDS = ("inputs", "parameters", "used", "state", "gradients", "activations")


def _entries(mapping: Mapping[str, str] | Entries | None) -> Entries:
    return tuple(mapping.items()) if isinstance(mapping, Mapping) else tuple(mapping or ())


@dataclass(frozen=True)
class Plan:
    """A parallel plan, printable and writable by hand; `a + b` is both."""

    name: str = "plan"
    inputs: Mapping[str, str] | Entries = ()
    parameters: Mapping[str, str] | Entries = ()
    used: Mapping[str, str] | Entries = ()
    state: Mapping[str, str] | Entries = ()
    gradients: Mapping[str, str] | Entries = ()
    activations: Mapping[str, str] | Entries = ()
    axes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        axes: dict[str, None] = {}
        for kind in _KINDS:
            entries = _entries(getattr(self, kind))
            object.__setattr__(self, kind, entries)
            for _, split in entries:
                axes |= dict.fromkeys(re.findall(r"\|(\w+)", split))
        object.__setattr__(self, "axes", tuple(axes))

    def __add__(self, other: Plan) -> Plan:
        merged = Plan(f"{self.name}+{other.name}")
        return replace(merged, **{kind: (*self.entries(kind), *other.entries(kind)) for kind in _KINDS})  # type: ignore[arg-type]

    def __str__(self) -> str:
        lines = [f"plan {self.name}"]
        for kind in _KINDS:
            for pattern, split in self.entries(kind):
                lines.append(f"  {kind:<12}{pattern:<24}{split}")
        return "\n".join(lines)

    def entries(self, kind: str) -> Entries:
        """The entries of one kind: `inputs`, `parameters`, …"""
        return _entries(getattr(self, kind))

    def matches(self, kind: str, names: Sequence[str]) -> list[str]:
        """The splits that entries of `kind` give a value with these names (its own and its aliases)."""
        entries = getattr(self, kind)
        if not entries:
            return []
        found = (split for pattern, split in entries if any(fnmatchcase(n, pattern) for n in names))
        return list(dict.fromkeys(found))

    def within(self, mesh: Mesh) -> Plan:
        """This plan where axes that `mesh` lacks have one rank each: what it splits over these alone stays whole."""
        kept: dict[str, Entries] = {}
        for kind in _KINDS:
            pairs = [(pattern, left) for pattern, split in self.entries(kind) for left in _left(kind, split, mesh)]
            kept[kind] = tuple(pairs)
        return replace(self, **kept)  # type: ignore[arg-type]


def _left(kind: str, split: str, mesh: Mesh) -> list[str]:
    """What of a split speaks of the axes of `mesh`: one split, none, or, to say that nothing is split, a few."""
    if split.startswith("-"):
        return [split] if split[1:] in mesh.sizes else []
    left = re.sub(r"\|(\w+)", lambda axis: axis[0] if axis[1] in mesh.sizes else "", split)
    if left == split or "|" in left:
        return [left]
    return [f"-{axis}" for axis in mesh.names] if kind == "used" else []


# -- reading a split --------------------------------------------------------------------------------------


def read_splits(value: Value, splits: Sequence[str], mesh: Mesh, sizes: Sizes | None) -> Layout:
    """The layout that `splits` together give `value`.

    LayoutError for a malformed split, one for another shape, or an axis that occurs twice.
    """
    found: list[list[str]] = [[] for _ in value.shape]
    for split in sorted(splits, key=lambda text: text.startswith("?")):
        for position, axes in _read(value, split, found, mesh, sizes):
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
    dropped = {split[1:] for split in splits if split.startswith("-")}
    layout = read_splits(value, [split for split in splits if not split.startswith("-")], mesh, sizes)
    return Pin(frozenset(dropped | set(layout.split_axes)), tuple(enumerate(layout.splits)))


def _read(
    value: Value, split: str, found: list[list[str]], mesh: Mesh, sizes: Sizes | None
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
            result.append((position, axes))
        return result
    name, *axes = text.split("|")
    if not name or not axes or not all(map(str.isidentifier, axes)):
        raise _malformed(split, value)
    if name == "?":
        for position, dim in enumerate(value.shape):
            if _divides(dim, [*found[position], *axes], mesh, sizes):
                return [(position, axes)]
        return []
    return [(position, axes) for position in _dims_called(name, value)]


def speaks_of(split: str, value: Value) -> bool:
    """Whether `value` has the dim that a split such as `V|tp` names; the other forms name none, or check it."""
    name, *axes = split.strip().split("|")
    return name.startswith(("[", "?")) or not axes or bool(_dims_called(name, value))


def _dims_called(name: str, value: Value) -> list[int]:
    return [position for position, dim in enumerate(value.shape) if str(dim) in (name, f"{name}_pad")]


def _malformed(split: str, value: Value) -> LayoutError:
    return LayoutError(f"split {split!r} of {value.name} is not of the form B|dp, [B|dp, S|cp, D] or ?|dp")


def _divides(dim: Dim, axes: Sequence[str], mesh: Mesh, sizes: Sizes | None) -> bool:
    """Whether the axes divide the dim evenly, as far as sizes are known."""
    return sizes is None or dim.size(sizes) % mesh.count(axes) == 0


# -- ready-made plans -------------------------------------------------------------------------------------

_COLUMN = "[_, _|tp]"
_ROW = "[_|tp, _]"
_ATTENTION = {f"*mha/W_{which}": _COLUMN for which in "QKV"} | {f"*mha/b_{which}": "[_|tp]" for which in "QKV"}
_MLP = {"*mlp/W_up": _COLUMN, "*mlp/b_up": "[_|tp]", "*mlp/W_down": _ROW}

PLANS: Mapping[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("single"),
        # Each replica takes its part of the batch; gradients are summed before the update (A 3, B 7).
        Plan("data", inputs={"*": "B|dp"}),
        # Columns into heads and D_ff, rows back (B 6; Shoeybi et al., 2019).
        Plan("megatron", parameters={**_ATTENTION, "*mha/W_O": _ROW, **_MLP}),
        # A 2.2: W_O by columns as well, its output gathered.
        Plan(
            "column",
            parameters={**_ATTENTION, "*mha/W_O": _COLUMN, **_MLP},
            activations={"*mha/AO_lin": "-tp"},
        ),
        # Embedding, output projection and cross-entropy with the vocabulary split.
        Plan("vocabulary", parameters={"*/E": "V|tp", "*/W_lm": "V|tp", "*/b_lm": "V|tp"}),
        # Megatron's sequence parallelism: outside of the blocks' inner parts, S is split over tp (Korthikanti, 2022).
        Plan(
            "sequence",
            parameters={**_ATTENTION, "*mha/W_O": _ROW, **_MLP},
            activations={
                "embedding/X": "S|tp",
                "*/X_mid": "S|tp",
                "*/X_out": "S|tp",
            },
        ),
        # ZeRO (Rajbhandari et al., 2020): state, then gradients, then parameters split over dp.
        Plan("zero1", inputs={"*": "B|dp"}, state={"*": "?|dp"}, gradients={"*": "="}),
        Plan("zero2", inputs={"*": "B|dp"}, state={"*": "?|dp"}),
        Plan("zero3", inputs={"*": "B|dp"}, parameters={"*": "?|dp"}, used={"*": "-dp"}),
        # Context parallelism: the sequence split everywhere, keys and values gathered.
        Plan("context", inputs={"T": "S|cp", "Y": "S|cp"}),
    )
}


def find_plan(name: str) -> Plan:
    """The ready-made plan of that name, or the sum of several: `data+sequence+zero1`."""
    result = None
    for part in name.split("+"):
        if part not in PLANS:
            raise LayoutError(
                f"no plan is called {part!r}; there are {', '.join(PLANS)}, and sums such as data+megatron"
            )
        result = PLANS[part] if result is None else result + PLANS[part]
    assert result is not None
    return replace(result, name=name)


#: The plan that uses an axis where none is named.
DEFAULTS: Mapping[str, str] = {"dp": "data", "cp": "context", "tp": "megatron"}


def complete_plan(name: str | None, mesh: Mesh) -> Plan:
    """The plan called `name`, with the usual one added for each axis of the mesh that it does not use.

    `complete_plan("sequence", Mesh(dp=2, tp=3))` is data+sequence. LayoutError for an axis that nothing uses.
    """
    used = find_plan(name).axes if name else ()
    unused = [axis for axis in mesh.names if axis not in used]
    for axis in unused:
        if axis not in DEFAULTS:
            raise LayoutError(f"no plan uses the mesh axis {axis}; write one, or use {', '.join(DEFAULTS)}")
    names = [*(DEFAULTS[axis] for axis in unused), *([name] if name else [])]
    return find_plan("+".join(names) or "single")
