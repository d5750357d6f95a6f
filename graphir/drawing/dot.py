"""Pictures as DOT source, made through the `graphviz` package, which quotes every name and string.

Beside what Graphviz draws, nodes carry `op`, `scope`, `phase` and `kind`, edges `tensor`, `shape`, `role` and `bytes`:
a program reads the graph back from them. The SVG ids of nodes and edges are `n` and `e` + their position in the
picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import graphviz

from graphir.drawing import style
from graphir.drawing.labels import plain, to_graphviz
from graphir.drawing.picture import Cluster, Label, LegendEntry, Picture, PictureEdge, PictureNode, Run

_FLAT = {"left": "e", "right": "w"}


def dot(picture: Picture) -> str:
    """The picture's DOT source: deterministic, and valid whatever its strings are."""
    return str(_Writer(picture).write().source)


def _text(value: str) -> str:
    """A plain attribute: Graphviz would read backslashes as its own escapes, and `<…>` as markup.

    The result is no ordinary str: its type tells the `graphviz` package that it is text, so it must not be copied.
    """
    escaped: str = graphviz.escape(value)
    return escaped


def _html(text: str) -> str:
    return f"<{text}>"


class _Writer:
    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.nodes = {node.id: node for node in picture.nodes}
        self.index = {node.id: position for position, node in enumerate(picture.nodes)}
        self.digraph = graphviz.Digraph(graphviz.nohtml(picture.name))

    def write(self) -> graphviz.Digraph:
        """The finished graph."""
        self._frame()
        inside = {id for cluster in self.picture.clusters for id in _members(cluster)}
        for cluster in self.picture.clusters:
            self._cluster(self.digraph, cluster)
        for node in self.picture.nodes:
            if node.id not in inside:
                self._node(self.digraph, node)
        for position, edge in enumerate(self.picture.edges):
            self._edge(position, edge)
        self._hints()
        return self.digraph

    def _frame(self) -> None:
        picture = self.picture
        self.digraph.attr(
            "graph",
            rankdir=picture.direction,
            label=_html(_title(picture)),
            labelloc="b",
            fontname=style.FONT,
            nodesep="0.25",
            ranksep="0.22",
            newrank="true",
            splines="true",
            pad="0.2",
            tooltip=_text(picture.title),
        )
        self.digraph.attr("node", fontname=style.FONT, fontsize=f"{style.TEXT:g}", color=style.INK, height="0.1")
        self.digraph.attr("edge", fontname=style.FONT, fontsize=f"{style.TEXT:g}", arrowsize="0.65")

    # -- nodes ----------------------------------------------------------------------------------------

    def _node(self, parent: graphviz.Digraph, node: PictureNode) -> None:
        look = style.NODES[node.kind]
        border, fill = look.border, look.fill
        if node.kind in ("sign", "operator", "block"):
            if node.phase == "backward":
                border, fill = style.BACKWARD
            elif node.phase == "update":
                border, fill = style.UPDATE
        if node.kind == "collective" and node.axes:
            border, fill = style.AXES.get(node.axes[0], (border, fill))
        attributes: dict[str, str] = {
            "id": f"n{self.index[node.id]}",
            "class": _text(" ".join(("node", node.kind, node.phase))),
            "shape": look.shape,
            "color": border,
            "penwidth": f"{look.width:g}",
            "tooltip": _text(_tooltip(node)),
            "label": _node_label(node),
            "kind": node.kind,
            "phase": node.phase,
        }
        if look.shape != "plain":
            attributes |= {"style": "rounded,filled" if look.rounded else "filled", "fillcolor": fill}
        if look.frames > 1:
            attributes["peripheries"] = str(look.frames)
        if node.kind == "sign" and len(plain(node.lines[0])) == 1:
            attributes["fontsize"] = f"{style.SIGN:g}"
        attributes |= _size(node)
        for key, value in (("op", node.op), ("scope", node.scope), ("axes", ",".join(node.axes))):
            if value:
                attributes[key] = _text(value)
        parent.node(node.id, **attributes)

    def _cluster(self, parent: graphviz.Digraph, cluster: Cluster) -> None:
        color, line = style.CLUSTERS[cluster.kind]
        with parent.subgraph(name=f"cluster_{cluster.id}") as inner:
            inner.attr(
                label=_html(_lines(cluster.label, style.LEGEND)) if cluster.label else "",
                color=color,
                style=f"rounded,{line}",
                labelloc="t",
                labeljust="l",
                fontcolor=style.QUIET,
                margin="9",
                tooltip=_text(plain(cluster.label)),
            )
            for child in cluster.clusters:
                self._cluster(inner, child)
            nested = {id for child in cluster.clusters for id in _members(child)}
            for id in cluster.nodes:
                if id not in nested:
                    self._node(inner, self.nodes[id])

    # -- edges ----------------------------------------------------------------------------------------

    def _edge(self, position: int, edge: PictureEdge) -> None:
        look = style.EDGES[style.edge_style(edge.role, edge.of_parameter, self.picture.detailed)]
        source, target = self.nodes[edge.source], self.nodes[edge.target]
        into_junction = target.kind == "junction"
        attributes: dict[str, str] = {
            "id": f"e{position}",
            "class": _text(f"edge {edge.role}"),
            "color": f"{look.color}:white:{look.color}" if look.double else look.color,
            "style": look.line,
            "penwidth": f"{look.width:g}",
            "arrowhead": "none" if into_junction else look.tip,
            "weight": str(edge.weight),
            "tensor": _text(edge.tensor),
            "shape": _text(edge.shape),
            "role": edge.role,
            "tooltip": _text(f"{edge.tensor} {edge.shape}"),
        }
        if edge.bytes:
            attributes["bytes"] = _text(edge.bytes)
        if edge.label or edge.shape_label:
            attributes["label"] = _html(_edge_label(edge))
        tail, head = edge.source, edge.target
        if edge.row is not None:
            if source.kind == "port" and len(source.lines) > 1:
                tail = f"{tail}:r{edge.row}{_side(source, 'e')}"
            elif target.kind == "port" and len(target.lines) > 1:
                head = f"{head}:r{edge.row}{_side(target, 'w')}"
        if source.beside == (edge.target, "right"):
            # The port shall lie at the right although its arrow points left: the order comes from an unseen edge.
            attributes["weight"] = "0"
            self.digraph.edge(edge.target, edge.source, style="invis", weight="1")
        if edge.back:
            # It runs against the drawing's direction; an unseen edge says where its ends lie.
            attributes["constraint"] = "false"
            self.digraph.edge(edge.target, edge.source, style="invis", weight=str(edge.weight))
        self.digraph.edge(tail, head, **attributes)

    def _hints(self) -> None:
        for level in self._levels():
            with self.digraph.subgraph() as row:
                row.attr(rank="same")
                for id in level:
                    row.node(id)
        for first, then in self.picture.order:
            self.digraph.edge(first, then, style="invis", weight="2")

    def _levels(self) -> list[list[str]]:
        """Sets of nodes on one level, those joined that share a node."""
        pairs: list[Sequence[str]] = [*self.picture.levels]
        pairs += [(node.id, node.beside[0]) for node in self.picture.nodes if node.beside]
        level_of: dict[str, dict[str, None]] = {}
        for pair in pairs:
            joined: dict[str, None] = {}
            for id in pair:
                joined |= level_of.get(id, {id: None})
            level_of |= dict.fromkeys(joined, joined)
        distinct = {next(iter(level)): level for level in level_of.values()}
        return [list(level) for level in distinct.values()]


def _members(cluster: Cluster) -> list[str]:
    return [*cluster.nodes, *(id for child in cluster.clusters for id in _members(child))]


def _side(node: PictureNode, default: str) -> str:
    return f":{_FLAT[node.beside[1]]}" if node.beside else ""


def _tooltip(node: PictureNode) -> str:
    details = node.details
    lines = [", ".join(details.types), details.formula, details.of and f"backward of {details.of}"]
    lines += [details.at, details.why and f"inserted: {details.why}"]
    return "\n".join(line for line in lines if line) or " "


def _size(node: PictureNode) -> dict[str, str]:
    if node.kind == "sign":
        wide = len(plain(node.lines[0])) > 1
        return {"width": "0.46" if wide else "0.3", "height": "0.3", "fixedsize": "true", "margin": "0"}
    if node.kind == "operator":
        return {"height": "0.3", "width": "0.42", "margin": "0.07,0.035"}
    if node.kind == "collective":
        width = max(0.5, 0.8 * len(node.ranks))
        return {"height": "0.28", "width": f"{width:.3g}", "margin": "0.07,0.03"}
    if node.kind == "block":
        return {"height": "0.42", "width": "1.1", "margin": "0.12,0.06"}
    if node.kind == "junction":
        return {"width": "0.045", "height": "0.045"}
    return {}


def _node_label(node: PictureNode) -> str:
    if node.kind == "junction":
        return ""
    if node.kind in ("port", "note"):
        align = {"left": "RIGHT", "right": "LEFT"}.get(node.beside[1] if node.beside else "", "CENTER")
        shapes = node.shapes or ((),) * len(node.lines)
        size = style.TEXT if node.kind == "port" else style.LEGEND
        rows = "".join(
            f'<TR><TD PORT="r{i}" ALIGN="{align}">{_named(line, shape, size)}</TD></TR>'
            for i, (line, shape) in enumerate(zip(node.lines, shapes, strict=True))
        )
        return _html(f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2">{rows}</TABLE>')
    if len(node.lines) == 1 and len(node.lines[0]) == 1 and not node.lines[0][0].form:
        return _text(plain(node.lines[0]))
    size = style.SIGN if node.kind == "sign" and len(plain(node.lines[0])) == 1 else style.TEXT
    return _html("<BR/>".join(to_graphviz(line, size) for line in node.lines))


def _edge_label(edge: PictureEdge) -> str:
    # A blank at either side keeps the text off the line.
    return f"&#160;{_named(edge.label, edge.shape_label, style.TEXT)}&#160;"


def _named(name: Label, shape: Label, size: float) -> str:
    """A tensor's name and, smaller and quieter, its shape."""
    parts = [to_graphviz(name, size)] if name else []
    if shape:
        parts.append(f'<FONT COLOR="{style.QUIET}">{to_graphviz(shape, style.SHAPE)}</FONT>')
    return "&#160;".join(parts)


def _lines(label: Label, size: float) -> str:
    """A label whose runs may have line ends."""
    rows: list[list[Run]] = [[]]
    for run in label:
        first, *more = run.text.split("\n")
        rows[-1].append(Run(first, run.form))
        rows += [[Run(text, run.form)] for text in more]
    return '<BR ALIGN="LEFT"/>'.join(to_graphviz(tuple(row), size) for row in rows) + '<BR ALIGN="LEFT"/>' * (
        len(rows) > 1
    )


def _title(picture: Picture) -> str:
    title = to_graphviz((Run(picture.title, "bold"),), style.TITLE)
    legend = "".join(_legend_cell(entry) for entry in picture.legend)
    if not legend:
        return title
    table = f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="14" CELLPADDING="1"><TR>{legend}</TR></TABLE>'
    return (
        '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2">'
        f"<TR><TD>{title}</TD></TR><TR><TD>{table}</TD></TR></TABLE>"
    )


def _legend_cell(entry: LegendEntry) -> str:
    text = to_graphviz((Run(entry.text),), style.LEGEND)
    if entry.kind == "edge":
        look = style.EDGES[entry.style]
        sign = f"<B>{look.sign}</B>" if look.width > 1.5 else look.sign
        return f'<TD><FONT COLOR="{look.color}" POINT-SIZE="{style.TITLE:g}">{sign}</FONT> {text}</TD>'
    border, fill = style.swatch(entry.style)
    return (
        f'<TD><TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="2"><TR><TD COLOR="{border}" '
        f'BGCOLOR="{fill}">{text}</TD></TR></TABLE></TD>'
    )
