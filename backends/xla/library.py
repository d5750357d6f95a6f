"""JAX, which is loaded here and nowhere else, when it is asked for; and its devices, as those of a mesh."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from graphir.errors import DeviceError, MissingDependencyError, RunError
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
        why = "is not installed" if missing else f"cannot be loaded ({first_line(error)})"
        raise MissingDependencyError(f'backend="xla" was asked for, and JAX {why}: {install("xla")}') from None
    found = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if found < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise MissingDependencyError(
            f'backend="xla" was asked for, and JAX {jax.__version__} is older than {oldest}: {install("xla")}'
        )
    return jax


@contextmanager
def own_settings() -> Iterator[None]:
    """Inside, JAX has what a graph asks for, whatever it is told outside.

    That is integers and floats of 64 bits, NumPy's ways of bringing dtypes and shapes together, and products of all the
    bits of their factors, of which GPUs and TPUs else take fewer.
    """
    jax = load_jax()
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.default_matmul_precision("highest"),
        jax.disable_jit(False),
    ):
        yield


def require_untraced() -> None:
    """RunError inside of a function that JAX is tracing, where nothing has content."""
    jax = load_jax()
    if isinstance(jax.numpy.zeros(()), jax.core.Tracer):
        raise RunError("a graph is compiled inside of a function that JAX traces; compile it outside of jit")


def devices_of(mesh: Mesh) -> list[Any]:
    """As many devices as the mesh has ranks, in their order.

    Of a machine with CPUs alone JAX is asked for so many virtual ones, as long as nothing has used it yet.
    DeviceError, with what to do, where there are fewer; RunError in a child of a process that has used them.
    """
    jax = load_jax()
    if os.getpid() != _process():
        raise RunError(
            "this process was forked from one in which JAX was at work, and JAX does not go along; start processes by "
            "'spawn', and compile there"
        )
    try:
        if mesh.size > 1:
            _provide(mesh.size)
        found = jax.devices()
    except RuntimeError as error:
        raise DeviceError(f'backend="xla" finds no device: {first_line(error)}') from None
    if len(found) < mesh.size:
        kind = found[0].platform
        how = f"; start Python with {_FLAG}={mesh.size} for virtual ones" if kind == "cpu" else ""
        raise DeviceError(
            f"mesh {mesh} needs {mesh.size} devices, but JAX has {len(found)} ({kind}){how}; or choose a smaller one"
        )
    return list(found[: mesh.size])


@cache
def _process() -> int:
    """The process in which JAX was first asked for devices; whoever is forked from it knows this, too."""
    return os.getpid()


def _provide(count: int) -> None:
    """Asks for virtual CPUs; once JAX has begun, it has those that it has."""
    jax = load_jax()
    if jax.config.jax_num_cpu_devices < count:
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:  # JAX has begun
            return


def first_line(error: Exception) -> str:
    """What an error says first; those of JAX go on for pages."""
    return str(error).strip().partition("\n")[0].rstrip(".")
