"""What a pass does, told by two texts: the graph before, and the graph that is expected of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from textwrap import dedent

import pytest

import graphir as gi
from graphir.ir.graph import Node
from graphir.ir.value import Value
from graphir.passes.rewrite import Rewriter


def check_rewrite(before: str, rewrite: Callable[[gi.Graph], gi.Graph], after: str) -> None:
    """Fails, and prints what was made, unless `rewrite` makes the graph `after` of the graph `before`.

    Phases and reasons count; lines, which are those of whichever file asks, do not, nor does how columns are aligned.
    """
    expected = gi.to_text(gi.parse(dedent(after)))
    made = gi.to_text(_Unlined(gi.verify(rewrite(gi.parse(dedent(before))))).run())
    if made != expected:
        difference = difflib.unified_diff(expected.splitlines(), made.splitlines(), "expected", "made", lineterm="")
        pytest.fail("\n".join(["another graph was made:", "", made, *difference]), pytrace=False)


class _Unlined(Rewriter):
    """The graph without the lines that its nodes were written on."""

    def visit(self, node: Node) -> Sequence[Value]:
        outputs = [(value.name, value.type) for value in node.outputs]
        meta = replace(node.meta, at=None)
        return self.builder.declare(node.operator, self.operands(node), node.attributes, outputs, meta).outputs
