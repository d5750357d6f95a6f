"""Random graphs under random plans on random meshes: sharded = unsharded, for every value.

Not only the outputs are compared but all that both graphs hold: what is split is put together, what is pending is
reduced. So a wrong value is caught where it arises, not where it ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, Plan, autodiff, optimize, shard
from tests.support.random_graphs import Program, elements, programs
from tests.support.sharding_cases import meshes, norm, plans

#: Blocks of a few thousand numbers at most: the time goes into many graphs, not into large ones.
_LARGEST = 40_000
_options = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Program, Graph, Mesh, Plan]:
    """A program, differentiated (and in half the cases with an optimizer), a mesh, and a plan."""
    mesh = draw(meshes())
    program = draw(programs(multiple=mesh.size, largest=1, steps=draw(st.integers(3, 10))))
    assume(elements(program) <= _LARGEST)
    joint = autodiff(program.graph, wrt=[value.name for value in program.graph.arguments if value.type.is_float])
    if joint.parameters and draw(st.booleans()):
        joint = optimize(joint, Optimizer("sgd", momentum=0.9, clip=draw(st.sampled_from((None, 0.1)))))
    return program, joint, mesh, draw(plans(joint, mesh))


def arguments(program: Program, joint: Graph) -> dict[str, Any]:
    """The program's arrays, and zeros for the state and the step that the optimizer added."""
    held = program.arrays()
    for value in joint.arguments:
        if value.name not in held:
            held[value.name] = np.zeros([each.size(program.sizes) for each in value.shape], value.dtype)
    return {value.name: held[value.name] for value in joint.arguments}


@pytest.mark.slow
@settings(_options, max_examples=12)
@given(case=cases())
def test_sharded_is_unsharded(case: tuple[Program, Graph, Mesh, Plan]) -> None:
    require_the_same(*case)


@pytest.mark.slow
@settings(_options, max_examples=60)
@given(case=cases())
def test_sharded_is_unsharded_over_and_over(case: tuple[Program, Graph, Mesh, Plan]) -> None:
    require_the_same(*case)


def require_the_same(program: Program, joint: Graph, mesh: Mesh, plan: Plan) -> None:
    local = gi.verify(shard(joint, mesh, plan, program.sizes))
    names = [
        name
        for name, value in local.values.items()
        if value in local.producers and name in joint.values and value.type.is_float
    ]
    assert {value.name for value in joint.outputs} <= {local.origin(value).name for value in local.outputs}
    held = arguments(program, joint)
    single, parallel = (gi.compile(graph, program.sizes, fetch=names)(held) for graph in (joint, local))
    for name in names:
        # Values are of size one; what is smaller may be what is left of cancelling.
        assert norm(parallel[name] - single[name]) <= 1e-10 * max(norm(single[name]), 1e-3), name
