"""The multi-layer perceptron of B 1.2: X [B, D_in] to Y [B, D_out], and its mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphir.errors import ConfigError
from graphir.ir.builder import Builder
from graphir.ir.dims import Dim, DimLike, dim
from graphir.ir.graph import Graph
from graphir.ir.types import FLOATS
from graphir.ir.value import Value
from graphir.operators import activation as activate
from graphir.operators import (
    add,
    broadcast,
    count_elements,
    divide_by_count,
    matmul,
    multiply,
    reduce_sum,
    scale,
)
from graphir.operators.elementwise import KINDS
from graphir.options import checked, made_of, option


@dataclass(frozen=True)
class MlpOptions:
    """What the MLP may vary in, beside its widths."""

    layers: int = option(2, "The number of linear layers.", least=1)
    activation: str = option("relu", "GL, between them.", choices=KINDS)
    dtype: str = option("float32", "The floats of all tensors.", choices=tuple(sorted(FLOATS)))

    def __post_init__(self) -> None:
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)


def mlp(layers: int = 2, *, widths: Sequence[DimLike] | None = None, **options: Any) -> Graph:
    """Linear layers with activations between: inputs X [B, D_in] and Target [B, D_out], loss L.

    `layers` linear layers of widths D_in, D_1, …, D_out (or `widths`, layers + 1 dims).
    L = Σ (Y − Target)² / (B · D_out).
    Errors: ConfigError, with the option's name, for one that is unknown or a value that it cannot have.
    """
    chosen = made_of(MlpOptions, "an MLP", {"layers": layers, **options})
    count = chosen.layers
    names = ["D_in", *(f"D_{i}" for i in range(1, count)), "D_out"]
    sizes = list(widths) if widths is not None else [dim(name) for name in names]
    if len(sizes) != count + 1:
        raise ConfigError(
            f"widths={tuple(sizes)} are {len(sizes)} dims, but layers={count} needs {count + 1}: {', '.join(names)}"
        )
    B: Dim = dim("B")
    block = Builder("mlp", dtype=chosen.dtype)
    X = block.input("X", (B, sizes[0]))
    target = block.input("Target", (B, sizes[-1]))
    for i in range(count):
        with block.scope(f"layer{i}"):
            X = _linear(block, X, B, sizes[i], sizes[i + 1])
            if i + 1 < count:
                X = activate(X, kind=chosen.activation, name="A")
    with block.scope("loss"):
        error = add(X, scale(target, by=-1.0, name="minus_target"), name="error")
        total = reduce_sum(multiply(error, error, name="squared"), name="total")
        L = divide_by_count(total, count_elements(target, name="n"), name="L")
    block.alias("Y", X)
    block.alias("L", L)
    return block.build(L, X)


def _linear(block: Builder, X: Value, B: Dim, width_in: DimLike, width_out: DimLike) -> Value:
    """Z = X • W + BC_B(b)."""
    W = block.parameter("W", (width_in, width_out))
    b = block.parameter("b", (width_out,), init="zeros")
    Z_lin = matmul(X, W, name="Z_lin")
    return add(Z_lin, broadcast(b, (B,), name="BC_b"), name="Z")
