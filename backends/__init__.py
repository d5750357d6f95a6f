"""Backends: plan a graph for given sizes, and run it."""

if __name__ == "backends":
    raise ImportError("import graphir.backends, not backends: a second copy would see a second operator registry")

from graphir.backends import entries  # which registers them
from graphir.backends.executable import Executable, Run
from graphir.backends.initialize import initialize
from graphir.backends.plan import ExecutionPlan, Step, plan

__all__ = ["Executable", "ExecutionPlan", "Run", "Step", "entries", "initialize", "plan"]
