"""LoRA: products of small matrices beside large ones, to be trained in their place (Hu et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphir.errors import GraphError
from graphir.ir.dims import dim
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.operators.elementwise import add, scale
from graphir.operators.linear import matmul
from graphir.passes.patterns import product
from graphir.passes.rewrite import Rewriter

#: The rank of what is added to a matrix.
R = dim("r")


def lora(graph: Graph, chosen: Callable[[Value], bool] = lambda W: True, by: float = 1.0) -> Graph:
    """The graph with `by`·A•B added to each matrix W [n, m] that a product reads, of those that are `chosen`.

        Z = matmul(X, W)                       Z.base = matmul(X, W)
                                               Z.low = matmul(X, W.A)
                                               Z.raw = matmul(Z.low, W.B)
                                               Z.more = scale(Z.raw) {by=2.0}
                                               Z = add(Z.base, Z.more)

    W.A [n, r] starts at random and W.B [r, m] at zero, so that the graph computes what it did; `by` is α/r elsewhere.
    `adapters` has their names, for `autodiff(…, wrt=…)` and `optimize(…, parameters=…)`.
    Errors: GraphError where no product reads a chosen parameter.
    """
    rewriter = _Lora(graph, chosen, by)
    made = rewriter.run()
    if not rewriter.pairs:
        raise GraphError(f"no product of graph {graph.name} reads a matrix that is a parameter and chosen")
    return made


def adapters(graph: Graph) -> Mapping[str, tuple[str, str]]:
    """For each matrix that `lora` has added to the names of its A and B."""
    parameters = {value.name: None for value in graph.parameters}
    names = [name.removesuffix(".A") for name in parameters if name.endswith(".A")]
    return {name: (f"{name}.A", f"{name}.B") for name in names if f"{name}.B" in parameters and name in graph}


def reads_matrix(node: Node) -> bool:
    """Whether it is a product Z [.., m] = X [.., n] • W [n, m]."""
    if not product(node) or len(node.inputs) != 2:
        return False
    X, W = node.inputs
    return W.shape == (X.shape[-1], node.outputs[0].shape[-1])


class _Lora(Rewriter):
    def __init__(self, graph: Graph, chosen: Callable[[Value], bool], by: float) -> None:
        super().__init__(graph)
        self._chosen, self._parameters, self._by = chosen, frozenset(graph.parameters), by
        self.pairs: dict[Value, tuple[Value, Value]] = {}

    def visit(self, node: Node) -> Sequence[Value] | None:
        if not reads_matrix(node):
            return None
        W, (Z,) = node.inputs[1], node.outputs
        if W not in self._parameters or not self._chosen(W):
            return None
        X, _ = self.operands(node)
        A, B = self._pair(W)
        (base,) = self.replace(node, matmul, self.operands(node), node.attributes, names=[f"{Z.name}.base"])
        with self.beside(node, f"A•B is added to {W.name}"):
            low = matmul(X, A, name=f"/{Z.name}.low")
            raw = matmul(low, B, name=f"/{Z.name}.raw")
            return [add(base, scale(raw, by=self._by, name=f"/{Z.name}.more"), name=f"/{Z.name}")]

    def _pair(self, W: Value) -> tuple[Value, Value]:
        """A and B of a matrix, once for all products that read it."""
        if W not in self.pairs:
            n, m = W.shape
            A = self.builder.parameter(f"/{W.name}.A", (n, R), W.dtype)
            self.pairs[W] = A, self.builder.parameter(f"/{W.name}.B", (R, m), W.dtype, init="zeros")
        return self.pairs[W]
