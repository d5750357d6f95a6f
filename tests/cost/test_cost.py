"""Communication by formula: what the simulated ranks count, and what the documents say."""

from fractions import Fraction

import pytest

import graphir as gi
from graphir.backends import Executable, plan
from graphir.backends.communicator import ALGORITHMS as SIMULATED
from graphir.checking import Setting
from graphir.cost import ALGORITHMS, collective_cost, mesh_sizes
from graphir.errors import ConfigError
from graphir.ir.layout import Layout, Mesh

PLANS = [
    ("data+megatron", Mesh(dp=2, tp=3)),
    ("data+sequence+vocabulary+zero3", Mesh(tp=2, dp=2)),
    ("context", Mesh(dp=2, cp=2, tp=2)),
    ("column", Mesh(tp=4)),
]


def collectives(graph):
    return [node for node in graph.nodes if node.operator.relayout is not None]


def test_the_algorithms_are_those_of_the_communicator():
    assert ALGORITHMS == SIMULATED


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("name", "mesh"), PLANS, ids=[name for name, _ in PLANS])
def test_formulas_equal_what_the_ranks_send(name, mesh, algorithm):
    setting = Setting(1, name, mesh)
    single = setting.single()
    parallel = setting.parallel(single)
    sizes = setting.complete_sizes()
    run = Executable(plan(parallel, sizes), algorithm)(setting.arguments(single))
    complete = mesh_sizes(parallel, sizes)
    assert len(collectives(parallel)) > 8
    for node in collectives(parallel):
        cost, sent = collective_cost(node, mesh, algorithm), run.traffic[node.name]
        assert cost.total.number(complete) == sent.total_bytes, node
        for group in mesh.groups(cost.axes):
            first, *others = group
            rest = cost.each if cost.others is None else cost.others
            assert cost.group.number(complete) == sum(sent.bytes[rank] for rank in group), node
            even = cost.payload.size(complete) % len(group) == 0
            if even or algorithm != "ring":  # else each is a mean
                assert sent.bytes[first] == cost.each.number(complete), node
                assert all(sent.bytes[rank] == rest.number(complete) for rank in others), node


def exchange(build, mesh, shape, layout=None):
    """The node of one collective on X, float32 of `shape`, and its sizes."""
    block = gi.Builder("one", mesh=mesh)
    return collectives(block.build(build(block.input("X", shape, layout=layout))))[0]


#: What is sent for X [B, S, D] float32 pending over tp, N_T = 3, B*S*D = 24 elements: written by hand.
B, S, D = gi.dims("B S D")
SIZES = {"B": 2, "S": 3, "D": 4, "N_T": 3}
PAYLOAD = 24 * 4
PENDING = Layout([[], [], []], {"tp": "sum"})


def reduced(algorithm):
    node = exchange(lambda X: gi.all_reduce(X, axes=("tp",)), Mesh(tp=3), (B, S, D), PENDING)
    return collective_cost(node, Mesh(tp=3), algorithm)


def test_the_documents_naive_is_two_n_minus_one_payloads_in_all():
    cost = reduced("naive")
    assert str(cost.group) == "2 (N_T − 1) · B*S*D · 4 bytes"
    assert cost.group.number(SIZES) == 2 * 2 * PAYLOAD
    assert cost.each.number(SIZES) == 2 * PAYLOAD  # the root
    assert cost.others.number(SIZES) == PAYLOAD
    assert str(cost.others) == "B*S*D · 4 bytes"


def test_the_documents_direct_is_n_minus_one_payloads_a_node():
    cost = reduced("direct")
    assert str(cost.each) == "(N_T − 1) · B*S*D · 4 bytes"
    assert cost.each.number(SIZES) == 2 * PAYLOAD
    assert cost.others is None


def test_the_documents_ring_is_two_n_minus_one_nths_a_node():
    cost = reduced("ring")
    assert str(cost.each) == "2 (N_T − 1)/N_T · B*S*D · 4 bytes"
    assert cost.each.number(SIZES) == Fraction(2 * 2, 3) * PAYLOAD
    assert cost.group.number(SIZES) == 4 * PAYLOAD


def test_a_gradients_all_reduce_is_the_documents_two_d_d_ff():
    """A 3.5: the MLP's gradients, 2 D D_ff elements in all, around a ring of N_DP."""
    setting = Setting(1, "data", Mesh(dp=4), optimizer="none")
    graph = setting.parallel(setting.single())
    costs = [
        collective_cost(graph.producers[graph[f"layer0/mlp/{name}.AR"]], graph.mesh) for name in ("dW_up", "dW_down")
    ]
    assert [str(cost.each) for cost in costs] == [
        "2 (N_DP − 1)/N_DP · D*D_ff · 4 bytes",
        "2 (N_DP − 1)/N_DP · D_ff*D · 4 bytes",
    ]
    assert sum(cost.payload.size({"D": 8, "D_ff": 32}) for cost in costs) == 2 * 8 * 32


def test_a_local_slice_sends_nothing():
    node = exchange(lambda X: gi.local_slice(X, dim=2, axis="tp"), Mesh(tp=2), (B, S, D))
    cost = collective_cost(node, Mesh(tp=2))
    assert str(cost.total) == "0"
    assert cost.total.number({**SIZES, "N_T": 2}) == 0


def test_several_axes_are_one_group():
    layout = Layout([[], [], []], {"tp": "sum", "dp": "sum"})
    mesh = Mesh(dp=2, tp=3)
    node = exchange(lambda X: gi.all_reduce(X, axes=("dp", "tp")), mesh, (B, S, D), layout)
    cost = collective_cost(node, mesh)
    assert str(cost.each) == "2 (N_DP*N_T − 1)/(N_DP*N_T) · B*S*D · 4 bytes"
    assert cost.total.number({**SIZES, "N_DP": 2}) == 2 * 5 * PAYLOAD


def test_two_terms_are_added_up():
    node = exchange(lambda X: gi.reduce_scatter(X, dim=1, axis="tp"), Mesh(tp=3), (B, S, D), PENDING)
    cost = collective_cost(node, Mesh(tp=3), "naive")
    assert str(cost.group) == "(1 + 1/N_T) (N_T − 1) · B*S*D · 4 bytes"
    assert cost.group.number(SIZES) == 2 * PAYLOAD + 2 * PAYLOAD // 3


def test_what_is_no_collective_costs_an_error():
    block = gi.Builder("none")
    node = block.build(gi.scale(block.input("X", (B,)), by=2.0, name="Y")).nodes[0]
    with pytest.raises(ConfigError, match=r"Y = scale\(…\) is no collective"):
        collective_cost(node, Mesh())
    with pytest.raises(ConfigError, match="algorithm 'tree' is unknown; choose from ring, direct, naive"):
        collective_cost(node, Mesh(), "tree")


def test_numbers_are_exact():
    assert isinstance(reduced("ring").each.number(SIZES), Fraction)
