"""A block's drawings: one for each pass, as SVG that a page copies to where the block is unfolded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphir.drawing import View, draw
from graphir.drawing.explore.blocks import Block
from graphir.drawing.paint import paint
from graphir.drawing.picture import Details, Picture, PictureEdge, PictureNode
from graphir.drawing.svg import inline_svg, parse_svg
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph
from graphir.ir.operator import operators

PASSES = (FORWARD, BACKWARD, UPDATE)
#: What a drawing of all passes together stands for.
ALL = "all"
#: A drawing of more nodes than that nobody reads: the page lists them.
MOST_NODES = 200
#: What only keys dropout masks is no part of the documents' figures.
_KEYS = ("seed", "step")


@dataclass(frozen=True)
class Drawing:
    """An SVG whose elements `d-n0`, …, `d-e0`, … are a picture's nodes and edges, and what these stand for.

    width, height   in the SVG's own units
    nodes           for each node the names of the values that it makes, or that wait in it; the first says which node
    edges           for each edge the names of the tensors on it
    """

    svg: str
    width: float
    height: float
    nodes: tuple[tuple[str, ...], ...]
    edges: tuple[tuple[str, ...], ...]


def drawing_of_block(graph: Graph, block: Block, phase: str, layers: Sequence[int]) -> Drawing | None:
    """The drawing of one pass of a block; None if it has no node there, or too many. `layers` are all there are."""
    names = tuple(node.name for node in block.nodes if node.meta.phase == phase)
    if not 0 < len(names) <= MOST_NODES:
        return None
    view = View(
        scopes=(block.scope,) if block.scope else (),
        phases=(phase,),
        only=names,
        hide=_KEYS,
        # Each layer stands for itself here, so that its neighbours bear their own names.
        expand=tuple(layers),
        local=graph.mesh.size > 1,
        cached="ports",
    )
    picture = draw(graph, view, "block")
    # Of a node that only hands its gradient on nothing is drawn.
    return drawing_of(replace(picture, legend=())) if picture.nodes else None


def drawing_of(picture: Picture) -> Drawing:
    """A picture drawn, without title and tooltips: the page says what they would."""
    bare = tuple(replace(node, details=Details()) for node in picture.nodes)
    root = parse_svg(paint(replace(picture, nodes=bare, title="")))
    _, _, width, height = map(float, root.get("viewBox", "0 0 1 1").replace(",", " ").split())
    carried = _carried(picture)
    waiting: dict[str, list[str]] = {}
    for edge, names in zip(picture.edges, carried, strict=True):
        waiting.setdefault(edge.source, []).extend(names)
    nodes = tuple(_made(node) or tuple(dict.fromkeys(waiting.get(node.id, ()))) for node in picture.nodes)
    return Drawing(inline_svg(root, "d", titles=False), width, height, nodes, carried)


def _made(node: PictureNode) -> tuple[str, ...]:
    """The names of the values that a node makes."""
    return tuple(text.partition(" ")[0] for text in node.details.types)


def _carried(picture: Picture) -> tuple[tuple[str, ...], ...]:
    """The tensors on each edge; what a collective made bears its own name here, and not that of what went in."""
    collectives = {each.key for each in operators() if each.relayout is not None}
    by_id = {node.id: node for node in picture.nodes}
    trunk = {edge.target: edge for edge in picture.edges if by_id[edge.target].kind == "junction"}

    def names(edge: PictureEdge) -> tuple[str, ...]:
        source = by_id[edge.source]
        if source.kind == "junction" and edge.source in trunk:
            return names(trunk[edge.source])
        moved = source.op in collectives and len(_made(source)) == 1
        return _made(source) if moved else tuple(edge.tensor.split(", "))

    return tuple(map(names, picture.edges))
