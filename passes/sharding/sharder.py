"""Sharding: a differentiated graph, a mesh and a plan in; the graph that every rank runs out.

One walk over the nodes, and nothing but factor rules and declared traits decides where a collective goes:

- A node's operands are brought to a common *assignment*, factor -> mesh axes; its outputs follow from it.
  Where an axis could go to several factors, the first of these decides: what the forward node did (for its
  d-node), the split of a parameter that is read here, the layout wanted of the output, the first operand.
- A value that is pending goes on as it is through what only moves or adds (T, R, C, Σ, +); before all else it is
  settled: by RS if the axis is wanted for a split, by AR if not.
- Which collectives lead from one layout to another, `route` alone knows; consumers in one phase share them.
- What has no inputs but is made to measure (BC, positions, a mask) is made anew at each layout that is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from graphir.errors import LayoutError
from graphir.ir.analysis import needed_nodes
from graphir.ir.assignment import Assignment, operand_splits, write_split
from graphir.ir.builder import Builder
from graphir.ir.dims import Sizes
from graphir.ir.graph import FORWARD, Graph, Node
from graphir.ir.layout import Layout, Mesh, layout_text
from graphir.ir.signature import Signature
from graphir.ir.value import Value
from graphir.passes.sharding.claims import Admits, Axes, Claims, disputed, held
from graphir.passes.sharding.given import read_plan
from graphir.passes.sharding.plans import Plan, find_plan
from graphir.passes.sharding.reshard import Hop, route

Pending: TypeAlias = tuple[tuple[str, str], ...]


@lru_cache(maxsize=4096)
def _layout(splits: tuple[Axes, ...], pending: Pending = ()) -> Layout:
    """A layout; the same few come up at every node."""
    return Layout(splits, pending)


def shard(graph: Graph, mesh: Mesh, plan: Plan | str, sizes: Sizes | None = None) -> Graph:
    """`graph` rewritten for the ranks of `mesh`, as `plan` (or the ready-made plan of that name) says.

    Names, shapes and outputs stay what they are; types get layouts, and AR, AG, RS, A2A and slices are inserted,
    each with its reason in `meta.why`. Nodes that no output needs are dropped. With `sizes`, `?|dp` entries pick
    a dim that divides.
    Errors: LayoutError if the plan does not fit the graph or the mesh, or the graph is sharded already.
    """
    plan = find_plan(plan) if isinstance(plan, str) else plan
    if graph.mesh.axes or any(not value.type.layout.is_replicated for value in graph.values.values()):
        raise LayoutError(f"graph {graph.name} is sharded over {graph.mesh} already; shard the graph it came from")
    unknown = [axis for axis in plan.axes if axis not in mesh.sizes]
    if unknown:
        raise LayoutError(f"plan {plan.name} splits over {', '.join(unknown)}, which the mesh ({mesh}) lacks")
    return _Sharder(graph, mesh, plan, sizes).run()


class _Sharder:
    def __init__(self, graph: Graph, mesh: Mesh, plan: Plan, sizes: Sizes | None) -> None:
        self.graph = graph
        self.nodes = needed_nodes(graph, graph.outputs)
        self.given = read_plan(graph, self.nodes, mesh, plan, sizes)
        self.builder = Builder(graph.name, mesh=mesh)
        self.parameters = frozenset(graph.parameters)
        #: Where each value of the old graph lives now, as it was made or settled.
        self.home: dict[Value, Value] = {}
        #: Copies in other layouts, by layout and phase: the backward pass gathers again rather than keep.
        self.copies: defaultdict[Value, dict[tuple[Layout, str], Value]] = defaultdict(dict)
        #: Nodes that are emitted when somebody asks, at the layout asked for.
        self.lazy: dict[Value, tuple[Node, int]] = {}
        self.assignments: dict[str, Assignment] = {}
        self.wanted: dict[Value, Layout] = {}
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
        self.wanted |= {value: pin.apply(value.type.layout) for value, pin in self.given.pinned.items()}
        for node in reversed(nodes):
            rule = node.inference.rule
            guess = self._claims(node, rule, placed=False)
            for operand, value in zip(rule.inputs, node.inputs, strict=True):
                if value not in self.given.pinned and value not in self.given.stored:
                    splits = operand_splits(operand, guess)
                    if any(splits) or value not in self.wanted:
                        self.wanted[value] = _layout(splits)

    def _claims(self, node: Node, rule: Signature, placed: bool = True) -> dict[str, Axes]:
        """Which factor each axis goes to at `node`, by order of precedence; see the module's docstring.

        With `placed` false the operands' layouts are not known yet, and only what is given and wanted counts.
        """
        claims = Claims(node, rule)
        # 1. The d-node of a node does as the node did.
        if node.operator.d_operator_of is not None and node.meta.of in self.assignments:
            for factor, axes in self.assignments[node.meta.of].items():
                claims.factor(factor, axes)
        # 2. The split of the parameters that are read here, the most split first.
        updated = {old for old, _ in node.updates}
        operands = list(zip(rule.inputs, node.inputs, strict=True))
        given = [(o, self.given.at(v, v in updated)) for o, v in operands if v in self.parameters or v in updated]
        for operand, layout in sorted(given, key=lambda pair: -len(pair[1].split_axes)):
            claims.operand(operand, layout)
        if updated:  # an update lies as what it updates, whatever its gradient does
            return claims.result
        results = [(o, self.wanted[v]) for o, v in zip(rule.outputs, node.outputs, strict=True) if v in self.wanted]
        if not placed:
            for operand, layout in results:
                claims.operand(operand, layout)
            return claims.result
        lying = [
            (o, v, self.home[v].type.layout) for o, v in operands if v not in self.lazy and v not in self.parameters
        ]
        # 3. What is wanted says where a pending axis goes, and decides between operands that disagree.
        due = {axis for _, _, layout in lying for axis in layout.pending_axes}
        pending = due - {axis for axis, _ in self._passed(node)}
        splits = held((operand, layout) for operand, _, layout in lying)
        torn = disputed(splits)
        for operand, layout in results:
            claims.operand(operand, layout, lambda factor, axis: axis in pending or (factor, axis) in torn, splits)
        for operand, value, layout in lying:
            if pending and value in self.wanted:
                claims.operand(operand, self.wanted[value], _only(pending.intersection(layout.pending_axes)), splits)
        # 4. The operands as they lie, in order.
        for operand, _, layout in lying:
            claims.operand(operand, layout)
        # 5. Factors that only outputs have, or operands made to measure, as wanted, over axes that are still free.
        bound = {factor for operand, value in operands if value not in self.lazy for factor in operand.factors}
        fresh = frozenset(rule.factors) - bound
        for operand, layout in results:
            claims.operand(operand, layout, lambda factor, axis: factor in fresh)
        return claims.result

    # -- placing a node -------------------------------------------------------------------------------

    def _place(self, node: Node) -> None:
        rule = node.inference.rule
        if self._is_made_to_measure(node, rule):
            for position, value in enumerate(node.outputs):
                self.lazy[value] = node, position
            return
        if node.operator.associative and len(node.inputs) > 1:
            node = self._sum_alike(node)
            rule = node.inference.rule
        assignment = self._claims(node, rule)
        if node.operator.decompose is not None and self._splits_whole(rule, assignment):
            self._decompose(node)
            return
        taken = {axis for axes in assignment.values() for axis in axes}
        passed = self._passed(node)
        if not taken.isdisjoint(axis for axis, _ in passed):
            passed = ()
        inputs = [
            self._demand(value, _layout(operand_splits(operand, assignment), passed), node, operand.name)
            for operand, value in zip(rule.inputs, node.inputs, strict=True)
        ]
        self.assignments[node.name] = assignment
        self._emit(node, inputs, assignment, [f"/{value.name}" for value in node.outputs])

    def _emit(self, node: Node, inputs: Sequence[Value], assignment: Assignment, names: Sequence[str]) -> None:
        made = self._emit_node(node, inputs, assignment, names)
        for value, new in zip(node.outputs, made, strict=True):
            self.home[value] = new
            self.makers[new] = node
            pin = self.given.pinned.get(value)
            if pin is not None and new.type.layout != pin.apply(new.type.layout):
                layout = pin.apply(new.type.layout)
                self.home[value] = self._move(
                    new, layout, node, f"the plan wants {value.name} as {layout_text(value.shape, layout)}"
                )

    def _emit_node(
        self, node: Node, inputs: Sequence[Value], assignment: Assignment, names: Sequence[str | None]
    ) -> tuple[Value, ...]:
        split = write_split(assignment, node.inference.rule.output_only_factors)
        attributes: Mapping[str, Any] = {**node.attributes, "split": split} if split else node.attributes
        meta = node.meta
        with self.builder.context(scope=meta.scope, phase=meta.phase, of=meta.of, at=meta.at, why=meta.why):
            return self.builder.emit(node.operator, inputs, attributes, names)

    def _is_made_to_measure(self, node: Node, rule: Signature) -> bool:
        """Whether the node only spreads what it reads over new dims: cheaper to make than to move."""
        if not rule.output_only_factors and rule.inputs:
            return False
        kept = [set(operand.factors) for operand in rule.outputs]
        return all(factor in each for operand in rule.inputs for factor in operand.factors for each in kept)

    def _splits_whole(self, rule: Signature, assignment: Assignment) -> bool:
        return any(axis.whole and assignment.get(axis.factors[0]) for operand in rule.inputs for axis in operand.axes)

    def _passed(self, node: Node) -> Pending:
        """What is pending in the operands and stays so in the result: through what only moves, sums or adds."""
        operator = node.operator
        if any(value in self.lazy for value in node.inputs):
            return ()
        states = {self.home[value].type.layout.pending for value in node.inputs}
        moves = len(node.inputs) == 1 and bool(operator.linear) and not (operator.elementwise and operator.flops)
        if len(states) != 1 or not (moves or operator.jointly_linear):
            return ()
        (pending,) = states
        return pending if all(kind != "max" for _, kind in pending) else ()

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

    def _decompose(self, node: Node) -> None:
        """Places the pieces of a node one of whose whole dims is split."""
        assert node.operator.decompose is not None
        rule = node.inference.rule
        scratch = Builder("pieces")
        inputs = [scratch.input(f"/{value.name}", value.shape, value.dtype) for value in dict.fromkeys(node.inputs)]
        stand_in = dict(zip(dict.fromkeys(node.inputs), inputs, strict=True))
        back = {each: value for value, each in stand_in.items()}
        operands = {o.name: stand_in[value] for o, value in zip(rule.inputs, node.inputs, strict=True)}
        names = {o.name: f"/{value.name}" for o, value in zip(rule.outputs, node.outputs, strict=True)}
        meta, why = node.meta, f"{node.operator.key} over a split dim"
        with scratch.context(scope=meta.scope, phase=meta.phase, of=meta.of, at=meta.at, why=why):
            made = node.operator.decompose(operands, node.attributes, names)
        results = {made[o.name]: value for o, value in zip(rule.outputs, node.outputs, strict=True)}
        if node.meta.phase == FORWARD:
            self.assignments[node.name] = self._claims(node, rule)
        for piece in scratch.nodes:
            renamed = tuple(results.get(value, value) for value in piece.outputs)
            back |= dict(zip(piece.outputs, renamed, strict=True))
            self._place(
                Node(piece.operator, tuple(back[v] for v in piece.inputs), piece.attributes, renamed, piece.meta)
            )

    # -- bringing values where they are wanted ---------------------------------------------------------

    def _demand(self, value: Value, layout: Layout, node: Node, operand: str) -> Value:
        """`value` in `layout`, for `operand` of `node`; shared with the other consumers of the phase."""
        phase = node.meta.phase
        if value in self.lazy:
            return self._make(value, layout)
        home = self.home[value]
        if home.type.layout == layout:
            return home
        key, copies = (layout, phase), self.copies[value]
        if key not in copies:
            source = self._nearest(value, layout, phase)
            why = f"{node.name} = {node.operator.key}(…) reads it as {operand} {layout_text(value.shape, layout)}"
            made = self._move(source, layout, node, why)
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

    def _move(self, value: Value, layout: Layout, node: Node, why: str) -> Value:
        """`value` brought to `layout` by collectives before (or after) `node`."""
        producer = self.makers.get(value)
        for hop in route(value.type.layout, layout):
            owner = producer if hop.settles and producer is not None else node
            value = self._hop(value, hop, owner, why)
        return value

    def _hop(self, value: Value, hop: Hop, owner: Node, why: str) -> Value:
        """One collective, named after what it moves, in the scope and phase of the node it belongs to."""
        layout = value.type.layout
        if hop.settles:
            axes = hop.attributes.get("axes") or (hop.attributes["axis"],)
            kind = dict(layout.pending)[axes[0]]
            why = f"{value.name} is a pending {kind} over {' and '.join(axes)}; {why}"
        name = self.builder.free_name(f"{value.name}.{hop.operator.key}")
        meta = owner.meta
        of = meta.of if meta.phase != FORWARD else None
        with self.builder.context(scope=meta.scope, phase=meta.phase, of=of, at=meta.at, why=why):
            (made,) = self.builder.emit(hop.operator, [value], hop.attributes, f"/{name}")
        assert layout != made.type.layout
        return made

    def _make(self, value: Value, layout: Layout) -> Value:
        """A made-to-measure value at `layout`."""
        if (layout, "") in self.copies[value]:
            return self.copies[value][layout, ""]
        node, position = self.lazy[value]
        rule = node.inference.rule
        splits = layout.splits
        assignment = {
            axis.factors[0]: axes
            for axis, axes in zip(rule.outputs[position].axes, splits, strict=True)
            if axis.factors and axes
        }
        inputs = [
            self._demand(each, _layout(operand_splits(operand, assignment)), node, operand.name)
            for operand, each in zip(rule.inputs, node.inputs, strict=True)
        ]
        names = [f"/{self.builder.free_name(each.name)}" for each in node.outputs]
        made = self._emit_node(node, inputs, assignment, names)
        for each, new in zip(node.outputs, made, strict=True):
            self.copies[each][new.type.layout, ""] = new
            self.home.setdefault(each, new)
        self.assignments.setdefault(node.name, assignment)
        return made[position]

    def _finish(self, value: Value) -> Value:
        """An output: nothing pending, and pinned as promised."""
        if value not in self.home:
            return self._make(value, self.wanted.get(value, value.type.layout))
        # Of what is made to measure, the first copy bears the name that the caller asks for.
        home, pin = self.home[value], self.given.pinned.get(value)
        layout = home.type.layout.settled() if pin is None else pin.apply(home.type.layout)
        if home.type.layout == layout:
            return home
        node = self.graph.producers[value]
        return self._move(home, layout, node, "it is an output of the graph")


def _only(axes: Iterable[str]) -> Admits:
    """Admits these axes, to whichever factor."""
    admitted = frozenset(axes)
    return lambda factor, axis: axis in admitted
