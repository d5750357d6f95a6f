"""Elements, parts and new shapes as people write them: each has a formula, and it is what the kernel computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphir.ir.operator import Operator
from graphir.ir.signature import is_literal
from tests.backends.numpy.test_inplace import Tried

Kernel = Callable[[Any, Any], Any]
ROWS, THREE, HALVES, PAIRS = "X[*b d!] -> Z[*b]", "X[*b 3] -> Z[*b]", "X[*b (2 d)] -> Z[*b d]", "X[*b (d 2)] -> Z[*b d]"

#: By what is taken or made: a kernel, and its signature.
KERNELS: dict[str, tuple[Kernel, str]] = {
    "the first element": (lambda xp, X: X[..., 0], ROWS),
    "the last": (lambda xp, X: X[..., -1], ROWS),
    "the second of three": (lambda xp, X: X[..., 1], THREE),
    "the last of three": (lambda xp, X: X[..., -1], THREE),
    "the last but one of three": (lambda xp, X: X[..., -2], THREE),
    "the first of one": (lambda xp, X: X.sum(axis=-1, keepdims=True)[..., 0], ROWS),
    "the last of one": (lambda xp, X: X.sum(axis=-1, keepdims=True)[..., -1], ROWS),
    "the first row": (lambda xp, X: X[0], "X[d! b] -> Z[b]"),
    "an element of a row": (lambda xp, X: X[1, ..., -1], "X[3 b d!] -> Z[b]"),
    "all of it": (lambda xp, X: X[:][...], "X[*b] -> Z[*b]"),
    "the first half": (lambda xp, X: X[..., : X.shape[-1] // 2], HALVES),
    "the second half": (lambda xp, X: X[..., X.shape[-1] // 2 :], HALVES),
    "a half in single steps": (lambda xp, X: X[..., : X.shape[-1] // 2 : 1], HALVES),
    "the first of each two": (lambda xp, X: X[..., ::2], PAIRS),
    "the second of each two": (lambda xp, X: X[..., 1::2], PAIRS),
    "the last of each three": (lambda xp, X: X[..., 2::3], "X[*b (d 3)] -> Z[*b d]"),
    "the first of each three": (lambda xp, X: X[..., 0::3], "X[*b (d 3)] -> Z[*b d]"),
    "the halves exchanged": (
        lambda xp, X: xp.concatenate((X[..., X.shape[-1] // 2 :], X[..., : X.shape[-1] // 2]), axis=-1),
        "X[*b (2 d)] -> Z[*b (2 d)]",
    ),
    "a new axis in front": (lambda xp, X: (X[None] + 1)[0], "X[*b] -> Z[*b]"),
    "a new axis behind": (lambda xp, X: (X[..., None] + 1)[..., 0], "X[*b] -> Z[*b]"),
    "all axes merged": (lambda xp, X: X.reshape(-1), "X[a b d] -> Z[(a b d)]"),
    "the first two merged": (lambda xp, X: X.reshape(-1, X.shape[-1]), "X[a b d] -> Z[(a b) d]"),
    "the last two merged": (lambda xp, X: X.reshape(X.shape[0], -1), "X[a b d] -> Z[a (b d)]"),
    "merged by name": (lambda xp, X: X.reshape(X.shape[0] * X.shape[1], X.shape[2]), "X[a b d] -> Z[(a b) d]"),
    "split in two": (lambda xp, X: X.reshape(2, -1), "X[(2 d)] -> Z[2 d]"),
    "split by twos": (lambda xp, X: X.reshape(*X.shape[:-1], -1, 2), "X[*b (d 2)] -> Z[*b d 2]"),
    "split in the middle": (lambda xp, X: X.reshape(X.shape[0], 2, -1, 3), "X[a (2 d) 3] -> Z[a 2 d 3]"),
    "behind an axis of length 1": (lambda xp, X: X.reshape(1, *X.shape)[0], "X[a b] -> Z[a b]"),
    "before an axis of length 1": (lambda xp, X: X.reshape(-1, 1)[:, 0], "X[a b] -> Z[(a b)]"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_it_has_a_formula_that_is_what_the_kernel_computes(name: str) -> None:
    kernel, signature = KERNELS[name]
    kernel.__doc__ = "As it is written."
    tried = Tried(Operator("tried", signature, kernel, no_gradient="no test asks for it"))
    _, results = tried.record({})
    np.testing.assert_allclose(results["Z"], tried.expected["Z"], rtol=1e-12)
    for term in tried.formula.all_terms:
        # Whoever makes a kernel of it takes the number as it is.
        if term.operation == "at" and is_literal(term.detail):
            assert 0 <= term.operands[1].detail < int(term.detail)
