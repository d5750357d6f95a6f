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

from graphir import interrupts as _interrupts  # noqa: F401  # isort: skip  before what takes its time to load

from os.path import dirname, isfile, join
from typing import TYPE_CHECKING

# A checkout without symbolic links, such as a zip that was unpacked on Windows, has small files where the links to
# `passes` and `backends` should be. The folders themselves lie beside this one, so they are looked for there, too.
if isfile(join(__path__[0], "passes")):
    __path__.append(dirname(__path__[0]))

import graphir.ir.pickled  # noqa: F401  says how graphs are pickled
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


def to_dot(graph: Graph, view: str = "overall") -> str:
    """The graph, at any stage, as a DOT source: `overall`, or a block's `mha-forward`, `mlp-backward`, ….

    Errors: ConfigError if no view is called so.
    """
    from graphir.drawing import to_dot

    return to_dot(graph, view)


if TYPE_CHECKING:
    from graphir.text import parse, to_text
else:  # to a type checker, a module that has this has whatever is asked for

    def __getattr__(name: str) -> object:
        if name in ("parse", "to_text"):  # whoever needs no text need not load what reads and writes it
            from graphir import text

            found = globals()[name] = getattr(text, name)
            return found
        if name == "draw":
            raise AttributeError(
                "graphir has no draw: gi.to_dot(graph) is a drawing in the DOT language, and "
                'graphir.drawing.render.render(gi.to_dot(graph), "svg") the bytes of a file'
            )
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
    "compile",
    "dim",
    "dims",
    "find_operator",
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
