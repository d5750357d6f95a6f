"""What no exported model can have, each told with the node, the user's line and what to do."""

from __future__ import annotations

from graphir.errors import ExportError
from graphir.export.onnx.dims import Dims
from graphir.export.onnx.rules import find_rule
from graphir.ir.dims import Dim
from graphir.ir.graph import FORWARD, Graph, Node


def told(node: Node) -> str:
    """The node as errors name it: `layer0/mha/A_out (operator DO, at graphir/models/parts/attention.py:41)`."""
    return f"{node.name} (operator {node.operator.key}{f', at {node.meta.at}' if node.meta.at else ''})"


def require_forward(graph: Graph) -> None:
    """ExportError for a graph that is sharded, differentiated, or updates what it is handed."""
    if graph.mesh.axes:
        raise ExportError(
            f"graph {graph.name} is what each rank of {graph.mesh} runs; export the graph as it was before gi.shard"
        )
    for node in graph.nodes:
        operator = node.operator
        # What ONNX has of updates, the rows of a cache, is for inference.
        updates = bool(node.updates) and find_rule(operator) is None
        if node.meta.phase != FORWARD or operator.d_operator_of is not None or updates:
            kind = "update" if node.updates else "backward"
            raise ExportError(
                f"{told(node)} is of the {kind} pass, and what is exported is for inference: export the forward "
                "graph, as it was before autodiff and optimize, or name in fetch=… values that do not need this one"
            )
        if operator.relayout is not None:
            raise ExportError(f"{told(node)} moves blocks between ranks; export a graph that is not sharded")


def require_inference(node: Node) -> None:
    """ExportError for a node that draws numbers at random, or reads text."""
    if any(value.dtype == "text" for value in (*node.inputs, *node.outputs)):
        raise ExportError(
            f"{told(node)} reads text, which no exported model does: let the graph begin at token ids, "
            "gi.models.transformer(text=False), and tokenize before it"
        )
    if node.operator.random:
        raise ExportError(
            f"{told(node)} draws numbers at random, and what is exported is for inference: build the model without it, "
            'by dropout=0.0, or decode="argmax", or name in fetch=… values that do not need it'
        )


def without_formula(node: Node, reason: object) -> ExportError:
    """The error for an operator that has neither a rule nor a formula."""
    return ExportError(
        f"{told(node)} cannot be written in ONNX: there is no rule for the operator, and its kernel has no formula: "
        f"{reason}. Write the kernel so that it has one (examples/custom_operator.py has), or declare a rule beside "
        "it by @rule of graphir.export.onnx"
    )


def with_open_size(node: Node, dims: Dims) -> ExportError:
    """The error for a kernel that computes with a size which only a run knows."""
    given = [each for attribute in node.attributes.values() for each in _dims_in(attribute)]
    names = sorted(frozenset().union(*(each.names & dims.open for each in given)))
    return ExportError(
        f"{told(node)} computes with the size of {', '.join(names)}, which stays open: give it one, "
        f"by sizes={{{names[0]!r}: …}} or --size {names[0]}=…"
    )


def _dims_in(attribute: object) -> list[Dim]:
    parts = attribute if isinstance(attribute, tuple) else (attribute,)
    return [each for each in parts if isinstance(each, Dim)]
