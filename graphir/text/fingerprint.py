"""A graph's fingerprint: by it processes tell whether they have the same graph, without sending its text."""

from __future__ import annotations

from collections.abc import Iterator

from graphir.ir.graph import Graph, Node
from graphir.text.literals import dims_in


def fingerprint(graph: Graph) -> str:
    """A digest of all that the graph's text says, meta left out: the same in every process for the same text."""
    import hashlib  # late: it loads a library of the system's

    return hashlib.sha256("\n".join(_said(graph)).encode(errors="surrogatepass")).hexdigest()


def _said(graph: Graph) -> Iterator[str]:
    """What a text says, in lines that nobody has to read."""
    yield f"{graph.name} over {graph.mesh}"
    definitions = {name: str(meant) for each in dims_in(graph) for name, meant in each.definitions.items()}
    yield repr(sorted(definitions.items()))
    for values in (graph.inputs, graph.parameters, graph.state):
        yield repr([(value.name, value.type, value.init) for value in values])
    for node in graph.nodes:
        yield from _node(node)
    yield repr([value.name for value in graph.outputs])
    yield repr([(name, value.name) for name, value in graph.aliases.items()])


def _node(node: Node) -> Iterator[str]:
    literals = {name: value for name, value in node.attributes.items() if not isinstance(value, Graph)}
    made = [(value.name, value.type) for value in node.outputs]
    yield f"{made!r} = {node.operator.key}{[value.name for value in node.inputs]!r} {literals!r}"
    if node.body is not None:
        yield from _said(node.body)


__all__ = ["fingerprint"]
