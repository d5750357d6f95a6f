"""The ready-made plans fit every family of models, which none of them names."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.checking.position import general_position
from graphir.ir.graph import BACKWARD, FORWARD, Graph
from graphir.ir.layout import Mesh
from graphir.models import FAMILIES, blueprint
from graphir.passes import autodiff, find_plan, left_whole, shard

#: Of each dim as many as all meshes here divide; two heads of keys.
NUMBERS = {"D": 32, "N_H": 8, "N_KV": 2, "D_h": 8, "D_ff": 16, "V": 16, "S_max": 16}
BATCH = {"B": 4, "S": 8}


def step(family: str, dtype: str = "float32") -> tuple[Graph, dict[str, int]]:
    """A layer of the family with its gradients, and its sizes."""
    model = blueprint(family, layers=1)
    model = blueprint(family, layers=1, dtype=dtype, **{n: NUMBERS[n] for n in NUMBERS if n in model.sizes})
    graph = autodiff(model.graph())
    return graph, model.bind(graph, **BATCH)


def reductions(graph: Graph, phase: str) -> int:
    """The all-reduces of tensors of activations in the layer."""
    return sum(
        node.operator.key == "AR" and node.meta.phase == phase and len(node.inputs[0].shape) == 3
        for node in graph.nodes
        if node.meta.scope.startswith("layer0")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_fit_every_family(family: str) -> None:
    """Under megatron a layer is all split but for norms and biases of what is summed, by two all-reduces each way."""
    graph, sizes = step(family)
    for plan in ("data", "sequence+vocabulary", "zero1+megatron", "zero3+sequence", "data+context"):
        gi.verify(shard(graph, Mesh(dict.fromkeys(find_plan(plan).axes, 2)), plan, sizes))
    for ranks in (2, 4):
        local = gi.verify(shard(graph, Mesh(tp=ranks), "megatron", sizes))
        assert reductions(local, FORWARD) == reductions(local, BACKWARD) == 2
    left = {each.value.name for each in left_whole(graph, Mesh(tp=2), "megatron", sizes)}
    assert not [name for name in left if name.startswith("layer0/") and "/W_" in name]


@pytest.mark.parametrize(
    ("family", "plan", "mesh"),
    [
        ("gemma3", "sequence+vocabulary", {"tp": 2}),
        ("qwen3", "megatron", {"tp": 4}),
        ("llama", "column", {"tp": 4}),
        ("gpt2", "data+column+vocabulary", {"dp": 2, "tp": 2}),
        ("gemma2", "data+sequence+zero3", {"dp": 2, "tp": 4}),
        pytest.param("llama", "context+sequence", {"cp": 2, "tp": 4}, marks=pytest.mark.slow),
        pytest.param("bert", "data+megatron+vocabulary", {"dp": 2, "tp": 4}, marks=pytest.mark.slow),
        pytest.param("phi3", "zero2+context", {"dp": 2, "cp": 2}, marks=pytest.mark.slow),
    ],
)
def test_ranks_compute_the_same_of_them(family: str, plan: str, mesh: dict[str, int]) -> None:
    graph, sizes = step(family, "float64")
    local = gi.verify(shard(graph, Mesh(mesh), plan, sizes))
    arguments = general_position(graph, sizes, 0)
    alone, together = (gi.compile(each, sizes, backend="reference")(arguments) for each in (graph, local))
    for value in graph.outputs:
        np.testing.assert_allclose(together[value.name], alone[value.name], rtol=1e-9, atol=1e-13, err_msg=value.name)
