"""What a person asks of a graph from Python: print it, show it, draw it into a file, check a plan of it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

import graphir as gi
from graphir.drawing.render import renderers
from graphir.errors import ConfigError, LayoutError, MissingDependencyError

needs_svg = pytest.mark.skipif("svg" not in renderers(), reason="nothing on this machine draws SVG")


@pytest.fixture(scope="module")
def block():
    B, S, D, F = gi.dims("B S D D_ff")
    builder = gi.Builder("swiglu")
    X = builder.input("X", (B, S, D))
    gate = gi.activation(gi.matmul(X, builder.parameter("W_gate", (D, F)), name="Z_gate"), kind="silu", name="A_gate")
    H = gi.multiply(gate, gi.matmul(X, builder.parameter("W_up", (D, F)), name="Z_up"), name="H")
    return builder.build(gi.matmul(H, builder.parameter("W_down", (F, D)), name="Y"))


def test_print_shows_the_text_that_parse_reads(block, capsys):
    print(block)
    assert gi.parse(capsys.readouterr().out) == block
    assert repr(block).startswith("<graph swiglu: 5 nodes")


@needs_svg
def test_a_notebook_shows_the_drawing(block, monkeypatch):
    shown = block._repr_mimebundle_()
    assert shown["text/plain"] == repr(block)
    words = "".join(ElementTree.fromstring(shown["image/svg+xml"]).itertext())
    assert "gate" in words

    def lacking(*arguments):
        raise MissingDependencyError("nothing draws")

    monkeypatch.setattr("graphir.drawing.files.graph_file", lacking)
    assert block._repr_mimebundle_() == {"text/plain": repr(block)}


@needs_svg
def test_draw_writes_a_file_of_the_format_that_its_suffix_names(block, tmp_path):
    assert gi.draw(block, tmp_path / "block.svg") == tmp_path / "block.svg"
    assert (tmp_path / "block.svg").read_bytes().startswith((b"<?xml", b"<svg"))
    gi.draw(block, tmp_path / "block.dot", view="full")
    assert (tmp_path / "block.dot").read_text(encoding="utf-8").startswith("digraph")
    for path, view, message in (("block.gif", None, "names no format"), ("x.dot", "sideways", "no view called")):
        with pytest.raises(ConfigError, match=message):
            gi.draw(block, tmp_path / path, view=view)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["block.dot", "block.svg"]


def test_check_compares_a_plan_of_a_graph_of_ones_own(block):
    report = gi.check(block, gi.Mesh(dp=2), "data", {"B": 4})
    assert report.ok
    assert "data on dp=2: " in str(report)
    assert {"dX", "dW_gate", "dW_down.AR"} <= {each.name for each in report.comparisons}
    assert gi.check(block, gi.Mesh(dp=2), optimizer="sgd", backend="numpy", threads=1).ok
    with pytest.raises(LayoutError, match="no plan is called 'dota'"):
        gi.check(block, gi.Mesh(dp=2), "dota")
    with pytest.raises(ConfigError, match="one call checks one plan"):
        gi.check(block, gi.Mesh(dp=2), "all")
