"""Operators of nobody's whose rows have two parts: halves, one behind the other, or every other element.

As `random_kernels`: of moderate size, whatever is drawn. Parts are taken, joined, exchanged and met with one another,
and results may be operands as they are, in another order: what may lie in an operand's memory is drawn, too.
"""

from __future__ import annotations

import random
from typing import Any

import graphir as gi
from graphir.ir.operator import Operator
from graphir.ir.operator import operator as declare
from tests.support.random_kernels import Step

_SIGNATURE = "X[*b {0}], Y[*b {0}], U[*b d!], w[d!] -> P[*b {0}], Q[*b {0}], R[*b d!]"


def draw_halved(seed: int) -> Operator:
    """An operator with two results of whole rows and one of a part."""
    rng = random.Random(f"halves {seed}")
    pairs = rng.random() < 0.5
    steps = tuple(_step(rng, pairs) for _ in range(rng.randint(1, 7)))
    # Now and then an operand itself, or the same result twice.
    chosen = tuple(rng.choice((0.0, 0.5, 0.99, rng.random())) for _ in range(3))

    def kernel(xp: gi.Xp, X: gi.Array, Y: gi.Array, U: gi.Array, w: gi.Array) -> tuple[gi.Array, ...]:
        """P, Q, R: whatever was drawn."""
        wide, parts = [X, Y], [U, U * w]
        for step in steps:
            step(xp, wide, parts)
        P, Q = (wide[int(part * len(wide))] for part in chosen[:2])
        return P, Q, parts[int(chosen[2] * len(parts))]

    kernel.__qualname__ = f"halved_{seed}"
    signature = _SIGNATURE.format("(d 2)" if pairs else "(2 d)")
    return declare(f"halved{seed}", signature, no_gradient="a test asks for none")(kernel)


def _two(xp: Any, X: Any, pairs: bool, split: bool) -> tuple[Any, Any]:
    """The two parts of a row, taken as people take them."""
    if pairs:
        return X[..., 0::2], X[..., 1::2]
    if split:
        one, other = xp.split(X, 2, axis=-1)
        return one, other
    half = X.shape[-1] // 2
    return X[..., :half], X[..., half:]


def _joined(xp: Any, one: Any, other: Any, like: Any, pairs: bool) -> Any:
    """Two parts as one row."""
    return xp.stack((one, other), axis=-1).reshape(like.shape) if pairs else xp.concatenate((one, other), axis=-1)


def _step(rng: random.Random, pairs: bool) -> Step:
    one, other, third, number = rng.random(), rng.random(), rng.random(), round(rng.uniform(0.1, 1.5), 2)
    split = rng.random() < 0.5

    def at(found: list[Any], part: float) -> Any:
        return found[int(part * len(found))]

    def either(operations: list[Any]) -> Any:
        return operations[int(third * len(operations))]()

    def taken(xp: Any, wide: list[Any], parts: list[Any]) -> None:
        parts.append(_two(xp, at(wide, one), pairs, split)[third < 0.5])

    def met(xp: Any, wide: list[Any], parts: list[Any]) -> None:
        X, Y = _two(xp, at(wide, one), pairs, split)
        U = xp.tanh(at(parts, other))
        parts.append(either([lambda: X * U - Y, lambda: xp.maximum(X, Y), lambda: xp.tanh(X) * Y, lambda: X + Y * U]))

    def joined(xp: Any, wide: list[Any], parts: list[Any]) -> None:
        wide.append(_joined(xp, xp.tanh(at(parts, one)), xp.tanh(at(parts, other)), wide[0], pairs))

    def turned(xp: Any, wide: list[Any], parts: list[Any]) -> None:
        X, Y = _two(xp, at(wide, one), pairs, split)
        U = xp.tanh(at(parts, other))
        two = either(
            [lambda: (Y, X), lambda: (X * U, Y), lambda: (X, U), lambda: (-Y, X), lambda: (X - Y * U, Y + X * U)]
        )
        wide.append(_joined(xp, *two, wide[0], pairs))

    def plain(xp: Any, wide: list[Any], parts: list[Any]) -> None:
        found = wide if split else parts
        X, Y = at(found, one), at(found, other)
        operation = [lambda: xp.tanh(X + Y), lambda: X - 0.5 * Y, lambda: xp.minimum(X, Y), lambda: X * number]
        found.append(either(operation))

    def whole(xp: Any, wide: list[Any], parts: list[Any]) -> None:
        U, column = at(parts, one), xp.arange(parts[0].shape[-1])
        parts.append(
            either([
                lambda: U - U.mean(axis=-1, keepdims=True),
                lambda: xp.where(column < 2, U, number),
                lambda: xp.where(parts[0] > number, U, at(parts, other)),
                lambda: U / (1 + (U * U).sum(axis=-1, keepdims=True)),
            ])
        )  # fmt: skip

    return rng.choice([taken, met, met, joined, turned, turned, plain, whole])
