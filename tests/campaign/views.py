"""Reshapes by position: a dim split, dims merged, and what a product of names can be split into."""

from __future__ import annotations

import graphir as gi
from graphir.ir.dims import product
from graphir.ir.value import Value


def divisors(dim: gi.Dim) -> list[gi.Dim]:
    """The dims, other than 1 and itself, that a product of names divides by."""
    coefficient, powers = dim.expanded
    names = [name for name, power in powers for _ in range(power)]
    if coefficient != 1 or any(power < 0 for _, power in powers):
        return []
    found = {product(gi.dim(n) for i, n in enumerate(names) if mask >> i & 1) for mask in range(1, 2 ** len(names) - 1)}
    return sorted(found, key=str)


def split(X: Value, axis: int, major: gi.Dim) -> Value:
    """X with the dim at `axis` split into `major` and the rest."""
    letters = [f"a{i}" for i in range(X.type.rank)]
    left, right = list(letters), list(letters)
    left[axis], right[axis] = "(x y)", "x y"
    return gi.reshape(X, f"{' '.join(left)} -> {' '.join(right)}", x=major)


def merge(X: Value, axis: int, count: int = 2) -> Value:
    """X with `count` dims from `axis` merged."""
    letters = [f"a{i}" for i in range(X.type.rank)]
    right = [*letters[:axis], f"({' '.join(letters[axis : axis + count])})", *letters[axis + count :]]
    return gi.reshape(X, f"{' '.join(letters)} -> {' '.join(right)}")
