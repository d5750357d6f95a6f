"""Matrix multiplication: • and dMatmul (A 1.3, B 3.3 and 4.4.1)."""

from __future__ import annotations

from collections.abc import Mapping

from graphir.ir.operator import Array, Attributes, GradientContext, Xp, operator
from graphir.ir.value import Value
from graphir.operators.shape import flatten, transpose


def _swap(x: Array) -> Array:
    return x.swapaxes(-1, -2)


@operator(
    "matmul",
    ("X[*b m k], W[k n] -> Y[*b m n]", "X[*b m k], W[*b k n] -> Y[*b m n]"),
    symbol="•",
    linear="X W",
    flops=2,
)
def matmul(xp: Xp, X: Array, W: Array) -> Array:
    """Y [*b, m, n] = X [*b, m, k] • W [k, n], or W [*b, k, n], one matrix for each b."""
    if W.ndim == 2 and X.ndim > 2:
        # One large product instead of a stack of small ones.
        return (X.reshape(-1, X.shape[-1]) @ W).reshape(*X.shape[:-1], W.shape[-1])
    return X @ W


def _d_matmul_signature(shared: bool) -> str:
    W = "k n" if shared else "*b k n"
    return f"X[*b m k], W[{W}], dY[*b m n] -> dX[*b m k], dW[{W}]"


@matmul.backward(
    "dMatmul",
    _d_matmul_signature,
    depends={"dX": "W dY", "dW": "X dY"},
    flops=4,
    examples=({"shared": True}, {"shared": False}),
)
def d_matmul(
    xp: Xp, X: Array | None, W: Array | None, dY: Array, *, shared: bool, only: tuple[str, ...]
) -> tuple[Array | None, Array | None]:
    """dX = dY • Wᵀ, dW = Xᵀ • dY; of a W shared by all *b, dW sums over *b."""
    dX = dW = None
    if "dX" in only:
        assert W is not None
        dX = matmul.kernel(xp, dY, _swap(W))
    if "dW" in only:
        assert X is not None
        dW = X.reshape(-1, X.shape[-1]).T @ dY.reshape(-1, dY.shape[-1]) if shared else _swap(X) @ dY
    return dX, dW


@matmul.gradient
def _one_node(context: GradientContext) -> list[Value | None]:
    return context.d_node(d_matmul, shared=context.inputs[1].type.rank == 2)


@d_matmul.lowering
def _take_apart(operands: Mapping[str, Value], attributes: Attributes, names: Mapping[str, str]) -> dict[str, Value]:
    """dMatmul as A's backward figures draw it: T of the cached values, and a • for each gradient."""
    dY, made = operands["dY"], dict[str, Value]()
    if "dX" in names:
        made["dX"] = matmul(dY, transpose(operands["W"]), name=names["dX"])
    if "dW" in names:
        X = operands["X"]
        if attributes["shared"] and X.type.rank > 2:
            X, dY = flatten(X), flatten(dY)
        made["dW"] = matmul(transpose(X), dY, name=names["dW"])
    return made
