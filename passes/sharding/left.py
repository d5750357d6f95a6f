"""What a plan leaves whole: each argument that an axis does not split although it splits others of its kind, and why.

layer0/mlp/gamma [D] is whole along tp: none of its dims is D_ff, D_[1-9]*, N_KV G or N_H
"""

from __future__ import annotations

from typing import NamedTuple

from graphir.ir.analysis import needed_nodes
from graphir.ir.dims import Sizes, shape_text
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes.sharding.given import all_names, read_plan
from graphir.passes.sharding.laying import DimRules
from graphir.passes.sharding.plans import Plan
from graphir.passes.sharding.ready import find_plan
from graphir.passes.sharding.splits import axes_named


class Left(NamedTuple):
    """An argument that is whole along an axis, and the reason."""

    value: Value
    axis: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value.name} {shape_text(self.value.shape)} is whole along {self.axis}: {self.reason}"


def left_whole(graph: Graph, mesh: Mesh, plan: Plan | str, sizes: Sizes | None = None) -> tuple[Left, ...]:
    """What of the inputs and parameters of `graph` `shard` would leave whole under the same plan; scalars are.

    Errors: LayoutError as of `shard`, if the plan does not fit.
    """
    plan = find_plan(plan) if isinstance(plan, str) else plan
    nodes, names = needed_nodes(graph, graph.outputs), all_names(graph)
    rules = DimRules(plan, nodes)
    stored = read_plan(graph, nodes, mesh, plan, rules, sizes).stored

    def reason(kind: str, value: Value, axis: str) -> str:
        splits = plan.matches(kind, names[value])
        if f"-{axis}" in splits:
            return f"the plan says -{axis} of it"
        if any(split.startswith("?") and axis in axes_named(split) for split in splits):
            return f"none of its dims can be split evenly over {axis}={mesh.sizes[axis]}"
        return rules.reason(value, axis) if axis in plan.lies else "no entry of the plan names it"

    found = []
    for kind, values in (("inputs", graph.inputs), ("parameters", graph.parameters)):
        for axis in mesh.names:
            whole = [value for value in values if axis not in stored[value].split_axes]
            if len(whole) < len(values):
                found += [Left(value, axis, reason(kind, value, axis)) for value in whole if value.shape]
    return tuple(found)
