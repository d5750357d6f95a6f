"""What a plan says of one graph: how arguments are stored and used, and which values are pinned."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from graphir.errors import LayoutError
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Layout, Mesh
from graphir.ir.value import Value
from graphir.passes.patterns import cast
from graphir.passes.sharding.laying import DimRules
from graphir.passes.sharding.logical import LogicalDims
from graphir.passes.sharding.maps import maps_of
from graphir.passes.sharding.plans import Plan, is_map, is_meant
from graphir.passes.sharding.residual import residual_stream
from graphir.passes.sharding.splits import Pin, read_pin, read_splits, speaks_of
from graphir.passes.sharding.subaxes import take_apart

Names: TypeAlias = Mapping[Value, tuple[str, ...]]

#: So many names of what a graph has are told where a plan names none of it.
_SHOWN = 6


@dataclass
class Given:
    """Layouts that are given, before any is inferred.

    mesh     the mesh that they speak of: as it was, or with an axis taken apart (`subaxes`)
    names    what the plan's entries mean each value by: its names, then its maps
    rules    how the plan's dims lie
    stored   of every argument, as a rank keeps it
    used     of a parameter, as the nodes that read it want it (ZeRO-3: gathered); of its cast, too
    pinned   of other values, as they are brought to right after they are made
    """

    mesh: Mesh
    names: Names
    rules: DimRules
    stored: dict[Value, Layout] = field(default_factory=dict)
    used: dict[Value, Layout] = field(default_factory=dict)
    pinned: dict[Value, Pin] = field(default_factory=dict)


def read_plan(graph: Graph, nodes: Sequence[Node], mesh: Mesh, plan: Plan, sizes: Sizes | None) -> Given:
    """What `plan` gives for `graph`; LayoutError if it names only what the graph lacks."""
    return _Reader(graph, nodes, mesh, plan, sizes).read()


class _Reader:
    def __init__(self, graph: Graph, nodes: Sequence[Node], mesh: Mesh, plan: Plan, sizes: Sizes | None) -> None:
        self.graph, self.nodes, self.plan, self.sizes = graph, nodes, plan, sizes
        logical = LogicalDims(nodes if plan.lies or plan.speaks_of_maps else ())
        self.names = _names(graph, maps_of(nodes, graph.parameters, logical) if plan.speaks_of_maps else {})
        self.mesh = take_apart(mesh, plan, graph.arguments, logical, sizes)
        self.rules = DimRules(plan, self.mesh, logical)
        self.given = Given(self.mesh, self.names, self.rules)

    def read(self) -> Given:
        graph, given = self.graph, self.given
        for value in graph.inputs:
            given.stored[value] = self._layout("inputs", value)
        for value in graph.parameters:
            given.stored[value] = self._layout("parameters", value)
            given.used[value] = self._used(value)
        for node in self.nodes:
            # What is read in another dtype is the parameter all the same.
            if cast(node) and node.inputs[0] in given.used:
                given.used[node.outputs[0]] = given.used[node.inputs[0]]
        self._place_state()
        self._pin_activations()
        for node in self.nodes:
            for old, new in node.updates:
                given.pinned[new] = Pin.to(given.stored[old], self.mesh)
        self._pin_gradients()
        self._require_dims()
        self._require_use("inputs", graph.inputs)
        self._require_use("parameters", graph.parameters)
        self._require_use("used", graph.parameters)
        self._require_use("activations", given.pinned)
        return given

    def _layout(self, kind: str, value: Value) -> Layout:
        splits = self.plan.matches(kind, self.names[value])
        lying, products = self.rules.lay(value), self.rules.products(value)
        return read_splits(value, splits, self.mesh, self.sizes, lying, products)

    def _used(self, value: Value) -> Layout:
        stored = self.given.stored[value]
        for split in self.plan.matches("used", self.names[value]):
            if not split.startswith("-"):
                return read_splits(value, [split], self.mesh, self.sizes)
            dropped = self.mesh.parts(split[1:])
            stored = Layout([tuple(axis for axis in axes if axis not in dropped) for axes in stored.splits])
        return stored

    def _place_state(self) -> None:
        """State lies as the parameter that is updated beside it, split further where the plan says so."""
        owners = {old: node.updates[0][0] for node in self.nodes for old, _ in node.updates}
        for value in self.graph.state:
            beside = self.given.stored.get(owners.get(value, value))
            splits = self.plan.matches("state", self.names[value])
            base = self.rules.lay(value) if beside is None else beside.splits
            self.given.stored[value] = read_splits(value, splits, self.mesh, self.sizes, base)

    def _pin_activations(self) -> None:
        """`activations` and `residual` entries; an input of the stream lies so from the start."""
        stream = residual_stream(self.nodes) if self.plan.entries("residual") else {}
        for value in self.names:
            splits = self.plan.matches("activations", self.names[value]) if value not in self.given.stored else []
            if value in stream:
                splits = [*self.plan.matches("residual", self.names[value]), *splits]
            if splits:
                pin, stored = read_pin(value, splits, self.mesh, self.sizes), self.given.stored.get(value)
                if stored is None:
                    self.given.pinned[value] = pin
                else:
                    self.given.stored[value] = pin.apply(stored)
        if self.plan.entries("residual") and not stream:
            raise LayoutError(
                f"plan {self.plan.name} splits the residual stream, but graph {self.graph.name} has none: nothing is "
                "added to what it is made of; pin what is meant by its name, as in activations={'Y': 'S|tp'}"
            )
        self._require_use("residual", stream)

    def _pin_gradients(self) -> None:
        """`gradients` entries: what an update reads beside the parameter and its state lies as the parameter."""
        for pattern, split in self.plan.entries("gradients"):
            if split != "=":
                raise LayoutError(
                    f"plan {self.plan.name} wants {split} of gradients {pattern}; of gradients it can only say =, "
                    f"as the parameter is stored"
                )
        for node in self.nodes:
            for old, _ in node.updates[:1]:
                if old in self.given.used and self.plan.matches("gradients", self.names[old]):
                    for value in node.inputs:
                        if value.shape == old.shape and value not in self.given.stored:
                            self.given.pinned[value] = Pin.to(self.given.stored[old], self.mesh)

    def _require_dims(self) -> None:
        """An axis over whose dims nothing lies is a mistake: its ranks would all do the same."""
        lying = {axis for layout in self.given.stored.values() for axis in layout.split_axes}
        pinned = {axis for pin in self.given.pinned.values() for _, axes in pin.splits for axis in axes}
        for axis, dims in self.plan.entries("dims"):
            if not (lying | pinned).intersection(self.mesh.parts(axis)):
                found = dict.fromkeys(str(dim) for value in self.graph.arguments for dim in value.shape if dim.names)
                others = f"; they have {_some(list(found))}: say which of them {axis} shall split" if found else ""
                example = f", as in {axis}:{list(found)[-1]}" if found else ""
                raise LayoutError(
                    f"plan {self.plan.name} lays {dims} over {axis}, but the arguments of graph {self.graph.name} have "
                    f"no such dim{others}{example}"
                )

    def _require_use(self, kind: str, values: Collection[Value]) -> None:
        """A plan that speaks of nothing in the graph is a mistake; one entry that matches shows it is meant."""
        entries = self.plan.entries(kind)
        # What only says where dims are not to lie need not be there, nor what is found by dims, if others are, too.
        optional = ("inputs", "parameters")
        needed = [
            (pattern, split)
            for pattern, split in entries
            if not (kind in optional and split.startswith("-")) and not (is_map(pattern) and self.plan.lies)
        ]
        if needed and not any(self.plan.matches(kind, self.names[value]) for value in values):
            patterns = ", ".join(pattern for pattern, _ in entries)
            known = [self.names[value][0] for value in values]
            others = f"; it has {_some(known)}" if known else ""
            raise LayoutError(
                f"plan {self.plan.name} names {kind} {patterns}, but graph {self.graph.name} has none such{others}"
            )
        for pattern, split in entries:
            found = [value for value in values if is_meant(pattern, self.names[value])]
            exact = not (is_map(pattern) or any(letter in pattern for letter in "*?["))
            if exact and not found:
                raise LayoutError(f"plan {self.plan.name} names {kind} {pattern}, which graph {self.graph.name} lacks")
            if found and not any(speaks_of(split, value) for value in found):
                raise LayoutError(
                    f"plan {self.plan.name} wants {split} of {kind} {pattern}, but none has that dim: "
                    f"{found[0].name} is {found[0].type}"
                )


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{', …' * (len(names) > _SHOWN)}"


def _names(graph: Graph, maps: Mapping[Value, Sequence[str]]) -> Names:
    """Each value with its name, its aliases and its maps: what a plan's patterns are matched with."""
    names = {value: [value.name] for value in graph.values.values()}
    for alias, value in graph.aliases.items():
        names[value].append(alias)
    return {value: (*each, *maps.get(value, ())) for value, each in names.items()}
