"""How a picture is laid out: hints for whoever places its nodes, frames, and the legend.

No coordinate is computed here. Rows say which nodes are level and in which order, weights which edges should be
straight, and a knot brings many edges of one kind together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from graphir.drawing import style
from graphir.drawing.picture import Cluster, Label, LegendEntry, Picture, PictureEdge, PictureNode, Run
from graphir.drawing.vertices import Vertices
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE

#: All parameters' gradients together (B 3.1).
THETA_GRADIENT: Label = (Run("d"), Run("θ\u0303", "italic"))


def arrange(scene: Vertices, edges: Sequence[PictureEdge], rows: Sequence[tuple[str, ...]], name: str) -> Picture:
    """The picture of the scene's vertices and `edges`; `rows` are vertices that lie level, from left to right."""
    view = scene.view
    nodes = dict(scene.vertices)
    drawn = join_parallel(edges)
    for vertex in scene.joint:
        drawn = _gather(vertex, nodes, drawn)
    level = [*rows, *_collectives_aside(drawn, scene.joint)]
    if view.mirror:
        level += [(each.partner, each.id) for each in nodes.values() if each.partner in nodes]
        drawn = [replace(edge, back=True) if _is_back(edge, nodes) else edge for edge in drawn]
    linked = {(edge.source, edge.target) for edge in drawn}
    aside = {each.beside: each.id for each in nodes.values() if each.beside}
    order = [pair for row in level for pair in pairwise(_with_shelves(row, aside)) if pair not in linked]
    return Picture(
        name=name,
        title=view.title or scene.graph.name,
        direction=view.direction,
        detailed=view.detailed,
        nodes=tuple(nodes.values()),
        edges=tuple(drawn),
        clusters=_frames(scene) or _layers(scene, nodes),
        legend=legend(nodes.values(), drawn, view.detailed),
        levels=tuple(dict.fromkeys(level)),
        order=(*_turn(scene, nodes), *_column(nodes, drawn), *order),
    )


def join_parallel(edges: Iterable[PictureEdge]) -> list[PictureEdge]:
    """Several parameters' gradients between the same two vertices as one edge, dθ."""
    joined: dict[tuple[object, ...], PictureEdge] = {}
    for edge in edges:
        alone = not edge.of_parameter or edge.row is not None
        key: tuple[object, ...] = (len(joined),) if alone else (edge.source, edge.target)
        old = joined.get(key)
        if old is None:
            joined[key] = edge
        else:
            tensors = f"{old.tensor}, {edge.tensor}"
            joined[key] = replace(old, tensor=tensors, label=THETA_GRADIENT, shape="", shape_label=(), bytes="")
    return list(joined.values())


def _gather(vertex: str, nodes: dict[str, PictureNode], edges: Sequence[PictureEdge]) -> list[PictureEdge]:
    """One arrow into a collective in which all parameters' gradients meet, from a knot where they come together."""
    knot = f"knot {vertex}"
    if not any(edge.target == vertex for edge in edges):
        # A view without parameters, or their gradients, still says that they all meet here.
        gradients = vertex.startswith("d")
        label, phase = THETA_GRADIENT if gradients else THETA_GRADIENT[1:], nodes[vertex].phase
        nodes[knot] = PictureNode(knot, (label,), "port", ((),), phase=phase, role="inflow")
        return [*edges, PictureEdge(knot, vertex, "", "collective", of_parameter=gradients, weight=8)]
    nodes[knot] = PictureNode(knot, (), "junction", phase=BACKWARD)
    tensors = ", ".join(edge.tensor for edge in edges if edge.target == vertex)
    bare = [replace(e, target=knot, label=(), shape_label=()) if e.target == vertex else e for e in edges]
    trunk = PictureEdge(knot, vertex, tensors, "collective", THETA_GRADIENT, of_parameter=True, weight=8)
    return [*bare, trunk]


def _collectives_aside(edges: Sequence[PictureEdge], joint: Iterable[str]) -> list[tuple[str, ...]]:
    """A parameter's gradient meets the other ranks' at the side of the node that makes it, if that goes on below."""
    met: defaultdict[str, list[str]] = defaultdict(list)
    for edge in edges:
        if edge.of_parameter and edge.role == "collective" and edge.target not in joint:
            met[edge.source].append(edge.target)
    goes_on = {edge.source for edge in edges if not edge.of_parameter}
    return [(source, targets[0]) for source, targets in met.items() if len(targets) == 1 and source in goes_on]


def _is_back(edge: PictureEdge, nodes: dict[str, PictureNode]) -> bool:
    """Whether an edge runs against the drawing's direction, from one d-node to the one before."""
    ends = (nodes[edge.source], nodes[edge.target])
    backward = all(end.phase == BACKWARD or end.kind in ("port", "junction") for end in ends)
    return backward and edge.role in ("gradient", "collective") and not any(end.beside for end in ends)


def _with_shelves(row: Sequence[str], aside: Mapping[tuple[str, str], str]) -> list[str]:
    """The row with what lies at the sides of its nodes."""
    return [id for each in row for id in (aside.get((each, "left")), each, aside.get((each, "right"))) if id]


def _turn(scene: Vertices, nodes: dict[str, PictureNode]) -> list[tuple[str, str]]:
    """In an overall figure that is not mirrored the backward pass begins below the end of the forward pass."""
    if scene.view.mirror or not scene.view.folds:
        return []
    backward = [each.id for each in nodes.values() if (each.op or each.kind == "block") and each.phase == BACKWARD]
    forward = [each.id for each in nodes.values() if each.role == "outflow" and each.phase == FORWARD]
    return [(last, backward[0]) for last in forward] if backward else []


def _column(nodes: Mapping[str, PictureNode], edges: Sequence[PictureEdge]) -> Iterable[tuple[str, str]]:
    """Updates that read nothing but what waits beside them stand below one another."""
    entered = {edge.target for edge in edges if nodes[edge.source].beside != (edge.target, "left")}
    return pairwise(each.id for each in nodes.values() if each.phase == UPDATE and each.op and each.id not in entered)


def _frames(scene: Vertices) -> tuple[Cluster, ...]:
    """The view's frames, around what is drawn of their nodes; one around a single node says nothing."""
    vertex_of = {node.name: vertex for node, vertex in scene.vertex_of.items() if node.name == vertex}
    clusters = []
    for number, frame in enumerate(scene.view.frames):
        inside = tuple(vertex_of[name] for name in frame.names if name in vertex_of)
        if len(inside) > 1:
            clusters.append(Cluster(f"frame {number}", (Run(frame.label),), inside))
    return tuple(clusters)


def _layers(scene: Vertices, nodes: dict[str, PictureNode]) -> tuple[Cluster, ...]:
    """A frame around each run of equal layers, with their number, where a view shows more than the layers."""
    if scene.view.scopes or scene.view.only:
        return ()
    clusters = []
    for run in scene.repeats.runs:
        inside = tuple(
            node.id
            for node in nodes.values()
            if node.scope.split("/")[0] == run.scope and node.role not in ("inflow", "outflow")
        )
        if 0 < len(inside) < len(nodes):
            label = f"{run.stem} × {run.count}" if run.count > 1 else run.scope
            clusters.append(Cluster(run.scope, (Run(label),), inside, kind="layer"))
    return tuple(clusters)


def legend(nodes: Iterable[PictureNode], edges: Iterable[PictureEdge], detailed: bool) -> tuple[LegendEntry, ...]:
    """The styles that occur, in the order of the style table."""
    used = {style.edge_style(edge.role, edge.of_parameter, detailed) for edge in edges}
    entries = [LegendEntry("edge", key, look.text) for key, look in style.EDGES.items() if key in used]
    axes = dict.fromkeys(node.axes[0] for node in nodes if node.axes)
    entries += [LegendEntry("node", f"collective-{axis}", f"collective over {axis}") for axis in axes]
    return tuple(entries) if len(entries) > 1 else ()
