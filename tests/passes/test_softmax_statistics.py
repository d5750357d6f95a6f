"""Keeping statistics: the same numbers, and of what they are had; what is not as it should be stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.numpy import NumpyExecutable
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Layout
from graphir.ir.value import Value
from graphir.operators.attention import d_softmax, softmax_rows
from graphir.operators.linear import d_matmul
from graphir.operators.split_vocabulary import normalize
from graphir.passes import (
    LEVELS,
    autodiff,
    cse,
    dce,
    fuse,
    keep_softmax_statistics,
    mixed_precision,
    recompute,
    run_pipeline,
    separate_products,
    shard,
    unfuse,
)
from graphir.passes.value_numbering import ValueNumbering
from tests.support.evaluate import evaluate
from tests.support.sampled import sampled

SIZES = {"B": 2, "S": 12, "D": 24, "N_H": 4, "D_ff": 32, "V": 12}
MADE_AGAIN = ("attention", "selective", "full")


def step(layers: int = 1, precision: str = "float32", **options: Any) -> Graph:
    options = {"dropout": 0.2, "dtype": "float64" if precision == "float32" else "float32", **options}
    return dce(autodiff(mixed_precision(gi.models.transformer(layers, decode=None, **options), precision)))


def plain(graph: Graph, level: str) -> Graph:
    """The graph as `keep_softmax_statistics` gets it."""
    return run_pipeline(graph, level, without=["fuse", "overlap"])


def arguments(graph: Graph, sizes: Mapping[str, int] = SIZES) -> tuple[dict[str, Any], dict[str, Any]]:
    rng, shape = np.random.default_rng(0), (sizes["B"], sizes["S"])
    ids = [rng.integers(0, sizes["V"], shape) for _ in "TY"]
    given: dict[str, Any] = {**dict(zip("TY", ids, strict=True)), "seed": 5, "step": 3}
    keep = next((value for value in graph.inputs if value.name == "keep"), None)
    if keep is not None:
        given["keep"] = np.ones((sizes["S"],) * 2 if keep.shape[0] == keep.shape[1] else shape, bool)
        given["keep"][1:, -5:] = False
    return gi.initialize(graph, sizes, seed=1), given


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], error: float = 1e-12) -> None:
    """No result is further off than this share of its largest element."""
    for name, array in wanted.items():
        largest = max(float(np.abs(array).max()), 1e-6)
        assert float(np.abs(found[name] - array).max()) <= error * largest, name


def keys(graph: Graph) -> list[str]:
    return [node.operator.key for node in unfuse(graph).nodes]


def counts(graph: Graph, *operators: str) -> tuple[int, ...]:
    return tuple(keys(graph).count(each) for each in operators)


def maker(graph: Graph, value: str | Value) -> Node:
    return graph.producers[graph[value] if isinstance(value, str) else value]


def names(node: Node) -> tuple[str, ...]:
    return tuple(value.name.removeprefix("layer0/mha/") for value in node.inputs)


# -- numbers ----------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "causal": {"dropout": 0.0},
    "causal, dropout": {},
    "bidirectional": {"causal": False},
    "padding": {"mask": "padding"},
    "a given mask": {"causal": False, "mask": "given", "dropout": 0.0},
}


@sampled(variant=list(VARIANTS), level=LEVELS)
def test_results_are_the_same(variant: str, level: str) -> None:
    graph = step(2, **VARIANTS[variant])
    wanted = gi.compile(graph, SIZES, backend="reference")(*arguments(graph))
    kept = gi.verify(keep_softmax_statistics(plain(graph, level)))
    assert gi.parse(gi.to_text(kept)) == kept
    assert counts(kept, "dS", "center", "row_dot") == (0, 2, 2)
    check_same(gi.compile(kept, SIZES, backend="reference")(*arguments(graph)), wanted)
    run = NumpyExecutable(gi.compile(graph, SIZES).plan, run_pipeline(graph, level, on_gpu=True))
    check_same(run(*arguments(graph)), wanted)


def test_every_value_keeps_its_name_and_can_be_fetched() -> None:
    graph = step()
    everything = dce(graph, [name for name, value in graph.values.items() if value.type.is_float])
    wanted = gi.compile(everything, SIZES, backend="reference")(*arguments(graph))
    kept = run_pipeline(everything, "attention", on_gpu=True)
    assert counts(kept, "center") == (1,)
    check_same(NumpyExecutable(gi.compile(everything, SIZES).plan, kept)(*arguments(graph)), wanted)


def test_the_causal_half_is_left_out() -> None:
    """In tiles, each with the keys that its queries see: of the forward pass, and of the gradient."""
    sizes = {**SIZES, "S": 200}
    graph = step()
    run = NumpyExecutable(gi.compile(graph, sizes).plan, run_pipeline(graph, "attention", on_gpu=True))
    causal = [task for task in run.prepared.tasks if task.causal is not None]
    assert len(causal) == 2
    assert all(len(list(task.tiles[0])) > 1 for task in causal)
    check_same(run(*arguments(graph, sizes)), gi.compile(graph, sizes, backend="reference")(*arguments(graph, sizes)))


@lru_cache(maxsize=1)
def narrow() -> tuple[Graph, dict[str, Any]]:
    """A step whose products read bfloat16, and its gradients if they read float64."""
    exact = step(dtype="float64")
    parameters, given = arguments(exact)
    wanted = gi.compile(exact, SIZES, backend="reference")(parameters, given)
    return step(precision="bfloat16"), dict(wanted)


@pytest.mark.parametrize("level", ["masks", *MADE_AGAIN])
def test_with_narrow_factors_it_is_as_good_as_before(level: str) -> None:
    """O is rounded to 8 bits where P ⊙ dP was not; what the products round is more."""
    graph, exact = narrow()
    before, after = plain(graph, level), keep_softmax_statistics(plain(graph, level))
    assert counts(after, "dS", "center") == (0, 1)
    made = [gi.compile(each, SIZES, backend="reference")(*arguments(graph)) for each in (before, after)]
    for name in ("layer0/mha/dW_Q", "layer0/mha/dW_K", "layer0/mha/dW_V"):
        first, second = (float(np.linalg.norm(each[name] - exact[name])) for each in made)
        assert second < 1.2 * first


SHARDED = {
    "megatron": {"tp": 2},
    "column": {"tp": 2},
    "sequence": {"tp": 2},
    "context": {"cp": 2},
    "data+context+megatron": {"dp": 2, "cp": 2, "tp": 2},
    "data+sequence+zero3": {"dp": 2, "tp": 2},
}


@sampled(plan=list(SHARDED), level=["masks", *MADE_AGAIN])
def test_every_rank_keeps_its_own(plan: str, level: str) -> None:
    graph = dce(shard(step(), gi.Mesh(SHARDED[plan]), plan))
    wanted = gi.compile(graph, SIZES, backend="reference")(*arguments(graph))
    kept = gi.verify(run_pipeline(graph, level, on_gpu=True))
    assert counts(kept, "dS", "center", "normalize") == (0, 1, level in MADE_AGAIN)
    check_same(NumpyExecutable(gi.compile(graph, SIZES).plan, kept)(*arguments(graph)), wanted)


# -- of what they are had ---------------------------------------------------------------------------------


def test_p_that_is_made_again_is_made_of_statistics() -> None:
    graph = keep_softmax_statistics(plain(step(), "attention"))
    forward, again, c, dZ = (maker(graph, f"layer0/mha/{name}") for name in ("AS", "AS.again", "dZ.dot", "dZ"))
    assert [value.name for value in forward.outputs] == ["layer0/mha/AS", "layer0/mha/AS.top", "layer0/mha/AS.s"]
    assert (forward.operator, names(forward)) == (softmax_rows, ("Z",))
    assert (again.operator, names(again)) == (normalize, ("Z.again", "AS.top", "AS.s"))
    assert (dZ.operator.key, names(dZ)) == ("center", ("AS.again", "dAS", "dZ.dot"))
    # O lies in memory as what the next product reads, and that it goes on doing.
    assert (c.operator.key, names(c)) == ("row_dot", ("AO_heads.held", "dAO_heads"))
    held, split = maker(graph, c.inputs[0]), maker(graph, "layer0/mha/AO_T.held")
    assert (held.operator.key, names(held), held.attributes["perm"]) == ("T", ("AO_T.held",), (0, 2, 1, 3))
    assert (split.operator.key, names(split)) == ("dC", ("AO_cat",))
    assert all(node.meta.phase == "backward" for node in (c, held, split))
    assert c.meta.of == "layer0/mha/AS"
    assert c.meta.why == "its rows' inner product is that of layer0/mha/AO_heads and its gradient"


def test_p_that_is_held_needs_no_statistics() -> None:
    graph = keep_softmax_statistics(plain(step(), "masks"))
    assert counts(graph, "S", "S_rows", "normalize", "dS", "center") == (1, 0, 0, 0, 1)
    assert names(maker(graph, "layer0/mha/dZ")) == ("AS", "dAS", "dZ.dot")


@pytest.mark.parametrize("level", MADE_AGAIN)
def test_of_narrow_rows_the_inner_product_is_wide(level: str) -> None:
    """O is read as it is held, in 16 bits: nothing is held in 32 for its sake."""
    graph = keep_softmax_statistics(plain(step(precision="bfloat16"), level))
    c = maker(graph, "layer0/mha/dZ.dot")
    assert {value.dtype for value in (*c.inputs, *c.outputs)} == {"float32"}
    before = [maker(graph, value) for value in c.inputs]
    assert [node.operator.key for node in before] == ["cast", "cast"]
    assert {node.inputs[0].dtype for node in before} == {"bfloat16"}
    whole = run_pipeline(step(precision="bfloat16"), level, on_gpu=True)
    assert unfuse(whole)["layer0/mha/AO_heads"].dtype == "bfloat16"


def test_where_o_is_made_again_of_p_the_gradient_has_a_p_of_its_own() -> None:
    graph = keep_softmax_statistics(plain(step(), "full"))
    assert counts(graph, "S", "S_rows", "normalize") == (1, 1, 1)
    # The forward pass keeps nothing; O is made as it was, with statistics.
    assert maker(graph, "layer0/mha/AS").operator is gi.softmax
    assert maker(graph, "layer0/mha/AS.again").operator is softmax_rows
    assert names(maker(graph, "layer0/mha/AO_heads.again")) == ("AS_drop.again", "V.again")
    own = maker(graph, "layer0/mha/AS.again.2")
    assert (own.operator, names(own)) == (normalize, ("Z.again.2", "AS.again.top", "AS.again.s"))
    assert names(maker(graph, "layer0/mha/dZ")) == ("AS.again.2", "dAS", "dZ.dot")
    assert names(maker(graph, "layer0/mha/dAS")) == ("AS_drop.m.again.2", "dAS_drop")
    assert names(maker(graph, "layer0/mha/dV")) == ("AS_drop.again.2", "dAO_heads")
    assert names(maker(graph, "layer0/mha/A.again.2")) == names(maker(graph, "layer0/mha/A.again"))
    # As in the forward pass, scores come before what is made of dO.
    order = [graph.nodes.index(maker(graph, f"layer0/mha/{name}")) for name in ("A.again.2", "dAS_drop", "dZ")]
    assert order == sorted(order)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("level", MADE_AGAIN)
def test_the_inner_product_comes_before_the_scores_in_one_pass(level: str, precision: str) -> None:
    graph = run_pipeline(step(precision=precision), level, on_gpu=True)
    home = next(node for node in graph.nodes if "layer0/mha/dZ.dot" in [value.name for value in node.outputs])
    attention = next(node for node in graph.nodes if graph["layer0/mha/dZ.dot"] in node.inputs)
    assert home.body is not None
    assert attention.body is not None
    assert {node.operator.key for node in home.body.nodes} <= {"C", "dC", "T", "cast", "row_dot"}
    # Nothing of O or dO is made only for the inner product to read it.
    rows = {"layer0/mha/dZ.dot", "layer0/mha/dAO_heads.bfloat16", "layer0/mha/AO_cat.again"}
    assert {value.name for value in home.outputs} <= rows
    inside = [node.operator.key for node in attention.body.nodes]
    assert [inside.count(each) for each in ("normalize", "center", "dSM", "dMatmul", "matmul")] == [1, 1, 1, 4, 1]
    assert graph.nodes.index(home) < graph.nodes.index(attention)


def test_a_product_element_by_element_is_crossed_too() -> None:
    """Whatever is linear in P and makes rows of rows."""
    graph = attention(lambda P, block: gi.multiply(P, block.input("gate", P.shape)))
    kept = keep_softmax_statistics(plain(graph, "attention"))
    assert counts(kept, "dS", "center") == (0, 1)
    assert names(maker(kept, "dZ.dot")) == ("O", "dO")


# -- what stays as it is ----------------------------------------------------------------------------------

_DIMS = gi.dims("B N_H S D_h")
_NUMBERS = {"B": 2, "N_H": 2, "S": 6, "D_h": 3}


def attention(
    inner: Callable[[Value, gi.Builder], Value] = lambda P, block: P,
    outer: Callable[[Value], Value] = lambda out: gi.multiply(out, out),
    dtype: str = "float64",
    trained: str = "Q K_T V",
) -> Graph:
    """The gradients of O = inner(P) • V; `outer` makes of it what is summed."""
    B, H, S, D = _DIMS
    block = gi.Builder("attention", dtype)
    Q, K_T, V = (
        block.parameter(name, shape)
        for name, shape in (("Q", (B, H, S, D)), ("K_T", (B, H, D, S)), ("V", (B, H, S, D)))
    )
    Z = gi.scale_mask(gi.matmul(Q, K_T, name="A"), width=gi.dim("D_h"), causal=True, name="Z")
    P = gi.softmax(Z, name="P")
    out = gi.matmul(inner(P, block), V, name="O")
    block.output(gi.reduce_sum(outer(out), name="L"))
    return autodiff(block.build(), wrt=trained.split())


def check_untouched(graph: Graph) -> None:
    kept = keep_softmax_statistics(graph)
    assert kept is graph
    assert counts(graph, "dS", "center") == (1, 0)


Change = Callable[[gi.Builder, dict[Value, Value]], Value]


def rewire(graph: Graph, name: str, attributes: Mapping[str, Any] | None = None, **operands: Change) -> Graph:
    """The graph with some operands, and attributes, of the node that makes `name` replaced by others."""
    builder = gi.Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    for node in graph.nodes:
        if node.name != name:
            builder.copy_node(node, copies)
            continue
        pairs = zip(node.inference.rule.inputs, node.inputs, strict=True)
        read = [operands[o.name](builder, copies) if o.name in operands else copies[value] for o, value in pairs]
        outputs = [f"/{value.name}" for value in node.outputs]
        made = builder.emit(node.operator, read, {**node.attributes, **(attributes or {})}, outputs, node.meta)
        copies.update(zip(node.outputs, made, strict=True))
    return builder.build(*(copies[value] for value in graph.outputs))


def test_the_graph_that_the_others_break_is_one_that_changes() -> None:
    graph = plain(attention(), "attention")
    assert counts(keep_softmax_statistics(graph), "S_rows", "normalize", "dS", "center") == (1, 1, 0, 1)


def test_of_an_o_that_the_backward_pass_does_not_have() -> None:
    """It would have to be held for that alone."""
    check_untouched(plain(attention(outer=lambda out: out), "attention"))


def test_of_scores_in_16_bits() -> None:
    check_untouched(plain(attention(dtype="bfloat16"), "attention"))


def test_of_probabilities_that_are_read_twice() -> None:
    """Their gradient is a sum, and no d-node's."""
    B, H, S, D = _DIMS
    block = gi.Builder("twice", "float64")
    Z, V = block.parameter("Z", (B, H, S, S)), block.parameter("V", (B, H, S, D))
    P = gi.softmax(Z, name="P")
    once, again = gi.matmul(P, V), gi.matmul(gi.exponential(P), V)
    block.output(gi.add(gi.reduce_sum(gi.multiply(once, once)), gi.reduce_sum(again), name="L"))
    check_untouched(plain(autodiff(block.build()), "masks"))


def test_of_what_mixes_rows() -> None:
    """O's rows are others than P's: of Pᵀ, or of M • P."""
    check_untouched(plain(attention(lambda P, block: gi.transpose(P)), "attention"))
    check_untouched(plain(attention(lambda P, block: gi.matmul(block.input("M", P.shape), P)), "attention"))


def test_of_what_is_not_linear() -> None:
    graph = attention(lambda P, block: gi.activation(P, kind="relu"))
    check_untouched(run_pipeline(graph, "attention", without=["keep_slopes", "fuse", "overlap"]))


def test_of_a_sum_that_ranks_have_yet_to_form() -> None:
    """With a head's width split, each rank has a term of dP, and would have one of c."""
    B, H, S, D = _DIMS
    block = gi.Builder("width", "float64", gi.Mesh(tp=3))
    narrow = Layout(((), (), (), ("tp",)))
    Z = block.input("Z", (B, H, S, S))
    V, dO = (block.input(name, (B, H, S, D), layout=narrow) for name in ("V", "dO"))
    P = gi.softmax(Z, name="P")
    out = gi.matmul(P, V, name="O")
    with block.context(phase="backward"):
        dP = d_matmul(V, dO, shared=False, only=("dX",), name="dP")
        dZ = d_softmax(P, dP, name="dZ")
        block.output(gi.all_reduce(dZ, axes=("tp",)), gi.multiply(out, dO))
    assert dP.type.layout.pending
    assert dZ.type.layout.pending
    check_untouched(gi.verify(block.build()))


def test_of_an_o_that_is_made_only_later() -> None:
    graph, builder = plain(step(), "full"), gi.Builder("late")
    late = {"layer0/mha/AO_heads.again", "layer0/mha/AO_T.again", "layer0/mha/AO_cat.again", "layer0/mha/dW_O"}
    copies = builder.copy_arguments(graph)
    for node in sorted(graph.nodes, key=lambda node: node.name in late):
        builder.copy_node(node, copies)
    check_untouched(builder.build(*(copies[value] for value in graph.outputs)))


def test_of_another_v() -> None:
    graph = plain(attention(), "attention")
    other = rewire(graph, "dP", W=lambda builder, copies: gi.scale(copies[graph["V"]], by=2.0))
    check_untouched(other)


def test_of_another_mask() -> None:
    """dP dropped as P was not: by another node's draws, or at another rate."""
    graph = plain(step(), "attention")
    key = maker(graph, "layer0/mha/AS_drop").attributes["key"]

    def draw(key: int, p: float) -> Graph:
        def mask(builder: gi.Builder, copies: dict[Value, Value]) -> Value:
            X, seed, step = (copies[graph[name]] for name in ("layer0/mha/AS.again", "seed", "step"))
            return gi.find_operator("DO").all(X, seed, step, p=p, key=key)[1]

        return rewire(graph, "layer0/mha/dAS", m=mask)

    assert counts(keep_softmax_statistics(draw(key, 0.2)), "dS", "center") == (0, 1)
    check_untouched(draw(key + 100, 0.2))
    check_untouched(draw(key, 0.3))
    check_untouched(rewire(graph, "layer0/mha/dAS", {"p": 0.3}))


def test_of_another_gradient_of_o() -> None:
    """dV may be made of what it likes; dP decides."""
    graph = plain(attention(), "attention")
    kept = keep_softmax_statistics(
        rewire(graph, "dP", dY=lambda builder, copies: gi.scale(copies[graph["dO"]], by=2.0))
    )
    c = maker(kept, "dZ.dot")
    assert [maker(kept, c.inputs[1]).operator.key, c.inputs[0].name] == ["scale", "O"]


def test_a_forward_graph_is_left_alone() -> None:
    graph = gi.models.transformer(1)
    assert keep_softmax_statistics(graph) is graph


# -- what is the same -------------------------------------------------------------------------------------


def test_what_is_made_again_is_the_same() -> None:
    graph = recompute(step(), "attention")
    numbering = ValueNumbering(graph)
    for name in ("A", "Z", "AS", "AS_drop", "AS_drop.m"):
        first, again = graph[f"layer0/mha/{name}"], graph[f"layer0/mha/{name}.again"]
        assert numbering.leader(again) is first
        assert list(numbering.congruent(again)) == [first, again]
    assert numbering.leader(graph["layer0/mha/A_out.m"]) is not numbering.leader(graph["layer0/mha/AS_drop.m"])
    assert numbering.leader(graph["layer0/mha/Q"]) is not numbering.leader(graph["layer0/mha/K"])


def test_a_mask_that_is_made_again_alone_is_the_same() -> None:
    """V is given, so that of dropout's results the gradient reads the mask alone."""

    def drop(P: Value, block: gi.Builder) -> Value:
        return gi.dropout(P, block.input("seed", (), "int64"), block.input("step", (), "int64"), p=0.3, name="kept")

    graph = plain(attention(drop, trained="Q K_T"), "masks")
    alone = graph["kept.m.again"]
    assert maker(graph, alone).operator.key == "mask"
    assert ValueNumbering(graph).leader(alone) is graph["kept.m"]
    assert counts(keep_softmax_statistics(graph), "dS", "center") == (0, 1)


# -- the operators ----------------------------------------------------------------------------------------


def test_softmax_with_statistics_is_softmax() -> None:
    """Bit for bit, by the reference kernel and by the rule; and P is had of them again."""
    Z = np.random.default_rng(2).standard_normal((3, 5, 40)).astype("float32")
    Z[0, 0, 3:] = -1e30
    for backend in ("reference", "numpy"):
        block = gi.Builder("rows")
        value = block.input("Z", gi.dims("a b k"))
        P, top, s = softmax_rows.all(value, names=["P", "top", "s"])
        block.output(P, top, s, gi.softmax(value, name="plain"), normalize(value, top, s, name="again"))
        made = gi.compile(block.build(), {"a": 3, "b": 5, "k": 40}, backend=backend)({"Z": Z})
        assert np.array_equal(made["P"], made["plain"])
        assert np.array_equal(made["top"], Z.max(axis=-1))
        exact = np.exp(Z.astype("float64") - Z.max(axis=-1, keepdims=True)).sum(axis=-1)
        np.testing.assert_allclose(made["s"], exact, rtol=1e-6)
        np.testing.assert_allclose(made["again"], made["P"], rtol=1e-6, atol=0)


def test_softmax_with_statistics_over_a_split_dim_makes_the_same_three() -> None:
    Z = np.random.default_rng(3).standard_normal((4, 7))
    assert softmax_rows.decompose is not None

    def apart(value: Value) -> tuple[Value, ...]:
        assert softmax_rows.decompose is not None
        made = softmax_rows.decompose(
            {"Z": value}, softmax_rows.normalize({}), {each: each for each in ("P", "top", "s")}
        )
        return made["P"], made["top"], made["s"]

    pairs = zip(evaluate(apart, Z), evaluate(softmax_rows.all, Z), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-14)


# -- together with other passes ---------------------------------------------------------------------------


def test_it_may_come_before_the_products_are_separated_and_what_is_equal_shared() -> None:
    """At level full, sharing would make one of the two P again, and all of it one node."""
    graph = step()
    early = cse(separate_products(keep_softmax_statistics(recompute(graph, "attention"))))
    assert counts(early, "S_rows", "normalize", "dS", "center") == (1, 1, 0, 1)
    check_same(
        gi.compile(fuse(early), SIZES, backend="numpy", recompute="nothing")(*arguments(graph)),
        gi.compile(graph, SIZES, backend="reference")(*arguments(graph)),
    )
