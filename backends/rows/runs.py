"""Runs: consecutive nodes of a task that one kernel computes, row by row.

The rows and columns are those of the run's widest value, [*rows, columns]. Every node has a snippet and covers all
rows; what one needs whole, the dim of a softmax or a layer norm, is the columns. A sum over rows is complete only
behind the last of them, so nothing of the run reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.task import Task
from graphir.backends.rows.snippets import find_snippet
from graphir.ir.graph import Node
from graphir.ir.operator import Operator
from graphir.ir.roles import Factor
from graphir.ir.value import Value
from graphir.operators.elementwise import add, d_add, exponential, multiply, scale
from graphir.operators.loss import count_valid
from graphir.operators.shape import sum_op
from graphir.operators.update import rescale, square_sum

#: A dim: the factors that it is made of.
Axis: TypeAlias = tuple[Factor, ...]

#: The dtypes of floats that one kernel may have, for machines whose kernels compute in the dtype of all their floats.
ALIKE = (frozenset({"float32"}), frozenset({"float64"}))
#: What NumPy or BLAS does in one pass as fast as any kernel.
_ONE_PASS: frozenset[Operator] = frozenset(
    (add, count_valid, d_add, exponential, multiply, rescale, scale, square_sum, sum_op)
)


@dataclass(frozen=True)
class Run:
    """Nodes to compute together. `axes` are the dims of the rows and, last, of the columns.

    inputs     what they read that others have made
    outputs    what they make that others read
    dtype      what it is computed in: float64 where a float of it is, else float32
    stop       the position in the task behind the last node
    """

    task: Task
    nodes: tuple[Node, ...]
    axes: tuple[Axis, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    dtype: str
    stop: int


def find_runs(
    task: Task, assignment: Assignment, least: int, floats: Sequence[frozenset[str]] = ALIKE, numbers: bool = False
) -> dict[int, Run]:
    """A task's runs of at least `least` elements, by the position of their first node.

    `floats` are the sets of dtypes that one kernel may have; with `numbers`, nodes on scalars are taken, too, as a row
    of one column.
    """
    runs: dict[int, Run] = {}
    position = 0
    while position < len(task.nodes):
        nodes, axes, stop = _longest(task, position, floats, numbers)
        if nodes and _is_worth_it(task, nodes, axes, least):
            runs[position] = _make(task, assignment, nodes, axes, stop)
        position = max(stop, position + 1)
    return runs


def _is_worth_it(task: Task, nodes: Sequence[Node], axes: Sequence[Axis], least: int) -> bool:
    size = math.prod(task.sizes[factor] for axis in axes for factor in axis)
    return size >= least and (least == 0 or len(nodes) > 1 or nodes[0].operator not in _ONE_PASS)


def _longest(
    task: Task, position: int, floats: Sequence[frozenset[str]], numbers: bool
) -> tuple[list[Node], tuple[Axis, ...], int]:
    """The longest run that begins at `position`, which is no view's; its axes, and the position behind it."""
    taken: list[Node] = []
    axes: tuple[Axis, ...] = ()
    stop = position
    for index in range(position, len(task.nodes)):
        node = task.nodes[index]
        if node.operator.view:
            if not taken:
                break
            continue
        found = _common_axes(task, [*taken, node], floats, numbers)
        if not found:
            break
        taken.append(node)
        axes, stop = found, index + 1
    return taken, axes, stop


def _common_axes(
    task: Task, nodes: Sequence[Node], floats: Sequence[frozenset[str]], numbers: bool
) -> tuple[Axis, ...]:
    """The axes of the widest value, if `nodes` can be a run; else none."""
    dims = task.space.dims
    touched = {value: dims[value] for node in nodes for value in (*node.inputs, *node.outputs)}
    axes = max(touched.values(), key=len)
    if numbers and not axes:
        axes = ((),)
    if not axes or len(set(axes)) < len(axes) or not any(_floats(touched) <= family for family in floats):
        return ()
    if not all(axis in axes for each in touched.values() for axis in each):
        return ()
    rows = set(axes[:-1])
    root = task.root
    made: dict[Value, bool] = {}
    for node in nodes:
        names, rule = task.space.factors[node], node.inference.rule
        mine = {axis for value in (*node.inputs, *node.outputs) for axis in dims[value]}
        snippet = find_snippet(node.operator)
        if snippet is None or not rows <= mine:
            return ()
        whole = {(names[factor],) for factor in rule.whole_factors | snippet.columns}
        if not whole <= {axes[-1]}:
            return ()
        if any(not made.get(value, root[value] not in made) for value in node.inputs):
            return ()
        made.update((value, rows <= set(dims[value])) for value in node.outputs)
    return axes


def _make(task: Task, assignment: Assignment, nodes: Sequence[Node], axes: tuple[Axis, ...], stop: int) -> Run:
    made = [value for node in nodes for value in node.outputs]
    inputs = dict.fromkeys(value for node in nodes for value in node.inputs if value not in set(made))
    outputs = [value for value in made if assignment.last.get(value, -1) >= stop]
    found = _floats((*inputs, *made)) | {value.dtype for value in outputs}
    dtype = "float64" if "float64" in found else "float32"
    return Run(task, tuple(nodes), axes, tuple(inputs), tuple(outputs), dtype, stop)


def _floats(values: Iterable[Value]) -> set[str]:
    """The dtypes of all floats that are no scalars."""
    return {value.dtype for value in values if value.shape and value.dtype not in ("bool", "int32", "int64")}


def strides(run: Run, value: Value, given: Sequence[int]) -> tuple[int, ...]:
    """Of an array's strides those along the run's axes; 0 along what the value does not have."""
    mine: Mapping[Axis, int] = dict(zip(run.task.space.dims[value], given, strict=True))
    return tuple(mine.get(axis, 0) for axis in run.axes)
