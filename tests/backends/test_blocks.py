"""From whole arrays to blocks and back."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphir.backends.blocks import join_blocks, split_blocks
from graphir.ir.layout import Layout, Mesh

MESH = Mesh(dp=2, tp=3, cp=2)


@st.composite
def layouts(draw: st.DrawFn, pending: bool = False) -> Layout:
    """Any layout on MESH of a value of up to three dims."""
    rank = draw(st.integers(0, 3))
    splits: list[list[str]] = [[] for _ in range(rank)]
    due = {}
    for axis in draw(st.permutations(MESH.names)):
        home = draw(st.integers(-1, rank))
        if 0 <= home < rank:
            splits[home].append(axis)
        elif home == -1 and pending:
            due[axis] = draw(st.sampled_from(("sum", "max", "mean")))
    return Layout(splits, due)


def whole(layout: Layout, seed: int = 0) -> np.ndarray:
    shape = [2 * MESH.count(axes) for axes in layout.splits]
    return np.arange(prod(shape), dtype=float).reshape(shape) + seed


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_split_and_joined_again(layout: Layout) -> None:
    array = whole(layout)
    blocks = split_blocks(array, layout, MESH)
    assert len(blocks) == MESH.size
    assert {block.shape for block in blocks} == {(2,) * array.ndim}
    np.testing.assert_array_equal(join_blocks(blocks, layout, MESH), array)


@settings(max_examples=100, deadline=None)
@given(layouts(), st.sampled_from(MESH.names))
def test_ranks_along_an_axis_that_splits_nothing_hold_the_same(layout: Layout, axis: str) -> None:
    blocks = split_blocks(whole(layout), layout, MESH)
    for group in MESH.groups([axis]):
        same = [np.array_equal(blocks[group[0]], blocks[rank]) for rank in group[1:]]
        assert all(same) if axis not in layout.axes else not any(same)


def test_the_first_axis_of_a_dim_is_the_major_one() -> None:
    array = np.arange(6)
    major = split_blocks(array, Layout([("dp", "tp")]), Mesh(dp=2, tp=3))
    assert [int(block[0]) for block in major] == [0, 1, 2, 3, 4, 5]
    minor = split_blocks(array, Layout([("tp", "dp")]), Mesh(dp=2, tp=3))
    assert [int(block[0]) for block in minor] == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(("kind", "expected"), [("sum", 6.0), ("max", 3.0), ("mean", 2.0)])
def test_what_is_pending_is_reduced(kind: str, expected: float) -> None:
    mesh = Mesh(tp=3)
    blocks = [np.full(2, value) for value in (1.0, 2.0, 3.0)]
    np.testing.assert_array_equal(join_blocks(blocks, Layout([()], {"tp": kind}), mesh), np.full(2, expected))


def test_unlike_reductions_on_two_axes() -> None:
    """A sum over tp of maxima over dp: axis after axis, the last first."""
    mesh = Mesh(dp=2, tp=2)
    blocks = [np.array([value]) for value in (1.0, 5.0, 4.0, 2.0)]
    layout = Layout([()], {"dp": "max", "tp": "sum"})
    assert join_blocks(blocks, layout, mesh)[0] == max(1 + 5, 4 + 2)


@settings(max_examples=100, deadline=None)
@given(layouts(pending=True))
def test_terms_of_a_reduction_come_together(layout: Layout) -> None:
    """Each rank's term is the array times a factor of the rank's own coordinates along the pending axes."""
    array = whole(layout, seed=1)
    kinds = dict(layout.pending)
    blocks = split_blocks(array, layout.settled(), MESH)
    terms, factor = [], 1.0
    for coordinates, block in zip(MESH.ranks, blocks, strict=True):
        terms.append(block * prod(1.0 + coordinates[axis] for axis in kinds))
    for axis, kind in kinds.items():
        factors = np.arange(1.0, 1 + MESH.sizes[axis])
        factor *= {"sum": factors.sum(), "max": factors.max(), "mean": factors.mean()}[kind]
    np.testing.assert_allclose(join_blocks(terms, layout, MESH), array * factor, rtol=1e-14)


def test_blocks_of_what_is_replicated_are_the_array() -> None:
    array = np.arange(3)
    assert all(block is array for block in split_blocks(array, Layout.replicated(1), MESH))
    assert join_blocks([array] * MESH.size, Layout.replicated(1), MESH) is array
