"""The verifier: whole graphs pass it, and every way to break one is named, with the nodes around and the line."""

from __future__ import annotations

import pytest

import graphir as gi
from graphir.errors import DimError, VerifyError
from graphir.ir.operator import Attributes
from graphir.ir.value import Value
from graphir.passes import autodiff, dce, lower, optimize, run_passes

B, S, D, F, N_H = gi.dims("B S D D_ff N_H")

X = Value("X", gi.TensorType("float32", (B, D)), gi.Builder())
W = Value("W", gi.TensorType("float32", (D, F)), X.owner)
META = gi.Meta(at="model.py:7")


def value(name, shape=(B, F), dtype="float32"):
    return Value(name, gi.TensorType(dtype, shape), X.owner)


def node(key, inputs, *outputs, **attributes):
    """A node that nobody checked; its defaults are not filled in."""
    return gi.Node(gi.find_operator(key), tuple(inputs), Attributes(attributes), outputs, META)


def graph(*nodes, inputs=(X, W), outputs=(), aliases=None):
    return gi.Graph("broken", inputs, (), (), outputs, nodes, aliases)


def complaint(broken):
    with pytest.raises(VerifyError) as caught:
        gi.verify(broken)
    return str(caught.value)


# -- whole graphs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        gi.models.transformer(layers=2),
        gi.models.transformer(layers=1, text=True, tied=False, mask="padding", decode="top-k", dtype="float64"),
        gi.models.mlp(3),
    ],
    ids=["transformer", "options", "mlp"],
)
def test_models_are_whole_at_every_stage(model):
    for each in (model, autodiff(model), lower(autodiff(model)), optimize(autodiff(model)), dce(model)):
        assert gi.verify(each) is each


def test_the_hand_made_graph_is_whole_before_it_is_broken():
    Y = value("Y")
    gi.verify(graph(node("matmul", (X, W), Y, dtype=""), outputs=(Y,)))


# -- types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (value("Y", (B, D)), "float32[B, D]"),
        (value("Y", (F, B)), "float32[D_ff, B]"),
        (value("Y", (B,)), "float32[B]"),
        (value("Y", dtype="float64"), "float64[B, D_ff]"),
    ],
)
def test_a_wrong_type_shows_both(declared, said):
    assert complaint(graph(node("matmul", (X, W), declared, dtype=""))).startswith(
        f"Y = matmul(…) is declared {said}, but its inputs make float32[B, D_ff]\n"
    )


def test_a_missing_output_shows_both():
    P, Y = value("P", (B, D)), value("Y", (B,), "int64")
    broken = graph(node("S", (X,), P), node("CE", (P, Y), value("L", (B,)), ignore=-100), inputs=(X, Y))
    assert "L = CE(…) is declared float32[B], but its inputs make float32[B], float32[B]\n" in complaint(broken)


def test_operands_that_do_not_match_are_named():
    message = complaint(graph(node("matmul", (X, X), value("Y"), dtype="")))
    assert message.startswith("Y = matmul(…): k is D in X[B, D] but B in W[B, D]\n")


def test_the_fault_is_shown_among_its_neighbours_with_the_users_line():
    chain = [value("A0", (B, D)), *(value(f"A{i}", (B, D)) for i in range(1, 12))]
    nodes = [node("S", (before,), after) for before, after in zip([X, *chain], chain, strict=False)]
    nodes[6] = node("S", (chain[5],), value("A6", (D, B)))
    lines = complaint(graph(*nodes, inputs=(X,))).splitlines()
    assert lines[0] == "A6 = S(…) is declared float32[D, B], but its inputs make float32[B, D]"
    assert lines[1] == "     A2 float32[B, D] = S(A1)"
    assert lines[5] == "  -> A6 float32[D, B] = S(A5)"
    assert lines[9] == "     A10 float32[B, D] = S(A9)"
    assert lines[10] == "  written at model.py:7"


def test_an_inference_of_other_operands():
    block = gi.Builder("block")
    gi.activation(block.input("X", (B, D, F)))
    other = block.nodes[0].inference
    activation = gi.find_operator("GL")
    wrong = gi.Node(activation, (X,), Attributes({"kind": "gelu"}), (value("Y", (B, D)),), META, other)
    assert complaint(graph(wrong)).startswith(
        "Y = GL(…) follows the rule X[b.0 b.1] -> Y[b.0 b.1], but holds what was inferred for "
        "X[b.0 b.1 b.2] -> Y[b.0 b.1 b.2]; leave the node's inference to its operator\n"
    )


# -- attributes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (node("S", (X,), value("Y", (B, D)), axis=0), "Y = S(…): unknown attribute axis; it has none\n"),
        (node("scale", (X,), value("Y", (B, D))), "Y = scale(…): attribute by is missing\n"),
        (node("scale", (X,), value("Y", (B, D)), by="2"), "Y = scale(…): attribute by must be float, not '2'\n"),
        (
            node("GL", (X,), value("Y", (B, D))),
            "Y = GL(…): attributes {} should be {'kind': 'gelu'}\n",
        ),
        (
            node("T", (X,), value("Y", (D, B)), perm=(1, 1)),
            "Y = T(…): perm=(1, 1) is no permutation of (0, 1)\n",
        ),
    ],
)
def test_attributes_are_checked_again(broken, message):
    assert complaint(graph(broken)).startswith(message)


# -- names and order --------------------------------------------------------------------------------------


def test_a_dangling_value():
    message = complaint(graph(node("add", (X, value("Z", (B, D))), value("Y", (B, D)))))
    assert message.startswith("Y = add(…) reads Z, which nothing defines\n")


def test_a_value_that_only_shares_a_name_is_dangling():
    message = complaint(graph(node("S", (value("X", (B, D)),), value("Y", (B, D)))))
    assert message.startswith("Y = S(…) reads X, which nothing defines\n")


def test_a_wrong_order():
    P, Y = value("P", (B, D)), value("Y", (B, D))
    message = complaint(graph(node("S", (P,), Y), node("S", (X,), P)))
    assert message.startswith("Y = S(…) reads P before it is computed\n")


def test_a_cycle_is_shown_whole():
    A, P, Y = (value(name, (B, D)) for name in ("A", "P", "Y"))
    message = complaint(graph(node("add", (X, Y), A), node("S", (A,), P), node("S", (P,), Y)))
    assert message.splitlines()[0] == "graph broken has a cycle: Y -> A -> P -> Y"


def test_a_value_defined_twice():
    message = complaint(graph(node("S", (X,), value("Y", (B, D))), node("S", (X,), value("Y", (B, D)))))
    assert message.startswith("graph broken defines Y twice\n")
    assert complaint(graph(inputs=(X, value("X")))) == "graph broken defines X twice"
    assert complaint(graph(node("S", (X,), value("W", (B, D))))).startswith("graph broken defines W twice\n")


def test_outputs_and_aliases_that_nothing_defines():
    stray = value("stray")
    wanted = "graph broken: stray is an output or alias, but nothing defines it"
    assert complaint(graph(outputs=(stray,))) == wanted
    assert complaint(graph(aliases={"block/stray": stray})) == wanted


def test_an_alias_that_hides_a_value():
    assert complaint(graph(aliases={"W": X})) == "graph broken: alias W is the name of a value, too"


def test_a_dim_defined_twice():
    one, other = gi.dim("D_h", D / N_H), gi.dim("D_h", D / 4)
    broken = graph(inputs=(value("X", (B, one)), value("Z", (B, other))))
    assert complaint(broken) == "dim D_h is both D/N_H and D/4"
    plain = graph(inputs=(value("X", (B, one)), value("Z", (B, gi.dim("D_h")))))
    assert complaint(plain) == "dim D_h is both D/N_H and undefined"


@pytest.mark.parametrize("mesh", [None, gi.Mesh(tp=2)])
def test_a_layout_over_an_axis_that_the_mesh_lacks(mesh):
    lying = Value("X", gi.TensorType("float32", (B, D), gi.Layout([("dp",), ()])), X.owner)
    said = (
        f"its layout is over dp, but the graph's mesh is {mesh or 'one rank'}; give the graph a mesh with dp=…, "
        "or lay the value out otherwise"
    )
    assert complaint(gi.Graph("broken", (lying,), (), (), (), (), mesh=mesh)) == (
        f"graph broken: X float32[B|dp, D]: {said}"
    )
    P = Value("P", lying.type, X.owner)
    sliced = node("SLICE", (X,), P, dim=0, axis="dp")
    broken = gi.Graph("broken", (X,), (), (), (), (sliced,), mesh=mesh)
    assert complaint(broken).startswith(f"graph broken: P float32[B|dp, D]: {said}\n")
    gi.verify(gi.Graph("whole", (lying,), (), (), (), (), mesh=gi.Mesh(dp=2)))


# -- every node is checked --------------------------------------------------------------------------------


def replaced(whole, index, change):
    """`whole` with the first output of node `index` of another type, and all its readers reading that."""
    old = whole.nodes[index].outputs[0]
    new = {old: Value(old.name, change(old.type), old.owner)}
    nodes = [
        gi.Node(
            each.operator,
            tuple(new.get(v, v) for v in each.inputs),
            each.attributes,
            tuple(new.get(v, v) for v in each.outputs),
            each.meta,
        )
        for each in whole.nodes
    ]
    outputs = [new.get(v, v) for v in whole.outputs]
    aliases = {name: new.get(v, v) for name, v in whole.aliases.items()}
    return gi.Graph(whole.name, whole.inputs, whole.parameters, whole.state, outputs, nodes, aliases)


@pytest.mark.parametrize(
    "change",
    [
        lambda type_: gi.TensorType(type_.dtype, (*type_.shape, B)),
        lambda type_: gi.TensorType("float64" if type_.dtype == "float32" else "float32", type_.shape),
        lambda type_: gi.TensorType(type_.dtype, [each * 2 for each in type_.shape] or [B]),
    ],
    ids=["rank", "dtype", "sizes"],
)
def test_a_wrong_type_anywhere_in_a_training_step_is_caught(change):
    whole = optimize(autodiff(gi.models.transformer(layers=1)))
    for index, each in enumerate(whole.nodes):
        first = complaint(replaced(whole, index, change)).splitlines()[0]
        assert first.startswith(f"{each.name} = {each.operator.key}(…) is declared ")


# -- between passes ---------------------------------------------------------------------------------------


def test_each_pass_is_verified_and_seen():
    seen = []
    start = gi.models.mlp()
    end = run_passes(start, [autodiff, lower, optimize], between=lambda name, each: seen.append((name, each)))
    assert [name for name, _ in seen] == ["autodiff", "lower", "optimize"]
    assert seen[-1][1] is end
    assert start == gi.models.mlp()


def test_a_pass_that_breaks_the_graph_is_named():
    def lose_everything(each):
        return gi.Graph(each.name, each.inputs, each.parameters, each.state, each.outputs, (), {})

    with pytest.raises(VerifyError) as caught:
        run_passes(gi.models.mlp(), [autodiff, lose_everything, lower])
    assert str(caught.value).startswith("pass lose_everything made an invalid graph: graph mlp: loss/L is an output")


def test_a_broken_graph_enters_no_pass():
    with pytest.raises(VerifyError, match="stray is an output or alias"):
        run_passes(graph(outputs=(value("stray"),)), [])


def test_a_broken_graph_is_not_compiled():
    with pytest.raises(VerifyError, match="stray is an output or alias"):
        gi.compile(graph(outputs=(value("stray"),)), {"B": 1, "D": 1, "D_ff": 1})


def test_dims_that_do_not_divide_are_found_when_sizes_are_bound():
    model = gi.models.transformer(layers=1)
    with pytest.raises(DimError) as caught:
        gi.compile(model, {"B": 2, "S": 4, "D": 10, "N_H": 4, "D_ff": 8, "V": 16})
    assert str(caught.value) == ("D_h = D/N_H is not whole: D=10, N_H=4 gives 5/2; choose sizes that divide")
