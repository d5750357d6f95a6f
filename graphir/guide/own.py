"""A graph of one's own, explained on a page as the guide explains the Transformer: figures, tensors, ranks, costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html import escape

from graphir.checking import check_graph
from graphir.checking.position import small_sizes
from graphir.cost import mesh_sizes, step_cost
from graphir.drawing import View, draw
from graphir.guide.communication import communication_table
from graphir.guide.markup import Directive, headings, scrolled, to_html
from graphir.guide.page import figure_html, page_html
from graphir.guide.tables import operations, set_names, table, tensors
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import complete_plan, dce, shard, with_gradients

_HEAD = """
# 1 Forward and backward

What goes in is written above each figure, what comes out below. A value that the backward pass reads again is *cached*:
a double arrow. Each tensor stands beside its arrow, with its shape in named dims.
"""
_OF_SCOPE = """
## 1.{number} {title}

{{drawn {scope} forward}}

{{drawn {scope} backward}}

{{tensors {scope}}}

{{operations {scope}}}
"""
_TAIL = """
# 2 On several ranks

{plan}

{drawn ranks forward}

{drawn ranks backward}

{communication}

{proof}

# 3 What it costs

{costs}
"""
#: What stands for the top scope, whose name is empty, and for all scopes of the sharded graph.
_TOP, _RANKS = "top", "ranks"


def sheet(graph: Graph, mesh: Mesh, sizes: Mapping[str, int], report: Callable[[str], None] = lambda step: None) -> str:
    """The page, as HTML: of the graph with its gradients on one rank, and sharded over `mesh` by the usual plans.

    Dims without a size get a small one. `report` hears of each figure and of the proof.
    Errors: DifferentiationError for a graph that has no gradients, LayoutError where no plan fits it, ConfigError for
    sizes that do not.
    """
    made = _Sheet(graph, mesh, sizes, report)
    text = made.text()
    head = f"<p>{len(graph.nodes)} nodes, {len(graph.parameters)} parameters; {set_names(made.told_sizes)}.</p>"
    foot = "Every figure, table and number here comes from graphs that were checked and run while it was made."
    return page_html(graph.name, head, foot, headings(text), [to_html(text, made.directives, {})])


class _Sheet:
    """What the text's directives are replaced by, for one graph."""

    def __init__(self, graph: Graph, mesh: Mesh, sizes: Mapping[str, int], report: Callable[[str], None]) -> None:
        self.built, self.graph, self.mesh, self.report = graph, with_gradients(graph), mesh, report
        self.sizes = small_sizes(self.graph, mesh, sizes)
        self.plan = complete_plan(None, mesh)
        self.parallel = dce(shard(self.graph, mesh, self.plan, self.sizes))
        self.count = 0
        self.directives: Mapping[str, Directive] = {
            "drawn": self.drawn,
            "tensors": lambda scope: scrolled(tensors(self.graph, _scope(scope)), f"tensors, {scope}"),
            "operations": lambda scope: scrolled(operations([self.graph], _scope(scope)), f"operations, {scope}"),
            "plan": self.told_plan,
            "communication": lambda: communication_table(self.parallel, self.sizes),
            "proof": self.proof,
            "costs": self.costs,
        }

    @property
    def told_sizes(self) -> str:
        """`B = 4, S = 8`: what numbers stand for."""
        return ", ".join(f"{name} = {size}" for name, size in self.sizes.items())

    def text(self) -> str:
        """The page in the notation of `graphir.guide.markup`; of scopes that differ by a layer's number, the first."""
        scopes = dict.fromkeys(node.meta.scope for node in self.built.nodes)
        alike: dict[str, str] = {}
        for scope in scopes:
            alike.setdefault(re.sub(r"\d+", "", scope), scope)
        parts = [
            _OF_SCOPE.format(number=number, title=scope or "The graph", scope=scope or _TOP)
            for number, scope in enumerate(alike.values(), start=1)
        ]
        return "".join([_HEAD, *parts, _TAIL])

    def drawn(self, scope: str, phase: str) -> str:
        """A figure of one scope, or of all that a rank runs; nothing where nothing is."""
        ranks = scope == _RANKS
        graph = self.parallel if ranks else self.graph
        named = "One rank" if ranks else scope if scope != _TOP else graph.name
        view = View(f"{named}, {phase}", phases=(phase,), local=ranks, scopes=() if ranks else (_scope(scope),))
        if not any(view.holds(node) and (ranks or node.meta.scope == _scope(scope)) for node in graph.nodes):
            return ""
        self.count += 1
        self.report(f"figure {self.count}")
        picture = draw(graph, view, f"{scope}-{phase}")
        return figure_html(replace(picture, title=view.title, caption=""), self.count, f"{self.count}")

    def told_plan(self) -> str:
        """The plan, and the ranks that it is for."""
        plan = f"<code>{escape(self.plan.name)}</code>"
        return f"<p>Shared by {self.mesh.size} ranks ({escape(str(self.mesh))}) under the plan {plan}.</p>"

    def proof(self) -> str:
        """Both runs, compared now, tensor by tensor."""
        self.report("proof")
        found = check_graph(self.built, self.mesh, self.plan, self.sizes)
        verdict, kind = ("agree", "proof") if found.ok else ("do NOT agree", "proof failed")
        return (
            f'<p class="{kind}"><strong>Measured.</strong> Run on {self.mesh.size} ranks and on one, with random '
            f"arguments, {len(found.comparisons)} tensors {verdict}: {escape(found.summary())}.</p>"
        )

    def costs(self) -> str:
        """Parameters, FLOPs and memory of one rank, formulas first."""
        found, sizes = step_cost(self.parallel, self.sizes), mesh_sizes(self.parallel, self.sizes)
        rows = [(name, set_names(str(each)), f"{int(each.number(sizes)):,}") for name, each in found.elements.items()]
        rows += [
            (f"FLOPs, {phase}", set_names(str(each)), f"{int(each.number(sizes)):,}")
            for phase, each in found.flops.items()
            if each.terms
        ]
        memory = f"<p>At its fullest, at {escape(found.fullest)}, a rank holds {found.memory.bytes:,} bytes.</p>"
        return f"{scrolled(table(('Of one rank', 'Formula', 'Here'), rows, 'dims'), 'costs')}{memory}"


def _scope(written: str) -> str:
    return "" if written == _TOP else written
