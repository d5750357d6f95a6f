"""A graph as data says what the graph is: every value, where it lies, what makes it, and whose line that is."""

from __future__ import annotations

import json

import pytest

import graphir as gi
from graphir.ir.dims import Dim
from graphir.passes import autodiff, lower, optimize, run_pipeline, shard
from graphir.text import to_data

MODEL = gi.models.transformer(layers=1, dropout=0.1)
STEP = optimize(autodiff(MODEL))
GRAPHS = {
    "forward": MODEL,
    "train": STEP,
    "lowered": lower(MODEL),
    "sharded": shard(STEP, gi.Mesh(dp=2, tp=2), "data+sequence"),
    "fused": run_pipeline(autodiff(MODEL)),
    "llama": gi.models.PRESETS["llama3-8b"].small().build(gi.models.Usage()),
}


def held(nodes):
    """The nodes as data, with those that fused ones hold."""
    for node in nodes:
        yield node
        yield from held(node["body"]["nodes"] if node["body"] else ())


@pytest.mark.parametrize("name", GRAPHS)
def test_every_value_and_node_is_told_as_it_is(name):
    graph = GRAPHS[name]
    data = json.loads(json.dumps(to_data(graph), allow_nan=False))
    assert data == to_data(graph), "what is no plain data would come back otherwise"
    assert data == to_data(gi.parse(gi.to_text(graph)))

    def same(told, value):
        assert (told["name"], told["dtype"], told["type"]) == (value.name, value.dtype, str(value.type))
        assert told["shape"] == [str(each) for each in value.shape]
        layout = value.type.layout
        assert tuple(map(tuple, told["split"])) == layout.splits
        assert told["pending"] == dict(layout.pending)

    for section in ("inputs", "parameters", "state"):
        for told, value in zip(data[section], getattr(graph, section), strict=True):
            same(told, value)
            assert section == "inputs" or told["init"] == str(value.init)
    for told, node in zip(data["nodes"], graph.nodes, strict=True):
        assert (told["name"], told["operator"]) == (node.name, node.operator.key)
        assert told["operands"] == [value.name for value in node.inputs]
        meta = node.meta
        assert [told[key] for key in ("scope", "phase", "at", "of", "why")] == [
            meta.scope, meta.phase, meta.at, meta.of, meta.why,
        ]  # fmt: skip
        for result, value in zip(told["results"], node.outputs, strict=True):
            same(result, value)
    assert data["outputs"] == [value.name for value in graph.outputs]
    assert data["mesh"] == dict(graph.mesh.sizes)
    assert {*data["aliases"]} == {*graph.aliases}


def test_what_runs_is_known_before_it_is_read():
    """In order, every operand has been made, within the body of a fused node, too."""

    def follow(nodes, known):
        for node in nodes:
            assert known >= {*node["operands"]}, node["name"]
            if node["body"]:
                follow(node["body"]["nodes"], {*node["body"]["inputs"]})
            known |= {value["name"] for value in node["results"]}

    data = to_data(GRAPHS["fused"])
    follow(data["nodes"], {value["name"] for key in ("inputs", "parameters", "state") for value in data[key]})
    assert any(node["body"] for node in data["nodes"])


def test_dims_and_attributes():
    data = to_data(MODEL)
    assert data["dims"]["D_h"] == "D/N_H"
    assert data["dims"]["B"] is None
    attributes = {node["name"]: node["attributes"] for node in held(data["nodes"])}
    assert attributes["layer0/mha/AS_drop"]["p"] == 0.1
    for node in MODEL.nodes:
        for key, value in node.attributes.items():
            if isinstance(value, Dim):
                assert attributes[node.name][key] == str(value)
    lines = {node["at"] for node in data["nodes"]}
    assert all(line and line.rpartition(":")[2].isdecimal() for line in lines)


def test_numbers_that_json_lacks_are_words():
    block = gi.Builder("mask")
    X = block.input("X", (gi.dim("B"),))
    data = to_data(block.build(gi.scale(X, by=float("inf"), name="Y")))
    assert data["nodes"][0]["attributes"]["by"] == "inf"
    json.dumps(data, allow_nan=False)
