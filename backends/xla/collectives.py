"""The five collectives, in a program that every device of a mesh runs: JAX's, over the axes of the mesh by name.

Each has the name and the keywords of the communicator's method that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from graphir.backends.xla.library import load_jax
from graphir.ir.layout import Mesh
from graphir.ir.operator import Array

Collective: TypeAlias = Callable[..., Array]


class Collectives:
    """Those of a mesh: `Collectives(mesh)["all_reduce"](X, axes=("tp",), reduce="sum")`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._made: Mapping[str, Collective] = {
            "all_reduce": self._all_reduce,
            "all_gather": self._all_gather,
            "reduce_scatter": self._reduce_scatter,
            "all_to_all": self._all_to_all,
            "local_slice": self._local_slice,
        }

    def __getitem__(self, method: str) -> Collective:
        return self._made[method]

    def _all_reduce(self, X: Array, *, axes: Sequence[str], reduce: str = "sum") -> Array:
        jax = load_jax()
        if X.dtype == bool:  # truths are added by `or`
            return jax.lax.pmax(X.astype("uint8"), tuple(axes)).astype(bool)
        if reduce == "max":
            return jax.lax.pmax(X, tuple(axes))
        return self._averaged(jax.lax.psum(X, tuple(axes)), axes, reduce)

    def _all_gather(self, X: Array, *, dim: int, axis: str) -> Array:
        return load_jax().lax.all_gather(X, axis, axis=dim, tiled=True)

    def _reduce_scatter(self, X: Array, *, dim: int, axis: str, reduce: str = "sum") -> Array:
        if reduce == "max" or X.dtype == bool:  # of which XLA has sums alone
            return self._local_slice(self._all_reduce(X, axes=(axis,), reduce=reduce), dim=dim, axis=axis)
        made = load_jax().lax.psum_scatter(X, axis, scatter_dimension=dim, tiled=True)
        return self._averaged(made, (axis,), reduce)

    def _all_to_all(self, X: Array, *, source: int, target: int, axis: str) -> Array:
        return load_jax().lax.all_to_all(X, axis, split_axis=target, concat_axis=source, tiled=True)

    def _local_slice(self, X: Array, *, dim: int, axis: str) -> Array:
        lax, width = load_jax().lax, X.shape[dim] // self._mesh.sizes[axis]
        return lax.dynamic_slice_in_dim(X, lax.axis_index(axis) * width, width, axis=dim)

    def _averaged(self, total: Array, axes: Sequence[str], reduce: str) -> Array:
        """What a reduction makes of a sum."""
        return (total / self._mesh.count(axes)).astype(total.dtype) if reduce == "mean" else total
