"""Drawing: labels, views of any graph, DOT that nothing breaks."""

from __future__ import annotations

import cProfile
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.drawing import Cluster, Fold, Picture, PictureEdge, PictureNode, View, dot, draw, to_dot
from graphir.drawing.labels import formula_label, plain, shape_label, to_graphviz, to_html, typeset
from graphir.drawing.picture import Details, LegendEntry, Run
from graphir.drawing.ranks import side_by_side
from graphir.drawing.style import EDGES, NODES
from graphir.drawing.view import Repeats, within
from graphir.errors import ConfigError
from graphir.passes import autodiff, lower, optimize, shard
from tests.support.own_operators import unit_norm

B, S, D, N_H = gi.dims("B S D N_H")

# -- labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "written"),
    [
        ("X_norm", "", "X_norm"),
        ("W_Q", "parameter", "W\u0303_Q"),
        ("K_T", "", "K^T"),
        ("dK_T", "gradient", "dK^T"),
        ("dX_norm.Q_lin", "gradient", "dX_norm,Q"),
        ("dH_inter", "gradient", "dH_inter (dU_in)"),
        ("gamma", "parameter", "γ\u0303"),
        ("dgamma", "gradient", "dγ"),
        ("P_theta", "parameter", "P\u0303_θ"),
        ("L_tok", "", "ℒ_tok"),
        ("dL", "gradient", "dℒ"),
        ("X_norm.mean", "", "μ"),
        ("X_norm.rstd", "", "σ^−1"),
        ("AS_drop.m", "", "m"),
        ("dX_mid.X_out", "gradient", "dX_mid (via X_out)"),
        ("Z_up_lin", "", "Z_up,lin"),
        ("data", "", "data"),
        ("d", "gradient", "d"),
    ],
)
def test_names_are_typeset_as_the_documents_do(name, kind, written):
    assert plain(typeset(name, gradient=kind == "gradient", parameter=kind == "parameter")) == written


def test_shapes_have_real_subscripts():
    label = shape_label((B, N_H / gi.dim("N_T"), S, D * 4), "partial")
    assert plain(label) == "[B, N_H/N_T, S, 4·D] partial"
    assert Run("H", "sub") in label
    assert Run("T", "sub") in label


def test_formulas_have_their_dims_typeset():
    label = formula_label("ring: 2 (N_T − 1)/N_T · B*S*D · 4 bytes")
    assert plain(label) == "ring: 2 (N_T − 1)/N_T · B·S·D · 4 bytes"
    assert label.count(Run("T", "sub")) == 2


def test_runs_become_markup_and_nothing_else_does():
    label = (Run("<X>&", "bold"), Run('"norm"', "sub"))
    assert to_html(label) == "<b>&lt;X&gt;&amp;</b><sub>&quot;norm&quot;</sub>"
    assert to_graphviz(label, 12) == (
        '<FONT POINT-SIZE="12"><B>&lt;X&gt;&amp;</B><SUB><FONT POINT-SIZE="9">&quot;norm&quot;</FONT></SUB></FONT>'
    )


# -- DOT --------------------------------------------------------------------------------------------------

_text = st.text(max_size=40) | st.sampled_from(
    [
        '"',
        "<script>alert(1)</script>",
        "a&b",
        "x\ny",
        "\\",
        'a"]; b [label="',
        "]]>",
        "<B>",
        "&lt;",
        "\\N\\l",
        "->",
        "{}",
    ]
)


@settings(max_examples=60, deadline=None)
@given(title=_text, label=_text, name=_text, why=_text)
def test_no_string_breaks_dot(title, label, name, why):
    run = (Run(label, "bold"),)
    nodes = (
        PictureNode("a", (run,), "operator", op="LN", scope=name, details=Details(why=why)),
        PictureNode("b", (run, run), "port", (run, run), beside=("a", "right")),
        PictureNode("c", ((Run(label),),), "collective", axes=("tp",)),
    )
    edges = (
        PictureEdge("a", "b", name, "gradient", run, "[B]", run, row=1),
        PictureEdge("a", "c", name, "cached", run, label, run),
    )
    picture = Picture(
        "figure", title, nodes=nodes, edges=edges, clusters=(Cluster("k", run, ("a",)),),
        legend=(LegendEntry("edge", "cached", label), LegendEntry("node", "collective-tp", label)),
    )  # fmt: skip
    source = dot(picture)
    tokens = _tokens(source)
    assert tokens[:3] == ["digraph", "figure", "{"]
    assert tokens.count("{") == tokens.count("}") == 3
    assert sum(token == "->" for token in tokens) == 2
    for token in tokens:
        if token.startswith("<"):
            ElementTree.fromstring(f"<label>{_without_controls(token[1:-1])}</label>")


def _without_controls(text):
    """XML cannot hold control characters, and Graphviz does not mind them."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", text).replace("&#160;", " ")


def _tokens(source):
    """DOT's tokens: quoted strings, HTML-like strings, words, signs; AssertionError if a string does not end."""
    tokens, i = [], 0
    while i < len(source):
        c = source[i]
        if c.isspace():
            i += 1
        elif c == '"':
            j = i + 1
            while source[j] != '"':
                j += 2 if source[j] == "\\" else 1
            tokens.append(source[i : j + 1])
            i = j + 1
        elif c == "<":
            depth, j = 0, i
            while True:
                depth += {"<": 1, ">": -1}.get(source[j], 0)
                j += 1
                if depth == 0:
                    break
            tokens.append(source[i:j])
            i = j
        elif source.startswith("->", i):
            tokens.append("->")
            i += 2
        elif c in "{}[]=;":
            tokens.append(c)
            i += 1
        else:
            j = i
            while j < len(source) and not source[j].isspace() and source[j] not in '{}[]=;"<':
                j += 1
            tokens.append(source[i:j])
            i = j
    return tokens


def test_a_program_reads_the_graph_back():
    graph = autodiff(gi.models.transformer(layers=1))
    source = to_dot(graph, "layer0/mlp")
    edges = [line for line in source.splitlines() if "->" in line and "style=invis" not in line]
    read = [dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s\]]+)', line)) for line in edges]
    assert {edge["role"] for edge in read} == {"forward", "gradient", "cached", "parameter"}
    by_tensor = {edge["tensor"].strip('"'): edge for edge in read}
    assert by_tensor["layer0/mlp/A_up"]["shape"] == '"[B, S, D_ff]"'
    assert by_tensor["layer0/mlp/A_up"]["bytes"] == '"4*B*S*D_ff"'
    assert by_tensor["layer0/mlp/H_inter.m"]["bytes"] == '"B*S*D_ff"'
    nodes = [line for line in source.splitlines() if " op=" in line]
    assert {re.search(r" op=(\w+)", line)[1] for line in nodes} >= {"LN", "matmul", "add", "GL", "DO", "dMatmul", "dLN"}
    assert all('scope="layer0/mlp"' in line for line in nodes)


# -- views ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["overall", "forward", "backward", "full", "mha-backward", "layer0/mlp"])
@pytest.mark.parametrize("stage", ["model", "differentiated", "optimized", "lowered", "sharded"])
def test_any_graph_is_drawn_at_any_stage(view, stage):
    graph = gi.models.transformer(layers=2)
    if stage != "model":
        graph = autodiff(graph)
    graph = {
        "optimized": optimize,
        "lowered": lower,
        "sharded": lambda g: shard(optimize(g), gi.Mesh(dp=2, tp=3), "data+megatron"),
    }.get(stage, lambda g: g)(graph)
    source = to_dot(graph, view)
    assert source.startswith("digraph transformer {")
    if not (stage == "model" and "backward" in view):
        assert " -> " in source


def test_a_full_view_leaves_no_node_out():
    graph = optimize(autodiff(gi.models.transformer(layers=2)))
    picture = draw(graph, View("all", phases=("forward", "backward"), full=True, expand=(0, 1)))
    assert {node.id for node in picture.nodes if node.op} == {
        node.name for node in graph.nodes if node.meta.phase != "update"
    }


def test_an_unknown_view_says_what_there_is():
    graph = gi.models.transformer(layers=1)
    with pytest.raises(ConfigError, match=r"no view called 'mah'; .*overall, .* or a scope: embedding, layer0, "):
        to_dot(graph, "mah")


def test_bc_is_written_on_the_edge_unless_the_full_graph_is_asked_for():
    graph = gi.models.transformer(layers=1)
    folded = draw(graph, View(scopes=("layer0/mlp",)))
    full = draw(graph, View(scopes=("layer0/mlp",), full=True))
    assert "BC" not in {node.op for node in folded.nodes}
    assert "BC_B,S(b\u0303_up)" in {plain(edge.label) for edge in folded.edges}
    assert "BC" in {node.op for node in full.nodes}
    assert {"seed", "step"} <= {edge.tensor for edge in full.edges}


def test_an_operator_of_ones_own_says_below_its_name_what_it_computes():
    block = gi.Builder("rms")
    H = unit_norm(block.input("X", (B, D)), block.parameter("gamma", (D,)), name="H")
    picture = draw(autodiff(block.build(gi.reduce_sum(gi.activation(H, kind="gelu"), name="L"))), View(full=True))
    labels = {node.op: [plain(line) for line in node.lines] for node in picture.nodes if node.op}
    assert labels["UNIT"] == ["UNIT", "X·γ/√(ΣX²+ε)"]
    assert labels["dUNIT"] == ["dUNIT", "Σ(dH·X·r)"], "of dγ, which alone is asked for"
    assert labels["GL"] == ["GL"], "the documents' own say it elsewhere"


def test_scopes_are_matched_part_by_part():
    assert within("layer3/mha", "layer*")
    assert within("layer3/mha", "layer*/mha")
    assert not within("layer3", "layer*/mha")
    assert not within("layer3/mha", "mha")
    assert within("anything", "*")


def test_a_block_that_a_collective_cuts_becomes_two():
    graph = shard(autodiff(gi.models.transformer(layers=1)), gi.Mesh(tp=2), "megatron")
    picture = draw(graph, View(folds=(Fold("layer*/mlp", "MLP"),), phases=("forward",), cached="no", parameters="no"))
    pieces = [plain(node.lines[0]) for node in picture.nodes if node.kind == "block"]
    assert pieces == ["MLP", "+, DO"]


# -- repeated layers --------------------------------------------------------------------------------------


def test_equal_layers_are_drawn_once():
    picture = draw(autodiff(gi.models.transformer(layers=5)), View("model", detailed=False))
    assert [plain(cluster.label) for cluster in picture.clusters] == ["layer × 5"]
    assert not {node.scope.split("/")[0] for node in picture.nodes} & {f"layer{i}" for i in range(1, 5)}


def test_an_expanded_layer_stands_on_its_own():
    picture = draw(autodiff(gi.models.transformer(layers=6)), View("model", expand=(2,)))
    assert [plain(cluster.label) for cluster in picture.clusters] == ["layer × 2", "layer2", "layer × 3"]


def test_layers_that_differ_are_not_drawn_as_one():
    block = gi.Builder("net")
    X = block.input("X", (B, D))
    for i, kind in enumerate(["relu", "relu", "silu"]):
        with block.scope(f"layer{i}"):
            X = gi.activation(X, kind=kind, name="Y")
    runs = Repeats(block.build(X)).runs
    assert [(run.first, run.last) for run in runs] == [(0, 1), (2, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("view", ["overall", "backward"])
def test_what_drawing_takes_grows_with_the_layers_and_not_with_their_square(view):
    """Counted in calls, which do not depend on the machine; what is drawn of layers that are alike is one of them."""
    calls = {}
    for layers in (12, 48):
        graph = shard(autodiff(gi.models.transformer(layers=layers)), gi.Mesh(dp=2, tp=3), "data+megatron")
        graph.uses, graph.producers  # noqa: B018  what every view of the graph shares
        profile = cProfile.Profile()
        source = profile.runcall(to_dot, graph, view)
        calls[layers] = sum(each.callcount for each in profile.getstats())
        assert f"layer × {layers}" in source
        assert source.count("\n") < 900
    assert calls[48] < 5 * calls[12]


def test_ranks_side_by_side_multiply_all_but_collectives():
    graph = shard(autodiff(gi.models.transformer(layers=1)), gi.Mesh(tp=3), "megatron")
    one = draw(graph, View(folds=(Fold("layer*/mlp", "MLP"),), phases=("forward",), cached="no", parameters="no"))
    all_ranks = side_by_side(one, graph.mesh)
    count = sum(3 if not node.axes else 1 for node in one.nodes)
    assert len(all_ranks.nodes) == count + 3
    assert {cluster.kind for cluster in all_ranks.clusters} == {"rank"}


# -- style ------------------------------------------------------------------------------------------------


def test_roles_differ_in_line_or_shape_not_only_in_colour():
    looks = [(s.width, s.line, s.tip, s.double) for s in EDGES.values()]
    assert len(set(looks)) == len(looks)
    assert NODES["collective"].frames == 2
