"""The verifier: re-runs every rule on a finished graph and compares (B 4; autodidax' typecheck is the model).

It catches what a pass, a parser or a hand could get wrong: wrong types, dims that do not match, values used
before or without definition, names defined twice, cycles, unknown attributes; collectives that do not do what they
say they are there for. Passes are verified between each other by `graphir.passes.run_passes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphir.errors import GraphirError, LayoutError, VerifyError
from graphir.ir.dims import Dim
from graphir.ir.graph import Graph, Node
from graphir.ir.purpose import Places
from graphir.ir.value import Value

_CONTEXT = 4


def verify(graph: Graph) -> Graph:
    """`graph` itself if it is well formed and well typed; VerifyError, with the nodes around, if not."""
    _check(graph)
    if graph.mesh.axes:
        _check_collectives(graph)
        _check_returned(graph)
    return graph


def _check(graph: Graph) -> None:
    """Everything but what only a whole program promises of its outputs, and the body of a node need not."""
    defined: set[str] = set()
    known: set[Value] = set()
    for value in graph.arguments:
        _define(graph, value, defined, None)
        _check_axes(graph, value, None)
        known.add(value)
    for index, node in enumerate(graph.nodes):
        if not node.outputs:
            raise VerifyError(f"graph {graph.name}: node {index}, {node.operator.key}(…), has no output")
        for value in node.inputs:
            if value not in known:
                raise VerifyError(_undefined(graph, value, node) + _around(graph, index))
        try:
            # Asked of the operator, not of the node, which may have been handed what holds for another.
            inferred = node.operator.infer(tuple([value.type for value in node.inputs]), node.attributes)
        except GraphirError as error:
            raise VerifyError(f"{node.name} = {node.operator.key}(…): {error}{_around(graph, index)}") from None
        declared = tuple([value.type for value in node.outputs])
        if inferred.types != declared:
            raise VerifyError(
                f"{node.name} = {node.operator.key}(…) is declared {_types(declared)}, "
                f"but its inputs make {_types(inferred.types)}{_around(graph, index)}"
            )
        if inferred != node.inference:
            raise VerifyError(
                f"{node.name} = {node.operator.key}(…) follows the rule {inferred.rule}, but holds what was inferred "
                f"for {node.inference.rule}; leave the node's inference to its operator{_around(graph, index)}"
            )
        if node.body is not None:
            try:
                _check(node.body)
            except VerifyError as error:
                raise VerifyError(f"{node.name} = {node.operator.key}(…) holds no graph: {error}") from None
        for value in node.outputs:
            _define(graph, value, defined, index)
            _check_axes(graph, value, index)
        known.update(node.outputs)
    for value in (*graph.outputs, *graph.aliases.values()):
        if value not in known:
            raise VerifyError(f"graph {graph.name}: {value.name} is an output or alias, but nothing defines it")
    for alias in graph.aliases:
        if alias in defined:
            raise VerifyError(f"graph {graph.name}: alias {alias} is the name of a value, too")
    _check_definitions(each for value in graph.values.values() for each in value.shape)


def _check_collectives(graph: Graph) -> None:
    """Each collective that says what it is for is where it has to be for that; see `graphir.ir.purpose`."""
    places = Places(graph)
    for index, node in enumerate(graph.nodes):
        wrong = places.misplaced(node)
        if wrong is not None:
            raise VerifyError(
                f"{node.name} = {node.operator.key}({node.inputs[0].name}) is misplaced: {wrong}{_around(graph, index)}"
            )


def _check_returned(graph: Graph) -> None:
    """Of a sharded graph: outputs are results, not terms of them, and new content lies as the old does."""
    for value in graph.outputs:
        if value.type.layout.pending:
            over = " and ".join(value.type.layout.pending_axes)
            raise VerifyError(
                f"graph {graph.name}: its output {value.name} {value.type} is no result yet, but a term on each rank; "
                f"reduce it over {over} by AR or RS"
            )
    returned = {graph.origin(value): value for value in graph.outputs}
    for old, new in graph.updates.items():
        held = returned.get(new)
        if held is not None and held.type.layout != old.type.layout:
            raise VerifyError(
                f"graph {graph.name}: its output {held.name} {held.type} is the new content of {old.name} "
                f"{old.type}, but does not lie as that does; the next step could not start from it"
            )


def _define(graph: Graph, value: Value, defined: set[str], index: int | None) -> None:
    if value.name in defined:
        around = "" if index is None else _around(graph, index)
        raise VerifyError(f"graph {graph.name} defines {value.name} twice{around}")
    defined.add(value.name)


def _check_axes(graph: Graph, value: Value, index: int | None) -> None:
    """A layout speaks of the axes of the graph's mesh alone."""
    try:
        graph.mesh.require_axes(value.type.layout)
    except LayoutError as error:
        around = "" if index is None else _around(graph, index)
        raise VerifyError(f"graph {graph.name}: {value.name} {value.type}: {error}{around}") from None


def _undefined(graph: Graph, value: Value, node: Node) -> str:
    """Why `value` is not there when `node` reads it: a cycle, a wrong order, or nothing makes it."""
    if value not in graph.producers:
        return f"{node.name} = {node.operator.key}(…) reads {value.name}, which nothing defines"
    import networkx  # late: a tenth of a second that a valid graph need not pay

    dependencies: networkx.DiGraph[str] = networkx.DiGraph()
    for each in graph.nodes:
        for operand in each.inputs:
            if operand in graph.producers:
                dependencies.add_edge(graph.producers[operand].name, each.name)
    try:
        cycle = [source for source, *_ in networkx.find_cycle(dependencies)]
    except networkx.NetworkXNoCycle:
        return f"{node.name} = {node.operator.key}(…) reads {value.name} before it is computed"
    return f"graph {graph.name} has a cycle: {' -> '.join([*cycle, cycle[0]])}"


def _check_definitions(dims: Iterable[Dim]) -> None:
    seen: dict[str, Dim | None] = {}
    for each in dims:
        for name, _ in each.powers:
            definition = each.definitions.get(name)
            if seen.setdefault(name, definition) != definition:
                raise VerifyError(f"dim {name} is both {seen[name] or 'undefined'} and {definition or 'undefined'}")


def _types(types: Iterable[object]) -> str:
    return ", ".join(map(str, types)) or "nothing"


def _around(graph: Graph, index: int) -> str:
    """The nodes around the faulty one, an arrow at it, and the user's line."""
    lines = []
    for i in range(max(0, index - _CONTEXT), min(len(graph.nodes), index + _CONTEXT + 1)):
        lines.append(f"  {'->' if i == index else '  '} {graph.nodes[i]!r}")
    at = graph.nodes[index].meta.at
    written = f"\n  written at {at}" if at else ""
    return "\n" + "\n".join(lines) + written
