"""The rules: operators of the dictionary for which ONNX has one that means the same, exactly or but for rounding.

All others are written by their formulas. An operator more is an entry here.
"""

from __future__ import annotations

from graphir.export.onnx.rules import Written, rule
from graphir.export.onnx.writer import Tensor, Writer
from graphir.ir.graph import Node
from graphir.ir.types import DTYPES
from graphir.operators import activation, argmax, cache_write, layer_norm, lookup, matmul, softmax, top_k
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


@rule(softmax)
def _softmax(write: Writer, node: Node, Z: Tensor) -> Written:
    """Softmax, but for a row all of whose scores are masked, which is 0: ONNX has 1/n there, or NaN."""
    lowest = float("-inf") if Z.dtype == "float16" else MASKED
    top = write("ReduceMax", Z, write.integers([-1]), keepdims=1)
    nothing = write("LessOrEqual", top, write.number(lowest, Z.dtype))
    return write("Where", nothing, write.number(0.0, Z.dtype), write("Softmax", Z, axis=-1))


@rule(activation)
def _activation(write: Writer, node: Node, X: Tensor) -> Written:
    kind = node.attributes["kind"]
    if kind == "relu":
        return write("Relu", X)
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
