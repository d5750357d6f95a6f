"""How many collectives a layer of each family needs, by each ready-made plan: what the papers say of a layer, no more.

Sources as in `test_counts`, which has the documents' model and the sizes of blocks. Here are counted, by kind and axes,
what two layers send, over 2: of P parameters, N of them norms and biases [D] of what the layer adds to its stream, H
norms within heads, which all ranks of tp share.
"""

from __future__ import annotations

from collections import Counter

import pytest

import graphir as gi
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph
from graphir.ir.layout import Mesh
from graphir.models import FAMILIES, blueprint
from graphir.passes import Optimizer, autodiff, optimize, shard
from tests.passes.sharding.test_families import BATCH, NUMBERS

#: Forward, backward, update.
Counts = tuple[dict[str, int], dict[str, int], dict[str, int]]

#: The families with P, N, H, and how many of P the backward pass reads: all but biases and β.
LAYERS = {
    "gpt2": (16, 6, 0, 8),
    "llama": (9, 2, 0, 9),
    "mistral": (9, 2, 0, 9),
    "smollm": (9, 2, 0, 9),
    "qwen2": (12, 2, 0, 9),
    "qwen3": (11, 2, 2, 11),
    "phi3": (9, 2, 0, 9),
    "gemma2": (11, 4, 0, 11),
    "gemma3": (13, 4, 2, 13),
    "bert": (16, 6, 0, 8),
}


def expected(P: int, N: int, H: int, read: int) -> dict[str, Counts]:
    """Of each plan, on two ranks of each of its axes; two heads of keys."""
    return {
        # Gradients of all parameters, one each.
        "data": ({}, {"AR dp": P}, {}),
        # Shoeybi et al., 2019: after each of two pairs of maps, and before them going back.
        "megatron": ({"AR tp": 2}, {"AR tp": 2 + H}, {}),
        # W_O's operand and its result are gathered in place of the first; its operand again, for its gradient.
        "column": ({"AG tp": 2, "AR tp": 1}, {"AR tp": 2 + H, "AG tp": 1, "RS tp": 1}, {}),
        # Korthikanti et al., 2022: an AR is an RS and an AG; what blocks read is gathered again for their gradients.
        "sequence": ({"AG tp": 2, "RS tp": 2}, {"AG tp": 4, "RS tp": 2, "AR tp": N + H}, {}),
        "vocabulary": ({}, {}, {}),
        # Rajbhandari et al., 2020.
        "zero1": ({}, {"AR dp": P}, {"AG dp": P}),
        "zero2": ({}, {"RS dp": P}, {"AG dp": P}),
        "zero3": ({"AG dp": P}, {"AG dp": read, "RS dp": P}, {}),
        # Keys and values, again going back, and the sums of their gradients.
        "context": ({"AG cp": 2}, {"AG cp": 2, "RS cp": 2, "AR cp": P}, {}),
        "data+megatron": ({"AR tp": 2}, {"AR tp": 2, "AR dp": P - H, **({"AR dp,tp": H} if H else {})}, {}),
        "data+sequence+zero3": (
            {"AG dp": P, "AG tp": 2, "RS tp": 2},
            {"AG dp": read, "RS dp": P, "AG tp": 4, "RS tp": 2, "AR tp": N + H},
            {},
        ),
    }


def counted(graph: Graph, phase: str) -> dict[str, int]:
    """The collectives of one phase in two layers, by kind and axes, halved.

    Where keys are seen by their positions, cp gathers these once a pass, whatever the number of layers.
    """
    found = [
        f"{node.operator.key} {','.join(node.attributes.get('axes') or (node.attributes['axis'],))}"
        for node in graph.nodes
        if node.operator.relayout is not None
        and node.operator.key != "SLICE"
        and node.meta.phase == phase
        and node.meta.scope.startswith("layer")
    ]
    gathered = [n for n in graph.nodes if n.operator.key == "AG" and graph.origin(n.inputs[0]).name == "positions"]
    assert len(gathered) in (0, 2)
    for node in gathered:
        if node.meta.phase == phase:
            found.remove(f"AG {node.attributes['axis']}")
    counts = Counter(found)
    assert all(count % 2 == 0 for count in counts.values())
    return {kind: count // 2 for kind, count in counts.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_sends_what_the_papers_say(family: str) -> None:
    model = blueprint(family, layers=2)
    model = model.but(**{name: size for name, size in NUMBERS.items() if name in model.sizes})
    step = optimize(autodiff(model.graph()), Optimizer(clip=1.0))
    sizes = model.bind(step, **BATCH)
    P = LAYERS[family][0]
    assert sum(value.scope.startswith("layer0") for value in step.parameters) == P
    for plan, counts in expected(*LAYERS[family]).items():
        axes = [axis for axis in ("dp", "cp", "tp") if axis in str(counts)] or ["tp"]
        local = gi.verify(shard(step, Mesh(dict.fromkeys(axes, 2)), plan, sizes))
        found = tuple(counted(local, phase) for phase in (FORWARD, BACKWARD, UPDATE))
        assert found == counts, plan


@pytest.mark.parametrize(
    ("family", "backward"),
    [
        # dV, of which each rank of a head has a term, is scattered by its columns, as W_V's gradient is; dK is turned
        # by ROPE, which wants whole heads, and so is summed first.
        ("llama", {"RS tp.per_N_KV": 1, "AR tp.per_N_KV": 1}),
        ("gpt2", {"RS tp.per_N_KV": 2, "AR tp.per_N_KV": 2}),  # and b_K, b_V
        ("qwen3", {"RS tp.per_N_KV": 1, "AR tp.per_N_KV": 1, "AR tp.N_KV,tp.per_N_KV": 1, "AR tp.N_KV": 1}),
    ],
)
def test_more_ranks_than_heads_of_keys_sum_what_ranks_share(family: str, backward: dict[str, int]) -> None:
    """Beside Megatron's two and two: the gradients of K and V, and the parts of W_K and W_V, once updated."""
    model = blueprint(family, layers=2)
    model = model.but(**{name: size for name, size in NUMBERS.items() if name in model.sizes})
    step = optimize(autodiff(model.graph()), Optimizer(clip=1.0))
    local = gi.verify(shard(step, Mesh(tp=4), "megatron", model.bind(step, **BATCH)))
    both = "AR tp.N_KV,tp.per_N_KV"
    assert counted(local, FORWARD) == {both: 2}
    assert counted(local, BACKWARD) == {**backward, both: 2 + backward.get(both, 0)}
    assert counted(local, UPDATE) == {"AG tp.per_N_KV": 2}
