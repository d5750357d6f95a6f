"""A Transformer block in mixed precision, in graphir and in PyTorch: the same numbers, rounded in the same places.

u is the distance of two neighbouring numbers at 1: 2⁻⁷ in bfloat16, 2⁻¹⁰ in float16. Who imports it needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import graphir as gi
from graphir.passes import autodiff, mixed_precision

UNIT = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
B, S, D, F = gi.dims("B S D D_ff")


def distance(found: Any, expected: Any) -> float:
    """The worst distance of any result from `expected`, relative to the norm of that result."""
    gaps = []
    for name in expected:
        mine, right = np.asarray(found[name], np.float64), np.asarray(expected[name], np.float64)
        gaps.append(float(np.linalg.norm(mine - right) / np.linalg.norm(right)))
    return max(gaps)


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """X • W of operands rounded to `kind`, and its backward pass with dY rounded, all sums in float32.

    With `narrow` results are rounded, too, and so is dX, but not the gradient of a weight.
    """

    @staticmethod
    def forward(context: Any, X: Any, W: Any, kind: Any, narrow: bool) -> Any:
        X, W = X.to(kind).float(), W.to(kind).float()
        context.save_for_backward(X, W)
        context.kind, context.narrow = kind, narrow
        return (X @ W).to(kind).float() if narrow else X @ W

    @staticmethod
    def backward(context: Any, dY: Any) -> Any:  # type: ignore[override]
        X, W = context.saved_tensors
        dY = dY.to(context.kind).float()
        dX, dW = dY @ W.transpose(-1, -2), X.transpose(-1, -2) @ dY
        if context.narrow:
            dX = dX.to(context.kind).float()
        if W.dim() < dW.dim():
            dW = dW.sum(0)
        elif context.narrow:
            dW = dW.to(context.kind).float()
        return dX, dW, None, None


def product_of(dtype: str, narrow: bool = False) -> Callable[[Any, Any], Any]:
    """Products on operands of `dtype`, which return results of `dtype` if they are `narrow`."""
    return lambda X, W: _Product.apply(X, W, getattr(torch, dtype), narrow)


def block_in_torch(t: dict[str, Any], product: Any) -> Any:
    """A layer with attention of one head and an MLP, and its loss Σ R ⊙ Y."""
    H = torch.nn.functional.layer_norm(t["X"], (16,), t["gamma"], t["beta"])
    Q, K, V = (product(H, t[f"W_{which}"]) for which in "QKV")
    P = torch.softmax(product(Q, K.transpose(1, 2)) / 4, -1)
    X = t["X"] + product(product(P, V), t["W_O"])
    Y = X + product(torch.nn.functional.gelu(product(X, t["W_up"]), approximate="tanh"), t["W_down"])
    return (Y * t["R"]).sum()


def block_in_graphir() -> gi.Graph:
    block = gi.Builder("block")
    X = block.parameter("X", (B, S, D))
    W = {name: block.parameter(f"W_{name}", (D, D)) for name in "QKVO"}
    W_up, W_down = block.parameter("W_up", (D, F)), block.parameter("W_down", (F, D))
    H = gi.layer_norm(X, block.parameter("gamma", (D,)), block.parameter("beta", (D,)))
    Q, K, V = (gi.matmul(H, W[which]) for which in "QKV")
    P = gi.softmax(gi.scale(gi.matmul(Q, gi.transpose(K)), by=0.25))
    A = gi.add(X, gi.matmul(gi.matmul(P, V), W["O"]))
    Y = gi.add(A, gi.matmul(gi.activation(gi.matmul(A, W_up), kind="gelu_tanh"), W_down))
    return block.build(gi.reduce_sum(gi.multiply(Y, block.input("R", (B, S, D))), name="L"))


def block_arrays() -> dict[str, Any]:
    rng = np.random.default_rng(8)
    shapes = {"X": (4, 8, 16), "R": (4, 8, 16), "gamma": (16,), "beta": (16,), "W_up": (16, 32), "W_down": (32, 16)}
    shapes |= {f"W_{which}": (16, 16) for which in "QKVO"}
    return {name: rng.standard_normal(shape, np.float32) / 4 for name, shape in shapes.items()}


def in_torch(arrays: dict[str, Any], product: Any, wide: bool = False) -> dict[str, Any]:
    kind = torch.float64 if wide else torch.float32
    tensors = {name: torch.tensor(array, dtype=kind, requires_grad=name != "R") for name, array in arrays.items()}
    block_in_torch(tensors, product).backward()
    return {f"d{name}": tensor.grad.numpy() for name, tensor in tensors.items() if name != "R"}


def in_autocast(arrays: dict[str, Any]) -> dict[str, Any]:
    """PyTorch's own mixed precision, in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        tensors = {name: torch.tensor(array, requires_grad=name != "R") for name, array in arrays.items()}
        loss = block_in_torch(tensors, torch.matmul)
    loss.backward()
    return {f"d{name}": tensor.grad.numpy() for name, tensor in tensors.items() if name != "R"}


def in_graphir(arrays: dict[str, Any], dtype: str, backend: str, results: str = "wide") -> dict[str, Any]:
    graph = autodiff(mixed_precision(block_in_graphir(), dtype, results))
    found = gi.compile(graph, {"B": 4, "S": 8, "D": 16, "D_ff": 32}, backend=backend)(arrays)
    return {f"d{name}": found[f"d{name}"] for name in arrays if name != "R"}
