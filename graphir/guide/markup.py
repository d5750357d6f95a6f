"""The guide's prose: plain text with a few marks, to HTML.

    # 4 Title, ## 4.1 Title     a section and a subsection; the number is its address in the page
    *word*  **word**  `word`    emphasis, strong emphasis, code
    $X W$   $$ dX = … $$        a formula in the line, and on a line of its own (`graphir.guide.math`)
    - item                      a list; 1. item, a numbered one
    {figure mha-forward}        a directive on a line of its own: what is drawn, measured or worked out goes here
    {N_T}                       a name in a line: a number or word of the configuration

Paragraphs are parted by empty lines. All text is escaped; only a directive's own result is HTML already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

from graphir.errors import ConfigError
from graphir.guide.math import mathml

Directive = Callable[..., str]

_HEADING = re.compile(r"(#{1,3}) ((?:\d+\.)*\d+) (.+)")
_DIRECTIVE = re.compile(r"\{(\w+)((?: [^{}\s]+)*)\}")
_ITEM = re.compile(r"(- |\d+\. )")
_SIDE_BY_SIDE = re.compile(r"\\q?quad")
_INLINE = re.compile(r"\$([^$]+)\$|`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|\{(\w+)\}")


@dataclass(frozen=True)
class Heading:
    """A heading of the text: its depth from 1, its number, its title."""

    depth: int
    number: str
    title: str

    @property
    def anchor(self) -> str:
        """Its address in the page."""
        return f"section-{self.number.replace('.', '-')}"


def headings(text: str) -> list[Heading]:
    """All headings of `text`, in order."""
    found = (_HEADING.fullmatch(line) for line in text.splitlines())
    return [Heading(len(each[1]), each[2], each[3]) for each in found if each]


def to_html(text: str, directives: Mapping[str, Directive], words: Mapping[str, str]) -> str:
    """`text` as HTML; a directive's function is called with its arguments, a word is filled in.

    Errors: ConfigError for a directive or word that is not known, or a formula that cannot be typeset.
    """
    blocks = (block.strip("\n") for block in re.split(r"\n\s*\n", text))
    return "\n".join(_block(block, directives, words) for block in blocks if block.strip())


def _block(block: str, directives: Mapping[str, Directive], words: Mapping[str, str]) -> str:
    heading = _HEADING.fullmatch(block)
    if heading:
        made = Heading(len(heading[1]), heading[2], heading[3])
        level = made.depth + 1  # h1 is the guide's own title
        number = f'<span class="number">{made.number}</span>'
        return f'<h{level} id="{made.anchor}">{number} {inline(made.title, words)}</h{level}>'
    directive = _DIRECTIVE.fullmatch(block)
    if directive:
        if directive[1] not in directives:
            known = ", ".join(sorted(directives))
            raise ConfigError(f"the guide's text asks for {block}, but there are only {known}")
        return directives[directive[1]](*directive[2].split())
    if block.startswith("$$") and block.endswith("$$"):
        # Formulas side by side stand below each other where the page is narrow.
        parts = "\n".join(mathml(part, display=True) for part in _SIDE_BY_SIDE.split(block[2:-2]))
        return scrolled(parts, "formula", "formula")
    if _ITEM.match(block):
        return _list(block, words)
    return f"<p>{inline(block, words)}</p>"


def _list(block: str, words: Mapping[str, str]) -> str:
    tag = "ul" if block.startswith("- ") else "ol"
    items: list[str] = []
    for line in block.splitlines():
        mark = _ITEM.match(line)
        if mark:
            items.append(line[mark.end() :])
        else:
            items[-1] += f" {line.strip()}"
    inner = "".join(f"<li>{inline(item, words)}</li>" for item in items)
    return f"<{tag}>{inner}</{tag}>"


def scrolled(content: str, name: str, kind: str = "wide") -> str:
    """HTML that may be wider than a reader's screen: it scrolls by itself, by touch, wheel or arrow keys."""
    return f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(name)}">{content}</div>'


def inline(text: str, words: Mapping[str, str] | None = None) -> str:
    """A line's text as HTML."""
    made, end = [], 0
    for match in _INLINE.finditer(text):
        made.append(_prose(text[end : match.start()]))
        made.append(_mark(match, words or {}))
        end = match.end()
    made.append(_prose(text[end:]))
    return "".join(made)


def _prose(text: str) -> str:
    return escape(text, quote=False).replace("'", "’")


def _mark(match: re.Match[str], words: Mapping[str, str]) -> str:
    formula, code, strong, emphasis, word = match.groups()
    if formula:
        return mathml(formula)
    if code:
        return f"<code>{escape(code, quote=False)}</code>"
    if strong:
        return f"<strong>{inline(strong, words)}</strong>"
    if emphasis:
        return f"<em>{inline(emphasis, words)}</em>"
    if word not in words:
        raise ConfigError(f"the guide's text asks for {{{word}}}, but there are only {', '.join(sorted(words))}")
    return escape(words[word])
