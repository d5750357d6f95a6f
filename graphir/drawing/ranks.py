"""Ranks side by side: one rank's picture repeated for each, collectives spanning those that meet in them.

Between two collectives each rank has a frame of its own; so the page reads from top to bottom in time, from left to
right in ranks, and every collective is a bar across the ranks that wait for each other there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

from graphir.drawing.picture import Cluster, Picture, PictureEdge, PictureNode, Run
from graphir.ir.layout import Mesh

#: What the documents call a rank along each axis.
_NAMES: Mapping[str, str] = {"tp": "GPU", "dp": "replica"}


def side_by_side(picture: Picture, mesh: Mesh) -> Picture:
    """`picture`, which shows what each rank of `mesh` does, with all ranks in it."""
    segment = _segments(picture)
    spanning = {node.id for node in picture.nodes if node.axes}
    where: dict[tuple[str, int], str] = {}
    nodes: list[PictureNode] = []
    frames: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    levels: list[tuple[str, ...]] = []
    # What leaves a bar leaves it once for all ranks.
    axes = {node.id: node.axes for node in picture.nodes}
    for edge in picture.edges:
        if edge.source in spanning and picture.node(edge.target).kind == "port":
            axes[edge.target] = axes[edge.source]
    for node in picture.nodes:
        groups = mesh.groups(axes[node.id]) if axes[node.id] else tuple((rank,) for rank in range(mesh.size))
        row = []
        for group in groups:
            id = f"{node.id} @{'+'.join(map(str, group))}"
            row.append(id)
            for rank in group:
                where[node.id, rank] = id
            # Beside a bar that spans ranks there is no place for what each of them gets.
            alone = node.beside is not None and node.beside[0] not in spanning
            beside = (f"{node.beside[0]} @{group[0]}", node.beside[1]) if node.beside and alone else None
            nodes.append(replace(node, id=id, ranks=group, beside=beside, partner=""))
            if not axes[node.id]:
                frames[group[0], segment[node.id]].append(id)
        if len(row) > 1 and node.kind != "junction":
            levels.append(tuple(row))
    edges = _edges_of_ranks(picture.edges, mesh, where)
    heads = _heads(mesh)
    heading = tuple(head.id for head in heads)
    entries = {edge.target for edge in edges}
    order = [*pairwise(heading)]
    order += [
        (heading[rank], id) for (rank, part), ids in frames.items() if part == 0 for id in ids if id not in entries
    ]
    order += [(where[a, rank], where[b, rank]) for a, b in picture.order for rank in range(mesh.size)]
    return replace(
        picture,
        nodes=(*heads, *nodes),
        edges=edges,
        levels=(heading, *levels),
        order=tuple(order),
        clusters=_frames(mesh, frames, [node for node in nodes if node.axes]),
    )


def _edges_of_ranks(
    edges: Iterable[PictureEdge], mesh: Mesh, where: Mapping[tuple[str, int], str]
) -> tuple[PictureEdge, ...]:
    """Every edge for every rank, between the nodes `where` its ends are there; the same one once."""
    copies: dict[tuple[str, str, str, int | None], PictureEdge] = {}
    for edge in edges:
        for rank in range(mesh.size):
            source, target = where[edge.source, rank], where[edge.target, rank]
            # What is written once, at the first rank, holds for all.
            label, shape = (edge.label, edge.shape_label) if rank == 0 else ((), ())
            copy = replace(edge, source=source, target=target, label=label, shape_label=shape)
            copies.setdefault((source, target, edge.tensor, edge.row), copy)
    return tuple(copies.values())


def _heads(mesh: Mesh) -> list[PictureNode]:
    """A heading over each rank's column."""
    return [
        PictureNode(f"rank {rank}", ((Run(rank_name(mesh, rank), "bold"),),), "note", ranks=(rank,))
        for rank in range(mesh.size)
    ]


def _frames(
    mesh: Mesh, frames: Mapping[tuple[int, int], list[str]], spanning: list[PictureNode]
) -> tuple[Cluster, ...]:
    """A frame for each rank's part of a segment; where the mesh has several axes, groups along the first in frames."""
    parts = [
        (rank, Cluster(f"rank{rank}.{part}", (), tuple(ids), kind="rank"))
        for (rank, part), ids in sorted(frames.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    if len(mesh.axes) < 2:
        return tuple(cluster for _, cluster in parts)
    outer = mesh.names[0]
    found = []
    for index in range(mesh.sizes[outer]):
        inside = {rank for rank in range(mesh.size) if mesh.ranks[rank][outer] == index}
        own = tuple(node.id for node in spanning if inside.issuperset(node.ranks))
        clusters = tuple(cluster for rank, cluster in parts if rank in inside)
        found.append(Cluster(f"{outer}{index}", (), own, clusters, "group"))
    return tuple(found)


def rank_name(mesh: Mesh, rank: int) -> str:
    """`GPU 2`, or `replica 1, GPU 2`: a rank by its coordinates, counted from 0."""
    return ", ".join(f"{rank_kind(axis)} {index}" for axis, index in mesh.ranks[rank].items())


def rank_kind(axis: str) -> str:
    """What a rank along an axis is called: a replica along dp, a GPU along tp."""
    return _NAMES.get(axis, axis)


def _segments(picture: Picture) -> dict[str, int]:
    """Per node, how many collectives lie before it at most: what ranks do between two of them is one segment."""
    into: defaultdict[str, list[str]] = defaultdict(list)
    for edge in picture.edges:
        into[edge.target].append(edge.source)
    for first, then in picture.order:
        into[then].append(first)
    spanning = {node.id for node in picture.nodes if node.axes}
    found: dict[str, int] = {}

    def visit(id: str) -> int:
        if id not in found:
            found[id] = 0
            found[id] = max((visit(source) + (source in spanning) for source in into[id]), default=0)
        return found[id]

    for node in picture.nodes:
        visit(node.id)
    # A port belongs to the segment of the node that it feeds.
    for edge in picture.edges:
        if not into[edge.source] and edge.source not in spanning:
            found[edge.source] = found[edge.target]
    return found
