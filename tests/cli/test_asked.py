"""What is asked for is done or refused: no option without effect, no line beyond 80 columns, no file beside a model."""

from __future__ import annotations

import pytest

from graphir.cli.tables import WIDTH, folded
from tests.support.paths import ROOT

BLOCK = f"{ROOT}/examples/swiglu.py:swiglu"
SIZES = ("--size", "B=4", "--size", "S=4", "--size", "D=8", "--size", "D_ff=8")
ONE_RANK = "--plan megatron splits nothing on one rank"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ir", "transformer", "--plan", "megatron"], ONE_RANK),
        (["draw", "transformer", "--plan", "megatron"], ONE_RANK),
        (["cost", "--plan", "megatron"], ONE_RANK),
        (["profile", "--plan", "megatron"], ONE_RANK),
        (["train", "--plan", "megatron"], ONE_RANK),
        (["ir", ""], "no model is called ''"),
        (["cost", "--model", ""], "no model is called ''"),
        (["draw", ""], "'' is neither a figure nor a model"),
        (["cost", "--cp", 4, "--sequence", 10], "S = 10 of T int64[B, S|cp] cannot be split evenly over cp=4"),
        (["profile", BLOCK, "--tp", 3, *SIZES], "D_ff = 8 of W_gate float32[D, D_ff|tp] cannot be split evenly"),
        (["export", "mlp", "-o", "mlp.onnx"], "or --size D_1=…"),
        (["generate", "--model", "llama3-8b"], "llama3-8b by its name alone has no weights"),
    ],
)
def test_what_does_nothing_or_cannot_be_is_refused(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", ["check", "profile", "why", "cost"])
def test_a_block_of_ones_own_is_told_in_80_columns(call, command):
    more = ("--repetitions", 1) if command == "profile" else ()
    code, out, err = call(command, BLOCK, *SIZES, "--tp", 2, *more)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= WIDTH


def test_what_goes_over_stands_below_its_text():
    fact = "  operand    layer0/mha/dV float32[B, N_H, S, D_h] pending sum(tp): not compared, " + "and so on " * 9
    lines = folded(f"\n{fact}\nshort").split("\n")
    assert (lines[0], lines[-1]) == ("", "short")
    assert max(map(len, lines)) <= WIDTH
    assert {line[:13] for line in lines[2:-1]} == {" " * 13}
    assert " ".join(" ".join(lines[1:-1]).split()) == " ".join(fact.split())


def test_a_drawing_is_written_where_one_is(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ROOT / "tests/fixtures/hub/gpt2"
    code, out, err = call("draw", "--model", folder)
    assert (code, out) == (0, "gpt2.svg\n"), err
    assert (tmp_path / "gpt2.svg").is_file()
    assert not folder.with_suffix(".svg").exists()
