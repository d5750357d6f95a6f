"""How many collectives a plan needs, of what size, over which axes: predictions written by hand.

Notation: `AR tp [B, S, D]` is an all-reduce over tp of a block of that shape; `AR max tp` of maxima. A block's dims
are one rank's: `[B/N_DP, S, D]`. Local slices send nothing and are not counted.

Sources: Shoeybi et al., 2019 (megatron); Korthikanti et al., 2022 (sequence); Rajbhandari et al., 2020 (ZeRO); the
documents' A 2 (column), A 3 (data), A 3.5 (bytes). `two` counts something twice, and so on.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest

import graphir as gi
from benchmarks.plans_table import PATH, spelled, table
from graphir.backends import plan as plan_run
from graphir.backends.executable import Executable
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, autodiff, optimize, shard
from tests.support.sharding_cases import batch, start

MESH = Mesh(dp=2, tp=2, cp=2)


@lru_cache
def joint(layers: int = 1, tied: bool = True, clip: bool = False, update: bool = False, **options: object) -> Graph:
    graph = autodiff(gi.models.transformer(layers, tied=tied, decode=None, **options))
    return optimize(graph, Optimizer("adamw", clip=1.0 if clip else None)) if update or clip else graph


def counted(graph: Graph, phase: str, scope: str = "") -> Counter[str]:
    """The collectives of one phase in `scope` and below."""
    return Counter(
        spelled(node)
        for node in graph.nodes
        if node.operator.relayout is not None
        and node.operator.key != "SLICE"
        and node.meta.phase == phase
        and f"{node.meta.scope}/".startswith(f"{scope}/" if scope else "")
    )


def sharded(plan: str, mesh: Mesh = MESH, **options: object) -> Graph:
    return gi.verify(shard(joint(**options), mesh, plan))  # type: ignore[arg-type]


def times(count: int, collectives: Counter[str]) -> Counter[str]:
    return Counter({each: count * number for each, number in collectives.items()})


# -- megatron ----------------------------------------------------------------------------------------------

#: After each row-parallel map, and before each pair or triple of column-parallel ones in the backward pass.
MEGATRON_LAYER = Counter({"AR tp [B, S, D]": 2})


def test_megatron_is_two_forward_and_two_backward() -> None:
    graph = sharded("megatron")
    assert counted(graph, FORWARD, "layer0") == MEGATRON_LAYER
    assert counted(graph, BACKWARD, "layer0") == MEGATRON_LAYER
    # … and nothing else, in the whole model.
    assert counted(graph, FORWARD) + counted(graph, BACKWARD) == Counter({"AR tp [B, S, D]": 4})


def test_megatron_stands_where_the_papers_have_it() -> None:
    graph = sharded("megatron")
    found = [node.inputs[0].name for node in graph.nodes if node.operator.key == "AR"]
    assert found == ["layer0/mha/AO_lin", "layer0/mlp/Z_down", "layer0/mlp/dH", "layer0/mha/dX_norm"]


@pytest.mark.parametrize("layers", [2, 3])
def test_every_layer_has_the_same(layers: int) -> None:
    for plan in ("megatron", "sequence", "column", "context"):
        one, more = sharded(plan), sharded(plan, layers=layers)
        for phase in (FORWARD, BACKWARD):
            for layer in range(layers):
                assert counted(more, phase, f"layer{layer}") == counted(one, phase, "layer0"), (plan, phase, layer)
            beside = counted(one, phase) - counted(one, phase, "layer0")
            assert counted(more, phase) == beside + times(layers, counted(one, phase, "layer0")), (plan, phase)


def test_options_change_no_counts() -> None:
    """Biases of Q, K and V are split as their weights are; dropout, positions and tying need nothing."""
    for options in ({"qkv_bias": True}, {"dropout": 0.0}, {"positions": "sinusoidal"}, {"tied": False}):
        graph = sharded("megatron", **options)
        assert counted(graph, FORWARD) + counted(graph, BACKWARD) == times(2, MEGATRON_LAYER), options


def test_clipping_adds_one_number() -> None:
    """The norm: squares of the split gradients, summed on each rank, then over ranks."""
    assert counted(sharded("megatron", clip=True), UPDATE) == Counter({"AR tp []": 1})
    assert counted(sharded("megatron", update=True), UPDATE) == Counter()


# -- data --------------------------------------------------------------------------------------------------

#: A layer's parameters, by shape: γ and β twice, b_O and b_down; W_Q, W_K, W_V, W_O; W_up, b_up, W_down.
LAYER = {"[D]": 6, "[D, D]": 4, "[D, D_ff]": 1, "[D_ff]": 1, "[D_ff, D]": 1}
#: E (tied, so once), P_theta, γ and β of the last LN, b_lm.
BESIDE = {"[V, D]": 1, "[S, D]": 1, "[D]": 2, "[V]": 1}


def each(collective: str, shapes: dict[str, int]) -> Counter[str]:
    return Counter({f"{collective} {shape}": count for shape, count in shapes.items()})


def test_data_is_one_for_each_parameter_and_two_scalars() -> None:
    graph = sharded("data", update=True)
    assert counted(graph, FORWARD) == Counter({"AR dp []": 2})  # the sum of losses, the number of tokens
    assert counted(graph, BACKWARD, "layer0") == each("AR dp", LAYER)
    assert counted(graph, BACKWARD) == each("AR dp", LAYER) + each("AR dp", BESIDE)
    assert counted(graph, UPDATE) == Counter()
    assert sum(counted(graph, BACKWARD).values()) == len(graph.parameters) == 18


def test_an_untied_projection_is_one_more() -> None:
    graph = sharded("data", tied=False, update=True)
    assert counted(graph, BACKWARD) - counted(sharded("data", update=True), BACKWARD) == Counter({"AR dp [D, V]": 1})


def test_the_mean_of_means_reduces_one_loss() -> None:
    """Each replica divides by its own count: the loss is a mean over dp, and no count is sent."""
    graph = sharded("data", mean="replicas")
    assert counted(graph, FORWARD) == Counter({"AR mean dp []": 1})
    assert counted(graph, BACKWARD) == each("AR dp", LAYER) + each("AR dp", BESIDE)


def test_data_times_tensor_is_the_sum_over_the_right_groups() -> None:
    """Activations over tp, of a part of the batch; gradients over dp, of a part of the weights."""
    graph = sharded("data+megatron")
    activations = Counter({"AR tp [B/N_DP, S, D]": 2})
    weights = Counter(
        {
            "AR dp [D]": 6,
            "AR dp [D, D/N_T]": 3,  # W_Q, W_K, W_V
            "AR dp [D/N_T, D]": 1,  # W_O
            "AR dp [D, D_ff/N_T]": 1,
            "AR dp [D_ff/N_T]": 1,
            "AR dp [D_ff/N_T, D]": 1,
        }
    )
    assert counted(graph, FORWARD, "layer0") == activations
    assert counted(graph, BACKWARD, "layer0") == activations + weights
    assert counted(graph, FORWARD) == activations + Counter({"AR dp []": 2})


# -- column (A 2.2) ----------------------------------------------------------------------------------------


def test_column_gathers_what_it_splits() -> None:
    graph = sharded("column")
    assert counted(graph, FORWARD, "layer0/mha") == Counter({"AG tp [B, S, D/N_T]": 2})  # W_O's operand and result
    assert counted(graph, FORWARD, "layer0/mlp") == Counter({"AR tp [B, S, D]": 1})
    # The operand again, for dW_O; its gradient, of which each rank has a term, to the heads; and dX_norm.
    assert counted(graph, BACKWARD, "layer0/mha") == Counter(
        {"AG tp [B, S, D/N_T]": 1, "RS tp [B, S, D]": 1, "AR tp [B, S, D]": 1}
    )
    assert counted(graph, BACKWARD, "layer0/mlp") == Counter({"AR tp [B, S, D]": 1})


# -- sequence ----------------------------------------------------------------------------------------------


def test_sequence_has_two_gathers_and_two_scatters_forward() -> None:
    graph = sharded("sequence")
    for block in ("layer0/mha", "layer0/mlp"):
        assert counted(graph, FORWARD, block) == Counter({"AG tp [B, S/N_T, D]": 1, "RS tp [B, S, D]": 1})


def test_sequence_backward() -> None:
    """The partners (AG of the scatter, RS of the gather), the gather again for dW, and what S splits: γ, β, b."""
    graph = sharded("sequence")
    for block, split_bias in (("layer0/mha", "b_O"), ("layer0/mlp", "b_down")):
        found = counted(graph, BACKWARD, block)
        assert found == Counter({"AG tp [B, S/N_T, D]": 2, "RS tp [B, S, D]": 1, "AR tp [D]": 3}), block
        reduced = {
            node.inputs[0].local_name
            for node in graph.nodes
            if node.operator.key == "AR" and node.meta.scope == block and node.meta.phase == BACKWARD
        }
        assert reduced == {"dgamma", "dbeta", f"d{split_bias}"}


def test_every_backward_collective_is_explained() -> None:
    """A reason in words, and the forward node whose gradient it serves."""
    for plan in ("sequence", "data+megatron+vocabulary", "context", "zero3"):
        graph = sharded(plan, clip=True)
        for node in graph.nodes:
            if node.operator.relayout is None:
                continue
            assert node.meta.why, node.name
            if node.meta.phase == BACKWARD:
                assert node.meta.of in graph, node.name
            if node.operator.key in ("AR", "RS"):
                kind = node.attributes["reduce"]
                axes = " and ".join(node.attributes.get("axes") or [node.attributes["axis"]])
                expected = f"{node.inputs[0].name} is a pending {kind} over {axes}; "
                assert node.meta.why.startswith(expected), node.meta.why


# -- vocabulary --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_cross_entropy_over_a_split_vocabulary(tied: bool) -> None:
    """The maximum, the sum of exponentials and the label's logit: three numbers a token, none of them backward."""
    graph = sharded("vocabulary", tied=tied)
    assert counted(graph, FORWARD, "output") == Counter({"AR max tp [B, S]": 1, "AR tp [B, S]": 2})
    assert counted(graph, FORWARD, "embedding") == Counter({"AR tp [B, S, D]": 1})
    # dA_out = dZ W_lmᵀ runs over the vocabulary. Of dZ itself nothing is missing.
    assert counted(graph, BACKWARD) == Counter({"AR tp [B, S, D]": 1})
    (node,) = [node for node in graph.nodes if node.operator.key == "AR" and node.meta.phase == BACKWARD]
    assert node.inputs[0].name == "output/dA_out"


def test_no_logits_are_gathered() -> None:
    for plan in ("vocabulary", "megatron+vocabulary", "sequence+vocabulary", "data+megatron+vocabulary+zero1"):
        graph = sharded(plan, update=True)
        for node in graph.nodes:
            if node.operator.relayout is not None:
                assert "V" not in [str(dim) for dim in node.outputs[0].shape[2:]], node


# -- ZeRO --------------------------------------------------------------------------------------------------


def test_zero1_splits_state_and_gathers_new_parameters() -> None:
    graph = sharded("zero1", update=True)
    assert counted(graph, BACKWARD, "layer0") == each("AR dp", LAYER)
    blocks = {"[D/N_DP]": 6, "[D/N_DP, D]": 4, "[D/N_DP, D_ff]": 1, "[D_ff/N_DP]": 1, "[D_ff/N_DP, D]": 1}
    assert counted(graph, UPDATE, "layer0") == each("AG dp", blocks)
    assert counted(graph, FORWARD) == Counter({"AR dp []": 2})


def test_zero2_scatters_gradients() -> None:
    graph = sharded("zero2", clip=True)
    assert counted(graph, BACKWARD, "layer0") == each("RS dp", LAYER)
    blocks = {"[D/N_DP]": 6, "[D/N_DP, D]": 4, "[D/N_DP, D_ff]": 1, "[D_ff/N_DP]": 1, "[D_ff/N_DP, D]": 1}
    assert counted(graph, UPDATE, "layer0") == each("AG dp", blocks)
    assert counted(graph, UPDATE, "optimizer") == Counter({"AR dp []": 1})  # the norm


def test_zero3_gathers_parameters_where_they_are_read() -> None:
    graph = sharded("zero3", clip=True)
    blocks = {"[D/N_DP]": 6, "[D/N_DP, D]": 4, "[D/N_DP, D_ff]": 1, "[D_ff/N_DP]": 1, "[D_ff/N_DP, D]": 1}
    assert counted(graph, FORWARD, "layer0") == each("AG dp", blocks)
    # The backward pass reads weights and γ, no β and no bias; and every gradient goes to its owner.
    again = {"[D/N_DP]": 2, "[D/N_DP, D]": 4, "[D/N_DP, D_ff]": 1, "[D_ff/N_DP, D]": 1}
    assert counted(graph, BACKWARD, "layer0") == each("AG dp", again) + each("RS dp", LAYER)
    assert counted(graph, UPDATE) == Counter({"AR dp []": 1})


@pytest.mark.parametrize("plan", ["megatron+zero2", "data+sequence+zero3", "context+megatron+zero3"])
def test_zero_on_top_of_tensor_gathers_no_gradient(plan: str) -> None:
    """W_O is split over tp and then dp; its gradient, split over tp, is scattered over dp as it lies, even clipped."""
    for clip in (True, False):
        graph = sharded(plan, clip=clip, update=True)
        gathered = [node.inputs[0] for node in graph.nodes if node.operator.key in ("AG", "A2A")]
        names = {value.local_name for value in gathered if value.scope.startswith("layer0")}
        assert not {name for name in names if name.startswith(("dW", "db", "dgamma", "dbeta"))}, names
        scattered = {graph.origin(node.inputs[0]).name for node in graph.nodes if node.operator.key == "RS"}
        assert {"layer0/mha/dW_O", "layer0/mlp/dW_down", "layer0/mlp/db_up"} <= scattered


# -- context -----------------------------------------------------------------------------------------------


def test_context_gathers_keys_and_values() -> None:
    graph = sharded("context", update=True)
    gathered = Counter({"AG cp [B, N_H, D_h, S/N_CP]": 1, "AG cp [B, N_H, S/N_CP, D_h]": 1})
    assert counted(graph, FORWARD, "layer0") == gathered
    # Gathered again; dK and dV, of which each rank has a term for every place, scattered; the weights' gradients.
    scattered = Counter({"RS cp [B, S, D]": 2})
    assert counted(graph, BACKWARD, "layer0") == gathered + scattered + each("AR cp", LAYER)
    assert counted(graph, FORWARD) == gathered + Counter({"AR cp []": 2})


def test_context_times_tensor_gathers_a_part_of_the_heads() -> None:
    graph = sharded("context+megatron")
    assert counted(graph, FORWARD, "layer0") == Counter(
        {
            "AG cp [B, N_H/N_T, D_h, S/N_CP]": 1,
            "AG cp [B, N_H/N_T, S/N_CP, D_h]": 1,
            "AR tp [B, S/N_CP, D]": 2,
        }
    )


# -- the documentation -------------------------------------------------------------------------------------


def test_the_table_of_plans_is_current() -> None:
    """passes/sharding/PLANS.md is what the graphs say; write it anew with python -m benchmarks.plans_table."""
    assert PATH.read_text(encoding="utf-8") == table()


# -- bytes -------------------------------------------------------------------------------------------------

SIZES = {"B": 2, "S": 4, "D": 24, "N_H": 12, "D_ff": 24, "V": 12}


def traffic(plan: str, mesh: Mesh, algorithm: str, key: str = "AR") -> list[list[int]]:
    """Bytes by rank of each collective of that kind, in float64."""
    alone = joint(dtype="float64", dropout=0.0)
    local = gi.verify(shard(alone, mesh, plan, SIZES))
    held = start(alone, tuple(SIZES.items()))
    run = Executable(plan_run(local, SIZES), algorithm)(held, batch(SIZES, 0))
    return [run.traffic[node.name].bytes for node in local.nodes if node.operator.key == key]


@pytest.mark.parametrize("N", [2, 3, 4])
def test_bytes_are_those_of_the_formulas(N: int) -> None:
    """Four all-reduces of P = B·S·D·8 bytes (A 3.5)."""
    P = 2 * 4 * 24 * 8
    mesh = Mesh(tp=N)
    # naive: 2 (N − 1) P in total, through the root
    assert traffic("megatron", mesh, "naive") == [[(N - 1) * P] + [P] * (N - 1)] * 4
    # direct: (N − 1) P by each
    assert traffic("megatron", mesh, "direct") == [[(N - 1) * P] * N] * 4
    # ring: 2 (N − 1)/N P by each
    assert traffic("megatron", mesh, "ring") == [[2 * (N - 1) * P // N] * N] * 4


@pytest.mark.parametrize("N", [2, 3, 4])
def test_sequence_sends_as_much_as_megatron_forward(N: int) -> None:
    """RS and AG are the halves of a ring's AR: (N − 1)/N P each."""
    B, S, D = 2, 12, 24
    P = B * S * D * 8
    alone = joint(dtype="float64", dropout=0.0)
    sizes = {**SIZES, "S": S}
    local = shard(alone, Mesh(tp=N), "sequence", sizes)
    run = gi.compile(local, sizes)(start(alone, tuple(sizes.items())), batch(sizes, 0))
    forward = [node for node in local.nodes if node.operator.key in ("AG", "RS") and node.meta.phase == FORWARD]
    assert [run.traffic[node.name].bytes for node in forward] == [[(N - 1) * P // N] * N] * 4


def test_data_sends_each_parameter_once() -> None:
    """A ring of two: 2 (N − 1)/N = 1 time the bytes of every parameter, and of L and n, by each rank on average."""
    S, D, F, V = (SIZES[name] for name in ("S", "D", "D_ff", "V"))
    layer = 4 * D * D + 2 * D * F + F + 6 * D
    total = 8 * (layer + V * D + S * D + 2 * D + V + 2)
    assert sum(map(sum, traffic("data", Mesh(dp=2), "ring"))) == 2 * total
