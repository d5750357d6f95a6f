"""Meshes, layouts, and what operators make of them: groups and ranks, local shapes, type rules, and their errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import graphir as gi
from graphir.errors import LayoutError, TypeCheckError, VerifyError
from graphir.ir.layout import Layout, Mesh, axis_symbol, layout_text, local_shape
from graphir.operators.collectives import all_gather, all_reduce, all_to_all, local_slice, reduce_scatter
from graphir.operators.split_vocabulary import row_max

B, S, D, F = gi.dims("B S D D_ff")


# -- meshes ------------------------------------------------------------------------------------------------


def test_ranks_count_the_last_axis_fastest() -> None:
    mesh = Mesh(dp=2, tp=3)
    assert mesh.size == 6
    assert mesh.names == ("dp", "tp")
    assert [tuple(rank.values()) for rank in mesh.ranks] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert mesh.describe(4) == "rank 4 (dp=1, tp=1)"
    assert str(mesh) == "dp=2, tp=3"
    assert mesh.count(("dp", "tp")) == 6
    assert mesh.count(()) == 1


def test_groups_differ_along_their_axes_only() -> None:
    mesh = Mesh(dp=2, tp=3)
    assert mesh.groups(["tp"]) == ((0, 1, 2), (3, 4, 5))
    assert mesh.groups(["dp"]) == ((0, 3), (1, 4), (2, 5))
    assert mesh.groups(["dp", "tp"]) == ((0, 1, 2, 3, 4, 5),)
    assert mesh.groups(["tp", "dp"]) == ((0, 3, 1, 4, 2, 5),)  # tp major
    assert mesh.groups([]) == ((0,), (1,), (2,), (3,), (4,), (5,))


def test_a_mesh_is_a_value() -> None:
    assert Mesh(dp=2, tp=3) == Mesh({"dp": 2, "tp": 3}) == Mesh([("dp", 2), ("tp", 3)])
    assert hash(Mesh(dp=2)) == hash(Mesh({"dp": 2}))
    assert Mesh(dp=2, tp=3) != Mesh(tp=3, dp=2)
    assert Mesh(dp=np.int64(2)) == Mesh(dp=2)
    assert Mesh().size == 1
    assert str(Mesh()) == "one rank"


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"t p": 2}, "'t p' cannot name a mesh axis; use a word such as dp or tp"),
        ({"sum": 2}, "'sum' cannot name a mesh axis; use a word such as dp or tp"),
        ({"tp": 0}, "mesh axis tp has 0 ranks; it needs a positive number"),
        ({"tp": 1.5}, "mesh axis tp has 1.5 ranks; it needs a positive number"),
        ({"tp": True}, "mesh axis tp has True ranks; it needs a positive number"),
    ],
)
def test_what_is_no_mesh(axes: dict[str, int], text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Mesh(axes)
    assert str(caught.value) == text


def test_a_mesh_names_an_axis_once() -> None:
    with pytest.raises(LayoutError, match=r"^a mesh names each axis once: dp, dp$"):
        Mesh({"dp": 2}, dp=3)


# -- layouts -----------------------------------------------------------------------------------------------


def test_what_a_layout_says() -> None:
    layout = Layout([("dp", "cp"), ()], {"tp": "sum"})
    assert layout.split_axes == ("dp", "cp")
    assert layout.pending_axes == ("tp",)
    assert layout.axes == {"dp", "cp", "tp"}
    assert not layout.is_replicated
    assert layout.settled() == Layout([("dp", "cp"), ()])
    assert layout_text(("B", "S"), layout) == "[B|dp|cp, S] pending sum(tp)"
    assert str(layout) == "[·|dp|cp, ·] pending sum(tp)"
    assert Layout.replicated(2).is_replicated
    assert Layout([()], {"tp": "sum", "dp": "max"}) == Layout([()], {"dp": "max", "tp": "sum"})
    assert Layout([("dp", "tp")]) != Layout([("tp", "dp")])  # only the minor axis can be gathered


@pytest.mark.parametrize(
    ("splits", "pending", "text"),
    [
        ([("tp",), ("tp",)], {}, "mesh axis tp occurs twice in the layout [·|tp, ·|tp]; it can do one thing only"),
        ([("tp", "tp")], {}, "mesh axis tp occurs twice in the layout [·|tp|tp]; it can do one thing only"),
        (
            [("tp",)],
            {"tp": "sum"},
            "mesh axis tp occurs twice in the layout [·|tp] pending sum(tp); it can do one thing only",
        ),
        ([()], {"tp": "product"}, "'product' over tp is no reduction; choose from sum, max, mean"),
    ],
)
def test_what_is_no_layout(splits: list[tuple[str, ...]], pending: dict[str, str], text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Layout(splits, pending)
    assert str(caught.value) == text


def test_one_object_a_layout() -> None:
    layout = Layout([("dp", "tp"), ()], {"cp": "sum"})
    assert Layout([["dp", "tp"], []], [("cp", "sum")]) is layout
    assert Layout([("tp", "dp"), ()], {"cp": "sum"}) != layout
    assert Layout([("dp", "tp"), ()]) is layout.settled() is not layout
    assert Layout.replicated(2) is Layout([(), ()])
    assert copy.deepcopy(layout) is copy.copy(layout) is layout
    assert pickle.loads(pickle.dumps(layout)) is layout


def test_what_was_refused_as_a_layout_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(LayoutError, match=r"mesh axis tp occurs twice in the layout \[·\|tp, ·\|tp\]"):
            Layout([("tp",), ("tp",)])


def test_local_shapes_are_formulas() -> None:
    layout = Layout([("dp",), (), ("cp", "tp")])
    assert [str(each) for each in local_shape((B, S, D), layout)] == ["B/N_DP", "S", "D/N_CP/N_T"]
    assert local_shape((B, S), Layout.replicated(2)) == (B, S)
    assert [str(axis_symbol(axis)) for axis in ("tp", "dp", "cp", "ep")] == ["N_T", "N_DP", "N_CP", "N_EP"]


# -- type rules of collectives -----------------------------------------------------------------------------


def held(layout: Layout, *shape: gi.Dim) -> gi.Value:
    """An input X that lies so on a mesh of two by three."""
    return gi.Builder("local", mesh=Mesh(dp=2, tp=3)).input("X", shape, "float64", layout)


def test_each_collective_changes_the_layout_as_it_says() -> None:
    split = Layout([("dp", "tp"), ()])
    assert all_gather(held(split, B, D), dim=0, axis="tp").type.layout == Layout([("dp",), ()])
    moved = all_to_all(held(split, B, D), source=0, target=1, axis="tp")
    assert moved.type.layout == Layout([("dp",), ("tp",)])
    pending = Layout([("dp",), ()], {"tp": "sum"})
    assert all_reduce(held(pending, B, D), axes=("tp",)).type.layout == Layout([("dp",), ()])
    assert reduce_scatter(held(pending, B, D), dim=1, axis="tp").type.layout == Layout([("dp",), ("tp",)])
    assert reduce_scatter(held(pending, B, D), dim=0, axis="tp").type.layout == Layout([("dp", "tp"), ()])
    assert local_slice(held(Layout([("dp",), ()]), B, D), dim=1, axis="tp").type.layout == Layout([("dp",), ("tp",)])
    both = held(Layout([()], {"tp": "sum", "dp": "sum"}), D)
    assert all_reduce(both, axes=("dp", "tp")).type.layout.is_replicated
    assert all_reduce(both, axes=("dp",)).type.layout == Layout([()], {"tp": "sum"})


def test_what_is_pending_stays_so_while_splits_change() -> None:
    layout = Layout([("dp",), ()], {"tp": "sum"})
    assert all_gather(held(layout, B, D), dim=0, axis="dp").type.layout == Layout([(), ()], {"tp": "sum"})


REPLICATED, SPLIT, SUM = Layout([(), ()]), Layout([("dp", "tp"), ()]), Layout([(), ()], {"tp": "sum"})


@pytest.mark.parametrize(
    ("collective", "layout", "attributes", "text"),
    [
        (all_reduce, SUM, {"axes": ()}, "axes=() names no axis to reduce over"),
        (
            all_reduce,
            REPLICATED,
            {"axes": ("tp",)},
            "its operand must be a pending sum over tp; it is not pending there",
        ),
        (
            all_reduce,
            SUM,
            {"axes": ("tp",), "reduce": "max"},
            "its operand must be a pending max over tp; it is a pending sum there",
        ),
        (all_reduce, SUM, {"axes": ("tp",), "reduce": "product"}, "reduce='product' is none of sum, max, mean"),
        (
            all_gather,
            REPLICATED,
            {"dim": 0, "axis": "tp"},
            "dim 0 must be split over tp, innermost; it is split over nothing",
        ),
        (
            all_gather,
            SPLIT,
            {"dim": 0, "axis": "dp"},
            "dim 0 must be split over dp, innermost; it is split over dp|tp",
        ),
        (all_gather, SPLIT, {"dim": 2, "axis": "tp"}, "dim 2 is none of the 2 dims of the operand"),
        (
            reduce_scatter,
            REPLICATED,
            {"dim": 0, "axis": "tp"},
            "its operand must be a pending sum over tp; it is not pending there",
        ),
        (reduce_scatter, SUM, {"dim": -1, "axis": "tp"}, "dim -1 is none of the 2 dims of the operand"),
        (
            local_slice,
            SUM,
            {"dim": 0, "axis": "tp"},
            "its operand must be replicated over tp to be sliced there; it is [·, ·] pending sum(tp)",
        ),
        (
            local_slice,
            SPLIT,
            {"dim": 1, "axis": "tp"},
            "its operand must be replicated over tp to be sliced there; it is [·|dp|tp, ·]",
        ),
        (all_to_all, SPLIT, {"source": 0, "target": 0, "axis": "tp"}, "source and target are both dim 0"),
        (
            all_to_all,
            SPLIT,
            {"source": 0, "target": 1, "axis": "dp"},
            "dim 0 must be split over dp, innermost; it is split over dp|tp",
        ),
        (
            all_to_all,
            SPLIT,
            {"source": 0, "target": 5, "axis": "tp"},
            "dim 5 is none of the 2 dims of the operand",
        ),
    ],
)
def test_collectives_refuse(
    collective: gi.ir.operator.Operator, layout: Layout, attributes: dict[str, object], text: str
) -> None:
    with pytest.raises(TypeCheckError) as caught:
        collective(held(layout, B, D), **attributes)
    assert text in str(caught.value)


# -- type rules of all else --------------------------------------------------------------------------------


def operands(*layouts: tuple[tuple[gi.Dim, ...], Layout]) -> list[gi.Value]:
    builder = gi.Builder("local", mesh=Mesh(dp=2, tp=3))
    return [builder.input(f"X{i}", shape, "float64", layout) for i, (shape, layout) in enumerate(layouts)]


def test_a_contracted_split_makes_a_pending_sum() -> None:
    X, W = operands(((B, D), Layout([("dp",), ("tp",)])), ((D, F), Layout([("tp",), ()])))
    assert gi.matmul(X, W).type.layout == Layout([("dp",), ()], {"tp": "sum"})
    assert gi.reduce_sum(X, (0,)).type.layout == Layout([("tp",)], {"dp": "sum"})
    assert row_max(X).type.layout == Layout([("dp",)], {"tp": "max"})


def test_a_pending_sum_passes_through_what_is_linear() -> None:
    X, W, same = operands(
        ((B, D), Layout([(), ()], {"tp": "sum"})),
        ((D, F), Layout([(), ()])),
        ((B, D), Layout([(), ()], {"tp": "sum"})),
    )
    pending = (("tp", "sum"),)
    assert gi.transpose(X).type.layout.pending == pending
    assert gi.matmul(X, W).type.layout.pending == pending
    assert gi.add(X, same).type.layout.pending == pending
    assert gi.scale(X, by=2.0).type.layout.pending == pending


@pytest.mark.parametrize(
    ("build_node", "first", "second", "text"),
    [
        (
            lambda X, W: gi.activation(X),
            Layout([(), ()], {"tp": "sum"}),
            Layout([(), ()]),
            "it is not linear in X, but X is a pending sum over tp",
        ),
        (
            lambda X, W: gi.softmax(X),
            Layout([(), ("tp",)]),
            Layout([(), ()]),
            "k must be whole, but Z is split over tp",
        ),
        (
            gi.add,
            Layout([(), ()], {"tp": "sum"}),
            Layout([(), ()]),
            "its operands must all be pending alike, or none: X0: a pending sum over tp, X1: not pending",
        ),
        (
            gi.add,
            Layout([("dp",), ()]),
            Layout([(), ()]),
            "b.0 is split over dp in X0 but over nothing in X1",
        ),
        (
            gi.multiply,
            Layout([(), ()], {"tp": "sum"}),
            Layout([(), ()], {"tp": "sum"}),
            "are both pending over tp: their product is not",
        ),
        (
            lambda X, W: gi.matmul(X, gi.transpose(W)),
            Layout([("tp",), ()]),
            Layout([("tp",), ()]),
            "axis tp splits m in X and n in W",
        ),
        (
            lambda X, W: gi.matmul(X, gi.transpose(W)),
            Layout([(), ()], {"tp": "sum"}),
            Layout([("tp",), ()]),
            "X is pending over tp, which splits n of another operand",
        ),
        (
            lambda X, W: gi.transpose(X),
            Layout([(), ()], {"tp": "max"}),
            Layout([(), ()]),
            "X is a pending max over tp, which T does not keep",
        ),
        (
            lambda X, W: gi.reshape(X, "b d -> (b d)"),
            Layout([(), ("tp",)]),
            Layout([(), ()]),
            "d is split over tp, but of (b d) only b, the major factor, can be",
        ),
    ],
)
def test_operators_refuse(build_node: object, first: Layout, second: Layout, text: str) -> None:
    X, W = operands(((B, D), first), ((B, D), second))
    with pytest.raises(TypeCheckError) as caught:
        build_node(X, W)  # type: ignore[operator]
    assert text in str(caught.value)


def test_an_output_is_not_left_pending() -> None:
    """Promised whole, but a term of a sum on each rank."""

    def build(settle: bool) -> gi.Graph:
        builder = gi.Builder("local", mesh=Mesh(tp=3))
        L = gi.reduce_sum(builder.input("X", (B, D), "float64", Layout([(), ("tp",)])), name="L")
        return builder.build(all_reduce(L, axes=("tp",)) if settle else L)

    gi.verify(build(settle=True))
    with pytest.raises(VerifyError) as caught:
        gi.verify(build(settle=False))
    assert str(caught.value) == (
        "graph local: its output L float64[] pending sum(tp) is no result yet, but a term on each rank; "
        "reduce it over tp by AR or RS"
    )
