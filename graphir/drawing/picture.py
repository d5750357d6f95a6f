"""Pictures: what a view of a graph looks like, as plain data that any writer (DOT, HTML, JSON) can read.

A *label* is a sequence of runs, text in a form (bold, italic, subscript, superscript). A node's label has
lines; a *port*, where values enter or leave the picture, has a line for each value, and an edge says by `row`
which line it belongs to. Where things lie is said by hints (`beside`, `level`, `weight`), not by coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class Run(NamedTuple):
    """A piece of text in one form: "" (roman), "bold", "italic", "sub", "sup" or "small"."""

    text: str
    form: str = ""


Label: TypeAlias = tuple[Run, ...]

#: What a tensor is to the node that reads it.
ROLES = ("forward", "gradient", "cached", "parameter", "collective")


@dataclass(frozen=True, slots=True)
class Details:
    """What a reader may ask of a node: what it makes, by which formula, from which line of the program, and why.

    types     `X_norm float32[B, S, D]` for each output
    formula   the operator's own words
    at        the author's file and line
    why       for an inserted node, the reason
    of        for a d-node, the forward node it belongs to
    """

    types: tuple[str, ...] = ()
    formula: str = ""
    at: str = ""
    why: str = ""
    of: str = ""


@dataclass(frozen=True, slots=True)
class PictureNode:
    """A node of a picture.

    lines    its label; of a port one line for each value, whose shapes are in `shapes`
    kind     sign (circle), operator (rectangle), collective, block, port, junction or note
    op       the operator's key; "" for what is no operator
    partner  for a d-node or d-block, the id of the forward one, if that is drawn
    axes     of a collective, the mesh axes along which ranks meet in it
    beside   the node at whose side it lies, and which side: "left" or "right"
    ranks    the ranks that run it, where ranks are drawn side by side
    """

    id: str
    lines: tuple[Label, ...]
    kind: str
    shapes: tuple[Label, ...] = ()
    op: str = ""
    scope: str = ""
    phase: str = "forward"
    role: str = ""
    partner: str = ""
    axes: tuple[str, ...] = ()
    beside: tuple[str, str] | None = None
    ranks: tuple[int, ...] = ()
    details: Details = Details()


@dataclass(frozen=True, slots=True)
class PictureEdge:
    """A tensor on its way from one node to another.

    tensor    its full name, or several, if the edge stands for more than one
    label     what is written beside the arrow; () where a port or the trunk of a junction says it already
    shape     `[B, S, D/N_T]`, as text; `shape_label` typesets it
    of_parameter  whether it is a parameter's gradient, on its way to the optimizer
    row       the line of the port that it starts or ends at
    bytes     the number of bytes as a formula, `4*B*S*D`
    """

    source: str
    target: str
    tensor: str
    role: str
    label: Label = ()
    shape: str = ""
    shape_label: Label = ()
    of_parameter: bool = False
    row: int | None = None
    bytes: str = ""
    weight: int = 1
    back: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """A frame around nodes: a layer, a rank, a pass. `kind` is "layer", "rank" or "group"."""

    id: str
    label: Label
    nodes: tuple[str, ...]
    clusters: tuple[Cluster, ...] = ()
    kind: str = "group"


@dataclass(frozen=True, slots=True)
class Cell:
    """A part of a picture that is laid out by itself: its nodes under a title, and lines of text below them."""

    title: Label
    lines: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Cells that belong together, in rows under a title."""

    title: Label
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A line of the legend: `style` is a key of the style tables, `kind` is "edge" or "node"."""

    kind: str
    style: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure. `direction` is TB or LR; `detailed` says that gradients are thick, not dashed (B 4.2.1)."""

    name: str
    title: str
    caption: str = ""
    direction: str = "TB"
    detailed: bool = True
    nodes: tuple[PictureNode, ...] = ()
    edges: tuple[PictureEdge, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    legend: tuple[LegendEntry, ...] = ()
    #: Nodes of one level: they lie in a row (a column, if the direction is LR), as d-nodes beside their nodes.
    levels: tuple[tuple[str, ...], ...] = ()
    #: Of a picture that is a table: what it shows, cell by cell.
    sections: tuple[Section, ...] = ()
    #: Pairs (first, then) that only order the drawing.
    order: tuple[tuple[str, str], ...] = field(default=())

    def node(self, id: str) -> PictureNode:
        """The node of that id; KeyError if there is none."""
        for each in self.nodes:
            if each.id == id:
                return each
        raise KeyError(id)

    def tensors(self) -> Iterator[tuple[str, str]]:
        """(name, shape) of what is on the edges, in order."""
        for edge in self.edges:
            yield edge.tensor, edge.shape
