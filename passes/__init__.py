"""Passes: plain functions from graph to graph. Valid in, valid out, the input untouched.

`mixed_precision` casts what products read, `autodiff` adds the d-nodes, `optimize` the optimizer, `shard` rewrites the
graph for the ranks of a mesh, `dce` drops what no output needs, `lower` takes d-nodes apart; those of the `pipeline`
make a graph fast. What all of them are made with is in `graphir.passes.rewrite` and `graphir.passes.patterns`.
"""

if __name__ == "passes":
    raise ImportError("import graphir.passes, not passes: a second copy would have a second operator registry")

from graphir.passes.autodiff import autodiff
from graphir.passes.cse import cse
from graphir.passes.dce import dce
from graphir.passes.fuse import fuse, unfuse
from graphir.passes.keep_slopes import keep_slopes
from graphir.passes.lower import lower
from graphir.passes.mixed_precision import PRECISIONS, RESULTS, mixed_precision
from graphir.passes.optimizer import Optimizer, Schedule, optimize
from graphir.passes.overlap import overlap
from graphir.passes.pipeline import PIPELINE, Pass, pipeline, run_passes, run_pipeline
from graphir.passes.recompute import LEVELS, recompute
from graphir.passes.round_products import round_products
from graphir.passes.separate_products import separate_products
from graphir.passes.sharding import PLANS, Plan, complete_plan, find_plan, shard
from graphir.passes.simplify import simplify
from graphir.passes.softmax_statistics import keep_softmax_statistics

__all__ = [
    "LEVELS",
    "PIPELINE",
    "PLANS",
    "PRECISIONS",
    "RESULTS",
    "Optimizer",
    "Pass",
    "Plan",
    "Schedule",
    "autodiff",
    "complete_plan",
    "cse",
    "dce",
    "find_plan",
    "fuse",
    "keep_slopes",
    "keep_softmax_statistics",
    "lower",
    "mixed_precision",
    "optimize",
    "overlap",
    "pipeline",
    "recompute",
    "round_products",
    "run_passes",
    "run_pipeline",
    "separate_products",
    "shard",
    "simplify",
    "unfuse",
]
