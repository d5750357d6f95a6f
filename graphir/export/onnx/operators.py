"""The rules: operators of the dictionary for which ONNX has one that means the same, exactly or but for rounding.

All others are written by their formulas. An operator more is an entry here.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphir.export.onnx.rules import Written, rule
from graphir.export.onnx.writer import Tensor, Writer
from graphir.ir.dims import product
from graphir.ir.graph import Node
from graphir.ir.types import DTYPES
from graphir.operators import (
    activation,
    argmax,
    cache_write,
    gated,
    layer_norm,
    lookup,
    matmul,
    rms_norm,
    rope,
    softmax,
    top_k,
)
from graphir.operators.special import MASKED

#: In what products of fewer bits are added up, and LayerNormalization computes.
_SUM = "float32"


@rule(matmul)
def _matmul(write: Writer, node: Node, X: Tensor, W: Tensor) -> Written:
    ranks = [value.type.rank for value in node.inputs]
    if 2 < ranks[1] < ranks[0]:
        # A group's matrix, for each of the group.
        W = write.unsqueeze(W, [ranks[1] - 2])
    wide = [write.cast(each, _SUM) if DTYPES[each.dtype] < DTYPES[_SUM] else each for each in (X, W)]
    return write.cast(write("MatMul", *wide), node.outputs[0].dtype)


@rule(lookup)
def _lookup(write: Writer, node: Node, E: Tensor, T: Tensor) -> Written:
    return write("Gather", E, T, axis=0)


@rule(cache_write)
def _cache_write(write: Writer, node: Node, cache: Tensor, rows: Tensor, start: Tensor) -> Written:
    """Scatters the rows to (start + i) mod n."""
    *_, n, _ = node.inputs[0].shape
    if write.has("TensorScatter"):
        return write("TensorScatter", cache, rows, write.cast(start, "int64"), axis=-2, mode="circular")
    shape = node.inputs[1].shape
    places = write("Add", write.unsqueeze(write.cast(start, "int64"), [1]), write.range(shape[-2]))
    wrapped = write("Mod", places, write.length(n))
    wide = write.unsqueeze(wrapped, [*range(1, len(shape) - 2), len(shape) - 1])
    return write("ScatterElements", cache, write("Expand", wide, write.shape(shape)), rows, axis=-2)


@rule(layer_norm)
def _layer_norm(write: Writer, node: Node, X: Tensor, gamma: Tensor, beta: Tensor) -> Written:
    if X.dtype != _SUM:
        # It has its statistics in float32, whatever X is.
        return None
    normal, *statistics = write.all(
        "LayerNormalization", X, gamma, beta, results=3, axis=-1, epsilon=node.attributes["epsilon"]
    )
    return normal, *(write.squeeze(each, [-1]) for each in statistics)


@rule(rms_norm)
def _rms_norm(write: Writer, node: Node, X: Tensor, gamma: Tensor) -> Written:
    """It has ε in float32, and keeps no statistics."""
    if X.dtype != _SUM or not write.has("RMSNormalization"):
        return None
    offset = node.attributes["offset"]
    weights = write("Add", gamma, write.number(offset, gamma.dtype)) if offset else gamma
    return write("RMSNormalization", X, weights, axis=-1, epsilon=node.attributes["epsilon"]), None


@rule(rope)
def _rope(write: Writer, node: Node, X: Tensor, cos: Tensor, sin: Tensor) -> Written:
    """Heads are in one axis there, whether or not they are in groups."""
    shape, planes = node.inputs[0].shape, write.dims.fixed(node.inputs[1].shape[-1])
    if X.dtype != _SUM or planes is None or not write.has("RotaryEmbedding"):
        return None
    b, *heads, s, width = shape
    together = [b, product(heads), s, width]
    share: Mapping[str, int] = {} if write.dims.fixed(width) == 2 * planes else {"rotary_embedding_dim": 2 * planes}
    turned = write("RotaryEmbedding", write.reshape(X, shape, together), cos, sin, **share)
    return write.reshape(turned, together, shape)


@rule(softmax)
def _softmax(write: Writer, node: Node, Z: Tensor) -> Written:
    """Softmax, but for a row all of whose scores are masked, which is 0: ONNX has 1/n there, or NaN."""
    lowest = float("-inf") if Z.dtype == "float16" else MASKED
    top = write("ReduceMax", Z, write.integers([-1]), keepdims=1)
    nothing = write("LessOrEqual", top, write.number(lowest, Z.dtype))
    return write("Where", nothing, write.number(0.0, Z.dtype), write("Softmax", Z, axis=-1))


@rule(activation)
def _activation(write: Writer, node: Node, X: Tensor) -> Written:
    return _activated(write, node.attributes["kind"], X)


@rule(gated)
def _gated(write: Writer, node: Node, gate: Tensor, up: Tensor) -> Written:
    opened = _activated(write, node.attributes["kind"], gate)
    return None if opened is None else write("Mul", opened, up)


def _activated(write: Writer, kind: str, X: Tensor) -> Tensor | None:
    if kind == "relu":
        return write("Relu", X)
    if kind == "silu":
        # Swish is newer, and onnxruntime 1.32 has a kernel for it in opset 24 alone.
        return write("Mul", X, write("Sigmoid", X))
    approximate = {"gelu": "none", "gelu_tanh": "tanh"}.get(kind)
    # Gelu is defined by numbers of float32.
    if approximate is None or X.dtype == "float64" or not write.has("Gelu"):
        return None
    return write("Gelu", X, approximate=approximate)


@rule(argmax)
def _argmax(write: Writer, node: Node, P: Tensor) -> Written:
    return write("ArgMax", P, axis=-1, keepdims=0)


@rule(top_k)
def _top_k(write: Writer, node: Node, P: Tensor, seed: Tensor, step: Tensor) -> Written:
    return _argmax(write, node, P) if node.attributes["temperature"] == 0 else None
