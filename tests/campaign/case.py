"""A case: a forward graph, sizes, and what is made of it; its arrays; and its text, from which it can be had again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphir as gi
from graphir.ir.dims import dim_names
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.operators import IGNORE
from graphir.passes import Optimizer, Plan, autodiff, mixed_precision, optimize, shard

KINDS = ("forward", "gradient", "training", "sharded")
#: A loss scale with which gradients, or their squares, overflow in every dtype.
OVERFLOW = 1e38
#: What of a case is made of its graph.
_MAKING = frozenset({"loss", "wrt", "precision", "scale", "dynamic", "optimizer", "guarded"})


@dataclass(frozen=True)
class Case:
    """What is run.

    kind       of the table's rows
    graph      as drawn: forward, on one rank; or, once shrunk so far, whatever it was made into
    sizes      of its dims
    seed       of its arrays
    loss       what is differentiated; None where nothing is
    wrt        by what
    precision  of its products: see `passes.mixed_precision`
    scale      what the loss is multiplied by before it is differentiated, moved by the updates if it is `dynamic`
    optimizer  what updates its parameters, as the arguments of `Optimizer`; None where nothing does
    guarded    whether a step whose gradients are no numbers leaves everything as it is
    mesh       the ranks that it is sharded over, none where it is not
    plan       how, by kind of entry and name
    """

    kind: str
    graph: Graph
    sizes: Mapping[str, int]
    seed: int
    loss: str | None = None
    wrt: tuple[str, ...] = ()
    precision: str = "float32"
    scale: float | None = None
    dynamic: bool = False
    optimizer: Mapping[str, Any] | None = None
    guarded: bool = False
    mesh: Mapping[str, int] = field(default_factory=dict)
    plan: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def overflows(self) -> bool:
        """Whether gradients are multiplied by so much that they are no numbers any more, or none that say anything."""
        return self.scale is not None and self.scale >= OVERFLOW

    @cached_property
    def program(self) -> Graph:
        """What runs on one rank: differentiated, with updates, as the case says."""
        graph = self.graph if self.precision == "float32" else mixed_precision(self.graph, self.precision)
        if self.loss is not None:
            graph = autodiff(graph, self.loss, list(self.wrt), loss_scale=self.scale, dynamic=self.dynamic)
        if self.optimizer is not None:
            trained = [value.name for value in graph.parameters if value.name in self.wrt]
            graph = optimize(graph, Optimizer(**self.optimizer), trained, self.guarded)
        return graph

    @cached_property
    def sharded(self) -> Graph:
        """`program` for the ranks of the mesh."""
        entries: dict[str, Any] = {kind: dict(splits) for kind, splits in self.plan.items()}
        plan = Plan("drawn", **entries)
        return gi.verify(shard(self.program, Mesh(dict(self.mesh)), plan, self.bound))

    @cached_property
    def bound(self) -> dict[str, int]:
        """The sizes of the dims that there are."""
        return self.bound_of(self.program)

    def bound_of(self, graph: Graph) -> dict[str, int]:
        """The sizes of the dims that a graph which passes have made of the program still has."""
        used = dim_names([graph.dims])
        return {name: size for name, size in self.sizes.items() if name in used}

    @cached_property
    def flat(self) -> Case:
        """The same program, as a graph that nothing more is made of."""
        plain = {each.name: each.default for each in fields(self) if each.name in _MAKING}
        return replace(self, graph=self.program, **plain)

    def arrays(self, again: int = 0) -> dict[str, NDArray[Any]]:
        """Content for every argument of the program; other content for each `again`."""
        found = _Contents(self.program, self.sizes, 1000 * self.seed + again)
        return {value.name: found.draw(value) for value in self.program.arguments}

    # -- text -----------------------------------------------------------------------------------------

    def to_text(self, **more: Any) -> str:
        """The graph's text, which `gi.parse` reads, below comments that say the rest, and `more`."""
        said = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "graph"}
        said |= {"sizes": self.bound} | more
        lines = [f"#: {name} = {json.dumps(value)}" for name, value in said.items()]
        return "\n".join(lines) + "\n\n" + gi.to_text(self.graph)


def read_text(text: str) -> tuple[Case, dict[str, Any]]:
    """The case that `to_text` wrote, and what more it was given."""
    said = {}
    for line in text.splitlines():
        if line.startswith("#: "):
            name, _, value = line[3:].partition(" = ")
            said[name] = json.loads(value)
    own = {name: said.pop(name) for name in Case.__dataclass_fields__ if name in said}
    own["wrt"] = tuple(own["wrt"])
    return Case(graph=gi.parse(text), **own), said


class _Contents:
    """Arrays for the arguments of a graph, each from its own name, so that it is the same in a smaller graph."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int], seed: int) -> None:
        self.sizes, self.seed = sizes, seed
        #: How many rows the values that index something may choose from: the fewest of all their uses.
        self.limits: dict[Value, int] = {}
        #: Second moments, which are squares, and what a root is taken of.
        self.squares: set[Value] = set()
        for node in graph.nodes:
            rule, factors, _ = node.inference
            for operand, value in zip(rule.inputs, node.inputs, strict=True):
                if operand.indexes is not None:
                    count = factors[operand.indexes].size(sizes)
                    self.limits[value] = min(count, self.limits.get(value, count))
                if node.operator.updates and operand.name == "v":
                    self.squares.add(value)

    def draw(self, value: Value) -> NDArray[Any]:
        rng = np.random.default_rng([self.seed, zlib.crc32(value.name.encode())])
        shape = tuple(dim.size(self.sizes) for dim in value.shape)
        if value.dtype == "bool":
            keep = rng.random(shape) < 0.7
            # Rows of which nothing is kept: a query that sees no key.
            return keep & (rng.random((*shape[:-1], 1)) < 0.8) if shape else keep
        if not value.type.is_float:
            name = value.name.rpartition("/")[2]
            limit = self.limits.get(value, 100) - name.startswith("few")
            ids = rng.integers(0, max(limit, 1), shape)
            return np.where(rng.random(shape) < 0.3, IGNORE, ids) if name.startswith(("label", "few")) else ids
        if value.init is not None and value.init.startswith("full("):
            return np.full(shape, float(value.init[5:-1]), value.dtype)
        array = 0.5 * rng.standard_normal(shape)
        return np.asarray(np.abs(array) if value in self.squares else array).astype(value.dtype)
