"""Collectives: AR, AG, RS, A2A and the local slice (B 4.4.7).

A collective changes how a value lies on the mesh, never what it is: on one rank each is the identity, and that
is its reference kernel. What moves between ranks is the communicator's business (`graphir.backends`). Each
type rule says which layout it takes and which it makes.

Gradients. The gradient of a value lies as the value does, nothing pending. So the backward of AR is the
identity, of RS and of a slice AG, of AG a slice, of A2A the A2A back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphir.errors import TypeCheckError
from graphir.ir.layout import REDUCTIONS, Layout
from graphir.ir.operator import Array, Attributes, GradientContext, Xp, operator
from graphir.ir.traits import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, LOCAL_SLICE, REDUCE_SCATTER
from graphir.ir.value import Value

_SAME = "X[*b] any -> Y[*b] same"


def _change(layout: Layout, dims: dict[int, tuple[str, ...]], settled: Sequence[str] = ()) -> Layout:
    splits = [dims.get(i, axes) for i, axes in enumerate(layout.splits)]
    return Layout(splits, [(axis, kind) for axis, kind in layout.pending if axis not in settled])


def _dim(layout: Layout, dim: int) -> tuple[str, ...]:
    if not 0 <= dim < len(layout.splits):
        raise TypeCheckError(f"dim {dim} is none of the {len(layout.splits)} dims of the operand")
    return layout.splits[dim]


def _require_minor(layout: Layout, dim: int, axis: str) -> None:
    axes = _dim(layout, dim)
    if not axes or axes[-1] != axis:
        found = "|".join(axes) or "nothing"
        raise TypeCheckError(f"dim {dim} must be split over {axis}, innermost; it is split over {found}")


def _require_pending(layout: Layout, axis: str, reduce: str) -> None:
    if reduce not in REDUCTIONS:
        raise TypeCheckError(f"reduce={reduce!r} is none of {', '.join(REDUCTIONS)}")
    kind = dict(layout.pending).get(axis)
    if kind != reduce:
        found = f"a pending {kind}" if kind else "not pending"
        raise TypeCheckError(f"its operand must be a pending {reduce} over {axis}; it is {found} there")


def _after_all_reduce(layout: Layout, attributes: Attributes) -> Layout:
    if not attributes["axes"]:
        raise TypeCheckError("axes=() names no axis to reduce over")
    for axis in attributes["axes"]:
        _require_pending(layout, axis, attributes["reduce"])
    return _change(layout, {}, attributes["axes"])


def _after_all_gather(layout: Layout, attributes: Attributes) -> Layout:
    dim, axis = attributes["dim"], attributes["axis"]
    _require_minor(layout, dim, axis)
    return _change(layout, {dim: layout.splits[dim][:-1]})


def _after_reduce_scatter(layout: Layout, attributes: Attributes) -> Layout:
    dim, axis = attributes["dim"], attributes["axis"]
    _require_pending(layout, axis, attributes["reduce"])
    return _change(layout, {dim: (*_dim(layout, dim), axis)}, [axis])


def _after_slice(layout: Layout, attributes: Attributes) -> Layout:
    dim, axis = attributes["dim"], attributes["axis"]
    if axis in layout.axes:
        raise TypeCheckError(f"its operand must be replicated over {axis} to be sliced there; it is {layout}")
    return _change(layout, {dim: (*_dim(layout, dim), axis)})


def _after_all_to_all(layout: Layout, attributes: Attributes) -> Layout:
    source, target, axis = attributes["source"], attributes["target"], attributes["axis"]
    if source == target:
        raise TypeCheckError(f"source and target are both dim {source}")
    _require_minor(layout, source, axis)
    return _change(layout, {source: layout.splits[source][:-1], target: (*_dim(layout, target), axis)})


@operator("AR", _SAME, collective=ALL_REDUCE, relayout=_after_all_reduce, linear="X", examples=())
def all_reduce(xp: Xp, X: Array, *, axes: tuple[str, ...], reduce: str = "sum") -> Array:
    """Y: the sum (max, mean) of what the ranks along `axes` hold, on each of them. Pending in, replicated out."""
    return X


@operator("AG", _SAME, collective=ALL_GATHER, relayout=_after_all_gather, linear="X", examples=())
def all_gather(xp: Xp, X: Array, *, dim: int, axis: str) -> Array:
    """Y: the blocks of X along `axis` side by side in `dim`, on each rank. Split in, replicated out."""
    return X


@operator("RS", _SAME, collective=REDUCE_SCATTER, relayout=_after_reduce_scatter, linear="X", examples=())
def reduce_scatter(xp: Xp, X: Array, *, dim: int, axis: str, reduce: str = "sum") -> Array:
    """Y: of the sum (max, mean) over `axis`, each rank's block of `dim`. Pending in, split out."""
    return X


@operator("A2A", _SAME, collective=ALL_TO_ALL, relayout=_after_all_to_all, linear="X", examples=())
def all_to_all(xp: Xp, X: Array, *, source: int, target: int, axis: str) -> Array:
    """Y: `axis` splits the dim `target` instead of `source`; each rank sends each other one block."""
    return X


@operator("SLICE", _SAME, collective=LOCAL_SLICE, relayout=_after_slice, linear="X", examples=())
def local_slice(xp: Xp, X: Array, *, dim: int, axis: str) -> Array:
    """Y: each rank's own block of `dim` along `axis`. Replicated in, split out; nothing is sent."""
    return X


@operator("identity", _SAME, symbol="=", elementwise=True, linear="X")
def identity(xp: Xp, X: Array) -> Array:
    """Y = X, under another name."""
    return X


@identity.gradient
def _d_identity(context: GradientContext) -> list[Value]:
    return [identity(context.gradient, name=context.names[0])]


@all_reduce.gradient
def _d_all_reduce(context: GradientContext) -> list[Value]:
    if context.attributes["reduce"] == "max":
        raise TypeCheckError("an all-reduce of maxima has no gradient; reduce sums or means")
    return [identity(context.gradient, name=context.names[0])]


@all_gather.gradient
def _d_all_gather(context: GradientContext) -> list[Value]:
    return [local_slice(context.gradient, name=context.names[0], **_where(context))]


@reduce_scatter.gradient
def _d_reduce_scatter(context: GradientContext) -> list[Value]:
    return [all_gather(context.gradient, name=context.names[0], **_where(context))]


@local_slice.gradient
def _d_slice(context: GradientContext) -> list[Value]:
    return [all_gather(context.gradient, name=context.names[0], **_where(context))]


@all_to_all.gradient
def _d_all_to_all(context: GradientContext) -> list[Value]:
    source, target, axis = (context.attributes[name] for name in ("source", "target", "axis"))
    return [all_to_all(context.gradient, source=target, target=source, axis=axis, name=context.names[0])]


def _where(context: GradientContext) -> dict[str, Any]:
    return {name: context.attributes[name] for name in ("dim", "axis")}
