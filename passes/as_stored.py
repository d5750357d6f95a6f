"""Weights as they are stored: in 16 bits, and with rows where a product has columns, as files of others have them.

A weight that is held as a file has it costs what it costs there. What reads it reads a view of a cast, which the passes
that follow fold into the products themselves (`fuse`): no product's weight is ever there whole in more bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphir.errors import ConfigError
from graphir.ir.graph import Graph, Node
from graphir.ir.types import DTYPES, FLOATS, TensorType
from graphir.ir.value import Value, stored_name
from graphir.operators.cast import cast, cast_to
from graphir.operators.shape import transpose
from graphir.passes.patterns import Pattern, leading_to, operands, product, readers, single, view
from graphir.passes.rewrite import Rewriter


def as_stored(graph: Graph, lies: Mapping[str, tuple[str, bool]]) -> Graph:
    """The graph with parameters held as `lies` says of them: in which dtype, and whether transposed.

        Y = matmul(X, W)                       W.stored.float32 = cast(W.stored) {to="float32"}
                                               W = T(W.stored.float32)
                                               Y = matmul(X, W)

    Those that products read, or what looks up rows, which then looks them up as they are stored, and casts the rows.
    All else stays as it is: vectors, and what is stored in neither 16 bits nor the dtype that it has here. Errors:
    ConfigError for a graph that is sharded already: a plan then would not know what is stored.
    """
    if graph.mesh.axes:
        raise ConfigError(f"graph {graph.name} is sharded already; as_stored comes first, then autodiff, then shard")
    multiplies = leading_to(graph, product, view)

    def can_be(value: Value, dtype: str, transposed: bool) -> bool:
        """Whether the graph can hold a parameter so, and does not already."""
        same = dtype == value.dtype
        if dtype not in FLOATS or not (same or DTYPES[dtype] == 2 < DTYPES[value.dtype]) or value in graph.outputs:
            return False
        if (same and not transposed) or (transposed and value.type.rank != 2):
            return False
        looks_up = single & Pattern(lambda node: not transposed and _selects(node, value))
        found = readers(graph, value)
        return bool(found) and all(map(multiplies | looks_up, found))

    known = {value: lies[value.name] for value in graph.parameters if value.name in lies}
    kept = {value: how for value, how in known.items() if can_be(value, *how)}
    return _AsStored(graph, kept).run() if kept else graph


def _selects(node: Node, value: Value) -> bool:
    """Whether a node looks up elements of `value`, and reads it as nothing else."""
    roles = [name for name, each in operands(node).items() if each is value]
    return all(name in node.operator.selects for name in roles)


class _AsStored(Rewriter):
    def __init__(self, graph: Graph, kept: Mapping[Value, tuple[str, bool]]) -> None:
        instead = {}
        for value, (dtype, transposed) in kept.items():
            shape = value.shape[::-1] if transposed else value.shape
            instead[value] = stored_name(value.name), TensorType(dtype, shape)
        super().__init__(graph, instead)
        self._kept = kept
        #: What is stored of each that nobody has read yet as the graph has it.
        self._stored = {value: self.new.pop(value) for value in kept}

    def visit(self, node: Node) -> Sequence[Value] | None:
        for value in dict.fromkeys(node.inputs):
            if value in self._kept and _selects(node, value):
                return [self._looked_up(node, value)]
            if value in self._kept and value not in self.new:
                self.new[value] = self._restored(node, value)
        return None

    def _restored(self, reader: Node, value: Value) -> Value:
        """The parameter as the graph has it, of what is stored."""
        stored, (_, transposed) = self._stored[value], self._kept[value]
        with self.beside(reader, f"{value.name} is held as it is stored", scope=value.scope):
            if not transposed:
                return cast(stored, to=value.dtype, name=f"/{value.name}")
            return transpose(cast_to(stored, value.dtype), name=f"/{value.name}")

    def _looked_up(self, node: Node, value: Value) -> Value:
        """What is looked up as it is stored, in the dtype that the graph has."""
        (result,) = node.outputs
        given = [self._stored[value] if each is value else self.new[each] for each in node.inputs]
        name = self.builder.free_name(f"{result.name}.{self._kept[value][0]}")
        (made,) = self.replace(node, node.operator, given, node.attributes, names=[name])
        with self.beside(node, f"{value.name} is held as it is stored", scope=result.scope):
            return cast(made, to=result.dtype, name=f"/{result.name}")
