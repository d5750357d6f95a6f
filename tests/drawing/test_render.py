"""Rendering: DOT to SVG, PNG and PDF with what there is, a clear word where there is nothing, nothing harmful."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir.drawing.render as rendering
from graphir.drawing import dot, figure
from graphir.drawing.picture import Picture, PictureEdge, PictureNode, Run
from graphir.drawing.render import FORMATS, render, renderers
from graphir.drawing.svg import inline_svg, parse_svg, sanitize_svg
from graphir.errors import ConfigError, MissingDependencyError
from graphir.extras import install

LABELLED = "digraph { a [label=<<B>W</B><SUB>up</SUB>>]; b [label=< Σ • γ β ℒ × >]; a -> b [label=<<I>x</I>>] }"
needs_svg = pytest.mark.skipif("svg" not in renderers(), reason="nothing on this machine draws SVG")
needs_png = pytest.mark.skipif("png" not in renderers(), reason="nothing on this machine draws PNG")
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def size(png):
    assert png.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", png[16:24])


# -- formats ----------------------------------------------------------------------------------------------


def test_dot_is_written_as_it_is():
    assert render(LABELLED, "dot") == LABELLED.encode()


@needs_svg
def test_labels_are_set_with_subscripts_and_all_letters():
    written = texts(render(LABELLED, "svg"))
    assert "Wup" in written
    assert any(set("Σ•γβℒ×") <= set(text) for text in written)


@needs_svg
def test_a_subscript_stands_below_the_line_and_right_behind_its_letter():
    drawing = ElementTree.fromstring(render(LABELLED, "svg"))
    (spans,) = [list(text) for text in drawing.iter(f"{SVG}text") if "".join(text.itertext()) == "Wup"]
    assert [span.text for span in spans] == ["W", "up"]
    assert float(spans[1].get("dy")) > 2
    assert "x" not in spans[1].attrib


@needs_png
def test_a_png_has_two_pixels_a_point():
    wide, high = size(render(LABELLED, "png"))
    root = parse_svg(render(LABELLED, "svg"))
    points = [float(root.get(name).removesuffix("pt")) for name in ("width", "height")]
    assert wide / points[0] == pytest.approx(high / points[1], rel=0.05)
    assert wide / points[0] >= 1.9


@needs_png
def test_every_letter_of_the_documents_leaves_ink():
    """A letter that no font has is drawn as an empty box, the same for all: so the pictures must differ."""
    pictures = {render(f"digraph {{ a [label=<{letter}>] }}", "png") for letter in "Σ•γβℒ×μσ⊙θ∂"}
    assert len(pictures) == len("Σ•γβℒ×μσ⊙θ∂")


@needs_png
def test_a_vast_picture_is_scaled_down(monkeypatch):
    monkeypatch.setattr(rendering, "MOST_PIXELS", 10_000)
    wide, high = size(render(LABELLED, "png"))
    if "resvg" in renderers()["png"]:
        assert wide * high < 12_000


@pytest.mark.skipif(shutil.which("dot") is None, reason="PDF needs Graphviz's dot, which is not on PATH")
def test_a_pdf_is_written_by_dot():
    assert render(LABELLED, "pdf").startswith(b"%PDF")


@needs_svg
def test_rendering_is_repeatable():
    source = dot(figure("mlp-forward"))
    assert render(source, "svg") == render(source, "svg")


# -- what is missing --------------------------------------------------------------------------------------


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(ConfigError, match="cannot draw as 'gif'; choose from dot, svg, png, pdf"):
        render(LABELLED, "gif")


@pytest.fixture
def bare(monkeypatch):
    """A machine on which no program draws."""
    monkeypatch.setattr(rendering.shutil, "which", lambda name, path=None: None)


@pytest.mark.usefixtures("bare")
def test_without_a_renderer_dot_is_still_written():
    assert renderers() == {}
    assert render(LABELLED, "dot") == LABELLED.encode()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("format", ["svg", "png"])
def test_without_a_renderer_the_message_says_what_to_install(format):
    message = f"cannot draw as {format}: there is no renderer; install Graphviz, .* or {re.escape(install('viz'))}"
    with pytest.raises(MissingDependencyError, match=message):
        render(LABELLED, format)


@pytest.mark.usefixtures("bare")
def test_pdf_without_dot_says_so():
    with pytest.raises(MissingDependencyError, match="only Graphviz's `dot` writes PDF"):
        render(LABELLED, "pdf")


@needs_svg
def test_png_without_a_rasterizer_says_so(monkeypatch):
    known, find = rendering.shutil.which, rendering.find_spec
    monkeypatch.setattr(
        rendering.shutil, "which", lambda name, path=None: None if name == "dot" else known(name, path=path)
    )
    monkeypatch.setattr(rendering, "find_spec", lambda name: None if name == "resvg_py" else find(name))
    if rendering._find_pure() is None:
        pytest.skip("graphviz-pure is not installed")
    assert "png" not in renderers()
    with pytest.raises(
        MissingDependencyError, match=f"there is no rasterizer; {re.escape(install('viz'))}, or ask for svg"
    ):
        render(LABELLED, "png")


@needs_svg
def test_dot_that_is_none_is_refused_with_the_renderer_s_reason():
    with pytest.raises(ConfigError, match=r"cannot draw this: .*syntax error in line 1"):
        render("digraph { a -> ", "svg")


@needs_svg
def test_where_curves_find_no_way_edges_are_straight(monkeypatch):
    tried = []

    def run(program, source, format, *options):
        tried.append(source)
        if "splines=true" in source:
            raise ConfigError("in routesplines, Pshortestpath failed")
        return b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>'

    known = rendering.shutil.which
    monkeypatch.setattr(
        rendering.shutil, "which", lambda name, path=None: None if name == "dot" else known(name, path=path)
    )
    if rendering._find_pure() is None:
        pytest.skip("graphviz-pure is not installed")
    monkeypatch.setattr(rendering, "_run", run)
    assert b"path" in render("digraph { graph [splines=true] }", "svg")
    assert tried == ["digraph { graph [splines=true] }", "digraph { graph [splines=line] }"]


def test_looking_for_fonts_loads_no_plotting_library():
    program = "import sys; from graphir.drawing.render import font_folder; font_folder(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "graphir.drawing.render" in done.stdout.split()
    assert "matplotlib" not in done.stdout.split()


def test_control_characters_become_a_sign_that_files_can_hold():
    assert render('digraph { a [label="x\x1f"] }', "dot").decode() == 'digraph { a [label="x\ufffd"] }'


# -- harmless ---------------------------------------------------------------------------------------------

EVIL = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="x()">'
    '<script>x()</script><foreignObject><body onload="x()"/></foreignObject><image href="http://a/b.png"/>'
    '<use href="#a"/><style>@import url(http://a)</style><set attributeName="onclick" to="x()"/>'
    '<g id="n0" onclick="x()" style="background: url(http://a)">'
    '<a xlink:href="javascript:x()" xlink:title="LN &lt;b&gt;"'
    '><path d="M0 0" fill="url(http://a/b)" stroke="red"/></a><text>ok</text></g></svg>'
)


def test_only_the_drawing_is_left_of_an_evil_svg():
    clean = sanitize_svg(EVIL).decode()
    for word in (
        "script",
        "foreignObject",
        "image",
        "href",
        "onload",
        "onclick",
        "javascript",
        "http://a",
        "style",
        "set",
    ):
        assert word not in clean
    assert '<path d="M0 0" stroke="red" />' in clean
    assert "<title>LN &lt;b&gt;</title>" in clean
    assert ">ok</text>" in clean


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("<svg", "not well-formed"),
        ("<html/>", "its root is <html>, not <svg>"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>', "declares XML entities"),
    ],
)
def test_what_is_no_drawing_is_refused(source, message):
    with pytest.raises(ConfigError, match=message):
        sanitize_svg(source)


def test_inlined_drawings_have_ids_of_their_own():
    drawing = '<svg xmlns="http://www.w3.org/2000/svg"><title>t</title><g id="n0"/></svg>'
    assert 'id="f1-n0"' in inline_svg(parse_svg(drawing), "f1")
    assert "title" not in inline_svg(parse_svg(drawing), "f1", titles=False)


@needs_svg
@given(st.text(min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_fuzzed_titles_never_become_markup(text):
    node = PictureNode("a", ((Run(text),),), "operator", scope=text)
    edge = PictureEdge("a", "a", text, "forward", (Run(text),), text)
    plain, fuzzed = (
        ElementTree.fromstring(render(dot(Picture("p", title, title, nodes=nodes, edges=edges)), "svg"))
        for title, nodes, edges in (
            ("x", (PictureNode("a", ((Run("x"),),), "operator", scope="x"),),
             (PictureEdge("a", "a", "x", "forward", (Run("x"),), "x"),)),
            (text, (node,), (edge,)),
        )
    )  # fmt: skip
    assert {each.tag for each in fuzzed.iter()} <= {each.tag for each in plain.iter()}
    names = {name for each in fuzzed.iter() for name in each.attrib}
    assert not {name for name in names if name.startswith("on") or "href" in name}


@pytest.mark.parametrize("format", FORMATS[:2])
def test_the_readers_markup_in_a_title_stays_text(format):
    if format == "svg" and "svg" not in renderers():
        pytest.skip("nothing on this machine draws SVG")
    hostile = '</text></svg><script>alert(1)</script>"\\N<b>'
    picture = Picture("p", hostile, nodes=(PictureNode("a", ((Run(hostile),),), "operator"),))
    made = render(dot(picture), format).decode()
    if format == "svg":
        assert "<script" not in made
        assert any("alert(1)" in text for text in texts(made))
