"""graphir: Transformers as typed computation graphs.

    import graphir as gi

    B, S, D, F = gi.dims("B S D D_ff")
    block = gi.Builder("mlp")
    X = block.input("X", (B, S, D))
    Z = gi.matmul(X, block.parameter("W_up", (D, F)), name="Z_up")
    graph = block.build(gi.activation(Z, name="A_up"))

The language lives here, `graphir.passes` rewrites graphs, `graphir.backends` runs them; `gi.compile` ties
them together and loads the latter two only when called.
"""

from __future__ import annotations

from graphir import interrupts as _interrupts  # noqa: F401  # isort: skip  before what takes its time to load

from collections.abc import Mapping, Sequence
from os import PathLike
from os.path import dirname, isfile, join
from typing import TYPE_CHECKING, Any

# A checkout without symbolic links, such as a zip that was unpacked on Windows, has small files where the links to
# `passes` and `backends` should be. The folders themselves lie beside this one, so they are looked for there, too.
if isfile(join(__path__[0], "passes")):
    __path__.append(dirname(__path__[0]))

import graphir.ir.pickled
import graphir.shown  # noqa: F401  says how they show themselves
from graphir import models
from graphir.compiler import compile, initialize
from graphir.errors import GraphirError
from graphir.ir.builder import Builder
from graphir.ir.dims import Dim, dim, dims
from graphir.ir.graph import Graph, Meta, Node
from graphir.ir.layout import Layout, Mesh
from graphir.ir.operator import Array, Place, Size, Xp, find_operator, operator, operators
from graphir.ir.types import TensorType
from graphir.ir.value import Value
from graphir.ir.verify import verify
from graphir.operators import *  # noqa: F403
from graphir.operators import __all__ as _operator_names
from graphir.version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from graphir.checking import Report
    from graphir.drawing import View
    from graphir.generation import Generation
    from graphir.hub import Pretrained
    from graphir.passes import Plan


def to_dot(graph: Graph, view: str = "overall") -> str:
    """The graph, at any stage, as a DOT source: `overall`, or a block's `mha-forward`, `mlp-backward`, ….

    Errors: ConfigError if no view is called so.
    """
    from graphir.drawing import to_dot

    return to_dot(graph, view)


def draw(graph: Graph, path: str | PathLike[str], view: str | View | None = None) -> Path:
    """Draws the graph, at any stage, into a file, whose suffix says the format: svg, png, pdf, dot, html, json.

    `view` is `overall`, `forward`, `backward`, `full`, a figure's id or a scope such as `layer0/mha`; by itself every
    node of what is small, and of a model its blocks. The file is there whole or not at all. Returns its path.
    Errors: ConfigError for an unknown format or view, or a file that cannot be written; MissingDependencyError, with
    what to install, if nothing here makes the format.
    """
    from pathlib import Path

    from graphir.drawing.files import format_of, graph_file
    from graphir.files import write_atomically

    content = graph_file(graph, format_of(Path(path)), view)
    write_atomically(Path(path), lambda file: file.write(content))
    return Path(path)


def check(
    graph: Graph,
    mesh: Mesh,
    plan: str | Plan | None = None,
    sizes: Mapping[str, int] | None = None,
    **options: Any,
) -> Report:
    """Runs the graph on one rank and sharded over `mesh`, and compares every tensor; `print` shows what was found.

    A graph that has no backward pass gets one, from its loss or from its results. `plan` is a ready-made one, a sum
    such as "data+megatron", or a `graphir.passes.Plan`; the usual one by itself. `sizes` that are not given are small
    ones that every axis divides; arguments are drawn at random. `report.ok` says whether rounding explains all
    deviations, `report.first` which node departs first, on which ranks, from which line. `options` are those of
    `graphir.checking.check` (backend="numpy", threads=2), and optimizer="adamw", precision="bfloat16", seed=0.
    Errors: LayoutError or DimError if graph, plan, mesh and sizes do not fit each other.
    """
    from graphir.checking import check_graph

    return check_graph(graph, mesh, plan, sizes, **options)


def generate(model: Pretrained | str | PathLike[str], prompt: str | Sequence[Any], **options: Any) -> Generation:
    """What a model that others have trained says to a prompt, token by token: see `graphir.generation.generate`.

        for token in gi.generate("SmolLM2-135M-Instruct", "What is a tensor?", chat=True):
            print(token, end="", flush=True)

    `model` is a folder or a .gguf file, or what `graphir.hub.open_model` made of one; options are max_tokens, stop,
    chat, temperature, top_k, top_p, min_p, repetition, seed, mesh and plan, and those of `gi.compile`.
    """
    from graphir.generation import generate

    return generate(model, prompt, **options)


if TYPE_CHECKING:
    from graphir.text import parse, to_text
else:  # to a type checker, a module that has this has whatever is asked for

    def __getattr__(name: str) -> object:
        if name in ("parse", "to_text"):  # whoever needs no text need not load what reads and writes it
            from graphir import text

            found = globals()[name] = getattr(text, name)
            return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Array",
    "Builder",
    "Dim",
    "Graph",
    "GraphirError",
    "Layout",
    "Mesh",
    "Meta",
    "Node",
    "Place",
    "Size",
    "TensorType",
    "Value",
    "Xp",
    "check",
    "compile",
    "dim",
    "dims",
    "draw",
    "find_operator",
    "generate",
    "initialize",
    "models",
    "operator",
    "operators",
    "parse",
    "to_dot",
    "to_text",
    "verify",
    *_operator_names,
]
