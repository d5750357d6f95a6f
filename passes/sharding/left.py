"""What a plan leaves whole: each argument that an axis does not split although it splits others of its kind, and why.

layer0/mlp/gamma [D] is whole along tp: none of its dims is D_ff, D_[1-9]*, N_KV G or N_H
"""

from __future__ import annotations

from typing import NamedTuple

from graphir.ir.analysis import needed_nodes
from graphir.ir.dims import Sizes, shape_text
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh, filled
from graphir.ir.value import Value
from graphir.passes.sharding.given import read_plan
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

    Errors: LayoutError and DimError as of `shard`, if the plan does not fit.
    """
    plan = find_plan(plan) if isinstance(plan, str) else plan
    given = read_plan(graph, needed_nodes(graph, graph.outputs), mesh, plan, sizes)

    def reason(kind: str, value: Value, axis: str) -> str:
        entries = plan.matches(kind, given.names[value])
        if f"-{axis}" in entries:
            return f"the plan says -{axis} of it"
        if any(entry.startswith("?") and axis in axes_named(entry) for entry in entries):
            return f"none of its dims can be split evenly over {axis}={mesh.sizes[axis]}"
        if axis not in plan.lies:
            return "no entry of the plan names it"
        minor = given.rules.minor(value, axis)
        if minor is not None:
            dim, product = minor
            return f"{dim} is a minor dim of {'·'.join(map(str, product))}, where no split reaches it"
        return f"none of its dims is {_either(split_dims[axis])}"

    split_dims = {axis: _split_dims(graph, given.rules, axis) for axis in plan.lies}
    found = []
    for kind, values in (("inputs", graph.inputs), ("parameters", graph.parameters)):
        for axis in mesh.names:
            first, *rest = given.mesh.parts(axis)
            split = [value for value in values if first in given.stored[value].split_axes]
            if split:
                whole = [value for value in values if value.shape and value not in split]
                found += [Left(value, axis, reason(kind, value, axis)) for value in whole]
            for part in rest:
                over = f"{given.mesh.sizes[part]} ranks of {axis}={mesh.sizes[axis]}"
                alike = f"each of {filled(first)} lies on {over} alike"
                found += [Left(value, part, alike) for value in split if part not in given.stored[value].split_axes]
    return tuple(found)


def _split_dims(graph: Graph, rules: DimRules, axis: str) -> list[str]:
    """The dims that an axis splits somewhere."""
    places = (rules.place(value, axis) for value in graph.arguments)
    return sorted({str(place.reading[0]) for place in places if place is not None})


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
