"""The vertices of a picture: which nodes of a graph a view draws, and which blocks it folds them into.

Three things are not drawn as nodes unless the view asks for the full graph: BC, which is written on the edge as
BC_{B,S}(b); the backward of +, which only hands a gradient on and becomes a fork; and what a lowering flattens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from graphir.drawing.naming import Naming, collective_axes, is_broadcast, is_fork, is_sign
from graphir.drawing.picture import Label, PictureNode, Run
from graphir.drawing.view import Repeats, View
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph, Node
from graphir.ir.traits import LOCAL_SLICE
from graphir.ir.value import Value

#: Of a piece of a block, so many of its symbols are written in it.
_SYMBOLS = 4


class Vertices:
    """The drawn nodes of `graph` under `view`, by id, and which of the graph's nodes each of them stands for."""

    def __init__(self, graph: Graph, view: View) -> None:
        self.graph, self.view = graph, view
        self.naming = Naming(graph, view)
        self.repeats = Repeats(graph, view.expand)
        self.chosen: dict[Node, None] = {
            node: None for node in graph.nodes if view.holds(node) and self.repeats.represent(node) is node
        }
        self.elided = {node for node in self.chosen if self._is_elided(node)}
        self.vertices: dict[str, PictureNode] = {}
        self.vertex_of: dict[Node, str] = {}
        #: How many nodes each of them stands for.
        self.members: Counter[str] = Counter()
        #: Which block, and which piece of it, a folded node belongs to.
        self.pieces: dict[Node, tuple[str, int]] = {}
        #: By block and piece, what the piece computes.
        self.symbols: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
        #: Collectives in which the gradients of many parameters meet.
        self.joint: dict[str, None] = {}

    def _is_elided(self, node: Node) -> bool:
        view = self.view
        if view.full:
            return False
        if is_fork(node):
            return not view.forks
        if view.folds and node.operator.collective is LOCAL_SLICE:
            return True  # which sends nothing
        if is_broadcast(node):
            return self.naming.producer(node.inputs[0]) is None
        # What a lowering flattens on the way to a product is a change of bookkeeping, not of content.
        return "pattern" in node.attributes and bool(node.meta.why) and self.naming.is_unnamed(node.outputs[0], node)

    def home(self, node: Node) -> str:
        """The scope that the node is drawn in."""
        return self.repeats.home.get(node, node.meta.scope)

    def make_vertices(self) -> None:
        """Fills `vertices` and `vertex_of`."""
        for node in self.chosen:
            if node in self.elided:
                continue
            found = self.view.fold(node, self.home(node))
            if node.meta.phase == UPDATE and node.updates:
                self._put(f"{node.name}@update", node, self.naming.node_lines(node), "operator", op=node.operator.key)
            elif found is not None and (node.operator.relayout is None or node.inputs[0].type.rank == 0):
                # A scalar that ranks sum inside of a block is too small a thing for an overall figure.
                self._add_block(node, found[0].label, found[1])
            elif self._meets_for_block(node):
                self._add_joint_collective(node)
            else:
                self._add_node(node)
        self._name_pieces()
        if self.view.abstract:
            self._name_abstractly()
        for node, vertex in self.vertex_of.items():
            if vertex in self.joint:
                continue  # which stands beside no node, since it is there for all
            if node.meta.phase == BACKWARD and node.meta.of and not self.vertices[vertex].partner:
                partner = self._partner(node)
                if partner and partner != vertex:
                    self.vertices[vertex] = replace(self.vertices[vertex], partner=partner)

    def _partner(self, node: Node) -> str:
        forward = self.graph.find(node.meta.of or "")
        made = self.naming.producer(forward) if forward is not None else None
        return self.vertex_of.get(self.repeats.represent(made), "") if made is not None else ""

    def _add_node(self, node: Node) -> None:
        lines = self.naming.node_lines(node)
        kind = "sign" if is_sign(node.operator.symbol) else "operator"
        axes = collective_axes(node)
        if axes:
            kind = "collective"
        self._put(node.name, node, lines, kind, op=node.operator.key, axes=axes)

    def _add_block(self, node: Node, label: str, scope: str) -> None:
        """The block's piece that the node belongs to: a collective inside of a block cuts it in two."""
        backward = node.meta.phase == BACKWARD
        block = f"{scope}/{label}{' backward' if backward else ''}"
        piece = max((self._piece_after(value, block) for value in node.inputs), default=0)
        self.pieces[node] = (block, piece)
        vertex = f"{block} {piece}" if piece else block
        if piece and (node in self.elided or is_broadcast(node)):
            self.vertex_of[node] = vertex
            return
        self._put(vertex, node, ((Run(f"d{label}" if backward else label),),), "block", scope=scope)
        self.symbols[block].setdefault(vertex, []).append(node.operator.symbol)

    def _name_pieces(self) -> None:
        """Of a block in pieces the largest bears its name, the others say what they compute."""
        for pieces in self.symbols.values():
            largest = max(pieces, key=lambda vertex: len(pieces[vertex]))
            for vertex in pieces.keys() - {largest}:
                shown = [*pieces[vertex][:_SYMBOLS], *(["…"] if len(pieces[vertex]) > _SYMBOLS else [])]
                self.vertices[vertex] = replace(self.vertices[vertex], lines=((Run(", ".join(shown)),),))

    def _piece_after(self, value: Value, block: str) -> int:
        """Which piece of the block reads `value`: the one that made it, or the next, after a collective."""
        made = self.naming.producer(value)
        if made is None:
            return 0
        own, piece = self.pieces.get(made, ("", 0))
        if own == block:
            return piece
        if made.operator.relayout is not None or made in self.elided:
            cuts = made not in self.elided and bool(collective_axes(made)) and self._is_inside(made.inputs[0], block)
            return max((self._piece_after(each, block) for each in made.inputs), default=0) + cuts
        return 0

    def _is_inside(self, value: Value, block: str) -> bool:
        resolved = self.resolve(value)
        made = self.naming.producer(resolved[0]) if resolved else None
        return made is not None and self.pieces.get(made, ("", 0))[0] == block

    def _meets_for_block(self, node: Node) -> bool:
        """Whether a collective is one of the many that parameters need, or their gradients; an overall figure draws
        one for all."""
        if not self.view.folds or not collective_axes(node):
            return False
        return self.naming.of_parameter(node.inputs[0]) or self.naming.is_parameter(node.inputs[0])

    def made_at(self, value: Value) -> str:
        """The vertex that makes `value`, '' if none does."""
        resolved = self.resolve(value)
        made = self.naming.producer(resolved[0]) if resolved else None
        return self.vertex_of.get(made, "") if made is not None else ""

    def _add_joint_collective(self, node: Node) -> None:
        axes = collective_axes(node)
        what = "θ" if self.naming.is_parameter(node.inputs[0]) else "dθ"
        again = " again" if what == "θ" and node.meta.phase == BACKWARD else ""
        vertex = f"{what} {node.operator.key} {' '.join(axes)}{again}"
        self.joint[vertex] = None
        self._put(vertex, node, (self.naming.node_label(node),), "collective", op=node.operator.key, axes=axes)

    def _put(
        self, vertex: str, node: Node, lines: tuple[Label, ...], kind: str, *, op: str = "",
        scope: str | None = None, axes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.vertex_of[node] = vertex
        self.members[vertex] += 1
        details = self.naming.details(node)
        old = self.vertices.get(vertex)
        if old is not None:
            types = (*old.details.types, *details.types)
            self.vertices[vertex] = replace(old, details=replace(old.details, types=types))
            return
        self.vertices[vertex] = PictureNode(
            vertex, lines, kind, op=op, scope=self.home(node) if scope is None else scope, phase=node.meta.phase,
            axes=axes, details=details if kind != "block" else replace(details, formula="", at="", why="", of=""),
        )  # fmt: skip

    def _name_abstractly(self) -> None:
        forward = [v for v in self.vertices.values() if v.phase == FORWARD]
        number = {v.id: str(i + 1) if len(forward) > 1 else "" for i, v in enumerate(forward)}
        for node, vertex in self.vertex_of.items():
            own = self.vertices[vertex]
            if own.phase == UPDATE:
                continue
            index = number.get(vertex if own.phase == FORWARD else self._partner(node), "")
            label: Label = (
                Run("df" if own.phase == BACKWARD else "f", "italic"),
                *((Run(index, "sub"),) if index else ()),
            )
            self.vertices[vertex] = replace(own, lines=(label,), kind="operator")

    def resolve(self, value: Value, reader: Node | None = None) -> tuple[Value, Node | None] | None:
        """What `value` is drawn as coming from, and the BC on the way; None if it comes from another layer of a run."""
        through = None
        while True:
            node = self.naming.producer(value)
            if node is None:
                return value, through
            if reader is not None and self.repeats.loops(node, reader):
                return None
            drawn = self.repeats.represent(node)
            if drawn not in self.chosen:
                return value, through
            if drawn not in self.elided:
                return drawn.outputs[node.outputs.index(value)], through
            if is_broadcast(drawn):
                through = drawn
            value = node.inputs[0]
