"""Plans speak of dims: whatever parameters are called, what a dim stands for says how it lies."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable

import numpy as np
import pytest

import graphir as gi
from graphir.errors import LayoutError
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes import (
    PLANS,
    Optimizer,
    Plan,
    as_stored,
    autodiff,
    complete_plan,
    find_plan,
    left_whole,
    optimize,
    shard,
)
from graphir.passes.sharding.residual import residual_stream

B, S, D, D_ff, N_H, D_h, V = gi.dims("B S D D_ff N_H D_h V")
SIZES = {"B": 4, "S": 8, "D": 16, "N_H": 4, "D_ff": 16, "V": 16, "V_pad": 16, "N_DP": 2}


# -- the documents' model ----------------------------------------------------------------------------------

SUMS = (
    "data+megatron",
    "data+sequence+zero1",
    "data+context+megatron",
    "column+vocabulary",
    "sequence+vocabulary+zero3",
    "context+sequence",
    "context+zero2",
)
MODELS = {
    "default": {},
    "biases": {"qkv_bias": True, "tied": False, "positions": "sinusoidal"},
    "padding": {"padded": True, "mask": "padding"},
    "replicas": {"mask": "given", "mean": "replicas", "final_norm": False},
}


def test_the_documents_model_is_sharded_to_the_letter(golden: Callable[[str, str], None]) -> None:
    """Hashes of the texts, without lines of source, that plans by names of parameters gave before there were others."""
    lines = []
    for name, options in MODELS.items():
        model = gi.models.transformer(2, decode=None, **options)
        step = optimize(autodiff(model, loss="L"), Optimizer(clip=1.0))
        for plan in (*(set(PLANS) - {"single"}), *SUMS) if name == "default" else SUMS[:4]:
            mesh = Mesh(dict.fromkeys(find_plan(plan).axes, 2))
            text = re.sub(r" +@.*?(?= why | of |$)", "", gi.to_text(shard(step, mesh, plan, SIZES)), flags=re.MULTILINE)
            lines.append(f"{name:<12}{plan:<28}{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    golden("sharded_plans.txt", "\n".join(sorted(lines)) + "\n")


# -- graphs of a user's own --------------------------------------------------------------------------------


def own_block() -> Graph:
    """Attention and a gated MLP at the root, pre-norm, with names of their own."""
    block = gi.Builder("own", dtype="float64")
    X = block.input("X", (B, S, D))
    x = gi.layer_norm(X, block.parameter("g1", (D,), init="ones"), block.parameter("h1", (D,), init="zeros"))

    def heads(name: str) -> Value:
        y = gi.matmul(x, block.parameter(name, (D, D)))
        return gi.transpose(gi.reshape(y, "b s (h d) -> b s h d", h=N_H), (0, 2, 1, 3))

    q, k, v = heads("query"), heads("key"), heads("value")
    p = gi.softmax(gi.scale_mask(gi.matmul(q, gi.transpose(k)), width=D / N_H, causal=True))
    o = gi.reshape(gi.transpose(gi.matmul(p, v), (0, 2, 1, 3)), "b s h d -> b s (h d)")
    X = gi.add(X, gi.matmul(o, block.parameter("proj", (D, D))), name="mid")
    y = gi.layer_norm(X, block.parameter("g2", (D,), init="ones"), block.parameter("h2", (D,), init="zeros"))
    gate, up = (gi.matmul(y, block.parameter(name, (D, D_ff))) for name in ("W_gate", "W_up"))
    z = gi.multiply(gi.activation(gate, kind="silu"), up)
    X = gi.add(X, gi.matmul(z, block.parameter("W_down", (D_ff, D))), name="out")
    E = block.parameter("E", (V, D))
    Y = block.input("Y", (B, S), "int64")
    return block.build(gi.reduce_sum(gi.cross_entropy(gi.matmul(X, gi.transpose(E)), Y), name="L"))


def moved(graph: Graph, phase: str) -> list[str]:
    return [
        f"{node.operator.key} {node.inputs[0].local_name}"
        for node in graph.nodes
        if node.operator.relayout is not None and node.operator.key != "SLICE" and node.meta.phase == phase
    ]


def lies(graph: Graph) -> dict[str, str]:
    return {value.name: value.type.text.removeprefix(value.dtype) for value in graph.parameters}


def test_a_block_of_ones_own_is_split_by_what_its_dims_are() -> None:
    graph = autodiff(own_block(), loss="L")
    local = gi.verify(shard(graph, Mesh(tp=2), "megatron+vocabulary"))
    found = lies(local)
    assert {found[name] for name in ("query", "key", "value")} == {"[D, D|tp]"}
    assert found["proj"] == "[D|tp, D]"
    assert found["W_gate"] == found["W_up"] == "[D, D_ff|tp]"
    assert found["W_down"] == "[D_ff|tp, D]"
    assert found["E"] == "[V|tp, D]"
    assert {found[name] for name in ("g1", "h1", "g2", "h2")} == {"[D]"}
    # Megatron's two and two, and the loss over a split vocabulary.
    assert sum(each.startswith("AR") and "L" not in each for each in moved(local, "forward")) == 2 + 3
    assert_same(graph, local)


@pytest.mark.parametrize("plan", ["data", "sequence", "data+sequence+vocabulary+zero3", "tp:D_ff", "dp:B, S+tp:N_H,V"])
def test_plans_compute_the_same_of_it(plan: str) -> None:
    graph = autodiff(own_block(), loss="L")
    mesh = Mesh(dict.fromkeys(find_plan(plan).axes, 2))
    assert_same(graph, gi.verify(shard(graph, mesh, plan, SIZES)))


def assert_same(graph: Graph, local: Graph) -> None:
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.standard_normal([each.size(SIZES) for each in v.shape]) for v in graph.arguments}
    if "Y" in arrays:
        arrays["Y"] = rng.integers(0, SIZES["V"], arrays["Y"].shape)
    sizes = {name: SIZES[name] for name in ("B", "S", "D", "N_H", "D_ff", "V")}
    alone, together = (gi.compile(each, sizes, backend="reference")(arrays) for each in (graph, local))
    for value in graph.outputs:
        np.testing.assert_allclose(together[value.name], alone[value.name], rtol=1e-11, atol=1e-11)


def test_the_residual_stream_is_what_blocks_add_to() -> None:
    for graph, expected in (
        (own_block(), ["X", "mid", "out"]),
        (
            gi.models.transformer(1, decode=None, qkv_bias=True),
            ["embedding/X", "layer0/X_mid", "layer0/X_out"],
        ),
        (gi.models.mlp(3), []),
    ):
        assert [value.name for value in residual_stream(graph.nodes)] == expected


def test_x_and_its_cube_within_an_activation_are_no_stream() -> None:
    block = gi.Builder("act")
    x = block.input("x", (B, D))
    graph = block.build(gi.add(x, gi.multiply(x, gi.multiply(x, x))))
    assert not residual_stream(graph.nodes)
    with pytest.raises(LayoutError, match="splits the residual stream, but graph act has none"):
        shard(graph, Mesh(tp=2), Plan(residual={"*": "B|tp"}))
    with pytest.raises(
        LayoutError, match=r"wants T\|tp of residual \*, but none has that dim: X is float64\[B, S, D\]"
    ):
        shard(own_block(), Mesh(tp=2), Plan(residual={"*": "T|tp"}))


def test_the_plain_mlp_has_a_plan_for_tensor_parallelism(call: Callable[..., tuple[int, str, str]]) -> None:
    graph = autodiff(gi.models.mlp(3), loss="L")
    local = gi.verify(shard(graph, Mesh(tp=2), complete_plan(None, Mesh(tp=2))))
    assert lies(local)["layer0/W"] == "[D_in, D_1|tp]"
    assert lies(local)["layer1/W"] == "[D_1|tp, D_2]"
    assert moved(local, "forward") == ["RS Z_lin", "AR Z_lin"]
    code, out, err = call("ir", "mlp", "--tp", 2)
    assert (code, err) == (0, "")
    assert "[D_in, D_1|tp]" in out


def test_plans_of_one_axis_add_up_to_a_list_of_dims() -> None:
    assert str(find_plan("data+sequence+vocabulary+tp:N_H, E")) == (
        "plan data+sequence+vocabulary+tp:N_H, E\n"
        "  dims        dp                      B\n"
        "  dims        tp                      D_ff, D_[1-9]*, (N_KV G), N_H, V, E\n"
        "  residual    *                       S|tp"
    )


# -- of products, which ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own", "llama", "gpt2", "qwen3"])
def test_what_leads_from_heads_back_is_split_by_columns(name: str) -> None:
    """Whatever it is called; and no other matrix of the layer, though W_Q has the same dims."""
    graph = own_block() if name == "own" else gi.models.blueprint(name, layers=1).graph()
    local = gi.verify(shard(autodiff(graph, loss=None), Mesh(tp=2), "column"))
    columns = {value.local_name for value in local.parameters if re.search(r"\[\w+[^|]*, \w+.*\|tp\]", value.type.text)}
    own = {"query", "key", "value", "proj", "W_gate", "W_up"}
    assert columns == (own if name == "own" else {"W_Q", "W_K", "W_V", "W_O", "W_gate", "W_up"} & names_of(local))
    product = next(node for node in local.nodes if node.inputs[1:] and node.inputs[1].local_name in ("proj", "W_O"))
    gathered = [node.inputs[0] for node in local.nodes if node.operator.key == "AG" and node.meta.phase == "forward"]
    assert gathered == [local.producers[product.inputs[0]].inputs[0], product.outputs[0]]
    if name == "own":
        assert_same(autodiff(graph, loss="L"), local)


def names_of(graph: Graph) -> set[str]:
    return {value.local_name for value in graph.parameters}


def test_a_matrix_that_is_stored_with_its_rows_for_columns_is_the_same_map() -> None:
    graph = gi.models.blueprint("llama", layers=1).graph()
    stored = as_stored(graph, {value.name: (value.dtype, True) for value in graph.parameters})
    found = lies(shard(stored, Mesh(tp=2), "column"))
    assert found["layer0/mha/W_O.stored"] == "[D|tp, N_H*D_h]"
    assert found["layer0/mha/W_Q.stored"] == "[N_H*D_h|tp, D]"


def test_where_there_are_no_heads_column_is_megatron() -> None:
    graph = autodiff(gi.models.mlp(3), loss="L")
    assert shard(graph, Mesh(tp=2), "column") == shard(graph, Mesh(tp=2), "megatron")


def test_a_map_is_written_with_or_without_blanks_and_must_be_somewhere_if_there_is_nothing_else() -> None:
    graph = own_block()
    for key in ("D->D_ff", "D -> D_*"):
        found = lies(shard(graph, Mesh(tp=2), Plan(parameters={key: "D_ff|tp"})))
        assert found == lies(shard(graph, Mesh(tp=2), "tp:D_ff")) | {"W_down": "[D_ff, D]"}
    with pytest.raises(LayoutError, match="names parameters D -> E, but graph own has none such; it has g1, h1, query"):
        shard(graph, Mesh(tp=2), Plan(parameters={"D -> E": "E|tp"}))
    with pytest.raises(LayoutError, match=r"wants V\|tp of parameters D -> D_ff, but none has that dim: W_gate is"):
        shard(graph, Mesh(tp=2), Plan(parameters={"D -> D_ff": "V|tp"}))


# -- of dims, which ----------------------------------------------------------------------------------------


def test_the_first_dim_of_a_list_is_split_and_one_only() -> None:
    block = gi.Builder("square")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, D_ff))
    A = block.input("A", (S, S))
    graph = block.build(gi.matmul(X, W), gi.activation(A))
    local = shard(graph, Mesh(tp=2, cp=2), Plan(dims={"tp": "D_ff, D", "cp": "S"}))
    assert [str(value.type) for value in local.inputs] == ["float32[B, D|tp]", "float32[S|cp, S]"]
    assert lies(local) == {"W": "[D, D_ff|tp]"}


def test_entries_by_name_are_exceptions() -> None:
    graph = own_block()
    plan = Plan(
        dims={"tp": "D_ff, N_H"},
        parameters={"proj": "[_, _|tp]", "W_*": "?|dp", "query": "-tp", "W_up": "D_ff|dp"},
    )
    found = lies(shard(graph, Mesh(dp=2, tp=2), plan, SIZES))
    assert found["proj"] == "[D, D|tp]"
    assert found["W_gate"] == "[D|dp, D_ff|tp]"
    assert found["query"] == "[D, D]"
    assert found["W_up"] == "[D, D_ff|tp|dp]"


def test_a_state_that_no_parameter_has_lies_by_its_dims() -> None:
    """A cache of keys: split as keys are, and nothing of it is moved."""
    block = gi.Builder("cached")
    Q, cache = block.input("Q", (B, N_H, S, D_h)), block.state("K", (B, N_H, S, D_h), init="zeros")
    graph = block.build(gi.matmul(Q, gi.transpose(cache), name="A"))
    local = shard(graph, Mesh(dp=2, tp=2), "data+megatron")
    assert str(local.state[0].type) == "float32[B|dp, N_H|tp, S, D_h]"
    assert not [node for node in local.nodes if node.operator.relayout is not None]


# -- what is left whole, and what is refused ---------------------------------------------------------------


def test_what_is_left_whole_is_told_with_the_reason() -> None:
    block = gi.Builder("odd")
    X = block.input("X", (B, S, D))
    W, b = block.parameter("W", (D, D)), block.parameter("b", (D,))
    U = block.parameter("U", (D, D_ff))
    heads = gi.reshape(gi.matmul(X, W), "b s (d h) -> b s d h", h=N_H)
    graph = block.build(heads, gi.add(gi.matmul(X, U), gi.matmul(X, U)), gi.add(X, gi.broadcast(b, (B, S))))
    left = left_whole(
        graph,
        Mesh(dp=3, tp=2),
        Plan("mine", {"tp": "D_ff, N_H", "dp": "B"}, parameters={"*": "?|dp"}),
        {"B": 3, "S": 2, "D": 8, "D_ff": 6, "N_H": 2},
    )
    assert [str(each) for each in left] == [
        "W [D, D] is whole along dp: none of its dims can be split evenly over dp=3",
        "b [D] is whole along dp: none of its dims can be split evenly over dp=3",
        "W [D, D] is whole along tp: N_H is a minor dim of D/N_H·N_H, where no split reaches it",
        "b [D] is whole along tp: none of its dims is D_ff",
    ]


def test_why_tells_what_is_left_whole(call: Callable[..., tuple[int, str, str]]) -> None:
    """Layers that are alike once."""
    code, out, err = call("why", "--layers", 2, "--tp", 2, "--optimizer", "none")
    assert (code, err) == (0, "")
    told = " ".join(out.partition("whole along tp, because ")[2].split())
    assert told.startswith(
        "none of its dims is D_ff or N_H: embedding/E [V, D], embedding/P_theta [S, D], layer0…1/mha/gamma [D]"
    )
    assert told.count("mha/gamma") == 1
    code, out, err = call("why", "--tp", 2, "--optimizer", "none", "--json")
    (b_lm,) = (each for each in json.loads(out)["left"] if each["name"] == "output/b_lm")
    assert b_lm == {"name": "output/b_lm", "shape": "[V]", "axis": "tp", "reason": "none of its dims is D_ff or N_H"}


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (
            "vocabulary",
            "plan vocabulary lays V over tp, but the arguments of graph mlp have no such dim; they have B, D_in, "
            "D_out, D_1: say which of them tp shall split, as in tp:D_1",
        ),
        ("tp:", "'' names no dim to lie over tp; dims are given like 'D_ff, (N_KV G), N_H'"),
        ("tp:D_ff N_H", "'D_ff N_H' names no dim to lie over tp; dims are given like 'D_ff, (N_KV G), N_H'"),
        ("t p:D", "'t p' is no mesh axis; dims are given like {'tp': 'D_ff, N_H'}"),
    ],
)
def test_dims_that_no_plan_can_be_made_of(plan: str, text: str) -> None:
    graph = gi.models.mlp(2)
    for each in (graph, optimize(autodiff(graph, loss="L"), Optimizer("sgd"))):
        with pytest.raises(LayoutError) as caught:
            shard(each, Mesh(tp=2), plan)
        assert str(caught.value) == text
