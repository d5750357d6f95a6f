"""Running a piece of graph on arrays at once: `evaluate(gi.matmul, X, W)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphir as gi
from graphir.ir.operator import Operator, Place
from graphir.ir.signature import expand


def evaluate(build: Callable[..., gi.Value | Sequence[gi.Value]], *arrays: Any, **sizes: int) -> Any:
    """What `build` makes of values of these arrays' types: an array, or a tuple of them for a tuple of values.

    Dims are the arrays' own sizes; `sizes` binds those that `build` names besides.
    """
    block = gi.Builder("piece")
    given = {f"X{i}": np.asarray(array) for i, array in enumerate(arrays)}
    made = build(*(block.input(name, array.shape, str(array.dtype)) for name, array in given.items()))
    outputs = made if isinstance(made, tuple) else (made,)
    run = gi.compile(block.build(*outputs), sizes, backend="reference")
    results = tuple(run(given)[value.name] for value in outputs)
    return results if isinstance(made, tuple) else results[0]


def evaluate_block(operator: Operator, starts: dict[str, int], sizes: dict[str, int], *arrays: Any, **keywords: Any):
    """The kernel's result where its blocks lie at `starts` in global tensors of `sizes`, by factor."""
    attributes = {name: value for name, value in keywords.items() if name in operator.attributes}
    (signature,) = operator.signatures(operator.normalize(attributes))
    rule = expand(signature, tuple(map(np.ndim, arrays)))
    assert rule is not None
    return operator.kernel(np, *arrays, **keywords, at=Place(rule, starts, sizes))
