"""The command that installs what an extra of pyproject.toml does, for who is told that something is missing.

It is one from graphir's checkout: `graphir` on PyPI is another project, so that `pip install "graphir[…]"` would bring
somebody else's, and packages told by their own names would be told twice, here and in pyproject.toml.
"""

from __future__ import annotations

#: The extras that somebody may be told to install.
EXTRAS = ("viz", "fast", "mpi", "cuda12", "cuda13", "bfloat16", "xla", "tokenizers", "onnx", "hub", "gguf")


def install(extra: str) -> str:
    """The command that installs the extra: `pip install ".[fast]"`, and where to give it."""
    return f'pip install ".[{extra}]" in graphir\'s checkout'
