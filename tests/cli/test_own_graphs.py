"""Graphs of a user's own on the command line: a function of a file, or a text; and what is wrong with either."""

from __future__ import annotations

import pytest

import graphir as gi

BLOCK = """
import graphir as gi
from beside import KIND

def swiglu(kind=KIND, bias=False):
    B, S, D, F = gi.dims("B S D D_ff")
    block = gi.Builder("swiglu")
    X = block.input("X", (B, S, D))
    gate = gi.activation(gi.matmul(X, block.parameter("W_gate", (D, F)), name="Z_gate"), kind=kind, name="A_gate")
    H = gi.multiply(gate, gi.matmul(X, block.parameter("W_up", (D, F)), name="Z_up"), name="H")
    Y = gi.matmul(H, block.parameter("W_down", (F, D)), name="Y")
    if bias:
        Y = gi.add(Y, gi.broadcast(block.parameter("b", (D,)), (B, S)), name="Y_bias")
    return block.build(Y)

def needs(layers): return swiglu()
def builder(): return gi.Builder("b")
def fails(): return {}["no"]
def misfits():
    B, D = gi.dims("B D")
    b = gi.Builder("b")
    return b.build(gi.matmul(b.input("X", (B, D)), b.parameter("W", (B, D))))

ready = swiglu()
if __name__ == "__main__":
    raise SystemExit("the file is run as a module")
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text('KIND = "silu"\n', encoding="utf-8")
    path = tmp_path / "block.py"
    path.write_text(BLOCK, encoding="utf-8")
    return path


def test_what_a_function_returns_is_printed_and_its_text_read_again(call, file, tmp_path):
    code, out, _ = call("ir", f"{file}:swiglu", "--set", "bias=true", "--set", "kind=gelu")
    assert code == 0
    assert 'kind="silu"' not in out
    assert "Y_bias" in out
    text = tmp_path / "block.gir"
    assert call("ir", f"{file}:swiglu", "-o", text)[0] == 0
    assert call("ir", text)[1] == text.read_text(encoding="utf-8") == call("ir", f"{file}:ready")[1]


def test_a_block_without_a_loss_has_its_backward_pass(call, file):
    graph = gi.parse(call("ir", f"{file}:swiglu", "--stage", "autodiff", "--dp", 2)[1])
    assert [value.name for value in graph.inputs] == ["X", "dY"]
    assert {"dX", "dW_gate", "dW_up", "dW_down"} <= {graph.origin(value).name for value in graph.outputs}


def test_it_is_drawn_under_its_own_name(call, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("draw", f"{file}:swiglu", "--format", "dot")[:2] == (0, "swiglu.dot\n")
    drawn = (tmp_path / "swiglu.dot").read_text(encoding="utf-8")
    assert "W" in drawn
    assert "gate" in drawn
    assert call("draw", f"{file}:swiglu", "--stage", "autodiff", "-o", "both.dot")[0] == 0


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (":swigly", (), "has no 'swigly'; did you mean swiglu?"),
        ("", (), "say which function of"),
        (":swiglu", ("--set", "knd=relu"), "swiglu has no parameter 'knd'; did you mean kind?"),
        (":swiglu", ("--set", "kind"), "--set kind is no name and its value"),
        (":swiglu", ("--layers", 3), "--layers: for graphir's models"),
        (":swiglu", ("--size", "B=-1"), "--size B=-1 is no dim and its size"),
        (":needs", (), "needs needs layers; give --set layers=…"),
        (":builder", (), "is no graph but Builder; return builder.build(…)"),
        (":fails", (), "block.py:18: KeyError: 'no'"),
        (":misfits", (), "block.py:22"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(call, file, function, arguments, message):
    code, _, err = call("ir", f"{file}{function}", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_files_that_are_no_graphs(call, tmp_path):
    wrong = {
        "syntax.py:f": ("def f(:\n", "syntax.py:1: invalid syntax"),
        "ends.py:f": ("import sys\nsys.exit(3)\n", "ends.py:2: SystemExit: 3"),
        "text.gir": ("graph x float32\n\ninputs\n  X  ???\n", "text.gir: line 4, column 6"),
        "bytes.gir": (b"\xff\xfe", "it is not UTF-8"),
    }
    for name, (content, message) in wrong.items():
        path = tmp_path / name.partition(":")[0]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        code, _, err = call("ir", tmp_path / name)
        assert (code, message in err) == (2, True), err
    assert "there is no file" in call("ir", tmp_path / "none.gir")[2]
    assert "there is no file" in call("draw", f"{tmp_path}/none.py:f")[2]
    assert "did you mean transformer?" in call("ir", "transfomer")[2]
    assert "--set and --size are for a graph of your own" in call("ir", "mlp", "--set", "x=1")[2]


def test_it_is_checked_and_its_collectives_explained(call, file):
    code, out, err = call("check", f"{file}:swiglu", "--dp", 2, "--set", "bias=true", "--size", "B=6")
    assert code == 0, err
    assert "data on dp=2: " in out
    assert "Y_bias" in call("check", f"{file}:swiglu", "--dp", 2, "--set", "bias=true", "--json")[1]
    out = call("why", f"{file}:swiglu", "--dp", 2)[1]
    assert "3 AR backward" in out
    assert "does not fit" in call("check", f"{file}:swiglu", "--dp", 2, "--size", "B=3", "--plan", "all")[1]
    assert "--heads: for graphir's models" in call("why", f"{file}:swiglu", "--heads", 3)[2]
    assert "the model mlp has no --width" in call("why", "mlp", "--width", 3)[2]


def test_its_costs_and_its_profile(call, file):
    sizes = ("--size", "B=4", "--size", "S=4", "--size", "D=8", "--size", "D_ff=16")
    code, out, err = call("cost", f"{file}:swiglu", *sizes, "--tp", 2)
    assert code == 0, err
    assert "3*D*D_ff/N_T" in out
    profiled = ("--what", "train", "--repetitions", 1, "--by", "operator")
    code, out, err = call("profile", f"{file}:swiglu", *sizes, *profiled)
    assert code == 0, err
    assert "loss, gradients and update of" in out
    for command in ("cost", "profile"):
        assert "give --size D_ff=…" in call(command, f"{file}:swiglu", *sizes[:-2])[2]
        assert "--width: for graphir's models" in call(command, f"{file}:swiglu", "--width", 8)[2]
