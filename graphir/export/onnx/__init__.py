"""ONNX: a forward graph as a model that onnxruntime and others run, for every B and S.

    from graphir.export.onnx import save

    model = gi.models.transformer(layers=2, dropout=0.0)
    save(model, "model.onnx", dict(D=48, N_H=6, D_ff=96, V=256), fetch=["output/Z_bias"], parameters=arrays)

    model       to_onnx: which nodes, what goes in, what comes out, what is said of it all
    refusals    what no exported model can have: gradients, updates, collectives, random numbers
    dims        sizes: numbers where they are given, named and asked of the inputs at run time where not
    writer      nodes as they are written: their names, types, what the chosen opset has of them
    rules       how an operator's rule is declared
    operators   the rules: operators for which ONNX has one that means the same
    attention   what is one operator there and several nodes here: attention's core, plain or grouped, and its masks
    terms       all others, from their formulas
    axes        operands and results between a signature's axes and a formula's factors
    package     the package `onnx`, imported when something is exported

An operator needs no rule: its kernel's formula becomes ONNX's elementwise operators, reductions and picks. A rule says
what reads better, and is known to be fused by who runs it: MatMul, RMSNormalization, RotaryEmbedding. One for an
operator of your own is declared beside it, by `@rule(operator)` as in `operators`.
"""

from __future__ import annotations

from graphir.export.onnx.model import save, to_onnx
from graphir.export.onnx.rules import rule
from graphir.export.onnx.writer import Tensor, Writer

__all__ = ["Tensor", "Writer", "rule", "save", "to_onnx"]
