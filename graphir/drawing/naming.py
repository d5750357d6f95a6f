"""What a graph's values and nodes are called in a picture, and what they are to whom reads them."""

from __future__ import annotations

from graphir.drawing.labels import broadcast_label, shape_label, typeset
from graphir.drawing.picture import Details, Label, Run
from graphir.drawing.view import View
from graphir.formula.spelled import spell
from graphir.ir.dims import Dim, as_dim, product
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph, Node
from graphir.ir.layout import local_shape
from graphir.ir.operator import Operator
from graphir.ir.types import DTYPES, TensorType
from graphir.ir.value import Value, gradient_name, join

#: How far back an unnamed result is spelled; beyond that its maker's symbol and number say which it is.
_DEEPEST = 2
#: Of a fused node, whose label would else be very wide.
_SYMBOLS_A_LINE = 4


def is_sign(symbol: str) -> bool:
    """Whether a symbol is a mathematical sign, drawn in a circle: •, +, Σ, but no letter."""
    return len(symbol) == 1 and not (symbol.isascii() and symbol.isalpha())


def is_own(operator: Operator) -> bool:
    """Whether an operator is a user's, who declares no symbol for it."""
    return operator.symbol == operator.key and not operator.kernel.__module__.startswith("graphir.")


def is_fork(node: Node) -> bool:
    """Whether a node only hands its gradient on under several names, as the backward of + does."""
    forward = node.operator.d_operator_of
    return forward is not None and forward.jointly_linear


def is_broadcast(node: Node) -> bool:
    """Whether a node repeats its one operand along dims that the operand lacks."""
    rule = node.inference.rule
    return len(node.inputs) == 1 and bool(rule.output_only_factors and node.operator.linear)


def is_transpose(node: Node) -> bool:
    """Whether a node only puts the dims of its operand in another order."""
    rule = node.inference.rule
    before, after = rule.inputs[0].axes, rule.outputs[0].axes
    return node.operator.view and before != after and set(before) == set(after)


def new_dims(node: Node) -> tuple[Dim, ...]:
    """The dims along which a broadcast repeats its operand."""
    rule, factors, _ = node.inference
    return tuple(factors[factor] for factor in rule.outputs[0].factors if factor in rule.output_only_factors)


def summed_dims(node: Node) -> tuple[Dim, ...]:
    """The dims over which a node adds up its one operand, and does nothing else; none of another node."""
    rule, factors, _ = node.inference
    if len(node.inputs) != 1 or not node.operator.linear:
        return ()
    return tuple(factors[factor] for factor in rule.inputs[0].factors if factor not in rule.outputs[0].factors)


class Naming:
    """Names, shapes and roles of one graph's values under one view."""

    def __init__(self, graph: Graph, view: View) -> None:
        self.graph, self.view = graph, view
        self.parameters, self.states = frozenset(graph.parameters), frozenset(graph.state)
        #: The block's own names of what enters it.
        self.aliases: dict[tuple[str, Value], str] = {}
        for alias, value in graph.aliases.items():
            scope, _, local = alias.rpartition("/")
            self.aliases.setdefault((scope, value), local)
        #: Formulas by type: most values of a model share a few.
        self._bytes: dict[TensorType, str] = {}
        #: Equal dims are written one way: D_h, not D/N_H.
        self._spelling = {each: each for each in reversed(graph.dims) if len(each.powers) == 1}
        self._gradient_names = {gradient_name(p.name) for p in graph.parameters}
        #: Gradients that are handed in, those of a block's results.
        named = {gradient_name(value.name) for node in graph.nodes for value in node.outputs}
        self._handed_in = {value for value in graph.inputs if value.name in named}
        #: What the backward pass makes of forward values alone: gathered, cast or computed once more there.
        self._made_again: set[Value] = set()
        for node in graph.nodes:
            if node.meta.phase == BACKWARD and self._is_made_of_forward(node):
                self._made_again.update(node.outputs)
        self._updated = {new: old for node in graph.nodes for old, new in node.updates}

    def _is_made_of_forward(self, node: Node) -> bool:
        operator = node.operator
        if not node.inputs or operator.shape_only or operator.d_operator_of is not None:
            return False
        return all(value in self._made_again or self._phase_made(value) == FORWARD for value in node.inputs)

    def _phase_made(self, value: Value) -> str:
        made = self.producer(value)
        if made is None:
            return BACKWARD if value in self._handed_in else FORWARD
        return made.meta.phase

    # -- what a value is ------------------------------------------------------------------------------

    def phase(self, value: Value) -> str:
        """The pass that a value belongs to: a forward value stays one where the backward pass makes it again."""
        return FORWARD if value in self._made_again else self._phase_made(value)

    def producer(self, value: Value) -> Node | None:
        """The node that makes it; None of an argument."""
        return self.graph.producers.get(value)

    def of_parameter(self, value: Value) -> bool:
        """Whether it is a parameter's gradient, or one use's part of it."""
        name = self.graph.origin(value).name
        scope, _, local = name.rpartition("/")
        return join(scope, local.partition(".")[0]) in self._gradient_names

    def is_parameter(self, value: Value) -> bool:
        """Whether it is a parameter, stored in parts or gathered."""
        return self.graph.origin(value) in self.parameters

    def is_auxiliary(self, value: Value) -> bool:
        """Whether it is a statistic or a mask that only the d-node reads."""
        node = self.producer(value)
        if node is None or not node.operator.auxiliary:
            return False
        rule = node.inference.rule
        return any(
            o.name in node.operator.auxiliary and v is value for o, v in zip(rule.outputs, node.outputs, strict=True)
        )

    def role(self, value: Value, reader: Node | None) -> str:
        """forward, gradient, cached, parameter or collective: what `value` is to the node that reads it."""
        phase = self.phase(value)
        if reader is not None and reader.operator.relayout is not None:
            return "collective"
        if phase == FORWARD and (value in self._made_again or (reader and reader.meta.phase == BACKWARD)):
            return "cached"
        if self.is_parameter(value) or phase == UPDATE:
            return "parameter"
        return "gradient" if phase == BACKWARD else "forward"

    # -- what it is called ----------------------------------------------------------------------------

    def label(self, value: Value, scope: str | None = None, depth: int = 0) -> Label:
        """The value as the block `scope` calls it, typeset; after a collective, as before it.

        What nobody named is called by what made it, of what: exp(X), X • W, Kᵀ.
        """
        origin = self.graph.origin(value)
        if origin in self._updated:
            return (*self.label(self._updated[origin], scope), Run("new", "sup"))
        made = self.producer(origin)
        if made is not None and self.is_unnamed(origin, made):
            return self._by_maker(made, origin, scope, depth)
        kept_for, _, part = origin.local_name.partition(".")
        if part and origin in self.states:
            return (Run(part, "italic"), Run(" of "), *typeset(kept_for, parameter=True))
        # A block's own figure calls what enters as the block does; an overall one, as its maker does.
        name = self.aliases.get((scope or "", origin), origin.local_name) if self.view.scopes else origin.local_name
        phase = self.phase(origin)
        gradient = phase == BACKWARD or (phase == UPDATE and self.of_parameter(origin))
        parameter = origin in self.parameters or (gradient and self.of_parameter(origin))
        return typeset(name, gradient=gradient, parameter=parameter)

    def _by_maker(self, made: Node, value: Value, scope: str | None, depth: int) -> Label:
        symbol = made.operator.symbol
        if depth == _DEEPEST or not made.inputs:
            return (Run(symbol), Run(value.local_name[len(made.operator.key) :], "sub"))
        names = [self.label(each, scope, depth + 1) for each in made.inputs]
        if len(names) == 1 and is_transpose(made):
            return names[0][:-1] if names[0][-1] == Run("T", "sup") else (*names[0], Run("T", "sup"))
        if len(names) == 1 and made.operator.view:
            return names[0]
        between = Run(f" {symbol} ") if len(names) > 1 and is_sign(symbol) else Run(", ")
        inside = [*names[0], *(run for name in names[1:] for run in (between, *name))]
        opening = Run("(") if between.text != ", " else Run(f"{symbol}(")
        return (opening, *inside, Run(")")) if depth or opening.text != "(" else tuple(inside)

    def is_unnamed(self, value: Value, made: Node) -> bool:
        """Whether a value bears its operator's name and a number, since nobody gave it one."""
        name, key = value.local_name, made.operator.key
        return made.outputs[0] is value and name.startswith(key) and name[len(key) :].isdigit()

    def broadcast(self, node: Node, scope: str | None = None) -> Label:
        """BC with its dims around what it repeats."""
        return broadcast_label(new_dims(node), self.label(node.inputs[0], scope))

    def shape(self, value: Value) -> tuple[str, Label]:
        """The value's shape as text and typeset: a rank's own, or the logical one; what is pending is "partial"."""
        dims = local_shape(value.shape, value.type.layout) if self.view.local else value.shape
        dims = tuple(self._spelling.get(each, each) for each in dims)
        note = "partial" if value.type.layout.pending else ""
        text = f"[{', '.join(map(str, dims))}]" + (f" {note}" if note else "")
        return text, shape_label(dims, note) if value.dtype != "text" else ()

    def bytes(self, value: Value) -> str:
        """The bytes that a rank holds of it, as a formula."""
        known = self._bytes.get(value.type)
        if known is not None:
            return known
        size: Dim = product(local_shape(value.shape, value.type.layout)) * as_dim(max(1, DTYPES[value.dtype]))
        text = self._bytes[value.type] = "" if value.dtype == "text" else str(size)
        return text

    # -- nodes ----------------------------------------------------------------------------------------

    def node_lines(self, node: Node) -> tuple[Label, ...]:
        """What is written in a node: its label; in a fused one what it holds, in order, a few to a line.

        Nobody knows a user's operator by its key: what it computes stands below, where its kernel says it briefly.
        """
        symbols = fused_symbols(node)
        if not symbols:
            formula = spell(node) if is_own(node.operator) else None
            return (self.node_label(node), *([] if formula is None else [(Run(formula, "small"),)]))
        rows = [symbols[i : i + _SYMBOLS_A_LINE] for i in range(0, len(symbols), _SYMBOLS_A_LINE)]
        return tuple((Run("  ".join(row)),) for row in rows)

    def node_label(self, node: Node) -> Label:
        """The operator's symbol; Σ and BC with the dims that they sum over or make."""
        symbol = node.operator.symbol
        if is_broadcast(node):
            return (Run(symbol), *_subscript(new_dims(node)))
        if is_sign(symbol) and summed_dims(node):
            return (Run(symbol), *_subscript(summed_dims(node)))
        if node.operator.relayout is not None and len(self.graph.mesh.axes) > 1:
            return (Run(symbol), Run(",".join(collective_axes(node)), "sub"))
        return (Run(symbol),)

    def details(self, node: Node) -> Details:
        """What a reader may ask of the node."""
        return Details(
            types=tuple(f"{value.name} {value.type}" for value in node.outputs),
            formula=", ".join(fused_symbols(node)) or node.operator.doc.split("\n\n")[0].replace("\n", " "),
            at=node.meta.at or "",
            why=node.meta.why or "",
            of=(node.meta.of or "") if node.meta.phase == BACKWARD else "",
        )


def fused_symbols(node: Node) -> tuple[str, ...]:
    """The symbols of the nodes that a fused node holds, views left out; none of another node."""
    body = node.body
    return () if body is None else tuple(inner.operator.symbol for inner in body.nodes if not inner.operator.view)


def _subscript(dims: tuple[Dim, ...]) -> Label:
    return (Run(",".join(map(str, dims)).replace("_", ""), "sub"),) if dims else ()


def collective_axes(node: Node) -> tuple[str, ...]:
    """The mesh axes along which ranks meet in a collective; none for a local slice, which sends nothing."""
    if node.operator.relayout is None:
        return ()
    attributes = node.attributes
    return tuple(attributes["axes"]) if "axes" in attributes else (attributes["axis"],)
