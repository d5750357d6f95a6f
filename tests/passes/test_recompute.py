"""What the backward pass makes again: masks alone, then more from level to level; the numbers stay, memory falls."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.cost import count_flops, peak_memory
from graphir.errors import ConfigError
from graphir.ir.graph import BACKWARD, FORWARD
from graphir.passes import LEVELS, autodiff, dce, mixed_precision, recompute, simplify
from tests.support.sharding_cases import Case, sharded_step_of

B, D = gi.dims("B D")


def dropped() -> gi.Graph:
    """L = Σ DO(X ⊙ X) in the scope `block`, differentiated."""
    block = gi.Builder("dropped")
    X = block.input("X", (B, D))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    with block.scope("block"):
        H = block.alias("H", gi.multiply(X, X, name="square"))
        Y = gi.dropout(H, seed, step, p=0.5, key=3, name="Y")
    return autodiff(block.build(gi.reduce_sum(Y, name="L")), wrt=["X"])


def test_the_backward_pass_reads_a_mask_of_its_own() -> None:
    joint = dropped()
    again = gi.verify(recompute(joint))
    mask = again.producers[again["block/Y.m.again"]]
    (reader,) = (node for node in again.nodes if mask.outputs[0] in node.inputs)
    assert (mask.operator.key, reader.operator.key) == ("mask", "dDO")
    # Nothing holds the forward pass's own mask any more.
    assert not any(again["block/Y.m"] in node.inputs for node in again.nodes)
    assert (mask.meta.scope, mask.meta.phase, mask.meta.of) == ("block", BACKWARD, "block/Y")
    assert mask.meta.at == joint.producers[joint["block/Y"]].meta.at
    assert mask.meta.why == "recomputed, so that block/Y.m need not be stored"


def test_names_outputs_and_aliases_stay() -> None:
    joint = dropped()
    again = recompute(joint)
    assert [value.name for value in again.outputs] == [value.name for value in joint.outputs]
    aliases = {name: value.name for name, value in again.aliases.items()}
    assert aliases == {name: value.name for name, value in joint.aliases.items()}
    assert aliases["block/H"] == "block/square"


def test_two_readers_share_one_mask_and_the_forward_pass_keeps_its_own() -> None:
    block = gi.Builder("shared", mesh=gi.Mesh(dp=2))
    X = block.input("X", (B, D))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    Y, m = gi.dropout.all(X, seed, step, p=0.5, key=3, names=["Y", "m"])
    d_dropout = gi.find_operator("dDO")
    with block.context(phase=BACKWARD):
        first = d_dropout(m, Y, p=0.5, name="first")
        second = d_dropout(m, first, p=0.5, name="second")
    forward = d_dropout(m, Y, p=0.5, name="forward")
    again = gi.verify(recompute(block.build(second, forward)))
    assert again.mesh == gi.Mesh(dp=2)
    read = {name: again.producers[again[name]].inputs[0].name for name in ("first", "second", "forward")}
    assert read == {"first": "m.again", "second": "m.again", "forward": "m"}
    assert [node.operator.key for node in again.nodes].count("mask") == 1


def test_a_cast_of_what_is_made_again_is_made_again_too() -> None:
    joint = autodiff(mixed_precision(gi.models.transformer(1), "bfloat16"))
    again = {name for name in recompute(joint).values if name.endswith(".again")}
    assert {"layer0/mha/AS_drop.again", "layer0/mha/AS_drop.bfloat16.again"} <= again
    # Of what is read in bfloat16 alone that is what is held.
    assert not {"layer0/mha/X_norm.bfloat16.again", "layer0/mlp/H.bfloat16.again"} & again


def test_what_has_no_mask_stays_as_it_is() -> None:
    joint = autodiff(gi.models.mlp(2))
    assert recompute(joint) == joint


def test_a_mask_of_the_backward_pass_itself_is_near_enough() -> None:
    block = gi.Builder("late")
    X = block.input("X", (B, D))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    with block.context(phase=BACKWARD):
        Y, m = gi.dropout.all(X, seed, step, p=0.5, key=3, names=["Y", "m"])
        graph = block.build(gi.find_operator("dDO")(m, Y, p=0.5, name="dX"))
    assert recompute(graph) == graph


# -- levels -----------------------------------------------------------------------------------------------

SIZES = {"B": 4, "S": 32, "D": 16, "N_H": 2, "D_ff": 64, "V": 16}


def small_step(**options: object) -> gi.Graph:
    options = {"layers": 3, "dropout": 0.25, "dtype": "float64", **options}
    return simplify(autodiff(gi.models.transformer(**options)))


def again(graph: gi.Graph) -> list[gi.Node]:
    return [node for node in graph.nodes if ".again" in node.name]


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_every_level_computes_the_same_gradients(dropout: float) -> None:
    joint = small_step(dropout=dropout)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SIZES["V"], (2, SIZES["B"], SIZES["S"]))
    arguments = gi.initialize(joint, SIZES), {"T": ids[0], "Y": ids[1], "seed": 3, "step": 5}
    wanted = gi.compile(joint, SIZES, backend="reference", recompute="nothing")(*arguments)
    for level in LEVELS:
        graph = gi.verify(recompute(joint, level))
        found = gi.compile(graph, SIZES, backend="reference", recompute="nothing")(*arguments)
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            assert np.array_equal(found[name], array), (level, name)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_biases_are_added_again_to_what_is_held_in_their_place(level: str) -> None:
    joint = dce(small_step())
    plain, graph = recompute(joint, level), gi.verify(recompute(joint, level, biases=True))
    made = {node.name for node in graph.nodes} - {node.name for node in plain.nodes}
    # Z_up is GELU's operand, and the logits are CE's; the later levels make Z_up again anyway.
    of_layers = {f"layer{i}/mlp/Z_up" for i in range(3)} if level in ("masks", "attention") else set()
    wanted = {"output/Z_bias", *of_layers}
    assert {name.removesuffix(".again") for name in made} == wanted
    ids = np.arange(SIZES["B"] * SIZES["S"]).reshape(SIZES["B"], SIZES["S"]) % SIZES["V"]
    arguments = gi.initialize(joint, SIZES), {"T": ids, "Y": ids, "seed": 3, "step": 5}
    one, other = (
        gi.compile(each, SIZES, recompute="nothing", backend="reference")(*arguments) for each in (plain, graph)
    )
    assert all(np.array_equal(other[name], array) for name, array in one.items())
    # The product is held in place of its sum with the bias.
    products = {"output/Z_lin" if name == "output/Z_bias" else f"{name}_lin" for name in wanted}
    assert held(graph) - held(plain) == products
    assert held(plain) - held(graph) == wanted


def held(graph: gi.Graph) -> set[str]:
    """What the backward pass reads of the forward pass, or views of it; a bias on all rows is a view."""
    made = {value.name: node for node in graph.nodes for value in node.outputs if node.meta.phase == FORWARD}
    read = {value.name for node in graph.nodes if node.meta.phase == BACKWARD for value in node.inputs}
    return {name for name in read & made.keys() if not made[name].operator.view}


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_memory_falls_from_level_to_level(dropout: float) -> None:
    joint = small_step(dropout=dropout)
    peaks = [peak_memory(recompute(joint, level), SIZES).bytes for level in LEVELS]
    assert peaks == sorted(peaks, reverse=True)
    # Without dropout there are no masks to make again.
    assert len(set(peaks)) == len(LEVELS) - (dropout == 0.0)


def test_time_grows_from_level_to_level() -> None:
    joint = small_step()
    flops = [count_flops(recompute(joint, level)).number(SIZES | {"D_h": 8}) for level in LEVELS]
    assert flops == sorted(flops)


def test_what_is_made_again_belongs_to_the_backward_pass_and_says_why() -> None:
    joint = small_step()
    graph = recompute(joint, "full")
    made = again(graph)
    assert made
    for node in made:
        first = graph.producers[graph[node.outputs[0].name.partition(".again")[0].removesuffix(".m")]]
        assert (node.meta.phase, node.meta.scope, node.meta.at) == (BACKWARD, first.meta.scope, first.meta.at)
        assert node.meta.why is not None
        assert node.meta.why.startswith("recomputed, so that ")
    assert {node.meta.phase for node in graph.nodes} == {FORWARD, BACKWARD}


MASKS = {"layer0/mlp/Y.m", "layer0/mlp/H_inter.m", "layer0/mha/A_out.m"}
SCORES = {f"layer0/mha/{name}" for name in ("A", "Z", "AS", "AS_drop")}
RESIDUAL = {"embedding/X_tok", "embedding/X_emb", "embedding/X", "layer0/mha/X_norm", "layer0/mlp/H"}
INNER = {f"layer0/mlp/{name}" for name in ("Z_up", "A_up", "H_inter")}
PRODUCTS = {"layer0/mlp/Z_up_lin", *(f"layer0/mha/{name}" for name in ("Q_lin", "K_lin", "V_lin", "AO_heads"))}
AGAIN = {
    "nothing": set[str](),
    "masks": {*MASKS, "layer0/mha/AS_drop", "embedding/X.m"},
    "attention": {*MASKS, *SCORES, "embedding/X.m"},
    # What the mask of H_inter hides is made again with it.
    "selective": {*MASKS, *SCORES, *RESIDUAL, *INNER} - {"layer0/mlp/H_inter.m"},
    "full": {*MASKS, *SCORES, *RESIDUAL, *INNER, *PRODUCTS} - {"layer0/mlp/H_inter.m"},
}


@pytest.mark.parametrize("level", LEVELS)
def test_levels_hold_what_they_say(level: str) -> None:
    """Which values of one layer are made a second time; views cost nothing."""
    made = [node.name for node in again(recompute(small_step(layers=1), level)) if not node.operator.view]
    assert set(made) == {f"{name}.again" for name in AGAIN[level]}
    assert len(made) == len(AGAIN[level])


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_made_again_for_nothing(level: str) -> None:
    graph = recompute(small_step(), level)
    assert [node.name for node in again(dce(graph))] == [node.name for node in again(graph)]


def test_collectives_are_not_repeated() -> None:
    for case in (Case("megatron+sequence", (("tp", 2),)), Case("zero3", (("dp", 2),)), Case("context", (("cp", 2),))):
        sharded = sharded_step_of(case)
        exchanges = [node.operator.key for node in sharded.nodes if node.operator.relayout is not None]
        for level in LEVELS:
            graph = gi.verify(recompute(sharded, level))
            assert [node.operator.key for node in graph.nodes if node.operator.relayout is not None] == exchanges


def test_a_chain_of_any_length_is_made_again() -> None:
    """Further back than Python's own calls may go."""
    block = gi.Builder("deep")
    X = block.input("X", (B, D))
    Y = X
    for _ in range(1500):
        Y = gi.activation(Y, kind="relu")
    joint = autodiff(block.build(gi.reduce_sum(gi.add(X, Y), name="L")), wrt=["X"])
    assert len(again(recompute(joint, "full"))) == 1499


def test_without_a_residual_stream_the_last_levels_make_nothing_again() -> None:
    block = gi.Builder("straight")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, D))
    Z = gi.matmul(gi.activation(gi.matmul(X, W), kind="gelu"), W)
    joint = autodiff(block.build(gi.reduce_sum(Z, name="L")))
    assert recompute(joint, "selective") == recompute(joint, "full") == joint


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="recompute='some' is no level; choose from nothing, masks, attention"):
        recompute(small_step(layers=1), "some")
