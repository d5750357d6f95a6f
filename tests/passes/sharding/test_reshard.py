"""Routes between layouts: they end where they should, hold the same whole array all along, and are short."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.backends.blocks import join_blocks, split_blocks
from graphir.backends.communicator import SimulatedCommunicator
from graphir.errors import LayoutError
from graphir.ir.layout import Layout, Mesh
from graphir.operators.collectives import all_gather, all_reduce, all_to_all, local_slice, reduce_scatter
from graphir.passes.sharding import route
from graphir.passes.sharding.reshard import Hop

MESH = Mesh(dp=2, tp=3, cp=2)
DIMS = gi.dims("B S D")


@st.composite
def layouts(draw: st.DrawFn, kinds: tuple[str, ...] = ()) -> Layout:
    """Any layout on MESH of a value of three dims, pending by any of `kinds`."""
    splits: list[list[str]] = [[], [], []]
    pending = {}
    for axis in draw(st.permutations(MESH.names)):
        home = draw(st.integers(-1, 3))
        if 0 <= home < 3:
            splits[home].append(axis)
        elif home == -1 and kinds:
            pending[axis] = draw(st.sampled_from(kinds))
    return Layout(splits, pending)


def keys(hops: Sequence[Hop]) -> list[str]:
    return [hop.operator.key for hop in hops]


def walk(have: Layout, want: Layout) -> list[gi.Value]:
    """The values along the route, typed by the collectives' own rules."""
    builder = gi.Builder("local", mesh=MESH)
    values = [builder.input("X", DIMS, "float64", have)]
    for hop in route(have, want):
        values.append(hop.operator(values[-1], **hop.attributes))
    return values


# -- where they lead ---------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(layouts(("sum", "max", "mean")), layouts())
def test_a_route_leads_where_it_should(have: Layout, want: Layout) -> None:
    assert walk(have, want)[-1].type.layout == want


@settings(max_examples=150, deadline=None)
@given(layouts(("sum", "max", "mean")), layouts(), st.sampled_from(("ring", "direct", "naive")))
def test_a_route_carries_the_same_array(have: Layout, want: Layout, algorithm: str) -> None:
    """Run among ranks, each with a term of its own where something is pending."""
    communicator = SimulatedCommunicator(MESH, algorithm)
    array = np.random.default_rng(0).integers(1, 9, [12] * 3).astype(float)
    terms = [
        block * prod(1.0 + coordinates[axis] for axis in have.pending_axes)
        for coordinates, block in zip(MESH.ranks, split_blocks(array, have.settled(), MESH), strict=True)
    ]
    blocks = terms
    for hop in route(have, want):
        blocks = getattr(communicator, hop.operator.kernel.__name__)(blocks, **hop.attributes)
    found = join_blocks(blocks, want, MESH)
    np.testing.assert_allclose(found, join_blocks(terms, have, MESH), rtol=1e-15)


@settings(max_examples=100, deadline=None)
@given(layouts(("sum",)))
def test_no_way_is_no_way(layout: Layout) -> None:
    assert route(layout, layout) == ()


@settings(max_examples=200, deadline=None)
@given(layouts(("sum",)), layouts())
def test_no_axis_is_touched_twice(have: Layout, want: Layout) -> None:
    """An axis is gathered or exchanged at most once, and appended at most once: no route goes in circles."""
    left = [hop.attributes["axis"] for hop in route(have, want) if hop.operator in (all_gather, all_to_all)]
    arrived = [hop.attributes["axis"] for hop in route(have, want) if hop.operator in (local_slice, reduce_scatter)]
    assert len(set(left)) == len(left)
    assert len(set(arrived)) == len(arrived)
    assert sum(hop.operator is all_reduce for hop in route(have, want)) <= 1


# -- how short they are ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        (Layout([(), ()], {"tp": "sum"}), Layout([(), ()]), ["AR"]),
        (Layout([(), ()], {"tp": "sum", "dp": "sum"}), Layout([(), ()]), ["AR"]),
        (Layout([(), ()], {"tp": "sum", "dp": "max"}), Layout([(), ()]), ["AR", "AR"]),
        (Layout([(), ()], {"tp": "sum"}), Layout([("tp",), ()]), ["RS"]),
        (Layout([(), ()], {"tp": "sum", "dp": "sum"}), Layout([("tp",), ()]), ["AR", "RS"]),
        # A maximum is not scattered: it is formed, and each keeps its part.
        (Layout([(), ()], {"tp": "max"}), Layout([("tp",), ()]), ["AR", "SLICE"]),
        (Layout([("tp",), ()]), Layout([(), ()]), ["AG"]),
        (Layout([("dp", "tp"), ()]), Layout([(), ()]), ["AG", "AG"]),
        (Layout([("dp", "tp"), ()]), Layout([("dp",), ()]), ["AG"]),
        (Layout([("tp",), ()]), Layout([(), ("tp",)]), ["A2A"]),
        (Layout([(), ()]), Layout([("dp",), ("tp",)]), ["SLICE", "SLICE"]),
        # Only the minor axis can be gathered: to drop dp, tp must go and come again.
        (Layout([("dp", "tp"), ()]), Layout([("tp",), ()]), ["AG", "AG", "SLICE"]),
        (Layout([("dp",), ()], {"tp": "sum"}), Layout([("dp", "tp"), ()]), ["RS"]),
    ],
    ids=lambda each: str(each).replace("·", "_"),
)
def test_simple_ways_are_as_short_as_can_be(have: Layout, want: Layout, expected: list[str]) -> None:
    assert keys(route(have, want)) == expected


def test_what_may_stay_pending_stays() -> None:
    """Only the splits change; nothing is reduced that need not be."""
    have, want = Layout([("dp",), ()], {"tp": "sum"}), Layout([(), ("dp",)], {"tp": "sum"})
    assert keys(route(have, want)) == ["A2A"]


def test_settling_belongs_to_the_producer() -> None:
    hops = route(Layout([("dp",), ()], {"tp": "sum"}), Layout([(), ("tp",)]))
    assert [(hop.operator.key, hop.settles) for hop in hops] == [("AG", ()), ("RS", ("tp",))]


# -- where there is none -----------------------------------------------------------------------------------


def test_no_collective_makes_terms() -> None:
    with pytest.raises(LayoutError) as caught:
        route(Layout([(), ()]), Layout([(), ()], {"tp": "sum"}))
    assert str(caught.value) == "a value that lies as [·, ·] cannot become a pending sum over tp"
    with pytest.raises(LayoutError, match=r"cannot become a pending max over tp$"):
        route(Layout([()], {"tp": "sum"}), Layout([()], {"tp": "max"}))


def test_layouts_of_different_ranks() -> None:
    with pytest.raises(LayoutError, match=r"^\[·\] and \[·, ·\] are for different ranks$"):
        route(Layout([()]), Layout([(), ()]))
