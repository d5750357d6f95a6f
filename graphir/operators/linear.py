"""Matrix multiplication: • and dMatmul (A 1.3, B 3.3 and 4.4.1).

Products of 16-bit operands are added up in float32. With `dtype` the sum is returned in that dtype, without it in the
operands'. `dtype` holds for both passes: the gradients of 16-bit operands are float32, as they were added up, and dY
is rounded to the operands' dtype before it is multiplied. Where `dtype` is of 16 bits, too, so is dX; dW of a weight, a
sum over all rows of all b, is float32 still.

One matrix for each b, or one for all of them; or one for each *group* of matrices X, the heads of queries that share a
head of keys and values: it is never repeated, and its gradient is a sum over the group.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphir.errors import TypeCheckError
from graphir.ir.operator import Array, Attributes, GradientContext, Xp, operator
from graphir.ir.traits import PRODUCT
from graphir.ir.types import DTYPES, FLOATS
from graphir.ir.value import Value
from graphir.operators.cast import cast_to
from graphir.operators.shape import flatten, reduce_sum, transpose

#: In what products of fewer bits are added up.
SUM = "float32"


def _swap(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _result(dtype: str) -> str:
    """What stands behind a result's brackets: nothing for the operands' dtype."""
    if dtype and dtype not in FLOATS:
        raise TypeCheckError(f"dtype={dtype!r} of a product is no float; choose from {', '.join(sorted(FLOATS))}")
    return " dtype" if dtype else ""


def _matmul_signature(dtype: str) -> tuple[str, ...]:
    result = f"Y[*b m n]{_result(dtype)}"
    grouped = f"X[*b g m k], W[*b k n] -> Y[*b g m n]{_result(dtype)}"
    return f"X[*b m k], W[k n] -> {result}", f"X[*b m k], W[*b k n] -> {result}", grouped


@operator(
    "matmul",
    _matmul_signature,
    symbol="•",
    infix=True,
    computes=PRODUCT,
    linear="X W",
    accumulates="dtype",
    flops=2,
)
def matmul(xp: Xp, X: Array, W: Array, *, dtype: str = "") -> Array:
    """Y [*b, m, n] = X [*b, m, k] • W [k, n], or W [*b, k, n], one matrix for each b; Y in `dtype`, if given.

    With one dim more than W, X [*b, g, m, k] is g matrices for each W [*b, k, n].
    """
    Y = _product(_summable(X), _summable(W))
    return Y.astype(dtype or X.dtype, copy=False)


def _product(X: Array, W: Array) -> Array:
    if W.ndim == 2 and X.ndim > 2:
        # One large product instead of a stack of small ones.
        return (X.reshape(-1, X.shape[-1]) @ W).reshape(*X.shape[:-1], W.shape[-1])
    return X @ (W if W.ndim == X.ndim else W[..., None, :, :])


def _summable(x: Array) -> Array:
    """x in a dtype in which products can be added up: float32, or its own if that is as wide."""
    return x.astype(SUM) if x.dtype.itemsize < DTYPES[SUM] else x


def _d_matmul_signature(shared: bool, grouped: bool, dtype: str) -> str:
    W, result, m = "k n" if shared else "*b k n", _result(dtype), "g m" if grouped else "m"
    if shared and grouped:
        raise TypeCheckError("a W that all *b share is in no group of its own: shared and grouped are not both true")
    return f"X[*b {m} k], W[{W}], dY[*b {m} n] -> dX[*b {m} k]{result}, dW[{W}]{result}"


@matmul.backward(
    "dMatmul",
    _d_matmul_signature,
    depends={"dX": "W dY", "dW": "X dY"},
    accumulates="dtype",
    flops=4,
    examples=({"shared": True}, {"shared": False}, {"shared": False, "grouped": True}),
)
def d_matmul(
    xp: Xp,
    X: Array | None,
    W: Array | None,
    dY: Array,
    *,
    shared: bool,
    grouped: bool = False,
    dtype: str = "",
    only: tuple[str, ...],
) -> tuple[Array | None, Array | None]:
    """dX = dY • Wᵀ, dW = Xᵀ • dY; of a W shared by all *b, dW sums over *b, of one for a group over g. Both in
    `dtype`, if given."""
    dX = dW = None
    if "dX" in only:
        assert W is not None
        dX = matmul.kernel(xp, dY, _swap(W), dtype=dtype)
    if "dW" in only:
        assert X is not None
        if shared:
            X, dY = X.reshape(-1, X.shape[-1]), dY.reshape(-1, dY.shape[-1])
        if grouped:
            X, dY = (each.reshape(*each.shape[:-3], -1, each.shape[-1]) for each in (X, dY))
        dW = matmul.kernel(xp, _swap(X), dY, dtype=dtype)
    return dX, dW


@matmul.gradient
def _d_matmul(context: GradientContext) -> list[Value | None]:
    X, W = context.inputs
    context = context._replace(gradients=(cast_to(context.gradient, X.dtype),))
    shared, dtype, (dX_name, dW_name) = W.type.rank == 2, context.attributes["dtype"], context.names
    if not (shared and dtype and DTYPES[dtype] < DTYPES[SUM]):
        return context.d_node(d_matmul, shared=shared, grouped=not shared and W.type.rank < X.type.rank)
    # One node of each, as they differ in dtype.
    dX, _ = context._replace(names=(dX_name, None)).d_node(d_matmul, shared=shared)
    _, dW = context._replace(names=(None, dW_name)).d_node(d_matmul, shared=shared, dtype=SUM)
    return [dX, dW]


@d_matmul.lowering
def _take_apart(operands: Mapping[str, Value], attributes: Attributes, names: Mapping[str, str]) -> dict[str, Value]:
    """dMatmul as A's backward figures draw it: T of the cached values, and a • for each gradient.

    Of a W that all *b share, X and dY are flattened, and of a group's W their rows are, where each rank's rows are a
    block of all rows: where no dim but the first of those is split. Elsewhere each matrix X has a product of its own,
    and Σ adds them up.
    """
    dY, dtype, made = operands["dY"], attributes["dtype"], dict[str, Value]()
    if "dX" in names:
        made["dX"] = matmul(dY, transpose(operands["W"]), dtype=dtype, name=names["dX"])
    if "dW" in names:
        X = operands["X"]
        last = X.type.rank - 1
        first = 0 if attributes["shared"] else last - 2 if attributes["grouped"] else last - 1
        several = last - first > 1
        if several and any(X.type.layout.splits[first + 1 : last]):
            products = matmul(transpose(X), dY, dtype=dtype)
            made["dW"] = reduce_sum(products, range(first, last - 1), name=names["dW"])
        else:
            X, dY = (flatten(X, first=first), flatten(dY, first=first)) if several else (X, dY)
            made["dW"] = matmul(transpose(X), dY, dtype=dtype, name=names["dW"])
    return made
