"""Passes: plain functions from graph to graph. Valid in, valid out, the input untouched.

`mixed_precision` casts what products read, `autodiff` adds the d-nodes, `optimize` the optimizer, `prune` drops what
no output needs, `share` computes once what is computed twice, `keep_statistics` has a softmax's numbers kept,
`recompute` makes again what the backward pass would hold, `round_products` stores in 16 bits what is read in 16
bits, `lower` takes d-nodes apart, `shard` rewrites the graph for the ranks of a mesh.
"""

if __name__ == "passes":
    raise ImportError("import graphir.passes, not passes: a second copy would have a second operator registry")

from graphir.passes.autodiff import autodiff
from graphir.passes.fuse import fuse, unfuse
from graphir.passes.lower import lower
from graphir.passes.mixed_precision import PRECISIONS, RESULTS, mixed_precision
from graphir.passes.optimising import OPTIMISING, optimised, optimising
from graphir.passes.optimizer import Optimizer, Schedule, optimize
from graphir.passes.overlap import overlap
from graphir.passes.pipeline import Pass, run_passes
from graphir.passes.prune import prune
from graphir.passes.recompute import LEVELS, recompute
from graphir.passes.rounding import round_products
from graphir.passes.separate_products import separate_products
from graphir.passes.sharding import PLANS, Plan, complete_plan, find_plan, shard
from graphir.passes.share import share
from graphir.passes.simplify import simplify
from graphir.passes.slopes import keep_slopes
from graphir.passes.statistics import keep_statistics

__all__ = [
    "LEVELS",
    "OPTIMISING",
    "PLANS",
    "PRECISIONS",
    "RESULTS",
    "Optimizer",
    "Pass",
    "Plan",
    "Schedule",
    "autodiff",
    "complete_plan",
    "find_plan",
    "fuse",
    "keep_slopes",
    "keep_statistics",
    "lower",
    "mixed_precision",
    "optimised",
    "optimising",
    "optimize",
    "overlap",
    "prune",
    "recompute",
    "round_products",
    "run_passes",
    "separate_products",
    "shard",
    "share",
    "simplify",
    "unfuse",
]
