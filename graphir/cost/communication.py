"""What collectives send, as formulas first and numbers second.

Notation. N is the number of ranks of a group: N_T over tp, N_DP over dp, their product over both. The *payload* P is
one rank's block of what goes in, in elements, `B*S*D/N_DP`; all amounts are bytes, an element's size times elements.

                  naive                        direct            ring
    AR   each     the root (N − 1) P,          (N − 1) P         2 (N − 1)/N P
                  the others P
         group    2 (N − 1) P                  N (N − 1) P       2 (N − 1) P
    RS   each     the root (N − 1)/N P,        (N − 1)/N P       (N − 1)/N P
                  the others P
    AG   each     the root N (N − 1) P,        (N − 1) P         (N − 1) P
                  the others P
    A2A  each     (N − 1)/N P                  the same          the same
    SLICE         nothing

The documents' all-reduce formulas (A 2.4, A 3.5) are the first two lines: naive is 2 (N − 1) payloads through the
root, direct what they call naive per node in data parallelism, ring 2 (N − 1)/N per node. Where a ring cannot cut its
payload into N even chunks, `each` is the mean over the group, and the group's total is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from graphir.errors import ConfigError
from graphir.ir.dims import Dim, Sizes, as_dim, product
from graphir.ir.extent import bind_sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Mesh, axis_symbol, local_shape
from graphir.ir.traits import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, LOCAL_SLICE, REDUCE_SCATTER
from graphir.ir.types import DTYPES

ALGORITHMS = ("ring", "direct", "naive")


@dataclass(frozen=True)
class Formula:
    """Bytes: (Σ `terms`) · (`ranks` − 1) · `elements` · `width`, without the second factor if `ranks` is None.

    `terms` speak of the number of ranks alone, `elements` of the block.
    """

    terms: tuple[Dim, ...]
    ranks: Dim | None
    elements: Dim
    width: int

    def times(self, factor: Dim) -> Formula:
        """The formula `factor` times over."""
        return Formula(tuple(term * factor for term in self.terms), self.ranks, self.elements, self.width)

    def number(self, sizes: Sizes) -> Fraction:
        """The amount under `sizes`, those of mesh axes (N_T, …) included; a mean may be no whole number."""
        total = sum((_evaluate(term, sizes) for term in self.terms), Fraction(0))
        gap = Fraction(1) if self.ranks is None else _evaluate(self.ranks, sizes) - 1
        return total * gap * _evaluate(self.elements, sizes) * self.width

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        above, _, below = str(self.terms[0]).partition("/")
        if len(self.terms) > 1:
            above, below = f"({' + '.join(map(str, self.terms))})", ""
        if self.ranks is not None:
            above = f"{'' if above == '1' else f'{above} '}({self.ranks} − 1)"
        if "/" in below:
            below = f"({below.replace('/', '*')})"
        count = f"{above}/{below}" if below else above
        parts = [*([count] if count != "1" else []), str(self.elements), f"{self.width} bytes"]
        return " · ".join(part for part in parts if part != "1")


@dataclass(frozen=True)
class CollectiveCost:
    """What one collective sends. `each` is what every rank of a group sends; under naive, what the root does,
    and `others` what the rest do. `group` is the sum over a group, `total` over all groups of the mesh.
    """

    axes: tuple[str, ...]
    payload: Dim
    each: Formula
    others: Formula | None
    group: Formula
    total: Formula


def collective_cost(node: Node, mesh: Mesh, algorithm: str = "ring") -> CollectiveCost:
    """The cost of the collective `node` on `mesh`; ConfigError if it is none, or the algorithm is unknown."""
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm {algorithm!r} is unknown; choose from {', '.join(ALGORITHMS)}")
    method = node.operator.collective
    if method is None:
        raise ConfigError(f"{node.name} = {node.operator.key}(…) is no collective, so it sends nothing")
    axes = axes_of(node)
    value = node.inputs[0]
    ranks = product(map(axis_symbol, axes))
    groups = product(axis_symbol(axis) for axis in mesh.names if axis not in axes)
    payload, width = product(local_shape(value.shape, value.type.layout)), DTYPES[value.dtype]

    def formula(*terms: Dim, gap: bool = True) -> Formula:
        return Formula(terms, ranks if gap else None, payload, width)

    one = as_dim(1)
    root, others, group = _AMOUNTS[method](algorithm, ranks)
    total = formula(*group)
    return CollectiveCost(
        axes,
        payload,
        formula(*root),
        formula(one, gap=False) if others else None,
        total,
        total.times(groups),
    )


def axes_of(node: Node) -> tuple[str, ...]:
    """The mesh axes that a collective runs over."""
    attributes = node.attributes
    return tuple(attributes["axes"]) if "axes" in attributes else (str(attributes["axis"]),)


def mesh_sizes(graph: Graph, sizes: Sizes) -> dict[str, int]:
    """`sizes`, completed by the dims that follow and by those of the mesh: N_T, N_DP, …"""
    return {**bind_sizes(graph, sizes), **graph.mesh.symbols}


# -- the table --------------------------------------------------------------------------------------------

_Terms = tuple[Dim, ...]
#: The root's or everyone's terms, whether the others send one payload each, the group's terms; all but the
#: payload of the others times N − 1.
_Amounts = tuple[_Terms, bool, _Terms]


def _all_reduce(algorithm: str, N: Dim) -> _Amounts:
    one, two = as_dim(1), as_dim(2)
    if algorithm == "naive":
        return (one,), True, (two,)
    return ((one,), False, (N,)) if algorithm == "direct" else ((two / N,), False, (two,))


def _reduce_scatter(algorithm: str, N: Dim) -> _Amounts:
    one = as_dim(1)
    return ((one / N,), True, (one, one / N)) if algorithm == "naive" else ((one / N,), False, (one,))


def _all_gather(algorithm: str, N: Dim) -> _Amounts:
    one = as_dim(1)
    return ((N,), True, (N, one)) if algorithm == "naive" else ((one,), False, (N,))


def _all_to_all(algorithm: str, N: Dim) -> _Amounts:
    return (as_dim(1) / N,), False, (as_dim(1),)


def _local_slice(algorithm: str, N: Dim) -> _Amounts:
    return (), False, ()


#: By the communicator's method.
_AMOUNTS = {
    ALL_REDUCE: _all_reduce,
    REDUCE_SCATTER: _reduce_scatter,
    ALL_GATHER: _all_gather,
    ALL_TO_ALL: _all_to_all,
    LOCAL_SLICE: _local_slice,
}


def _evaluate(each: Dim, sizes: Mapping[str, int]) -> Fraction:
    """A dim's value, whole or not."""
    value = each.coefficient
    for name, power in each.powers:
        value *= Fraction(sizes[name]) ** power
    return value
