"""Sizes that a page shows first, where nobody says any."""

from __future__ import annotations

from collections.abc import Mapping

from graphir.cost import mesh_sizes
from graphir.errors import DimError
from graphir.ir.dims import Sizes, dim_names
from graphir.ir.graph import Graph
from graphir.ir.layout import local_shape

#: Per dim, of a model that one knows: GPT-2's.
_USUAL: Mapping[str, int] = {"B": 8, "S": 1024, "D": 768, "N_H": 12, "D_ff": 3072, "V": 50304}
_OTHERS = 64


def complete_sizes(graph: Graph, given: Sizes) -> dict[str, int]:
    """`given`, completed: dims of the documents as a small GPT-2 has them, others 64, or the next that ranks divide.

    Those of mesh axes (N_T, N_DP, …) and dims that follow from others are included. Errors: DimError for sizes that
    cannot be: a rank's block has to be whole.
    """
    defined = {name for dim in graph.dims for name in dim.definitions}
    open_names = sorted(dim_names([graph.dims]) - defined - set(given))
    ranks = graph.mesh.size
    for step in (1, ranks, 12 * ranks):
        usual = {name: -(-_USUAL.get(name, _OTHERS) // step) * step for name in open_names}
        # A dim that fills a part of an axis, N_KV of tp.N_KV, is as large as that part.
        usual |= {name: size for name, size in graph.mesh.symbols.items() if name in usual}
        try:
            return _checked(graph, {**usual, **given})
        except DimError:
            if step == 12 * ranks or not open_names:
                raise
    raise AssertionError("one of the steps returned or raised")


def _checked(graph: Graph, sizes: Sizes) -> dict[str, int]:
    complete = mesh_sizes(graph, sizes)
    for type in {value.type for value in graph.values.values()}:
        for dim in local_shape(type.shape, type.layout):
            dim.size(complete)
    return complete
