"""JAX, which is loaded here and nowhere else, when it is asked for; and its devices, as those of a mesh."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from graphir.errors import DeviceError, MissingDependencyError
from graphir.extras import install
from graphir.ir.layout import Mesh

#: The first JAX that has `jax.shard_map` and `jax.enable_x64`.
_OLDEST = (0, 8)
_FLAG = "XLA_FLAGS=--xla_force_host_platform_device_count"


@cache
def load_jax() -> Any:
    """The module `jax`. MissingDependencyError, with what to install, where there is none, or one too old."""
    try:
        jax = importlib.import_module("jax")
        importlib.import_module("jax.export")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "jax"
        why = "is not installed" if missing else f"cannot be loaded ({str(error).strip().splitlines()[0]})"
        raise MissingDependencyError(f'backend="xla" was asked for, and JAX {why}: {install("xla")}') from None
    found = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if found < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise MissingDependencyError(
            f'backend="xla" was asked for, and JAX {jax.__version__} is older than {oldest}: {install("xla")}'
        )
    return jax


def wide() -> AbstractContextManager[Any]:
    """Inside, JAX has the integers and floats of 64 bits that a graph has, whatever it does outside."""
    found: AbstractContextManager[Any] = load_jax().enable_x64(True)
    return found


def devices_of(mesh: Mesh) -> list[Any]:
    """As many devices as the mesh has ranks, in their order.

    Of a machine with CPUs alone JAX is asked for so many virtual ones, as long as nothing has used it yet.
    DeviceError, with what to do, where there are fewer.
    """
    jax = load_jax()
    try:
        if mesh.size > 1:
            _provide(mesh.size)
        found = jax.devices()
    except RuntimeError as error:
        raise DeviceError(f'backend="xla" finds no device: {str(error).strip().splitlines()[0]}') from None
    if len(found) < mesh.size:
        kind = found[0].platform
        how = f"; start Python with {_FLAG}={mesh.size} for virtual ones" if kind == "cpu" else ""
        raise DeviceError(
            f"mesh {mesh} needs {mesh.size} devices, but JAX has {len(found)} ({kind}){how}; or choose a smaller one"
        )
    return list(found[: mesh.size])


def _provide(count: int) -> None:
    """Asks for virtual CPUs; once JAX has begun, it has those that it has."""
    jax = load_jax()
    if jax.config.jax_num_cpu_devices < count:
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:  # JAX has begun
            return
