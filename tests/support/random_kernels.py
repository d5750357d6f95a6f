"""Operators of nobody's: kernels drawn at random over rows X, Y [*b, d], a row of weights w [d] and numbers r [*b].

Whatever they compute is of moderate size, so that any two ways of computing it are close.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

import graphir as gi
from graphir.ir.operator import Operator
from graphir.ir.operator import operator as declare

#: What a random kernel computes of its operands: a function of the array module and what is there already, by shape.
Step = Callable[[Any, list[Any], list[Any]], None]

_SIGNATURE = "X[*b d!], Y[*b d!], w[d!], r[*b] -> P[*b d!], Q[*b d!], s[*b]"


def draw_operator(seed: int) -> Operator:
    """An operator with two results of each element and one of each row."""
    rng = random.Random(seed)
    # Tuples: a kernel that reads lists is not traced, for they may change.
    steps = tuple(_step(rng) for _ in range(rng.randint(2, 9)))
    chosen = tuple(rng.random() for _ in range(3))

    def kernel(xp: gi.Xp, X: gi.Array, Y: gi.Array, w: gi.Array, r: gi.Array) -> tuple[gi.Array, ...]:
        """P, Q, s: whatever was drawn."""
        wide, rows = [X, Y], [r]
        for step in steps:
            step(xp, wide, rows)
        P, Q = (wide[int(part * len(wide))] for part in chosen[:2])
        return xp.tanh(P) * w, Q + r[..., None], rows[int(chosen[2] * len(rows))] * r

    kernel.__qualname__ = f"random_{seed}"
    return declare(f"random{seed}", _SIGNATURE, no_gradient="a test asks for none")(kernel)


def _step(rng: random.Random) -> Step:
    one, other, third, number = rng.random(), rng.random(), rng.random(), round(rng.uniform(-1.5, 1.5), 2)

    def at(found: list[Any], part: float) -> Any:
        return found[int(part * len(found))]

    def binary(xp: Any, wide: list[Any], rows: list[Any]) -> None:
        X, Y = at(wide, one), at(wide, other)
        operation = [lambda: X + Y, lambda: X - Y, lambda: X * Y, lambda: xp.maximum(X, Y), lambda: xp.minimum(X, Y)]
        wide.append(xp.tanh(operation[int(third * 5)]()))

    def unary(xp: Any, wide: list[Any], rows: list[Any]) -> None:
        X = at(wide, one)
        operation = [
            lambda: xp.tanh(X), lambda: xp.exp(-X * X), lambda: X * number, lambda: -X, lambda: xp.sqrt(X * X + 1),
            lambda: 1 / (1 + X * X), lambda: xp.sin(X), lambda: X**2 * 0.5, lambda: abs(X), lambda: xp.log(X * X + 1),
            lambda: 0.5 * (1 + xp.tanh(X)), lambda: xp.maximum(X, number), lambda: xp.cos(X + number),
        ]  # fmt: skip
        wide.append(operation[int(other * len(operation))]())

    def reduced(xp: Any, wide: list[Any], rows: list[Any]) -> None:
        X, Y = at(wide, one), at(wide, other)
        operation = [
            lambda: X.mean(axis=-1), lambda: X.max(axis=-1), lambda: (X * Y).mean(axis=-1), lambda: X.min(axis=-1),
            lambda: xp.tanh(X.sum(axis=-1)), lambda: (number < X).sum(axis=-1).astype(X.dtype) * 0.1,
            lambda: xp.sqrt((X * X).mean(axis=-1) + 1),
        ]  # fmt: skip
        rows.append(operation[int(third * len(operation))]())

    def widened(xp: Any, wide: list[Any], rows: list[Any]) -> None:
        X, r = at(wide, one), at(rows, other)[..., None]
        operation = [lambda: X + r, lambda: X * r, lambda: X / (r * r + 1), lambda: xp.where(r < X, X, r)]
        wide.append(xp.tanh(operation[int(third * 4)]()))

    def chosen(xp: Any, wide: list[Any], rows: list[Any]) -> None:
        X, Y = at(wide, one), at(wide, other)
        column = xp.arange(X.shape[-1])
        operation = [
            lambda: xp.where(X > Y, X, number),
            lambda: X * (number > X),
            lambda: xp.where(column < 3, X, Y),
            lambda: xp.where((X > 0) & (number < Y), X, Y),
            lambda: xp.where(~(X <= Y), number, Y),
            lambda: X * (column >= 2),
        ]
        wide.append(operation[int(third * len(operation))]())

    return rng.choice([binary, binary, unary, unary, reduced, widened, chosen])


def draw_arrays(seed: int, rows: tuple[int, ...], width: int, dtype: str) -> dict[str, Any]:
    """Operands of a drawn operator."""
    rng = np.random.default_rng(seed)
    shapes = {"X": (*rows, width), "Y": (*rows, width), "w": (width,), "r": rows}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
