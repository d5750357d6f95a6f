"""Passes: plain functions from graph to graph. Valid in, valid out, the input untouched.

`lora` adds small products beside large ones, `as_stored` holds weights as files have them, `mixed_precision` casts what
products read, `autodiff` adds the d-nodes, `optimize` the optimizer, `shard` rewrites the graph for the ranks of a mesh
(`sharding`), `dce` drops what no output needs, `lower` takes d-nodes apart. Those of the `pipeline`, where it is said
what each is for, make a graph fast: `simplify`, `recompute`, `keep_slopes`, `separate_products`, `cse`,
`keep_softmax_statistics` (`softmax_statistics`, by `value_numbering`), `round_products`, `fuse` and `overlap`. `roots`
and `rename` are parts of `autodiff`, and `obstacles` says why it cannot.

A pass says what takes the place of a node (`rewrite`), and asks what a node is by patterns over traits and structure
(`patterns`); all that it does not speak of is carried over in one place. None compares an operator's name, so an
operator that somebody declares tomorrow is met by all that its traits let it take part in.

What `fuse` makes are *fused nodes*, each holding its graph: back-to-back products (two batched ones with what lies
between, attention's core), chains (elementwise, row-wise and reducing nodes that share rows), and views (T, R, C, BC)
folded into who reads or makes what they rearrange. `unfuse` gives the nodes back under their own names.

Any pass of the pipeline can be left out (`gi.compile(…, without=["fuse"])`), and any graph between them printed, drawn,
verified and run (`run_passes`). `tests/passes/test_examples.py` shows each by a graph before and the graph after.
"""

if __name__ == "passes":
    raise ImportError("import graphir.passes, not passes: a second copy would have a second operator registry")

from graphir.passes.as_stored import as_stored
from graphir.passes.autodiff import autodiff, with_gradients
from graphir.passes.cse import cse
from graphir.passes.dce import dce
from graphir.passes.fuse import fuse, unfuse
from graphir.passes.keep_slopes import keep_slopes
from graphir.passes.lora import adapters, lora
from graphir.passes.lower import lower
from graphir.passes.mixed_precision import PRECISIONS, RESULTS, mixed_precision
from graphir.passes.optimizer import Optimizer, Schedule, optimize
from graphir.passes.overlap import overlap
from graphir.passes.pipeline import PIPELINE, Pass, pipeline, run_passes, run_pipeline
from graphir.passes.recompute import LEVELS, recompute
from graphir.passes.round_products import round_products
from graphir.passes.separate_products import separate_products
from graphir.passes.sharding import PLANS, Left, Plan, complete_plan, find_plan, left_whole, shard
from graphir.passes.simplify import simplify
from graphir.passes.softmax_statistics import keep_softmax_statistics

__all__ = [
    "LEVELS",
    "PIPELINE",
    "PLANS",
    "PRECISIONS",
    "RESULTS",
    "Left",
    "Optimizer",
    "Pass",
    "Plan",
    "Schedule",
    "adapters",
    "as_stored",
    "autodiff",
    "complete_plan",
    "cse",
    "dce",
    "find_plan",
    "fuse",
    "keep_slopes",
    "keep_softmax_statistics",
    "left_whole",
    "lora",
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
    "with_gradients",
]
