"""The page that a guide is: one HTML file that loads nothing and may be printed, its figures inline.

A content security policy admits only its own style, and the one script that says in the contents where the reader is.
Without the script all is there, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from html import escape

from graphir.drawing.fonts import font_faces
from graphir.drawing.inline import asset, document_head
from graphir.drawing.paint import paint
from graphir.drawing.picture import Picture
from graphir.drawing.svg import inline_svg, parse_svg
from graphir.guide.markup import Heading, scrolled
from graphir.guide.tables import set_names

#: Letters that a page may need beside those in its source: a browser sets the letters of formulas from their own place.
_LETTERS = "".join(map(chr, (*range(0x20, 0x7F), *range(0x1D434, 0x1D468), 0x210E, *range(0x1D6E2, 0x1D71C))))


def figure_html(picture: Picture, number: int, id: str) -> str:
    """A picture as inline SVG, with its number, title and caption; `id` is its address in the page."""
    # The caption says the title; twice is once too often.
    root = parse_svg(paint(replace(picture, title="")))
    width = float(root.get("width", "0").removesuffix("pt"))
    drawing = inline_svg(root, f"f{number}")
    caption = f"<strong>Figure {number}. {escape(picture.title)}.</strong> {set_names(picture.caption)}"
    return (
        f'<figure id="figure-{escape(id)}" style="--width: {width:.0f}pt">'
        f"{scrolled(drawing, picture.title, 'drawing')}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def page_html(title: str, head: str, foot: str, contents: Iterable[Heading], body: Iterable[str]) -> str:
    """The page: what stands below its title (HTML), its contents and its body (HTML), and what it was made for."""
    style, script = asset("graphir.guide", "style.css"), asset("graphir.guide", "contents.js")
    text = "\n".join(body)
    faces = font_faces(text + head + foot + title + _LETTERS)
    return f"""{document_head(title, script, faces, style)}
<body>
<nav aria-label="Contents"><details open><summary>Contents<span></span></summary>{_contents(contents)}</details></nav>
<main>
<header><h1>{escape(title)}</h1>
{head}</header>
{text}
<footer>{escape(foot)}</footer>
</main>
<script>{script}</script>
</body>
</html>
"""


def _contents(contents: Iterable[Heading]) -> str:
    """The contents: sections, and the subsections of each."""
    made: list[tuple[Heading, list[Heading]]] = []
    for heading in contents:
        if heading.depth == 1:
            made.append((heading, []))
        elif heading.depth == 2:
            made[-1][1].append(heading)
    items = "".join(
        f"<li>{_link(section)}<ol>{''.join(f'<li>{_link(s)}</li>' for s in below)}</ol></li>" for section, below in made
    )
    return f"<ol>{items}</ol>"


def _link(heading: Heading) -> str:
    return f'<a href="#{heading.anchor}"><span class="number">{heading.number}</span>{escape(heading.title)}</a>'
