"""The documents' figures: drawn from graphs that run, with the tensors, shapes, orders and styles of the documents."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

import graphir as gi
from graphir.drawing import FigureConfig, dot, figure, figure_graph, figures
from graphir.drawing.figures import FIGURES, find_figure
from graphir.drawing.labels import plain
from graphir.drawing.picture import ROLES
from graphir.drawing.style import edge_style
from graphir.errors import ConfigError
from graphir.ir.builder import Builder
from graphir.ir.dims import dim_names
from graphir.ir.traits import Hidden

#: Every id that the list of figures asks for.
ASKED = set(
    """
    node-single node-matmul chain parameter-gradients reading-nodes operator-dictionary transformer-overall
    embedding-forward embedding-backward mha-forward mha-backward mlp-forward mlp-backward loss-forward loss-backward
    tp-overall tp-mha-forward tp-mha-backward tp-mlp-forward tp-mlp-backward tp-communication
    dp-overall dp-mha-forward dp-mlp-forward dp-mha-backward dp-mlp-backward dp-tp-overall
    """.split()  # noqa: SIM905  a page of quotes would hide the list
)
SIZES = {"B": 4, "S": 3, "D": 12, "D_ff": 6, "N_H": 6, "V": 5, "N_DP": 2}


def flow(picture):
    """`LN -X_norm [B, S, D]-> •` for each edge from node to node, forks left out; ports are their names."""
    nodes = {node.id: node for node in picture.nodes}
    into = {edge.target: edge.source for edge in picture.edges if nodes[edge.target].kind == "junction"}

    def name(id, row):
        while nodes[id].kind == "junction" and id in into:
            id = into[id]
        node = nodes[id]
        if node.kind == "port":
            return plain(node.lines[row or 0])
        return plain(node.lines[0]) if node.lines else "·"

    found = []
    for edge in picture.edges:
        if nodes[edge.target].kind == "junction":
            continue
        local = edge.tensor.rpartition("/")[2]
        found.append(f"{name(edge.source, edge.row)} -{local} {edge.shape}-> {name(edge.target, edge.row)}")
    return found


def style_of(picture, tensor):
    """The styles of the edges that carry the tensor of that local name."""
    return {
        edge_style(edge.role, edge.of_parameter, picture.detailed)
        for edge in picture.edges
        if edge.tensor.rpartition("/")[2] == tensor
    }


def chain_of(picture, *symbols):
    """Whether nodes with these symbols follow each other along edges, in this order, anything between."""
    nodes = {node.id: node for node in picture.nodes}
    after = {}
    for edge in picture.edges:
        after.setdefault(edge.source, []).append(edge.target)

    def symbol(id):
        return plain(nodes[id].lines[0]) if nodes[id].lines and nodes[id].kind != "port" else None

    reached = {id for id in nodes if symbol(id) == symbols[0]}
    for wanted in symbols[1:]:
        seen, queue = set(), [target for id in reached for target in after.get(id, ())]
        while queue:
            id = queue.pop()
            if id not in seen:
                seen.add(id)
                queue += after.get(id, ())
        reached = {id for id in seen if symbol(id) == wanted}
    return bool(reached)


# -- the graphs run ---------------------------------------------------------------------------------------


def sizes_of(graph):
    defined = {name for each in graph.dims for name in each.definitions}
    return {name: SIZES.get(name, 2) for name in sorted(dim_names([graph.dims]) - defined)}


@lru_cache(maxsize=32)
def executed(graph):
    """The graph's outputs, and what its decoding branch makes, computed."""
    rng = np.random.default_rng(0)
    sizes = sizes_of(graph)
    arrays = {}
    for value in graph.inputs:
        shape = tuple(each.size({**sizes}) for each in value.shape)
        if value.dtype == "text":
            arrays[value.name] = np.full(shape, "text", dtype=object)
        elif value.type.is_float:
            arrays[value.name] = rng.uniform(0.1, 1.0, shape).astype(value.dtype)
        else:
            arrays[value.name] = np.ones(shape, dtype=value.dtype)
    fetch = [value.name for value in graph.outputs]
    fetch += [name for name in ("output/ids",) if name in graph]
    run = gi.compile(graph, sizes, fetch=fetch)
    return run(gi.initialize(graph, sizes), arrays)


@pytest.mark.parametrize("id", FIGURES)
def test_the_figures_graph_verifies_and_runs(id):
    graph = figure_graph(id)
    gi.verify(graph)
    results = executed(graph)
    assert results
    for name, array in results.items():
        assert np.isfinite(np.asarray(array, dtype=float)).all(), name


@pytest.mark.parametrize("id", FIGURES)
def test_every_tensor_of_a_figure_is_one_of_its_graph(id):
    graph = figure_graph(id)
    picture = figure(id)
    assert picture.edges, id
    for edge in picture.edges:
        assert edge.role in ROLES
        for name in edge.tensor.split(", "):
            assert name in graph, name
    ids = [node.id for node in picture.nodes]
    assert len(set(ids)) == len(ids)
    assert {end for edge in picture.edges for end in (edge.source, edge.target)} <= set(ids)
    operators = {node.operator.key for node in graph.nodes}
    assert {node.op for node in picture.nodes if node.op} <= operators


def test_all_figures_that_were_asked_for_are_there():
    assert {info.id for info in figures()} >= ASKED
    for info in figures():
        assert info.title
        assert re.match(r"[AB] \d", info.where), info.where
        assert info.caption.endswith(".")


def test_an_unknown_figure_names_its_neighbours():
    with pytest.raises(ConfigError, match=r"no figure is called 'mha-backwards'; did you mean mha-backward"):
        find_figure("mha-backwards")


def test_a_configuration_that_cannot_be_drawn_says_why():
    with pytest.raises(ConfigError, match=r"heads=6 do not divide among tp=4 GPUs; choose a multiple of tp"):
        FigureConfig(tp=4)
    with pytest.raises(ConfigError, match=r"figures need layers to be a positive number, not 0"):
        FigureConfig(layers=0)


# -- what the figures show, typed from the documents ------------------------------------------------------

EXPECTED = {
    "node-matmul": """
        X -X [B, S, D_in]-> •
        W̃ -W [D_in, D_out]-> •
        • -Y [B, S, D_out]-> Y
        dY -dY [B, S, D_out]-> dMatmul
        X -X [B, S, D_in]-> dMatmul
        W̃ -W [D_in, D_out]-> dMatmul
        dMatmul -dX [B, S, D_in]-> dX
        dMatmul -dW [D_in, D_out]-> dW̃
    """,
    "chain": """
        X_0 -X_0 [B, S, D]-> f_1
        f_1 -X_1 [B, S, D]-> f_2
        f_2 -X_2 [B, S, D]-> f_3
        f_3 -X_3 [B, S, D]-> X_3
        dX_3 -dX_3 [B, S, D]-> df_3
        df_3 -dX_2 [B, S, D]-> df_2
        df_2 -dX_1 [B, S, D]-> df_1
        df_1 -dX_0 [B, S, D]-> dX_0
        X_0 -X_0 [B, S, D]-> df_1
        f_1 -X_1 [B, S, D]-> df_2
        f_2 -X_2 [B, S, D]-> df_3
    """,
    "embedding-forward": """
        T -T [B, S]-> Embedding Lookup
        Ẽ -E [V, D]-> Embedding Lookup
        Embedding Lookup -X_tok [B, S, D]-> +
        P̃ -P_theta [B, S, D]-> +
        + -X_emb [B, S, D]-> DO
        DO -X [B, S, D]-> X
    """,
    "mha-forward": """
        X -X [B, S, D]-> LN
        LN -X_norm [B, S, D]-> •
        W̃_Q -W_Q [D, D]-> •
        • -Q_lin [B, S, D]-> R
        R -Q_split [B, S, N_H, D_h]-> T
        T -Q [B, N_H, S, D_h]-> •
        T -K [B, N_H, S, D_h]-> T
        T -K_T [B, N_H, D_h, S]-> •
        • -A [B, N_H, S, S]-> SM
        SM -Z [B, N_H, S, S]-> S
        S -AS [B, N_H, S, S]-> DO
        T -V [B, N_H, S, D_h]-> •
        • -AO_heads [B, N_H, S, D_h]-> T
        T -AO_T [B, S, N_H, D_h]-> C
        C -AO_cat [B, S, D]-> •
        W̃_O -W_O [D, D]-> •
        • -AO_lin [B, S, D]-> +
        b̃_O -b_O [B, S, D]-> +
        + -AO_bias [B, S, D]-> DO
        DO -A_out [B, S, D]-> A_out
    """,
    "mha-backward": """
        dA_out -dA_out [B, S, D]-> dDO
        m -A_out.m [B, S, D]-> dDO
        dDO -dBC_b_O [B, S, D]-> Σ_B,S
        Σ_B,S -db_O [D]-> db̃_O
        AO_cat -AO_cat [B, S, D]-> dMatmul
        dMatmul -dW_O [D, D]-> dW̃_O
        dMatmul -dAO_cat [B, S, D]-> dC
        T -dAO_heads [B, N_H, S, D_h]-> dMatmul
        dMatmul -dAS_drop [B, N_H, S, S]-> dDO
        dMatmul -dV [B, N_H, S, D_h]-> T
        dDO -dAS [B, N_H, S, S]-> dS
        AS -AS [B, N_H, S, S]-> dS
        dS -dZ [B, N_H, S, S]-> dSM
        dSM -dA [B, N_H, S, S]-> dMatmul
        dMatmul -dQ [B, N_H, S, D_h]-> T
        dMatmul -dK_T [B, N_H, D_h, S]-> T
        T -dK [B, N_H, S, D_h]-> T
        dMatmul -dX_norm.Q_lin [B, S, D]-> +
        dMatmul -dX_norm.K_lin [B, S, D]-> +
        dMatmul -dX_norm.V_lin [B, S, D]-> +
        + -dX_norm [B, S, D]-> dLN
        μ -X_norm.mean [B, S]-> dLN
        dLN -dX [B, S, D]-> dX
        dLN -dgamma [D]-> dγ̃
        dLN -dbeta [D]-> dβ̃
    """,
    "mlp-forward": """
        LN -H [B, S, D]-> •
        • -Z_up_lin [B, S, D_ff]-> +
        b̃_up -b_up [B, S, D_ff]-> +
        + -Z_up [B, S, D_ff]-> GL
        GL -A_up [B, S, D_ff]-> DO
        DO -H_inter [B, S, D_ff]-> •
        • -Z_down [B, S, D]-> +
        + -A_out [B, S, D]-> DO
        DO -Y [B, S, D]-> Y
    """,
    "mlp-backward": """
        dY -dY [B, S, D]-> dDO
        dDO -dZ_down [B, S, D]-> dMatmul
        dMatmul -dH_inter [B, S, D_ff]-> dDO
        dMatmul -dW_down [D_ff, D]-> dW̃_down
        dDO -dA_up [B, S, D_ff]-> dGL
        Z_up -Z_up [B, S, D_ff]-> dGL
        dMatmul -dH [B, S, D]-> dLN
        dMatmul -dW_up [D, D_ff]-> dW̃_up
        Σ_B,S -db_up [D_ff]-> db̃_up
        Σ_B,S -db_down [D]-> db̃_down
        dLN -dX [B, S, D]-> dX
    """,
    "loss-forward": """
        X -X_out [B, S, D]-> LN
        Ẽ -E [V, D]-> T
        T -W_lm [D, V]-> •
        LN -A_out [B, S, D]-> •
        • -Z_lin [B, S, V]-> +
        b̃_lm -b_lm [B, S, V]-> +
        + -Z_bias [B, S, V]-> S
        S -P [B, S, V]-> CE
        Y -Y [B, S]-> CE
        S -P [B, S, V]-> ARG
        ARG -ids [B, S]-> ids
    """,
    "loss-backward": """
        X -X_out [B, S, D]-> dLN
        1 -dL []-> d÷
        dCE -dZ_bias [B, S, V]-> dAddB
        dAddB -dZ_lin [B, S, V]-> dMatmul
        Σ_B,S -db_lm [V]-> db̃_lm
        dMatmul -dW_lm [D, V]-> T
        dMatmul -dA_out [B, S, D]-> dLN
    """,
    "tp-mha-forward": """
        W̃_Q -W_Q [D, D/N_T]-> •
        T -Q [B, N_H/N_T, S, D_h]-> •
        C -AO_cat [B, S, D/N_T]-> •
        W̃_O -W_O [D/N_T, D]-> •
        • -AO_lin [B, S, D] partial-> AR
        AR -AO_lin [B, S, D]-> +
    """,
    "tp-mha-forward-column": """
        C -AO_cat [B, S, D/N_T]-> AG
        AG -AO_cat [B, S, D]-> •
        W̃_O -W_O [D, D/N_T]-> •
        • -AO_lin [B, S, D/N_T]-> AG
    """,
    "tp-mha-backward": """
        dMatmul -dX_norm.Q_lin [B, S, D] partial-> +
        + -dX_norm [B, S, D] partial-> AR
        AR -dX_norm [B, S, D]-> dLN
        dMatmul -dW_O [D/N_T, D]-> dW̃_O
    """,
    "tp-mlp-forward": """
        W̃_up -W_up [D, D_ff/N_T]-> •
        + -Z_up [B, S, D_ff/N_T]-> GL
        W̃_down -W_down [D_ff/N_T, D]-> •
        • -Z_down [B, S, D] partial-> AR
        AR -Z_down [B, S, D]-> +
    """,
    "tp-mlp-backward": """
        dMatmul -dH [B, S, D] partial-> AR
        AR -dH [B, S, D]-> dLN
        dMatmul -dW_up [D, D_ff/N_T]-> dW̃_up
    """,
    "tp-communication": """
        AO_lin -AO_lin [B, S, D] partial-> AR
        Z_down -Z_down [B, S, D] partial-> AR
        dH -dH [B, S, D] partial-> AR
        dX_norm -dX_norm [B, S, D] partial-> AR
    """,
    "dp-mlp-forward": "GL -A_up [B/N_DP, S, D_ff]-> DO",
    "dp-mha-forward": "• -A [B/N_DP, N_H, S, S]-> SM",
    "dp-mlp-backward": """
        dMatmul -dW_up [D, D_ff] partial-> AR
        AR -dW_up [D, D_ff]-> dW̃_up
        dMatmul -dW_down [D_ff, D] partial-> AR
        Σ_B,S -db_up [D_ff] partial-> AR
        dMatmul -dH [B/N_DP, S, D]-> dLN
    """,
    "dp-mha-backward": """
        dMatmul -dW_Q [D, D] partial-> AR
        dMatmul -dW_O [D, D] partial-> AR
        dLN -dgamma [D] partial-> AR
    """,
    "transformer-overall": """
        T -T [B, S]-> Embedding
        Embedding -X [B, S, D]-> LN
        LN -X_norm [B, S, D]-> MHA
        MHA -A_out [B, S, D]-> +
        LN -H [B, S, D]-> MLP
        MLP -Y [B, S, D]-> +
        + -X_out [B, S, D]-> Output projection
        Output projection -Z_bias [B, S, V]-> Loss
        dLoss -dZ_bias [B, S, V]-> dOutput projection
        dMLP -dH [B, S, D]-> dLN
        dMHA -dX_norm [B, S, D]-> dLN
        + -dX [B, S, D]-> dEmbedding
    """,
    "parameter-gradients": """
        dMatmul -dX [B, S, D_in]-> dX
        dMatmul -dW [D_in, D_out]-> SGD
    """,
    "reading-nodes": """
        dH -dH [B, S, D]-> dLN
        X -X [B, S, D]-> dLN
        γ̃ -gamma [D]-> dLN
        σ^−1 -H.rstd [B, S]-> dLN
        dLN -dX [B, S, D]-> dX
    """,
}  # fmt: skip


@pytest.mark.parametrize("id", EXPECTED)
def test_a_figure_has_the_documents_edges(id):
    # The tilde is a character of its own in labels.
    found, expected = flow(figure(id)), unicodedata.normalize("NFD", EXPECTED[id])
    missing = [line for line in map(str.strip, expected.strip().splitlines()) if line not in found]
    assert not missing, "\n".join(["missing:", *missing, "found:", *found])


@pytest.mark.parametrize(
    ("id", "symbols"),
    [
        ("mha-forward", ("LN", "•", "R", "T", "•", "SM", "S", "DO", "•", "T", "C", "•", "+", "DO")),
        ("mha-backward", ("dDO", "dMatmul", "dC", "T", "dMatmul", "dDO", "dS", "dSM", "dMatmul", "dMatmul", "dLN")),
        ("mlp-forward", ("LN", "•", "+", "GL", "DO", "•", "+", "DO")),
        ("mlp-backward", ("dDO", "dMatmul", "dDO", "dGL", "dMatmul", "dLN")),
        ("loss-backward", ("1", "d÷", "dCE", "dAddB", "dMatmul", "dLN")),
        ("transformer-overall", ("Embedding", "LN", "MHA", "+", "LN", "MLP", "+", "Output projection", "Loss")),
        ("transformer-overall", ("dLoss", "dOutput projection", "dMLP", "dLN", "+", "dMHA", "dLN", "+", "dEmbedding")),
        ("tp-overall", ("MHA", "AR", "MLP", "AR", "Loss")),
        ("tp-overall", ("dMLP", "AR", "dLN", "+", "dMHA", "AR", "dLN", "+", "dEmbedding")),
    ],
)  # fmt: skip
def test_nodes_follow_each_other_as_in_the_documents(id, symbols):
    assert chain_of(figure(id), *symbols)


@pytest.mark.parametrize(
    ("id", "tensor", "style"),
    [
        ("mha-backward", "AS", "cached"),
        ("mha-backward", "W_O", "cached"),
        ("mha-backward", "dAS", "gradient"),
        ("mha-backward", "dW_O", "parameter-gradient"),
        ("mha-forward", "W_O", "parameter"),
        ("mha-forward", "AS", "forward"),
        ("transformer-overall", "dX_out", "gradient-overall"),
        ("transformer-overall", "A_out", "forward"),
        ("tp-mlp-forward", "Z_down", "collective"),
        ("dp-mlp-backward", "dW_up", "parameter-gradient"),
        ("embedding-backward", "dP_theta", "parameter-gradient"),
    ],
)
def test_edges_bear_the_style_of_their_role(id, tensor, style):
    assert style in style_of(figure(id), tensor)


def test_a_cached_value_is_double_and_a_gradient_thick_or_dashed():
    detailed, overall = dot(figure("mha-backward")), dot(figure("transformer-overall"))
    cached = next(line for line in detailed.splitlines() if "role=cached" in line)
    assert re.search(r'color="(#\w+):white:\1"', cached)
    gradient = next(line for line in detailed.splitlines() if "role=gradient" in line)
    assert "penwidth=2.2" in gradient
    assert "style=solid" in gradient
    assert all("style=dashed" in line for line in overall.splitlines() if "role=gradient" in line)
    assert all("style=solid" in line for line in overall.splitlines() if "role=forward" in line)


# -- parallel figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tp", [2, 3, 6])
def test_an_all_reduce_spans_all_gpus_side_by_side(tp):
    picture = figure("tp-overall", FigureConfig(tp=tp))
    spanning = [node for node in picture.nodes if node.kind == "collective"]
    assert [node.ranks for node in spanning] == [tuple(range(tp))] * 4
    heads = [plain(node.lines[0]) for node in picture.nodes if node.id.startswith("rank ")]
    assert heads == [f"GPU {rank}" for rank in range(tp)]
    blocks = [node for node in picture.nodes if node.lines and plain(node.lines[0]) == "MHA"]
    assert [node.ranks for node in blocks] == [(rank,) for rank in range(tp)]


def test_both_kinds_of_collectives_meet_in_their_own_groups():
    picture = figure("dp-tp-overall")
    spanning = [node for node in picture.nodes if node.kind == "collective"]
    assert {node.ranks for node in spanning if node.axes == ("tp",)} == {(0, 1, 2), (3, 4, 5)}
    assert {node.ranks for node in spanning if node.axes == ("dp",)} == {(0, 3), (1, 4), (2, 5)}
    source = dot(picture)
    colours = {axis: set(re.findall(rf'axes={axis} class="[^"]*" color="(#\w+)"', source)) for axis in ("tp", "dp")}
    assert len(colours["tp"]) == len(colours["dp"]) == 1
    assert colours["tp"] != colours["dp"]


@pytest.mark.parametrize("id", ["dp-mha-forward", "dp-mlp-forward"])
def test_a_replicas_forward_pass_communicates_nothing(id):
    assert not [node for node in figure(id).nodes if node.kind == "collective"]


def test_captions_work_out_what_is_sent():
    assert "naive 2 (N_T − 1)" in figure("tp-mlp-forward").caption
    assert "ring 2 (N_T − 1)/N_T" in figure("tp-mlp-forward").caption
    assert "AR of dW_up: naive 2 (N_DP − 1) · D*D_ff · 4 bytes in all" in figure("dp-mlp-backward").caption
    assert "AR of dW_Q, dW_K, dW_V, dW_O (each): naive" in figure("dp-mha-backward").caption


def test_a_layers_communication_is_listed_in_order():
    notes = [plain(line) for node in figure("tp-communication").nodes if node.kind == "note" for line in node.lines]
    places = [line.partition(":")[0] for line in notes if ":" in line and not line.startswith(("naive", "ring"))]
    assert places == ["MHA, forward", "MLP, forward", "MLP, backward", "MHA, backward"]
    assert notes.count("among GPU 0, GPU 1, GPU 2") == 4


# -- two levels, and the model decides --------------------------------------------------------------------


@pytest.mark.parametrize("id", ["mha-backward", "mlp-backward", "loss-backward", "tp-mlp-backward"])
def test_products_are_taken_apart_at_the_lower_level(id):
    folded, lowered = figure(id), figure(id, FigureConfig(lowered=True))
    assert "dMatmul" in {node.op for node in folded.nodes}
    operators = {node.op for node in lowered.nodes}
    assert "dMatmul" not in operators
    assert {"matmul", "T"} <= operators
    assert {edge.tensor for edge in folded.edges if edge.role == "gradient"} <= {e.tensor for e in lowered.edges}


def renamed(graph, old, new):
    """A copy of the graph with one value called otherwise."""
    builder, copies = Builder(graph.name, mesh=graph.mesh), {}
    copies.update(builder.copy_arguments(graph))
    for node in graph.nodes:
        outputs = [(new if value.name == old else value.name, value.type) for value in node.outputs]
        inputs = [copies[value] for value in node.inputs]
        copy = builder.declare(node.operator, inputs, node.attributes, outputs, node.meta)
        copies.update(zip(node.outputs, copy.outputs, strict=True))
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))


@pytest.mark.parametrize(
    ("id", "old"),
    [
        ("mha-forward", "layer0/mha/AO_cat"),
        ("mlp-forward", "layer0/mlp/A_up"),
        ("mha-backward", "layer0/mha/dAS"),
        ("tp-mlp-forward", "layer0/mlp/Z_down"),
        ("dp-mlp-backward", "layer0/mlp/dA_up"),
        ("transformer-overall", "layer0/X_mid"),
        ("embedding-forward", "embedding/X_tok"),
    ],
)
def test_a_renamed_tensor_is_renamed_in_the_figure(id, old):
    graph = figure_graph(id)
    scope, _, _ = old.rpartition("/")
    changed = figure(id, graph=renamed(graph, old, f"{scope}/Renamed"))
    assert f"{scope}/Renamed" in {edge.tensor for edge in changed.edges}
    assert old not in {edge.tensor for edge in changed.edges}
    assert any("Renamed" in plain(edge.label) for edge in changed.edges)
    assert dot(changed) != dot(figure(id))


@pytest.mark.parametrize(
    ("id", "options", "gone"),
    [
        ("embedding-forward", {"positions": "sinusoidal"}, "embedding/P_theta"),
        ("loss-forward", {"final_norm": False}, "output/gamma"),
        ("loss-forward", {"tied": False}, "embedding/E"),
        ("loss-forward", {"decode": None}, "output/P"),
    ],
)
def test_a_node_that_the_model_lacks_is_not_in_the_figure(id, options, gone):
    usual = {edge.tensor for edge in figure(id).edges}
    other = {edge.tensor for edge in figure(id, FigureConfig(options=options)).edges}
    assert gone in usual
    assert gone not in other


def test_deleting_a_node_from_the_graph_deletes_it_from_the_figure():
    graph = gi.models.transformer(layers=1)
    builder, copies = Builder(graph.name), {}
    copies.update(builder.copy_arguments(graph))
    for node in graph.nodes:
        if node.name == "layer0/mlp/H_inter":
            copies[node.outputs[0]] = copies[node.inputs[0]]
        else:
            builder.copy_node(node, copies)
    builder.copy_aliases(graph, copies)
    shorter = figure("mlp-forward", graph=builder.build(*(copies[value] for value in graph.outputs)))
    assert "DO -H_inter [B, S, D_ff]-> •" in flow(figure("mlp-forward"))
    assert "GL -A_up [B, S, D_ff]-> •" in flow(shorter)


# -- the dictionary ---------------------------------------------------------------------------------------


def test_the_dictionary_shows_every_operator_beside_its_d_operator():
    picture = figure("operator-dictionary")
    shown = {node.op for node in picture.nodes}
    for each in gi.operators():
        if not each.kernel.__module__.startswith("graphir.operators.") or each.trait(Hidden):
            continue
        if each.d_operator is not None and not each.kernel.__module__.endswith("split_vocabulary"):
            assert {each.key, each.d_operator.key} <= shown, each.key
    assert {"AR", "AG", "RS", "A2A", "SGD", "Adam", "AdamW"} <= shown


def test_the_dictionary_is_in_families_and_its_formulas_are_whole():
    picture = figure("operator-dictionary")
    titles = [plain(section.title) for section in picture.sections]
    assert titles[:3] == ["Embedding and positions", "Rotary positions", "Norms"]
    assert titles[-2:] == ["Collectives, over an axis of the mesh", "Optimizers"]
    lines = [line for section in picture.sections for cell in section.cells for line in cell.lines]
    assert not [line for line in lines if line.endswith("…")]
    assert any(line.startswith("dLN:  With") for line in lines)


# -- goldens ----------------------------------------------------------------------------------------------

GOLDEN = ["node-matmul", "chain", "mha-forward", "mlp-backward", "transformer-overall", "tp-mlp-forward", "dp-overall"]


@pytest.mark.parametrize("id", GOLDEN)
def test_dot_is_as_it_was(id, golden):
    # Lines of the model's source move with every edit there.
    golden(f"{id}.dot", re.sub(r"\.py:\d+", ".py", dot(figure(id))))


def test_dot_is_deterministic():
    config = FigureConfig(layers=3)
    assert dot(figure("mha-backward", config)) == dot(figure("mha-backward", replace(config)))
