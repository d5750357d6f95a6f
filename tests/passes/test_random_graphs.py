"""The random programs that property tests draw: they run, and every parameter has a finite gradient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

import graphir as gi
from graphir.passes import autodiff
from tests.support.random_graphs import MOVES, Program, programs

_options = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_options
@given(program=programs(casts=True))
def test_programs_run_and_are_differentiable(program: Program) -> None:
    graph = gi.verify(program.graph)
    differentiable = [value.name for value in graph.arguments if value.type.is_float]
    run = gi.compile(autodiff(graph, wrt=differentiable), program.sizes)(program.arrays())
    assert len(run) == 1 + len(differentiable)
    for name, array in run.items():
        assert np.isfinite(array).all(), name
        assert np.abs(array).max() < 1e6, name


@_options
@given(program=programs(multiple=4, largest=1, random=False))
def test_sizes_are_multiples_where_ranks_share_them(program: Program) -> None:
    assert all(size % 4 == 0 for size in program.sizes.values())
    assert all(node.operator.key != "DO" for node in program.graph.nodes)
    for each in program.graph.dims:
        assert each.size(program.sizes) % 4 == 0


#: The operator that each kind of step is there for.
OPERATORS = {
    "matmul": "matmul",
    "scores": "SM",
    "add": "add",
    "bias": "add",
    "multiply": "mul",
    "activation": "GL",
    "scale": "scale",
    "exp": "exp",
    "layer_norm": "LN",
    "softmax": "S",
    "dropout": "DO",
    "transpose": "T",
    "reshape": "R",
    "concatenate": "C",
    "broadcast": "BC",
    "sum": "sum",
    "cast": "cast",
    "lookup": "lookup",
    "positions": "positions",
    "cross_entropy": "CE",
    "choice": "ARG",
}


@pytest.mark.parametrize("move", sorted(MOVES))
def test_every_step_occurs(move: str) -> None:
    """Each kind of step can be drawn, and adds the operator that it is there for."""

    def occurs(program: Program) -> bool:
        return any(n.operator.key == OPERATORS[move] and n.meta.scope != "loss" for n in program.graph.nodes)

    # The first one found will do: no need to look for the smallest.
    once = settings(deadline=None, database=None, phases=[Phase.generate])
    find(programs(moves=[move], casts=True), occurs, settings=once)
