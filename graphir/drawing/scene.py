"""From a graph and a view to a picture: between the vertices the edges, and ports where values cross the border.

What several nodes read leaves its source as one edge and forks. A parameter or a cached value from outside waits in a
port at its reader's side; what a block takes in and gives out stands above and below.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from graphir.drawing.arrange import THETA_GRADIENT, arrange
from graphir.drawing.naming import is_broadcast
from graphir.drawing.picture import Label, Picture, PictureEdge, PictureNode, Run
from graphir.drawing.vertices import Vertices
from graphir.drawing.view import View, matches
from graphir.errors import ConfigError
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph, Node
from graphir.ir.value import Value

#: What enters and is read by more nodes than this, or is made and read in more layers, waits beside each reader: no
#: strands all over a picture.
_OFTEN, _LAYERS = 4, 2
_INT = frozenset({"int32", "int64"})


@dataclass(frozen=True, slots=True)
class _Use:
    """A drawn vertex reads `value`, which is `base` under another name; `through` is the BC between them."""

    target: str
    reader: Node
    value: Value
    base: Value
    through: Node | None


def draw(graph: Graph, view: View, name: str = "figure") -> Picture:
    """The picture of `graph` under `view`, as plain data.

    Errors: ConfigError, with what writes a file, if `view` is none.
    """
    if not isinstance(view, View):
        raise ConfigError(
            f"draw({graph.name}, {view!r}): a picture is drawn under a View, and is no file yet; "
            'gi.draw(graph, "block.svg", view="overall") writes one'
        )
    return _Scene(graph, view).picture(name)


class _Scene(Vertices):
    def __init__(self, graph: Graph, view: View) -> None:
        super().__init__(graph, view)
        self.edges: list[PictureEdge] = []
        #: By reader and side: the edges of what waits there, and what is written of it.
        self.shelves: defaultdict[tuple[str, str], list[PictureEdge]] = defaultdict(list)
        self.shelf_lines: defaultdict[tuple[str, str], list[tuple[Label, Label]]] = defaultdict(list)
        #: Vertices that lie in a row, in this order.
        self.rows: list[tuple[str, ...]] = []
        #: Values that wait beside each of their many readers.
        self.everywhere: set[Value] = set()

    def picture(self, name: str) -> Picture:
        """The finished picture."""
        self.make_vertices()
        self._connect()
        self._leave()
        self._make_shelves()
        return arrange(self, self.edges, self.rows, name)

    # -- what reads what ------------------------------------------------------------------------------

    def _uses(self) -> Iterable[_Use]:
        for node, vertex in self.vertex_of.items():
            found: dict[tuple[Value, Value], _Use] = {}
            for member in self.repeats.alike(node):
                for value in member.inputs:
                    resolved = self.resolve(value, member)
                    if resolved is None:
                        continue
                    base, through = resolved
                    if member is not node and (self._is_layers_own(base) or any(base is known for known, _ in found)):
                        continue
                    if not self._is_hidden(value, base, node):
                        found.setdefault(
                            (base, base if member is not node else value), _Use(vertex, node, value, base, through)
                        )
            yield from found.values()

    def _is_layers_own(self, value: Value) -> bool:
        """Whether what another layer reads is its own affair: its parameter, or made in a part that is not drawn."""
        made = self.naming.producer(value)
        return made is None or (made in self.repeats.layer and made not in self.chosen)

    def _is_hidden(self, value: Value, base: Value, reader: Node) -> bool:
        view = self.view
        if matches(value.name, view.hide) or matches(base.name, view.hide):
            return True
        if view.full:
            return False
        if reader.operator.random and base.type.rank == 0 and base.dtype in _INT:
            return True
        if self.naming.is_parameter(base) and view.parameters != "all":
            return True
        role = self.naming.role(base, reader)
        if role == "cached" and view.cached == "no":
            return not self._is_gathered_again(base)
        if role == "parameter" or reader.meta.phase == UPDATE:
            return view.parameters != "all"
        return view.parameters == "no" and self.naming.of_parameter(base)

    def _is_gathered_again(self, value: Value) -> bool:
        """Whether a forward value comes from a collective of the backward pass."""
        made = self.naming.producer(value)
        return made is not None and made.meta.phase == BACKWARD and made.operator.relayout is not None

    def _connect(self) -> None:
        flows: dict[tuple[str, Value], list[_Use]] = {}
        uses = list(self._uses())
        self.everywhere = self._read_everywhere(uses)
        entering = {use.base for use in uses if not self._goes_on_shelf(use)}
        many: defaultdict[str, list[_Use]] = defaultdict(list)
        for use in uses:
            made = self.naming.producer(use.base)
            source = self.vertex_of.get(made, "") if made is not None else ""
            if source == use.target:
                continue
            if not source and self._is_of_all_gradients(use):
                many[use.target].append(use)
                continue
            role = self.naming.role(use.base, use.reader)
            waits = not source and use.base not in entering and self._goes_on_shelf(use)
            if use.base in self.everywhere:
                self._shelve(use)
                continue
            elsewhere = made is None or made.meta.phase == FORWARD
            if waits or (role == "cached" and elsewhere and self.view.cached == "ports"):
                self._shelve(use)
            else:
                flows.setdefault((source, use.base), []).append(use)
        for each in many.values():
            self._shelve_together(each)
        made_at = {value: place for place, value in enumerate(self.graph.values.values())}
        for (source, base), uses in sorted(flows.items(), key=lambda flow: made_at[flow[0][1]]):
            distinct = list({use.target: use for use in reversed(uses)}.values())[::-1]
            self._flow(source or self._inflow(base, distinct), base, distinct, not source)

    def _read_everywhere(self, uses: Sequence[_Use]) -> set[Value]:
        """What waits beside each of its readers, for there are many: what enters for many nodes, and what is made for
        many layers, such as the angles of positions."""
        if self.view.direction != "TB":
            return set()
        nodes, layers = Counter(use.base for use in uses), defaultdict[Value, set[str]](set)
        for use in uses:
            layers[use.base].add(use.reader.meta.scope.partition("/")[0])
        made = {value for value in nodes if value in self.graph.producers and self.made_at(value)}
        often = {value for value, count in nodes.items() if count > _OFTEN}
        return {
            value for value in nodes
            if len(layers[value]) > _LAYERS or (value in often and (value not in made or not value.type.rank))
        }  # fmt: skip

    def _goes_on_shelf(self, use: _Use) -> bool:
        """Whether a value from elsewhere waits at its reader's side; in a row of nodes it enters as all others do."""
        waits = use.reader.meta.phase == UPDATE or self.naming.role(use.base, use.reader) in ("parameter", "cached")
        return waits and self.view.direction == "TB"

    def _inflow(self, base: Value, uses: list[_Use], reader: str = "") -> str:
        """A port for what enters from elsewhere."""
        vertex = f"in {base.name}{reader}"
        scope = uses[0].reader.meta.scope
        line, shape = self._port_line(base, scope)
        self.vertices[vertex] = PictureNode(vertex, (line,), "port", (shape,), scope=base.scope, role="inflow")
        return vertex

    def _port_line(self, value: Value, scope: str) -> tuple[Label, Label]:
        """What a port says of a value: its name and its shape."""
        return self.naming.label(value, scope), self.naming.shape(value)[1]

    def _flow(self, source: str, base: Value, uses: list[_Use], from_port: bool) -> None:
        """Edges from one value's source to all who read it, by way of a fork if there are several."""
        named = [use for use in uses if self._own_name(use)]
        cached = [use for use in uses if self.naming.role(use.base, use.reader) == "cached"]
        across = [] if self.view.mirror and not from_port else cached
        trunk = [use for use in uses if use not in across]
        for use in across:
            self.edges.append(self._edge(source, use.target, use.base, use, label=not from_port))
        if len(trunk) > 1 and not (from_port and named):
            fork = f"fork {base.name}"
            self.vertices[fork] = PictureNode(
                fork, (), "junction", scope=self.vertices[source].scope, phase=self.naming.phase(base)
            )
            first = self._edge(source, fork, base, trunk[0], label=not from_port, weight=4)
            roles = {self.naming.role(use.base, use.reader) for use in trunk}
            role = roles.pop() if len(roles) == 1 else self.naming.role(base, None)
            self.edges.append(replace(first, role=role, of_parameter=False))
            siblings = tuple(use.target for use in trunk if self._is_sibling(use, trunk[0]))
            if len(siblings) > 2 and base.type.rank:
                self.rows.append(siblings)
            for use in trunk:
                # The main way goes on straight; what ends in a parameter's gradient turns off, and so does what waits
                # there for what flows, as the angles of a rotation do.
                folded = self.vertices[use.target].kind == "block"
                turns_off = not folded and all(self.naming.of_parameter(value) for value in use.reader.outputs)
                turns_off |= from_port and use.value not in use.reader.inputs[:1]
                weight = 1 if turns_off or use in cached else 8
                self.edges.append(self._edge(fork, use.target, self._said(use), use, label=use in named, weight=weight))
        else:
            for use in trunk:
                shown = not from_port or use in named
                weight = 1 if self.naming.of_parameter(base) else 4
                self.edges.append(self._edge(source, use.target, self._said(use), use, label=shown, weight=weight))

    def _said(self, use: _Use) -> Value:
        """The value that an edge is for: a block reads what was made, whatever it calls it inside."""
        return use.base if self.vertices[use.target].kind == "block" else use.value

    def _is_sibling(self, use: _Use, first: _Use) -> bool:
        """Whether two readers are of one kind, and lie in a row: the three products of X_norm."""
        own, other = use.reader, first.reader
        same = own.operator is other.operator and own.meta.scope == other.meta.scope
        return same and self.vertices[use.target].kind != "block"

    def _own_name(self, use: _Use) -> bool:
        """Whether the reader's name for a value says more than its source's."""
        if (
            use.value is use.base
            or self.vertices[use.target].kind == "block"
            or self.graph.origin(use.value) is self.graph.origin(use.base)
        ):
            return False
        if use.through is not None:
            return True
        forward = self.graph.find(_without_d(use.value))
        made = self.naming.producer(forward) if forward is not None else None
        return not (made is not None and is_broadcast(made))

    def _edge(
        self, source: str, target: str, value: Value, use: _Use, *, label: bool, weight: int = 1, row: int | None = None
    ) -> PictureEdge:
        naming = self.naming
        drawn = use.base if use.through is not None else value
        text, shape = naming.shape(use.through.outputs[0] if use.through is not None else value)
        scope = use.reader.meta.scope
        name: Label = ()
        if label:
            name = naming.broadcast(use.through, scope) if use.through is not None else naming.label(value, scope)
        return PictureEdge(
            source, target, self.graph.origin(drawn).name, naming.role(use.base, use.reader), name, text,
            shape if label else (), naming.of_parameter(value), row, naming.bytes(drawn), weight,
        )  # fmt: skip

    # -- ports ----------------------------------------------------------------------------------------

    def _shelve(self, use: _Use) -> None:
        """The value waits in a port beside its reader, one line of several."""
        if self.view.direction == "LR":
            port = self._inflow(use.base, [use], f" for {use.target}")
            self.edges.append(self._edge(port, use.target, use.value, use, label=False))
            return
        key = (use.target, "left")
        lines = self.shelf_lines[key]
        edge = self._edge("", use.target, use.value, use, label=use.through is not None, row=len(lines))
        lines.append(self._port_line(use.base, use.reader.meta.scope))
        if use.through is not None:
            edge = replace(edge, shape_label=())
        self.shelves[key].append(edge)

    def _is_of_all_gradients(self, use: _Use) -> bool:
        """Whether an update sums up a number of each gradient, this among others."""
        reader, made = use.reader, self.naming.producer(use.base)
        sums = reader.meta.phase == UPDATE and reader.operator.jointly_linear and len(reader.inputs) > 1
        return sums and made is not None and not use.base.type.rank and self._goes_on_shelf(use)

    def _shelve_together(self, uses: Sequence[_Use]) -> None:
        """What is made of each gradient alike waits in one line, Σ²(dθ), however many parameters there are."""
        made = self.naming.producer(uses[0].base)
        while made is not None and not made.inputs[0].type.rank:
            made = self.naming.producer(made.inputs[0])
        if len(uses) < 2 or made is None:
            for use in uses:
                self._shelve(use)
            return
        key = (uses[0].target, "left")
        tensors = ", ".join(self.graph.origin(use.base).name for use in uses)
        edge = self._edge("", uses[0].target, uses[0].value, uses[0], label=False, row=len(self.shelf_lines[key]))
        self.shelf_lines[key].append(((Run(f"{made.operator.symbol}("), *THETA_GRADIENT, Run(")")), ()))
        self.shelves[key].append(replace(edge, tensor=tensors, shape="", bytes=""))

    def _leave(self) -> None:
        """Ports for what leaves the picture: read elsewhere in its phase, returned, or read by nobody."""
        for node in self.chosen:
            for value in node.outputs:
                if not self._leaves(value):
                    continue
                source = self.made_at(value)
                if source:
                    self._out(value, source, node)

    def _leaves(self, value: Value) -> bool:
        view = self.view
        node = self.graph.producers[value]
        if self.naming.is_auxiliary(value) or matches(value.name, view.hide):
            return False
        if node.meta.phase == UPDATE and view.parameters != "all":
            return False
        if self.naming.of_parameter(value) and view.parameters == "no":
            return False
        if is_broadcast(node) and node in self.elided:
            return False
        if value in self.everywhere:
            return True
        if node.meta.phase == UPDATE and node.updates:
            return value is node.outputs[0]
        readers = [
            reader
            for member in self.repeats.alike(node)
            for reader, _ in self.graph.uses[member.outputs[node.outputs.index(value)]]
            if not self.repeats.loops(member, reader)
        ]
        if any(
            self.repeats.represent(reader) in self.chosen
            for reader in readers
            if reader.meta.phase != BACKWARD or node.meta.phase == BACKWARD
        ):
            return any(
                reader.meta.phase == node.meta.phase and self.repeats.represent(reader) not in self.chosen
                for reader in readers
            )
        same = [reader for reader in readers if reader.meta.phase in (node.meta.phase, UPDATE)]
        return bool(same) or not readers or value in self.graph.outputs or self._waits_for_backward(node)

    def _waits_for_backward(self, node: Node) -> bool:
        """Whether all that a node makes is read by the backward pass alone, which is not drawn."""
        readers = [reader for value in node.outputs for reader, _ in self.graph.uses[value]]
        elsewhere = [
            each.meta.phase == BACKWARD and self.repeats.represent(each) not in self.chosen for each in readers
        ]
        return bool(elsewhere) and all(elsewhere)

    def _out(self, value: Value, source: str, node: Node) -> None:
        naming = self.naming
        text, _ = naming.shape(value)
        role = "cached" if self._waits_for_backward(node) and node.meta.phase != BACKWARD else naming.role(value, None)
        of_parameter = naming.of_parameter(value)
        edge = PictureEdge(
            source, f"out {value.name}", naming.graph.origin(value).name, role, (), text, (), of_parameter,
            None, naming.bytes(value), 1 if of_parameter else 4,
        )  # fmt: skip
        line = self._port_line(value, node.meta.scope)
        if (of_parameter or node.meta.phase == UPDATE) and self.view.direction == "TB":
            key = (source, "right")
            if self._is_joint(source):
                # Many gradients in one place: one line says so.
                line = (THETA_GRADIENT, ())
                for position, old in enumerate(self.shelves[key]):
                    self.shelves[key][position] = replace(
                        old, tensor=f"{old.tensor}, {edge.tensor}", shape="", bytes=""
                    )
                    return
            self.shelves[key].append(replace(edge, row=len(self.shelf_lines[key])))
            self.shelf_lines[key].append(line)
        else:
            self.vertices[edge.target] = PictureNode(
                edge.target, line[:1], "port", line[1:], scope=value.scope, phase=node.meta.phase, role="outflow"
            )
            self.edges.append(edge)

    def _is_joint(self, vertex: str) -> bool:
        """Whether a vertex stands for several nodes."""
        return self.members[vertex] > 1

    def _make_shelves(self) -> None:
        for (vertex, side), edges in self.shelves.items():
            shelf = f"{vertex} {'<' if side == 'left' else '>'}"
            role = edges[0].role
            phase = self.vertices[vertex].phase
            self.vertices[shelf] = PictureNode(
                shelf, tuple(line for line, _ in self.shelf_lines[vertex, side]), "port",
                tuple(shape for _, shape in self.shelf_lines[vertex, side]), scope=self.vertices[vertex].scope,
                phase=phase, role=role, beside=(vertex, side),
            )  # fmt: skip
            for edge in edges:
                ends = (shelf, vertex) if side == "left" else (vertex, shelf)
                self.edges.append(replace(edge, source=ends[0], target=ends[1]))


def _without_d(value: Value) -> str:
    scope, slash, local = value.name.rpartition("/")
    return f"{scope}{slash}{local.removeprefix('d')}"
