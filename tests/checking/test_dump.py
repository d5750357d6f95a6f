"""Tensors from elsewhere: read, named, compared with the block that each rank should hold."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import save_file

from graphir.backends import Executable, plan
from graphir.backends.blocks import split_blocks
from graphir.checking import Rule, Setting, assign, check_dump, infer_sizes, read_dump, read_rules
from graphir.checking.names import NameMap
from graphir.cli import main
from graphir.errors import DataError
from graphir.ir.layout import Mesh
from tests.support.paths import ROOT

MESH = Mesh(dp=2, tp=2)
SETTING = Setting(1, "data+megatron", MESH, optimizer="none", dropout=0.0)


@cache
def run():
    """Graphs, sizes, and every rank's blocks of a right run by the graph's names, seed and step left out."""
    single = SETTING.single()
    parallel, sizes, arguments = SETTING.parallel(single), SETTING.complete_sizes(), SETTING.arguments(single)
    ranks = [{} for _ in range(MESH.size)]
    for name, array in arguments.items():
        if name not in ("seed", "step"):
            for held, block in zip(ranks, split_blocks(array, parallel[name].type.layout, MESH), strict=True):
                held[name] = block

    def look(node, rank, results):
        for value, block in zip(node.outputs, results, strict=True):
            if value.type.is_float:
                ranks[rank][value.name] = np.asarray(block)

    Executable(plan(parallel, sizes))(arguments, watch=look)
    return single, parallel, sizes, ranks


def tensors():
    """A copy of the ranks' blocks, to be spoilt."""
    return [dict(held) for held in run()[-1]]


def write(folder, ranks, suffix=".safetensors"):
    for rank, held in enumerate(ranks):
        arrays = {name: np.array(array, order="C") for name, array in held.items()}
        if suffix == ".npz":
            np.savez(folder / f"rank{rank}.npz", **arrays)
        else:
            save_file(arrays, folder / f"rank{rank}.safetensors")
    return folder


def examine(folder, rules=()):
    single, parallel, *_ = run()
    found = assign(read_dump(folder, MESH), parallel, rules)
    sizes = infer_sizes(found, parallel, {"N_H": SETTING.complete_sizes()["N_H"]})
    return check_dump(single, parallel, sizes, found)


# -- right and wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_right_dump_is_green(tmp_path, suffix):
    report = examine(write(tmp_path, tensors(), suffix))
    assert report.ok, report.text()
    assert len(report.comparisons) == len(run()[-1][0])
    assert "seed is not in the dump and taken to be 0" in report.text()


def test_sizes_follow_from_the_parameters(tmp_path):
    _, parallel, sizes, _ = run()
    found = assign(read_dump(write(tmp_path, tensors()), MESH), parallel)
    assert infer_sizes(found, parallel, {"N_H": sizes["N_H"]}) == sizes


def test_the_first_departure_is_the_first_in_the_order_of_computation(tmp_path):
    ranks = tensors()
    for name in ("layer0/mlp/Z_down.AR", "layer0/mlp/A_up", "layer0/X_out"):
        ranks[2][name] = ranks[2][name] * np.float32(1.001)
    report = examine(write(tmp_path, ranks))
    assert report.first.found.name == "layer0/mlp/A_up"
    assert report.first.found.ranks == (2,)
    assert [each.name for each in report.departing] == ["layer0/mlp/A_up", "layer0/mlp/Z_down.AR", "layer0/X_out"]


def test_replicas_of_a_parameter_that_differ_are_found(tmp_path):
    ranks = tensors()
    ranks[3]["layer0/mha/b_O"] = ranks[3]["layer0/mha/b_O"] * np.float32(1.01)
    first = examine(write(tmp_path, ranks)).first
    assert first.found.name == "layer0/mha/b_O"
    assert first.found.ranks == (3,)
    assert "handed to the run" in first.lines()[0]


def test_a_forgotten_all_reduce_is_found_from_gradients_alone(tmp_path):
    ranks = tensors()
    graph = run()[1]
    for held in ranks:
        held["layer0/mlp/dW_up.AR"] = held["layer0/mlp/dW_up"]
        for name in list(held):
            if name in graph.values and graph[name] in graph.producers and name != "layer0/mlp/dW_up.AR":
                del held[name]
    report = examine(write(tmp_path, ranks))
    assert report.first.found.ranks == (0, 1, 2, 3)
    assert "layer0/mlp/dW_up float32[D, D_ff|tp] pending sum(dp): not compared" in report.text()


# -- names ------------------------------------------------------------------------------------------------


def renamed(name):
    """As a PyTorch program might call and keep it."""
    return name.replace("layer0/", "blocks.0.").replace("/", ".")


def test_a_users_rules_name_and_transpose(tmp_path):
    ranks = [{renamed(name): array for name, array in held.items()} for held in tensors()]
    for held in ranks:
        held["blocks.0.mlp.W_up"] = held["blocks.0.mlp.W_up"].T
        held["blocks.0.rotary.inv_freq"] = np.ones(3, "float32")
    rules = (
        Rule("blocks.*.mlp.W_up", "layer*/mlp/W_up", transpose=True),
        Rule("*.rotary.*", None),
        Rule("blocks.*.mha.*", "layer*/mha/*"),
        Rule("blocks.*.mlp.*", "layer*/mlp/*"),
        Rule("blocks.*.*", "layer*/*"),
    )
    assert examine(write(tmp_path, ranks), rules).ok


@pytest.mark.parametrize(
    ("name", "value", "transpose"),
    [
        ("layer0/mha/W_O", "layer0/mha/W_O", False),
        ("layer0.mha.W_O", "layer0/mha/W_O", False),
        ("decoder.layers.0.self_attention.linear_proj.weight", "layer0/mha/W_O", True),
        ("decoder.layers.0.mlp.linear_fc1.weight.grad", "layer0/mlp/dW_up.AR", True),
        ("decoder.layers.0.mlp.linear_fc2.bias.grad", "layer0/mlp/db_down.AR", False),
        ("embedding.word_embeddings.weight", "embedding/E", False),
        ("decoder.final_layernorm.weight", "output/gamma", False),
        ("layer0.mha.X_norm.grad", "layer0/mha/dX_norm", False),
    ],
)
def test_names_of_others_are_known(name, value, transpose):
    match = NameMap(run()[1]).find(name)
    assert (match.value.name, match.transpose) == (value, transpose)


def test_an_unknown_name_says_what_is_like_it():
    with pytest.raises(DataError, match=r"'layer0\.mha\.W_0' names no value .* did you mean .*layer0/mha/W_O"):
        NameMap(run()[1]).find("layer0.mha.W_0")
    with pytest.raises(DataError, match=r"makes 'layer0/mha/W' of 'w' .* has no such value"):
        NameMap(run()[1], [Rule("w", "layer0/mha/W")]).find("w")


def test_rules_are_read_from_json(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"rules": [{"from": "a.*", "to": "b/*", "transpose": True}, {"from": "c", "to": None}]}))
    assert read_rules(path) == (Rule("a.*", "b/*", True), Rule("c", None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON: it is nested too deeply"),
        ("[]", "must be"),
        ('{"rules": [{"from": "a"}]}', "rule 0 of the map .* must have from and to"),
        ('{"rules": [{"from": "a", "to": 3}]}', "must map a text to a text or null"),
        ('{"rules": [{"from": "a", "to": "b*"}]}', "'b\\*' has more stars than 'a'"),
    ],
)
def test_a_map_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_rules(path)


def test_a_map_that_is_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read the map"):
        read_rules(tmp_path / "map.json")


# -- bad dumps --------------------------------------------------------------------------------------------


def test_a_missing_rank_is_named(tmp_path):
    write(tmp_path, tensors())
    (tmp_path / "rank2.safetensors").unlink()
    with pytest.raises(DataError, match=r"no rank2\.safetensors or rank2\.npz for rank 2 \(dp=1, tp=0\) of 4 ranks"):
        read_dump(tmp_path, MESH)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_that_is_none_is_refused(tmp_path, suffix):
    write(tmp_path, tensors(), suffix)
    (tmp_path / f"rank1{suffix}").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=f"cannot read .*rank1{suffix}"):
        read_dump(tmp_path, MESH)


def test_nothing_is_unpickled(tmp_path):
    for rank in range(MESH.size):
        np.savez(tmp_path / f"rank{rank}.npz", T=np.array([object()]))
    with pytest.raises(DataError, match="cannot read"):
        read_dump(tmp_path, MESH)


def spoilt(tmp_path, spoil, rules=()):
    ranks = tensors()
    for rank, held in enumerate(ranks):
        spoil(rank, held)
    return examine(write(tmp_path, ranks), rules)


def test_a_shape_that_fits_no_block_is_told_in_named_dims(tmp_path):
    def spoil(rank, held):
        held["layer0/mha/W_Q"] = held["layer0/mha/W_Q"].T

    with pytest.raises(DataError, match=r"layer0/mha/W_Q float32\[D, D\|tp\] is \[D, D/N_T\] = .* map it transposed"):
        spoilt(tmp_path, spoil)


def test_a_whole_tensor_where_a_block_should_be_is_told(tmp_path):
    def spoil(rank, held):
        held["layer0/mlp/A_up"] = np.concatenate([held["layer0/mlp/A_up"]] * 2, axis=2)

    with pytest.raises(DataError, match=r"is \[B/N_DP, S, D_ff/N_T\] = .* map it otherwise"):
        spoilt(tmp_path, spoil)


def test_a_missing_argument_is_named(tmp_path):
    with pytest.raises(DataError, match=r"lacks layer0/mha/W_O float32.*dump all parameters and inputs"):
        spoilt(tmp_path, lambda rank, held: held.pop("layer0/mha/W_O"))


def test_a_tensor_that_one_rank_lacks_is_named(tmp_path):
    with pytest.raises(DataError, match=r"'layer0/X_mid' .* is missing on rank 1 \(dp=0, tp=1\)"):
        spoilt(tmp_path, lambda rank, held: held.pop("layer0/X_mid") if rank == 1 else None)


def test_two_names_for_one_value_are_refused(tmp_path):
    rule = Rule("other", "layer0/X_mid")
    with pytest.raises(DataError, match="both stand for layer0/X_mid"):
        spoilt(tmp_path, lambda rank, held: held.update({"other": held["layer0/X_mid"]}), [rule])


def test_integers_for_floats_are_refused(tmp_path):
    with pytest.raises(DataError, match="is int64 on rank 0"):
        spoilt(tmp_path, lambda rank, held: held.update({"layer0/X_mid": held["layer0/X_mid"].astype("int64")}))


def test_parameters_alone_are_no_run(tmp_path):
    graph = run()[1]

    def spoil(rank, held):
        for name in list(held):
            if graph[name] in graph.producers:
                del held[name]

    with pytest.raises(DataError, match="dump what was computed from them"):
        spoilt(tmp_path, spoil)


def test_a_size_that_contradicts_the_others_is_told(tmp_path):
    def spoil(rank, held):
        held["layer0/mha/b_O"] = held["layer0/mha/b_O"][:-1]

    with pytest.raises(
        DataError, match=r"'layer0/mha/b_O' is \[15\] on .* but layer0/mha/b_O float32\[D\] is \[D\] = \[16\]"
    ):
        spoilt(tmp_path, spoil)


# -- the command and the example --------------------------------------------------------------------------


def test_the_command_checks_a_dump(tmp_path, capsys):
    ranks = tensors()
    ranks[1]["layer0/mha/AO_lin.AR"] = ranks[1]["layer0/mha/AO_lin"]
    write(tmp_path, ranks)
    heads = str(SETTING.complete_sizes()["N_H"])
    options = ["--layers", "1", "--dp", "2", "--tp", "2", "--plan", "data+megatron"]
    with pytest.raises(SystemExit) as exit:
        main(["check", "--dump", str(tmp_path), "--heads", heads, *options])
    out = capsys.readouterr().out
    assert exit.value.code == 1
    assert "first departure: layer0/mha/AO_lin.AR" in out
    assert "on         rank 1 (dp=0, tp=1)" in out
    with pytest.raises(SystemExit) as exit:
        main(["check", "--dump", str(tmp_path), *options])
    assert exit.value.code == 2
    assert "give --heads" in capsys.readouterr().err


def test_the_example_finds_what_pytorch_forgot_without_pytorch(tmp_path):
    """The recorded tensors tell the same story as live ones."""
    program = f"""
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
sys.argv = ["check_pytorch.py"]
runpy.run_path({str(ROOT / "examples/check_pytorch.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    right, forgotten = done.stdout.split("all-reduce of the input's gradient: ")[1:]
    assert right.startswith("right (recorded)\n11 values agree")
    assert "first departure: dX.AR" in forgotten
    assert "1 of 11 values depart" in forgotten
