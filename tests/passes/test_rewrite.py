"""What a pass does not speak of is carried over, and what it replaces keeps its place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import graphir as gi
from graphir.ir.graph import Node
from graphir.ir.value import Value
from graphir.passes import autodiff, fuse, optimize, shard
from graphir.passes.rewrite import Rewriter
from tests.support.rewrites import check_rewrite

B, D, N = gi.dims("B D N_H")


def step() -> gi.Graph:
    return optimize(autodiff(gi.models.transformer(1, dropout=0.1)))


@pytest.mark.parametrize("stage", ["plain", "sharded", "fused"])
def test_a_rewriter_that_changes_nothing_copies(stage: str) -> None:
    graph = step()
    if stage == "sharded":
        graph = shard(graph, gi.Mesh(dp=2, tp=2), "sequence+zero1")
    elif stage == "fused":
        graph = fuse(graph)
    made = Rewriter(graph).run()
    assert made is not graph
    assert gi.to_text(made) == gi.to_text(graph)  # meta and aliases included


class _Vanishing(Rewriter):
    """Leaves out exponentials: who read them reads what they read."""

    def visit(self, node: Node) -> Sequence[Value | None] | None:
        return self.operands(node) if node.operator is gi.exponential else None


def test_what_is_returned_stands_for_the_results_also_as_output_and_by_alias() -> None:
    block = gi.Builder("vanishing")
    X = block.input("X", (B, D))
    H = block.alias("hidden", gi.exponential(X, name="H"))
    made = _Vanishing(block.build(gi.scale(H, by=2.0, name="Y"), H)).run()
    assert [repr(node) for node in made.nodes] == ["Y float32[B, D] = scale(X)"]
    assert [value.name for value in made.outputs] == ["Y", "X"]
    assert made.aliases["hidden"].name == "X"


class _Forgetting(Rewriter):
    """Has nothing in the place of exponentials."""

    def visit(self, node: Node) -> Sequence[Value | None] | None:
        return [None] if node.operator is gi.exponential else None


def test_what_is_gone_takes_its_aliases_along_and_nobody_may_read_it() -> None:
    block = gi.Builder("forgetting")
    X = block.input("X", (B, D))
    H = block.alias("hidden", gi.exponential(X, name="H"))
    Y = block.alias("seen", gi.scale(X, by=2.0, name="Y"))
    made = _Forgetting(block.build(Y)).run()
    assert list(made.aliases) == ["seen"]
    block = gi.Builder("reading")
    H = gi.exponential(block.input("X", (B, D)), name="H")
    with pytest.raises(KeyError):
        _Forgetting(block.build(gi.scale(H, by=2.0))).run()


class _Masking(Rewriter):
    """Makes dropout of each exponential."""

    def visit(self, node: Node) -> Sequence[Value] | None:
        if node.operator is not gi.exponential:
            return None
        operands = [*self.operands(node), self.new[self.graph["seed"]], self.new[self.graph["step"]]]
        made = self.replace(node, gi.find_operator("DO"), operands, {"p": 0.5, "key": 1})
        return made[:1]


def test_a_replacement_has_the_nodes_names_and_meta_and_names_what_it_makes_beside() -> None:
    check_rewrite(
        """
        graph masking
        inputs
          X [B, D]
          seed [] int64
          step [] int64
        layer0 backward
          Y [B, D] = exp(/X) @of /X why "because"
        outputs
          layer0/Y
        """,
        lambda graph: _Masking(graph).run(),
        """
        graph masking
        inputs
          X [B, D]
          seed [] int64
          step [] int64
        layer0 backward
          Y [B, D],
          Y.m [B, D] bool = DO(/X, /seed, /step) {p=0.5, key=1} @of /X why "because"
        outputs
          layer0/Y
        """,
    )


class _Doubling(Rewriter):
    """Adds an exponential in the place of everything."""

    def visit(self, node: Node) -> Sequence[Value] | None:
        (X,) = self.operands(node)
        with self.beside(node, "it is doubled"):
            other = gi.exponential(X)
        return self.replace(node, gi.find_operator("add"), [X, other])


def test_dims_stay_as_they_were_written_and_what_stands_beside_says_why() -> None:
    block = gi.Builder("spelled")
    X = block.input("X", (B, gi.dim("D_h", D / N)))
    with block.scope("layer0"):
        graph = block.build(gi.scale(X, by=2.0, name="Y"))
    made = _Doubling(graph).run()
    beside, doubled = made.nodes
    assert (beside.meta.scope, beside.meta.why, beside.meta.at) == ("layer0", "it is doubled", graph.nodes[0].meta.at)
    assert doubled.outputs[0].type is graph.nodes[0].outputs[0].type


def test_a_text_that_differs_is_printed() -> None:
    before = "graph g\ninputs\n  X [B]\n/\n  Y [B] = exp(X)\noutputs\n  Y"
    check_rewrite(before, lambda graph: graph, before)
    for other in (before.replace("exp(X)", 'exp(X) @why "x"'), before.replace("/\n", "/ update\n")):
        with pytest.raises(pytest.fail.Exception, match=r"(?s)another graph was made.*Y  \[B\]  = exp\(X\)"):
            check_rewrite(before, lambda graph: graph, other)
