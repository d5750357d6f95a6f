"""How large a graph's tensors are once its dims have sizes, in exact integers: none may be beyond all arrays.

This comes before anything is planned; whether this machine has room for it says `graphir.backends.capacity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from graphir.errors import DimError, SizeError
from graphir.ir.dims import LARGEST, Dim, Sizes, resolve_sizes, shape_text
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import filled
from graphir.ir.signature import is_literal
from graphir.ir.types import DTYPES, TensorType
from graphir.ir.value import Value

#: Bytes of an element of Python's own strings: a pointer.
_POINTER = 8


def bind_sizes(graph: Graph, sizes: Sizes) -> dict[str, int]:
    """`sizes`, checked against the graph's dims and the factors of its nodes, and completed by the defined ones.

    A node may have a factor that is no dim of any value: of X[(2 c)] -> Y[(2 c)] the half. Errors: DimError as of
    `resolve_sizes`, and where the mesh has not as many ranks as a dim that lies over them one by one; SizeError, with
    the largest tensor and its dims, where one would have 2^63 bytes or more, which no array has.
    """
    try:
        complete = resolve_sizes([graph.dims, _factors_within(graph)], sizes)
    except DimError as error:
        _tell_where(graph, sizes, error)
        raise
    for axis, ranks in graph.mesh.axes:
        name = filled(axis)
        if complete.get(name, ranks) != ranks:
            raise DimError(
                f"{name} = {complete[name]} lies one by one over {axis}={ranks} in graph {graph.name}; shard the graph "
                "that it came from for these sizes"
            )
    found = largest(values_within(graph), complete)
    if found is not None and found[1] > LARGEST:
        raise SizeError(
            f"{described(found[0], complete)} would have more than 2^63 bytes, and is the largest tensor of graph "
            f"{graph.name}; no array has as many: choose smaller sizes"
        )
    return complete


def _tell_where(graph: Graph, sizes: Sizes, error: DimError) -> None:
    """DimError that names the node, where it is one's signature that makes `error`: of (2 c) an axis of odd length."""
    for node in _nodes_within(graph):
        rule, factors = node.inference.rule, node.inference.factors
        for operand, value in zip(rule.inputs, node.inputs, strict=True):
            for axis, size in zip(operand.axes, value.shape, strict=True):
                if any(map(is_literal, axis.factors)) and any(_fails(factors[f], sizes, error) for f in axis.factors):
                    number = math.prod(int(factor) for factor in axis.factors if is_literal(factor))
                    at = f" at {node.meta.at}" if node.meta.at else ""
                    raise DimError(
                        f"{node.name} = {node.operator.key}({value}){at}: its signature splits {size} as {axis}, but "
                        f"{size}={size.size(sizes)} is not a multiple of {number}; choose sizes that divide"
                    ) from None


def _fails(dim: Dim, sizes: Sizes, error: DimError) -> bool:
    try:
        dim.size(sizes)
    except DimError as found:
        return str(found) == str(error)
    return False


def _nodes_within(graph: Graph) -> Iterator[Node]:
    """The graph's nodes, and those within its fused nodes."""
    for node in graph.nodes:
        yield node
        if node.body is not None:
            yield from _nodes_within(node.body)


def values_within(graph: Graph) -> Iterator[Value]:
    """The graph's values, and those within its fused nodes."""
    yield from graph.values.values()
    for node in graph.nodes:
        if node.body is not None:
            yield from values_within(node.body)


def _factors_within(graph: Graph) -> Iterator[Dim]:
    """The dims of all nodes' factors, those within fused nodes included."""
    for node in _nodes_within(graph):
        yield from node.inference.factors.values()


def count_bytes(type: TensorType, sizes: Sizes) -> int:
    """Of a whole tensor."""
    return (DTYPES[type.dtype] or _POINTER) * math.prod([dim.size(sizes) for dim in type.shape])


def largest(values: Iterable[Value], sizes: Sizes) -> tuple[Value, int] | None:
    """The first of the largest tensors, and its bytes; None of none."""
    kinds: dict[TensorType, Value] = {}
    for value in values:
        kinds.setdefault(value.type, value)
    return max(((value, count_bytes(type_, sizes)) for type_, value in kinds.items()), key=_second, default=None)


def _second(pair: tuple[Value, int]) -> int:
    return pair[1]


def described(value: Value, sizes: Sizes) -> str:
    """`mha/A float32[B, S, S] = [2, 4096, 4096]`."""
    numbers = ", ".join(str(dim.size(sizes)) for dim in value.shape)
    return f"{value.name} {value.dtype}{shape_text(value.shape)} = [{numbers}]"
