"""Sub-axes: more ranks along an axis than heads of keys and values.

    tp=8 over (N_KV G), N_KV=4, G=6    tp.N_KV=4 over N_KV, tp.per_N_KV=2 over G

Queries are split over both. Keys and values are split over the first alone: each of their heads lies on N_T/N_KV ranks,
and its gradient, of which each of these ranks has a term, is summed over the second, as types say. Whatever else tp
splits, D_ff or V, is split over both.

Going back through X • W_K to dX, each of the ranks that share a head takes a part of its columns (`share_columns`). So
dX is a pending sum over both parts of tp, as what comes from queries is, and all of it takes one all-reduce.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphir.errors import DimError
from graphir.ir.analysis import contracted
from graphir.ir.dims import Dim, Sizes
from graphir.ir.graph import Node
from graphir.ir.layout import Mesh, filled
from graphir.ir.value import Value
from graphir.passes.sharding.logical import LogicalDims, Reading
from graphir.passes.sharding.plans import Plan
from graphir.passes.sharding.propagation import Claimed
from graphir.passes.sharding.splits import is_named


def take_apart(mesh: Mesh, plan: Plan, arguments: Iterable[Value], logical: LogicalDims, sizes: Sizes | None) -> Mesh:
    """`mesh`, with those axes taken apart that have more ranks than there are of the first dim of a product's.

    DimError, in named dims, where its ranks can be shared out neither way.
    """
    if sizes is None:
        return mesh
    readings = [reading for v in arguments for i in range(len(v.shape)) for reading in logical.readings(v, i)]
    for axis, dims in plan.lies.items():
        found = (
            (reading[0], reading[1])
            for product in dims
            for reading in readings
            if len(product) == 2 <= len(reading) and all(map(is_named, reading, product))
        )
        pair = next(found, None)
        if pair is not None and axis in mesh.sizes:
            mesh = _share(mesh, plan, axis, *pair, sizes=sizes)
        else:
            _advise(mesh, plan, axis, readings, sizes)
    return mesh


def share_columns(node: Node, followed: Claimed, mesh: Mesh, sizes: Sizes | None) -> Claimed:
    """What a d-node does that follows its node: a factor that it sums over, split over tp.N_KV, is split over both."""
    if sizes is None or not any(filled(axes[-1]) for _, axes in followed):
        return followed
    summed, taken = contracted(node), {axis for _, axes in followed for axis in axes}
    found = []
    for factor, axes in followed:
        parts = mesh.parts(axes[-1].partition(".")[0])
        if axes == parts[:1] and factor in summed and taken.isdisjoint(parts[1:]):
            columns = node.inference.factors[factor].size(sizes)
            axes = parts if columns % mesh.count(parts) == 0 else axes
        found.append((factor, axes))
    return tuple(found)


def _share(mesh: Mesh, plan: Plan, axis: str, outer: Dim, inner: Dim, sizes: Sizes) -> Mesh:
    ranks, many, each = mesh.sizes[axis], outer.size(sizes), inner.size(sizes)
    if many % ranks == 0:
        return mesh
    if ranks % many == 0 and each % (ranks // many) == 0:
        return mesh.apart(axis, str(outer), many)
    fitting = sorted({*_divisors(many), *(many * each for each in _divisors(each))})
    raise DimError(
        f"plan {plan.name} lays ({outer} {inner}) over {axis}={ranks}, but {outer}={many} is no multiple of {ranks}, "
        f"and {ranks} not {many} times a divisor of {inner}={each}; choose {axis} from {', '.join(map(str, fitting))}"
    )


def _advise(mesh: Mesh, plan: Plan, axis: str, readings: Iterable[Reading], sizes: Sizes) -> None:
    """DimError where an axis has more ranks than a dim that heads of queries begin with: how to lay the rest."""
    names = {product[0] for product in plan.lies[axis]}
    for outer, *inner in readings:
        if len(inner) > 1 and any(is_named(outer, name) for name in names):
            ranks, many = mesh.sizes.get(axis, 1), outer.size(sizes)
            if ranks > many:
                raise DimError(
                    f"plan {plan.name} lays {outer} over {axis}={ranks}, but {outer}={many}; write "
                    f"({outer} {inner[0]}) in place of {outer}, so that the rest of {axis} splits {inner[0]}"
                )


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]
