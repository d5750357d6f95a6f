"""Graphs in pickles and copies: the same graph arrives, here and in other processes, or an error that says why not."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import graphir as gi
from graphir.errors import GraphError, OperatorError, VerifyError
from graphir.ir import operator as registry
from graphir.ir.graph import Graph
from graphir.passes import autodiff, dce, fuse, optimize, run_pipeline, shard
from tests.fixtures.own_operator import doubled
from tests.support.random_graphs import graphs

STEP = optimize(autodiff(gi.models.transformer(layers=1, mask="padding")))
SHARDED = dce(shard(STEP, gi.Mesh(dp=2, tp=2), "data+megatron"))
GRAPHS = {
    "forward": gi.models.transformer(layers=2),
    "training": STEP,
    "sharded": SHARDED,
    "fused": run_pipeline(STEP),
    "sharded and fused": run_pipeline(SHARDED),
}


def arrived(graph: Graph) -> Graph:
    """The graph through a pickle, after asserting that nothing is lost."""
    back = pickle.loads(pickle.dumps(graph))
    assert back is not graph
    assert back == graph
    assert hash(back) == hash(graph)
    assert [node.meta for node in back.nodes] == [node.meta for node in graph.nodes]
    assert gi.to_text(back) == gi.to_text(graph)
    assert len({value.owner for value in back.values.values()}) <= 1
    return gi.verify(back)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_come_back_equal(name: str) -> None:
    arrived(GRAPHS[name])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graph=graphs(casts=True))
def test_random_graphs_come_back_equal(graph: Graph) -> None:
    arrived(graph)
    arrived(fuse(graph))


def test_a_copy_of_what_cannot_change_is_itself() -> None:
    for value in (STEP, STEP.nodes[0], STEP["T"]):
        assert copy.copy(value) is value
        assert copy.deepcopy(value) is value
    assert copy.deepcopy({"graph": STEP})["graph"] is STEP


def test_what_arrives_can_be_built_upon_and_run() -> None:
    back = arrived(gi.models.mlp(1))
    assert autodiff(back) == autodiff(gi.models.mlp(1))


def test_parts_go_with_their_graph() -> None:
    builder = gi.Builder("mine")
    parts = {"value T": STEP["T"], "node embedding/X_tok": STEP.nodes[0], "builder mine": builder}
    for name, part in parts.items():
        with pytest.raises(GraphError, match=rf"^{name} is not copied or pickled by itself, but with its graph"):
            pickle.dumps(part)
    with pytest.raises(GraphError, match=r"^builder mine is not copied"):
        copy.deepcopy(builder)


def test_operators_are_found_by_their_keys() -> None:
    assert pickle.loads(pickle.dumps(gi.matmul)) is gi.matmul
    assert pickle.loads(pickle.dumps(run_pipeline(STEP).nodes[-1].operator)) in {
        each.operator for each in run_pipeline(STEP).nodes
    }


# -- other processes ------------------------------------------------------------------------------------------


def _own() -> Graph:
    block = gi.Builder("own")
    return block.build(doubled(block.input("X", (gi.dim("B"),)), name="Y"))


def _run(graph: Graph) -> tuple[str, list[float]]:
    """In a process that has been spawned: what arrived, and what it computes."""
    made = gi.compile(graph, {"B": 3})({"X": np.arange(3, dtype=np.float32)})
    return gi.to_text(graph), [float(each) for each in made["Y"]]


@pytest.mark.slow
def test_a_spawned_process_gets_graphs_of_operators_that_its_function_s_module_imports() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        text, made = pool.submit(_run, _own()).result()
    assert text == gi.to_text(_own())
    assert made == [0.0, 2.0, 4.0]


def test_an_operator_that_is_not_declared_where_it_arrives_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(_own())
    monkeypatch.delitem(registry._REGISTRY, doubled.key)
    with pytest.raises(
        OperatorError, match=r"import the module that declares it, tests\.fixtures\.own_operator, before"
    ):
        pickle.loads(sent)


def test_what_is_no_graph_does_not_arrive() -> None:
    block = gi.Builder("wrong")
    X = block.input("X", (2,))
    node = block.declare(
        gi.exponential, [X], gi.exponential.normalize({}), [("Y", gi.TensorType("float32", (3,)))], gi.Meta()
    )
    with pytest.raises(VerifyError, match=r"Y = exp\(…\) is declared float32\[3\], but its inputs make float32\[2\]"):
        pickle.loads(pickle.dumps(block.build(*node.outputs)))
