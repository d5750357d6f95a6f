"""Faults: what goes wrong with collectives and seeds in practice, done on purpose.

    drop         the collective is forgotten: each rank goes on with its own term, or its own block in all places
    double       the reduction is formed twice
    wrong axis   the collective runs over another axis of the mesh, or over one of several
    average      the reduction is divided by the number of its terms
    rank seed    a dropout node (and whoever makes its mask again) draws by seed + rank

Each is put twice. `mistyped` writes the program as if it had been so from the start, every type inferred anew from
there: what the type check makes of it. `FaultyExecutable` runs the right program with a collective that does wrong:
what the parity check makes of it when no type check stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir.backends import Executable, ExecutionPlan, Step
from graphir.backends.communicator import SimulatedCommunicator, Traffic
from graphir.cost import axes_of
from graphir.errors import GraphirError
from graphir.ir.builder import Builder
from graphir.ir.graph import FORWARD, Graph, Node
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.ir.verify import verify
from graphir.operators.collectives import all_reduce

KINDS = ("drop", "double", "wrong axis", "average", "rank seed")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: what, at which node, and the axes that it wrongly runs over, if it does."""

    kind: str
    node: Node
    axes: tuple[str, ...] = ()

    def __str__(self) -> str:
        over = f" over {' and '.join(self.axes)}" if self.axes else ""
        return f"{self.kind} {self.node.name}{over}"


def reduces(node: Node) -> bool:
    """Whether a collective forms a reduction (AR, RS) rather than move what is there."""
    return "reduce" in node.attributes


def faults_of(graph: Graph) -> Iterator[Fault]:
    """Every fault that can be put into `graph`: each collective in each way, each dropout node."""
    for node in graph.nodes:
        if node.operator.relayout is not None:
            yield Fault("drop", node)
            if reduces(node):
                yield Fault("double", node)
            other = _other_axes(node, graph.mesh)
            if other:
                yield Fault("wrong axis", node, other)
            if reduces(node):
                yield Fault("average", node)
        elif node.operator.random and node.meta.phase == FORWARD:
            yield Fault("rank seed", node)


def _other_axes(node: Node, mesh: Mesh) -> tuple[str, ...]:
    """An axis that the collective should not run over; the first of its own where it needs them all."""
    mine = axes_of(node)
    others = tuple(name for name in mesh.names if name not in mine)
    return others[:1] or (mine[:1] if len(mine) > 1 else ())


# -- as a program: what the type check says -----------------------------------------------------------------


def type_error(graph: Graph, fault: Fault) -> str | None:
    """What the type check says of the program with `fault` written into it; None if it passes.

    A rank's seed is no part of a program, so no type check sees it.
    """
    if fault.kind == "rank seed":
        return None
    try:
        faulty = verify(mistyped(graph, fault))
    except GraphirError as error:
        return str(error).splitlines()[0]
    for right, wrong in zip(graph.outputs, faulty.outputs, strict=True):
        if right.type != wrong.type:
            return f"output {wrong.name} is {wrong.type}, promised as {right.type}"
    return None


def mistyped(graph: Graph, fault: Fault) -> Graph:
    """`graph` with `fault` written into it, types inferred from what stands there.

    TypeCheckError where an operator does not take what it is now given.
    """
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    for node in graph.nodes:
        meta = node.meta
        inputs = [copies[value] for value in node.inputs]
        with builder.context(scope=meta.scope, phase=meta.phase, of=meta.of, at=meta.at, why=meta.why):
            names = [f"/{value.name}" for value in node.outputs]
            if node is not fault.node:
                made = builder.emit(node.operator, inputs, node.attributes, names)
            elif fault.kind == "drop":
                made = (inputs[0],)
            else:
                made = _emit_fault(builder, fault, inputs, names)
        copies.update(zip(node.outputs, made, strict=True))
    return builder.build(*(copies[value] for value in graph.outputs))


def _emit_fault(builder: Builder, fault: Fault, inputs: Sequence[Value], names: Sequence[str]) -> tuple[Value, ...]:
    node, attributes = fault.node, dict(fault.node.attributes)
    if fault.kind == "double":
        settled = {"axes": axes_of(node), "reduce": attributes["reduce"]}
        once = builder.emit(all_reduce, inputs, settled, f"{names[0]}.once")
        return builder.emit(node.operator, once, attributes, names)
    if fault.kind == "average":
        return builder.emit(node.operator, inputs, {**attributes, "reduce": "mean"}, names)
    where = {"axes": fault.axes} if "axes" in attributes else {"axis": fault.axes[0]}
    return builder.emit(node.operator, inputs, {**attributes, **where}, names)


# -- as a run: what the parity check says -------------------------------------------------------------------


class FaultyExecutable(Executable):
    """Runs a right program, with one collective, or one dropout node's seed, wrong."""

    def __init__(self, plan: ExecutionPlan, fault: Fault) -> None:
        super().__init__(plan)
        self.fault = fault

    def apply(self, step: Step, operands: Sequence[Any], rank: int) -> tuple[Any, ...]:
        fault = self.fault
        if fault.kind == "rank seed" and self._draws_alike(step.node):
            position = step.node.operator.operands.index("seed")
            shifted = np.asarray(operands[position]) + rank
            operands = [shifted if i == position else each for i, each in enumerate(operands)]
        return super().apply(step, operands, rank)

    def _draws_alike(self, node: Node) -> bool:
        """Whether `node` draws the faulty node's mask: itself, or what makes the mask again."""
        return node.operator.random and node.attributes["key"] == self.fault.node.attributes["key"]

    def exchange(self, step: Step, blocks: Sequence[Any]) -> tuple[list[Any], Traffic]:
        if step.node.name != self.fault.node.name:
            return super().exchange(step, blocks)
        made = _WRONG[self.fault.kind](self, step, [np.asarray(block) for block in blocks])
        return made, Traffic.none(self.mesh.size)

    def over(self, step: Step, blocks: Sequence[Any], **changes: Any) -> list[Any]:
        """The step's collective with keywords changed."""
        communicator = SimulatedCommunicator(self.mesh, self.algorithm)
        keywords: Mapping[str, Any] = {**step.keywords, **changes}
        return communicator.run(step.node.operator, blocks, keywords)


def _drop(run: FaultyExecutable, step: Step, blocks: list[Any]) -> list[Any]:
    """Each rank's own: its term, or its block, tiled or cut to the shape that the next node expects."""
    shape = run.plan.shapes[step.node.outputs[0]]
    return [_fit(block, shape) for block in blocks]


def _fit(block: Any, shape: Sequence[int]) -> Any:
    """`block` with each dim repeated or cut to `shape`: the first part, where a rank should have picked its own."""
    for dim, size in enumerate(shape):
        if block.shape[dim] < size:
            block = np.concatenate([block] * -(-size // block.shape[dim]), axis=dim)
        block = block.take(range(size), axis=dim)
    return block


def _double(run: FaultyExecutable, step: Step, blocks: list[Any]) -> list[Any]:
    communicator = SimulatedCommunicator(run.mesh, run.algorithm)
    return run.over(step, communicator.all_reduce(blocks, axes_of(step.node), step.keywords["reduce"]))


def _average(run: FaultyExecutable, step: Step, blocks: list[Any]) -> list[Any]:
    return run.over(step, blocks, reduce="mean")


def _wrong_axis(run: FaultyExecutable, step: Step, blocks: list[Any]) -> list[Any]:
    shape = run.plan.shapes[step.node.outputs[0]]
    key = {"axes": run.fault.axes} if "axes" in step.keywords else {"axis": run.fault.axes[0]}
    dim = step.keywords.get("dim", step.keywords.get("target"))
    cuts = dim is not None and shape[dim] < blocks[0].shape[dim]
    if cuts and blocks[0].shape[dim] % run.mesh.count(run.fault.axes):
        return [_fit(block, shape) for block in blocks]  # it cannot be cut so; each keeps its first part
    return [_fit(block, shape) for block in run.over(step, blocks, **key)]


_WRONG = {"drop": _drop, "double": _double, "average": _average, "wrong axis": _wrong_axis}
