"""What collectives are there for: written, read back as it was, and still true when passes have been over the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import graphir as gi
from graphir.ir.graph import Graph
from graphir.ir.purpose import Purpose, Reading
from graphir.passes import LEVELS, cse, dce, lower, overlap, recompute, run_pipeline, simplify
from tests.support.sharding_cases import Case, sharded_step_of

MESH = (("dp", 2), ("tp", 2), ("cp", 2))
#: What may be done to a graph whose collectives are in place.
PASSES: dict[str, Callable[[Graph], Graph]] = {
    "lower": lower,
    "overlap": overlap,
    "cse": cse,
    "simplify": simplify,
    **{f"recompute {level}": lambda graph, level=level: recompute(graph, level) for level in LEVELS},
    "optimised on a GPU": lambda graph: run_pipeline(graph, "attention", on_gpu=True),
    **{f"optimised {level}": lambda graph, level=level: run_pipeline(graph, level) for level in LEVELS},
}


@pytest.mark.parametrize(
    ("purpose", "why"),
    [
        (Purpose("X", "[B|dp, S]", Reading("a/Z", "matmul", "X")), "a/Z = matmul(…) reads X as X [B|dp, S]"),
        (
            Purpose("X", "[B]", Reading("Z", "add", "X0"), ("X", "sum", ("dp", "tp"))),
            "X is a pending sum over dp and tp; Z = add(…) reads it as X0 [B]",
        ),
        (Purpose("X", "[B|tp]", None, ("X", "max", ("tp",))), "X is a pending max over tp; the plan wants X as [B|tp]"),
        (Purpose("X", "[B]"), "the plan wants X as [B]"),
        (Purpose("L", "", None, ("L", "sum", ("dp",))), "L is a pending sum over dp; it is an output of the graph"),
        (Purpose("L"), "L is an output of the graph"),
        (None, None),
        (None, "dMatmul taken apart"),
        (None, "Z = matmul(…) reads bfloat16"),
        (None, "recomputed, so that X need not be stored"),
    ],
    ids=str,
)
def test_it_is_read_as_it_is_written(purpose: Purpose | None, why: str | None) -> None:
    assert Purpose.read(why) == purpose
    assert purpose is None or str(purpose) == why


@pytest.mark.parametrize("plan", ["column", "sequence+vocabulary", "zero1", "data+context+sequence+vocabulary+zero3"])
def test_every_collective_of_a_plan_states_one_and_keeps_it_through_passes(plan: str) -> None:
    graph = dce(sharded_step_of(Case(plan, MESH)))
    moved = [node for node in graph.nodes if node.operator.relayout is not None]
    assert moved
    for node in moved:
        assert str(Purpose.read(node.meta.why)) == node.meta.why
    for done in PASSES.values():
        after = gi.verify(done(graph))
        assert all(Purpose.read(node.meta.why) for node in after.nodes if node.operator.relayout is not None)


def test_what_is_made_again_is_named_instead() -> None:
    """ZeRO's step keeps no mask: the collective that cuts one cuts the one that is made again."""
    case = Case("data+sequence+zero1", (("dp", 2), ("tp", 2)))
    graph = dce(sharded_step_of(case))
    (cut,) = (node for node in graph.nodes if node.name == "embedding/X.m.SLICE")
    assert Purpose.read(cut.meta.why) == Purpose(
        "embedding/X.m", "[B|dp, S|tp, D]", Reading("embedding/dX_emb", "dDO", "m")
    )
    after = recompute(graph, "masks")
    (cut,) = (node for node in after.nodes if node.name == "embedding/X.m.SLICE")
    purpose = Purpose.read(cut.meta.why)
    assert purpose is not None
    assert purpose.moved == cut.inputs[0].name == "embedding/X.m.again"
