"""The page that explains a graph of one's own."""

from __future__ import annotations

import re

import pytest

import graphir as gi
from graphir.drawing.render import renderers
from graphir.guide import sheet
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif("svg" not in renderers(), reason="nothing on this machine draws SVG")
SWIGLU = ROOT / "examples/swiglu.py"


@pytest.mark.slow
def test_a_block_is_drawn_forward_and_back_on_one_rank_and_on_two_and_measured(call, tmp_path):
    file = tmp_path / "swiglu.html"
    code, out, err = call("guide", f"{SWIGLU}:swiglu", "--tp", 2, "--size", "B=2", "-o", file)
    assert (code, out) == (0, f"{file}\n"), err
    page = file.read_text(encoding="utf-8")
    assert page.count("<figure") == 4
    assert re.findall(r"<strong>(Figure \d)\. (.*?)\.</strong>", page)[2:] == [
        ("Figure 3", "One rank, forward"),
        ("Figure 4", "One rank, backward"),
    ]
    assert '<p class="proof">' in page
    assert "tensors agree" in page
    assert "all-reduce" in page or "AR over tp" in page
    assert "Gradient of <b>Y</b>" in page.replace("strong", "b")
    assert "Normalized input" not in page, "H is no layer norm here"
    assert 'id="section-3"' in page


def test_scopes_are_sections_and_layers_that_are_alike_are_told_once():
    page = sheet(gi.models.mlp(3), gi.Mesh(dp=2), {})
    assert re.findall(r"<h3 id=.*?</span> (.*?)</h3>", page) == ["layer0", "loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("transformer",), "transformer is no FILE.py:FUNCTION or FILE.gir; a model is named by --model"),
        ((f"{SWIGLU}:swiglu", "--layers", 3), "--layers: for graphir's models"),
        (("--size", "B=3"), "--set and --size are for a graph of your own"),
        ((f"{SWIGLU}:swiglu", "--size", "D_ff=3"), "cannot be split evenly over tp=2"),
    ],
)
def test_what_it_is_not_for_is_told(call, tmp_path, arguments, message):
    code, _, err = call("guide", *arguments, "-o", tmp_path / "guide.html")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert message in err
