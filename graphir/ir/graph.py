"""The graph: immutable, nodes in topological order, every edge named and typed.

Passes are plain functions from graph to graph; they read one and fill a `Builder` (graphir.ir.builder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType

from graphir.errors import GraphError, meant
from graphir.ir.assignment import read_assignment
from graphir.ir.dims import Dim
from graphir.ir.frozen import Frozen, fix
from graphir.ir.layout import Mesh
from graphir.ir.notation import ALIASES
from graphir.ir.operator import Attributes, Inference, Operator
from graphir.ir.signature import Signature
from graphir.ir.value import Value

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known about a node beside what it computes. Printed, and left out of equality.

    scope   the block it belongs to, `layer3/mha`
    phase   forward, backward or update
    at      the user's file and line
    of      for a node of the backward pass: the first output of the forward node it belongs to
    why     for a node that a pass inserted: the reason
    """

    scope: str = ""
    phase: str = FORWARD
    at: str | None = None
    of: str | None = None
    why: str | None = None


class Node(Frozen):
    """One application of an operator. Immutable."""

    __slots__ = ("_inference", "attributes", "inputs", "meta", "operator", "outputs")

    operator: Operator
    inputs: tuple[Value, ...]
    attributes: Attributes
    outputs: tuple[Value, ...]
    meta: Meta
    _inference: Inference | None

    def __init__(
        self,
        operator: Operator,
        inputs: tuple[Value, ...],
        attributes: Attributes,
        outputs: tuple[Value, ...],
        meta: Meta,
        inference: Inference | None = None,
    ) -> None:
        """`inference` is what the operator infers from these operands and attributes, if that is known already."""
        fix(self, "operator", operator)
        fix(self, "inputs", inputs)
        fix(self, "attributes", attributes)
        fix(self, "outputs", outputs)
        fix(self, "meta", meta)
        fix(self, "_inference", inference)

    @property
    def name(self) -> str:  # type: ignore[override]
        """A node is called after its first output."""
        return self.outputs[0].name

    @property
    def inference(self) -> Inference:
        """The rule that types this node, and its factors' dims."""
        found = self._inference
        if found is None:
            found = self.operator.infer(tuple([value.type for value in self.inputs]), self.attributes)
            fix(self, "_inference", found)
        return found

    @property
    def assignment(self) -> Mapping[str, tuple[str, ...]]:
        """The mesh axes that split each factor of the rule; factors that none splits may be left out."""
        rule, factors, _ = self.inference
        layouts = [value.type.layout for value in self.inputs]
        return read_assignment(rule, layouts, self.attributes.get("split", ()), factors)

    @property
    def body(self) -> Graph | None:
        """The graph that a fused node holds; None of any other node."""
        body = self.attributes.get("body")
        return body if isinstance(body, Graph) else None

    @property
    def updates(self) -> tuple[tuple[Value, Value], ...]:
        """(old, new) for each operand that this node's operator declares it updates; of a body, what leaves it."""
        body = self.body
        if body is not None:
            outside = dict(zip((*body.inputs, *body.outputs), (*self.inputs, *self.outputs), strict=True))
            pairs = (pair for node in body.nodes for pair in node.updates)
            return tuple([(outside[old], outside[new]) for old, new in pairs if old in outside and new in outside])
        if not self.operator.updates:
            return ()
        positions = _updated(self.operator, self.inference.rule)
        return tuple([(self.inputs[old], self.outputs[new]) for old, new in positions])

    def __repr__(self) -> str:
        outputs = ", ".join(f"{value.name} {value.type}" for value in self.outputs)
        return f"{outputs} = {self.operator.key}({', '.join(value.name for value in self.inputs)})"


@lru_cache(maxsize=1024)
def _updated(operator: Operator, rule: Signature) -> tuple[tuple[int, int], ...]:
    """The positions of (operand, result) where the result is the operand's new content."""
    operands, results = [o.name for o in rule.inputs], [o.name for o in rule.outputs]
    updates = operator.updates
    return tuple((operands.index(updates[name]), new) for new, name in enumerate(results) if name in updates)


class Graph(Frozen):
    """A program: what goes in, what comes out, and the nodes between.

    inputs      data of a run: token ids, targets, seed, step
    parameters  what is trained
    state       what an optimizer keeps from step to step
    outputs     the values that a run returns unless told otherwise; nodes that none of them needs are kept
                until `passes.dce` is asked to drop them
    aliases     further names of values: a block's own name for what enters it (`layer0/mha/X`)
    mesh        the ranks that the values' layouts speak of; one rank until the graph is sharded
    """

    __slots__ = ("__dict__", "aliases", "inputs", "mesh", "name", "nodes", "outputs", "parameters", "state")

    name: str
    inputs: tuple[Value, ...]
    parameters: tuple[Value, ...]
    state: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    aliases: Mapping[str, Value]
    mesh: Mesh

    def __init__(
        self,
        name: str,
        inputs: Sequence[Value],
        parameters: Sequence[Value],
        state: Sequence[Value],
        outputs: Sequence[Value],
        nodes: Sequence[Node],
        aliases: Mapping[str, Value] | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        fix(self, "name", name)
        fix(self, "inputs", tuple(inputs))
        fix(self, "parameters", tuple(parameters))
        fix(self, "state", tuple(state))
        fix(self, "outputs", tuple(outputs))
        fix(self, "nodes", tuple(nodes))
        fix(self, "aliases", MappingProxyType(dict(aliases or {})))
        fix(self, "mesh", mesh or Mesh())

    # -- what is where --------------------------------------------------------------------------------

    @property
    def arguments(self) -> tuple[Value, ...]:
        """All that a run is handed: inputs, parameters, state."""
        return (*self.inputs, *self.parameters, *self.state)

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Every value by its name, in order of definition."""
        found = {value.name: value for value in self.arguments}
        for node in self.nodes:
            for value in node.outputs:
                found[value.name] = value
        return MappingProxyType(found)

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """The node that makes each value; arguments have none."""
        return MappingProxyType({value: node for node in self.nodes for value in node.outputs})

    @cached_property
    def uses(self) -> Mapping[Value, tuple[tuple[Node, int], ...]]:
        """The nodes that read each value, with the operand's position, in order."""
        found: dict[Value, list[tuple[Node, int]]] = {value: [] for value in self.values.values()}
        for node in self.nodes:
            for position, value in enumerate(node.inputs):
                found.setdefault(value, []).append((node, position))
        return MappingProxyType({value: tuple(uses) for value, uses in found.items()})

    @cached_property
    def updates(self) -> Mapping[Value, Value]:
        """The new value of each parameter and state that the graph updates."""
        arguments = {*self.parameters, *self.state}
        pairs = ((self.origin(old), new) for node in self.nodes for old, new in node.updates)
        return MappingProxyType({old: new for old, new in pairs if old in arguments})

    def origin(self, value: Value) -> Value:
        """The value whose content `value` is: itself, or what collectives alone made it from."""
        node = self.producers.get(value)
        while node is not None and node.operator.relayout is not None:
            value = node.inputs[0]
            node = self.producers.get(value)
        return value

    def result(self, name: str) -> Value:
        """What `name` ends as: the output that collectives made of it, if there is one, else the value itself."""
        value, (returned, ends) = self[name], self._returned
        return value if value in returned else ends.get(self.origin(value), value)

    @cached_property
    def _returned(self) -> tuple[frozenset[Value], Mapping[Value, Value]]:
        """The outputs, and by origin the first output that collectives alone made of it."""
        return frozenset(self.outputs), {self.origin(value): value for value in reversed(self.outputs)}

    @cached_property
    def dims(self) -> tuple[Dim, ...]:
        """Every distinct dim of every value, in order of appearance, then those that only attributes name.

        An attribute that is a graph, a fused node's body, names all of its own.
        """
        shapes = [value.shape for value in self.values.values()]
        given = [each for node in self.nodes for each in node.attributes.values()]
        attributes = [
            each.dims if isinstance(each, Graph) else each if isinstance(each, tuple) else (each,) for each in given
        ]
        return tuple(dict.fromkeys(each for dims in (*shapes, *attributes) for each in dims if isinstance(each, Dim)))

    @cached_property
    def nesting(self) -> int:
        """How many fused nodes lie inside of each other; 0 of a graph without one."""
        return max((1 + body.nesting for node in self.nodes if (body := node.body) is not None), default=0)

    def __getitem__(self, name: str) -> Value:
        """The value of that name or alias, the documents' own aliases (`dU_in`) included."""
        found = self.find(name)
        if found is None:
            near = meant(name, [*self.values, *self.aliases])
            raise GraphError(f"graph {self.name} has no value called {name!r}{f'; {near}' if near else ''}")
        return found

    def find(self, name: str) -> Value | None:
        """As `graph[name]`, but None if there is no such value."""
        found = self.values.get(name, self.aliases.get(name))
        if found is None:
            scope, slash, local = name.rpartition("/")
            if local in ALIASES:
                return self.find(f"{scope}{slash}{ALIASES[local]}")
        return found

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    # -- comparison -----------------------------------------------------------------------------------

    def _structure(self) -> tuple[object, ...]:
        def typed(values: Sequence[Value]) -> list[tuple[object, ...]]:
            return [(value.name, value.type, value.init) for value in values]

        return (
            self.name,
            self.mesh,
            typed(self.inputs),
            typed(self.parameters),
            typed(self.state),
            [value.name for value in self.outputs],
            [
                (node.operator.key, [value.name for value in node.inputs], node.attributes, typed(node.outputs))
                for node in self.nodes
            ],
            {name: value.name for name, value in self.aliases.items()},
        )

    def __eq__(self, other: object) -> bool:
        """Structural: same names, types, operators, attributes, in the same order. Meta does not count."""
        if self is other:
            return True
        return isinstance(other, Graph) and self._structure() == other._structure()

    def __hash__(self) -> int:
        return hash((self.name, len(self.nodes), tuple(value.name for value in self.outputs)))

    def __repr__(self) -> str:
        return (
            f"<graph {self.name}: {len(self.nodes)} nodes, {len(self.parameters)} parameters, "
            f"outputs {', '.join(value.name for value in self.outputs) or 'none'}>"
        )
