"""The interactive page: that its data are the graph's, that it stands alone, and that nothing in it can do harm."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.cost import collective_cost, node_flops
from graphir.drawing import View, draw, figure, figure_graph
from graphir.drawing.explore import figure_page, model_page
from graphir.drawing.explore.blocks import alike, around, blocks_of, shifted
from graphir.drawing.explore.data import model_data
from graphir.drawing.explore.numbers import Formulas
from graphir.drawing.explore.page import PROGRAM, STYLES, html
from graphir.drawing.explore.sizes import complete_sizes
from graphir.drawing.inline import script_json
from graphir.drawing.picture import Details, Picture, PictureEdge, PictureNode, Run
from graphir.drawing.render import renderers
from graphir.errors import ConfigError, DimError
from graphir.passes import Optimizer, autodiff, complete_plan, optimize, shard

needs_svg = pytest.mark.skipif("svg" not in renderers(), reason="nothing here draws SVG: the page is unverified")
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'&]]>-->"


@lru_cache
def step(layers, **mesh):
    graph = optimize(autodiff(gi.models.transformer(layers=layers), loss="L"), Optimizer("adamw", clip=1.0))
    ranks = gi.Mesh(mesh)
    return (
        shard(graph, ranks, complete_plan("data+megatron" if len(mesh) > 1 else "megatron", ranks)) if mesh else graph
    )


@lru_cache
def built():
    """The data and drawings of a model whose layers are references to each other."""
    return model_data(step(4, dp=2, tp=2), "four layers")


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def number(terms, sizes):
    total = Fraction(0)
    for coefficient, powers in terms:
        value = Fraction(coefficient)
        for name, power in powers.items():
            value *= Fraction(sizes[name]) ** power
        total += value
    return total


# -- blocks -----------------------------------------------------------------------------------------------


def test_blocks_hold_every_node_once_in_the_order_of_the_forward_pass():
    graph = step(2, dp=2, tp=2)
    blocks = blocks_of(graph)
    layer = ["mha", "X_mid", "mlp", "X_out"]
    assert [block.path for block in blocks] == [
        "embedding",
        *(f"layer{number}/{part}" for number in range(2) for part in layer),
        "output",
        "optimizer",
    ]
    held = [node for block in blocks for node in block.nodes]
    assert len(held) == len(set(held)) == len(graph.nodes)
    (residual,) = [block for block in blocks if block.path == "layer1/X_mid"]
    assert [node.name for node in residual.nodes] == ["layer1/X_mid", "layer1/dX_mid", "layer0/dX_out.X_mid"]


def test_the_number_of_distinct_blocks_does_not_grow_with_the_layers():
    def distinct(layers):
        graph = step(layers, dp=2, tp=2)
        return len(set(alike(graph, blocks_of(graph), lambda node: None)))

    assert distinct(4) == distinct(11)


def test_layers_that_differ_are_not_alike():
    block = gi.Builder("two")
    B, D = gi.dims("B D")
    x = block.input("x", (B, D))
    for number, kind in enumerate(("gelu", "relu", "relu")):
        with block.scope(f"layer{number}"):
            x = gi.activation(x, kind=kind, name="y")
    graph = block.build(x)
    # The first reads what is handed in, the last is returned: only their names can make them alike, and do not.
    assert len(set(alike(graph, blocks_of(graph), lambda node: None))) == 3


def test_names_are_shifted_where_they_are_names():
    text = "layer1/mha/Q reads layer0/X_out, not sublayer1/Q, layer1x or a/layer1/Q"
    assert shifted(text, "layer", 3) == "layer4/mha/Q reads layer3/X_out, not sublayer1/Q, layer1x or a/layer1/Q"
    assert shifted(text, "", 3) == text


@pytest.mark.parametrize("path", ["layer1/mha", "layer1/X_mid", "output"])
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_a_block_is_drawn_alone_as_it_would_be_drawn_from_the_whole_graph(path, phase):
    graph = step(3, dp=2, tp=2)
    (block,) = [each for each in blocks_of(graph) if each.path == path]
    names = tuple(node.name for node in block.nodes if node.meta.phase == phase)
    view = View(scopes=(block.scope,), phases=(phase,), only=names, expand=(0, 1, 2), local=True, cached="ports")
    assert draw(around(graph, block), view) == draw(graph, view)


def spelled(type):
    """A type as text in which equal dims are written one way."""
    return type.replace("D_h", "D/N_H")


# -- data -------------------------------------------------------------------------------------------------


@needs_svg
def test_references_stand_for_the_very_nodes_that_they_replace():
    graph, (data, _) = step(4, dp=2, tp=2), built()
    found = {}
    for (path, kind, own), block in zip(data["blocks"], blocks_of(graph), strict=True):
        assert path == block.path
        stem, first = data["kinds"][kind]["stem"], data["kinds"][kind]["number"]

        def named(text, stem=stem, by=own - first):
            return shifted(text, stem, by)

        for at, (told, node) in enumerate(zip(data["kinds"][kind]["nodes"], block.nodes, strict=True)):
            assert [named(name) for name, *_ in told["made"]] == [value.name for value in node.outputs]
            assert [named(name) for name, *_ in told.get("reads", [])] == [value.name for value in node.inputs]
            types = [data["types"][type]["text"] for _, type, *_ in told["made"]]
            assert [spelled(text) for text in types] == [spelled(value.type.text) for value in node.outputs]
            # Which term of the gradients' norm it is depends on how many layers there are.
            why = re.sub(r"as X\d+ \[\]", "as one of its terms", node.meta.why or "")
            assert named(told.get("why", "")) == (why if path == "optimizer" else node.meta.why or "")
            found[len(found)] = (path, at, node)
    assert len(data["kinds"]) < len(data["blocks"])
    place = {block.path: number for number, block in enumerate(blocks_of(graph))}
    computed = [(block, at) for block, first, end in data["runs"] for at in range(first, end)]
    expected = {node: (place[path], at) for path, at, node in found.values()}
    assert computed == [expected[node] for node in graph.nodes]


def test_formulas_are_the_costs_themselves():
    graph = step(2, dp=2, tp=2)
    sizes = complete_sizes(graph, {"B": 8, "S": 6, "D": 24, "N_H": 4, "D_ff": 32, "V": 10})
    formulas = Formulas(graph)
    for node in graph.nodes:
        assert number(formulas.entries[formulas.of(node_flops(node))], sizes) == node_flops(node).number(sizes)
        if node.operator.relayout is not None:
            each = collective_cost(node, graph.mesh).each
            assert number(formulas.entries[formulas.of_sent(each)], sizes) == each.number(sizes)


def test_sizes_that_nobody_said_can_be_run():
    for mesh in ({"dp": 2, "tp": 5}, {"dp": 8, "tp": 8}, {"tp": 3}):
        graph = step(2, **mesh)
        sizes = complete_sizes(graph, {})
        assert sizes["N_H"] % mesh["tp"] == 0
        assert sizes["D"] % sizes["N_H"] == 0
    with pytest.raises(DimError, match="N_H"):
        complete_sizes(step(2, tp=3), {"N_H": 4, "D": 24})


@needs_svg
def test_layers_that_are_asked_for_must_be_there():
    from graphir.drawing.files import graph_file

    graph = gi.models.transformer(layers=2)
    assert data_of(graph_file(graph, "html", expand=(1,)).decode())["expand"] == [1]
    with pytest.raises(ConfigError, match="layer"):
        graph_file(graph, "html", expand=(7,))


# -- the page ---------------------------------------------------------------------------------------------


@needs_svg
def test_the_page_is_self_contained_and_admits_its_own_script_alone():
    made = html(*built())
    assert not re.search(r"""(?:src|href)\s*=\s*["']""", made)
    assert "@import" not in made
    outside = re.sub(r"<script>.*?</script>", "", made, flags=re.DOTALL)
    assert set(re.findall(r"url\((.{5})", outside)) <= {"data:"}, "the fonts, which the page brings along"
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', made)
    (script,) = re.findall(r"<script>(.*?)</script>", made, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"\beval\(|new Function\(|innerHTML|insertAdjacentHTML|document\.write", script)


def test_the_page_brings_along_every_asset_there_is():
    here = {file.name for file in files("graphir.drawing.explore").joinpath("assets").iterdir()}
    assert here == {*PROGRAM, *STYLES}


@pytest.mark.slow
@needs_svg
def test_a_page_of_many_layers_is_hardly_larger_than_one_of_three():
    small, large = (model_page(gi.models.transformer(layers=layers)) for layers in (3, 12))
    assert len(large) < 1.1 * len(small)


@needs_svg
def test_what_a_drawing_shows_is_what_the_data_say():
    data, drawings = built()
    for kind in data["kinds"]:
        known = {name for node in kind["nodes"] for name, *_ in node["made"]}
        for drawing in kind["drawings"].values():
            svg = drawings[drawing["at"]].svg
            for letter, entries in (("n", drawing["nodes"]), ("e", drawing["edges"])):
                drawn = {int(at) for at in re.findall(rf'id="d-{letter}(\d+)"', svg)}
                assert drawn == set(range(len(entries)))
            assert any(set(names) & known for names in drawing["nodes"])


@needs_svg
def test_every_node_of_an_update_is_drawn_and_a_sum_over_all_gradients_says_so_in_a_line():
    graph, (data, drawings) = step(4, dp=2, tp=2), built()
    kinds = {kind: block for (_, kind, _), block in reversed([*zip(data["blocks"], blocks_of(graph), strict=True)])}
    symbols = set()
    for kind, block in kinds.items():
        update = data["kinds"][kind]["drawings"].get("update", {"nodes": []})
        drawn = {name for names in update["nodes"] for name in names}
        for node in block.nodes:
            if node.meta.phase == "update":
                assert node.name in drawn
                symbols.add(node.operator.symbol)
    assert symbols == {"Σ²", "+", "AR", "clip", "×", "AdamW", "η"}
    (optimizer,) = [kind for kind, block in kinds.items() if block.path == "optimizer"]
    update = data["kinds"][optimizer]["drawings"]["update"]
    squares = [node.name for node in graph.nodes if node.operator.key == "square_sum"]
    assert sorted(name for names in update["edges"] if len(names) > 1 for name in names) == sorted(squares)
    assert len(re.findall("Σ²", drawings[update["at"]].svg)) == 2, "of those that ranks hold in part, and of the others"


@needs_svg
def test_a_figure_s_page_holds_the_figure():
    picture, graph = figure("mha-backward"), figure_graph("mha-backward")
    data = data_of(figure_page(picture, graph))
    ((kind,), (block,)) = data["kinds"], data["blocks"]
    assert (block[0], data["title"]) == ("figure", picture.title)
    assert len(kind["nodes"]) == len(graph.nodes)
    assert len(kind["drawings"]["all"]["edges"]) == len(picture.edges)


# -- harmless ---------------------------------------------------------------------------------------------


@given(st.text(max_size=40) | st.just(HOSTILE))
@settings(max_examples=25, deadline=None)
def test_json_in_a_script_cannot_close_it(text):
    written = script_json({"text": text})
    assert "<" not in written
    assert json.loads(written) == {"text": text}


def hostile_picture(text):
    nodes = (
        PictureNode("a", ((Run(text, "bold"),),), "operator", details=Details((text,), text, text, text)),
        PictureNode("b", ((Run(text),),), "block", scope=text),
    )
    return Picture("hostile", text, text, nodes=nodes, edges=(PictureEdge("a", "b", text, "forward", shape=text),))


@pytest.mark.slow
@needs_svg
@pytest.mark.parametrize("text", [HOSTILE, 'a\\N<b>&amp; quote " and \n newline', "<!-- \u2028 ℒ Σ"])
def test_hostile_texts_stay_texts(text):
    graph = figure_graph("node-matmul")
    made = figure_page(hostile_picture(text), graph)
    outside = re.sub(r"<script.*?</script>", "", made, flags=re.DOTALL)
    assert "<img" not in outside
    assert made.count("<script") == 2
    assert data_of(made)["title"] == text


@needs_svg
def test_parts_of_an_axis_are_axes_whose_ranks_follow_from_names():
    from graphir.models import Usage, blueprint

    model = blueprint("llama", layers=1)
    graph = autodiff(model.composition.build(Usage(decode=None)), loss="L")
    sizes = model.bind(graph, B=2, S=4)
    ranks = 2 * sizes["N_KV"]
    mesh = gi.Mesh(tp=ranks)
    data, _ = model_data(shard(graph, mesh, complete_plan("megatron", mesh), sizes), "grouped", sizes)
    assert [each["axis"] for each in data["mesh"]] == ["tp.N_KV", "tp.per_N_KV"]
    found = [number(data["formulas"][each["ranks"]], data["sizes"]) for each in data["mesh"]]
    assert found == [sizes["N_KV"], 2]
    assert data["symbols"] == ["N_T"]
