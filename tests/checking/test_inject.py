"""Faults: every one that changes a result is found, and where it is; the type check alone finds all but seeds."""

import json
from collections import Counter

import numpy as np
import pytest

from graphir.checking import Campaign, Fault, FaultyExecutable, Setting, faults_of, inject
from graphir.checking.faults import KINDS, mistyped, type_error
from graphir.cli import main
from graphir.errors import ConfigError, TypeCheckError
from graphir.ir.layout import Mesh
from graphir.ir.verify import verify
from tests.support.sampled import sampled


def campaign(setting, every=1, kinds=KINDS):
    single = setting.single()
    parallel = setting.parallel(single)
    faults = [each for each in faults_of(parallel) if each.kind in kinds][::every]
    arguments = setting.arguments(single)
    return Campaign(tuple(inject(single, parallel, setting.complete_sizes(), arguments, faults=faults)))


CASES = [
    (Setting(1, "data+megatron", Mesh(dp=2, tp=3)), 5),
    (Setting(1, "data+sequence+vocabulary+zero3", Mesh(tp=2, dp=2), dtype="float64", qkv_bias=False), 7),
    (Setting(1, "data+column", Mesh(dp=2, tp=2), optimizer="none"), 5),
    (Setting(1, "context+zero1", Mesh(dp=2, cp=3), dtype="float64", optimizer="sgd"), 7),
]


@pytest.mark.slow
@sampled(2, number=range(len(CASES)))
def test_a_sample_of_faults_is_found_where_they_are(number):
    setting, every = CASES[number]
    found = campaign(setting, every)
    assert found.ok, [str(each.fault) for each in found.missed]
    assert len({each.fault.kind for each in found.outcomes}) >= 4
    for each in found.outcomes:
        assert each.harmless or each.found.name in each.near
        assert each.fault.kind == "rank seed" or each.typed, each.fault


@pytest.mark.slow
def test_all_faults_of_data_and_megatron_are_found_where_they_are():
    found = campaign(Setting(1, "data+megatron", Mesh(dp=2, tp=3), qkv_bias=False))
    assert all(each.located for each in found.outcomes)
    kinds = Counter(each.fault.kind for each in found.outcomes)
    # 4 over tp, one for each of 19 parameters over dp, the loss' sum and its count, the norm over tp.
    assert kinds == {"drop": 25, "double": 25, "wrong axis": 25, "average": 25, "rank seed": 5}
    rows = dict(found.counts())
    assert rows["drop"] == {
        "injected": 25,
        "type check": 25,
        "parity check": 25,
        "located": 25,
        "type check alone": 0,
        "harmless": 0,
        "missed": 0,
    }
    assert rows["rank seed"]["type check"] == 0


def only(setting, kind, name):
    single = setting.single()
    parallel = setting.parallel(single)
    fault = next(each for each in faults_of(parallel) if each.kind == kind and each.node.name == name)
    arguments = setting.arguments(single)
    (outcome,) = inject(single, parallel, setting.complete_sizes(), arguments, faults=[fault])
    return outcome


# -- ranks ------------------------------------------------------------------------------------------------


def test_a_seed_of_each_ranks_own_affects_all_but_the_first():
    outcome = only(Setting(1, "data+megatron", Mesh(dp=2, tp=3)), "rank seed", "layer0/mha/A_out")
    assert outcome.typed is None
    assert outcome.guard == "parity check"
    assert outcome.found.name == "layer0/mha/A_out"
    assert outcome.found.ranks == outcome.affected == (1, 2, 3, 4, 5)


def test_a_forgotten_slice_is_right_on_the_ranks_that_would_keep_the_first_part():
    setting = Setting(1, "sequence", Mesh(tp=3), optimizer="none")
    slices = [
        each
        for each in faults_of(setting.parallel(setting.single()))
        if each.kind == "drop" and each.node.operator.key == "SLICE"
    ]
    assert slices
    outcome = only(setting, "drop", slices[0].node.name)
    assert outcome.located
    assert outcome.found.ranks == (1, 2)


# -- what changes nothing ---------------------------------------------------------------------------------


def test_a_gradient_that_is_zero_is_harmless_and_says_so():
    setting = Setting(1, "data", Mesh(dp=2), qkv_bias=True)
    outcome = only(setting, "drop", "layer0/mha/db_K.AR")
    assert outcome.guard == "type check, harmless"
    assert outcome.harmless == "what it moves is zero but for rounding"
    assert not outcome.changes


def test_seeds_without_dropout_are_harmless():
    outcome = only(Setting(1, "data", Mesh(dp=2), dropout=0.0), "rank seed", "embedding/X")
    assert outcome.guard == "harmless"
    assert outcome.harmless == "a rate of 0 drops nothing, whatever the seed"


def test_a_maximum_may_be_taken_twice():
    outcome = only(Setting(1, "vocabulary", Mesh(tp=2)), "double", "output/L_tok.top.AR")
    assert outcome.harmless == "a maximum of maxima is the maximum"


def test_an_axis_of_one_rank_exchanges_nothing():
    outcome = only(Setting(1, "megatron", Mesh(tp=1)), "drop", "layer0/mha/AO_lin.AR")
    assert outcome.harmless == "its axis has one rank, so there is nothing to exchange"


# -- each fault as what it is -----------------------------------------------------------------------------


def test_the_type_check_names_what_is_wrong_with_a_forgotten_all_reduce():
    setting = Setting(1, "megatron", Mesh(tp=2))
    parallel = setting.parallel(setting.single())
    drop, double, average = (
        each for each in faults_of(parallel) if each.node.name == "layer0/mlp/Z_down.AR" and each.kind != "wrong axis"
    )
    assert "layer0/mlp" in type_error(parallel, drop)
    assert "pending" in type_error(parallel, drop)
    assert "its operand must be a pending sum over tp; it is not pending there" in type_error(parallel, double)
    assert "its operand must be a pending mean over tp; it is a pending sum there" in type_error(parallel, average)
    with pytest.raises(TypeCheckError):
        mistyped(parallel, drop)


def test_without_a_fault_the_program_is_written_as_it_was():
    """So what the type check says is the fault's doing."""
    setting = Setting(1, "data+sequence", Mesh(dp=2, tp=2))
    parallel = setting.parallel(setting.single())
    elsewhere = next(faults_of(setting.parallel(setting.single())))
    again = verify(mistyped(parallel, elsewhere))
    assert [(node.name, node.outputs[0].type) for node in again.nodes] == [
        (node.name, node.outputs[0].type) for node in parallel.nodes
    ]


@pytest.mark.parametrize("kind", ["drop", "double", "wrong axis", "average"])
def test_a_faulty_all_reduce_does_what_its_name_says(kind):
    setting = Setting(1, "data+megatron", Mesh(dp=2, tp=3))
    single = setting.single()
    parallel = setting.parallel(single)
    name = "layer0/mha/AO_lin"
    fault = next(each for each in faults_of(parallel) if each.kind == kind and each.node.name == f"{name}.AR")
    from graphir.backends import plan

    held = {}

    def look(node, rank, results):
        held.setdefault(node.name, []).append(results[0])

    FaultyExecutable(plan(parallel, setting.complete_sizes()), fault)(setting.arguments(single), watch=look)
    terms, made = held[name], held[f"{name}.AR"]
    first = {
        "drop": terms[0],
        "double": 3 * (terms[0] + terms[1] + terms[2]),
        "wrong axis": terms[0] + terms[3],
        "average": (terms[0] + terms[1] + terms[2]) / 3,
    }[kind]
    np.testing.assert_allclose(made[0], first, rtol=1e-5, atol=1e-6)


def test_a_fault_is_told_in_words():
    setting = Setting(1, "data+megatron", Mesh(dp=2, tp=3))
    parallel = setting.parallel(setting.single())
    fault = next(each for each in faults_of(parallel) if each.kind == "wrong axis")
    assert str(fault) == "wrong axis layer0/mha/AO_lin.AR over dp"
    assert fault.axes == ("dp",)


@pytest.mark.slow
def test_a_run_that_departs_already_is_refused():
    """Faults are told from a right run; a wrong one has to be mended first."""
    setting = Setting(1, "megatron", Mesh(tp=2))
    single = setting.single()
    parallel = setting.parallel(single)
    another = Setting(1, "megatron", Mesh(tp=2), activation="silu").single()
    with pytest.raises(ConfigError, match="departs without any fault"):
        list(inject(another, parallel, setting.complete_sizes(), setting.arguments(single), faults=[]))


def test_faults_are_compared_by_what_they_are():
    setting = Setting(1, "megatron", Mesh(tp=2))
    node = next(each.node for each in faults_of(setting.parallel(setting.single())))
    assert Fault("drop", node) == Fault("drop", node) != Fault("double", node)


# -- the command ------------------------------------------------------------------------------------------


def test_the_command_counts_who_found_what(capsys):
    arguments = ["check", "--inject", "--layers", "1", "--tp", "2", "--optimizer", "none", "--no-qkv-bias"]
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    out = capsys.readouterr().out
    assert exit.value.code == 0
    rows = {line.split()[0]: line.split()[-7:] for line in out.splitlines() if line[:1].isalpha()}
    # 4 all-reduces; nothing but tp to run over, so no wrong axis; 5 dropout nodes.
    assert rows["drop"] == ["4", "4", "4", "4", "0", "0", "0"]
    assert rows["double"] == rows["average"] == rows["drop"]
    assert rows["rank"] == ["5", "0", "5", "5", "0", "0", "0"]
    assert rows["all"] == ["17", "12", "17", "17", "0", "0", "0"]
    assert "17 faults, 17 found where they are, with every rank affected; 0 missed" in out


def test_the_command_prints_json(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["check", "--inject", "--layers", "1", "--tp", "2", "--optimizer", "none", "--dropout", "0", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert exit.value.code == 0
    assert data["ok"]
    (one,) = data["campaigns"]
    assert {each["guard"] for each in one["faults"]} == {"both", "harmless"}
    assert all(each["harmless"] for each in one["faults"] if each["kind"] == "rank seed")
