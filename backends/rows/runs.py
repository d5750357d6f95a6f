"""Runs: consecutive nodes of a task that one kernel computes, row by row.

The rows and columns are those of the run's widest value, [*rows, columns]. Every node has a formula and covers all
rows; what one needs whole, the dim of a softmax or a layer norm, is the columns. A sum over rows is complete only
behind the last of them, so nothing of the run reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.task import Task
from graphir.backends.rows.lower import Cut, columns_of, rewritten, why_not
from graphir.formula.terms import walk
from graphir.formula.trace import Formula, NoFormula, formula_of
from graphir.ir.graph import Node
from graphir.ir.roles import Factor
from graphir.ir.value import Value

#: The attributes of each node, with dims in numbers.
Keywords: TypeAlias = Mapping[Node, Mapping[str, Any]]
#: A dim: the factors that it is made of.
Axis: TypeAlias = tuple[Factor, ...]

#: The dtypes of floats that one kernel may have, for machines whose kernels compute in the dtype of all their floats.
ALIKE = (frozenset({"float32"}), frozenset({"float64"}))


@dataclass(frozen=True)
class FusedRun:
    """Nodes to compute together. `axes` are the dims of the rows and, last, of the columns.

    formulas   what the nodes compute, with how their factors lie
    inputs     what they read that others have made
    outputs    what they make that others read
    dtype      what it is computed in: float64 where a float of it is, else float32
    stop       the position in the task behind the last node
    """

    task: Task
    nodes: tuple[Node, ...]
    formulas: tuple[tuple[Formula, Cut], ...]
    axes: tuple[Axis, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    dtype: str
    stop: int


def find_runs(
    task: Task,
    assignment: Assignment,
    keywords: Keywords,
    least: int,
    floats: Sequence[frozenset[str]] = ALIKE,
    numbers: bool = False,
) -> dict[int, FusedRun]:
    """A task's runs of at least `least` elements, by the position of their first node.

    `floats` are the sets of dtypes that one kernel may have; with `numbers`, nodes on scalars are taken, too, as a row
    of one column.
    """
    formulas = {node: formula_of(node, keywords[node]) for node in task.nodes}
    runs: dict[int, FusedRun] = {}
    position = 0
    while position < len(task.nodes):
        nodes, axes, stop = _longest(task, formulas, position, floats, numbers)
        if nodes and _is_worth_it(task, [formulas[node] for node in nodes], axes, least):
            found = [(node, formulas[node]) for node in nodes]
            cuts = [(made, cut_of(task, node, axes)) for node, made in found if isinstance(made, Formula)]
            runs[position] = _make(task, assignment, nodes, cuts, axes, stop)
        position = max(stop, position + 1)
    return runs


def _is_worth_it(task: Task, formulas: Sequence[Formula | NoFormula], axes: Sequence[Axis], least: int) -> bool:
    size = math.prod(task.sizes[factor] for axis in axes for factor in axis)
    return size >= least and (least == 0 or len(formulas) > 1 or not _is_one_pass(formulas[0]))


def _is_one_pass(formula: Formula | NoFormula) -> bool:
    """Whether NumPy or BLAS does it in one pass, as fast as any kernel: one operation, and perhaps a sum."""
    assert isinstance(formula, Formula)
    inside = [term for term in walk(rewritten(formula).values()) if term.operands and term.factors]
    return sum(term.operation not in ("sum", "convert") for term in inside) <= 1


def cut_of(task: Task, node: Node, axes: Sequence[Axis]) -> Cut:
    """How a node's factors lie in a run of these axes."""
    names = task.space.factors[node]
    columns = tuple(letter for factor in axes[-1] for letter, name in names.items() if name == factor)
    rows = {factor for axis in axes[:-1] for factor in axis}
    return Cut(columns, frozenset(letter for letter, name in names.items() if name in rows))


def _longest(
    task: Task,
    formulas: Mapping[Node, Formula | NoFormula],
    position: int,
    floats: Sequence[frozenset[str]],
    numbers: bool,
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
        found = _common_axes(task, formulas, [*taken, node], floats, numbers)
        if not found:
            break
        taken.append(node)
        axes, stop = found, index + 1
    return taken, axes, stop


def _common_axes(
    task: Task,
    formulas: Mapping[Node, Formula | NoFormula],
    nodes: Sequence[Node],
    floats: Sequence[frozenset[str]],
    numbers: bool,
) -> tuple[Axis, ...]:
    """The axes of the widest result, or else of the widest value, if `nodes` can be a run of these; else none."""
    dims = task.read_as
    made = [dims[value] for node in nodes for value in node.outputs]
    touched = [*made, *(dims[value] for node in nodes for value in node.inputs)]
    for found in dict.fromkeys((max(made, key=len), max(touched, key=len))):
        axes = found or (((),) if numbers else ())
        if axes and _can_run(task, formulas, nodes, axes, floats):
            return axes
    return ()


def _can_run(
    task: Task,
    formulas: Mapping[Node, Formula | NoFormula],
    nodes: Sequence[Node],
    axes: tuple[Axis, ...],
    floats: Sequence[frozenset[str]],
) -> bool:
    dims, root, rows = task.read_as, task.root, set(axes[:-1])
    split = {factor for axis in rows for factor in axis}
    values = {value: None for node in nodes for value in (*node.inputs, *node.outputs)}
    if len(set(axes)) < len(axes) or not any(_floats(values) <= family for family in floats):
        return False
    made: dict[Value, bool] = {}
    for node in nodes:
        names, rule, formula = task.space.factors[node], node.inference.rule, formulas[node]
        mine = {axis for value in (*node.inputs, *node.outputs) for axis in dims[value]}
        if isinstance(formula, NoFormula) or not rows <= mine:
            return False
        # What has to be whole, or columns, is no row; whether it is all of the columns, the formula tells.
        if any(names[factor] in split for factor in rule.whole_factors | columns_of(formula)):
            return False
        if why_not(formula, cut_of(task, node, axes)):
            return False
        for value in node.inputs:
            others = [axis for axis in dims[value] if axis not in axes]
            if others and (root[value] in made or others != [other_columns(dims[value], axes)]):
                return False
        if any(axis not in axes for value in node.outputs for axis in dims[value]):
            return False
        if any(not made.get(value, root[value] not in made) for value in node.inputs):
            return False
        made.update((value, rows <= set(dims[value])) for value in node.outputs)
    return True


def other_columns(dims: Sequence[Axis], axes: Sequence[Axis]) -> Axis | None:
    """Of a value that has other columns than a run its own: a part of the run's, those and more, or of other blocks."""
    mine = set(axes[-1])
    return next((axis for axis in dims if axis not in axes and not mine.isdisjoint(axis)), None)


def _make(
    task: Task,
    assignment: Assignment,
    nodes: Sequence[Node],
    formulas: Sequence[tuple[Formula, Cut]],
    axes: tuple[Axis, ...],
    stop: int,
) -> FusedRun:
    made = [value for node in nodes for value in node.outputs]
    inputs = dict.fromkeys(value for node in nodes for value in node.inputs if value not in set(made))
    outputs = [value for value in made if assignment.last.get(value, -1) >= stop]
    found = _floats((*inputs, *made)) | {value.dtype for value in outputs}
    dtype = "float64" if "float64" in found else "float32"
    return FusedRun(task, tuple(nodes), tuple(formulas), axes, tuple(inputs), tuple(outputs), dtype, stop)


def _floats(values: Iterable[Value]) -> set[str]:
    """The dtypes of all floats that are no scalars."""
    return {value.dtype for value in values if value.shape and value.dtype not in ("bool", "int32", "int64")}


def strides(run: FusedRun, value: Value, given: Sequence[int]) -> tuple[int, ...]:
    """Of an array's strides those along the run's axes; 0 along what the value does not have."""
    dims = run.task.read_as[value]
    mine: Mapping[Axis, int] = dict(zip(dims, given, strict=True))
    columns = other_columns(dims, run.axes)
    last = run.axes[-1] if columns is None else columns
    return tuple(mine.get(axis, 0) for axis in (*run.axes[:-1], last))
