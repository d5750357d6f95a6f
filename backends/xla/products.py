"""Products as XLA has them: contracted where they are, over as many dims as there are.

A kernel flattens what it multiplies, for NumPy's sake. To XLA that is a reshape over dims that devices may share, which
its partitioner can only undo by gathering them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphir.backends.xla.library import load_jax
from graphir.ir.operator import Array, Operator
from graphir.ir.types import DTYPES
from graphir.operators.linear import SUM, d_matmul, matmul


def _multiply(X: Array, W: Array, *, dtype: str = "") -> Array:
    """Y [*b, *g, m, n] = X [*b, *g, m, k] • W [*b, k, n]: a W shared by all has no b, one for each no g."""
    batch = tuple(range(W.ndim - 2))
    return _contracted(X, W, ((X.ndim - 1,), (W.ndim - 2,)), batch, dtype or X.dtype)


def _d_multiply(
    X: Array | None,
    W: Array | None,
    dY: Array,
    *,
    shared: bool,
    grouped: bool = False,
    dtype: str = "",
    only: tuple[str, ...],
) -> tuple[Array | None, Array | None]:
    """dX = dY • Wᵀ, dW = Xᵀ • dY."""
    dX = dW = None
    if "dX" in only:
        assert W is not None
        batch = tuple(range(W.ndim - 2))
        dX = _contracted(dY, W, ((dY.ndim - 1,), (W.ndim - 1,)), batch, dtype or dY.dtype)
    if "dW" in only:
        assert X is not None
        own = 0 if shared else X.ndim - 2 - grouped
        summed, batch = tuple(range(own, X.ndim - 1)), tuple(range(own))
        dW = _contracted(X, dY, (summed, summed), batch, dtype or dY.dtype)
    return dX, dW


def _contracted(X: Array, W: Array, over: Any, batch: tuple[int, ...], dtype: Any) -> Array:
    """The product, added up in no fewer bits than the kernel's."""
    jax = load_jax()
    wide = SUM if X.dtype.itemsize < DTYPES[SUM] else X.dtype
    if jax.default_backend() == "cpu":  # which has no product of 16 bits that is added up in more
        X, W = X.astype(wide), W.astype(wide)
    made = jax.lax.dot_general(X, W, (over, (batch, batch)), preferred_element_type=wide)
    return made.astype(dtype)


#: What is called in place of kernels, by their operators.
PRODUCTS: Mapping[Operator, Any] = {matmul: _multiply, d_matmul: _d_multiply}
