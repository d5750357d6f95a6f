"""Builders: collect nodes, type-checking each at once, and become an immutable graph.

B, S, D, F = gi.dims("B S D D_ff")
block = gi.Builder("mlp")
X = block.input("X", (B, S, D))
W = block.parameter("W_up", (D, F))
with block.scope("layer0"):
    Z = gi.matmul(X, W, name="Z_up")          # layer0/Z_up
mlp = block.build(Z)
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import is_
from types import MappingProxyType
from typing import Any

from graphir.errors import DimError, GraphError, GraphirError, LayoutError, OperatorError, TypeCheckError
from graphir.ir.dims import DimLike
from graphir.ir.graph import FORWARD, Graph, Meta, Node
from graphir.ir.layout import Layout, Mesh
from graphir.ir.operator import Attributes, Inference, Operator
from graphir.ir.purpose import Purpose
from graphir.ir.source import user_line
from graphir.ir.types import TensorType
from graphir.ir.value import Value, join

#: A local name: `W_Q`, `dX_norm.Q_lin`, `layer0`. A full name is such parts with slashes between.
NAME = re.compile(r"[^\W\d][\w.]*\Z")
_PATH = re.compile(r"[^\W\d][\w.]*(?:/[^\W\d][\w.]*)*\Z")
#: Of a value, scopes included, and of a scope: each name in a scope is written with it.
LONGEST_NAME = 1024
_INIT = re.compile(r"(?:zeros|ones|(normal|full)\(((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\))\Z", re.ASCII)


class Builder:
    """A graph under construction."""

    def __init__(self, name: str = "graph", dtype: str = "float32", mesh: Mesh | None = None) -> None:
        """`dtype` is what parameters and float inputs are unless they say otherwise."""
        if not isinstance(name, str) or not NAME.match(name):
            raise GraphError(f"{name!r} cannot name a graph: letters, digits, _ and . only")
        self.name = name
        self.dtype = dtype
        self.mesh = mesh or Mesh()
        self.nodes: list[Node] = []
        self._arguments: dict[str, list[Value]] = {"input": [], "parameter": [], "state": []}
        self._outputs: dict[Value, None] = {}
        self._aliases: dict[str, Value] = {}
        self._taken: set[str] = set()
        #: What stands for a value that collectives moved in the graph that is copied, by that value's name.
        self._stand_ins: dict[str, str] = {}
        self._counters: dict[str, int] = {}
        self._scope = ""
        self._phase = FORWARD
        self._of: str | None = None
        self._why: str | None = None
        self._at: str | None = None
        self._last_key = 0
        self._built = False

    # -- what goes in ---------------------------------------------------------------------------------

    def input(
        self, name: str, shape: Iterable[DimLike] = (), dtype: str | None = None, layout: Layout | None = None
    ) -> Value:
        """Data that every run is handed: shape in dims, dtype the builder's unless given."""
        return self._argument("input", name, shape, dtype, None, layout)

    def parameter(
        self,
        name: str,
        shape: Iterable[DimLike],
        dtype: str | None = None,
        init: str = "normal(0.02)",
        layout: Layout | None = None,
    ) -> Value:
        """A trained tensor of floats; `init` is `normal(σ)`, `zeros`, `ones` or `full(x)`."""
        return self._argument("parameter", name, shape, dtype, init, layout)

    def state(
        self,
        name: str,
        shape: Iterable[DimLike],
        dtype: str | None = None,
        init: str = "zeros",
        layout: Layout | None = None,
    ) -> Value:
        """A tensor that an optimizer keeps from step to step."""
        return self._argument("state", name, shape, dtype, init, layout)

    def _argument(
        self,
        kind: str,
        name: str,
        shape: Iterable[DimLike],
        dtype: str | None,
        init: str | None,
        layout: Layout | None,
    ) -> Value:
        self._check_open()
        full = self._free(name)
        try:
            type_ = TensorType(dtype or self.dtype, shape, layout)
            self.mesh.require_axes(type_.layout)
        except GraphirError as error:
            raise type(error)(f"{kind} {name}: {error}") from None
        if kind == "parameter" and not type_.is_float:
            raise TypeCheckError(f"parameter {name} is {type_}, but only floats are trained; make it an input")
        if kind != "input":
            _check_init(name, init)
        value = Value(full, type_, self, init)
        self._taken.add(full)
        self._arguments[kind].append(value)
        return value

    # -- nodes ----------------------------------------------------------------------------------------

    def emit(
        self,
        operator: Operator,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any] | None = None,
        names: Sequence[str | None] | str | None = None,
        meta: Meta | None = None,
    ) -> tuple[Value, ...]:
        """Adds a node; the operators' functions and the passes all come through here.

        `names` are local to the current scope, or full with a leading slash; what is left unnamed is
        called after its first output and role (`X_norm.mean`), or after the operator. `meta` is the node's where a
        pass knows it; else it follows from the context.
        Errors: TypeCheckError or LayoutError, with the operands' shapes and the user's line; GraphError for a
        name that cannot be. The builder is then as it was.
        """
        self._check_open()
        operator.require_complete()
        if meta is None:
            meta = Meta(self._scope, self._phase, self._at or user_line(), self._of, self._why)
        elif meta.at is None:
            meta = replace(meta, at=user_line())
        at = meta.at
        for value in inputs:
            if not isinstance(value, Value):
                raise TypeCheckError(f"{operator.key}{_at(at)}: {value!r} is no graph value; make it an input")
            if value.owner is not self:
                raise GraphError(f"{operator.key}{_at(at)}: {value.name} belongs to another graph")
        types = tuple([value.type for value in inputs])
        if operator.random and "key" not in (attributes or {}):
            # Fixed here once: a key that followed from a position would change when a pass rewrites the graph.
            attributes = {**(attributes or {}), "key": self._last_key + 1}
        try:
            checked = attributes if isinstance(attributes, Attributes) else operator.normalize(attributes or {})
            inference = operator.infer(types, checked)
            for type_ in inference.types:
                self.mesh.require_axes(type_.layout)
        except (TypeCheckError, DimError, LayoutError, OperatorError) as error:
            operands = ", ".join(f"{value.name} {value.type}" for value in inputs)
            scope = f" in {meta.scope}" if meta.scope else ""
            raise type(error)(f"{operator.key}({operands}){scope}{_at(at)}: {error}") from None
        wanted: Sequence[Any] = names if isinstance(names, list | tuple) else [names]
        full: dict[str, None] = {}
        for position, each in enumerate(inference.rule.outputs):
            name = wanted[position] if position < len(wanted) else None
            if name is None:
                base = f"/{next(iter(full))}.{each.name}" if full else operator.key
                full[self._fresh(join(self._scope, base), full)] = None
            else:
                full[self._free(name, full)] = None
        return self._append(operator, tuple(inputs), checked, tuple(full), inference.types, meta, inference).outputs

    def _append(
        self,
        operator: Operator,
        inputs: tuple[Value, ...],
        attributes: Attributes,
        names: Sequence[str],
        types: Sequence[TensorType],
        meta: Meta,
        inference: Inference | None = None,
    ) -> Node:
        outputs = tuple([Value(name, type_, self) for name, type_ in zip(names, types, strict=True)])
        node = Node(operator, inputs, attributes, outputs, meta, inference)
        self._taken.update(names)
        self.nodes.append(node)
        if node.operator.random:
            self._last_key = max(self._last_key, node.attributes["key"])
        return node

    # -- names ----------------------------------------------------------------------------------------

    # Names are taken when what bears them is there, so that what was refused can be tried again.

    def _free(self, name: str, siblings: Container[str] = ()) -> str:
        """`name` in full; GraphError if it is no name, or a value or one of its siblings-to-be has it."""
        if not isinstance(name, str):
            raise GraphError(f"{name!r} cannot name a value: a name is a string, such as 'X'")
        full = join(self._scope, name)
        if not _PATH.match(full):
            raise GraphError(f"{full!r} cannot name a value: letters, digits, _ and . between slashes")
        if len(full) > LONGEST_NAME:
            raise GraphError(f"{full[:40]}… is {len(full)} characters long; names have at most {LONGEST_NAME}")
        if full in self._taken or full in siblings:
            raise GraphError(f"graph {self.name} has a value called {full} already; give this one another name")
        return full

    def _fresh(self, base: str, siblings: Collection[str]) -> str:
        """A name for what has none: `base`, with a number for a node's first output and where it is taken."""
        if siblings and base not in self._taken and base not in siblings:
            return base
        count = self._counters.get(base, 0)
        while f"{base}{count}" in self._taken or f"{base}{count}" in siblings:
            count += 1
        self._counters[base] = count
        return f"{base}{count}"

    def free_name(self, base: str) -> str:
        """A full name that nothing has yet, made from the full name `base`; to hand to `emit`."""
        candidate, count = base, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{base}.{count}"
        return candidate

    def alias(self, name: str, value: Value) -> Value:
        """A further name, local to the scope, for `value`: what a block calls what enters it."""
        self._check_open()
        full = self._free(name)
        if not isinstance(value, Value):
            raise GraphError(f"alias {full}: {value!r} is no graph value")
        if value.owner is not self:
            raise GraphError(f"alias {full}: {value.name} belongs to another graph")
        self._taken.add(full)
        self._aliases[full] = value
        return value

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names and nodes made inside belong to the block `name`."""
        if not isinstance(name, str) or not _PATH.match(name):
            raise GraphError(f"{name!r} cannot name a scope: letters, digits, _ and . between slashes")
        with self.context(scope=join(self._scope, name)):
            yield

    @contextmanager
    def context(
        self,
        scope: str | None = None,
        phase: str | None = None,
        of: str | None = None,
        why: str | None = None,
        at: str | None = None,
    ) -> Iterator[None]:
        """For passes: the meta of the nodes made inside; `scope` is a full path here."""
        before = self._scope, self._phase, self._of, self._why, self._at
        if scope is not None:
            self._scope = scope
        if phase is not None:
            self._phase = phase
        self._of, self._why, self._at = of, why, at
        try:
            yield
        finally:
            self._scope, self._phase, self._of, self._why, self._at = before

    # -- from and to graphs ---------------------------------------------------------------------------

    @classmethod
    def extending(cls, graph: Graph) -> tuple[Builder, dict[Value, Value]]:
        """A builder that holds a copy of `graph`, outputs left out, and where each of its values went."""
        builder = cls(graph.name, mesh=graph.mesh)
        copies = builder.copy_arguments(graph)
        for node in graph.nodes:
            builder.copy_node(node, copies)
        builder.copy_aliases(graph, copies)
        return builder, copies

    def copy_arguments(
        self, graph: Graph, instead: Mapping[Value, tuple[str, TensorType]] = MappingProxyType({})
    ) -> dict[Value, Value]:
        """Copies of the graph's inputs, parameters and state, of some with another name and type `instead`."""
        copies: dict[Value, Value] = {}
        for kind, values in (("input", graph.inputs), ("parameter", graph.parameters), ("state", graph.state)):
            for value in values:
                name, type_ = instead.get(value, (value.name, value.type))
                full = self._free(f"/{name}")
                copies[value] = Value(full, type_, self, value.init)
                self._taken.add(full)
                self._arguments[kind].append(copies[value])
        return copies

    def declare(
        self,
        operator: Operator,
        inputs: Iterable[Value],
        attributes: Attributes,
        outputs: Iterable[tuple[str, TensorType]],
        meta: Meta,
    ) -> Node:
        """Adds a node as it stands: outputs by full name and type, and nothing inferred.

        For nodes that were checked where they come from, such as texts.
        """
        self._check_open()
        full: dict[str, None] = {}
        types: list[TensorType] = []
        for name, type_ in outputs:
            full[self._free(f"/{name}", full)] = None
            types.append(type_)
        return self._append(operator, tuple(inputs), attributes, tuple(full), types, meta)

    def copy_node(self, node: Node, copies: dict[Value, Value], operands: Iterable[Value] | None = None) -> Node:
        """A copy of `node` on the copies of its inputs, or on `operands`; its outputs join `copies`."""
        self._check_open()
        inputs = tuple([copies[value] for value in node.inputs] if operands is None else operands)
        names, types = [value.name for value in node.outputs], [value.type for value in node.outputs]
        if not self._taken.isdisjoint(names):
            names = [self._free(f"/{name}") for name in names]
        # On operands of the very same types, what was inferred for the node holds for the copy.
        alike = all(map(is_, [value.type for value in inputs], [value.type for value in node.inputs]))
        inference = node.inference if alike else None
        meta = node.meta if node.operator.relayout is None else self._moving(node, inputs[0])
        copy = self._append(node.operator, inputs, node.attributes, names, types, meta, inference)
        copies.update(zip(node.outputs, copy.outputs, strict=True))
        return copy

    def _moving(self, node: Node, operand: Value) -> Meta:
        """The meta of a collective's copy: where `operand` stands for another value by now, its purpose says so."""
        purpose = Purpose.read(node.meta.why)
        if purpose is None:
            return node.meta
        if operand.name != node.inputs[0].name:
            self._stand_ins[purpose.moved] = operand.name
        if purpose.moved not in self._stand_ins:
            return node.meta
        return replace(node.meta, why=str(purpose.moving(self._stand_ins[purpose.moved])))

    def copy_aliases(self, graph: Graph, copies: Mapping[Value, Value]) -> None:
        """The graph's aliases, as far as what they name is still there, and is not called so itself by now."""
        for name, value in graph.aliases.items():
            if value in copies and copies[value].name != name:
                self.alias(f"/{name}", copies[value])

    @property
    def aliases(self) -> Mapping[str, Value]:
        """The aliases given so far, by full name."""
        return self._aliases

    def output(self, *values: Value) -> None:
        """Marks values as outputs of the graph."""
        self._check_open()
        for value in values:
            if not isinstance(value, Value) or value.owner is not self:
                raise GraphError(f"output {value!r} is no value of graph {self.name}")
            self._outputs[value] = None

    def build(self, *outputs: Value) -> Graph:
        """The immutable graph; `outputs` join those marked before. The builder takes nothing more."""
        self.output(*outputs)
        self._built = True
        return Graph(
            self.name,
            self._arguments["input"],
            self._arguments["parameter"],
            self._arguments["state"],
            tuple(self._outputs),
            self.nodes,
            self._aliases,
            self.mesh,
        )

    def _check_open(self) -> None:
        if self._built:
            raise GraphError(f"graph {self.name} has been built and is immutable; start a new Builder")


def _check_init(name: str, init: str | None) -> None:
    match = _INIT.match(init) if isinstance(init, str) else None
    if match is None:
        raise GraphError(f"{name}: init {init!r} is not zeros, ones, full(x) or normal(σ)")
    if match[2] is not None and not math.isfinite(float(match[2])):
        what = "a σ" if match[1] == "normal" else "a number"
        raise GraphError(f"{name}: init {init!r} has {what} beyond all floats; give a finite one")


def _at(at: str | None) -> str:
    return f" at {at}" if at else ""
