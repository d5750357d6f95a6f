"""Meshes and layouts: how a value lies on the ranks of a parallel machine.

Notation. A *mesh* names the axes along which ranks are counted, `Mesh(dp=2, tp=3)`: six ranks. A *layout*
says of one value, per dim, which axes split it, and over which axes it is *pending*: each rank holds a term of
a sum (or max, or mean) that has not been formed yet. On all other axes it is replicated.

    [B|dp, S, D]                    the batch split over dp
    [B|dp, S, D] pending sum(tp)    and each tp rank holds a term of the sum
    [D|dp|tp, D_ff]                 D split over dp, each part split over tp

The size of axis `tp` is written N_T, of `dp` N_DP, as the documents do, and N_ + the axis's name for all else.

Where tp has more ranks than there are heads of keys, N_KV, it is taken apart into two axes:

    tp.N_KV        over which N_KV lies one by one: N_KV ranks
    tp.per_N_KV    over which they lie alike: N_T/N_KV ranks, which may share what belongs to each, G

    [D, N_KV*G*D_h|tp.N_KV|tp.per_N_KV]    heads of queries, all split
    [D, N_KV*D_h|tp.N_KV]                  heads of keys, each on N_T/N_KV ranks
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from weakref import WeakValueDictionary

from graphir.errors import LayoutError
from graphir.ir.dims import RESERVED, Dim, dim, product, whole

REDUCTIONS = ("sum", "max", "mean")
_SYMBOLS = {"tp": "N_T", "dp": "N_DP"}
_PER = "per_"
#: More ranks than any machine has, and axes than they can be counted along.
MOST_RANKS, MOST_AXES = 1 << 20, 16


class Mesh:
    """Named axes and their sizes, the first the slowest to change from rank to rank. Immutable, hashable."""

    __slots__ = ("__dict__", "axes")

    def __init__(self, axes: Mapping[str, int] | Iterable[tuple[str, int]] = (), **named: int) -> None:
        pairs = (*dict(axes).items(), *named.items())
        checked: list[tuple[str, int]] = []
        for name, size in pairs:
            if not _is_axis(name) or name in RESERVED or name in REDUCTIONS:
                raise LayoutError(f"{name!r} cannot name a mesh axis; use a word such as dp or tp")
            count = whole(size)
            if count is None or count < 1:
                raise LayoutError(f"mesh axis {name} has {size!r} ranks; it needs a positive number")
            checked.append((name, count))
        if len({name for name, _ in pairs}) < len(pairs):
            raise LayoutError(f"a mesh names each axis once: {', '.join(name for name, _ in pairs)}")
        self.axes: tuple[tuple[str, int], ...] = tuple(checked)
        if len(self.axes) > MOST_AXES or self.size > MOST_RANKS:
            raise LayoutError(f"a mesh has at most {MOST_AXES} axes and {MOST_RANKS:,} ranks; this one would have more")

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Ranks along each axis."""
        return dict(self.axes)

    @cached_property
    def symbols(self) -> Mapping[str, int]:
        """The numbers of the names that sizes of axes are written in: N_T, N_DP, …"""
        found: dict[str, int] = {}
        for name, size in self.axes:
            whole = _symbol(name.partition(".")[0])
            found[whole] = found.get(whole, 1) * size
        return found | {dim: self.sizes[axis] for axis in self.names if (dim := filled(axis))}

    @property
    def names(self) -> tuple[str, ...]:
        """The axes, slowest first."""
        return tuple(name for name, _ in self.axes)

    def parts(self, axis: str) -> tuple[str, ...]:
        """What has become of an axis: itself, or the two that it was taken apart into; none if there is no such."""
        return tuple(name for name in self.names if name == axis or name.startswith(f"{axis}."))

    def apart(self, axis: str, dim: str, size: int) -> Mesh:
        """This mesh with `axis` taken apart: over the first part lies `dim`, which is of that size, one by one."""
        inner = (f"{axis}.{dim}", size), (f"{axis}.{_PER}{dim}", self.sizes[axis] // size)
        return Mesh([pair for each in self.axes for pair in (inner if each[0] == axis else (each,))])

    @cached_property
    def size(self) -> int:
        """The number of ranks."""
        return math.prod(size for _, size in self.axes)

    @cached_property
    def ranks(self) -> tuple[Mapping[str, int], ...]:
        """Each rank's coordinates, in rank order."""
        indices = itertools.product(*(range(size) for _, size in self.axes))
        return tuple(dict(zip(self.names, index, strict=True)) for index in indices)

    def coordinates(self, rank: int) -> Mapping[str, int]:
        """One rank's coordinates."""
        found: dict[str, int] = {}
        for name, size in reversed(self.axes):
            rank, found[name] = divmod(rank, size)
        return {name: found[name] for name in self.names}

    def groups(self, axes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The sets of ranks that differ along `axes` only, each ordered by those axes, the first major."""
        found: dict[tuple[int, ...], list[int]] = {}
        for rank, coordinates in enumerate(self.ranks):
            others = tuple(coordinates[name] for name in self.names if name not in axes)
            found.setdefault(others, []).append(rank)
        order = lambda rank: tuple(self.ranks[rank][axis] for axis in axes)  # noqa: E731
        return tuple(tuple(sorted(group, key=order)) for group in found.values())

    def count(self, axes: Iterable[str]) -> int:
        """The number of ranks along several axes together."""
        result = 1
        for axis in axes:
            result *= self.sizes[axis]
        return result

    def require_axes(self, layout: Layout) -> None:
        """LayoutError if `layout` speaks of axes that are none of this mesh's."""
        if not self.sizes.keys() >= layout.axes:
            missing = [axis for axis in (*layout.split_axes, *layout.pending_axes) if axis not in self.sizes]
            needed = ", ".join(f"{axis}=…" for axis in missing)
            raise LayoutError(
                f"its layout is over {' and '.join(missing)}, but the graph's mesh is {self}; "
                f"give the graph a mesh with {needed}, or lay the value out otherwise"
            )

    def describe(self, rank: int) -> str:
        """`rank 4 (dp=1, tp=1)`."""
        return f"rank {rank} ({', '.join(f'{axis}={i}' for axis, i in self.coordinates(rank).items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and self.axes == other.axes

    def __hash__(self) -> int:
        return hash(self.axes)

    def __str__(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in self.axes) or "one rank"

    def __repr__(self) -> str:
        return f"Mesh({self})"


def axis_symbol(axis: str) -> Dim:
    """The size of a mesh axis as the documents write it: N_T for tp, N_DP for dp, N_KV for tp.N_KV."""
    whole, _, part = axis.partition(".")
    if part.startswith(_PER):
        return dim(_symbol(whole)) / dim(part.removeprefix(_PER))
    return dim(part or _symbol(whole))


def filled(axis: str) -> str:
    """The dim that lies over an axis one by one: N_KV over tp.N_KV; empty of other axes."""
    part = axis.partition(".")[2]
    return "" if part.startswith(_PER) else part


def _symbol(axis: str) -> str:
    return _SYMBOLS.get(axis, f"N_{axis.upper()}")


def _is_axis(name: str) -> bool:
    whole, dot, part = name.partition(".")
    return whole.isidentifier() and (not dot or part.isidentifier())


class Layout:
    """How one value lies on a mesh: `splits`, per dim the axes that split it, the major first; `pending`, the
    axes over which a reduction is due, each with its kind. Immutable, hashable.

    Equal layouts are one object as long as somebody holds it, unless two threads made it at once: passes compare and
    look up layouts all the time, and there are few of them.
    """

    __slots__ = ("__weakref__", "_hash", "axes", "is_replicated", "pending", "pending_axes", "split_axes", "splits")

    splits: tuple[tuple[str, ...], ...]
    pending: tuple[tuple[str, str], ...]
    #: All axes that split some dim.
    split_axes: tuple[str, ...]
    #: All axes over which a reduction is due.
    pending_axes: tuple[str, ...]
    #: All axes on which ranks hold different things.
    axes: frozenset[str]
    #: Whether every rank holds everything.
    is_replicated: bool
    _hash: int

    def __new__(
        cls, splits: Iterable[Iterable[str]], pending: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    ) -> Layout:
        key = tuple(map(tuple, splits)), tuple(sorted(dict(pending).items()))
        return _LAYOUTS.get(key) or _LAYOUTS.setdefault(key, cls._make(*key))

    @classmethod
    def _make(cls, splits: tuple[tuple[str, ...], ...], pending: tuple[tuple[str, str], ...]) -> Layout:
        self = object.__new__(cls)
        self.splits, self.pending, self._hash = splits, pending, hash((splits, pending))
        self.split_axes = tuple(itertools.chain.from_iterable(splits))
        self.pending_axes = tuple(axis for axis, _ in pending)
        axes = (*self.split_axes, *self.pending_axes)
        self.axes = frozenset(axes)
        self.is_replicated = not axes
        if len(self.axes) < len(axes):
            axis, _ = Counter(axes).most_common(1)[0]
            raise LayoutError(f"mesh axis {axis} occurs twice in the layout {self}; it can do one thing only")
        for axis, reduction in pending:
            if reduction not in REDUCTIONS:
                raise LayoutError(f"{reduction!r} over {axis} is no reduction; choose from {', '.join(REDUCTIONS)}")
        return self

    @classmethod
    def replicated(cls, rank: int) -> Layout:
        """Every rank holds everything."""
        return cls(((),) * rank)

    def settled(self) -> Layout:
        """The same splits, nothing pending."""
        return Layout(self.splits) if self.pending else self

    def __reduce__(self) -> tuple[object, ...]:
        return Layout, (self.splits, self.pending)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Layout) and self.splits == other.splits and self.pending == other.pending

    def __hash__(self) -> int:
        return self._hash

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.splits)

    def __str__(self) -> str:
        return layout_text(["·"] * len(self.splits), self)

    __repr__ = __str__


_LAYOUTS: WeakValueDictionary[tuple[object, object], Layout] = WeakValueDictionary()


def layout_text(shape: Iterable[object], layout: Layout) -> str:
    """`[B|dp, S, D] pending sum(tp)`."""
    dims = ", ".join("|".join((str(each), *axes)) for each, axes in zip(shape, layout.splits, strict=True))
    pending = ", ".join(f"{reduction}({axis})" for axis, reduction in layout.pending)
    return f"[{dims}]" + (f" pending {pending}" if pending else "")


def local_shape(shape: Iterable[Dim], layout: Layout) -> tuple[Dim, ...]:
    """One rank's block of a value, as formulas: `[B/N_DP, S, D/N_T]`."""
    return tuple(
        each / product(map(axis_symbol, axes)) if axes else each
        for each, axes in zip(shape, layout.splits, strict=True)
    )
