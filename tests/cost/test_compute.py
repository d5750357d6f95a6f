"""Parameters, FLOPs and memory against published numbers and hand counts."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from click.testing import CliRunner

import graphir as gi
from graphir.cli.cost import cost
from graphir.cost import Polynomial, count_elements, count_flops, mesh_sizes, node_flops, peak_memory
from graphir.passes import autodiff, dce, shard

B, S, D = gi.dims("B S D")
GPT2 = {"B": 1, "S": 1024, "D": 768, "N_H": 12, "D_ff": 3072, "V": 50257}


def trained(**options: object) -> gi.Graph:
    return dce(autodiff(gi.models.transformer(**options)))


def matmul_flops(graph: gi.Graph, sizes: dict[str, int]) -> Fraction:
    complete = mesh_sizes(graph, sizes)
    return sum(
        (node_flops(n).number(complete) for n in graph.nodes if n.operator.key in ("matmul", "dMatmul")), Fraction(0)
    )


def test_gpt2_has_its_published_number_of_parameters():
    """124,439,808 (Radford et al., 2019, as released), and the documents' output bias b_lm beside them."""
    graph = gi.models.transformer(layers=12, qkv_bias=True)
    assert count_elements(graph.parameters).number(GPT2) == 124_439_808 + GPT2["V"]


@pytest.mark.parametrize("layers", [1, 3])
def test_parameters_as_a_formula(layers):
    """12 D² + 13 D a layer with D_ff = 4 D, embeddings, final LN and output bias."""
    graph = gi.models.transformer(layers=layers, qkv_bias=True)
    found = count_elements(graph.parameters)
    for D in (8, 24):
        sizes = {"B": 1, "S": 5, "D": D, "N_H": 2, "D_ff": 4 * D, "V": 11}
        assert found.number(sizes) == layers * (12 * D * D + 13 * D) + 11 * D + 5 * D + 2 * D + 11


@pytest.mark.parametrize("layers", [1, 4])
def test_matmuls_count_as_the_megatron_formula_does(layers):
    """72 B S L D² (1 + S/(6 D) + V/(12 L D)), without recomputation (Narayanan et al., 2021, appendix; 3/4 of theirs).

    The first layer's dX_norm counts like all others: the embedding is trained, too.
    """
    sizes = {"B": 2, "S": 16, "D": 24, "N_H": 3, "D_ff": 96, "V": 40}
    B, S, D, V = (Fraction(sizes[name]) for name in ("B", "S", "D", "V"))
    expected = 72 * B * S * layers * D**2 * (1 + S / (6 * D) + V / (12 * layers * D))
    assert matmul_flops(trained(layers=layers), sizes) == expected


def test_ranks_share_the_matmuls_evenly():
    sizes = {"B": 4, "S": 16, "D": 24, "N_H": 6, "D_ff": 96, "V": 40}
    graph = trained(layers=1)
    whole = matmul_flops(graph, sizes)
    assert matmul_flops(shard(graph, gi.Mesh(dp=2), "data", sizes), sizes) == whole / 2
    plan = "data+megatron+vocabulary"
    assert matmul_flops(shard(graph, gi.Mesh(dp=2, tp=2), plan, sizes), sizes) == whole / 4


def test_one_gradient_of_a_matmul_is_half_of_both():
    block = gi.Builder("half")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, S))
    graph = block.build(gi.reduce_sum(gi.matmul(X, W), name="L"))

    def backward(wrt: list[str]) -> Polynomial:
        (node,) = [n for n in autodiff(graph, wrt=wrt).nodes if n.operator.key == "dMatmul"]
        return node_flops(node)

    assert str(backward(["W"])) == "2*B*D*S"
    assert str(backward(["X", "W"])) == "4*B*D*S"


def test_phases_add_up():
    graph = trained(layers=1)
    assert count_flops(graph) == count_flops(graph, "forward") + count_flops(graph, "backward")


def test_polynomials_put_equal_terms_together():
    D_h = gi.dim("D_h", D / S)
    found = Polynomial([(S * D_h, 2), (D, 1), (4 * B, 1), (gi.dims("B")[0], -4)])
    assert str(found) == "3*D"
    assert found == Polynomial([(D, 3)])
    assert found.number({"D": 5}) == 15
    assert str(Polynomial()) == "0"


def test_the_peak_of_a_chain_is_two_links_and_the_argument():
    block = gi.Builder("chain")
    X = block.input("X", (B, D))
    values = [X]
    for i in range(5):
        values.append(gi.scale(values[-1], by=2.0, name=f"Y{i}"))
    peak = peak_memory(block.build(values[-1]), {"B": 2, "D": 3})
    assert peak.bytes == 3 * 24
    assert peak.node is not None
    assert {value.name for value, _ in peak.values} == {"X", "Y0", "Y1"}


def test_ranks_hold_their_blocks_only():
    sizes = {"B": 4, "S": 8, "D": 24, "N_H": 6, "D_ff": 96, "V": 40}
    graph = trained(layers=1)
    parts = shard(graph, gi.Mesh(dp=2), "zero3", sizes)
    assert count_elements(parts.parameters).number(mesh_sizes(parts, sizes)) * 2 == count_elements(
        graph.parameters
    ).number(sizes)
    assert peak_memory(parts, sizes).bytes < peak_memory(graph, sizes).bytes


def test_an_embeddings_gradient_adds_a_row_for_each_token():
    graph = trained(layers=1)
    (node,) = [n for n in graph.nodes if n.operator.key == "dLookup"]
    assert str(node_flops(node)) == "B*D*S"


def test_the_command_prints_formulas_and_numbers():
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cost, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    found = json.loads(run("--layers", "1", "--tp", "2", "--json"))
    assert found["mesh"] == "tp=2"
    assert "4*D*D/N_T" in found["parameters"]["formula"]
    assert found["bytes sent"]["AR over tp, forward"] > 0
    table = run("--layers", "1")
    assert "a training step on one rank" in table
    assert "memory at its fullest" in table
