"""Sharding: from a graph for one rank to the graph of every rank of a mesh.

plans         which values lie how, by patterns of names; the ready-made ones
given         what a plan says of one graph
propagation   what a node does with the layouts that it sees: which factor gets an axis
reshard       how a value gets from one layout to another: the one birthplace of collectives
sharder       the walk that ties them together
"""

from graphir.passes.sharding.plans import PLANS, Plan, complete_plan, find_plan
from graphir.passes.sharding.reshard import route
from graphir.passes.sharding.sharder import shard

__all__ = ["PLANS", "Plan", "complete_plan", "find_plan", "route", "shard"]
