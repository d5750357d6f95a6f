"""Mixed precision: products read 16 bits an element, everything else stays as it is.

Notation. *Narrow* is bfloat16 or float16, *wide* the dtype that the graph has, float32.

    E           wide, a parameter: the master that is updated
    E.bfloat16  its cast, a node like any other
    W_lm        a view of the cast, so narrow itself

- A node whose operator can add up wide what it reads narrow (`accumulates`), and that does sum over products
  (`contracted`), is a product. It gets its operands cast, each value once, and returns what it returned.
- A cast stands in front of the views (T, R, C) between a value and its products, for a view of 16 bits moves half the
  bytes; but not where somebody reads such a view wide, who would then have to have his own.
- Nothing else changes: LN, softmax, cross-entropy, sums of the residual stream and statistics are wide.
- What a product returns is wide, as it was added up. With `results="narrow"` it is rounded first, as PyTorch's autocast
  and Megatron-LM have it: half as many bytes are written, held and sent, at the price of some digits. Who reads it
  wide reads a cast. The gradient of a weight, a sum over all tokens, stays wide.

What follows in the passes after it, by what casts and products declare: `autodiff` rounds dY for its products, and
returns gradients wide, as they were added up; with narrow results, those of activations narrow. `shard` casts a
parameter where it is stored and gathers the cast, so that ZeRO sends half the bytes; so it does with what sequence
parallelism gathers. Pending sums are wide and settled before they are rounded: all-reduces and reduce-scatters send
what they did; with narrow results, half as much of activations. Compiled, a product that is only read in 16 bits is
stored in 16 bits, whichever it is (`round_products`). A loss scale is an input of the backward pass, or a state that
updates adjust and obey (`autodiff`, `optimize`).
"""

from __future__ import annotations

from collections.abc import Sequence

from graphir.errors import ConfigError
from graphir.ir.graph import FORWARD, Graph, Node
from graphir.ir.types import DTYPES, FLOATS
from graphir.ir.value import Value
from graphir.operators.cast import cast, cast_to
from graphir.passes.patterns import Pattern, accumulating, leading_to, product, readers, view
from graphir.passes.rewrite import Rewriter

#: What products may read; the first leaves a graph as it is.
PRECISIONS = ("float32", "bfloat16", "float16")
#: What products that read narrow may return.
RESULTS = ("wide", "narrow")


def mixed_precision(graph: Graph, dtype: str, results: str = "wide") -> Graph:
    """The forward graph with its matrix products on operands of `dtype`; with "float32", the graph as it is.

        Y = matmul(X, W)                       X.bfloat16 = cast(X) {to="bfloat16"}
                                               W.bfloat16 = cast(W) {to="bfloat16"}
                                               Y = matmul(X.bfloat16, W.bfloat16) {dtype="float32"}

    After Micikevicius et al., 2018.
    A value's cast, and with `results="narrow"` what is cast to a value, is called `X.bfloat16`; a view, or such a
    result, that only products read keeps its name, and is narrow itself. Parameters and outputs keep their types.
    Errors: ConfigError for another dtype or other results, and for a graph that is differentiated or sharded already:
    gradients and collectives would be left as they were.
    """
    for given, allowed, name in ((dtype, PRECISIONS, "precision"), (results, RESULTS, "results")):
        if given not in allowed:
            raise ConfigError(f"{name} {given!r} is none of {', '.join(allowed)}")
    if dtype == "float32":
        return graph  # nothing is narrower than it was
    if graph.mesh.axes or any(node.meta.phase != FORWARD for node in graph.nodes):
        raise ConfigError(
            f"graph {graph.name} is {'sharded' if graph.mesh.axes else 'differentiated'} already; "
            f"mixed_precision comes first, then autodiff, then shard"
        )
    return _Narrowing(graph, dtype, results == "narrow").run()


_WIDE_READER = Pattern(lambda node: any(map(_is_wide, node.inputs)))
#: It sums over products, can do so wide, and reads anything that is wide.
_PRODUCT = accumulating & _WIDE_READER & product


class _Narrowing(Rewriter):
    def __init__(self, graph: Graph, dtype: str, results: bool) -> None:
        super().__init__(graph)
        self.dtype, self.results = dtype, results
        #: Products, and the views of wide values that only they read.
        self.narrows = leading_to(graph, _PRODUCT, view & _WIDE_READER)
        self.outputs = frozenset(graph.outputs)
        #: The narrow form of each value that has one.
        self.narrow: dict[Value, Value] = {}

    def visit(self, node: Node) -> Sequence[Value] | None:
        if not self.narrows(node):
            return None
        return [self._product(node) if _PRODUCT(node) else self._view(node)]

    def _view(self, node: Node) -> Value:
        (made,) = self.replace(node, node.operator, self._narrow_operands(node), node.attributes)
        self.narrow[node.outputs[0]] = made
        return made

    def _product(self, node: Node) -> Value:
        assert node.operator.accumulates is not None
        (value,) = node.outputs
        dtype = self.dtype if self.results else value.dtype
        attributes, name = {**node.attributes, node.operator.accumulates: dtype}, value.name
        is_read_wide = dtype != value.dtype and self._is_read_wide(value)
        if is_read_wide:
            name = self.builder.free_name(f"{value.name}.{dtype}")
        (made,) = self.replace(node, node.operator, self._narrow_operands(node), attributes, names=[name])
        if dtype != value.dtype:
            self.narrow[value] = made
        if is_read_wide:
            with self.beside(node, f"{node.name} = {node.operator.key}(…) returns {dtype}", scope=value.scope):
                return cast(made, to=value.dtype, name=f"/{value.name}")
        return made

    def _is_read_wide(self, value: Value) -> bool:
        """Whether somebody reads it as it was: who is no product, nor a view for products."""
        return value in self.outputs or not all(map(self.narrows, readers(self.graph, value)))

    def _narrow_operands(self, node: Node) -> list[Value]:
        return [self._narrowed(value, node) if _is_wide(value) else self.new[value] for value in node.inputs]

    def _narrowed(self, value: Value, reader: Node) -> Value:
        """The narrow form of `value`, cast where `reader` is the first to want it."""
        found = self.narrow.get(value)
        if found is None:
            why = f"{reader.name} = {reader.operator.key}(…) reads {self.dtype}"
            with self.beside(reader, why, scope=value.scope):
                found = self.narrow[value] = cast_to(self.new[value], self.dtype)
        return found


def _is_wide(value: Value) -> bool:
    return value.dtype in FLOATS and DTYPES[value.dtype] > 2
