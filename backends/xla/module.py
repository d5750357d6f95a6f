"""`xp` for kernels that XLA compiles: jax.numpy, and what kernels ask of an array module that has more to offer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from graphir.backends.xla import draws
from graphir.backends.xla.library import load_jax
from graphir.ir.operator import Array


class XlaModule:
    """As jax.numpy; what is here stands before it. See `graphir.operators.special`, which asks for it."""

    @cached_property
    def _jax(self) -> Any:
        return load_jax()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jax.numpy, name)

    def erf(self, X: Array) -> Array:
        """erf(x), elementwise."""
        return self._jax.lax.erf(X)

    def scatter_add(self, rows: Array, terms: Array, shape: tuple[int, ...]) -> Array:
        """As `special.scatter_add`, in place; dims that devices may share are not flattened."""
        return self._jax.numpy.zeros(shape, dtype=terms.dtype).at[rows].add(terms)

    def random_bits(self, counters: Array, seed: Array, step: Array, node: int) -> Array:
        """As `special.random_bits`."""
        return draws.random_bits(counters, seed, step, node)

    def keep_mask(
        self,
        starts: Sequence[Any],
        sizes: Sequence[int],
        shape: Sequence[int],
        seed: Array,
        step: Array,
        key: int,
        p: float,
    ) -> Array:
        """As `dropout.keep_mask`."""
        return draws.keep_mask(starts, sizes, shape, seed, step, key, p)
