"""Graphs in pickles: their structure, with operators by their keys, built and verified anew where they arrive.

    pickle.loads(pickle.dumps(graph)) == graph          meta included, in this process or in another

What is pickled holds no function: operators are found by their keys. Those of one's own have to be declared where a
graph arrives, before it does. A process that is spawned imports the module of the function that it is to run: let that
be the module that declares them, or one that imports it at its top.

Pickle itself runs whatever whoever made the bytes wants. With strangers, exchange texts (`graphir.text`).
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from graphir.errors import GraphError, OperatorError
from graphir.ir.builder import Builder
from graphir.ir.fused import fused
from graphir.ir.graph import Graph, Meta, Node
from graphir.ir.layout import Mesh
from graphir.ir.operator import Operator, find_operator
from graphir.ir.types import TensorType
from graphir.ir.value import Value
from graphir.ir.verify import verify


class _Argument(NamedTuple):
    name: str
    type: TensorType
    init: str | None


class _Step(NamedTuple):
    """A node: its operator's key, and the module that declares it; operands by their numbers."""

    key: str
    module: str
    operands: tuple[int, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[tuple[str, TensorType], ...]
    meta: Meta


class _Structure(NamedTuple):
    """A graph in plain data: values are numbered as they are defined, a fused node's body is a structure, too."""

    name: str
    axes: tuple[tuple[str, int], ...]
    inputs: Sequence[_Argument]
    parameters: Sequence[_Argument]
    state: Sequence[_Argument]
    steps: Sequence[_Step]
    outputs: tuple[int, ...]
    aliases: Mapping[str, int]


# -- taking apart -----------------------------------------------------------------------------------------


def _structure(graph: Graph) -> _Structure:
    numbers = {value: number for number, value in enumerate(graph.values.values())}

    def arguments(values: Sequence[Value]) -> list[_Argument]:
        return [_Argument(value.name, value.type, value.init) for value in values]

    return _Structure(
        graph.name,
        graph.mesh.axes,
        arguments(graph.inputs),
        arguments(graph.parameters),
        arguments(graph.state),
        [_step(node, numbers) for node in graph.nodes],
        tuple([numbers[value] for value in graph.outputs]),
        {name: numbers[value] for name, value in graph.aliases.items()},
    )


def _step(node: Node, numbers: Mapping[Value, int]) -> _Step:
    return _Step(
        node.operator.key,
        node.operator.kernel.__module__,
        tuple([numbers[value] for value in node.inputs]),
        {name: _structure(each) if isinstance(each, Graph) else each for name, each in node.attributes.items()},
        tuple([(value.name, value.type) for value in node.outputs]),
        node.meta,
    )


# -- building ---------------------------------------------------------------------------------------------


def _restore(structure: _Structure) -> Graph:
    """The graph, verified. Errors: OperatorError for an operator that is not declared here; VerifyError."""
    return verify(_build(structure))


def _build(structure: _Structure) -> Graph:
    builder = Builder(structure.name, mesh=Mesh(structure.axes))
    values: list[Value] = []
    for name, type_, _ in structure.inputs:
        values.append(builder.input(f"/{name}", type_.shape, type_.dtype, type_.layout))
    for declare, arguments in ((builder.parameter, structure.parameters), (builder.state, structure.state)):
        for name, type_, init in arguments:
            values.append(declare(f"/{name}", type_.shape, type_.dtype, str(init), type_.layout))
    for step in structure.steps:
        operator = _find(step.key, step.module)
        given = {name: _build(each) if isinstance(each, _Structure) else each for name, each in step.attributes.items()}
        operands = [values[number] for number in step.operands]
        node = builder.declare(operator, operands, operator.normalize(given), step.outputs, step.meta)
        values.extend(node.outputs)
    for name, number in structure.aliases.items():
        builder.alias(f"/{name}", values[number])
    return builder.build(*(values[number] for number in structure.outputs))


def _find(key: str, module: str) -> Operator:
    if key == fused.key:
        return fused
    try:
        return find_operator(key)
    except OperatorError:
        raise OperatorError(
            f"no operator is called {key!r} in this process: import the module that declares it, {module}, before a "
            f"graph that has it is unpickled; a process that is spawned imports only what it is given to run"
        ) from None


def _refuse(part: Any) -> NoReturn:
    kind = type(part).__name__.lower()
    raise GraphError(
        f"{kind} {part.name} is not copied or pickled by itself, but with its graph: graph[name] finds a value"
    )


copyreg.pickle(Graph, lambda graph: (_restore, (_structure(graph),)))
for _kind in (Operator, type(fused)):
    copyreg.pickle(_kind, lambda operator: (_find, (operator.key, operator.kernel.__module__)))
for _part in (Value, Node, Builder):
    copyreg.pickle(_part, _refuse)
