"""What computes here: which machine and which versions, and what the last bits of its results depend on."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from graphir.backends.blas import find_blas
from graphir.launch import find_launch
from graphir.processor import processor_name
from graphir.version import __version__


def identity() -> str:
    """What tells this machine from all others, which its name may not: images of machines often bring one along."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def default_threads() -> int:
    """As many threads as this process has processors; of several ranks on a machine, each has its share."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        processors = os.cpu_count() or 1
    launch = find_launch()
    return processors if launch is None else launch.share(processors)


def versions(*packages: str) -> dict[str, str]:
    """The versions of graphir and NumPy, and of `packages` beside."""
    return {"graphir": __version__, "NumPy": np.__version__, **{name: _version(name) for name in packages}}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@cache
def arithmetic() -> dict[str, str]:
    """What NumPy computes with: the core of its BLAS, and the instructions that it has found and may use."""
    blas = find_blas()
    known = "unknown" if blas is None else " ".join(each for each in (blas.name, blas.version, blas.core) if each)
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return {"BLAS": known, "instruction set": " ".join(found) or processor_name()}


@dataclass(frozen=True)
class Machine:
    """What a backend computes with.

    place     what is the same for two processes if they compute on one machine, and on GPUs of one kind
    versions  of the packages that it is
    traits    what else the last bits of results depend on
    """

    place: str
    versions: Mapping[str, str]
    traits: Mapping[str, str]

    @classmethod
    def of_versions(cls) -> Machine:
        """By its versions alone."""
        return cls(identity(), versions(), {})

    @classmethod
    def of_processor(cls, threads: int, *packages: str) -> Machine:
        """What this processor computes with on so many threads, by NumPy and these packages."""
        return cls(identity(), versions(*packages), arithmetic() | {"threads": str(threads)})


__all__ = ["Machine", "default_threads", "identity", "versions"]
