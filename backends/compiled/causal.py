"""What a causal mask spares: where, of [.., q, k], entries with k > q need not be computed at all.

A causal operator makes them masked, softmax makes 0 of masked, and 0 stays 0 through what is linear or vanishes with
an operand; a product summed over k then needs only k ≤ q. All of it is read off declared traits.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphir.backends.compiled.task import Task
from graphir.ir.analysis import contracted
from graphir.ir.graph import Node
from graphir.ir.tiling import Factor
from graphir.ir.value import Value

MASKED, ZERO = "masked", "zero"
#: Of a value: the dims that are q and k, and what stands where k > q.
Beyond = tuple[int, int, str]


def find_causal(task: Task, known: Mapping[Value, Beyond]) -> tuple[tuple[Factor, Factor] | None, dict[Value, Beyond]]:
    """The factors (q, k) of `task` if it may leave out k > q, and what is known of the values that leave it.

    `known` speaks of the graph's values, as does the result.
    """
    state: dict[Value, str] = {}
    pair: tuple[Factor, Factor] | None = None

    def note(value: Value, q: Factor, k: Factor, what: str) -> None:
        nonlocal pair
        pair = pair or (q, k)
        if pair == (q, k):
            state[value] = what

    for inner, outer in task.outer.items():
        if outer in known and inner in task.entering:
            q, k, what = known[outer]
            axes = task.space.dims[inner]
            if len(axes[q]) == len(axes[k]) == 1:
                note(inner, axes[q][0], axes[k][0], what)
    for node in task.nodes:
        causal = node.operator.causal
        if causal is not None and causal(node.attributes) and not node.operator.view:
            names = task.space.factors[node]
            what = ZERO if node.operator.linear else MASKED
            note(node.outputs[0], names["q"], names["k"], what)
        else:
            _carry(node, state)
    left: dict[Value, Beyond] = {}
    for inner in task.leaving:
        if inner in state and pair is not None:
            axes = task.space.dims[inner]
            if (pair[0],) in axes and (pair[1],) in axes:
                left[task.outer[inner]] = axes.index((pair[0],)), axes.index((pair[1],)), state[inner]
    return (pair if pair is not None and _may_leave_out(task, pair, state) else None), left


def _carry(node: Node, state: dict[Value, str]) -> None:
    """What a node makes of entries beyond: 0 of 0 where it is linear elementwise or vanishes, 0 of masked."""
    operator = node.operator
    if contracted(node):
        return
    for operand, value in zip(node.inference.rule.inputs, node.inputs, strict=True):
        if value not in state:
            continue
        if operator.view:
            state[node.outputs[0]] = state[value]
            continue
        linear = operator.elementwise and operand.name in operator.linear
        vanishes = state[value] == ZERO and (linear or operand.name in operator.vanishes)
        if vanishes or (state[value] == MASKED and operand.name in operator.ignores_masked):
            state[node.outputs[0]] = ZERO


def _may_leave_out(task: Task, pair: tuple[Factor, Factor], state: Mapping[Value, str]) -> bool:
    """Whether nothing depends on entries beyond: who reads a value that has them makes the same without them."""
    q, k = pair
    # Ranks that share the queries each begin at another one, but all have the same tiles.
    if q not in task.space.loops or k in task.space.loops or not task.shared.isdisjoint(pair):
        return False
    for value, axes in task.space.dims.items():
        flat = [factor for axis in axes for factor in axis]
        if k in flat and (k,) not in axes:
            return False
        if q in flat and k in flat:
            if value in task.leaving and value not in state:
                return False
            if value not in state and not _unseen(value, task, state):
                return False
    for node in task.nodes:
        # A sum over k needs one factor that is 0 beyond.
        over = {task.space.factors[node][name] for name in contracted(node)}
        if k in over and not any(state.get(value) == ZERO for value in node.inputs):
            return False
    return True


def _unseen(value: Value, task: Task, state: Mapping[Value, str]) -> bool:
    """Whether what stands beyond in `value` shows in nothing: each reader's result is known there, or unseen."""
    for node in task.nodes:
        if value in node.inputs and not all(
            out in state or _unseen(out, task, state) for out in node.outputs if out in task.space.dims
        ):
            return False
    return value not in task.leaving
