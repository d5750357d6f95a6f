"""All that a step costs: with what is computed again, without the half that a mask hides, of many layers by two."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import graphir as gi
from graphir.cost import StepCost, count_flops, extrapolate, mesh_sizes, peak_memory, step_cost
from graphir.cost.lifetimes import CATEGORIES, KEPT
from graphir.passes import LEVELS, recompute
from graphir.training.config import TrainConfig
from graphir.training.parallel import Parallel
from graphir.training.programs import training_graph

CONFIG = TrainConfig(layers=2, width=128, heads=4, batch=4, sequence=256, dropout=0.1).check()
SIZES = CONFIG.sizes(256)


def cost_of(config: TrainConfig, level: str) -> StepCost:
    parallel = Parallel.of(config, 256)
    graph = recompute(parallel.shard(training_graph(config), SIZES), level)
    return step_cost(graph, SIZES)


@pytest.fixture(scope="module")
def by_level() -> dict[str, StepCost]:
    return {level: cost_of(CONFIG, level) for level in LEVELS}


def test_flops_are_those_of_the_graph_that_computes_again(by_level):
    sizes = mesh_sizes(training_graph(CONFIG), SIZES)
    both = {
        level: sum(int(each.flops[phase].number(sizes)) for phase in ("forward", "backward"))
        for level, each in by_level.items()
    }
    # Worked out from outside for these sizes, with nothing computed again.
    assert both["nothing"] == 3_514_467_330
    assert [*both.values()] == sorted(both.values())
    again = recompute(training_graph(CONFIG), "full")
    assert by_level["full"].flops["backward"] == count_flops(again, "backward")
    assert sum(by_level["full"].operators.values()) == int(count_flops(again).number(sizes))


def test_a_step_costs_what_a_model_does_without_the_softmax_that_chooses_the_next_token(by_level):
    """Counted from outside: 4,291,593,218 and 3,687,613,442, of a model that decodes, too; no step of training does.

    The difference is that one S over B·S rows of V, at five a number, at every level.
    """
    chooses = gi.passes.autodiff(gi.models.transformer(2, dropout=0.1, activation="relu"))
    counted = {"nothing": 3_515_778_050, "selective": 3_687_613_442, "full": 4_291_593_218}
    for level, number in counted.items():
        step = sum(int(by_level[level].flops[phase].number(SIZES)) for phase in ("forward", "backward"))
        assert int(count_flops(recompute(chooses, level)).number(SIZES)) == number
        assert step == number - 5 * SIZES["B"] * SIZES["S"] * SIZES["V"]
    trained = {node.name for node in training_graph(CONFIG).nodes}
    assert {node.name for node in chooses.nodes} - trained == {"output/P", "output/ids"}


def test_what_is_computed_again_by_hand(by_level):
    """Of a layer both LN, Q, K, V, both products of attention and what lies between them, and the MLP up to W_down."""
    B, S, D, H, F = (SIZES[name] for name in ("B", "S", "D", "N_H", "D_ff"))
    products = 2 * B * S * D * (3 * D + 2 * S + F)
    masks, norms = 2 * B * S * D, 2 * 8 * B * S * D
    between, inside = (2 + 5 + 2) * B * H * S * S, (1 + 10 + 2) * B * S * F
    embedding = (1 + 2) * B * S * D
    again = CONFIG.layers * (products + masks + norms + between + inside) + embedding
    found = {level: int(each.flops["backward"].number(SIZES)) for level, each in by_level.items()}
    assert found["full"] - found["nothing"] == again


def test_memory_falls_where_less_is_kept_and_says_what_it_is_for(by_level):
    moments = [each.memory for each in by_level.values()]
    assert [each.bytes for each in moments] == sorted((each.bytes for each in moments), reverse=True)
    assert [each.categories[KEPT] for each in moments] == sorted(
        (each.categories[KEPT] for each in moments), reverse=True
    )
    parameters = 4 * sum(each.number(SIZES) for each in [by_level["full"].elements["parameters"]])
    for moment in moments:
        assert {*moment.categories} <= {*CATEGORIES}
        assert moment.categories["parameters"] == parameters
        assert moment.categories["optimizer state"] == 2 * parameters
        assert sum(moment.values.values()) == moment.bytes
    # What views and updates share is counted once.
    assert moments[0].bytes < peak_memory(training_graph(CONFIG), SIZES).bytes


def test_memory_of_a_chain_by_hand():
    """X → exp → exp → L: X, A, B, dB, dA of 24 bytes each, and what is small."""
    block = gi.Builder("chain")
    X = block.input("X", (gi.dim("B"), 3))
    W = block.parameter("W", (gi.dim("B"), 3))
    A = gi.multiply(X, W, name="A")
    L = gi.reduce_sum(gi.exponential(A, name="E"), name="L")
    found = step_cost(gi.passes.autodiff(block.build(L)), {"B": 2})
    # dE is dL, spread: a view, which takes no memory. At dA there are X, W, E for dExp, L, dL and dA.
    assert found.moments["dA"].values == {"X": 24, "W": 24, "E": 24, "L": 4, "dL": 4, "dA": 24}
    assert found.moments["dA"].categories[KEPT] == 24
    assert found.moments["dW"].categories["gradients"] == 24
    assert (found.fullest, found.memory.bytes) == ("dA", 104)


@pytest.mark.parametrize(("name", "parameters"), [("llama3-405b", 405_853_388_800), ("gemma2-2b", 2_614_341_888)])
def test_models_by_name_have_their_parameters_in_a_second(call, name, parameters):
    found = json.loads(call("cost", "--model", name, "--json")[1])
    assert found["parameters"]["number"] == parameters
    assert found["memory"]["by category"]["parameters"] == 4 * parameters


@pytest.mark.slow
def test_layers_of_several_kinds_repeat_by_their_period(call):
    """Gemma 2 sees a window in every other layer: 6 layers follow from 3 and 5, or are counted whole."""
    sizes = ("--sequence", 16, "--batch", 2)
    found, more = (json.loads(call("cost", "--model", "gemma2-2b", "--layers", n, *sizes, "--json")[1]) for n in (6, 8))
    whole = json.loads(call("cost", "--model", "gemma2-2b", "--layers", 4, *sizes, "--json")[1])
    for name in ("parameters", "FLOPs, forward", "FLOPs, backward"):
        assert more[name]["number"] - found[name]["number"] == found[name]["number"] - whole[name]["number"]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{}, {"dp": 2, "tp": 2}], ids=str)
def test_many_layers_follow_from_two_and_three(axes):
    def of_layers(layers: int) -> StepCost:
        return cost_of(replace(CONFIG, layers=layers, **axes), "selective")

    assert extrapolate(of_layers, 6) == of_layers(6)
    assert extrapolate(of_layers, 3) == of_layers(3)


def test_the_half_beyond_the_diagonal(by_level):
    """Of both products and of what lies between them, forward; twice of it backward, for nothing is computed again."""
    heads, width, length = 4, 32, 256
    products = 2 * 4 * heads * 2 * width * length * length * 3 * CONFIG.layers
    assert by_level["nothing"].spared > products * (length - 1) / (2 * length)
    assert by_level["nothing"].spared < 1.6 * products * (length - 1) / (2 * length)
    plain = gi.passes.autodiff(gi.models.transformer(2, decode=None, causal=False))
    assert step_cost(plain, SIZES).spared == 0


def test_a_model_of_175_billion_parameters(call):
    model = ("--layers", 96, "--width", 12288, "--heads", 96, "--sequence", 2048, "--batch", 32)
    code, out, _ = call("cost", *model, "--vocabulary", 50257, "--tp", 8, "--recompute", "selective", "--json")
    assert code == 0
    found = json.loads(out)
    matrices, whole = 96 * 12 * 12288**2 // 8, (50257 + 2048) * 12288
    assert found["parameters"]["number"] == pytest.approx(matrices + whole, rel=1e-3)
    assert found["memory"]["by category"]["parameters"] == 4 * found["parameters"]["number"]
    assert "planned" not in found


def test_the_table_fits_80_columns_and_tells_sizes_and_units(call):
    code, out, _ = call("cost", "--layers", 12, "--width", 768, "--heads", 12, "--dp", 2, "--tp", 2)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    out = " ".join(out.split())
    assert "with B=16, S=64, D=768, N_H=12" in out
    assert " GFLOP " in out
    assert "the half beyond the diagonal" in out
    assert "optimizer state" in out.partition("memory at its fullest")[2]
