"""What the machine's processor is and can do, read without any array library.

A *feature* is one of the kernel's words for a set of instructions: `avx2`, `avx512f`.
"""

from __future__ import annotations

import functools
from collections.abc import Set
from pathlib import Path

#: What OpenBLAS's AVX-512 kernels are made of; a processor that lacks one of them would stop at an illegal instruction.
AVX512 = frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"})

_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def _described(path: Path) -> dict[str, str]:
    """The fields of the first processor that Linux lists, its name among them; nothing on another system."""
    try:
        first, _, _ = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): content.strip() for name, _, content in fields}


def processor_name(path: Path = _CPUINFO) -> str:
    """The processor as it calls itself, `AMD EPYC 7R13`; `unknown` where that cannot be read."""
    return _described(path).get("model name") or "unknown"


def processor_features(path: Path = _CPUINFO) -> frozenset[str] | None:
    """The processor's features; None where they cannot be read, which is everywhere but on Linux."""
    flags = _described(path).get("flags")
    return frozenset(flags.split()) if flags else None


def has_avx512(features: Set[str] | None) -> bool | None:
    """Whether all of `AVX512` is among `features`; None if they are unknown."""
    return None if features is None else features >= AVX512
