"""One collective wrong, in every way that a hand could leave it: who finds it, and what is left unseen, and why.

Both `verify`, by what collectives are there for, and the parity check, by numbers and by what nobody reads any more,
see all but those in which everybody reads what they should (`IDLE`), which harm nothing. What is left unseen beside
them: verify judges a collective by hand, which states no purpose, by its type alone; and of a value's readers a purpose
names one: that another of them reads something else, numbers alone tell.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest

import graphir as gi
from graphir.backends import Executable
from graphir.checking import Report, Setting, check
from graphir.checking.reference import make_reference
from graphir.errors import VerifyError
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, autodiff, dce, optimize, shard
from tests.passes.sharding.collective_mutants import Mutant, mutants
from tests.support.sampled import sampled

#: All read what they did: only the order of results, which are known by name, or the number of collectives changes.
IDLE = "idle"

SIZES = {"B": 2, "S": 8, "D": 8, "N_H": 4, "D_ff": 8, "V": 8}
MESH = Mesh(dp=2, tp=2, cp=2)


@lru_cache
def training_step(plan: str) -> Graph:
    step = optimize(autodiff(gi.models.transformer(1, decode=None), loss="L"), Optimizer("sgd", clip=0.1))
    return gi.verify(dce(shard(step, MESH, plan, SIZES)))


def contents(graph: Graph) -> tuple[object, ...]:
    """Who reads what, and what is returned, whichever collectives brought it there."""
    reads = {
        node.name: (node.operator.key, *(graph.origin(value).name for value in node.inputs))
        for node in graph.nodes
        if node.operator.relayout is None
    }
    return reads, {graph.origin(value).name for value in graph.outputs}


def guard(mutant: Mutant, graph: Graph) -> str:
    """What verify says of a mutant: it breaks a type, it is misplaced, or nothing, and why that is right."""
    try:
        gi.verify(mutant.graph)
    except VerifyError as error:
        return "misplaced" if " is misplaced: " in str(error) else "types"
    assert contents(mutant.graph) == contents(graph), mutant
    return IDLE


#: How many mutants of each kind who finds.
FOUND: dict[str, dict[tuple[str, str], int]] = {
    "data+megatron": {
        ("rewired", "misplaced"): 82,
        ("dropped", "types"): 25,
        ("repeated", "types"): 25,
        ("twice", "misplaced"): 25,
        ("exchanged", "misplaced"): 32,
        ("results exchanged", "misplaced"): 1,
        ("other axis", "types"): 50,
    },
    "column": {
        ("rewired", "misplaced"): 60,
        ("dropped", "types"): 9,
        ("repeated", "types"): 9,
        ("twice", "misplaced"): 8,
        ("twice", IDLE): 1,  # of what the plan pins: whoever moves it first will do
        ("exchanged", "misplaced"): 1,
        ("other axis", "types"): 18,
        ("other dim", "types"): 10,
    },
    "sequence+vocabulary": {
        ("rewired", "misplaced"): 245,
        ("dropped", "types"): 31,
        ("repeated", "types"): 31,
        ("twice", "misplaced"): 31,
        ("exchanged", "misplaced"): 33,
        ("other axis", "types"): 62,
        ("other dim", "types"): 31,
    },
    "context+megatron": {
        ("rewired", "misplaced"): 94,
        ("dropped", "types"): 33,
        ("repeated", "types"): 33,
        ("twice", "misplaced"): 33,
        ("exchanged", "misplaced"): 32,
        ("results exchanged", "misplaced"): 2,
        ("other axis", "types"): 66,
        ("other dim", "types"): 18,
    },
    "zero2": {
        ("rewired", "misplaced"): 590,
        ("dropped", "types"): 57,
        ("repeated", "types"): 57,
        ("twice", "misplaced"): 39,
        ("twice", IDLE): 18,  # new parameters and state, which the plan pins
        ("exchanged", "misplaced"): 69,
        ("results exchanged", "misplaced"): 1,
        ("results exchanged", IDLE): 34,  # the same, which are only returned, and known by name
        ("other axis", "types"): 114,
        ("other dim", "types"): 24,
    },
    "zero3": {
        ("rewired", "misplaced"): 321,
        ("dropped", "types"): 48,
        ("repeated", "types"): 48,
        ("twice", "misplaced"): 48,
        ("exchanged", "misplaced"): 111,
        ("results exchanged", "misplaced"): 4,
        ("other axis", "types"): 96,
        ("other dim", "types"): 22,
    },
}


@sampled(2, plan=list(FOUND))
def test_verify_finds_every_collective_that_is_not_where_it_belongs(plan: str) -> None:
    graph = training_step(plan)
    counts = Counter((mutant.kind, guard(mutant, graph)) for mutant in mutants(graph))
    assert counts == FOUND[plan]


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["data+megatron", "sequence+vocabulary", "zero1"])
def test_what_is_wrong_is_found_when_dead_nodes_are_gone(plan: str) -> None:
    """Rewired, and pruned: the value that should have been moved is not even there."""
    graph, found = training_step(plan), 0
    for mutant in list(mutants(graph))[::7]:
        if mutant.kind == "rewired":
            with pytest.raises(VerifyError, match=r" is misplaced: it is there to bring .* to its place, but moves "):
                gi.verify(dce(mutant.graph))
            found += 1
    assert found > 10


#: Of one in so many of the mutants that break no type: found by their numbers, by what nobody reads, and not.
CHECKED = {
    ("megatron", 1): {"numbers": 9, IDLE: 4},
    ("column", 2): {"numbers": 33, "unread": 3, IDLE: 4},
    ("data", 9): {"numbers": 1, "unread": 14, IDLE: 16},
    ("sequence+vocabulary", 9): {"numbers": 19, "unread": 7, IDLE: 10},
}


def setting_of(plan: str) -> Setting:
    mesh = Mesh({"dp" if plan == "data" else "tp": 2})
    return Setting(layers=1, plan=plan, mesh=mesh, dtype="float64", dropout=0.0, optimizer="none")


def checked(setting: Setting, single: Graph, graph: Graph) -> Report:
    """What the parity check says of a graph as it is interpreted, whatever verify does."""
    sizes, arguments = setting.complete_sizes(), setting.arguments(single)
    reference = make_reference(single, graph, sizes, arguments, samples=1)
    return check(single, graph, sizes, arguments, reference=reference, runner=Executable)


@sampled(1, drawn=list(CHECKED))
def test_the_parity_check_finds_them_by_their_numbers_or_by_what_nobody_reads(drawn: tuple[str, int]) -> None:
    plan, one_in = drawn
    setting = setting_of(plan)
    single = setting.single()
    graph = setting.parallel(single)
    counts: Counter[str] = Counter()
    for mutant in [each for each in mutants(graph) if guard(each, graph) != "types"][::one_in]:
        report = checked(setting, single, mutant.graph)
        if report.departing:
            counts["numbers"] += 1
        elif report.unread:
            counts["unread"] += 1
            assert "nothing that is returned is made of" in report.text()
        else:
            assert contents(mutant.graph) == contents(graph), mutant
            counts[IDLE] += 1
        assert report.ok == (not report.departing and not report.unread)
    assert counts == CHECKED[plan, one_in]


@pytest.mark.parametrize("other", ["embedding/dX", "embedding/dX_emb", "embedding/dBC_P"])
def test_where_another_value_holds_the_same_numbers_it_is_told_who_is_not_read(other: str) -> None:
    """Without dropout, the gradients of the embedding's sum and of its terms are one."""
    setting = setting_of("sequence+vocabulary")
    single = setting.single()
    graph = setting.parallel(single)
    found = [m for m in mutants(graph) if str(m) == f"rewired embedding/dX_tok.AG: moves {other}"]
    assert len(found) == 1
    assert guard(found[0], graph) == "misplaced"
    report = checked(setting, single, found[0].graph)
    assert (report.departing, report.unread, report.ok) == ((), ("embedding/dX_tok",), False)


# -- what is said ------------------------------------------------------------------------------------------


def error_of(graph: Graph) -> str:
    with pytest.raises(VerifyError) as caught:
        gi.verify(graph)
    return str(caught.value).partition("\n")[0]


def one(plan: str, kind: str, name: str, what: str) -> Graph:
    found = [m for m in mutants(training_step(plan)) if (m.kind, m.node.name, m.what) == (kind, name, what)]
    assert len(found) == 1, found
    return found[0].graph


def test_another_operand_is_named_beside_the_right_one() -> None:
    graph = one("data+megatron", "rewired", "layer0/mlp/dgamma.AR", "moves output/dgamma")
    assert error_of(graph) == (
        "layer0/mlp/dgamma.AR = AR(output/dgamma) is misplaced: it is there to bring layer0/mlp/dgamma to its place, "
        "but moves output/dgamma; nothing reads that"
    )


def test_another_reader_is_told() -> None:
    graph = one("data+megatron", "twice", "layer0/mlp/Z_down.AR", "its copy is read")
    assert error_of(graph) == (
        "layer0/mlp/Z_down.AR = AR(layer0/mlp/Z_down) is misplaced: it is there for layer0/mlp/A_out = add(…), "
        "which reads layer0/mlp/Z_down.AR.twice as X0 instead"
    )


def changed(graph: Graph, name: str, **meta: str | None) -> Graph:
    """The graph with something else known about one node."""
    nodes: list[Node] = [
        Node(node.operator, node.inputs, node.attributes, node.outputs, replace(node.meta, **meta))  # type: ignore[arg-type]
        if node.name == name
        else node
        for node in graph.nodes
    ]
    parts = graph.inputs, graph.parameters, graph.state, graph.outputs, nodes, graph.aliases, graph.mesh
    return Graph(graph.name, *parts)


def test_a_collective_stands_in_the_scope_and_pass_of_whom_it_serves() -> None:
    graph, name = training_step("data+megatron"), "layer0/mlp/Z_down.AR"
    assert error_of(changed(graph, name, phase="backward")).endswith(
        "is misplaced: it serves layer0/mlp/A_out in layer0/mlp, forward, but stands in layer0/mlp, backward"
    )
    assert "but stands in the top scope, forward" in error_of(changed(graph, name, scope=""))


def test_a_collective_that_states_no_purpose_may_stand_wherever_types_allow() -> None:
    mutant = one("data+megatron", "rewired", "layer0/mlp/dgamma.AR", "moves output/dgamma")
    for why in (None, "by hand", "layer0/mlp/dgamma is a pending sum over dp"):
        gi.verify(changed(mutant, "layer0/mlp/dgamma.AR", why=why))


def test_purposes_come_through_text() -> None:
    graph = training_step("sequence+vocabulary")
    assert gi.verify(gi.parse(gi.to_text(graph))) == graph
    wrong = one("sequence+vocabulary", "rewired", "layer0/mlp/dgamma.AR", "moves output/dgamma")
    assert "is misplaced" in error_of(gi.parse(gi.to_text(wrong)))
