"""A graph for Google's Model Explorer: the JSON of a graph collection, which its page loads as a file.

Notation. A collection is `{"label", "graphs": [{"id", "nodes", "groupNodeAttributes"}]}`; a node has an `id`, a
`label`, a `namespace` that folds (`forward/layer0/mha`), `attrs`, and `incomingEdges`, each the id of the node it
comes from and the numbers of the output it leaves and of the input it enters. Nodes are called by their first output,
as in a graph; what a run is handed has a node of its own, whose operator is "input", "parameter" or "state".
"""

from __future__ import annotations

import json
from typing import Any

from graphir.drawing.naming import fused_symbols
from graphir.ir.dims import shape_text
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import local_shape
from graphir.ir.value import Value

Json = dict[str, Any]


def explorer_collection(graph: Graph, label: str | None = None) -> Json:
    """`graph` as a graph collection, in plain dicts and lists; `label` in place of the graph's name."""
    kinds = (("input", graph.inputs), ("parameter", graph.parameters), ("state", graph.state))
    nodes = [_argument(value, kind) for kind, values in kinds for value in values]
    nodes += [_node(graph, node) for node in graph.nodes]
    nodes += [_output(graph, value, position) for position, value in enumerate(graph.outputs)]
    title = label or graph.name
    about = {
        "mesh": str(graph.mesh),
        "operators": str(len(graph.nodes)),
        "parameters": str(len(graph.parameters)),
        "outputs": ", ".join(value.name for value in graph.outputs),
    }
    return {"label": title, "graphs": [{"id": title, "nodes": nodes, "groupNodeAttributes": {"": about}}]}


def explorer_json(graph: Graph, label: str | None = None) -> str:
    """`explorer_collection` as the text of a JSON file."""
    return json.dumps(explorer_collection(graph, label), ensure_ascii=False, indent=1) + "\n"


def _argument(value: Value, kind: str) -> Json:
    attributes = {"operator": kind, "type": str(value.type)}
    if value.init is not None:
        attributes["initial value"] = value.init
    return _plain(value.name, value.local_name, _space("forward", value.scope), attributes, [], (value,))


def _node(graph: Graph, node: Node) -> Json:
    meta = node.meta
    attributes: dict[str, Any] = {
        "operator": node.operator.key,
        "formula": node.operator.doc.splitlines()[0],
        "signature": str(node.inference.rule),
        "phase": meta.phase,
    }
    attributes |= {name: _spelled(value) for name, value in node.attributes.items()}
    if meta.at:
        attributes["written at"] = meta.at
    if meta.why:
        attributes["inserted because"] = meta.why
    if meta.of and (owner := graph.find(meta.of)) is not None:
        attributes["backward of"] = {"type": "node_ids", "nodeIds": [_source(graph, owner)[0]]}
    edges = [_edge(graph, value, position) for position, value in enumerate(node.inputs)]
    symbol = " ".join(fused_symbols(node)) or node.operator.symbol
    return _plain(node.name, symbol, _space(meta.phase, meta.scope), attributes, edges, node.outputs)


def _spelled(value: object) -> str:
    """An attribute as text; the graph that a fused node holds as its nodes, one a line."""
    return "\n".join(map(repr, value.nodes)) if isinstance(value, Graph) else str(value)


def _output(graph: Graph, value: Value, position: int) -> Json:
    # No value's name has a space in it, so no node is called so.
    return _plain(f"output {position}", value.name, "", {"operator": "output"}, [_edge(graph, value, 0)], ())


def _plain(
    id: str, label: str, namespace: str, attributes: dict[str, Any], edges: list[Json], outputs: tuple[Value, ...]
) -> Json:
    return {
        "id": id,
        "label": label,
        "namespace": namespace,
        "attrs": _pairs(attributes),
        "incomingEdges": edges,
        "outputsMetadata": [
            {"id": str(position), "attrs": _pairs(_about(value))} for position, value in enumerate(outputs)
        ],
    }


def _about(value: Value) -> dict[str, str]:
    found = {"tensor_name": value.name, "tensor_shape": shape_text(value.shape), "type": str(value.type)}
    if value.type.layout.axes:
        found["local shape"] = shape_text(local_shape(value.shape, value.type.layout))
    return found


def _pairs(attributes: dict[str, Any]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in attributes.items()]


def _space(phase: str, scope: str) -> str:
    return f"{phase}/{scope}" if scope else phase


def _source(graph: Graph, value: Value) -> tuple[str, int]:
    """The node that `value` comes from, and which of its outputs it is."""
    node = graph.producers.get(value)
    return (value.name, 0) if node is None else (node.name, node.outputs.index(value))


def _edge(graph: Graph, value: Value, position: int) -> Json:
    node, output = _source(graph, value)
    return {"sourceNodeId": node, "sourceNodeOutputId": str(output), "targetNodeInputId": str(position)}
