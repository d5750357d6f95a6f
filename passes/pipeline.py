"""The pass pipeline: what `gi.compile` does to a graph before it is planned, and how passes are run one by one.

    simplify                 what returns its operand is left out
    recompute                what the backward pass can make again is not stored
    keep_slopes              an activation's derivative is made with it, and kept in place of its operand
    separate_products        the gradients of a product become products of their own
    cse                      what is computed twice is computed once
    keep_softmax_statistics  a softmax's gradient, and a softmax made again, need no sums over rows; where asked for
    round_products           a product that everybody reads in 16 bits is stored in 16 bits
    fuse                     back-to-back products, chains and views become fused nodes
    overlap                  what ranks add up is sent as soon as it is made

Each is a plain pass: it can be left out, and the graph between any two printed, drawn, verified and run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TypeAlias

from graphir.errors import ConfigError, VerifyError
from graphir.ir.collector import without_collector
from graphir.ir.graph import Graph
from graphir.ir.verify import verify
from graphir.passes.cse import cse
from graphir.passes.fuse import fuse
from graphir.passes.keep_slopes import keep_slopes
from graphir.passes.overlap import overlap
from graphir.passes.recompute import recompute
from graphir.passes.round_products import round_products
from graphir.passes.separate_products import separate_products
from graphir.passes.simplify import simplify
from graphir.passes.softmax_statistics import keep_softmax_statistics

Pass: TypeAlias = Callable[[Graph], Graph]

#: The names of the passes, in their order.
PIPELINE = (
    "simplify",
    "recompute",
    "keep_slopes",
    "separate_products",
    "cse",
    "keep_softmax_statistics",
    "round_products",
    "fuse",
    "overlap",
)


def pipeline(level: str = "masks", without: Collection[str] = (), on_gpu: bool = False) -> list[Pass]:
    """The passes, for `run_passes`, with recomputation at `level`, and all but those named by `without`.

    A GPU has arithmetic to spare rather than memory traffic: for it, statistics are kept, for kernels that never store
    the scores, and biases are added again in the backward pass.
    ConfigError for a name that is none of the passes'.
    """
    unknown = sorted(set(without) - set(PIPELINE))
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} is no optimising pass; there are {', '.join(PIPELINE)}")
    at_level: Pass = partial(recompute, level=level, biases=on_gpu)
    at_level.__name__ = "recompute"
    functions: tuple[Pass, ...] = (
        simplify,
        at_level,
        keep_slopes,
        separate_products,
        cse,
        keep_softmax_statistics,
        round_products,
        fuse,
        overlap,
    )
    passes = dict(zip(PIPELINE, functions, strict=True))
    left_out = {*without, *(() if on_gpu else ("keep_softmax_statistics",))}
    return [each for name, each in passes.items() if name not in left_out]


@without_collector
def run_pipeline(graph: Graph, level: str = "masks", without: Collection[str] = (), on_gpu: bool = False) -> Graph:
    """`graph` through all the passes of `pipeline`, which says what is asked for here."""
    for each in pipeline(level, without, on_gpu):
        graph = each(graph)
    return graph


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
