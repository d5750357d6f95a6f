"""Sharding: from a graph for one rank to the graph of every rank of a mesh.

    plans         which named dims lie over which axes, and which values are exceptions
    ready         the ready-made plans
    splits        how an entry of a plan splits one value
    logical       what a dim stands for: of W_Q [D, D] the second is N_H·D_h, as the R that reads it says
    maps          what a product makes of what, N_H -> D, by which a plan speaks of parameters under any name
    laying        how a plan's dims lie in one argument
    subaxes       an axis of more ranks than heads of keys is taken apart
    residual      the residual stream, found by what it is
    given         what a plan says of one graph
    left          what a plan leaves whole, and why
    propagation   what a node does with the layouts that it sees: which factor gets an axis
    reshard       how a value gets from one layout to another: the one birthplace of collectives
    sharder       the walk that ties them together

One walk over the differentiated graph. At each node the factors of its rule get the mesh axes, first come, first
served: as the forward node did, of its d-node; as the parameters that it reads are split; as is wanted of its output,
for axes that are pending or that operands disagree about; as the operands lie (`propagation.place`). The operands are
then brought to that assignment by `reshard.route(have, want)`, which knows five collectives and nothing else. What is
pending travels on through whatever only moves or adds, and is settled before all else: by a reduce-scatter if its axis
is wanted for a split, by an all-reduce if not. What is made to measure, a broadcast above all, is offered to its
readers as what it is made of lies.

No pass knows what an MLP is: Megatron's two plus two all-reduces a layer, sequence parallelism's reduce-scatters and
ZeRO's gathers follow from a plan's few lines. What each ready-made plan communicates is in `PLANS.md`, generated.

Every collective states what it is for (`graphir.ir.purpose`). `graphir why` prints it, and `verify` holds the graph to
it: on another operand of the same type a collective would be no type error, but no longer bring the value that it names
to the reader that it names.
"""

from graphir.passes.sharding.left import Left, left_whole
from graphir.passes.sharding.plans import Plan
from graphir.passes.sharding.ready import PLANS, complete_plan, find_plan
from graphir.passes.sharding.reshard import route
from graphir.passes.sharding.sharder import shard

__all__ = ["PLANS", "Left", "Plan", "complete_plan", "find_plan", "left_whole", "route", "shard"]
