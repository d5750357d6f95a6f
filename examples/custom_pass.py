"""A pass of one's own: constants that a value is multiplied by one after the other are multiplied up beforehand.

    python examples/custom_pass.py

In the graph that the pass leaves, the last of them does it all:

    Q = scale(X) {by=0.5}
    Q_T = T(Q)                             Q_T = T(X)
    Y = scale(Q_T) {by=3.0}                Y = scale(Q_T) {by=1.5}

The operator is asked for by itself, since that is what the pass is about; all else is asked of traits and structure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import graphir as gi
from graphir.passes import autodiff, run_passes
from graphir.passes.patterns import Pattern, leading_to, read_only_by
from graphir.passes.rewrite import Rewriter

scaled = Pattern(lambda node: node.operator is gi.scale)


def merge_scales(graph: gi.Graph) -> gi.Graph:
    """The graph with one scale for several in a row, views (T, R, C) between them or not: the last one stays."""
    return _MergeScales(graph).run()


class _MergeScales(Rewriter):
    def __init__(self, graph: gi.Graph) -> None:
        super().__init__(graph)
        # Of a scale that somebody else reads, too, the result is needed as it is.
        self.goes = scaled & read_only_by(graph, leading_to(graph, scaled))
        #: What is still to be multiplied with: of values whose scale is gone, and of views of them.
        self.factors: dict[gi.Value, float] = {}

    def visit(self, node: gi.Node) -> Sequence[gi.Value] | None:
        """The operand in place of a scale that goes; all factors before it in one that stays."""
        factor = self.factors.get(node.inputs[0], 1.0) if node.inputs else 1.0
        if scaled(node):
            factor *= node.attributes["by"]
            if not self.goes(node):
                return self.replace(node, gi.scale, self.operands(node), {"by": factor})
        if factor != 1.0:
            self.factors[node.outputs[0]] = factor
        return self.operands(node) if self.goes(node) else None


def attention_scores() -> gi.Graph:
    """L = Σ Q • Kᵀ / 8 for queries and keys of X, the keys with a temperature of their own."""
    B, S, D, D_h = gi.dims("B S D D_h")
    block = gi.Builder("scores")
    X = block.input("X", (B, S, D))
    Q = gi.matmul(X, block.parameter("W_Q", (D, D_h)), name="Q")
    K = gi.scale(gi.matmul(X, block.parameter("W_K", (D, D_h)), name="K"), by=0.5, name="K_warm")
    K_T = gi.scale(gi.transpose(K, perm=(0, 2, 1), name="K_T"), by=0.125, name="K_scaled")
    return block.build(gi.reduce_sum(gi.matmul(Q, K_T, name="A"), name="L"))


def main() -> None:
    """Prints a graph before and after the pass; both compute the same, gradients included."""
    before = autodiff(attention_scores())
    after = run_passes(before, [merge_scales])  # verified, as each pass's result is
    print(gi.to_text(before, meta=False))
    print(gi.to_text(after, meta=False))

    sizes = {"B": 2, "S": 16, "D": 32, "D_h": 8}
    tensors, X = gi.initialize(before, sizes), np.random.default_rng(0).standard_normal((2, 16, 32)).astype("float32")
    plain, merged = (gi.compile(graph, sizes)(tensors, {"X": X}) for graph in (before, after))
    for name in plain:
        np.testing.assert_allclose(merged[name], plain[name], rtol=1e-5, atol=1e-6)
    counts = [sum(map(scaled, graph.nodes)) for graph in (before, after)]
    print(f"{counts[0]} scales before, {counts[1]} after; {', '.join(plain)} are the same")


if __name__ == "__main__":
    main()
