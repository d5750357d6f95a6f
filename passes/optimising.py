"""The optimising passes in their order: what `gi.compile` does to a graph before it is planned.

    simplify             what returns its operand is left out
    recompute            what the backward pass can make again is not stored
    keep_slopes          an activation's derivative is made with it, and kept in place of its operand
    separate_products    the gradients of a product become products of their own
    share                what is computed twice is computed once
    keep_statistics      a softmax's gradient, and a softmax made again, need no sums over rows; where asked for
    round_products       a product that everybody reads in 16 bits is stored in 16 bits
    fuse                 streams, chains and views become fused nodes
    overlap              what ranks add up is sent as soon as it is made

Each is a plain pass: it can be left out, and the graph between any two printed, drawn, verified and run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from graphir.errors import ConfigError
from graphir.ir.collector import without_collector
from graphir.ir.graph import Graph
from graphir.passes.fuse import fuse
from graphir.passes.overlap import overlap
from graphir.passes.recompute import recompute
from graphir.passes.rounding import round_products
from graphir.passes.separate_products import separate_products
from graphir.passes.share import share
from graphir.passes.simplify import simplify
from graphir.passes.slopes import keep_slopes
from graphir.passes.statistics import keep_statistics

OPTIMISING = (
    "simplify",
    "recompute",
    "keep_slopes",
    "separate_products",
    "share",
    "keep_statistics",
    "round_products",
    "fuse",
    "overlap",
)


def optimising(
    level: str = "masks", without: Collection[str] = (), on_gpu: bool = False
) -> list[Callable[[Graph], Graph]]:
    """The passes, for `run_passes`, with recomputation at `level`, and all but those named by `without`.

    A GPU has arithmetic to spare rather than memory traffic: for it, statistics are kept, for kernels that never store
    the scores, and biases are added again in the backward pass.
    ConfigError for a name that is none of the passes'.
    """
    unknown = sorted(set(without) - set(OPTIMISING))
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} is no optimising pass; there are {', '.join(OPTIMISING)}")
    at_level: Callable[[Graph], Graph] = partial(recompute, level=level, biases=on_gpu)
    at_level.__name__ = "recompute"
    functions = (
        simplify,
        at_level,
        keep_slopes,
        separate_products,
        share,
        keep_statistics,
        round_products,
        fuse,
        overlap,
    )
    passes = dict(zip(OPTIMISING, functions, strict=True))
    left_out = {*without, *(() if on_gpu else ("keep_statistics",))}
    return [each for name, each in passes.items() if name not in left_out]


@without_collector
def optimised(graph: Graph, level: str = "masks", without: Collection[str] = (), on_gpu: bool = False) -> Graph:
    """`graph` through the optimising passes; see `optimising`."""
    for each in optimising(level, without, on_gpu):
        graph = each(graph)
    return graph
