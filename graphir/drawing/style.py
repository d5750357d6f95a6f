"""The one table of colours, shapes and lines: what a role or a kind looks like.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; every distinction is made by line or
shape, too, so that nothing is lost in grey: forward thin, gradients thick (dashed in overall figures), cached double,
parameters with a hollow tip, collectives framed twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FONT = "Times"
#: What a reader's machine may have of it, or of its widths; single quotes, since it stands in an attribute.
FONTS = "Times, 'Times New Roman', 'Liberation Serif', Tinos, 'Nimbus Roman', 'TeX Gyre Termes', STIXGeneral, serif"
INK = "#1A1A1A"
QUIET = "#666666"
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#007A5A", "#E69F00", "#56B4E9", "#A8518A"

#: Type sizes in points.
SIGN, TEXT, SHAPE, TITLE, LEGEND = 15.0, 12.0, 9.5, 13.0, 10.0


@dataclass(frozen=True, slots=True)
class EdgeStyle:
    """How an arrow is drawn; `sign` stands for it in the legend."""

    color: str
    width: float
    line: str = "solid"
    tip: str = "normal"
    double: bool = False
    sign: str = "⟶"
    text: str = ""


@dataclass(frozen=True, slots=True)
class NodeStyle:
    """How a node is drawn."""

    shape: str
    border: str
    fill: str
    width: float = 1.0
    frames: int = 1
    rounded: bool = False
    text: str = ""


EDGES: Mapping[str, EdgeStyle] = {
    "forward": EdgeStyle(INK, 1.1, text="forward"),
    "gradient": EdgeStyle(BLUE, 2.2, text="gradient"),
    "gradient-overall": EdgeStyle(BLUE, 1.3, line="dashed", sign="⇢", text="gradient"),
    "cached": EdgeStyle(GREEN, 0.9, double=True, sign="⇒", text="cached forward value"),
    "parameter": EdgeStyle(QUIET, 1.0, tip="empty", sign="⇾", text="parameter"),
    "parameter-gradient": EdgeStyle(VERMILLION, 2.2, tip="diamond", sign="⟶", text="gradient of a parameter"),
    "collective": EdgeStyle(PURPLE, 1.6, tip="vee", text="into a collective"),
}

NODES: Mapping[str, NodeStyle] = {
    "sign": NodeStyle("circle", INK, "white"),
    "operator": NodeStyle("box", INK, "white"),
    "collective": NodeStyle("box", PURPLE, "#F6EAF2", 1.2, frames=2, text="collective"),
    "block": NodeStyle("box", INK, "#F3F3F3", 1.2, rounded=True, text="block of nodes"),
    "port": NodeStyle("plain", INK, "none"),
    "note": NodeStyle("plain", QUIET, "none"),
    "junction": NodeStyle("point", INK, INK),
}

#: The border and fill of a d-node, and of a collective along each axis of the mesh.
BACKWARD = (BLUE, "#EAF3F9")
UPDATE = (VERMILLION, "#FCEEE4")
AXES: Mapping[str, tuple[str, str]] = {
    "tp": (PURPLE, "#F6EAF2"),
    "dp": (VERMILLION, "#FCEEE4"),
    "cp": (GREEN, "#E6F3EF"),
}

CLUSTERS: Mapping[str, tuple[str, str]] = {
    "layer": ("#BBBBBB", "dashed"),
    "rank": ("#999999", "solid"),
    "group": ("#DDDDDD", "solid"),
}


def edge_style(role: str, of_parameter: bool = False, detailed: bool = True) -> str:
    """The key of the style in `EDGES`."""
    if of_parameter and role in ("gradient", "collective"):
        return "parameter-gradient"
    if role == "gradient" and not detailed:
        return "gradient-overall"
    return role


def swatch(key: str) -> tuple[str, str]:
    """The border and fill that stand for a kind of node in the legend."""
    swatches: Mapping[str, tuple[str, str]] = {
        "backward": BACKWARD,
        "update": UPDATE,
        **{f"collective-{axis}": colours for axis, colours in AXES.items()},
    }
    look = NODES.get(key)
    return swatches.get(key) or ((look.border, look.fill) if look else (INK, "white"))
