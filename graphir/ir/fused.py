"""The fused node: one node that holds a graph.

Its type is that of the graph's outputs, its cost the sum of the graph's nodes, its reference what the graph
computes: unfolding it (`passes.unfuse`) gives the nodes back under their own names. A backend may carry the nodes
out together, tile by tile, without storing what passes between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from graphir.errors import OperatorError, TypeCheckError
from graphir.ir.attributes import Attributes
from graphir.ir.graph import Graph
from graphir.ir.operator import Array, Inference, Operator, Xp
from graphir.ir.signature import Axis, Operand, Signature
from graphir.ir.types import TensorType

__all__ = ["DEEPEST", "fused"]

#: How many fused nodes may lie inside of each other; whoever looks into bodies does so by recursion.
DEEPEST = 8


def _refuse(xp: Xp, *operands: Array, anchor: str = "", rows: int = 0) -> NoReturn:
    """What the nodes of the body compute, one after the other."""
    raise OperatorError("a fused node has no kernel of its own; run the graph that passes.unfuse makes")


class _Fused(Operator):
    """Typed by the body that a node holds, instead of by a signature."""

    def normalize(self, attributes: Mapping[str, Any]) -> Attributes:
        body = attributes.get("body")
        if not isinstance(body, Graph):
            raise TypeCheckError("attribute body must be a graph")
        if body.parameters or body.state or body.aliases or not set(body.outputs).isdisjoint(body.inputs):
            raise TypeCheckError("the body of a fused node has inputs, nodes, and outputs that these make, and no more")
        if body.nesting >= DEEPEST:
            raise TypeCheckError(f"its body has {body.nesting} fused nodes inside of each other; at most {DEEPEST} are")
        unknown = attributes.keys() - {"body", *self.attributes}
        if unknown:
            raise TypeCheckError(f"unknown attribute {', '.join(sorted(unknown))}; it has body, anchor, rows")
        given = {name: each.convert(attributes.get(name, each.default)) for name, each in self.attributes.items()}
        return Attributes({"body": body, **given})

    def signatures(self, attributes: Mapping[str, Any]) -> tuple[Signature, ...]:
        return (_signature(attributes["body"]),)

    def infer(self, types: tuple[TensorType, ...], attributes: Attributes) -> Inference:
        body: Graph = attributes["body"]
        wanted = tuple([value.type for value in body.inputs])
        if types != wanted:
            given, needed = (", ".join(map(str, each)) or "nothing" for each in (types, wanted))
            raise TypeCheckError(f"{given} does not fit the body's inputs {needed}")
        _check_anchor(body, attributes["anchor"], attributes["rows"])
        return Inference(_signature(body), {}, tuple([value.type for value in body.outputs]))


def _check_anchor(body: Graph, anchor: str, rows: int) -> None:
    """The anchor is a value of the body, with `rows` dims at least; without one there are no rows."""
    if not anchor and not rows:
        return
    value = body.values.get(anchor)
    if value is None:
        raise TypeCheckError(f"anchor {anchor!r} is no value of the body")
    if not 0 < rows <= len(value.shape):
        raise TypeCheckError(f"rows={rows} are no leading dims of the anchor {anchor} {value.type}")


def _signature(body: Graph) -> Signature:
    """A rule that says nothing of factors: what can be split is decided before nodes are fused."""
    factors: dict[object, str] = {}

    def operand(prefix: str, index: int, shape: Sequence[object]) -> Operand:
        axes = tuple(Axis((factors.setdefault(dim, f"f{len(factors)}"),), whole=True) for dim in shape)
        return Operand(f"{prefix}{index}", axes, "any")

    return Signature(
        tuple(operand("X", i, value.shape) for i, value in enumerate(body.inputs)),
        tuple(operand("Y", i, value.shape) for i, value in enumerate(body.outputs)),
    )


#: Holds its nodes in the attribute `body`; `anchor` and `rows` say what tiles run over: the first `rows` dims of the
#: body's value `anchor`, or nothing.
fused = _Fused(
    "fused",
    lambda: "",  # never read: `signatures` is overridden
    _refuse,
    no_gradient="nodes are fused after they are differentiated",
)
