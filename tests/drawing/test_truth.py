"""Every label of every view says what the graph's types say: local shapes, pending sums, whose value it is."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from itertools import product

import pytest

import graphir as gi
from graphir.drawing import FigureConfig, View, draw, figure, figure_graph
from graphir.drawing.figures import FIGURES
from graphir.drawing.labels import plain
from graphir.drawing.views import find_view
from graphir.ir.layout import axis_symbol
from graphir.models import Usage, blueprint
from graphir.operators.elementwise import exponential
from graphir.passes import autodiff, find_plan, optimize, recompute, shard

B, S, D = gi.dims("B S D")


@lru_cache(maxsize=8)
def sharded(plan):
    mesh = gi.Mesh(dp=2, tp=2) if "+" in plan else gi.Mesh(tp=2)
    return shard(autodiff(gi.models.transformer(layers=2)), mesh, find_plan(plan))


def held(value, local):
    """`[D, D/N_T] partial`: what a rank has of the value, spelled here anew from its type."""
    dims = []
    for size, axes in zip(value.shape, value.type.layout.splits, strict=True):
        for axis in axes if local else ():
            size = size / axis_symbol(axis)
        dims.append(size)
    return dims, bool(value.type.layout.pending)


def is_true(text, value, local):
    """Whether a label's shape is the value's: equality of dims is equality of products, however they are spelled."""
    dims, pending = held(value, local)
    inside, partial = re.fullmatch(r"\[(.*?)\]( partial)?", text.replace("·", "*")).groups()
    said = [evaluate(each) for each in inside.split(", ") if each]
    return bool(partial) == pending and said == pytest.approx([evaluate(str(each)) for each in dims])


#: Sizes in which D_h = D/N_H and N_H = N_KV·G, and no two different products of which are alike.
SIZES = {"B": 7, "S": 11, "D": 13 * 17 * 5, "N_H": 17 * 5, "D_h": 13, "N_KV": 17, "G": 5, "D_ff": 19, "V": 23,
         "N_T": 29, "N_DP": 31, "S_k": 37, "D_in": 41, "D_out": 43}  # fmt: skip


def evaluate(text):
    """The size of `D/N_T`, `4*D`, `B/(N_DP*N_T)` where each letter has the size above."""
    result, divide = 1.0, False
    for name, sign in re.findall(r"([A-Za-z_]+|\d+)|([*/()])", text):
        if sign == "/":
            divide = True
        elif name:
            size = float(name) if name.isdigit() else SIZES.setdefault(name, 47 + 2 * len(SIZES))
            result = result / size if divide else result * size
    return result


def untrue(picture, graph, local):
    """What is written beside arrows and in ports that no value of that name has in the graph."""
    known = {}
    for node in graph.nodes:
        for value in node.outputs:
            known.setdefault(graph.origin(value).name, []).append(value)
            if node.operator.key == "BC":  # written on the edge as BC(b), which stands for both
                known.setdefault(graph.origin(node.inputs[0]).name, []).append(value)
            if "pattern" in node.attributes and node.meta.why:  # flattened on the way to a product: its port says what
                known[graph.origin(value).name].append(node.inputs[0])
    for value in graph.arguments:
        known.setdefault(value.name, []).append(value)
    nodes = {node.id: node for node in picture.nodes}
    wrong = []
    for edge in picture.edges:
        if not edge.shape or "," in edge.tensor:
            continue
        ports = [nodes[end] for end in (edge.source, edge.target) if nodes[end].kind == "port"]
        written = [plain(port.shapes[edge.row or 0]) for port in ports if port.shapes]
        for text in filter(None, [edge.shape, plain(edge.shape_label), *written]):
            if not any(is_true(text, value, local) for value in known[edge.tensor]):
                wrong.append(f"{edge.tensor} {text}, where the graph has {[v.type for v in known[edge.tensor]]}")
    return wrong


@pytest.mark.parametrize("id", sorted(set(FIGURES) - {"operator-dictionary"}))
def test_a_figures_labels_are_the_graphs_types(id):
    view = FIGURES[id].view(FigureConfig())
    assert untrue(figure(id), figure_graph(id), view.local) == []


@pytest.mark.parametrize("view", ["overall", "forward", "backward", "full", "mha-backward", "layer0/mha", "output"])
@pytest.mark.parametrize("plan", ["megatron", "sequence", "data+megatron"])
def test_a_views_labels_are_the_graphs_types(plan, view):
    graph = sharded(plan)
    found = find_view(graph, view)
    picture = draw(graph, found)
    assert untrue(picture, graph, local=view != "overall") == []
    if view not in ("overall", "output"):
        assert any("/N_T" in edge.shape for edge in picture.edges)


@lru_cache(maxsize=2)
def trained(family):
    """A small model of a family with its gradients, and the sizes by which ranks share its heads."""
    small = blueprint(family)
    graph = autodiff(small.small().build(Usage()), loss="L")
    return graph, small.bind(graph, B=8, S=16)


def of_family(family, mesh, plan):
    """What each rank of `mesh` trains of a model of a family."""
    graph, sizes = trained(family)
    return shard(optimize(graph), gi.Mesh(**mesh), find_plan(plan), sizes) if mesh else graph


def views_of(graph):
    """Every view that `draw` offers of a graph, but for those that differ in their titles alone, or in the layer."""
    scopes = sorted({n.meta.scope for n in graph.nodes if n.meta.scope and not re.match("layer[1-9]", n.meta.scope)})
    views = (find_view(graph, name) for name in ("overall", "forward", "backward", "full", *scopes, *FIGURES))
    distinct = dict.fromkeys(replace(view, title="") for view in views)
    return [view for view in distinct if any(view.holds(node) for node in graph.nodes)]


#: Grouped heads on more ranks than there are, norms of heads, windows and caps, types of tokens, one matrix for three.
FAMILIES = ("gpt2", "llama", "qwen3", "phi3", "gemma2", "gemma3", "bert")
MESHES = {
    "": {},
    "megatron": {"tp": 4},
    "sequence": {"tp": 2},
    "context": {"cp": 2},
    "data+vocabulary": {"dp": 2, "tp": 2},
    "data+sequence+zero3": {"dp": 2, "tp": 4},
}


@pytest.mark.parametrize("view", ["overall", "forward", "layer0/mha"])
def test_grouped_heads_on_more_ranks_are_labelled_as_their_types_say(view):
    graph = of_family("llama", {"dp": 2, "tp": 4}, "data+sequence+zero3")
    found = find_view(graph, view)
    assert untrue(draw(graph, found), graph, found.local) == []


def a_third(*choices):
    """Of all pairs each third, in which every family and every choice occurs."""
    pairs = product(enumerate(FAMILIES), enumerate(choices))
    return [(family, choice) for (i, family), (j, choice) in pairs if (i + j) % 3 == 0]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "plan"), a_third(*MESHES))
def test_the_labels_of_a_family_are_its_graphs_types(family, plan):
    graph = of_family(family, MESHES[plan], plan)
    for view in views_of(graph):
        assert untrue(draw(graph, view), graph, view.local) == [], view


@pytest.mark.slow
@pytest.mark.parametrize(("family", "config"), a_third({"tp": 4}, {"lowered": True}, {"full": True}), ids=str)
def test_the_labels_of_a_familys_figures_are_its_graphs_types(family, config):
    config = FigureConfig(model=blueprint(family), **config)
    for id in sorted(set(FIGURES) - {"operator-dictionary"}):
        assert untrue(figure(id, config), figure_graph(id, config), FIGURES[id].view(config).local) == [], id


def test_a_ranks_own_shapes_and_pending_sums_are_written():
    picture = draw(sharded("sequence"), find_view(sharded("sequence"), "layer0/mha"))
    shapes = {edge.tensor.rpartition("/")[2]: set() for edge in picture.edges}
    for edge in picture.edges:
        shapes[edge.tensor.rpartition("/")[2]].add(edge.shape)
    assert shapes["W_Q"] == {"[D, D/N_T]"}
    assert shapes["AO_lin"] == {"[B, S, D] partial", "[B, S/N_T, D]"}


def test_a_forward_value_gathered_again_is_no_gradient():
    graph = sharded("sequence")
    picture = draw(graph, find_view(graph, "layer0/mha"))
    again = {edge.role for edge in picture.edges if edge.source == "layer0/mha/X_norm.AG.2"}
    assert again == {"cached"}
    readers = {edge.role for edge in picture.edges if edge.tensor == "layer0/mha/X_norm" and edge.target[0:1] == "l"}
    assert "gradient" not in readers


def test_what_is_computed_once_more_is_no_gradient():
    graph = recompute(autodiff(gi.models.transformer(layers=1)), "full")
    picture = draw(graph, find_view(graph, "layer0/mlp"))
    again = [edge for edge in picture.edges if ".again" in edge.tensor]
    assert again
    assert {edge.role for edge in again} == {"cached"}
    labels = {plain(edge.label) for edge in again}
    assert "A_up again" in labels


def test_unnamed_results_bear_the_name_of_what_made_them():
    block = gi.Builder("unnamed")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, D))
    Y = gi.matmul(exponential(X), W)
    picture = draw(block.build(exponential(exponential(exponential(Y)))), View(full=True))
    said = {plain(edge.label) for edge in picture.edges if edge.label}
    assert {"exp(X)", "exp(X) • W\u0303"} <= said
    assert not {"X", "W\u0303"} & said, "what enters is written in its port"


def test_an_optimizers_result_is_the_new_parameter():
    lines = [plain(line) for node in figure("parameter-gradients").nodes if node.kind == "port" for line in node.lines]
    assert "W\u0303^new" in lines
    assert not any(line.startswith("dθ") for line in lines)


def test_what_the_losss_backward_pass_reads_its_forward_pass_makes():
    forward, backward = figure("loss-forward"), figure("loss-backward")
    made = {edge.tensor for edge in forward.edges}
    read = {edge.tensor for edge in backward.edges if edge.role == "cached"}
    statistics = {"output/A_out.mean", "output/A_out.rstd"}
    assert read - statistics <= made
