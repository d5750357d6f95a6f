"""`xp` for kernels that XLA compiles: jax.numpy, and what kernels ask of an array module that has more to offer."""

from __future__ import annotations

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

    def write_rows(self, cache: Array, rows: Array, start: Array) -> Array:
        """As `cache.write_rows`, into a cache that XLA copies only where somebody reads the old one."""
        jnp = self._jax.numpy
        at = (start[:, None] + jnp.arange(rows.shape[-2])) % cache.shape[-2]
        written = jnp.moveaxis(cache, -2, 1).at[jnp.arange(len(start))[:, None], at].set(jnp.moveaxis(rows, -2, 1))
        return jnp.moveaxis(written, 1, -2)

    #: As `special.random_bits` and `dropout.keep_mask`.
    random_bits, keep_mask = staticmethod(draws.random_bits), staticmethod(draws.keep_mask)
