"""The plan of a graph for given sizes: the order of steps, their bound kernels' arguments, who dies when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphir.backends.dtypes import require_dtypes
from graphir.errors import DimError
from graphir.ir.analysis import last_uses, needed_nodes
from graphir.ir.dims import Dim
from graphir.ir.extent import bind_sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Mesh
from graphir.ir.operator import Operator, Place
from graphir.ir.types import TensorType
from graphir.ir.value import Value


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One kernel call: which slots it reads (None for an operand the node does not have), which it fills.

    `results` are the positions of the node's outputs among the kernel's. `dying` slots are freed after it.
    """

    node: Node
    operands: tuple[int | None, ...]
    results: tuple[int, ...]
    outputs: tuple[int, ...]
    keywords: Mapping[str, Any]
    #: Where each rank's blocks lie, for a kernel that asks.
    places: Places | None
    #: Operands whose integers have bounds: slot, position, how many there are to index (None: no end), who is exempt.
    indices: tuple[tuple[int, int, int | None, int | None], ...]
    dying: tuple[int, ...]

    def mistake(self, results: tuple[Any, ...], shapes: Mapping[Value, tuple[int, ...]]) -> str:
        """Which of a kernel's results is not what its signature says, blocks having these shapes; empty if all are."""
        for position, value in zip(self.results, self.node.outputs, strict=True):
            made: Any = results[position] if position < len(results) else None
            shape, kind = getattr(made, "shape", None), getattr(made, "dtype", None)
            if shape != shapes[value] or kind != value.dtype:
                found = "nothing" if made is None else f"{kind or type(made).__name__}{list(shape or ())}"
                wanted = f"{value.type} = {value.dtype}{list(shapes[value])}"
                return f"made {found} for {value.name}, which its signature makes {wanted}"
        return ""


class Indexed(NamedTuple):
    """A node's operand whose integers have bounds: those below `end` (None: no end), and who is exempt."""

    node: Node
    position: int
    value: Value
    end: int | None
    exempt: int | None


@dataclass(frozen=True)
class ExecutionPlan:
    """Everything about a run that follows from graph and sizes. `shapes` are those of one rank's blocks."""

    graph: Graph
    sizes: Mapping[str, int]
    slots: Mapping[Value, int]
    shapes: Mapping[Value, tuple[int, ...]]
    steps: tuple[Step, ...]

    def indexed(self, values: Iterable[Value]) -> list[Indexed]:
        """The operands among `values` whose integers have bounds."""
        among = {self.slots[value]: value for value in values if value in self.slots}
        return [
            Indexed(step.node, position, among[slot], count, exempt)
            for step in self.steps
            for slot, position, count, exempt in step.indices
            if slot in among
        ]


def plan(graph: Graph, sizes: Mapping[str, int]) -> ExecutionPlan:
    """Plans `graph` under `sizes` (dim names to numbers; defined dims follow).

    DimError if a dim has no size, does not divide, or a size belongs to no dim of the graph.
    """
    return plan_complete(graph, bind_sizes(graph, sizes))


def plan_complete(graph: Graph, complete: Mapping[str, int]) -> ExecutionPlan:
    """As `plan`, with a size for every dim, of nodes inside fused ones, too."""
    nodes = needed_nodes(graph, graph.outputs)
    values = [*graph.arguments, *(value for node in nodes for value in node.outputs)]
    require_dtypes(values)
    slots = {value: slot for slot, value in enumerate(values)}
    shapes = {value: local_shape(value, graph.mesh, complete) for value in values}
    # Arguments belong to the caller, outputs are returned: neither is freed.
    dying = last_uses(nodes, {*graph.outputs, *graph.arguments})
    steps = tuple(
        _step(node, graph.mesh, slots, shapes, complete, dead) for node, dead in zip(nodes, dying, strict=True)
    )
    return ExecutionPlan(graph, complete, slots, shapes, steps)


def local_shape(value: Value, mesh: Mesh, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """One rank's block of `value`, in numbers; DimError, naming dim and axes, if a dim cannot be split evenly."""
    shape = []
    for dim, axes in zip(value.shape, value.type.layout.splits, strict=True):
        size, count = dim.size(sizes), mesh.count(axes)
        if size % count:
            over = " and ".join(f"{axis}={mesh.sizes[axis]}" for axis in axes)
            raise DimError(
                f"{dim} = {size} of {value.name} {value.type} cannot be split evenly over {over}; "
                f"choose {dim} as a multiple of {count}, or another mesh"
            )
        shape.append(size // count)
    return tuple(shape)


def require_even(graph: Graph, sizes: Mapping[str, int]) -> None:
    """DimError, naming dim and axes, if ranks cannot split a dim evenly; `sizes` have those of the mesh."""
    seen = set[TensorType]()
    for value in graph.values.values():
        if value.type not in seen:
            seen.add(value.type)
            local_shape(value, graph.mesh, sizes)


class Places(dict[int, Place]):
    """Where each rank's blocks of a node lie, whose factors have these sizes; worked out for ranks as they ask."""

    def __init__(self, node: Node, mesh: Mesh, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self._rule, self._mesh, self._sizes = node.inference.rule, mesh, sizes
        self._known = node.operator.known_factors
        self._assignment = node.assignment

    def __missing__(self, rank: int) -> Place:
        found = self[rank] = self.at(self._mesh.coordinates(rank))
        return found

    def at(self, coordinates: Mapping[str, Any]) -> Place:
        """Where they lie on the rank of these coordinates, which may be numbers that are known only when it runs."""
        mesh, starts = self._mesh, dict[str, Any]()
        for factor, axes in self._assignment.items():
            index = 0
            for axis in axes:
                index = index * mesh.sizes[axis] + coordinates[axis]
            starts[factor] = index * (self._sizes[factor] // mesh.count(axes))
        return Place(self._rule, starts, self._sizes, self._known)


def _step(
    node: Node,
    mesh: Mesh,
    slots: Mapping[Value, int],
    shapes: Mapping[Value, tuple[int, ...]],
    sizes: Mapping[str, int],
    dead: tuple[Value, ...],
) -> Step:
    operator, (rule, factors, _) = node.operator, node.inference
    by_name = dict(zip((o.name for o in rule.inputs), node.inputs, strict=True))
    if operator.variadic:
        operands: tuple[int | None, ...] = tuple(slots[value] for value in node.inputs)
    else:
        operands = tuple(slots[by_name[name]] if name in by_name else None for name in operator.operands)
    bound = {factor: dim.size(sizes) for factor, dim in factors.items()}
    exempt = None if operator.exempt is None else node.attributes[operator.exempt]
    indices = tuple(
        (slots[value], i, None if o.indexes is None else bound[o.indexes], exempt)
        for i, (o, value) in enumerate(zip(rule.inputs, node.inputs, strict=True))
        if o.is_bounded
    )
    given = keywords(node, shapes, sizes)
    if operator.requires is not None:
        operator.requires(bound, given)
    return Step(
        node,
        operands,
        _positions(operator, node),
        tuple(slots[value] for value in node.outputs),
        given,
        Places(node, mesh, bound) if "at" in operator.keywords else None,
        indices,
        tuple(slots[value] for value in dead),
    )


def keywords(node: Node, shapes: Mapping[Value, tuple[int, ...]], sizes: Mapping[str, int]) -> dict[str, Any]:
    """The kernel's keywords: attributes with their dims in numbers, and what else it asks for."""
    keywords = {name: _number(value, sizes) for name, value in node.attributes.items() if name not in ("only", "split")}
    if "shape" in node.operator.keywords:
        keywords["shape"] = shapes[node.outputs[0]]
    if "only" in node.operator.keywords:
        keywords["only"] = tuple(o.name for o in node.inference.rule.outputs)
    return keywords


def _number(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, Dim):
        return value.size(sizes)
    if isinstance(value, tuple):
        return tuple(_number(each, sizes) for each in value)
    return value


def _positions(operator: Operator, node: Node) -> tuple[int, ...]:
    """Where the node's outputs stand among all that the kernel returns."""
    if "only" not in node.attributes:
        return tuple(range(len(node.outputs)))
    full = [o.name for o in operator.signatures({**node.attributes, "only": None})[0].outputs]
    return tuple(full.index(o.name) for o in node.inference.rule.outputs)
