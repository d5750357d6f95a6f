"""Kernels that write in place: `Y += X` changes the array that Y is in NumPy, and in JAX what Y is the name of.

Where another name, or a view, stands for the same array, the two part without a word. So a kernel in which such a
statement is found is tried on numbers, once, with NumPy's arrays and with JAX's, before XLA is handed it. graphir's own
are what their tests hold them to.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from graphir.backends.dtypes import is_float
from graphir.backends.plan import ExecutionPlan, Step
from graphir.backends.xla.library import load_jax
from graphir.ir.operator import Operator

_OWN = "graphir.operators."


def writes_in_place(operator: Operator) -> bool:
    """Whether a statement such as `Y += X` stands in a user's kernel, or in a function that it may call."""
    kernel = operator.kernel
    return not kernel.__module__.startswith(_OWN) and any(map(_has_augmented, _codes(kernel, set())))


def departs(step: Step, plan: ExecutionPlan, xp: Any) -> bool:
    """Whether a node's kernel makes another result of JAX's arrays than of NumPy's, of the same numbers."""
    rng = np.random.default_rng(0)
    values = {slot: value for value, slot in plan.slots.items()}
    operands = [
        None if slot is None else _drawn(rng, plan.shapes[values[slot]], values[slot].dtype) for slot in step.operands
    ]
    keywords = step.keywords if step.places is None else {**step.keywords, "at": step.places[0]}
    as_array = load_jax().numpy.asarray
    here = step.node.operator.kernel(np, *(None if each is None else each.copy() for each in operands), **keywords)
    there = step.node.operator.kernel(xp, *(None if each is None else as_array(each) for each in operands), **keywords)
    pairs = zip(*(made if isinstance(made, tuple) else (made,) for made in (here, there)), strict=True)
    return not all(_alike(one, other) for one, other in pairs)


def _codes(function: Callable[..., Any], seen: set[int]) -> Iterator[CodeType]:
    """The code of a function, of what is defined in it, and of functions beside it that it names."""
    if not isinstance(function, FunctionType) or id(function) in seen or function.__module__.startswith(_OWN):
        return
    seen.add(id(function))
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
        for name in code.co_names:
            yield from _codes(function.__globals__.get(name), seen)  # type: ignore[arg-type]


def _has_augmented(code: CodeType) -> bool:
    return any(
        each.opname.startswith("INPLACE_") or (each.opname == "BINARY_OP" and each.argrepr.endswith("="))
        for each in dis.get_instructions(code)
    )


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Floats around 1, truths, and integers that index whatever there is."""
    if dtype == "bool":
        return rng.random(shape) < 0.5
    kind = np.dtype(dtype)
    return rng.uniform(0.5, 1.5, shape).astype(kind) if is_float(kind) else np.zeros(shape, kind)


def _alike(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    left, right = np.asarray(one), np.asarray(other)
    return left.shape == right.shape and np.allclose(
        left.astype(float), right.astype(float), rtol=5e-2, atol=1e-3, equal_nan=True
    )
