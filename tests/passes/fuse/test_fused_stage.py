"""The stage fused on the command line, and what fused graphs look like in text, in pictures and in costs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

import graphir as gi
from graphir.cli.cost import cost
from graphir.cli.inspect import RECOMPUTE, STAGES
from graphir.cost import count_flops, mesh_sizes, node_flops, peak_memory, plain_nodes
from graphir.drawing import draw, find_view
from graphir.drawing.explorer import explorer_collection
from graphir.drawing.labels import plain
from graphir.drawing.unfold import unfolded
from graphir.errors import GraphError, ParseError
from graphir.ir.attributes import Attributes
from graphir.ir.fused import fused
from graphir.passes import LEVELS, autodiff, dce, fuse, lower, optimize, run_pipeline, shard, unfuse
from tests.support.random_graphs import graphs
from tests.text.test_text import check_round_trip

B, D, F = gi.dims("B D F")
SIZES = {"B": 2, "S": 8, "D": 8, "N_H": 2, "D_ff": 16, "V": 11}


def step(layers: int = 1, **options: object) -> gi.Graph:
    return dce(optimize(autodiff(gi.models.transformer(layers, **{"dropout": 0.1, **options}))))


# -- text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_fused_graph_comes_back_from_its_text(level: str) -> None:
    check_round_trip(run_pipeline(step(2), level))


def test_a_sharded_fused_graph_comes_back_from_its_text() -> None:
    check_round_trip(run_pipeline(dce(shard(step(), gi.Mesh(dp=2, tp=2), "data+megatron"))))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graph=graphs(casts=True))
def test_random_fused_graphs_come_back(graph: gi.Graph) -> None:
    check_round_trip(fuse(lower(autodiff(graph)) if graph.parameters else graph))


TEXT = """graph head float32

inputs
  X  [B, D]

parameters
  W  [D, F]  ~ normal(0.02)
  b  [F]     ~ zeros

head
  Z  [B, F]  = matmul(/X, /W)
  A  [B, F],
  H  [B, F]  = fused(/b, Z) {anchor="head/Z", rows=2}  @why "fused: +, GL, exp"
    BC_b  [B, F]  = BC(/b) {dims=(B,), axes=(0,), rank=2}
    Z_b   [B, F]  = add(Z, BC_b)
    A     [B, F]  = GL(Z_b) {kind="relu"}
    tail backward
      /head/H  [B, F]  = exp(/head/A)

outputs
  head/A
  head/H
"""


def test_a_body_stands_below_its_node() -> None:
    graph = gi.parse(TEXT)
    assert gi.to_text(graph) == TEXT
    node = graph.nodes[-1]
    body = node.body
    assert body is not None
    assert node.operator is fused
    assert [inner.name for inner in body.nodes] == ["head/BC_b", "head/Z_b", "head/A", "head/H"]
    assert [(inner.meta.scope, inner.meta.phase) for inner in body.nodes[2:]] == [
        ("head", "forward"),
        ("tail", "backward"),
    ]
    assert [value.name for value in body.outputs] == ["head/A", "head/H"]
    gi.verify(graph)


#: (what is replaced, by what, the line and the column of the error, its message)
MISTAKES = [
    ("    A     [B, F]  = GL(Z_b)", "    C     [B, F]  = GL(Z_b)", 18, 30, "no value /head/A in tail is defined above"),
    ("add(Z, BC_b)", "add(X, BC_b)", 15, 25, "no value X in head is defined above"),
    ("add(Z, BC_b)", "add(Z, /W)", 15, 28, "no value /W in head is defined above"),
    ("  /head/H  [B, F]  = exp", "  /head/G  [B, F]  = exp", 13, 3, "head/H is made by fused, but no row of its body"),
    ("    Z_b   [B, F]", "    BC_b  [B, F]", 15, 5, "head/BC_b is defined in line 14 already"),
    ("    Z_b   [B, F]", "    Z     [B, F]", 15, 5, "head/Z is defined in line 12 already"),
    ("  H  [B, F]  =", "  H  [F, B]  =", 13, 6, "head/H is declared float32[F, B], but fused(b float32[F], head/Z "),
    ("rows=2", "rows=3", 13, 16, "rows=3 are no leading dims of the anchor head/Z float32[B, F]"),
    ('anchor="head/Z"', 'anchor="Z"', 13, 16, "anchor 'Z' is no value of the body"),
    ("rows=2", "row=2", 13, 47, "fused has no attribute row; it has anchor, rows; did you mean rows?"),
    ("rows=2", "rows=2.5", 13, 16, "attribute rows must be int, not 2.5"),
    ("exp(/head/A)", "exp(/head/A", 18, 37, "expected a comma or ) after an operand, found the end of the line"),
    ("    tail backward", "    tail backward forward", 17, 19, "expected the end of the line"),
]


@pytest.mark.parametrize(("old", "new", "line", "column", "message"), MISTAKES)
def test_mistakes_in_a_body_are_found_where_they_are(old: str, new: str, line: int, column: int, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ParseError, match=re.escape(message)) as error:
        gi.parse(TEXT.replace(old, new, 1))
    assert (error.value.line, error.value.column) == (line, column)


def test_a_body_with_names_of_its_own_cannot_be_written() -> None:
    graph = gi.parse(TEXT)
    *rest, node = graph.nodes
    body = node.body
    assert body is not None

    def written(changed: gi.Graph) -> str:
        attributes = Attributes({**node.attributes, "body": changed})
        nodes = [*rest, gi.Node(fused, node.inputs, attributes, node.outputs, node.meta)]
        return gi.to_text(gi.Graph(graph.name, graph.inputs, graph.parameters, (), graph.outputs, nodes))

    assert written(body) == TEXT
    turned = gi.Graph("body", body.inputs[::-1], (), (), body.outputs, body.nodes)
    with pytest.raises(GraphError, match="head/A cannot be written: its body calls b head/Z"):
        written(turned)
    named = gi.Graph("other", body.inputs, (), (), body.outputs, body.nodes)
    with pytest.raises(GraphError, match="head/A cannot be written: its body is called body, and has inputs and "):
        written(named)


# -- the command line -------------------------------------------------------------------------------------


def test_the_stage_fused_is_what_the_compiler_runs(call: Callable[..., tuple[int, str, str]]) -> None:
    code, text, err = call("ir", "transformer", "--stage", "fused", "--layers", 1, "--dropout", 0.1)
    assert (code, err) == (0, "")
    assert "fused(" in text
    assert gi.verify(gi.parse(text)).updates
    _, plain, _ = call("ir", "transformer", "--stage", "fused", "--layers", 1, "--without", "fuse, cse")
    assert "fused(" not in plain
    _, full, _ = call("ir", "transformer", "--stage", "fused", "--layers", 2, "--recompute", "full")
    assert "H.again" in full
    _, ranks, _ = call("ir", "transformer", "--stage", "fused", "--layers", 1, "--tp", 2)
    assert "AR(" in ranks
    assert gi.verify(gi.parse(ranks)).mesh == gi.Mesh(tp=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--without", "melt"), "melt is no optimising pass; there are simplify, "),
        (("--recompute", "some"), "recompute='some' is no level; choose from nothing, masks, "),
        (("--stage", "train", "--recompute", "full"), "the stage train has no --recompute; they are for --stage fused"),
    ],
)
def test_what_cannot_be_fused(
    call: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = call("ir", "transformer", "--stage", "fused", "--layers", 1, *arguments)
    assert code == 2
    assert message in err


def test_help_names_every_level() -> None:
    assert re.split(", | or ", RECOMPUTE) == list(LEVELS)
    assert "fused" in STAGES


# -- pictures ---------------------------------------------------------------------------------------------


def test_a_fused_node_lists_what_it_holds() -> None:
    graph = run_pipeline(gi.models.transformer(1, dropout=0.0))
    picture = draw(graph, find_view(graph, "forward"))
    core = picture.node("layer0/mha/AO_cat")
    assert [plain(line) for line in core.lines] == ["•  SM  S  •"]
    assert core.kind == "operator"
    assert core.details.formula == "•, SM, S, •"
    assert core.details.why == "fused: •, SM, S"


def test_long_lists_take_several_lines() -> None:
    graph = run_pipeline(step(), "attention")
    picture = draw(graph, find_view(graph, "backward"))
    assert max(len(plain(line).split("  ")) for node in picture.nodes for line in node.lines) == 4
    assert max(len(node.lines) for node in picture.nodes if node.kind == "operator") > 1


def test_unfolded_every_fused_node_is_a_frame_around_its_own() -> None:
    graph = run_pipeline(gi.models.transformer(2, dropout=0.0))
    plain_graph, view = unfolded(graph, find_view(graph, "forward"))
    assert plain_graph == unfuse(graph)
    picture = draw(plain_graph, view)
    frames = {plain(cluster.label): set(cluster.nodes) for cluster in picture.clusters}
    assert {f"layer1/mha/{name}" for name in ("Q_split", "A", "Z", "AS", "AO_heads", "AO_cat")} <= frames["• SM S •"]
    inside = [name for cluster in picture.clusters for name in cluster.nodes]
    assert len(inside) == len(set(inside))
    # Two layers are drawn as two: a frame reaches from one to the next.
    assert {"layer0/mha/A", "layer1/mha/A"} <= {node.id for node in picture.nodes}


@pytest.mark.slow
def test_fused_graphs_are_drawn_to_files(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for name, *more in (
        ("folded.dot", "--view", "forward"),
        ("unfolded.dot", "--unfold", "--view", "forward"),
        ("page.html",),
        ("graph.json",),
    ):
        options = ("--stage", "fused", "--layers", 1, *more)
        code, _, err = call("draw", "transformer", *options, "-o", tmp_path / name)
        assert (code, err) == (0, ""), name
    assert "SM  S" in (tmp_path / "folded.dot").read_text(encoding="utf-8")
    assert "AO_heads" not in (tmp_path / "folded.dot").read_text(encoding="utf-8")
    assert "AO_heads" in (tmp_path / "unfolded.dot").read_text(encoding="utf-8")
    code, _, err = call("draw", "mlp", "--unfold", "-o", tmp_path / "mlp.dot")
    assert (code, "--unfold is for --stage fused, drawn as dot, svg, png or pdf" in err) == (2, True)


def test_the_explorer_shows_what_a_node_holds() -> None:
    graph = run_pipeline(gi.models.transformer(1, dropout=0.0))
    ((collection),) = explorer_collection(graph)["graphs"]
    (core,) = (node for node in collection["nodes"] if node["id"] == "layer0/mha/AO_cat")
    assert core["label"] == "• SM S •"
    body = next(pair["value"] for pair in core["attrs"] if pair["key"] == "body")
    assert "layer0/mha/A float32[B, N_H, S, S] = matmul(layer0/mha/Q, layer0/mha/K_T)" in body.splitlines()
    json.dumps(collection)


# -- costs ------------------------------------------------------------------------------------------------


def test_a_fused_graph_costs_what_its_nodes_cost() -> None:
    for plain_graph in (
        run_pipeline(step(2), without=["fuse"]),
        run_pipeline(dce(shard(step(), gi.Mesh(dp=2, tp=2), "data+megatron")), without=["fuse"]),
    ):
        graph = fuse(plain_graph)
        assert any(node.body for node in graph.nodes)
        assert count_flops(graph) == count_flops(plain_graph)
        for phase in ("forward", "backward", "update"):
            assert count_flops(graph, phase) == count_flops(plain_graph, phase)
        collectives = [node.name for node in plain_nodes(graph) if node.operator.relayout is not None]
        assert sorted(collectives) == sorted(n.name for n in plain_graph.nodes if n.operator.relayout is not None)


def test_a_fused_node_costs_the_sum_of_its_body() -> None:
    graph = gi.parse(TEXT)
    node = graph.nodes[-1]
    body = node.body
    assert body is not None
    assert node_flops(node) == count_flops(body)
    assert str(node_flops(node)) != "0"


def test_what_stays_inside_a_fused_node_takes_no_memory() -> None:
    plain_graph = run_pipeline(step(2), "attention", without=["fuse"])
    graph = fuse(plain_graph)
    long = SIZES | {"S": 64}
    assert peak_memory(graph, long).bytes < 0.8 * peak_memory(plain_graph, long).bytes
    # Dims that only bodies have are dims of the graph.
    assert mesh_sizes(graph, SIZES)["D_h"] == 4


ARGUMENTS = ("--layers", "2", "--batch", "2", "--sequence", "64", "--dropout", "0.1", "--vocabulary", "64")


def planned(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(cost, [*ARGUMENTS, *arguments, "--planned", "--json"], standalone_mode=False)
    assert result.exception is None, result.output
    return dict(json.loads(result.output)["planned"])


@pytest.mark.slow
def test_cost_plans_the_memory_of_the_compiled_step() -> None:
    masks = planned()
    assert masks["recompute"] == "masks"
    assert masks["bytes"] == sum(int(str(masks[part])) for part in ("arguments", "results", "arena", "scratch"))
    full = planned("--recompute", "full")
    assert int(str(full["arena"])) < int(str(masks["arena"]))
    # The level is the first that fits.
    assert planned("--memory", str(masks["bytes"]))["recompute"] == "masks"
    assert planned("--memory", f"{int(str(masks['bytes'])) / 1e6 - 1e-3}MB")["recompute"] != "masks"


@pytest.mark.slow
def test_cost_prints_the_plan_and_refuses_what_does_not_fit(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("cost", *ARGUMENTS, "--recompute", "attention", "--planned")
    assert code == 0
    assert "compiled, recompute=attention: planned peak " in out
    assert "the arena is fullest at " in out
    for arguments, message in (
        (("--memory", "15x"), "'15x' is no amount of memory; write bytes, or 500MB, 8GB"),
        (("--memory", "-3"), "'-3' is no amount of memory"),
        (("--memory", "15kB"), "no level of recomputation fits into --memory 15000; the last needs more: planned"),
        (("--recompute", "some"), "--recompute some is no level; choose from nothing, masks, attention"),
    ):
        code, _, err = call("cost", *ARGUMENTS, *arguments)
        assert code == 2
        assert message in err
