"""The JSON for Model Explorer: every node and edge of the graph, in the shape that its loader takes."""

from __future__ import annotations

import json

import pytest

import graphir as gi
from graphir.drawing.explorer import explorer_collection, explorer_json
from graphir.passes import autodiff, find_plan, shard


@pytest.fixture(scope="module")
def graph():
    return autodiff(gi.models.transformer(layers=1), loss="L")


@pytest.fixture(scope="module")
def nodes(graph):
    (found,) = explorer_collection(graph)["graphs"]
    return {node["id"]: node for node in found["nodes"]}


def attributes(node):
    return {each["key"]: each["value"] for each in node["attrs"]}


def test_a_file_is_one_graph_collection(graph):
    collection = json.loads(explorer_json(graph, "my model"))
    assert collection["label"] == "my model"
    (found,) = collection["graphs"]
    assert found["id"] == "my model"
    assert found["groupNodeAttributes"][""]["operators"] == str(len(graph.nodes))


def test_each_node_argument_and_output_is_there_once(graph, nodes):
    expected = [value.name for value in graph.arguments] + [node.name for node in graph.nodes]
    expected += [f"output {position}" for position in range(len(graph.outputs))]
    (found,) = explorer_collection(graph)["graphs"]
    assert [node["id"] for node in found["nodes"]] == expected
    assert len(nodes) == len(expected)


def test_every_edge_leads_from_an_output_that_exists(graph, nodes):
    edges = 0
    for node in nodes.values():
        for edge in node["incomingEdges"]:
            source = nodes[edge["sourceNodeId"]]
            assert edge["sourceNodeOutputId"] in {each["id"] for each in source["outputsMetadata"]}
            edges += 1
    assert edges == sum(len(node.inputs) for node in graph.nodes) + len(graph.outputs)


def test_a_node_says_what_it_is(nodes):
    softmax = nodes["layer0/mha/AS"]
    assert (softmax["label"], softmax["namespace"]) == ("S", "forward/layer0/mha")
    assert attributes(softmax)["formula"].startswith("P = exp(Z − max Z)")
    assert attributes(softmax)["written at"].startswith("graphir/models/parts/")
    (output,) = softmax["outputsMetadata"]
    assert attributes(output) == {
        "tensor_name": "layer0/mha/AS",
        "tensor_shape": "[B, N_H, S, S]",
        "type": "float32[B, N_H, S, S]",
    }
    assert nodes["layer0/mha/W_Q"]["label"] == "W_Q"
    assert attributes(nodes["layer0/mha/W_Q"])["operator"] == "parameter"


def test_a_d_node_links_to_its_forward_node_and_reads_the_right_output(nodes):
    d_norm = next(node for node in nodes.values() if node["label"] == "dLN" and node["namespace"].endswith("mha"))
    assert attributes(d_norm)["backward of"] == {"type": "node_ids", "nodeIds": ["layer0/mha/X_norm"]}
    outputs = {
        edge["sourceNodeOutputId"] for edge in d_norm["incomingEdges"] if edge["sourceNodeId"] == "layer0/mha/X_norm"
    }
    assert outputs == {"1", "2"}, "mean and rstd, the second and third results of LN"


def test_a_collective_says_why_it_is_there_and_how_its_operand_lies(graph):
    local = shard(graph, gi.Mesh(tp=3), find_plan("megatron"))
    (found,) = explorer_collection(local)["graphs"]
    reduced = next(node for node in found["nodes"] if node["id"] == "layer0/mha/AO_lin.AR")
    assert "pending sum over tp" in attributes(reduced)["inserted because"]
    assert found["groupNodeAttributes"][""]["mesh"] == "tp=3"
    heads = next(node for node in found["nodes"] if node["id"] == "layer0/mha/Q")
    assert attributes(heads["outputsMetadata"][0])["local shape"] == "[B, N_H/N_T, S, D_h]"


def test_hostile_labels_stay_text(graph):
    label = '</script>"\n\\ ℒ'
    assert json.loads(explorer_json(graph, label))["label"] == label
