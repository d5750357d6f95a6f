"""Dead code: what no output needs goes, arguments and the names of what is left stay."""

from __future__ import annotations

import pytest

import graphir as gi
from graphir.passes import autodiff, dce, shard

B, D = gi.dims("B D")


def branches() -> gi.Graph:
    """X to A to Y, and a dead end at A."""
    block = gi.Builder("branches")
    X = block.input("X", (B, D))
    block.input("idle", (B,))
    A = block.alias("hidden", gi.activation(X, name="A"))
    block.alias("lost", gi.exponential(A, name="dead"))
    return block.build(gi.scale(A, by=2.0, name="Y"), gi.scale(X, by=3.0, name="Z"))


def test_a_dead_end_goes_with_its_alias() -> None:
    pruned = gi.verify(dce(branches()))
    assert [node.name for node in pruned.nodes] == ["A", "Y", "Z"]
    assert [value.name for value in pruned.inputs] == ["X", "idle"]
    assert {name: value.name for name, value in pruned.aliases.items()} == {"hidden": "A"}


@pytest.mark.parametrize(
    ("outputs", "kept"), [(["Z"], ["Z"]), (["hidden"], ["A"]), (["lost", "Y"], ["A", "dead", "Y"])]
)
def test_outputs_are_chosen_by_name_or_alias(outputs: list[str], kept: list[str]) -> None:
    graph = branches()
    pruned = gi.verify(dce(graph, outputs))
    assert [node.name for node in pruned.nodes] == kept
    assert [value.name for value in pruned.outputs] == [graph[name].name for name in outputs]


def test_of_a_sharded_graph_a_name_means_what_the_collectives_made_of_it() -> None:
    local = shard(autodiff(gi.models.mlp(1)), gi.Mesh(dp=2), "data", {"B": 4, "D_in": 3, "D_out": 2})
    assert local["layer0/dW"].type.layout.pending == (("dp", "sum"),)
    pruned = gi.verify(dce(local, ["layer0/dW"]))
    (output,) = pruned.outputs
    assert output.type.layout.is_replicated
    assert pruned.producers[output].operator.key == "AR"
    assert pruned.mesh == local.mesh
