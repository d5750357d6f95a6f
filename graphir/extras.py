"""What each extra of pyproject.toml installs, for who is told that something is missing.

Packages go by their own names here: `graphir` on PyPI is another project, so that `pip install "graphir[…]"` would
bring somebody else's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "viz": ("matplotlib>=3.8", "graphviz-pure>=0.2", "resvg-py>=0.3"),
    "fast": ("numba>=0.60",),
    "mpi": ("mpi4py>=4.0", "mpich>=4.2"),
    "cuda12": ("cupy-cuda12x[ctk]>=14", "numpy>=2.1.2", "nvidia-nccl-cu12", "ml_dtypes>=0.4"),
    "cuda13": ("cupy-cuda13x[ctk]>=14", "numpy>=2.1.2", "nvidia-nccl-cu13", "ml_dtypes>=0.4"),
    "bfloat16": ("ml_dtypes>=0.4",),
    "xla": ("jax>=0.8", "ml_dtypes>=0.4"),
    "tokenizers": ("tokenizers>=0.20",),
    "onnx": ("onnx>=1.19",),
}


def install(extra: str) -> str:
    """The command that installs what the extra does: `pip install 'numba>=0.60'`."""
    return " ".join(["pip install", *map(shlex.quote, EXTRAS[extra])])
