"""What is not exported: said in a sentence, with the node, the user's line and what to do; and nothing is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

import graphir as gi
from graphir.errors import ConfigError, DimError, ExportError, GraphError, GraphirError, MissingDependencyError
from graphir.export import FORMATS
from graphir.export.onnx import save, to_onnx
from graphir.extras import install
from graphir.passes import autodiff, optimize, shard

SIZES = {"D": 24, "N_H": 3, "D_ff": 40, "V": 61}


def transformer(**options: Any) -> gi.Graph:
    return gi.models.transformer(**{"layers": 1, "dropout": 0.0, **options})


def test_without_the_package_it_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=re.escape(install("onnx"))):
        to_onnx(transformer(), SIZES)


def test_an_option_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "other", type(FORMATS["onnx"])("another", "nowhere", {}))
    with pytest.raises(ConfigError, match="the format other has no --opset; it is an option of onnx"):
        FORMATS["other"].chosen("other", {"opset": 20})
    assert FORMATS["other"].chosen("other", {"opset": None}) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "sizes", "options", "error", "words"),
    [
        (lambda: transformer(dropout=0.1), SIZES, {}, ExportError, r"X \(operator DO, at .*py:\d+\).*dropout=0.0"),
        (lambda: transformer(decode="top-k"), SIZES, {"fetch": ["output/ids"]}, ExportError, r"output/ids .*decode="),
        (lambda: autodiff(transformer()), SIZES, {}, ExportError, "backward pass.*export the forward graph"),
        (lambda: autodiff(transformer()), SIZES, {"fetch": ["embedding/dE"]}, ExportError, "backward pass"),
        (lambda: optimize(autodiff(transformer())), SIZES, {}, ExportError, "what is exported is for inference"),
        (lambda: shard(transformer(), gi.Mesh(tp=2), "megatron"), SIZES, {}, ExportError, "before gi.shard"),
        (lambda: transformer(text=True), SIZES, {}, ExportError, "reads text.*begin at token ids"),
        (transformer, {"D": 24}, {}, DimError, "D_ff, N_H, V of graph transformer must have a size.*B, S"),
        (transformer, {**SIZES, "N_H": 5}, {}, DimError, "not whole"),
        (transformer, {**SIZES, "Q": 5}, {}, DimError, "no dim of this graph is called Q"),
        (transformer, {**SIZES, "B": 0}, {}, DimError, "positive"),
        (transformer, SIZES, {"fetch": ["output/Z_bais"]}, GraphError, "did you mean output/Z_bias"),
        (transformer, SIZES, {"fetch": []}, ExportError, "returns nothing"),
        (transformer, SIZES, {"opset": 12}, ExportError, "opset 12 has no .* needs; the least that will do is 18"),
        (transformer, SIZES, {"opset": 999}, ExportError, "opset 999 is unknown to onnx"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)  # fmt: skip
def test_what_cannot_be_exported_is_told(
    make: Callable[[], gi.Graph], sizes: dict[str, int], options: dict[str, Any], error: type[GraphirError], words: str
) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(error, match=words):
        to_onnx(make(), sizes, **options)


@pytest.mark.slow
def test_a_dim_that_no_input_shows_needs_a_size() -> None:
    pytest.importorskip("onnx")
    block = gi.Builder("made")
    S, D = gi.dims("S D")
    graph = block.build(gi.sinusoidal_positions(s=S, d=D, name="P", builder=block))
    with pytest.raises(DimError, match="no input of the exported model has the dim S"):
        to_onnx(graph, {"D": 4})


@pytest.mark.slow
def test_an_opset_that_lacks_what_only_open_sizes_need_is_told() -> None:
    pytest.importorskip("onnx")
    block = gi.Builder("wide")
    B, S = gi.dims("B S")
    graph = block.build(gi.broadcast(block.input("X", (S,)), (B,), name="Y"), gi.exponential(block.input("Z", (B,))))
    with pytest.raises(ExportError, match="opset 13 has no Shape of 1 operands with start, end, which the model needs"):
        to_onnx(graph, opset=13)
    assert to_onnx(graph, {"B": 2, "S": 3}, opset=13).graph.node


@pytest.mark.slow
def test_a_size_that_a_kernel_computes_with_cannot_stay_open() -> None:
    pytest.importorskip("onnx")

    @gi.operator("over_length", "X[*b s] -> Y[*b s]", no_gradient="a test's")
    def over_length(xp: gi.Xp, X: gi.Array, *, s: gi.Size) -> gi.Array:
        """Y = X / s."""
        return X * (1 / s)

    B, S = gi.dims("B S")
    block = gi.Builder("over")
    graph = block.build(over_length(block.input("X", (B, S)), s=S, name="Y"))
    with pytest.raises(ExportError, match=r"Y \(operator over_length, at .*\) computes with the size of S.*'S': …"):
        to_onnx(graph)
    assert to_onnx(graph, {"S": 4}).graph.node


@pytest.mark.slow
def test_nothing_is_left_where_a_file_cannot_be_written(tmp_path: Any) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(ConfigError, match=r"nowhere/model\.onnx: No such file or directory"):
        save(transformer(), tmp_path / "nowhere/model.onnx", SIZES)
    kept = tmp_path / "model.onnx"
    kept.write_bytes(b"before")
    with pytest.raises(ExportError):
        save(transformer(dropout=0.5), kept, SIZES)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert kept.read_bytes() == b"before"
