"""What is wrong is refused: collectives that are missing, plans that do not fit, meshes that do not divide."""

from __future__ import annotations

from dataclasses import replace

import pytest

import graphir as gi
from graphir.errors import DimError, LayoutError, VerifyError
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes import Optimizer, Plan, autodiff, find_plan, optimize, shard
from tests.support.sharding_cases import Case, sharded_step_of

MODEL = gi.models.transformer(1, decode=None)
JOINT = autodiff(MODEL)
SIZES = {"B": 2, "S": 4, "D": 12, "N_H": 4, "D_ff": 12, "V": 12}


# -- missing collectives -----------------------------------------------------------------------------------


def without(graph: Graph, victim: Node) -> Graph:
    """The graph less one collective: whoever read its result reads its operand."""
    (before,), (after,) = victim.inputs, victim.outputs

    def swap(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(before if value is after else value for value in values)

    nodes = [
        Node(node.operator, swap(node.inputs), node.attributes, node.outputs, node.meta)
        for node in graph.nodes
        if node is not victim
    ]
    aliases = dict(zip(graph.aliases, swap(tuple(graph.aliases.values())), strict=True))
    outputs = swap(graph.outputs)
    return Graph(graph.name, graph.inputs, graph.parameters, graph.state, outputs, nodes, aliases, graph.mesh)


def swapped(graph: Graph, victim: Node, **attributes: object) -> Graph:
    """The graph with one collective's attributes changed."""
    nodes = [
        Node(
            node.operator,
            node.inputs,
            node.operator.normalize({**node.attributes, **attributes}),
            node.outputs,
            node.meta,
        )
        if node is victim
        else node
        for node in graph.nodes
    ]
    return Graph(
        graph.name, graph.inputs, graph.parameters, graph.state, graph.outputs, nodes, graph.aliases, graph.mesh
    )


def collectives(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.operator.relayout is not None]


PLANS = [
    "data+megatron",
    "column",
    "sequence+vocabulary",
    "zero1",
    "zero2",
    "zero3",
    "context+megatron",
    "data+context+sequence+vocabulary+zero3",
]
MESH = (("dp", 2), ("tp", 2), ("cp", 2))


@pytest.mark.parametrize("plan", PLANS)
def test_no_collective_can_be_left_out(plan: str) -> None:
    graph = sharded_step_of(Case(plan, MESH))
    assert collectives(graph)
    for victim in collectives(graph):
        with pytest.raises(VerifyError):
            gi.verify(without(graph, victim))


@pytest.mark.parametrize("plan", PLANS[:3])
def test_no_reduction_is_over_another_axis_or_of_another_kind(plan: str) -> None:
    graph = sharded_step_of(Case(plan, MESH))
    for victim in collectives(graph):
        if victim.operator.key == "AR":
            with pytest.raises(VerifyError, match="its operand must be a pending"):
                gi.verify(swapped(graph, victim, axes=("cp",)))
            with pytest.raises(VerifyError, match="its operand must be a pending mean over"):
                gi.verify(swapped(graph, victim, reduce="mean"))


def test_what_is_said_of_a_missing_all_reduce() -> None:
    """A term of a sum reaches a GL, an output, and a bias that is not one."""
    graph = sharded_step_of(Case("megatron", (("tp", 2),)))
    victims = {node.inputs[0].name: node for node in collectives(graph)}
    with pytest.raises(VerifyError) as caught:
        gi.verify(without(graph, victims["layer0/mlp/Z_down"]))
    assert str(caught.value).startswith(
        "layer0/mlp/A_out = add(…): its operands must all be pending alike, or none: "
        "X0: a pending sum over tp, X1: not pending\n"
    )
    with pytest.raises(VerifyError) as caught:
        gi.verify(without(graph, victims["layer0/mlp/dH"]))
    assert "= dLN(…): it is not linear in dH, but dH is a pending sum over tp\n" in str(caught.value)


def test_a_gradient_is_not_returned_in_pieces() -> None:
    graph = shard(JOINT, Mesh(dp=2), "data")
    victim = next(node for node in collectives(graph) if node.inputs[0].name == "layer0/mlp/dW_up")
    with pytest.raises(VerifyError) as caught:
        gi.verify(without(graph, victim))
    assert str(caught.value) == (
        "graph transformer: its output layer0/mlp/dW_up float32[D, D_ff] pending sum(dp) is no result yet, "
        "but a term on each rank; reduce it over dp by AR or RS"
    )


def test_a_new_parameter_lies_as_the_old() -> None:
    graph = shard(optimize(JOINT, Optimizer("sgd")), Mesh(dp=2), "zero1")
    victim = next(node for node in collectives(graph) if node.inputs[0].name == "layer0/mlp/W_up.new")
    with pytest.raises(VerifyError) as caught:
        gi.verify(without(graph, victim))
    assert str(caught.value) == (
        "graph transformer: its output layer0/mlp/W_up.new float32[D|dp, D_ff] is the new content of layer0/mlp/W_up "
        "float32[D, D_ff], but does not lie as that does; the next step could not start from it"
    )


@pytest.mark.parametrize("plan", PLANS)
def test_nothing_that_is_not_linear_reads_a_term(plan: str) -> None:
    """In the sharded graph itself: whatever reads a pending value declares itself linear in it, or reduces it."""
    readers = 0
    for node in sharded_step_of(Case(plan, MESH)).nodes:
        for operand, value in zip(node.inference.rule.inputs, node.inputs, strict=True):
            if value.type.layout.pending:
                readers += 1
                assert operand.name in node.operator.linear or node.operator.jointly_linear, node
    assert readers


# -- plans that do not fit ---------------------------------------------------------------------------------


PARAMETERS = "embedding/E, embedding/P_theta, layer0/mha/gamma, layer0/mha/beta, layer0/mha/W_Q, layer0/mha/W_K, …"


def of(**entries: object) -> Plan:
    return Plan("mine", **entries)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (
            of(parameters={"*/W_up": "[D|tp, D_ff|tp]"}),
            "layer0/mlp/W_up float32[D, D_ff] under [D|tp, D_ff|tp]: mesh axis tp occurs twice in the layout "
            "[·|tp, ·|tp]; it can do one thing only",
        ),
        (
            of(parameters={"*/W_up": "D|tp", "*mlp/W_*": "D_ff|tp"}),
            "layer0/mlp/W_up float32[D, D_ff] under D|tp and D_ff|tp: mesh axis tp occurs twice in the layout "
            "[·|tp, ·|tp]; it can do one thing only",
        ),
        (
            "data",
            "plan data splits over dp, which the mesh (tp=2) lacks; "
            "add dp=… to the mesh, with 1 where nothing is to be split",
        ),
        (
            "context+data",
            "plan context+data splits over cp, dp, which the mesh (tp=2) lacks; "
            "add cp=…, dp=… to the mesh, with 1 where nothing is to be split",
        ),
        (
            of(parameters={"*/W_gate": "D|tp"}),
            f"plan mine names parameters */W_gate, but graph transformer has none such; it has {PARAMETERS}",
        ),
        (
            of(parameters={"*/W_up": "D|tp", "layer0/mlp/W_gate": "D|tp"}),
            "plan mine names parameters layer0/mlp/W_gate, which graph transformer lacks",
        ),
        (
            of(inputs={"ids": "B|tp"}),
            "plan mine names inputs ids, but graph transformer has none such; it has T, Y, seed, step",
        ),
        (
            of(used={"*/W_gate": "-tp"}),
            f"plan mine names used */W_gate, but graph transformer has none such; it has {PARAMETERS}",
        ),
        (of(activations={"*/gate": "S|tp"}), "plan mine names activations */gate, but graph transformer has none such"),
        (
            of(parameters={"*/W_up": "V|tp"}),
            "plan mine wants V|tp of parameters */W_up, but none has that dim: layer0/mlp/W_up is float32[D, D_ff]",
        ),
        (
            of(gradients={"*/W_up": "D|tp"}),
            "plan mine wants D|tp of gradients */W_up; of gradients it can only say =, as the parameter is stored",
        ),
        (
            "megatro",
            "no plan is called 'megatro'; did you mean megatron? There are single, data, megatron, column, vocabulary, "
            "sequence, zero1, zero2, zero3, context, sums such as data+megatron, and dims over an axis of your own "
            "such as tp:D_ff,N_H",
        ),
        (
            "megatron+zero4",
            "no plan is called 'zero4'; did you mean zero3? There are single, data, megatron, column, vocabulary, "
            "sequence, zero1, zero2, zero3, context, sums such as data+megatron, and dims over an axis of your own "
            "such as tp:D_ff,N_H",
        ),
    ],
    ids=lambda each: str(each).split("\n", 1)[-1][:40].strip(),
)
def test_plans_that_do_not_fit(plan: Plan | str, text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        shard(JOINT, Mesh(tp=2), plan)
    assert str(caught.value) == text


def test_what_is_no_plan_is_told_how_to_write_one() -> None:
    with pytest.raises(LayoutError, match=r"a plan is a Plan or the name of one, not a dict; write one like Plan\("):
        shard(JOINT, Mesh(tp=2), {"X": "B|tp"})  # type: ignore[arg-type]


FORM = "split {!r} of layer0/mlp/W_up is not of the form B|dp, [B|dp, S|cp, D] or ?|dp"


@pytest.mark.parametrize(
    ("split", "text"),
    [
        ("[D, D_ff|tp", "split '[D, D_ff|tp' of layer0/mlp/W_up has no closing bracket"),
        ("[D|tp]", "split [D|tp] has 1 dims, but layer0/mlp/W_up is float32[D, D_ff]"),
        ("[S, D_ff|tp]", "split [S, D_ff|tp] says S, but layer0/mlp/W_up is float32[D, D_ff]"),
        *(
            (split, FORM.format(split))
            for split in ("", "tp", "=", "D_ff|", "|tp", "?|", "D|tp D_ff|tp", "[D, D_ff|]", "[|tp, D_ff]")
        ),
    ],
)
def test_splits_that_cannot_be_read(split: str, text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        shard(JOINT, Mesh(tp=2), of(parameters={"*/W_up": split}))
    assert str(caught.value) == text


def test_a_graph_is_sharded_once() -> None:
    for mesh in (Mesh(tp=2), Mesh(tp=1)):
        with pytest.raises(LayoutError) as caught:
            shard(shard(JOINT, mesh, "megatron"), Mesh(tp=2), "megatron")
        assert str(caught.value) == f"graph transformer is sharded over {mesh} already; shard the graph it came from"


@pytest.mark.parametrize(
    ("mesh", "plan", "sizes", "text"),
    [
        (
            Mesh(tp=3),
            "megatron",
            {},
            "N_H = 4 of layer0/mha/Q_split float32[B, S, N_H|tp, D_h] cannot be split evenly over tp=3; "
            "choose N_H as a multiple of 3, or another mesh",
        ),
        (
            Mesh(tp=3),
            "megatron",
            {"N_H": 6, "D_ff": 16},
            "D_ff = 16 of layer0/mlp/W_up float32[D, D_ff|tp] cannot be split evenly over tp=3; "
            "choose D_ff as a multiple of 3, or another mesh",
        ),
        (
            Mesh(dp=4),
            "data",
            {},
            "B = 2 of T int64[B|dp, S] cannot be split evenly over dp=4; choose B as a multiple of 4, or another mesh",
        ),
        (
            Mesh(tp=3),
            "vocabulary",
            {"V": 8},
            "V = 8 of embedding/E float32[V|tp, D] cannot be split evenly over tp=3; "
            "choose V as a multiple of 3, or another mesh",
        ),
        (
            Mesh(cp=2, tp=2),
            "context+sequence",
            {"S": 6},
            "S = 6 of embedding/X.SLICE float32[B, S|cp|tp, D] cannot be split evenly over cp=2 and tp=2; "
            "choose S as a multiple of 4, or another mesh",
        ),
    ],
    ids=["heads", "inner width", "batch", "vocabulary", "two axes"],
)
def test_what_does_not_divide(mesh: Mesh, plan: str, sizes: dict[str, int], text: str) -> None:
    """The dim that must be shared is the one that is named: the heads, not the width D that they make up."""
    with pytest.raises(DimError) as caught:
        gi.compile(shard(JOINT, mesh, plan), {**SIZES, **sizes})
    assert str(caught.value) == text


# -- plans themselves --------------------------------------------------------------------------------------


def test_a_plan_prints_as_it_is_written() -> None:
    plan = of(inputs={"T": "B|dp"}, parameters={"*/W_up": "[D, D_ff|tp]"}, used={"*": "-dp"})
    assert str(plan) == (
        "plan mine\n"
        "  inputs      T                       B|dp\n"
        "  parameters  */W_up                  [D, D_ff|tp]\n"
        "  used        *                       -dp"
    )
    assert plan.axes == ("dp", "tp")


def test_plans_add_up() -> None:
    both = find_plan("data") + find_plan("megatron")
    assert both == replace(find_plan("data+megatron"), name=both.name)
    assert both.entries("inputs") == find_plan("data").entries("inputs")
    assert both.entries("parameters") == find_plan("megatron").entries("parameters")


def test_axes_of_several_entries_add_up() -> None:
    """Of W_up, tp takes the columns; of what is left, dp takes the first dim that it divides."""
    for D, expected in ((12, "float32[D|dp, D_ff|tp]"), (9, "float32[D, D_ff|tp|dp]"), (7, "float32[D, D_ff|tp]")):
        sizes = {**SIZES, "D": D, "N_H": 1, "D_ff": 18 if D == 7 else 24}
        graph = shard(JOINT, Mesh(dp=4, tp=2), "megatron+zero3", sizes)
        assert str(graph["layer0/mlp/W_up"].type) == expected


def test_several_axes_must_divide_together() -> None:
    """Twelve are shared by two, or by four; by two times four they are not."""
    plan = of(parameters={"*/W_up": "?|dp|tp"})
    graph = shard(JOINT, Mesh(dp=2, tp=4), plan, {**SIZES, "D_ff": 16})
    assert str(graph["layer0/mlp/W_up"].type) == "float32[D, D_ff|dp|tp]"


def test_aliases_may_be_named() -> None:
    """The block's own name for what enters it, `layer0/mlp/X`, is that of X_mid."""
    graph = shard(JOINT, Mesh(tp=2), of(activations={"layer0/mlp/X": "S|tp"}))
    pinned = graph["layer0/mlp/X"]
    assert graph.origin(pinned).name == "layer0/X_mid"
    assert str(pinned.type) == "float32[B, S|tp, D]"
