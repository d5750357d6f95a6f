"""The function of a graph: its nodes in their order, each the call of its kernel on what JAX traces.

On a mesh it is the program of one rank: `shard_map` has every device run it on its own blocks, collectives are JAX's,
and where a kernel asks for its place, that follows from the device's coordinates.

What the graph computes twice on purpose (a softmax made again, a parameter gathered again for the backward pass) XLA
would find and compute once, and hold what was to be let go. A barrier before the second keeps the two apart, where
XLA's compiler keeps it: that for CPUs takes barriers away before it looks for what is alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphir.backends.plan import ExecutionPlan, Step
from graphir.backends.xla.collectives import Collectives
from graphir.backends.xla.library import first_line, load_jax
from graphir.backends.xla.module import XlaModule
from graphir.backends.xla.products import PRODUCTS
from graphir.backends.xla.trial import departure, is_foreign
from graphir.errors import GraphirError, OperatorError
from graphir.ir.graph import Node
from graphir.ir.operator import Array
from graphir.ir.value import Value


class Program:
    """`program({name: block})` returns the blocks of `wanted`, of one rank."""

    def __init__(self, plan: ExecutionPlan, wanted: Sequence[Value]) -> None:
        self.plan, self.wanted = plan, tuple(wanted)
        self._xp = XlaModule()
        self._mesh = plan.graph.mesh
        self._collectives = Collectives(self._mesh)
        self._again = _made_again(plan)
        tried = {_call(step, plan): step for step in reversed(plan.steps)}
        for step in reversed(tried.values()):
            self._require_alike(step)

    def __call__(self, blocks: Mapping[str, Array]) -> tuple[Array, ...]:
        jax, slots = load_jax(), self.plan.slots
        held: list[Any] = [None] * len(slots)
        for value in self.plan.graph.arguments:
            held[slots[value]] = blocks[value.name]
        for step in self.plan.steps:
            operands = [None if slot is None else held[slot] for slot in step.operands]
            if step in self._again:
                operands = list(jax.lax.optimization_barrier(tuple(operands)))
            with jax.named_scope(step.node.name):
                results = self._carried_out(step, operands)
            for position, slot in zip(step.results, step.outputs, strict=True):
                held[slot] = results[position]
        return tuple(held[slots[value]] for value in self.wanted)

    def _require_alike(self, step: Step) -> None:
        """OperatorError for a node that means something else to XLA, or nothing."""
        node = step.node
        if any(value.dtype == "text" for value in node.inputs):
            raise OperatorError(_cannot(node, "it reads text, which XLA does not have: hand in ids instead"))
        why = departure(step, self.plan, self._xp) if is_foreign(node.operator) else ""
        if why:
            raise OperatorError(_refusal(node, why))

    def _carried_out(self, step: Step, operands: Sequence[Any]) -> tuple[Any, ...]:
        """What a node makes of its operands."""
        operator = step.node.operator
        if operator.collective is not None:
            return (self._collectives[operator.collective](operands[0], **step.keywords),)
        kernel, keywords = PRODUCTS.get(operator), dict(step.keywords)
        if kernel is None:
            kernel, operands = operator.kernel, (self._xp, *operands)
        if step.places is not None:
            index = {axis: load_jax().lax.axis_index(axis) for axis in self._mesh.names}
            keywords["at"] = step.places.at(index)
        try:
            made = kernel(*operands, **keywords)
        except GraphirError:
            raise
        except Exception as error:
            raise OperatorError(
                _refusal(step.node, f"it raised {type(error).__name__}: {first_line(error)}")
            ) from error
        return self._checked(step, made if isinstance(made, tuple) else (made,))

    def _checked(self, step: Step, made: tuple[Any, ...]) -> tuple[Any, ...]:
        """A kernel's results, which are what its signature says."""
        mistake = step.mistake(made, self.plan.shapes)
        if mistake:
            raise OperatorError(_refusal(step.node, f"it {mistake}"))
        # A node may leave out results, which a kernel then need not make.
        return tuple(each if each is None else load_jax().numpy.asarray(each) for each in made)


def _made_again(plan: ExecutionPlan) -> frozenset[Step]:
    """The steps that compute what one before has computed: so the graph has it, on purpose."""
    known: dict[tuple[object, ...], tuple[int, ...]] = {}
    same: dict[int, int] = {}
    found = set()
    for step in plan.steps:
        operands = tuple(None if slot is None else same.get(slot, slot) for slot in step.operands)
        first = known.setdefault((step.node.operator, operands, step.node.attributes), step.outputs)
        if first is not step.outputs and len(first) == len(step.outputs):
            same.update(zip(step.outputs, first, strict=True))
            if any(operand is not None for operand in operands):
                found.add(step)
    return frozenset(found)


def _call(step: Step, plan: ExecutionPlan) -> tuple[object, ...]:
    """What a step calls: the same kernel, of the same shapes, means the same."""
    kinds = tuple((value.dtype, plan.shapes[value]) for value in step.node.inputs)
    present = tuple(slot is not None for slot in step.operands)
    return step.node.operator, kinds, present, step.node.attributes


def _cannot(node: Node, why: str) -> str:
    at = f", written at {node.meta.at}" if node.meta.at else ""
    return f"XLA cannot run {node.name} = {node.operator.key}(…){at}: {why}"


def _refusal(node: Node, why: str) -> str:
    why = f"its kernel is called once, on arrays whose content is not known yet, and {why}"
    how = "write it without looking at numbers and without writing into arrays"
    return _cannot(node, f'{why}; {how}, or compile with backend="numpy"')
