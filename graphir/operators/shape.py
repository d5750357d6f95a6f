"""Operators that move elements and compute nothing: T, R, C, BC, and Σ, BC's backward (A 1.3.3, B 4.4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphir.errors import TypeCheckError
from graphir.ir.assignment import write_split
from graphir.ir.dims import Dim, DimLike, as_dim, dims
from graphir.ir.operator import Array, GradientContext, Size, Xp, operator
from graphir.ir.types import require_rank
from graphir.ir.value import Value, require_value

_B, _S, _H = dims("b s h")


def _reshaped(Y: Array, shape: tuple[int, ...], attributes: Mapping[str, Any]) -> Array:
    return Y.reshape(shape)


def _inverse_order(perm: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(perm.index(i) for i in range(len(perm)))


# -- T: transpose -----------------------------------------------------------------------------------------


def _letters(count: int) -> list[str]:
    return [f"a{i}" for i in range(require_rank(count))]


def _transpose_signature(perm: tuple[int, ...]) -> str:
    if sorted(perm) != list(range(len(perm))):
        raise TypeCheckError(f"perm={perm} is no permutation of {tuple(range(len(perm)))}")
    letters = _letters(len(perm))
    return f"X[{' '.join(letters)}] any -> Y[{' '.join(letters[i] for i in perm)}] same"


@operator(
    "T",
    _transpose_signature,
    linear="X",
    view=True,
    inverse=lambda Y, shape, attributes: Y.transpose(_inverse_order(attributes["perm"])),
    examples=({"perm": (1, 0)}, {"perm": (0, 2, 1, 3)}, {"perm": (2, 0, 1)}),
)
def transpose_op(xp: Xp, X: Array, *, perm: tuple[int, ...]) -> Array:
    """Y: the dims of X in the order `perm`. Backward: T with the inverse order."""
    return X.transpose(perm)


@transpose_op.gradient
def _d_transpose(context: GradientContext) -> list[Value]:
    perm = _inverse_order(context.attributes["perm"])
    return [transpose_op(context.gradient, perm=perm, name=context.names[0])]


def transpose(X: Value, perm: Sequence[int] | None = None, name: str | None = None) -> Value:
    """T: the dims of X in the order `perm`; without it, the last two swapped, as in Kᵀ [B, N_H, D_h, S]."""
    require_value(X)
    if perm is None:
        perm = (*range(X.type.rank - 2), X.type.rank - 1, X.type.rank - 2)
    return transpose_op(X, perm=tuple(perm), name=name)


# -- R: reshape -------------------------------------------------------------------------------------------


def _order(side: str) -> list[str]:
    """The factors of one side of a pattern, in order."""
    return side.replace("(", " ").replace(")", " ").split()


def _pattern_signature(pattern: str) -> str:
    left, arrow, right = pattern.partition("->")
    if not arrow:
        raise TypeCheckError(f"pattern {pattern!r} has no '->': write it like 'b s (h d) -> b s h d'")
    if _order(left) != _order(right):
        raise TypeCheckError(f"R keeps the order of its factors, but {pattern!r} changes it; use T for that")
    return f"X[{left.strip()}] any -> Y[{right.strip()}] same"


def _named_sizes(attributes: Mapping[str, Any]) -> Mapping[str, Dim]:
    _check_paired(attributes, "factors", "sizes")
    return dict(zip(attributes["factors"], attributes["sizes"], strict=True))


@operator(
    "R",
    _pattern_signature,
    linear="X",
    view=True,
    inverse=_reshaped,
    factors=_named_sizes,
    examples=(
        {"pattern": "b s (h d) -> b s h d", "factors": ("h",), "sizes": (_H,)},
        {"pattern": "b s h d -> b s (h d)"},
    ),
)
def reshape_op(
    xp: Xp,
    X: Array,
    *,
    pattern: str,
    factors: tuple[str, ...] = (),
    sizes: tuple[Size, ...] = (),
    shape: tuple[int, ...],
) -> Array:
    """Y: X with a dim split into factors or factors merged into a dim, elements in their order.

    Backward: R with the pattern turned round.
    """
    return X.reshape(shape)


@reshape_op.gradient
def _d_reshape(context: GradientContext) -> list[Value]:
    left, _, right = context.attributes["pattern"].partition("->")
    (X,) = context.inputs
    back = f"{right.strip()} -> {left.strip()}"
    sizes = reshape_op.infer((X.type,), context.attributes).factors
    return [reshape(context.gradient, back, name=context.names[0], **sizes)]


def reshape(X: Value, pattern: str, name: str | None = None, **sizes: DimLike) -> Value:
    """R: `reshape(X, "b s (h d) -> b s h d", h=N_H)` splits [B, S, D] into [B, S, N_H, D/N_H], or merges.

    Of a split's factors all but one need a size; the order of factors must stay as it is (T permutes).
    """
    if not isinstance(pattern, str):
        raise TypeCheckError(
            f"a reshape is told by a pattern like 'b s (h d) -> b s h d', with h=N_H for the new dim, "
            f"not by a {type(pattern).__name__}"
        )
    _pattern_signature(pattern)
    left = pattern.partition("->")[0]
    factors = _order(left)
    inside = [part.split(")")[0].split() for part in left.split("(")[1:]]
    split = {factor for group in inside for factor in group}
    unknown = set(sizes) - set(factors)
    if unknown:
        raise TypeCheckError(f"{', '.join(sorted(unknown))} is no factor of {pattern!r}")
    kept = {factor: as_dim(size) for factor, size in sizes.items() if factor in split}
    return reshape_op(X, pattern=pattern, factors=tuple(kept), sizes=tuple(kept.values()), name=name)


def flatten(X: Value, name: str | None = None, first: int = 0) -> Value:
    """R of X [*b, k] to [(*b), k]: all dims from `first` on but the last merged, as a weight's gradient needs it."""
    letters = _letters(X.type.rank - 1)
    before, merged = (" ".join(part) for part in (letters[:first], letters[first:]))
    return reshape(X, f"{before} {merged} k -> {before} ({merged}) k".replace("  ", " ").strip(), name=name)


# -- C: concatenate heads ---------------------------------------------------------------------------------


@operator("C", "X[*b h d] -> Y[*b (h d)]", linear="X", view=True, inverse=_reshaped)
def concatenate(xp: Xp, X: Array, *, shape: tuple[int, ...]) -> Array:
    """Y [B, S, D]: the heads of X [B, S, N_H, D_h] side by side (A 1.3.3)."""
    return X.reshape(shape)


@concatenate.backward(
    "dC", "dY[*b (h d)] -> dX[*b h d]", linear="dY", view=True, inverse=_reshaped, examples=({"h": _H},)
)
def d_concatenate(xp: Xp, dY: Array, *, h: Size, shape: tuple[int, ...]) -> Array:
    """dX [B, S, N_H, D_h]: dY [B, S, D] split into heads again."""
    return dY.reshape(shape)


# -- BC and Σ: each other's backward ----------------------------------------------------------------------


def _broadcast_signature(axes: tuple[int, ...], rank: int) -> str:
    letters = _letters(rank)
    if len(set(axes)) != len(axes) or not all(0 <= axis < rank for axis in axes):
        raise TypeCheckError(f"axes={axes} are not distinct positions in a result of rank {rank}")
    kept = " ".join(letter for i, letter in enumerate(letters) if i not in axes)
    return f"X[{kept}] -> Y[{' '.join(letters)}]"


def _check_paired(attributes: Mapping[str, Any], names: str, sizes: str) -> None:
    if len(attributes[names]) != len(attributes[sizes]):
        raise TypeCheckError(
            f"{names} and {sizes} go in pairs, but there are {len(attributes[names])} and {len(attributes[sizes])}"
        )


def _new_sizes(attributes: Mapping[str, Any]) -> Mapping[str, Dim]:
    _check_paired(attributes, "axes", "dims")
    return {f"a{axis}": size for axis, size in zip(attributes["axes"], attributes["dims"], strict=True)}


@operator(
    "BC",
    _broadcast_signature,
    linear="X",
    view=True,
    factors=_new_sizes,
    examples=(
        {"dims": (_B, _S), "axes": (0, 1), "rank": 3},
        {"dims": (_S,), "axes": (2,), "rank": 3},
        {"dims": (_B,), "axes": (0,), "rank": 1},
    ),
)
def broadcast_op(
    xp: Xp,
    X: Array,
    *,
    dims: tuple[Size, ...],
    axes: tuple[int, ...],
    rank: int,
    shape: tuple[int, ...],
) -> Array:
    """Y: X repeated along the new dims `dims`, which stand at the positions `axes` of Y.

    Backward: Σ over the same positions, dX = Σ dY.
    """
    # The dots keep a scalar an array, and so a view.
    index = (*(None if i in axes else slice(None) for i in range(rank)), ...)
    return xp.broadcast_to(X[index], shape)


def _sum_signature(axes: tuple[int, ...], rank: int) -> str:
    left, _, right = _broadcast_signature(axes, rank).partition(" -> ")
    return f"X[{right[2:-1]}] -> Y[{left[2:-1]}]"


@operator(
    "sum",
    _sum_signature,
    symbol="Σ",
    linear="X",
    flops=1,
    examples=({"axes": (0, 1), "rank": 3}, {"axes": (1,), "rank": 2}, {"axes": (0, 1), "rank": 2}),
)
def sum_op(xp: Xp, X: Array, *, axes: tuple[int, ...], rank: int) -> Array:
    """Y: X summed over the dims at the positions `axes`. Backward: BC to the same positions."""
    return X.sum(axis=axes)


@broadcast_op.gradient
def _d_broadcast(context: GradientContext) -> list[Value]:
    axes, rank = context.attributes["axes"], context.attributes["rank"]
    return [sum_op(context.gradient, axes=axes, rank=rank, name=context.names[0])]


@sum_op.gradient
def _d_sum(context: GradientContext) -> list[Value]:
    axes, rank = context.attributes["axes"], context.attributes["rank"]
    (X,) = context.inputs
    dims = tuple(X.shape[axis] for axis in axes)
    split = _split_of_new_dims(axes, X)
    return [broadcast_op(context.gradient, dims=dims, axes=axes, rank=rank, split=split, name=context.names[0])]


def _split_of_new_dims(axes: Sequence[int], like: Value) -> tuple[str, ...]:
    """How BC's new dims are split if its result is to lie as `like` does."""
    factors = {f"a{axis}": like.type.layout.splits[axis] for axis in axes}
    return write_split(factors, frozenset(factors))


def broadcast(
    X: Value,
    dims: Sequence[DimLike],
    name: str | None = None,
    axes: Sequence[int] | None = None,
    like: Value | None = None,
) -> Value:
    """BC_dims(X): `broadcast(b, (B, S))` makes [B, S, D] of b [D]; `axes` places the new dims elsewhere.

    In a graph that is sharded by hand, `like` is a value of the result's shape whose layout the new dims take.
    """
    if isinstance(dims, Dim | int | str):
        raise TypeCheckError(f"the new dims must be a tuple, (B, S) or (B,), not {dims!r}")
    axes = tuple(range(len(dims))) if axes is None else tuple(axes)
    rank = require_value(X).type.rank + len(dims)
    split = () if like is None else _split_of_new_dims(axes, like)
    return broadcast_op(X, dims=tuple(map(as_dim, dims)), axes=axes, rank=rank, split=split, name=name)


def reduce_sum(X: Value, axes: Sequence[int] | int | None = None, name: str | None = None) -> Value:
    """Σ of X over the dims at `axes`, negative ones counted from the end; over all of them without it."""
    rank = require_value(X).type.rank
    axes = range(rank) if axes is None else (axes,) if isinstance(axes, int) else axes
    outside = [axis for axis in axes if not -rank <= axis < rank]
    if outside:
        raise TypeCheckError(f"X is {X.type}, so it has no dim at {', '.join(map(str, outside))}")
    return sum_op(X, axes=tuple(axis % rank for axis in axes), rank=rank, name=name)
