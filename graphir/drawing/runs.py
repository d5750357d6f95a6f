"""Text runs of a drawn SVG put together again, so that a reader's own font sets them.

A layout engine estimates the width of letters and places each run (**X**, then "norm", then " [B, S, D]") as a text of
its own; where the estimate is off, by a tilde that it counts as a letter or a font that it does not know, runs drift
apart. Here the runs of a line become spans of one text, each starting where the one before ends, and subscripts are
lowered by dy, which every viewer understands, baseline-shift being one that several do not.
"""

from __future__ import annotations

from xml.etree import ElementTree

_SHIFT = {"sub": 0.26, "super": -0.42}
#: Not every font knows where a combining tilde belongs: it is set as a letter of its own, over the middle of the one
#: before. Widths of those letters in Times Bold, and of the tilde, in em; and how far tall letters lift it.
_TILDE, _SPACING_TILDE, _TILDE_WIDTH = "\u0303", "\u02dc", 0.333
_WIDTHS = {"W": 1.0, "E": 0.667, "P": 0.611, "b": 0.556, "γ": 0.5, "β": 0.52}
_LOW, _LIFT = "γ", 0.19


def join_runs(root: ElementTree.Element, node: bool = False) -> ElementTree.Element:
    """`root`, an SVG as Graphviz writes it, with the runs of each line joined; changed in place.

    `node` says that it is the drawing of a node, whose text stands in the middle of its shape.
    """
    node = node or root.get("class", "").startswith("node")
    line: list[ElementTree.Element] = []
    for child in [*root, None]:
        if child is not None and _name(child) == "text" and (not line or _same_line(line[-1], child)):
            line.append(child)
            continue
        _join(root, line, _center(root) if node else None)
        line = [child] if child is not None and _name(child) == "text" else []
        if child is not None:
            join_runs(child, node)
    return root


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _same_line(before: ElementTree.Element, text: ElementTree.Element) -> bool:
    """Whether `text` goes on where `before` ends, as near as widths can be guessed."""
    gap = float(text.get("x", "0")) - float(before.get("x", "0"))
    guess = sum(0.72 if c.isupper() else 0.48 if c.isascii() else 0.75 for c in before.text or "")
    reach = guess * float(before.get("font-size", "12")) * 1.15 + 4
    return text.get("text-anchor") == "start" and before.get("y") == text.get("y") and 0 < gap < reach


def _join(group: ElementTree.Element, line: list[ElementTree.Element], center: float | None) -> None:
    """The texts of one line as the spans of the first."""
    if not line or (len(line) == 1 and line[0].get("baseline-shift") is None):
        return
    first = line[0]
    joined = ElementTree.Element(first.tag, {name: first.get(name, "") for name in ("text-anchor", "x", "y")})
    joined.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    if center is not None:
        joined.set("text-anchor", "middle")
        joined.set("x", f"{center:.2f}")
    level = shift = 0.0
    for run in line:
        span = ElementTree.SubElement(joined, first.tag.replace("text", "tspan"))
        for name, value in run.attrib.items():
            if name not in ("text-anchor", "x", "y", "baseline-shift") and not name.endswith("space"):
                span.set(name, value)
        size = float(run.get("font-size", "12"))
        wanted = _SHIFT.get(run.get("baseline-shift", ""), 0.0) * size * 1.3
        if wanted != level:
            span.set("dy", f"{wanted - level:.2f}")
            level = wanted
        if shift:
            span.set("dx", f"{shift:.2f}")
            shift = 0.0
        text = run.text or ""
        span.text = text.replace(_TILDE, "")
        if _TILDE in text:
            letter = span.text[-1:]
            width = _WIDTHS.get(letter, 0.6)
            lift = 0.0 if letter in _LOW else _LIFT * size
            tilde = ElementTree.SubElement(joined, span.tag, {n: v for n, v in span.attrib.items() if n[0] != "d"})
            tilde.set("dx", f"{-(width + _TILDE_WIDTH) / 2 * size:.2f}")
            tilde.set("dy", f"{-lift:.2f}")
            tilde.text = _SPACING_TILDE
            level -= lift
            shift = (width - _TILDE_WIDTH) / 2 * size
    joined.tail = line[-1].tail
    group.insert(list(group).index(first), joined)
    for run in line:
        group.remove(run)


def _center(group: ElementTree.Element) -> float | None:
    """The middle of the one circle or box that the group draws its text into; None where there is none."""
    shapes = [child for child in group if _name(child) in ("ellipse", "polygon", "path")]
    if not shapes or sum(_name(child) == "text" for child in group) == 0:
        return None
    shape = shapes[0]
    if _name(shape) == "ellipse":
        return float(shape.get("cx", "0"))
    if (
        _name(shape) == "polygon"
        and "fill" in shape.attrib
        and len(shapes) <= 2
        and len(shape.get("points", "").split()) == 5
    ):
        xs = [float(point.split(",")[0]) for point in shape.get("points", "").split()]
        return (min(xs) + max(xs)) / 2
    return None
