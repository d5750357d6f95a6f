"""Ready-made views of any graph: overall, forward, backward, full, a figure's, or a scope of the graph's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphir.drawing.figures import FIGURES, FigureConfig
from graphir.drawing.figures.single import APART, BLOCKS
from graphir.drawing.view import View, within
from graphir.errors import ConfigError, meant
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph


def usual_view(graph: Graph) -> str:
    """The name of the view that a graph is drawn in where nobody chooses: every node of what is small, else overall."""
    scopes = {node.meta.scope for node in graph.nodes}
    folded = any(within(scope, fold.scope) for scope in scopes for fold in BLOCKS)
    backward = any(node.meta.phase != FORWARD for node in graph.nodes)
    return "overall" if folded or backward else "forward"


def require_layers(graph: Graph, expand: Sequence[int]) -> None:
    """ConfigError unless the graph has all of these layers."""
    scopes = (node.meta.scope.partition("/")[0] for node in graph.nodes)
    layers = sorted({int(scope[5:]) for scope in scopes if scope.startswith("layer") and scope[5:].isdecimal()})
    missing = sorted({*expand} - {*layers})
    if missing:
        there = f"layers {layers[0]} to {layers[-1]}" if layers else "no numbered layers"
        raise ConfigError(f"cannot unfold layer {missing[0]}: the model has {there}")


def find_view(graph: Graph, view: str | View) -> View:
    """`view` itself, or the view of that name for `graph`.

    overall              blocks and layers folded, forward and backward
    forward, backward    every node of one pass, repeated layers once
    full                 every node and edge, nothing folded or left out
    mha-backward, …      as the figure of that id
    layer0/mha           every node of a scope
    The latter two have the backward pass beside the forward one; what it reads of that waits beside its nodes.
    Of a sharded graph all but `overall` show what one rank has: local shapes, [D, D/N_T].
    Errors: ConfigError if there is no such view and no such scope.
    """
    if isinstance(view, View):
        return view
    if view in FIGURES:
        found = FIGURES[view].view(FigureConfig())
        return replace(found, local=found.local or (not found.folds and graph.mesh.size > 1))
    one = graph.mesh.size > 1
    every = (FORWARD, BACKWARD, UPDATE)
    named = {
        "overall": View(
            graph.name, folds=BLOCKS, apart=APART, detailed=False, cached="no", parameters="no", mirror=True
        ),
        "forward": View(graph.name, phases=(FORWARD,), local=one),
        "backward": View(graph.name, phases=(BACKWARD,), local=one),
        "full": View(
            graph.name,
            phases=every,
            full=True,
            expand=tuple(range(len(graph.nodes))),
            local=one,
            mirror=True,
            cached="ports",
        ),
    }
    if view in named:
        return named[view]
    scopes = {node.meta.scope for node in graph.nodes}
    if any(scope == view or scope.startswith(f"{view}/") for scope in scopes):
        return replace(named["forward"], title=view, scopes=(view,), phases=every, mirror=True, cached="ports")
    own = sorted(scope for scope in scopes if scope)[:6]
    shown = f", or a scope: {', '.join(own)}" if own else ""
    near = meant(view, [*named, *FIGURES, *scopes], most=2, cutoff=0.6)
    hint = f"{near} There are" if near else "choose"
    raise ConfigError(
        f"graph {graph.name} has no view called {view!r}; {hint} {', '.join(named)}, a figure's id{shown}"
    )
