"""Rendering: pictures to DOT, SVG, PNG and PDF, a clear word where something is missing, nothing harmful."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir.drawing.render as rendering
from graphir.drawing import figure
from graphir.drawing.layout.text import text_width
from graphir.drawing.paint import paint
from graphir.drawing.picture import Details, Picture, PictureEdge, PictureNode, Run
from graphir.drawing.render import FORMATS, render, renderers
from graphir.drawing.svg import inline_svg, parse_svg, sanitize_svg
from graphir.errors import ConfigError, MissingDependencyError

LETTERS = "Σ•γβℒ×μσ⊙θ∂"
needs_png = pytest.mark.skipif("png" not in renderers(), reason="nothing on this machine draws PNG")
needs_pdf = pytest.mark.skipif("pdf" not in renderers(), reason="nothing on this machine draws PDF")
SVG = "{http://www.w3.org/2000/svg}"


def labelled(*lines):
    """A picture of one node that bears these lines, each a text or runs."""
    rows = tuple((Run(line),) if isinstance(line, str) else line for line in lines)
    return Picture("p", "", nodes=(PictureNode("a", rows, "operator"),))


NAMED = labelled((Run("W", "bold"), Run("up", "sub")), LETTERS)


def texts(svg):
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def size(png):
    assert png.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", png[16:24])


# -- formats ----------------------------------------------------------------------------------------------


def test_labels_are_set_with_subscripts_and_all_letters():
    written = texts(render(NAMED, "svg"))
    assert "Wup" in written
    assert LETTERS in written


def test_a_subscript_stands_below_the_line_and_right_behind_its_letter():
    drawing = ElementTree.fromstring(render(NAMED, "svg"))
    (spans,) = [list(text) for text in drawing.iter(f"{SVG}text") if "".join(text.itertext()) == "Wup"]
    assert [span.text for span in spans] == ["W", "up"]
    assert float(spans[1].get("dy")) > 2
    assert "x" not in spans[1].attrib


def test_a_tilde_stands_over_its_letter_and_moves_nothing():
    drawing = ElementTree.fromstring(render(labelled((Run("W\u0303", "bold"), Run("Q", "sub"))), "svg"))
    name, tilde = drawing.iter(f"{SVG}text")
    assert [span.text for span in name] == ["W", "Q"]
    assert [span.text for span in tilde] == ["\u02dc"]
    assert not any("dx" in span.attrib for span in name)
    middle = float(name.get("x")) + text_width("W", "bold") * float(name.get("font-size")) / 2
    if name.get("text-anchor") == "middle":
        middle -= float(name.get("textLength")) / 2
    assert float(tilde.get("x")) == pytest.approx(middle, abs=0.1)
    assert float(tilde.get("y")) < float(name.get("y"))


@needs_png
def test_a_png_has_two_pixels_a_point():
    wide, high = size(render(NAMED, "png"))
    root = parse_svg(render(NAMED, "svg"))
    points = [float(root.get(name).removesuffix("pt")) for name in ("width", "height")]
    assert wide / points[0] == pytest.approx(high / points[1], rel=0.05)
    assert wide / points[0] >= 1.9


@needs_png
def test_every_letter_of_the_documents_leaves_ink():
    """A letter that no font has is drawn as an empty box, the same for all: so the pictures must differ."""
    pictures = {render(labelled(letter), "png") for letter in LETTERS}
    assert len(pictures) == len(LETTERS)


@needs_png
def test_a_vast_picture_is_scaled_down(monkeypatch):
    monkeypatch.setattr(rendering, "MOST_PIXELS", 10_000)
    wide, high = size(render(NAMED, "png"))
    assert wide * high < 12_000


@needs_pdf
def test_a_pdf_is_one_page_of_vectors():
    made = render(figure("mlp-backward"), "pdf")
    assert made.startswith(b"%PDF")
    assert made.count(b"/Type /Page\n") + made.count(b"/Type /Page ") == 1
    assert b"/Subtype /Image" not in made


@needs_pdf
def test_a_dollar_in_a_pdf_is_no_formula():
    assert render(labelled("$x^$ \\frac"), "pdf").startswith(b"%PDF")


@pytest.mark.parametrize("format", ["dot", "svg"])
def test_rendering_is_repeatable(format):
    assert render(figure("mlp-forward"), format) == render(figure("mlp-forward"), format)


# -- what is missing --------------------------------------------------------------------------------------


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(ConfigError, match="cannot draw as 'gif'; choose from dot, svg, png, pdf"):
        render(NAMED, "gif")


@pytest.mark.parametrize(("format", "missing"), [("png", "there is no rasterizer"), ("pdf", "matplotlib writes it")])
def test_what_is_missing_is_told_with_what_installs_it(monkeypatch, format, missing):
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    assert renderers() == {"svg": "graphir"}
    with pytest.raises(MissingDependencyError, match=rf'cannot draw as {format}: {missing}.*pip install "\.\[viz\]"'):
        render(NAMED, format)
    assert render(NAMED, "svg").startswith(b"<?xml")


@pytest.mark.slow
def test_drawing_loads_no_plotting_library():
    program = (
        "import sys; from graphir.drawing import figure; from graphir.drawing.render import render, font_folder; "
        "font_folder(); render(figure('node-single'), 'svg'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "graphir.drawing.paint" in done.stdout.split()
    assert "matplotlib" not in done.stdout.split()


@pytest.mark.parametrize("format", ["dot", "svg"])
def test_control_characters_become_a_sign_that_files_can_hold(format):
    assert "x\ufffd" in render(labelled("x\x1f"), format).decode()


def test_a_double_line_is_two_lines_with_nothing_between_them():
    svg = paint(figure("mha-backward")).decode()
    assert 'stroke="white"' not in svg
    (way, *_) = re.findall(r'class="edge cached">.*?<path d="([^"]*)"', svg)
    first, second = ([float(y) for y in re.findall(r",(-?[\d.]+)", each)] for each in way.split(" M"))
    assert [b - a for a, b in zip(first, second, strict=True)] == pytest.approx([2.9, 2.9], abs=0.11)


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


def everywhere(text):
    """A picture with `text` wherever a reader's text can come to stand."""
    node = PictureNode("a", ((Run(text),),), "operator", scope=text, details=Details((text,), text, text, text))
    return Picture(text, text, text, nodes=(node,), edges=(PictureEdge("a", "a", text, "forward", (Run(text),), text),))


@given(st.text(min_size=1, max_size=30) | st.just('</text></svg><script>alert(1)</script>"\\N<b>'))
@settings(max_examples=40, deadline=None)
def test_texts_never_become_markup(text):
    plain, fuzzed = (ElementTree.fromstring(render(everywhere(each), "svg")) for each in ("x", text))
    assert {each.tag for each in fuzzed.iter()} <= {each.tag for each in plain.iter()}
    names = {name for each in fuzzed.iter() for name in each.attrib}
    assert not {name for name in names if name.startswith("on") or "href" in name}


@pytest.mark.parametrize("format", FORMATS[:2])
def test_the_readers_markup_in_a_title_stays_text(format):
    made = render(everywhere('</text></svg><script>alert(1)</script>"\\N<b>'), format).decode()
    if format == "svg":
        assert "<script" not in made
        assert any("alert(1)" in text for text in texts(made))
