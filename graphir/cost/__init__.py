"""What a graph costs, as formulas in its dims first and numbers second: parameters, FLOPs, memory, communication.

Everything is counted from the graph itself: FLOPs from each operator's iteration space, memory from lifetimes,
bytes between ranks from the collectives. A fused node costs what the nodes that it holds do. Of a sharded graph all
of it is one rank's.
"""

from graphir.cost.communication import (
    ALGORITHMS,
    CollectiveCost,
    Formula,
    axes_of,
    collective_cost,
    mesh_sizes,
)
from graphir.cost.compute import Kind, alike, count_elements, count_flops, kind_of, node_flops, plain_nodes
from graphir.cost.lifetimes import of_any_layer
from graphir.cost.memory import Peak, peak_memory
from graphir.cost.polynomial import Polynomial
from graphir.cost.step import StepCost, extrapolate, step_cost

__all__ = [
    "ALGORITHMS",
    "CollectiveCost",
    "Formula",
    "Kind",
    "Peak",
    "Polynomial",
    "StepCost",
    "alike",
    "axes_of",
    "collective_cost",
    "count_elements",
    "count_flops",
    "extrapolate",
    "kind_of",
    "mesh_sizes",
    "node_flops",
    "of_any_layer",
    "peak_memory",
    "plain_nodes",
    "step_cost",
]
