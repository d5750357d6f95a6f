"""From a case that departs to the smallest that does: delta debugging, deterministic, always forward.

A *step* is a smaller case or a simpler way that is tried; it is taken if what runs departs still, by the same kind of
fault. Steps are tried from those that remove most to those that remove least, round after round, until no step is
taken or as many have been tried as may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from graphir.backends.compiled.tiles import Tiling
from graphir.backends.numpy.engine import NumpyEngine
from graphir.errors import GraphirError
from graphir.ir.builder import Builder
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from tests.campaign.case import Case
from tests.campaign.trial import Departure, Reference, UnfitError, attempt
from tests.campaign.ways import Way

_T = TypeVar("_T")
#: How many steps are tried at most.
MOST_TRIED = 800


@dataclass(frozen=True)
class Found:
    """A case that departs, the way in which it does, and how."""

    case: Case
    way: Way
    departure: Departure

    @property
    def key(self) -> tuple[str, ...]:
        """What two departures of one cause have in common, as a rule: the fault, and the operators in their order."""
        return self.departure.fault, *(node.operator.key for node in self.case.program.nodes)


def shrink(found: Found, run: Callable[[Case, Way], Departure | None] | None = None, most: int = MOST_TRIED) -> Found:
    """The smallest that departs by the same kind of fault; `run` says how a case departs, `attempt` unless given."""
    left = most
    best = found

    def taken(case: Case, way: Way) -> bool:
        nonlocal left, best
        if left <= 0 or (case, way) == (best.case, best.way):
            return False
        left -= 1
        try:
            known = Reference(case)
            known.values()
        except Exception:  # no such graph can be made, or it says nothing
            return False
        try:
            departure = attempt(case, way, known).departure if run is None else run(case, way)
        except UnfitError:
            return False
        if departure is None or departure.fault != found.departure.fault:
            return False
        best = Found(case, way, departure)
        return True

    progress = True
    while progress and left > 0:
        progress = False
        for steps in (_simpler_cases, _fewer_results, _fewer_nodes, _fewer_operands, _simpler_ways, _smaller_sizes):
            progress |= _take_all(steps, lambda: best, taken)
    return best


_Steps = Callable[[Case, Way], Iterator[tuple[Case, Way]]]


def _take_all(steps: _Steps, best: Callable[[], Found], taken: Callable[[Case, Way], bool]) -> bool:
    """Whether any of the steps was taken; after one that is, it goes on at the same place with what that led to."""
    progress, tried, again = False, 0, True
    while again:
        again = False
        now = best()
        for number, (case, way) in enumerate(_makeable(steps(now.case, now.way))):
            if number >= tried and taken(case, way):
                progress = again = True
                break
            tried = max(tried, number + 1)
    return progress


def _makeable(steps: Iterator[tuple[Case, Way]]) -> Iterator[tuple[Case, Way]]:
    """The steps up to the first that is refused where it is made."""
    try:
        yield from steps
    except GraphirError:
        return


# -- cases ------------------------------------------------------------------------------------------------


def _simpler_cases(case: Case, way: Way) -> Iterator[tuple[Case, Way]]:
    """Without a mesh, an optimizer, gradients; at last the program as a graph that nothing is made of."""
    if case.mesh:
        if not way.is_sharded:
            yield replace(case, mesh={}, plan={}), way
        for axis in case.mesh:
            mesh = {name: count for name, count in case.mesh.items() if name != axis}
            if mesh:
                yield replace(case, mesh=mesh, plan=_without_axis(case.plan, axis)), way
        for kind, entries in case.plan.items():
            for name in entries:
                fewer = {each: split for each, split in entries.items() if each != name}
                yield replace(case, plan={**case.plan, kind: fewer}), way
    if case.loss is not None:
        forward = replace(case, loss=None, wrt=(), optimizer=None, guarded=False, scale=None, dynamic=False)
        yield forward, replace(way, donate=False)
    if case.flat.graph is not case.graph:
        yield case.flat, way
    if case.scale is not None:
        yield replace(case, scale=None, dynamic=False), way
    if case.optimizer is not None:
        yield replace(case, optimizer=None, guarded=False, scale=None, dynamic=False), replace(way, donate=False)
        yield replace(case, optimizer={"kind": "sgd"}), way
    for name in case.wrt:
        if len(case.wrt) > 1:
            yield replace(case, wrt=tuple(each for each in case.wrt if each != name)), way
    if case.precision != "float32":
        yield replace(case, precision="float32"), way


def _without_axis(plan: Mapping[str, Mapping[str, str]], axis: str) -> dict[str, dict[str, str]]:
    return {
        kind: {name: split.replace(f"|{axis}", "") for name, split in entries.items() if split != f"-{axis}"}
        for kind, entries in plan.items()
    }


def _smaller_sizes(case: Case, way: Way) -> Iterator[tuple[Case, Way]]:
    for name, size in case.bound.items():
        for smaller in dict.fromkeys((1, 2, 3, size // 2, size - 1)):
            if 0 < smaller < size:
                yield replace(case, sizes={**case.sizes, name: smaller}), way


# -- ways -------------------------------------------------------------------------------------------------


def _simpler_ways(case: Case, way: Way) -> Iterator[tuple[Case, Way]]:
    """Fewer threads, fewer passes left out, the engine's own tiling or more of it."""
    plain = Way(way.executor)
    for name in (each.name for each in dataclasses.fields(way) if each.name not in ("executor", "threads")):
        if getattr(way, name) != getattr(plain, name):
            yield case, replace(way, **{name: getattr(plain, name)})
    for threads in (1, 2, 3):
        if threads < way.threads:
            yield case, replace(way, threads=threads)
    for name in way.without:
        yield case, replace(way, without=tuple(each for each in way.without if each != name))
    if way.fetch is not None and len(way.fetch) > 1:
        yield from ((case, replace(way, fetch=some)) for some in _parts(way.fetch))
    if way.executor in ("numba", "compiled ranks", "ranks apart"):
        yield case, replace(way, executor="compiled", bucket=None)
    if way.tiling is not None:
        yield from ((case, replace(way, tiling=tiling)) for tiling in _simpler_tilings(way.tiling))


def _simpler_tilings(tiling: Tiling) -> Iterator[Tiling]:
    usual = NumpyEngine.tiling
    for each in dataclasses.fields(tiling):
        if each.name != "seed" and getattr(tiling, each.name) != getattr(usual, each.name):
            yield replace(tiling, **{each.name: getattr(usual, each.name)})


# -- graphs -----------------------------------------------------------------------------------------------


def _fewer_results(case: Case, way: Way) -> Iterator[tuple[Case, Way]]:
    """What one node makes alone, the first nodes first, for these are soon tried; what is fetched as the outputs."""
    if case.loss is None and len(case.graph.nodes) > 1:
        for node in case.graph.nodes[:-1]:
            for value in node.outputs:
                yield replace(case, graph=rebuilt(case.graph, [value])), replace(way, fetch=None)
    if way.fetch is not None:
        if all(name in case.graph.values for name in way.fetch):
            wanted = [case.graph[name] for name in way.fetch]
            yield replace(case, graph=rebuilt(case.graph, wanted)), replace(way, fetch=None)
        return
    if len(case.graph.outputs) > 1:
        for some in _parts(case.graph.outputs):
            yield _with(case, way, rebuilt(case.graph, some))


def _parts(items: Sequence[_T]) -> Iterator[tuple[_T, ...]]:
    """Halves, quarters and so on, and what is left without each; the largest cuts first."""
    count = 2
    while True:
        size = -(-len(items) // count)
        for start in range(0, len(items), size):
            yield tuple(items[start : start + size])
        if count > 2:
            for start in range(0, len(items), size):
                yield (*items[:start], *items[start + size :])
        if size == 1:
            return
        count *= 2


def _fewer_nodes(case: Case, way: Way) -> Iterator[tuple[Case, Way]]:
    """Each node left out: its results are an operand of their type, or a new input."""
    graph = case.graph
    for node in reversed(graph.nodes):
        for value in node.outputs:
            for operand in dict.fromkeys(node.inputs):
                if operand.type == value.type and value not in graph.outputs:
                    yield _with(case, way, rebuilt(graph, graph.outputs, {value: operand}))
        if not any(value in graph.outputs for value in node.outputs):
            yield _with(case, way, rebuilt(graph, graph.outputs, dict.fromkeys(node.outputs)))
    for node in graph.nodes:
        # A result that is only passed on: what it is made of is the result.
        if node.outputs[0] in graph.outputs and node.inputs:
            for operand in dict.fromkeys(node.inputs):
                rest = [value for value in graph.outputs if value not in node.outputs]
                yield _with(case, way, rebuilt(graph, [*rest, operand]))


def _fewer_operands(case: Case, way: Way) -> Iterator[tuple[Case, Way]]:
    """A sum of fewer terms; and one operand in place of another of its type."""
    graph = case.graph
    for node in graph.nodes:
        if node.operator.variadic and len(node.inputs) > 1:
            for gone in range(len(node.inputs)):
                terms = [value for i, value in enumerate(node.inputs) if i != gone]
                yield _with(case, way, rebuilt(graph, graph.outputs, operands={node: terms}))


def _with(case: Case, way: Way, graph: Graph) -> tuple[Case, Way]:
    """The case on another graph, of which what is still there is fetched."""
    made = replace(case, graph=graph)
    if way.fetch is None:
        return made, way
    return made, replace(way, fetch=tuple(name for name in way.fetch if name in made.program.values) or None)


def rebuilt(
    graph: Graph,
    outputs: Sequence[Value],
    instead: Mapping[Value, Value | None] | None = None,
    operands: Mapping[Node, Sequence[Value]] | None = None,
) -> Graph:
    """`graph` with these outputs, and no more than they need.

    What is read of `instead` is what that gives for it, or a new input of its type and name where it gives None;
    `operands` are those of some nodes in place of their own.
    """
    instead, operands = instead or {}, operands or {}
    needed: dict[Value, None] = {}
    waiting = list(outputs)
    while waiting:
        value = _final(waiting.pop(), instead)
        if value not in needed:
            needed[value] = None
            node = graph.producers.get(value)
            if node is not None and value not in instead:
                waiting.extend(operands.get(node, node.inputs))
    builder = Builder(graph.name, mesh=graph.mesh)
    copies: dict[Value, Value] = {}
    for value in (*graph.inputs, *(each for each in needed if each in instead)):
        if value in needed:
            copies[value] = builder.input(f"/{value.name}", value.shape, value.dtype)
    for kind, values in ((builder.parameter, graph.parameters), (builder.state, graph.state)):
        for value in values:
            if value in needed:
                copies[value] = kind(f"/{value.name}", value.shape, value.dtype, value.init or "zeros")
    for node in graph.nodes:
        made = [value for value in node.outputs if value in needed and value not in instead]
        if not made:
            continue
        given = [copies[_final(value, instead)] for value in operands.get(node, node.inputs)]
        names = [f"/{builder.free_name(value.name)}" for value in node.outputs]
        results = builder.emit(node.operator, given, node.attributes, names, node.meta)
        copies.update(
            (value, result) for value, result in zip(node.outputs, results, strict=True) if value not in instead
        )
    return builder.build(*(copies[_final(value, instead)] for value in outputs))


def _final(value: Value, instead: Mapping[Value, Value | None]) -> Value:
    while (other := instead.get(value)) is not None:
        value = other
    return value
