"""SVG made harmless: a drawing, whoever wrote it, rebuilt from an allow-list, ready to stand inside an HTML page.

Labels come from users, so an SVG is never passed on as text. It is parsed, and only elements and attributes that a
drawing needs are kept: shapes, text, groups. Scripts, event handlers, foreign objects, links and references to
anything outside of the file have no place on the list. A tooltip, which Graphviz writes as a link, becomes a title.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from graphir.errors import ConfigError

SVG_SPACE = "http://www.w3.org/2000/svg"
_LINK_TITLE = "{http://www.w3.org/1999/xlink}title"
_SPACE = "{http://www.w3.org/XML/1998/namespace}space"

_ELEMENT_NAMES = "svg g path polygon polyline ellipse circle rect line text tspan title defs"
_ATTRIBUTE_NAMES = """
    id class width height viewBox preserveAspectRatio transform points d cx cy rx ry r x y dx dy x1 y1 x2 y2
    fill fill-opacity stroke stroke-width stroke-dasharray stroke-linecap stroke-linejoin stroke-opacity opacity
    text-anchor font-family font-size font-weight font-style text-decoration baseline-shift textLength lengthAdjust
"""
_ELEMENTS, _ATTRIBUTES = frozenset(_ELEMENT_NAMES.split()), frozenset(_ATTRIBUTE_NAMES.split())
#: `url(…)` could fetch something, and a backslash could spell it otherwise; a drawing's values need neither.
_UNSAFE = re.compile(r"url\s*\(|javascript:|expression\s*\(|\\", re.IGNORECASE)
#: What XML 1.0 cannot hold, escaped or not.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

ElementTree.register_namespace("", SVG_SPACE)


def printable(text: str) -> str:
    """`text` with a replacement character for each that XML cannot hold: control characters, lone surrogates."""
    return _FORBIDDEN.sub("\ufffd", text)


def parse_svg(source: bytes | str) -> ElementTree.Element:
    """The root of an SVG, holding only what is on the list.

    Errors: ConfigError if `source` is not well-formed XML, declares entities, or its root is no svg.
    """
    text = source.decode("utf-8", "replace") if isinstance(source, bytes) else source
    if "<!ENTITY" in text:
        raise ConfigError("cannot read the drawing: it declares XML entities, which no drawing needs")
    try:
        root = ElementTree.fromstring(printable(text).encode())
    except ElementTree.ParseError as error:
        raise ConfigError(f"cannot read the drawing: it is not well-formed SVG ({error})") from None
    if _local(root.tag) != "svg":
        raise ConfigError(f"cannot read the drawing: its root is <{_local(root.tag)}>, not <svg>")
    return _clean(root)


def sanitize_svg(source: bytes | str) -> bytes:
    """A whole SVG file with nothing in it but a drawing. Errors as in `parse_svg`."""
    return write_svg(parse_svg(source))


def write_svg(root: ElementTree.Element) -> bytes:
    """The element as a file: UTF-8, with an XML declaration."""
    drawing: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{drawing}\n'.encode()


def inline_svg(root: ElementTree.Element, prefix: str, *, titles: bool = True) -> str:
    """The element as it may stand in an HTML page: ids begin with `prefix`, so that several drawings get along.

    Without `titles` a browser shows no tooltips.
    """
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{prefix}-{element.get('id')}")
        for child in [] if titles else [child for child in element if _local(child.tag) == "title"]:
            element.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element) -> ElementTree.Element:
    tag = _local(element.tag)
    # Graphviz makes a link of what has a tooltip; the group that it stands for is kept, the link is not.
    kept = ElementTree.Element(f"{{{SVG_SPACE}}}{'g' if tag == 'a' else tag}")
    for name, value in element.attrib.items():
        if (name in _ATTRIBUTES or name == _SPACE) and not _UNSAFE.search(value):
            kept.set(name, value)
    tooltip = element.get(_LINK_TITLE) if tag == "a" else None
    if tooltip:
        ElementTree.SubElement(kept, f"{{{SVG_SPACE}}}title").text = tooltip
    kept.text = element.text
    for child in element:
        if isinstance(child.tag, str) and (_local(child.tag) in _ELEMENTS or _local(child.tag) == "a"):
            cleaned = _clean(child)
            cleaned.tail = child.tail
            kept.append(cleaned)
    return kept


def _local(tag: object) -> str:
    return str(tag).rpartition("}")[2]
