"""Which of OpenBLAS's kernels the command line runs on: its AVX-512 ones, where they are safe.

A *core* is OpenBLAS's word for a processor that it has kernels for. On some processors it takes an AVX2 core though
AVX-512 is there, and multiplies at half the speed. It reads its choice from the environment when it is loaded, so the
choice has to be made before NumPy's first import. A program of its own may do that; a library must not change its
user's process, and `import graphir` does not.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Set

from graphir.processor import has_avx512, processor_features

VARIABLE = "OPENBLAS_CORETYPE"
CORE = "SkylakeX"

#: By these a user speaks to OpenBLAS of its cores: one chooses, the other asks which one was chosen.
_SPOKEN = (VARIABLE, "OPENBLAS_VERBOSE")


def wanted_core(environment: Mapping[str, str], features: Set[str] | None, system: str) -> str | None:
    """The core to ask for; None to leave the choice to OpenBLAS.

    `features` are the processor's, None if unknown; `system` is the platform, `Linux x86_64`.
    """
    if system != "Linux x86_64" or any(name in environment for name in _SPOKEN) or not has_avx512(features):
        return None
    return CORE


def pick_core() -> None:
    """Asks OpenBLAS for its AVX-512 core where that is safe; does nothing if NumPy is loaded already."""
    if "numpy" in sys.modules:
        return
    core = wanted_core(os.environ, processor_features(), f"{platform.system()} {platform.machine()}")
    if core is not None:
        os.environ[VARIABLE] = core
