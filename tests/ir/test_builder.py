"""Builders: names, scopes, metas; errors that name the operands, the block and the user's line."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import GraphError, TypeCheckError
from graphir.ir.graph import BACKWARD, FORWARD
from tests.support.lines import this_line

B, S, D, F, N_H = gi.dims("B S D D_ff N_H")


@pytest.fixture
def block():
    return gi.Builder("block")


@pytest.fixture
def X(block):
    return block.input("X", (B, S, D))


# -- names and scopes -------------------------------------------------------------------------------------


def test_names_are_local_to_the_scope(block, X):
    with block.scope("layer0"), block.scope("mha"):
        W = block.parameter("W_Q", (D, D))
        Q = gi.matmul(X, W, name="Q")
        outside = gi.scale(X, by=2.0, name="/elsewhere/X2")
    assert (W.name, W.scope, W.local_name) == ("layer0/mha/W_Q", "layer0/mha", "W_Q")
    assert (Q.name, outside.name) == ("layer0/mha/Q", "elsewhere/X2")
    assert [node.meta.scope for node in block.nodes] == ["layer0/mha"] * 2


def test_a_scope_may_name_several_levels(block, X):
    with block.scope("layer0/mlp"):
        assert gi.softmax(X, name="P").name == "layer0/mlp/P"
    assert gi.softmax(X, name="P").name == "P"


def test_what_is_left_unnamed_is_called_after_its_operator(block, X):
    gamma, beta = block.parameter("gamma", (D,)), block.parameter("beta", (D,))
    with block.scope("mlp"):
        names = [each.name for each in gi.layer_norm.all(X, gamma, beta)]
        again = [each.name for each in gi.layer_norm.all(X, gamma, beta, names="H")]
    assert names == ["mlp/LN0", "mlp/LN0.mean", "mlp/LN0.rstd"]
    assert again == ["mlp/H", "mlp/H.mean", "mlp/H.rstd"]
    assert [gi.add(X, X).name for _ in range(3)] == ["add0", "add1", "add2"]


def test_a_number_that_is_taken_is_passed_over(block, X):
    block.input("add0")
    assert gi.add(X, X).name == "add1"


def test_a_free_name_is_free(block, X):
    assert block.free_name("dX") == "dX"
    assert block.free_name("X") == "X.2"
    block.input("X.2")
    assert block.free_name("X") == "X.3"


def test_aliases_are_further_names(block, X):
    with block.scope("layer0"):
        assert block.alias("X_in", X) is X
    graph = block.build(gi.softmax(X, name="P"))
    assert graph["layer0/X_in"] is X
    assert "layer0/X_in" in graph
    assert "layer0/X_in" not in graph.values


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b: gi.Builder("a b"), "'a b' cannot name a graph: letters, digits, _ and . only"),
        (lambda b: b.input("a b"), "'a b' cannot name a value: letters, digits, _ and . between slashes"),
        (lambda b: b.input("/a//b"), "'a//b' cannot name a value: letters, digits, _ and . between slashes"),
        (lambda b: b.input("1a"), "'1a' cannot name a value: letters, digits, _ and . between slashes"),
        (lambda b: b.scope("a b").__enter__(), "'a b' cannot name a scope: letters, digits, _ and . between slashes"),
        (lambda b: b.input("X"), "graph block has a value called X already; give this one another name"),
        (lambda b: b.parameter("W", (), init="random"), "W: init 'random' is not zeros, ones, full(x) or normal(σ)"),
        (
            lambda b: b.parameter("W", (), init="normal()"),
            "W: init 'normal()' is not zeros, ones, full(x) or normal(σ)",
        ),
        (lambda b: b.parameter("W", (), init="ZEROS"), "W: init 'ZEROS' is not zeros, ones, full(x) or normal(σ)"),
        (lambda b: b.parameter("W", (), init=None), "W: init None is not zeros, ones, full(x) or normal(σ)"),
        (
            lambda b: b.state("W", (), init="normal(1e999)"),
            "W: init 'normal(1e999)' has a σ beyond all floats; give a finite one",
        ),
        (lambda b: b.input(3, (B,)), "3 cannot name a value: a name is a string, such as 'X'"),
        (
            lambda b: gi.add(b.input("Z"), b.input("Z2"), name=3),
            "3 cannot name a value: a name is a string, such as 'X'",
        ),
        (lambda b: b.scope(0).__enter__(), "0 cannot name a scope: letters, digits, _ and . between slashes"),
        (lambda b: gi.Builder(3), "3 cannot name a graph: letters, digits, _ and . only"),
        (lambda b: b.alias("Z", 3), "alias Z: 3 is no graph value"),
        (lambda b: b.alias("Z", gi.Builder().input("far")), "alias Z: far belongs to another graph"),
    ],
)
def test_names_and_inits_that_cannot_be_are_refused(block, X, make, message):
    with pytest.raises(GraphError) as caught:
        make(block)
    assert str(caught.value) == message


# -- what is recorded -------------------------------------------------------------------------------------


def test_each_node_knows_the_line_it_was_written_on(block, X):
    Y, first = gi.softmax(X), this_line()
    _, second = gi.reshape(Y, "b s (h d) -> b s h d", h=N_H), this_line()  # through a helper of the language
    assert [node.meta.at for node in block.nodes] == [first, second]


def test_a_ready_made_models_nodes_know_the_models_line():
    graph = gi.models.mlp()
    assert {node.meta.at.partition(":")[0] for node in graph.nodes} == {"graphir/models/mlp.py"}


def test_passes_say_what_their_nodes_are(block, X):
    with block.context(scope="layer0/mha", phase=BACKWARD, of="AS", why="because", at="here:1"):
        gi.softmax(X)
    gi.softmax(X)
    inside, outside = (node.meta for node in block.nodes)
    assert (inside.scope, inside.phase, inside.of, inside.why, inside.at) == (
        "layer0/mha",
        BACKWARD,
        "AS",
        "because",
        "here:1",
    )
    assert (outside.scope, outside.phase, outside.of, outside.why) == ("", FORWARD, None, None)


def test_random_nodes_get_keys_of_their_own(block, X):
    seed, step = block.input("seed", (), "int64"), block.input("step", (), "int64")
    for _ in range(2):
        gi.dropout(X, seed, step, p=0.1)
    gi.dropout(X, seed, step, p=0.1, key=9)
    gi.dropout(X, seed, step, p=0.1)
    assert [node.attributes["key"] for node in block.nodes] == [1, 2, 9, 10]


def test_the_builders_dtype_is_the_default():
    block = gi.Builder("double", dtype="float64")
    values = block.input("X", (B,)), block.parameter("W", (D,)), block.input("T", (B,), "int64")
    assert [str(value.type) for value in values] == ["float64[B]", "float64[D]", "int64[B]"]


# -- type errors ------------------------------------------------------------------------------------------


def test_a_misfit_is_reported_on_the_line_of_the_call(block, X):
    W = block.parameter("W", (F, D))
    with pytest.raises(TypeCheckError) as caught, block.scope("layer0"):
        gi.matmul(X, W)
    assert str(caught.value) == (
        f"matmul(X float32[B, S, D], W float32[D_ff, D]) in layer0 at {this_line(-2)}: "
        "k is D in X[B, S, D] but D_ff in W[D_ff, D]"
    )


def misfits():
    """(what is applied to values, the operator with its operands as the message spells them, the reason)."""
    return [
        (lambda v: gi.softmax(v.ids), "S(ids int64[B, S])", "Z must be a float, not int64"),
        (
            lambda v: gi.cross_entropy(v.X, v.X),
            "CE(X float32[B, S, D], X float32[B, S, D])",
            "[B, S, D], [B, S, D] does not fit Z[*b v!], Y[*b] in v -> L[*b], lse[*b]",
        ),
        (
            lambda v: gi.matmul(v.X),
            "matmul(X float32[B, S, D])",
            "[B, S, D] does not fit X[*b m k], W[k n] -> Y[*b m n] or X[*b m k], W[*b k n] -> Y[*b m n] or "
            "X[*b g m k], W[*b k n] -> Y[*b g m n]",
        ),
        (lambda v: gi.scale(v.X), "scale(X float32[B, S, D])", "attribute by is missing"),
        (lambda v: gi.transpose(v.words), "T(words text[B, S])", "X must be numbers or bools, not text"),
        (lambda v: gi.scale(v.X, by=1, to=2), "scale(X float32[B, S, D])", "unknown attribute to; it has by"),
        (
            lambda v: gi.activation(v.X, kind="tanh"),
            "GL(X float32[B, S, D])",
            "kind='tanh' is no activation; choose from gelu, gelu_tanh, relu, silu",
        ),
        (
            lambda v: gi.cast(v.X, to="int64"),
            "cast(X float32[B, S, D])",
            "cast goes to a float dtype (bfloat16, float16, float32, float64), not 'int64'",
        ),
        (
            lambda v: gi.reshape(v.X, "b s (h d) -> b s h d"),
            "R(X float32[B, S, D])",
            "(h d) in X[B, S, D] leaves h and d free; pass all but one of them",
        ),
        (
            lambda v: gi.reshape(v.X, "b s (h d) -> b s h d", h=N_H, d=S),
            "R(X float32[B, S, D])",
            "(h d) with h=N_H, d=S makes N_H*S, not D as in X[B, S, D]",
        ),
        (
            lambda v: gi.transpose(v.X, (0, 0, 1)),
            "T(X float32[B, S, D])",
            "perm=(0, 0, 1) is no permutation of (0, 1, 2)",
        ),
        (
            lambda v: gi.broadcast(v.X, (B,), axes=(7,)),
            "BC(X float32[B, S, D])",
            "axes=(7,) are not distinct positions in a result of rank 4",
        ),
        (
            lambda v: gi.scale_mask(v.X, width=D, mask="future"),
            "SM(X float32[B, S, D])",
            "mask='future' is none of none, given, padding, each",
        ),
        (
            lambda v: gi.dropout(v.X, v.seed, v.seed, p=1.0),
            "DO(X float32[B, S, D], seed int64[], seed int64[])",
            "p=1.0 is no dropout rate; it lies between 0 and 0.99",
        ),
        (
            lambda v: gi.top_k(v.X, v.seed, v.seed, k=0),
            "TOPk(X float32[B, S, D], seed int64[], seed int64[])",
            "k=0 leaves no token to choose from; k counts from 1",
        ),
        (
            lambda v: gi.top_k(v.X, v.seed, v.seed, k=1, temperature=-1.0),
            "TOPk(X float32[B, S, D], seed int64[], seed int64[])",
            "temperature=-1.0 must be 0 or positive; 0 means the most probable token",
        ),
        (
            lambda v: gi.schedule(v.seed, peak=1.0, kind="step"),
            "schedule(seed int64[])",
            "kind='step' is no schedule; choose from constant, linear, cosine",
        ),
        (
            lambda v: gi.schedule(v.seed, peak=0.0),
            "schedule(seed int64[])",
            "peak=0.0, warmup=0, floor=0.0: need peak > 0, warmup ≥ 0, 0 ≤ floor ≤ peak",
        ),
        (
            lambda v: gi.schedule(v.seed, peak=1.0, kind="cosine", warmup=5, total=5),
            "schedule(seed int64[])",
            "total=5 must exceed warmup=5 for a cosine schedule",
        ),
    ]


@pytest.mark.parametrize("case", range(len(misfits())))
def test_misfits_name_operator_operands_line_and_reason(block, X, case):
    apply, operands, reason = misfits()[case]
    ids, seed = block.input("ids", (B, S), "int64"), block.input("seed", (), "int64")
    words = block.input("words", (B, S), "text")
    with pytest.raises(TypeCheckError) as caught:
        apply(SimpleNamespace(X=X, ids=ids, seed=seed, words=words))
    file, line = this_line().rpartition(":")[0], apply.__code__.co_firstlineno
    assert str(caught.value) == f"{operands} at {file}:{line}: {reason}"
    assert block.nodes == []


def test_only_values_are_operands(block, X):
    with pytest.raises(TypeCheckError) as caught:
        gi.add(X, 3)
    assert str(caught.value) == f"add at {this_line(-1)}: 3 is no graph value; make it an input"


def test_values_of_two_graphs_do_not_mix(block, X):
    foreign = gi.Builder("other").input("X_other", (B, S, D))
    with pytest.raises(GraphError) as caught:
        gi.add(X, foreign)
    assert str(caught.value) == f"add at {this_line(-1)}: X_other belongs to another graph"
    with pytest.raises(GraphError, match=r"^output X_other: float32\[B, S, D\] is no value of graph block$"):
        block.output(foreign)


def test_an_unknown_dtype_is_refused(block):
    with pytest.raises(TypeCheckError) as caught:
        block.input("X", (B,), "float8")
    assert str(caught.value) == (
        "input X: 'float8' is no dtype; choose from float16, bfloat16, float32, float64, int32, int64, bool, text"
    )


# -- the graph --------------------------------------------------------------------------------------------


def test_a_built_graph_takes_nothing_more(block, X):
    graph = block.build(gi.softmax(X, name="P"))
    attempts = (
        lambda: gi.softmax(X),
        lambda: block.input("Z"),
        lambda: block.alias("Z", X),
        lambda: block.output(X),
        block.build,
    )
    for attempt in attempts:
        with pytest.raises(GraphError, match=r"^graph block has been built and is immutable; start a new Builder$"):
            attempt()
    assert [value.name for value in graph.outputs] == ["P"]
    how = "copy the graph into a builder, builder, copies = gi.Builder.extending(graph), and build it anew"
    for thing, attribute, named in (
        (graph, "nodes", "graph block"),
        (graph, "novelty", "graph block"),
        (graph.nodes[0], "inputs", "node P"),
        (X, "name", "value X"),
    ):
        for change in (lambda t, a: setattr(t, a, ()), delattr):
            with pytest.raises(GraphError) as caught:
                change(thing, attribute)
            assert str(caught.value) == f"{named} is immutable: its {attribute} cannot be changed; {how}"
        assert copy.copy(thing) is copy.deepcopy(thing) is thing
    with pytest.raises(AttributeError):
        graph.aliases.clear()
    with pytest.raises(AttributeError):
        graph.nodes.append(None)


def test_an_unknown_name_suggests_close_ones(block, X):
    graph = block.build(gi.softmax(X, name="P_theta"))
    with pytest.raises(GraphError, match=r"^graph block has no value called 'P_teta'; did you mean P_theta\?$"):
        graph["P_teta"]
    with pytest.raises(GraphError, match=r"^graph block has no value called 'zzz'$"):
        graph["zzz"]


def test_a_graph_knows_who_makes_and_who_reads(block, X):
    P = gi.softmax(X, name="P")
    Y = gi.add(X, P, X, name="Y")
    graph = block.build(Y)
    softmax, add = graph.nodes
    assert graph.producers == {P: softmax, Y: add}
    assert graph.uses[X] == ((softmax, 0), (add, 0), (add, 2))
    assert graph.uses[P] == ((add, 1),)
    assert graph.uses[Y] == ()
    assert [str(dim) for dim in graph.dims] == ["B", "S", "D"]


def a_graph(name="g", output="Y", by=2.0, dim=D, init="zeros", alias="A", of="W", mesh=None):
    block = gi.Builder(name, mesh=mesh)
    W = block.parameter("W", (B, dim), init=init)
    Y = gi.scale(W, by=by, name=output)
    block.alias(alias, W if of == "W" else Y)
    return block.build(Y)


def test_equality_is_structural():
    assert a_graph() == a_graph()
    assert hash(a_graph()) == hash(a_graph())
    assert a_graph(mesh=gi.Mesh(tp=2)) == a_graph(mesh=gi.Mesh(tp=2))
    changes = ({"name": "h"}, {"output": "Z"}, {"by": 3.0}, {"dim": S}, {"init": "ones"})
    changes += ({"alias": "A2"}, {"of": "Y"}, {"mesh": gi.Mesh(tp=2)})
    for changed in changes:
        assert a_graph() != a_graph(**changed)


def test_a_graph_extended_by_nothing_is_the_same():
    graph = gi.models.transformer(layers=1)
    builder, copies = gi.Builder.extending(graph)
    copy = builder.build(*(copies[value] for value in graph.outputs))
    assert copy == graph
    assert [node.meta for node in copy.nodes] == [node.meta for node in graph.nodes]
    assert not set(copies.values()) & set(graph.values.values())


@settings(deadline=None)
@given(st.lists(st.sampled_from(["A", "B.c", "layer0/x", "X_norm"]), min_size=1, max_size=8))
def test_no_two_values_ever_share_a_name(names):
    block = gi.Builder()
    X = block.input("X", (B,))
    for name in names:
        gi.scale(X, by=1.0, name=f"/{block.free_name(name)}")
        gi.scale(X, by=1.0)
    graph = block.build()
    assert len(graph.values) == 1 + 2 * len(names)
    gi.verify(graph)
