"""Running passes one after the other, verified between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from graphir.errors import VerifyError
from graphir.ir.graph import Graph
from graphir.ir.verify import verify

Pass: TypeAlias = Callable[[Graph], Graph]


def run_passes(graph: Graph, passes: Iterable[Pass], *, between: Callable[[str, Graph], None] | None = None) -> Graph:
    """`graph` through `passes` in order, each result verified; `between` sees each by the pass's name.

    VerifyError names the pass that broke the graph.
    """
    verify(graph)
    for each in passes:
        name = getattr(each, "__name__", type(each).__name__)
        graph = each(graph)
        try:
            verify(graph)
        except VerifyError as error:
            raise VerifyError(f"pass {name} made an invalid graph: {error}") from None
        if between is not None:
            between(name, graph)
    return graph
