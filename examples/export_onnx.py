"""A Transformer as an ONNX file that onnxruntime runs: one file for every batch and length, the same numbers.

    pip install ".[onnx]" onnxruntime
    python examples/export_onnx.py

What is exported is the forward graph, with the parameters in it, under graphir's names. An operator of one's own goes
with it, by the formula of its kernel.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import graphir as gi
from graphir.export.onnx import save

SIZES = {"D": 48, "N_H": 6, "D_ff": 96, "V": 256}


@gi.operator("softcap", "Z[*b] -> Y[*b]", elementwise=True, no_gradient="this program trains nothing")
def softcap(xp: gi.Xp, Z: gi.Array, *, most: float = 30.0) -> gi.Array:
    """Y = c tanh(Z / c): logits that stay within ±c."""
    return most * xp.tanh(Z / most)


def session(graph: gi.Graph, name: str, **options: Any) -> onnxruntime.InferenceSession:
    """The graph as onnxruntime has it, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        save(graph, path, **options)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def compare_logits() -> None:
    """Logits of one file, for several batches and lengths, beside graphir's."""
    graph = gi.models.transformer(layers=2, dropout=0.0, positions="sinusoidal")
    arrays = gi.initialize(graph, {**SIZES, "B": 1, "S": 1})
    run = session(graph, "transformer", sizes=SIZES, fetch=["output/Z_bias"], parameters=arrays)
    for B, S in ((1, 1), (2, 16), (3, 33)):
        T = np.random.default_rng(S).integers(0, SIZES["V"], (B, S))
        (logits,) = run.run(None, {"T": T})
        ours = gi.compile(graph, {**SIZES, "B": B, "S": S}, fetch=["output/Z_bias"])
        wanted = ours(arrays, {"T": T, "Y": T, "seed": 0, "step": 0})["output/Z_bias"]
        print(f"B={B} S={S}: logits {list(logits.shape)} differ by {np.abs(logits - wanted).max():.1e}")


def export_an_own_operator() -> None:
    """A graph with an operator that ONNX has never heard of."""
    block = gi.Builder("capped")
    graph = block.build(softcap(block.input("Z", gi.dims("B S")), name="Y"))
    (Y,) = session(graph, "softcap").run(None, {"Z": np.array([[0.0, 1000.0]], "float32")})
    print(f"softcap of 0 and 1000: {Y[0]}")


if __name__ == "__main__":
    compare_logits()
    export_an_own_operator()
