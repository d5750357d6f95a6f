"""Grouped heads over an axis: N_H = N_KV·G, split by heads of keys, and beyond these by what shares each of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.cost import mesh_sizes
from graphir.errors import DimError, LayoutError, TypeCheckError, VerifyError
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh, axis_symbol
from graphir.passes import Optimizer, Plan, autodiff, left_whole, lower, optimize, shard
from tests.passes.sharding.test_faults import without

B, S, D, D_ff, N_KV, G, D_h = gi.dims("B S D D_ff N_KV G D_h")
SIZES = {"B": 2, "S": 12, "D": 6, "N_KV": 2, "G": 6, "D_h": 4, "D_ff": 24}


def grouped() -> Graph:
    """A block whose N_KV·G heads of queries share N_KV heads of keys and values, and a gated MLP, with a loss."""
    block = gi.Builder("grouped", dtype="float64")
    X = block.input("X", (B, S, D))
    x = gi.rms_norm(X, block.parameter("gamma", (D,), init="ones"), name="X_norm")
    W_Q, W_O = block.parameter("W_Q", (D, N_KV * G * D_h)), block.parameter("W_O", (N_KV * G * D_h, D))
    W_K, W_V = (block.parameter(name, (D, N_KV * D_h)) for name in ("W_K", "W_V"))
    Q = gi.transpose(gi.reshape(gi.matmul(x, W_Q), "b s (k g d) -> b s k g d", k=N_KV, g=G), (0, 2, 3, 1, 4), name="Q")
    K, V = (
        gi.transpose(gi.reshape(gi.matmul(x, W), "b s (k d) -> b s k d", k=N_KV), (0, 2, 1, 3), name=name)
        for W, name in ((W_K, "K"), (W_V, "V"))
    )
    P = gi.softmax(gi.scale_mask(gi.matmul(Q, gi.transpose(K), name="A"), width=D_h, causal=True))
    AO = gi.transpose(gi.matmul(P, V), (0, 3, 1, 2, 4))
    X_mid = gi.add(X, gi.matmul(gi.reshape(AO, "b s k g d -> b s (k g d)", name="AO_cat"), W_O), name="X_mid")
    gate, up = (gi.matmul(X_mid, block.parameter(name, (D, D_ff))) for name in ("W_gate", "W_up"))
    Y = gi.add(X_mid, gi.matmul(gi.gated(gate, up), block.parameter("W_down", (D_ff, D))), name="Y")
    return block.build(gi.reduce_sum(gi.multiply(Y, Y), name="L"))


GRAPH = autodiff(grouped(), loss="L")


def lies(graph: Graph, *names: str) -> list[str]:
    return [graph[name].type.text.removeprefix("float64") for name in names]


def assert_same(graph: Graph, local: Graph, sizes: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.standard_normal([each.size(sizes) for each in v.shape]) for v in graph.arguments}
    arrays |= {value.name: np.array(1) for value in graph.inputs if not value.type.is_float}
    alone = gi.compile(graph, sizes, backend="reference")(arrays)
    for backend in ("reference", "numpy"):
        together = gi.compile(local, sizes, backend=backend)(arrays)
        for value in graph.outputs:
            scale = np.abs(alone[value.name]).max()
            np.testing.assert_allclose(together[value.name] / scale, alone[value.name] / scale, atol=1e-13)


@pytest.mark.parametrize(
    ("plan", "mesh"),
    [
        ("megatron", {"tp": 2}),
        ("megatron", {"tp": 4}),
        ("megatron", {"tp": 12}),
        ("sequence", {"tp": 6}),
        ("data+sequence+zero3", {"dp": 2, "tp": 4}),
        ("megatron+context", {"tp": 4, "cp": 2}),
        ("zero1+tp:D_ff,(N_KV G)", {"dp": 2, "tp": 4}),
    ],
    ids=str,
)
def test_grouped_heads_on_ranks_compute_the_same(plan: str, mesh: dict[str, int]) -> None:
    local = gi.verify(shard(GRAPH, Mesh(mesh), plan, SIZES))
    assert_same(GRAPH, local, SIZES)


def test_nine_heads_and_three_on_three_ranks() -> None:
    sizes = {**SIZES, "N_KV": 3, "G": 3}
    local = gi.verify(shard(GRAPH, Mesh(tp=3), "megatron", sizes))
    assert local.mesh == Mesh(tp=3)
    assert lies(local, "K", "Q") == ["[B, N_KV|tp, S, D_h]", "[B, N_KV|tp, G, S, D_h]"]
    assert_same(GRAPH, local, sizes)


def test_more_ranks_than_heads_of_keys() -> None:
    """Each head of keys lies on N_T/N_KV ranks, which take its queries in parts, and sum its gradient."""
    local = gi.verify(shard(GRAPH, Mesh(tp=4), "megatron", SIZES))
    assert str(local.mesh) == "tp.N_KV=2, tp.per_N_KV=2"
    assert lies(local, "K", "Q", "A") == [
        "[B, N_KV|tp.N_KV, S, D_h]",
        "[B, N_KV|tp.N_KV, G|tp.per_N_KV, S, D_h]",
        "[B, N_KV|tp.N_KV, G|tp.per_N_KV, S, S]",
    ]
    assert lies(local, "W_Q", "W_K", "W_O", "W_gate") == [
        "[D, N_KV*G*D_h|tp.N_KV|tp.per_N_KV]",
        "[D, N_KV*D_h|tp.N_KV]",
        "[N_KV*G*D_h|tp.N_KV|tp.per_N_KV, D]",
        "[D, D_ff|tp.N_KV|tp.per_N_KV]",
    ]
    sent = Counter(
        " ".join([node.operator.key, *filter(None, [",".join(node.attributes.get("axes", ()))]), node.meta.phase])
        for node in local.nodes
        if node.operator.relayout is not None
    )
    # Megatron's two and two, over both; dK and dV are summed in parts.
    both = "AR tp.N_KV,tp.per_N_KV"
    assert sent == {f"{both} forward": 2, f"{both} backward": 2, "RS backward": 2, "SLICE backward": 2}
    assert gi.parse(gi.to_text(local)) == local
    for node in local.nodes:
        if node.operator.relayout is not None:
            with pytest.raises(VerifyError):
                gi.verify(without(local, node))


def test_one_head_of_keys_for_all_and_an_update() -> None:
    """The parts of dW_K and dW_V are brought together for it."""
    sizes, step = {**SIZES, "N_KV": 1}, optimize(GRAPH, Optimizer("sgd"))
    local = gi.verify(shard(step, Mesh(tp=2), "megatron", sizes))
    assert str(local.mesh) == "tp.N_KV=1, tp.per_N_KV=2"
    gathered = [node.inputs[0].name for node in local.nodes if node.operator.key == "AG"]
    assert sorted(gathered) == ["dW_K", "dW_V"]
    assert_same(step, local, sizes)


def test_taken_apart_into_simpler_nodes_too() -> None:
    assert_same(GRAPH, gi.verify(lower(shard(GRAPH, Mesh(tp=4), "sequence", SIZES))), SIZES)


def test_a_cache_lies_as_its_keys_do() -> None:
    """And is written into, and read, without a collective."""
    block = gi.Builder("decode", dtype="float64")
    X, start = block.input("X", (B, S, D)), block.input("start", (B,), "int64")
    Q = gi.reshape(gi.matmul(X, block.parameter("W_Q", (D, N_KV * G * D_h))), "b s (k g d) -> b s k g d", k=N_KV, g=G)
    K = gi.reshape(gi.matmul(X, block.parameter("W_K", (D, N_KV * D_h))), "b s (k d) -> b s k d", k=N_KV)
    cache = block.state("cache", (B, N_KV, gi.dim("S_k"), D_h), init="zeros")
    held = gi.cache_write(cache, gi.transpose(K, (0, 2, 1, 3)), start, name="held")
    graph = block.build(gi.matmul(gi.transpose(Q, (0, 2, 3, 1, 4)), gi.transpose(held), name="A"), held)
    local = gi.verify(shard(graph, Mesh(dp=2, tp=4), "data+megatron", {**SIZES, "S_k": 16}))
    assert lies(local, "cache", "held") == 2 * ["[B|dp, N_KV|tp.N_KV, S_k, D_h]"]
    assert not [node for node in local.nodes if node.operator.relayout is not None]


def test_sizes_of_the_parts_are_written_in_those_of_the_whole() -> None:
    mesh = Mesh(dp=2, tp=8).apart("tp", "N_KV", 4)
    assert mesh == Mesh({"dp": 2, "tp.N_KV": 4, "tp.per_N_KV": 2})
    assert [str(axis_symbol(axis)) for axis in mesh.names] == ["N_DP", "N_KV", "N_T/N_KV"]
    assert mesh.symbols == {"N_DP": 2, "N_T": 8, "N_KV": 4}
    assert mesh.parts("tp") == ("tp.N_KV", "tp.per_N_KV")
    assert mesh.parts("dp") == ("dp",)
    local = shard(GRAPH, Mesh(tp=4), "megatron", SIZES)
    assert mesh_sizes(local, SIZES)["N_T"] == 4


def test_what_the_ranks_that_share_a_head_leave_whole() -> None:
    left = left_whole(GRAPH, Mesh(tp=4), "megatron", SIZES)
    assert [str(each) for each in left] == [
        "gamma [D] is whole along tp: none of its dims is D_ff or N_KV",
        "W_K [D, N_KV*D_h] is whole along tp.per_N_KV: each of N_KV lies on 2 ranks of tp=4 alike",
        "W_V [D, N_KV*D_h] is whole along tp.per_N_KV: each of N_KV lies on 2 ranks of tp=4 alike",
    ]


@pytest.mark.parametrize(
    ("sizes", "ranks", "text"),
    [
        (
            {},
            3,
            "plan megatron lays (N_KV G) over tp=3, but N_KV=2 is no multiple of 3, and 3 not 2 times a divisor of "
            "G=6; choose tp from 1, 2, 4, 6, 12",
        ),
        (
            {"N_KV": 6, "G": 3},
            4,
            "plan megatron lays (N_KV G) over tp=4, but N_KV=6 is no multiple of 4, and 4 not 6 times a divisor of "
            "G=3; choose tp from 1, 2, 3, 6, 18",
        ),
    ],
)
def test_ranks_that_heads_cannot_be_shared_out_among(sizes: dict[str, int], ranks: int, text: str) -> None:
    with pytest.raises(DimError) as caught:
        shard(GRAPH, Mesh(tp=ranks), "megatron", {**SIZES, **sizes})
    assert str(caught.value) == text


def test_a_plan_that_does_not_say_what_shares_a_head_is_told_how() -> None:
    with pytest.raises(DimError) as caught:
        shard(GRAPH, Mesh(tp=4), "tp:D_ff,N_KV", SIZES)
    assert str(caught.value) == (
        "plan tp:D_ff,N_KV lays N_KV over tp=4, but N_KV=2; write (N_KV G) in place of N_KV, so that the rest of tp "
        "splits G"
    )


def test_a_graph_that_is_sharded_for_some_heads_is_not_run_with_others() -> None:
    local = shard(GRAPH, Mesh(tp=4), "megatron", SIZES)
    with pytest.raises(DimError, match=r"N_KV = 4 lies one by one over tp.N_KV=2 in graph grouped; shard the graph"):
        gi.compile(local, {**SIZES, "N_KV": 4})


def test_behind_a_major_dim_that_is_not_split_to_the_last_nothing_is() -> None:
    """What types say: of (k g d) over tp alone only k is split; g behind an axis that is not k's is refused."""
    mesh = Mesh({"tp.N_KV": 2, "tp.per_N_KV": 2, "dp": 2})
    builder = gi.Builder("merge", mesh=mesh)
    fine = builder.input("X", (B, N_KV, G), layout=gi.Layout([(), ("tp.N_KV",), ("dp",)]))
    assert str(gi.reshape(fine, "b k g -> b (k g)").type) == "float32[B, N_KV*G|tp.N_KV|dp]"
    wrong = builder.input("Z", (B, N_KV, G), layout=gi.Layout([(), ("tp.per_N_KV",), ("dp",)]))
    with pytest.raises(TypeCheckError, match="g is split over dp, but of \\(k g\\) only k, the major factor, can be"):
        gi.reshape(wrong, "b k g -> b (k g)")
    other = builder.input("U", (B, G, N_KV), layout=gi.Layout([(), ("tp.N_KV",), ("dp",)]))
    with pytest.raises(TypeCheckError, match="only g, the major factor"):
        gi.reshape(other, "b g k -> b (g k)")


# -- drawn views -------------------------------------------------------------------------------------------

#: A dim is one of these, or the product of several.
_ATOMS = {"b": B, "n": N_KV, "g": G, "d": D_h, "s": S, "f": D_ff}


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """L = Σ of what R, T, BC, Σ, GL and products make, one behind the other, of X [B, N_KV·G·D_h] and its heads."""
    block = gi.Builder("chain", dtype="float64")
    value = gi.reshape(block.parameter("X", (B, N_KV * G * D_h)), "b (n g d) -> b n g d", n=N_KV, g=G)
    shape = ["b", "n", "g", "d"]
    for step in draw(st.lists(st.sampled_from(("merge", "split", "T", "BC", "GL", "sum", "matmul")), max_size=7)):
        at = draw(st.integers(0, len(shape) - 1))
        if step == "merge" and at + 1 < len(shape):
            after = [*shape[:at], f"{shape[at]} {shape[at + 1]}", *shape[at + 2 :]]
        elif step == "split" and " " in shape[at]:
            after = [*shape[:at], *shape[at].split(" ", 1), *shape[at + 1 :]]
        elif step == "T":
            order = draw(st.permutations(range(len(shape))))
            value, shape = gi.transpose(value, order), [shape[i] for i in order]
            continue
        elif step == "BC":
            value, shape = gi.broadcast(value, (S,), axes=(at,)), [*shape[:at], f"s{len(block.nodes)}", *shape[at:]]
            continue
        elif step == "sum" and len(shape) > 2:
            value, shape = gi.reduce_sum(value, (at,)), [*shape[:at], *shape[at + 1 :]]
            continue
        elif step == "matmul" and len(shape) > 1:
            W = block.parameter(f"W{len(block.nodes)}", (value.shape[-1], D_ff))
            value, shape = gi.matmul(value, W), [*shape[:-1], "f"]
            continue
        else:
            value = gi.activation(value)
            continue
        left, right = (" ".join(f"({each})" if " " in each else each for each in side) for side in (shape, after))
        sizes = {atom: _ATOMS[atom[0]] for atom in " ".join(after).split()}
        value, shape = gi.reshape(value, f"{left} -> {right}", **sizes), after
    return autodiff(block.build(gi.reduce_sum(gi.activation(value), name="L")), loss="L")


@settings(deadline=None, max_examples=12)
@given(graph=chains())
def test_whatever_views_make_of_heads_computes_the_same(graph: Graph) -> None:
    local = gi.verify(shard(graph, Mesh(tp=4), "tp:(N_KV G)", SIZES))
    assert lies(local, "X") == ["[B, N_KV*G*D_h|tp.N_KV|tp.per_N_KV]"]
    sizes = {name: SIZES[name] for name in sorted(frozenset().union(*(each.names for each in graph.dims)))}
    assert_same(graph, local, sizes)


def test_axes_have_two_parts_at_most() -> None:
    for name in ("tp.", ".N_KV", "tp.a.b", "tp.3"):
        with pytest.raises(LayoutError, match="cannot name a mesh axis"):
            Mesh({name: 2})
    assert Plan(dims={"tp": "(N_KV G)"}).lies == {"tp": (("N_KV", "G"),)}
