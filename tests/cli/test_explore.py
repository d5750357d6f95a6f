"""`graphir explore`: a page of what a command is asked of, with the sizes that its options say."""

from __future__ import annotations

import json
import re

import pytest

from graphir.drawing.render import renderers

pytestmark = pytest.mark.skipif("svg" not in renderers(), reason="nothing here draws SVG: the page is unverified")


def data_of(file):
    page = file.read_text("utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_a_model_on_ranks_with_its_sizes(call, tmp_path):
    file = tmp_path / "page.html"
    told = ("--layers", 2, "--tp", 2, "--width", 32, "--heads", 4, "--expand-layer", 1)
    code, out, _ = call("explore", "--stage", "autodiff", *told, "-o", file)
    assert (code, out.strip()) == (0, str(file))
    data = data_of(file)
    assert data["title"] == "transformer, tp=2"
    assert (data["sizes"]["D"], data["sizes"]["N_H"], data["sizes"]["N_T"]) == (32, 4, 2)
    assert data["expand"] == [1]


def test_a_graph_of_one_s_own_and_sizes_that_cannot_be(call, tmp_path):
    (tmp_path / "block.py").write_text(
        "import graphir as gi\n"
        "def block():\n"
        "    B, D, F = gi.dims('B D F')\n"
        "    block = gi.Builder('block')\n"
        "    return block.build(gi.matmul(block.input('X', (B, D)), block.parameter('W', (D, F)), name='Y'))\n",
        encoding="utf-8",
    )
    file = tmp_path / "page.html"
    assert call("explore", f"{tmp_path / 'block.py'}:block", "--size", "F=12", "-o", file)[0] == 0
    data = data_of(file)
    assert data["sizes"] == {"B": 8, "D": 768, "F": 12}
    assert [path for path, *_ in data["blocks"]] == ["graph"]
    code, _, told = call("explore", f"{tmp_path / 'block.py'}:block", "--size", "G=12", "-o", file)
    assert code == 2
    assert "no dim of this graph is called G" in told
    code, _, told = call("explore", "mlp", "--expand-layer", 5, "-o", file)
    assert code == 2
    assert "layer 5" in told
