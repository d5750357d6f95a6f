"""`graphir why`: each collective's cause, need, partner and price, predicted by hand."""

import json

import pytest

import graphir as gi
from graphir.checking import Setting
from graphir.cli import main
from graphir.ir.layout import Layout, Mesh
from graphir.why import explain


def explained(plan, mesh, **options):
    setting = Setting(1, plan, mesh, qkv_bias=False, **{"optimizer": "none", **options})
    graph = setting.parallel(setting.single())
    return {each.node.name: each for each in explain(graph, setting.complete_sizes())}


def test_megatron_is_four_all_reduces_a_layer_each_the_others_identity():
    found = explained("megatron", Mesh(tp=3))
    assert [(each.node.name, each.node.meta.phase, each.partner) for each in found.values()] == [
        ("layer0/mha/AO_lin.AR", "forward", "identity on layer0/mha/dAO_lin"),
        ("layer0/mlp/Z_down.AR", "forward", "identity on layer0/mlp/dZ_down"),
        ("layer0/mlp/dH.AR", "backward", "identity on layer0/mlp/H"),
        ("layer0/mha/dX_norm.AR", "backward", "identity on layer0/mha/X_norm"),
    ]
    assert {str(each.cost.payload) for each in found.values()} == {"B*S*D"}
    row = found["layer0/mha/AO_lin.AR"]
    assert row.cause == "layer0/mha/AO_lin = matmul(…) sums over D, split over tp"
    assert row.need == "layer0/mha/AO_bias = add(…) as X0"
    assert row.block == "layer0"
    assert row.move == "[B, S, D] pending sum(tp) -> [B, S, D]"


def test_a_sum_that_went_through_an_addition_is_traced_to_its_matmul():
    row = explained("megatron", Mesh(tp=3))["layer0/mha/dX_norm.AR"]
    assert row.cause.startswith("layer0/mha/dX_norm.")
    assert row.cause.endswith("_lin = dMatmul(…) sums over D, split over tp")
    assert row.need == "layer0/mha/dX = dLN(…) as dH"


def test_sequence_pairs_gathers_with_scatters():
    found = explained("sequence", Mesh(tp=2))
    layer = {name: each for name, each in found.items() if each.block == "layer0"}
    pairs = {name: each.partner for name, each in layer.items() if each.node.meta.phase == "forward"}
    assert pairs == {
        "layer0/mha/X_norm.AG": "layer0/mha/dX_norm.RS",
        "layer0/mha/AO_lin.RS": "layer0/mha/dAO_lin.AG",
        "layer0/mlp/H.AG": "layer0/mlp/dH.RS",
        "layer0/mlp/Z_down.RS": "layer0/mlp/dZ_down.AG",
    }
    assert found["layer0/mha/dAO_lin.AG"].partner == "layer0/mha/AO_lin.RS"
    assert found["layer0/mha/X_norm.AG.2"].partner == "layer0/mha/X_norm.AG again"
    assert found["layer0/mha/X_norm.AG"].cause == "S is split over tp, as LN made it"


def test_every_collective_of_every_plan_is_explained():
    for plan, mesh in (("data+sequence+vocabulary+zero3", Mesh(dp=2, tp=2)), ("context", Mesh(cp=3))):
        setting = Setting(1, plan, mesh)
        graph = setting.parallel(setting.single())
        found = explain(graph, setting.complete_sizes())
        assert len(found) == sum(node.operator.relayout is not None for node in graph.nodes) > 10
        for each in found:
            assert each.cause, each
            assert each.partner, each
            assert each.need != "nothing", each
            assert (each.total == 0) == (each.node.operator.key == "SLICE")


def test_gradients_of_data_parallelism_are_the_identity_of_their_parameters():
    found = explained("data", Mesh(dp=2))
    assert found["layer0/mlp/dW_up.AR"].partner == "identity on layer0/mlp/W_up"
    assert found["layer0/mlp/dW_up.AR"].cause == "layer0/mlp/dH = dMatmul(…) sums over B, split over dp"
    assert found["layer0/mlp/dW_up.AR"].need == "the graph's outputs"
    assert found["output/n.AR"].partner == "none: no gradient flows here"


def test_zero3_gathers_parameters_that_are_stored_split_and_gathers_them_again():
    found = explained("zero3", Mesh(dp=2), optimizer="sgd")
    row = found["layer0/mlp/W_up.AG"]
    assert row.cause.endswith("is split over dp, as it is stored")
    assert row.partner == "layer0/mlp/dW_up.RS"
    assert found["layer0/mlp/dW_up.RS"].partner.startswith("layer0/mlp/W_up.AG")


def test_a_collective_on_what_is_handed_in_pending_says_so():
    block = gi.Builder("hand", mesh=Mesh(tp=2))
    X = block.input("X", gi.dims("B D"), layout=Layout([[], []], {"tp": "sum"}))
    graph = block.build(gi.scale(gi.all_reduce(X, axes=("tp",), name="Y"), by=2.0, name="Z"))
    (row,) = explain(graph, {"B": 2, "D": 2})
    assert row.cause == "X is handed in pending over tp"
    assert row.need == "Z = scale(…) as X"
    assert row.partner == "none: no gradient flows here"


# -- the command ------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    captured = capsys.readouterr()
    return exit.value.code, captured.out, captured.err


def test_the_command_prints_a_table_for_each_block_and_the_total(capsys):
    code, out, _ = call(capsys, "why", "--layers", "2", "--tp", "3", "--optimizer", "none", "--no-qkv-bias")
    assert code == 0
    assert out.startswith("megatron on tp=3, ring\n")
    assert out.splitlines()[1].startswith("with B=")
    assert "\nlayer0…1, 2 alike; of each:\n" in out
    assert "\nlayer0…1: 2 AR forward, 2 AR backward; " in out
    assert max(map(len, out.splitlines())) <= 80
    assert "all: 4 AR forward, 4 AR backward; " in out
    assert "2 (N_T − 1)/N_T · B*S*D" in out


def test_the_command_prints_json(capsys):
    arguments = ("--layers", "1", "--dp", "2", "--tp", "2", "--plan", "data+megatron", "--algorithm", "naive", "--json")
    code, out, _ = call(capsys, "why", *arguments)
    data = json.loads(out)
    assert code == 0
    row = next(each for each in data["collectives"] if each["name"] == "layer0/mlp/Z_down.AR")
    assert row["others"] == "B*S*D/N_DP · 4 bytes"
    assert row["axes"] == ["tp"]
    assert row["why"].startswith("layer0/mlp/Z_down is a pending sum over tp")
    payload = data["sizes"]["B"] // 2 * data["sizes"]["S"] * data["sizes"]["D"] * 4
    assert row["each"]["bytes"] == payload
    assert row["total"]["bytes"] == 2 * 2 * payload
    assert data["total"]["bytes"] == sum(each["total"]["bytes"] for each in data["collectives"])


def test_gradients_of_a_kind_are_told_once(capsys):
    _, out, _ = call(capsys, "why", "--layers", "2", "--dp", "2")
    assert "  mha/dW_Q.AR, mha/dW_K.AR, mha/dW_V.AR, mha/dW_O.AR  backward, over dp = 2\n" in out
    assert "    partner  identity on mha/W_Q, mha/W_K, mha/W_V, mha/W_O\n" in out
    assert out.count("dW_Q.AR") == 1


def test_sizes_that_cannot_run_are_refused(capsys):
    code, _, err = call(capsys, "why", "--cp", "4", "--sequence", "10")
    assert code == 2
    assert "S = 10 of T int64[B, S|cp] cannot be split evenly over cp=4" in err


def test_bad_input_ends_with_2(capsys):
    code, _, err = call(capsys, "why", "--plan", "nothing")
    assert code == 2
    assert "no plan is called 'nothing'" in err
