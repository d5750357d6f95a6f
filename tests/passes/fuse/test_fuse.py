"""Fusing: what becomes one node, what never does, and that unfolding gives the same graph's results back.

The reference interpreter runs the unfolded graph; nodes and operands are those of the graph that was fused, so every
number is the same to the last bit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import OperatorError, TypeCheckError, VerifyError
from graphir.ir.attributes import Attributes
from graphir.ir.fused import fused
from graphir.ir.graph import BACKWARD, FORWARD, Graph, Node
from graphir.passes import LEVELS, autodiff, dce, fuse, optimize, run_pipeline, unfuse
from graphir.passes.fuse.precedence import Precedence
from graphir.passes.fuse.units import Flow, Unit, in_order
from tests.fixtures.variants import SIZES, VARIANTS, Variant
from tests.support.paths import ROOT
from tests.support.random_graphs import Program, programs
from tests.support.sharding_cases import Case, batch, sharded_step_of, start, step_of

B, S, D, F, N_H, D_h = gi.dims("B S D F N_H D_h")
PASSES = ROOT / "passes"


def run(graph: Graph, sizes: Mapping[str, int], *arguments: Mapping[str, Any]) -> dict[str, Any]:
    return dict(gi.compile(graph, sizes, backend="reference", recompute="nothing")(*arguments))


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(found[name], array, equal_nan=np.asarray(array).dtype.kind == "f"), name


def fused_nodes(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.body is not None]


def body(node: Node) -> Graph:
    found = node.body
    assert found is not None
    return found


def keys(nodes: Iterable[Node]) -> list[str]:
    return [node.operator.key for node in nodes]


def work(graph: Graph) -> list[list[str]]:
    """Of each node the operators that it carries out, views left out."""
    found = []
    for node in graph.nodes:
        nodes = (node,) if node.body is None else body(node).nodes
        found.append([each.operator.key for each in nodes if not each.operator.view])
    return found


def check_fused(plain: Graph) -> Graph:
    """`plain` fused, after asserting what holds of every fused graph."""
    graph = gi.verify(fuse(plain))
    for node in fused_nodes(graph):
        assert not any(inner.operator.relayout for inner in body(node).nodes), "ranks meet in nodes of their own"
        assert len({inner.meta.phase == FORWARD for inner in body(node).nodes if not inner.operator.view}) == 1
        assert {v.name for v in body(node).outputs} == {v.name for v in node.outputs}
    back = gi.verify(unfuse(graph))
    assert not fused_nodes(back)
    assert [v.name for v in back.outputs] == [v.name for v in graph.outputs] == [v.name for v in plain.outputs]
    assert Counter(keys(n for n in back.nodes if not n.operator.view)) == Counter(
        keys(n for n in plain.nodes if not n.operator.view)
    )
    assert [(o.name, n.name) for o, n in graph.updates.items()] == [(o.name, n.name) for o, n in back.updates.items()]
    return graph


# -- the same results -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_variants_compute_the_same_at_every_level(variant: Variant) -> None:
    step = variant.training_step("float64")
    arguments = {**gi.initialize(step, SIZES), **variant.parameters("float64")}, variant.batch(0)
    wanted = run(step, SIZES, *arguments)
    for level in LEVELS:
        graph = check_fused(run_pipeline(dce(step), level, without=["fuse"]))
        assert_same(run(unfuse(graph), SIZES, *arguments), wanted)


PLANS = (
    Case("data", (("dp", 2),)),
    Case("megatron", (("tp", 2),)),
    Case("megatron+sequence", (("tp", 2),)),
    Case("vocabulary", (("tp", 2),)),
    Case("zero1", (("dp", 2),)),
    Case("zero2", (("dp", 2),)),
    Case("zero3", (("dp", 2),)),
    Case("context", (("cp", 2),)),
    Case("data+megatron", (("dp", 2), ("tp", 2))),
)


@pytest.mark.parametrize("case", PLANS, ids=str)
@pytest.mark.parametrize("level", ["masks", "full"])
def test_sharded_graphs_compute_the_same(case: Case, level: str) -> None:
    step = sharded_step_of(case)
    arguments = start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0)
    graph = check_fused(run_pipeline(dce(step), level, without=["fuse"]))
    assert_same(run(unfuse(graph), case.sizes, *arguments), run(step, case.sizes, *arguments))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(program=programs(), level=st.sampled_from(LEVELS))
def test_random_graphs_compute_the_same(program: Program, level: str) -> None:
    graph = program.graph
    joint = autodiff(graph) if graph.parameters else graph
    plain = run_pipeline(joint, level, without=["fuse"])
    assert_same(
        run(unfuse(check_fused(plain)), program.sizes, program.arrays()),
        run(plain, program.sizes, program.arrays()),
    )


def test_what_is_fused_can_be_fused_again_and_what_is_not_is_left() -> None:
    step = run_pipeline(autodiff(gi.models.transformer(layers=1)))
    again = gi.verify(fuse(step))
    assert sorted(map(sorted, work(again))) == sorted(map(sorted, work(step)))
    check_fused(unfuse(step))
    plain = gi.models.mlp(1)
    assert unfuse(plain) is plain


def test_a_graph_without_nodes_stays() -> None:
    block = gi.Builder("empty")
    X = block.input("X", (B,))
    assert fuse(block.build(X)).nodes == ()


# -- back-to-back products ---------------------------------------------------------------------------------

FORWARD_CORE = {"matmul": 2, "SM": 1, "S": 1}
BACKWARD_CORE = {"dMatmul": 4, "dS": 1, "dSM": 1}


def cores(graph: Graph, phase: str) -> list[Counter[str]]:
    """Of the fused nodes of a phase that hold several products, the operators, views left out."""
    found = []
    for node in fused_nodes(graph):
        inside = Counter(inner.operator.key for inner in body(node).nodes if not inner.operator.view)
        if node.meta.phase == phase and inside["matmul"] + inside["dMatmul"] > 1:
            found.append(inside)
    return found


@pytest.mark.parametrize(
    ("level", "p", "added", "made_again"),
    [
        ("nothing", 0.0, {}, {}),
        ("nothing", 0.1, {"DO": 1}, {"dDO": 1}),
        ("masks", 0.1, {"DO": 1}, {"dDO": 1, "DO": 1}),
        ("attention", 0.0, {}, {"matmul": 1, "SM": 1, "S": 1}),
        ("attention", 0.1, {"DO": 1}, {"dDO": 1, "matmul": 1, "SM": 1, "S": 1, "DO": 1}),
        ("selective", 0.1, {"DO": 1}, {"dDO": 1, "matmul": 1, "SM": 1, "S": 1, "DO": 1}),
        # Nothing but the residual stream is held, so A_out's own product is made again, too.
        ("full", 0.1, {"DO": 1}, {"dDO": 1, "matmul": 2, "SM": 1, "S": 1, "DO": 1}),
    ],
)
def test_back_to_back_products_are_the_core_of_attention(
    level: str, p: float, added: Mapping[str, int], made_again: Mapping[str, int]
) -> None:
    layers = 2
    graph = run_pipeline(dce(optimize(autodiff(gi.models.transformer(layers, dropout=p)))), level)
    assert cores(graph, FORWARD) == [Counter({**FORWARD_CORE, **added})] * layers
    assert cores(graph, BACKWARD) == [Counter({**BACKWARD_CORE, **made_again})] * layers
    # Every core can be cut into tiles of batch, heads and queries.
    assert {node.attributes["rows"] for node in fused_nodes(graph) if Counter(keys(body(node).nodes))["S"]} <= {3}


@pytest.mark.parametrize("level", ["attention", "selective", "full"])
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_nothing_of_the_size_of_the_scores_is_stored(level: str, p: float) -> None:
    graph = run_pipeline(dce(optimize(autodiff(gi.models.transformer(2, dropout=p)))), level)
    scores = Counter(gi.dims("B N_H S S"))
    assert not [value.name for value in graph.values.values() if Counter(value.shape) == scores]
    assert any(Counter(v.shape) == scores for v in unfuse(graph).values.values())


def test_a_core_waits_for_nothing_that_is_made_of_it() -> None:
    """A sum over all scores scales what is taken back: the scores are needed whole before the second product."""
    block = gi.Builder("waits")
    Q, K, V = (block.input(name, (B, S, D)) for name in "QKV")
    A = gi.matmul(Q, gi.transpose(K, (0, 2, 1)), name="A")
    whole = gi.broadcast(gi.reduce_sum(A, name="whole"), (B, S, S))
    graph = check_fused(block.build(gi.matmul(gi.multiply(A, whole), V, name="Y")))
    assert not cores(graph, FORWARD)


# -- chains and views -------------------------------------------------------------------------------------


def test_a_chain_holds_what_shares_rows_and_its_sums() -> None:
    block = gi.Builder("chain")
    X, W, gamma, beta = (
        block.input("X", (B, S, D)), block.parameter("W", (D, F)), block.parameter("gamma", (D,)),
        block.parameter("beta", (D,)),
    )  # fmt: skip
    H = gi.layer_norm(gi.add(X, gi.activation(X, kind="gelu", name="A"), name="R"), gamma, beta, name="H")
    Z = gi.matmul(H, W, name="Z")
    graph = check_fused(block.build(gi.reduce_sum(gi.multiply(Z, Z, name="square"), name="L"), H))
    assert work(graph) == [["GL", "add", "LN"], ["matmul"], ["mul", "sum"]]
    first, _, last = graph.nodes
    assert (first.attributes["rows"], last.attributes["rows"]) == (2, 3)
    # Statistics that nobody reads do not leave.
    assert [value.name for value in first.outputs] == ["H"]
    assert [value.name for value in last.outputs] == ["L"]
    assert (first.meta.scope, first.meta.phase, first.meta.why) == ("", FORWARD, "fused: GL, +, LN")


def test_a_sum_is_read_only_when_it_is_complete() -> None:
    block = gi.Builder("complete")
    X = block.input("X", (B, D))
    n = gi.reduce_sum(gi.multiply(X, X, name="square"), name="n")
    graph = check_fused(block.build(gi.multiply(X, gi.broadcast(n, (B, D)), name="Y")))
    assert work(graph) == [["mul", "sum"], ["mul"]]


def test_readers_of_one_value_share_its_rows() -> None:
    block = gi.Builder("siblings")
    X = block.input("X", (B, D))
    graph = block.build(gi.softmax(X, name="P"), gi.exponential(X, name="E"))
    assert work(check_fused(graph)) == [["S", "exp"]]


def test_no_chain_goes_around_a_product() -> None:
    block = gi.Builder("around")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, D))
    P = gi.softmax(X, name="P")
    graph = check_fused(block.build(gi.add(P, gi.matmul(P, W, name="Z"), name="Y")))
    assert work(graph) == [["S"], ["matmul"], ["add"]]


def test_what_the_backward_pass_makes_stays_there() -> None:
    graph = run_pipeline(autodiff(gi.models.transformer(layers=1)), "full")
    for node in fused_nodes(graph):
        assert len({inner.meta.phase for inner in body(node).nodes if not inner.operator.view}) == 1


def test_views_join_the_product_that_reads_them_and_the_one_that_makes_them() -> None:
    block = gi.Builder("views")
    X, W = block.input("X", (B, S, D)), block.parameter("W", (F, D))
    Z = gi.matmul(X, gi.transpose(W), name="Z")
    graph = check_fused(block.build(gi.transpose(Z, (0, 2, 1), name="Y")))
    (node,) = graph.nodes
    assert keys(body(node).nodes) == ["T", "matmul", "T"]
    assert [value.name for value in node.outputs] == ["Y"]
    assert (node.attributes["anchor"], node.attributes["rows"]) == ("", 0)


def test_a_view_that_is_a_result_beside_what_it_rearranges_is_a_node() -> None:
    block = gi.Builder("both")
    X = block.input("X", (B, D))
    Y = gi.exponential(X, name="Y")
    graph = check_fused(block.build(Y, gi.transpose(Y, name="Y_T"), gi.transpose(X, name="X_T")))
    assert keys(graph.nodes) == ["exp", "T", "T"]


def test_heads_are_stored_side_by_side() -> None:
    """What passes from attention to the next product is [B, S, D], the form that needs no copy."""
    graph = run_pipeline(gi.models.transformer(layers=1, dropout=0.0))
    (core,) = (node for node in fused_nodes(graph) if node.meta.why and "SM" in node.meta.why)
    assert [value.name for value in core.outputs] == ["layer0/mha/AO_cat"]
    assert [value.name for value in core.inputs] == [f"layer0/mha/{name}_lin" for name in "QKV"]


def test_dead_code_stays_until_it_is_pruned() -> None:
    block = gi.Builder("dead")
    X = block.input("X", (B, D))
    gi.exponential(gi.transpose(X), name="unused")
    graph = check_fused(block.build(gi.softmax(X, name="P")))
    assert "unused" in graph


# -- order ------------------------------------------------------------------------------------------------


def test_a_gradient_is_used_up_where_it_is_made() -> None:
    graph = run_pipeline(dce(optimize(autodiff(gi.models.transformer(layers=2)))))
    position = {value.name: i for i, node in enumerate(graph.nodes) for value in node.outputs}
    for W, partner in (("mha/W_Q", "mha/dX_norm.Q_lin"), ("mlp/W_up", "mlp/dH"), ("mlp/W_down", "mlp/dH_inter")):
        scope, _, name = W.rpartition("/")
        gradient, dX = position[f"layer0/{scope}/d{name}"], position[f"layer0/{partner}"]
        # The update needs the learning rate, which is made once, before the first of them.
        assert (gradient - dX, position[f"layer0/{W}.new"] - gradient) == (1, 1), W


def test_new_content_comes_after_all_who_read_the_old() -> None:
    for case in (Case("single", (("dp", 1),)), Case("zero3", (("dp", 2),))):
        graph = run_pipeline(dce(sharded_step_of(case)), "full")
        position = {node: i for i, node in enumerate(graph.nodes)}
        assert graph.updates
        for old, new in graph.updates.items():
            made = graph.producers[new]
            assert all(position[reader] < position[made] for reader, _ in graph.uses[old] if reader is not made)


def test_units_that_wait_for_each_other_have_no_order() -> None:
    block = gi.Builder("cycle")
    X = block.input("X", (B,))
    Y = gi.exponential(X, name="Y")
    Z = gi.exponential(Y, name="Z")
    graph = block.build(gi.exponential(Z, name="W"))
    first, second, third = graph.nodes
    flow = Flow(graph)
    assert in_order([Unit([first, third]), Unit([second])], flow) is None
    ordered = in_order([Unit([third]), Unit([second]), Unit([first])], flow)
    assert ordered is not None
    assert [unit.nodes for unit in ordered] == [[first], [second], [third]]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_precedence_is_what_paths_say(data: st.DataObject) -> None:
    """Groups are added, ordered and merged at random; a plain search for paths says what must come before what."""
    precedence, edges, alive = Precedence(), set[tuple[int, int]](), list[int]()

    def reaches(source: int, target: int) -> bool:
        frontier, seen = [source], {source}
        while frontier:
            here = frontier.pop()
            for a, b in edges:
                if a == here and b not in seen:
                    seen.add(b)
                    frontier.append(b)
        return target in seen and source != target

    for _ in range(data.draw(st.integers(1, 12))):
        sources = data.draw(st.sets(st.sampled_from(alive))) if alive else set[int]()
        group = precedence.add(sources)
        edges |= {(source, group) for source in sources}
        alive.append(group)
        one, two = data.draw(st.sampled_from(alive)), data.draw(st.sampled_from(alive))
        if one != two and not reaches(one, two) and data.draw(st.booleans()):
            precedence.put_after(one, [two])
            edges.add((two, one))
        elif one != two and not any(
            reaches(a, c) and reaches(c, b) for a, b in ((one, two), (two, one)) for c in alive if c not in (one, two)
        ):
            precedence.merge(one, two)
            alive.remove(two)
            edges = {tuple(one if end == two else end for end in edge) for edge in edges}  # type: ignore[misc]
            edges = {(a, b) for a, b in edges if a != b}
    for a in alive:
        for b in alive:
            assert precedence.is_before(a, b) == reaches(a, b)


# -- the node ---------------------------------------------------------------------------------------------


def test_a_fused_node_says_what_does_not_fit() -> None:
    with pytest.raises(TypeCheckError, match="attribute body must be a graph"):
        fused.normalize({})
    graph = fuse(gi.models.mlp(1))
    node = fused_nodes(graph)[0]
    with pytest.raises(TypeCheckError, match="unknown attribute p; it has body, anchor, rows"):
        fused.normalize({**node.attributes, "p": 1})
    types = tuple(value.type for value in node.inputs)
    with pytest.raises(TypeCheckError, match=re.escape(f"{types[0]} does not fit the body's inputs {types[0]}, ")):
        fused.infer(types[:1], node.attributes)
    with pytest.raises(OperatorError, match=r"run the graph that passes\.unfuse makes"):
        fused.kernel(np)


def test_a_body_is_verified_with_the_graph() -> None:
    graph = fuse(gi.models.mlp(1))
    node = fused_nodes(graph)[0]
    inside = body(node)
    broken = Graph("body", inside.inputs, (), (), inside.outputs, inside.nodes[::-1])
    attributes = Attributes({**node.attributes, "body": broken})
    changed = Node(fused, node.inputs, attributes, node.outputs, node.meta)
    nodes = [changed if each is node else each for each in graph.nodes]
    wrong = Graph(graph.name, graph.inputs, graph.parameters, graph.state, graph.outputs, nodes)
    with pytest.raises(VerifyError, match=rf"{node.name} = fused\(…\) holds no graph: .* before it is computed"):
        gi.verify(wrong)


# -- no names ---------------------------------------------------------------------------------------------


def test_passes_know_no_operator_and_no_tensor_by_name() -> None:
    for file in sorted(PASSES.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found = re.findall(r".*\.(?:key|name|symbol|local_name) (?:==|!=|in) .*", text)
        assert not [line for line in found if '"' in line or "'" in line], file
    fusing = "".join(file.read_text(encoding="utf-8") for file in (PASSES / "fuse").glob("*.py"))
    assert not re.search(r"\.(?:key|name) ==", fusing)
    assert "find_operator" not in fusing
    assert "graphir.operators" not in fusing
