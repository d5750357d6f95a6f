"""The text format: every graph comes back equal from its text, and prints the same text again."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphir as gi
import graphir.text
from graphir.errors import GraphError
from graphir.ir.dims import Dim
from graphir.ir.layout import Layout, Mesh
from graphir.ir.types import TensorType
from graphir.passes import Optimizer, Schedule, autodiff, dce, lower, optimize, recompute
from graphir.text.literals import Literals, type_text
from tests.support.random_graphs import SCOPES, graphs


def check_round_trip(graph: gi.Graph) -> str:
    """The text of `graph`, after asserting that nothing is lost in it."""
    text = gi.to_text(graph)
    back = gi.parse(text)
    assert back == graph, text
    assert [node.meta for node in back.nodes] == [node.meta for node in graph.nodes], text
    assert gi.to_text(back) == text
    bare = gi.to_text(graph, meta=False)
    assert gi.parse(bare) == graph
    assert gi.to_text(gi.parse(bare), meta=False) == bare
    gi.verify(back)
    return text


def without_lines(graph: gi.Graph) -> gi.Graph:
    """`graph` without the places in the source, which would change with every edit above them."""
    nodes = [gi.Node(n.operator, n.inputs, n.attributes, n.outputs, replace(n.meta, at=None)) for n in graph.nodes]
    return gi.Graph(graph.name, graph.inputs, graph.parameters, graph.state, graph.outputs, nodes, graph.aliases)


# -- the model zoo ----------------------------------------------------------------------------------------

ZOO: dict[str, Callable[[], gi.Graph]] = {
    "plain": lambda: gi.models.transformer(layers=1),
    "options": lambda: gi.models.transformer(
        layers=2, positions="sinusoidal", tied=False, qkv_bias=True, final_norm=False, activation="silu", dropout=0.0
    ),
    "padding": lambda: gi.models.transformer(layers=1, mask="padding", causal=False, decode="top-k", k=5),
    "given": lambda: gi.models.transformer(layers=1, mask="given", decode=None, dtype="float64"),
    "text": lambda: gi.models.transformer(layers=1, text=True, temperature=0.5, decode="top-k"),
    "mlp": lambda: gi.models.mlp(layers=3),
    "mlp float64": lambda: gi.models.mlp(layers=1, activation="gelu", widths=(4, gi.dim("D_out")), dtype="float64"),
}


@pytest.mark.parametrize("name", ZOO)
def test_every_stage_of_every_model_comes_back(name: str) -> None:
    model = ZOO[name]()
    check_round_trip(model)
    differentiated = autodiff(model)
    check_round_trip(differentiated)
    check_round_trip(dce(recompute(lower(differentiated))))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_training_steps_come_back(kind: str) -> None:
    rate = Schedule(1e-3, "cosine", warmup=10, total=100, floor=1e-5)
    step = optimize(autodiff(gi.models.transformer(layers=2)), Optimizer(kind=kind, learning_rate=rate, clip=1.0))
    text = check_round_trip(step)
    assert max(map(len, text.splitlines())) < 170
    assert [(a.name, b.name) for a, b in gi.parse(text).updates.items()] == [
        (a.name, b.name) for a, b in step.updates.items()
    ]


@pytest.mark.parametrize("stage", ["forward", "differentiated"])
def test_a_layer_reads_like_the_documents(stage: str, golden: Callable[[str, str], None]) -> None:
    model = gi.models.transformer(layers=1)
    graph = without_lines(model if stage == "forward" else autodiff(model))
    golden(f"transformer_{stage}.txt", check_round_trip(graph))


# -- random graphs ----------------------------------------------------------------------------------------

_words = st.one_of(st.none(), st.text(max_size=8))
_places = st.one_of(
    _words,
    st.builds(
        "{}:{}".format, st.sampled_from(("a/b.py", "/tmp/of.py", "of", "my file.py", "../x")), st.integers(0, 99)
    ),
    st.sampled_from(("a.py:007", "a.py:-1", "12", "x:1:2", 'a"b:3')),
)
_metas = st.builds(
    gi.Meta,
    scope=st.sampled_from((*SCOPES, "where", "graph")),
    phase=st.sampled_from(("forward", "backward", "update", "of", "a phase")),
    at=_places,
    of=st.one_of(_words, st.sampled_from(("A", "layer0/mha/A", "of", "why", "/A"))),
    why=_words,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graph=graphs(casts=True))
def test_random_graphs_come_back(graph: gi.Graph) -> None:
    check_round_trip(graph)
    if graph.parameters:
        check_round_trip(lower(autodiff(graph)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(steps=4), data=st.data())
def test_whatever_meta_says_comes_back(graph: gi.Graph, data: st.DataObject) -> None:
    nodes = [gi.Node(n.operator, n.inputs, n.attributes, n.outputs, data.draw(_metas)) for n in graph.nodes]
    check_round_trip(gi.Graph(graph.name, graph.inputs, graph.parameters, (), graph.outputs, nodes, graph.aliases))


# -- details ----------------------------------------------------------------------------------------------


def _one_type(type: TensorType, dtype: str = "float32") -> TensorType:
    reader = Literals(type_text(type, dtype))
    reader.dtype, reader.mesh = dtype, Mesh(dp=2, tp=2, cp=2, pp=2)
    found = reader.read_type()
    assert reader.token.kind == "newline"
    return found


@settings(max_examples=200)
@given(
    powers=st.lists(st.tuples(st.sampled_from("BSD"), st.integers(-3, 3)), max_size=3, unique_by=lambda pair: pair[0]),
    coefficient=st.fractions(min_value="1/30", max_value=30),
)
def test_a_dim_is_read_as_it_is_spelled(powers: list[tuple[str, int]], coefficient: object) -> None:
    each = Dim(powers, coefficient)  # type: ignore[arg-type]
    back = _one_type(TensorType("float32", (each,))).shape[0]
    assert back == each
    assert str(back) == str(each)


def test_equal_dims_keep_their_own_spelling() -> None:
    N_H, D = gi.dims("N_H D")
    D_h = gi.dim("D_h", D / N_H)
    block = gi.Builder()
    X = block.input("X", (D, Dim([("N_H", 1), ("D_h", 1)], 1, D_h.definitions)))
    Y = gi.add(X, block.input("X2", (D, D)), name="Y")
    text = check_round_trip(block.build(Y))
    assert "X   [D, N_H*D_h]" in text
    assert "D_h  = D/N_H" in text


def test_definitions_stand_before_those_made_of_them() -> None:
    D, N = gi.dims("D N")
    half = gi.dim("Half", D / 2)
    quarter = gi.dim("Quarter", half / N)
    block = gi.Builder()
    graph = block.build(gi.scale(block.input("X", (quarter,)), by=2.0, name="Y"))
    text = check_round_trip(graph)
    assert text.index("Half     = D/2") < text.index("Quarter  = Half/N")
    assert gi.parse(text)["Y"].shape[0].size({"D": 12, "N": 3}) == 2


def test_one_name_with_two_meanings_cannot_be_written() -> None:
    block = gi.Builder()
    X = block.input("X", (gi.dim("D_h", gi.dim("D") / 2),))
    block.input("Z", (gi.dim("D_h", gi.dim("D") / 4),))
    with pytest.raises(GraphError, match=r"its dim D_h is both D/2 and D/4; give one of them another name"):
        gi.to_text(block.build(X))


def test_a_scope_without_a_name_cannot_be_written() -> None:
    block = gi.Builder()
    X = block.input("X", (2,))
    with block.context(scope="layer 0"):
        Y = gi.scale(X, by=2.0, name="/Y")
    with pytest.raises(GraphError, match="'layer 0' cannot be written as a scope"):
        gi.to_text(block.build(Y))


def test_the_most_common_float_needs_no_saying() -> None:
    block = gi.Builder(dtype="float64")
    X = block.input("X", (3,))
    Y = gi.cast(gi.scale(X, by=0.5, name="Z"), to="float32", name="Y")
    text = check_round_trip(block.build(Y))
    assert text.startswith("graph graph float64\n")
    assert "X  [3]\n" in text
    assert "Y  [3] float32  = cast(Z)" in text


def test_a_graph_without_nodes_or_floats_comes_back() -> None:
    block = gi.Builder("empty")
    T = block.input("T", (), "int64")
    assert check_round_trip(block.build(T)) == "graph empty float32\n\ninputs\n  T  [] int64\n\noutputs\n  T\n"


def test_layouts_are_part_of_the_type() -> None:
    B, D = gi.dims("B D")
    layout = Layout((("dp", "tp"), ()), {"cp": "sum", "pp": "max"})
    type = TensorType("float64", (B, D / 2), layout)
    assert type_text(type, "float32") == "[B|dp|tp, D/2] pending sum(cp), max(pp) float64"
    assert _one_type(type) == type
    assert _one_type(type, "float64") == type


def test_the_mesh_and_its_layouts_come_back() -> None:
    """A product whose contracted dim is split is pending, and all-reduced."""
    text = """\
graph row_parallel float32 over dp=2, tp=3

inputs
  X  [B|dp, S, D|tp]

parameters
  W  [D|tp, F]  ~ normal(0.02)
  b  [F]        ~ zeros

/
  Y_lin  [B|dp, S, F] pending sum(tp)  = matmul(X, W)
  Y      [B|dp, S, F]                  = AR(Y_lin) {axes=("tp",)}
  BC_b   [B|dp, S, F]                  = BC(b) {dims=(B, S), axes=(0, 1), rank=3, split=("a0|dp",)}
  Z      [B|dp, S, F]                  = add(Y, BC_b)

outputs
  Z
"""
    graph = gi.parse(text)
    assert check_round_trip(graph) == text
    assert graph.mesh == Mesh(dp=2, tp=3)
    assert graph["Y_lin"].type.layout == Layout((("dp",), (), ()), {"tp": "sum"})


def test_strings_may_hold_anything() -> None:
    block = gi.Builder()
    X = block.input("X", (2,))
    why = 'a "quote", a \\ and a\nbreak # no comment, \x85 \u2028 \ud800 Σ'
    with block.context(why=why):
        Y = gi.scale(X, by=1.0, name="Y")
    text = check_round_trip(block.build(Y))
    assert 'why "a \\"quote\\"' in text
    assert len(text.splitlines()) == text.count("\n")
    text.encode()


@pytest.mark.parametrize("by", [1e-8, -0.1, 1e22, 5e-324, float("inf"), -float("inf"), 3.0])
def test_floats_come_back_exactly(by: float) -> None:
    block = gi.Builder()
    Y = gi.scale(block.input("X", (2,)), by=by, name="Y")
    check_round_trip(block.build(Y))


def test_comments_blanks_and_long_rows_are_read() -> None:
    text = """
# a comment
graph g   # float32 goes without saying

parameters
    W[D,D]~normal( 0.02 )
inputs
  seed [] int64

  step [] int64   # both key the mask
  X [B, D]
{blank}
/
  Y  [B, D],
  m  [B, D] bool = DO(X,
      /seed,
step) { p = 0.5, key = 7, }
"""
    graph = gi.parse(text.replace("{blank}", " \t\r"))
    assert [value.name for value in graph.arguments] == ["seed", "step", "X", "W"]
    assert graph["W"].init == "normal(0.02)"
    assert graph.nodes[0].attributes == {"p": 0.5, "key": 7}
    assert check_round_trip(graph) == gi.to_text(graph)


def test_the_documented_example_is_what_it_says() -> None:
    example = textwrap.dedent(graphir.text.__doc__.partition("\n\n")[2].partition("\nGrammar.")[0])
    assert gi.to_text(gi.parse(example)) == example


def test_a_parsed_graph_can_be_built_upon() -> None:
    graph = gi.parse(gi.to_text(gi.models.transformer(layers=1)))
    again = gi.models.transformer(layers=1)
    assert autodiff(graph) == autodiff(again)
    assert gi.Builder.extending(graph)[0].build() == gi.Builder.extending(again)[0].build()
    assert len({value.owner for value in graph.values.values()}) == 1
