"""Sharding: a differentiated graph, a mesh and a plan in; the graph that every rank runs out.

One walk over the nodes, and nothing but factor rules and declared traits decides where a collective goes:

- A node's operands are brought to a common *assignment*, factor -> mesh axes; its outputs follow from it.
  Where an axis could go to several factors, the first of these decides: what the forward node did (for its
  d-node), the split of a parameter that is read here, the layout wanted of the output, the first operand.
- A value that is pending goes on as it is through what only moves or adds (T, R, C, Σ, +); before all else it is
  settled: by RS if the axis is wanted for a split, by AR if not.
- Which collectives lead from one layout to another, `route` alone knows; consumers in one phase share them.
- A parameter's cast to fewer bits lies as the parameter is stored, and is gathered afterwards: fewer bytes are sent.
- What is made to measure (BC, positions, a mask) is made anew at each layout that is asked for. Its readers are
  offered it as what it is made of lies, so that a broadcast of a batch that is split is read split, through any view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from graphir.errors import LayoutError
from graphir.ir.analysis import needed_nodes
from graphir.ir.assignment import operand_splits, shares, write_split
from graphir.ir.builder import Builder
from graphir.ir.collector import without_collector
from graphir.ir.dims import Sizes
from graphir.ir.graph import FORWARD, Graph, Meta, Node
from graphir.ir.layout import Layout, Mesh, layout_text
from graphir.ir.purpose import Purpose, Reading
from graphir.ir.value import Value
from graphir.passes.patterns import narrowing, operands, results
from graphir.passes.sharding.given import read_plan
from graphir.passes.sharding.plans import Plan
from graphir.passes.sharding.propagation import Claimed, Placement, Situation, parts_of, place, spread
from graphir.passes.sharding.ready import find_plan
from graphir.passes.sharding.reshard import Hop, route
from graphir.passes.sharding.subaxes import share_columns


@without_collector
def shard(graph: Graph, mesh: Mesh, plan: Plan | str, sizes: Sizes | None = None) -> Graph:
    """`graph` rewritten for the ranks of `mesh`, as `plan` (or the ready-made plan of that name) says.

        X  [B, D]                              X     [B|dp, D]
        Y  [B, F]  = matmul(X, W)              Y     [B|dp, F]           = matmul(X, W)
        L  []      = sum(Y)                    L     [] pending sum(dp)  = sum(Y)
                                               L.AR  []                  = AR(L) {axes=("dp",)}

    Names, shapes and outputs stay what they are; types get layouts, and AR, AG, RS, A2A and slices are inserted,
    each with its reason in `meta.why`. Nodes that no output needs are dropped. With `sizes`, `?|dp` entries pick
    a dim that divides, and an axis that has more ranks than there are heads of keys is taken apart (`subaxes`): the
    graph's mesh says into what.
    Errors: LayoutError if the plan does not fit the graph or the mesh, or the graph is sharded already; DimError, with
    `sizes`, if an axis can be shared out among heads of keys and of queries in no way.
    """
    plan = find_plan(plan) if isinstance(plan, str) else plan
    if not isinstance(plan, Plan):
        raise LayoutError(
            f"a plan is a Plan or the name of one, not a {type(plan).__name__}; write one like "
            'Plan("mine", inputs={"X": "B|dp"}, parameters={"W": "[D, F|tp]"})'
        )
    if graph.mesh.axes or any(not value.type.layout.is_replicated for value in graph.values.values()):
        raise LayoutError(f"graph {graph.name} is sharded over {graph.mesh} already; shard the graph it came from")
    unknown = [axis for axis in plan.axes if not mesh.parts(axis)]
    if unknown:
        added = ", ".join(f"{axis}=…" for axis in unknown)
        raise LayoutError(
            f"plan {plan.name} splits over {', '.join(unknown)}, which the mesh ({mesh}) lacks; "
            f"add {added} to the mesh, with 1 where nothing is to be split"
        )
    return _Sharder(graph, mesh, plan, sizes).run()


class _Sharder:
    def __init__(self, graph: Graph, mesh: Mesh, plan: Plan, sizes: Sizes | None) -> None:
        self.graph, self.sizes = graph, sizes
        self.nodes = needed_nodes(graph, graph.outputs)
        self.given = read_plan(graph, self.nodes, mesh, plan, sizes)
        self.builder = Builder(graph.name, mesh=self.given.mesh)
        #: Where each value of the old graph lives now, as it was made or settled.
        self.home: dict[Value, Value] = {}
        #: Copies in other layouts, by layout and phase: the backward pass gathers again rather than keep.
        self.copies: defaultdict[Value, dict[tuple[Layout, str], Value]] = defaultdict(dict)
        #: Nodes that are emitted when somebody asks, at the layout asked for.
        self.lazy: dict[Value, tuple[Node, int]] = {}
        self.claimed: dict[str, Claimed] = {}
        self.wanted = {value: pin.apply(value.type.layout) for value, pin in self.given.pinned.items()}
        #: The old graph's node that each new value was made for.
        self.makers: dict[Value, Node] = {}

    def run(self) -> Graph:
        nodes = self.nodes
        self._place_arguments()
        forward = [node for node in nodes if node.meta.phase == FORWARD]
        rest = [node for node in nodes if node.meta.phase != FORWARD]
        if forward + rest != nodes:  # a graph whose phases are interleaved is taken as one
            forward, rest = nodes, []
        for part in (forward, rest):
            self._want(part)
            for node in part:
                self._place(node)
        outputs = [self._finish(value) for value in self.graph.outputs]
        for name, value in self.graph.aliases.items():
            if value in self.home:
                self.builder.alias(f"/{name}", self.home[value])
        return self.builder.build(*outputs)

    # -- arguments ------------------------------------------------------------------------------------

    def _place_arguments(self) -> None:
        graph, builder = self.graph, self.builder
        for value in graph.inputs:
            self.home[value] = builder.input(f"/{value.name}", value.shape, value.dtype, self.given.stored[value])
        for value in graph.parameters:
            assert value.init is not None
            layout = self.given.stored[value]
            self.home[value] = builder.parameter(f"/{value.name}", value.shape, value.dtype, value.init, layout)
        for value in graph.state:
            assert value.init is not None
            layout = self.given.stored[value]
            self.home[value] = builder.state(f"/{value.name}", value.shape, value.dtype, value.init, layout)

    # -- what is wanted -------------------------------------------------------------------------------

    def _want(self, nodes: Sequence[Node]) -> None:
        """The layouts wanted of values, from pins and consumers: a reverse walk. Consulted, never obeyed."""
        fixed = self.given.pinned.keys() | self.given.stored.keys()
        for node in reversed(nodes):
            placement = place(self._situation(node, placed=False))
            for value, layout in zip(node.inputs, placement.operands, strict=True):
                if value not in fixed and (layout.split_axes or value not in self.wanted):
                    self.wanted[value] = layout

    def _situation(self, node: Node, placed: bool = True) -> Situation:
        """What `node` sees; with `placed` false, before its operands lie anywhere."""
        used, stored, home, lazy = self.given.used, self.given.stored, self.home, self.lazy
        followed: Claimed = ()
        if node.operator.d_operator_of is not None and node.meta.of is not None:
            followed = share_columns(node, self.claimed.get(node.meta.of, ()), self.given.mesh, self.sizes)
        # Read as they are stored: what is updated, and a parameter that is cast before it is gathered.
        in_place = {old for old, _ in node.updates}
        if narrowing(node):
            in_place.update(used.keys() & stored.keys() & set(node.inputs))
        given = [stored[value] if value in in_place else used.get(value) for value in node.inputs]
        lying = [None if value in lazy or value in used else home[value].type.layout for value in node.inputs if placed]
        offered = [self._offered(value) if value in lazy else None for value in node.inputs if placed]
        return Situation(
            node.operator,
            node.inference.rule,
            followed,
            tuple(given),
            tuple(lying) if placed else None,
            tuple(map(self.wanted.get, node.inputs)),
            tuple(map(self.wanted.get, node.outputs)),
            tuple(offered) if any(offered) else (),
            parts_of(node),
        )

    def _offered(self, value: Value) -> Layout:
        """How a value that is made to measure can be had without moving what it is made of, or as it is pinned."""
        node, position = self.lazy[value]
        layouts = [
            self._offered(each) if each in self.lazy else self.given.used.get(each) or self.home[each].type.layout
            for each in node.inputs
        ]
        layout = spread(node.operator, node.inference.rule, parts_of(node), tuple(layouts), position)
        pin = self.given.pinned.get(value)
        return layout if pin is None else pin.apply(layout)

    # -- placing a node -------------------------------------------------------------------------------

    def _place(self, node: Node) -> None:
        if node.inference.rule.spreads:
            for position, value in enumerate(node.outputs):
                self.lazy[value] = node, position
            return
        if node.operator.associative and len(node.inputs) > 1:
            node = self._sum_alike(node)
        placement = place(self._situation(node))
        if node.operator.decompose is not None and placement.splits_whole:
            self._decompose(node, placement)
            return
        inputs = [
            self._demand(value, layout, node, operand.name)
            for value, layout, operand in zip(node.inputs, placement.operands, node.inference.rule.inputs, strict=True)
        ]
        self.claimed[node.name] = placement.claimed
        self._emit(node, inputs, placement.split)

    def _emit(self, node: Node, inputs: Sequence[Value], split: tuple[str, ...]) -> None:
        made = self._emit_node(node, inputs, split, [f"/{value.name}" for value in node.outputs])
        for value, new in zip(node.outputs, made, strict=True):
            self.home[value] = new
            self.makers[new] = node
            pin = self.given.pinned.get(value)
            if pin is not None and new.type.layout != (layout := pin.apply(new.type.layout)):
                self.home[value] = self._move(new, layout, node, Purpose(value.name, layout_text(value.shape, layout)))

    def _emit_node(
        self, node: Node, inputs: Sequence[Value], split: tuple[str, ...], names: Sequence[str | None]
    ) -> tuple[Value, ...]:
        attributes: Mapping[str, Any] = {**node.attributes, "split": split} if split else node.attributes
        return self.builder.emit(node.operator, inputs, attributes, names, node.meta)

    # -- sums of unequal terms ------------------------------------------------------------------------

    def _sum_alike(self, node: Node) -> Node:
        """`node`, a sum, with operands that are pending alike summed first, if not all of them are."""
        groups: dict[tuple[tuple[str, str], ...], list[Value]] = {}
        for value in node.inputs:
            pending = () if value in self.lazy else self.home[value].type.layout.pending
            groups.setdefault(pending, []).append(value)
        if len(groups) == 1 or all(len(values) == 1 or not pending for pending, values in groups.items()):
            return node
        operands: list[Value] = []
        for pending, values in groups.items():
            operands.extend([self._partial_sum(node, values)] if pending and len(values) > 1 else values)
        return Node(node.operator, tuple(operands), node.attributes, node.outputs, node.meta)

    def _partial_sum(self, node: Node, values: list[Value]) -> Value:
        """A value of the old graph's kind for the sum of `values`, which are pending alike."""
        name = self.builder.free_name(f"{node.name}.part")
        result = Value(name, node.outputs[0].type, values[0].owner)
        part = Node(node.operator, tuple(values), node.attributes, (result,), node.meta)
        self._place(part)
        return result

    # -- decomposition --------------------------------------------------------------------------------

    def _decompose(self, node: Node, placement: Placement) -> None:
        """Places the pieces of a node one of whose whole dims is split."""
        assert node.operator.decompose is not None
        scratch = Builder("pieces")
        inputs = [scratch.input(f"/{value.name}", value.shape, value.dtype) for value in dict.fromkeys(node.inputs)]
        stand_in = dict(zip(dict.fromkeys(node.inputs), inputs, strict=True))
        back = {each: value for value, each in stand_in.items()}
        given = {name: stand_in[value] for name, value in operands(node).items()}
        wanted = results(node)
        names = {name: f"/{value.name}" for name, value in wanted.items()}
        meta, why = node.meta, f"{node.operator.key} over a split dim"
        with scratch.context(scope=meta.scope, phase=meta.phase, of=meta.of, at=meta.at, why=why):
            made = node.operator.decompose(given, node.attributes, names)
        own = {made[name]: value for name, value in wanted.items()}
        if node.meta.phase == FORWARD:
            self.claimed[node.name] = placement.claimed
        for piece in scratch.nodes:
            renamed = tuple(own.get(value, value) for value in piece.outputs)
            back |= dict(zip(piece.outputs, renamed, strict=True))
            self._place(
                Node(piece.operator, tuple(back[v] for v in piece.inputs), piece.attributes, renamed, piece.meta)
            )

    # -- bringing values where they are wanted ---------------------------------------------------------

    def _demand(self, value: Value, layout: Layout, node: Node, operand: str, name: str | None = None) -> Value:
        """`value` in `layout`, for `operand` of `node`; shared with the other consumers of the phase.

        `name` is what the node is called that is emitted, if not as `node`.
        """
        phase = node.meta.phase
        if value in self.lazy:
            return self._make(value, layout)
        home = self.home[value]
        if home.type.layout == layout:
            return home
        key, copies = (layout, phase), self.copies[value]
        if key not in copies:
            source = self._nearest(value, layout, phase)
            reading = Reading.of(node, operand, name)
            made = self._move(source, layout, node, Purpose(value.name, layout_text(value.shape, layout), reading))
            if home.type.layout.pending and not layout.pending:
                # Settled once, it is never pending again: later readers start from here.
                self.home[value] = made
            copies[key] = made
        return copies[key]

    def _nearest(self, value: Value, layout: Layout, phase: str) -> Value:
        """The copy from which the fewest collectives lead to `layout`; slices cost nothing."""
        candidates = [self.home[value], *(copy for (_, p), copy in self.copies[value].items() if p == phase)]
        if len(candidates) == 1:
            return candidates[0]

        def cost(copy: Value) -> int:
            try:
                return sum(2 if hop.settles else hop.sends for hop in route(copy.type.layout, layout))
            except LayoutError:
                return 1 << 30

        return min(candidates, key=cost)

    def _move(self, value: Value, layout: Layout, node: Node, purpose: Purpose) -> Value:
        """`value` brought to `layout` by collectives before (or after) `node`."""
        producer = self.makers.get(value)
        for hop in route(value.type.layout, layout):
            owner = producer if hop.settles and producer is not None else node
            value = self._hop(value, hop, owner, purpose)
        return value

    def _hop(self, value: Value, hop: Hop, owner: Node, purpose: Purpose) -> Value:
        """One collective, named after what it moves, in the scope and phase of the node it belongs to."""
        layout = value.type.layout
        if hop.settles:
            purpose = purpose.settling(value, hop.settles)
        name = self.builder.free_name(f"{value.name}.{hop.operator.key}")
        meta = owner.meta
        of = meta.of if meta.phase != FORWARD else None
        moved = Meta(meta.scope, meta.phase, meta.at, of, str(purpose))
        (made,) = self.builder.emit(hop.operator, [value], hop.attributes, [f"/{name}"], moved)
        assert layout != made.type.layout
        return made

    def _make(self, value: Value, layout: Layout) -> Value:
        """A made-to-measure value at `layout`."""
        if (layout, "") in self.copies[value]:
            return self.copies[value][layout, ""]
        node, position = self.lazy[value]
        rule = node.inference.rule
        dims = node.inference.factors
        assignment = {
            factor: mine
            for axis, axes in zip(rule.outputs[position].axes, layout.splits, strict=True)
            if axis.factors and axes
            for factor, mine in shares(axis, axes, dims)
            if mine
        }
        names = [self.builder.free_name(each.name) for each in node.outputs]
        inputs = [
            self._demand(each, Layout(operand_splits(operand, assignment)), node, operand.name, names[0])
            for operand, each in zip(rule.inputs, node.inputs, strict=True)
        ]
        split = write_split(assignment, rule.output_only_factors)
        made = self._emit_node(node, inputs, split, [f"/{each}" for each in names])
        for each, new in zip(node.outputs, made, strict=True):
            self.copies[each][new.type.layout, ""] = new
            self.home.setdefault(each, new)
        self.claimed.setdefault(node.name, tuple(assignment.items()))
        return made[position]

    def _finish(self, value: Value) -> Value:
        """An output: nothing pending, and pinned as promised."""
        if value not in self.home:
            return self._make(value, self._offered(value))
        # Of what is made to measure, the first copy bears the name that the caller asks for.
        home, pin = self.home[value], self.given.pinned.get(value)
        layout = home.type.layout.settled() if pin is None else pin.apply(home.type.layout)
        if home.type.layout == layout:
            return home
        node = self.graph.producers[value]
        return self._move(home, layout, node, Purpose(value.name))
