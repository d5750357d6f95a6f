"""Kernels of a user's are tried on numbers, once, by NumPy and by XLA, before XLA is handed a graph of them.

What is written for NumPy may be traced without a word and mean something else: `Y += X` and `Y.sort()` change NumPy's
array, whatever else it is called, and in JAX make another; an index beyond the last is refused by the one and taken to
be the last by the other; numbers drawn at random are drawn once. graphir's own kernels are what their tests hold them
to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphir.backends.dtypes import is_float
from graphir.backends.plan import ExecutionPlan, Step
from graphir.backends.xla.library import load_jax
from graphir.ir.operator import Operator
from graphir.operators.linear import SUM

_OWN = "graphir.operators."
#: How far results may lie apart, of the largest of them: where an error is looked for that is no rounding.
_NEAR = {"float64": 1e-6, "float32": 1e-2}
_NEAR_16 = 1e-1


def is_foreign(operator: Operator) -> bool:
    """Whether an operator's kernel is none of graphir's own."""
    return not operator.kernel.__module__.startswith(_OWN)


def departure(step: Step, plan: ExecutionPlan, xp: Any) -> str:
    """How a kernel's results on XLA are others than on NumPy, of the same numbers; empty if they are not.

    What cannot be traced at all is left to be found when the graph is. Of numbers that lie where a kernel jumps,
    results may part for no more than a rounding: it departs if it does of other numbers, too.
    """
    found = ""
    for seed in range(3):
        found = _departure(step, plan, xp, np.random.default_rng(seed))
        if not found:
            break
    return found


def _departure(step: Step, plan: ExecutionPlan, xp: Any, rng: np.random.Generator) -> str:
    kernel = step.node.operator.kernel
    keywords = step.keywords if step.places is None else {**step.keywords, "at": step.places[0]}
    operands = _operands(step, plan, rng)
    try:
        there = load_jax().jit(lambda *arrays: kernel(xp, *arrays, **keywords))(*operands)
    except Exception:
        return ""
    try:
        with np.errstate(all="ignore"):
            here = kernel(np, *operands, **keywords)
    except Exception as error:
        return f"NumPy raises {type(error).__name__}: {error}"
    made, traced = (each if isinstance(each, tuple) else (each,) for each in (here, there))
    if len(made) == len(traced) and all(map(_alike, made, traced)):
        return ""
    return "of the same numbers NumPy makes other results: it writes into an array, say, or draws at random"


def _operands(step: Step, plan: ExecutionPlan, rng: np.random.Generator) -> Sequence[Any]:
    """Numbers for a node's operands, which no kernel may write over."""
    values = {slot: value for value, slot in plan.slots.items()}
    counts: Mapping[int, int] = {slot: count for slot, _, count, _ in step.indices if count}
    operands: list[Any] = []
    for slot in step.operands:
        if slot is None:
            operands.append(None)
            continue
        operands.append(_drawn(rng, plan.shapes[values[slot]], values[slot].dtype, counts.get(slot, 1)))
        operands[-1].flags.writeable = False
    return operands


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, count: int) -> Any:
    """Floats around 1, truths, and integers that index `count` elements, or whatever there is.

    Floats have 32 bits at least: in 16 NumPy's sums are too far off to be compared with.
    """
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    kind = np.dtype(dtype)
    if not is_float(kind):
        return np.asarray(rng.integers(0, count, shape)).astype(kind)
    return np.asarray(rng.uniform(0.5, 1.5, shape)).astype(max(kind, np.dtype(SUM), key=lambda each: each.itemsize))


def _alike(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    left, right = np.asarray(one), np.asarray(other)
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not is_float(left.dtype):
        return np.array_equal(left, right)
    expected, found = left.astype(np.float64), right.astype(np.float64)
    near = _NEAR.get(left.dtype.name, _NEAR_16)
    largest = np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected)).max(initial=0.0)
    return np.allclose(found, expected, rtol=near, atol=near * largest, equal_nan=True)
