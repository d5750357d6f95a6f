"""Graphs as plain data, for programs that read JSON: what the text says, with nothing to parse.

    graph        its name
    mesh         how many ranks each axis has, {"dp": 2}; {} on one rank
    dims         what each is defined as, {"B": null, "D_h": "D/N_H"}
    inputs       values
    parameters   values, and how each starts: init
    state        the same of what an optimizer keeps
    nodes        in an order in which they can run
    outputs      names of values
    aliases      further names, and the names of the values that they stand for

    value        name, dtype, shape (dims, as text: "N_H*D_h"), split (the mesh axes that split each dim), pending
                 (the reduction that is due over an axis, {"tp": "sum"}), type (all of that, "float32[B|dp, S]")
    node         name (that of its first result), operator (its key in `graphir ops`), attributes, operands (names of
                 values), results (values), scope, phase (forward, backward or update), at (the line of the user's,
                 "file:line"), of (of the backward pass: the forward node's name), why (of what a pass inserted: the
                 reason), body (of a fused node: inputs, nodes, outputs as above, under the names that they have
                 outside)

What is not there is null. Dims among attributes are text, as in shapes; what JSON has no number for is "inf", "-inf".
More keys may come; none goes, or changes its meaning. `parse` reads the text back, and nothing this.
"""

from __future__ import annotations

import math
from typing import Any

from graphir.ir.dims import Dim, dim_names
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.text.printer import definitions


def to_data(graph: Graph) -> dict[str, Any]:
    """`graph` as dictionaries, lists, strings, numbers and None, of which `json.dumps` makes JSON as it is.

    Errors: GraphError if two dims of one name are defined differently.
    """
    defined = definitions(graph)
    names = sorted({*dim_names([graph.dims]), *defined})
    return {
        "graph": graph.name,
        "mesh": dict(graph.mesh.sizes),
        "dims": {name: str(defined[name]) if name in defined else None for name in names},
        "inputs": [_value(value) for value in graph.inputs],
        "parameters": [_initial(value) for value in graph.parameters],
        "state": [_initial(value) for value in graph.state],
        "nodes": [_node(node) for node in graph.nodes],
        "outputs": [value.name for value in graph.outputs],
        "aliases": {name: value.name for name, value in graph.aliases.items()},
    }


def _value(value: Value) -> dict[str, Any]:
    layout = value.type.layout
    return {
        "name": value.name,
        "dtype": value.dtype,
        "shape": [str(each) for each in value.shape],
        "split": list(map(list, layout.splits)),
        "pending": dict(layout.pending),
        "type": str(value.type),
    }


def _initial(value: Value) -> dict[str, Any]:
    return {**_value(value), "init": str(value.init)}


def _node(node: Node) -> dict[str, Any]:
    body, meta = node.body, node.meta
    return {
        "name": node.name,
        "operator": node.operator.key,
        "attributes": {name: _plain(each) for name, each in node.attributes.items() if not isinstance(each, Graph)},
        "operands": [value.name for value in node.inputs],
        "results": [_value(value) for value in node.outputs],
        "scope": meta.scope,
        "phase": meta.phase,
        "at": meta.at,
        "of": meta.of,
        "why": meta.why,
        "body": None if body is None else _body(body),
    }


def _body(body: Graph) -> dict[str, Any]:
    return {
        "inputs": [value.name for value in body.inputs],
        "nodes": [_node(node) for node in body.nodes],
        "outputs": [value.name for value in body.outputs],
    }


def _plain(attribute: Any) -> Any:
    if isinstance(attribute, tuple):
        return [_plain(each) for each in attribute]
    if isinstance(attribute, Dim) or (isinstance(attribute, float) and not math.isfinite(attribute)):
        return str(attribute)
    return attribute
