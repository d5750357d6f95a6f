"""The first content of parameters and state, from what the graph says of each (`init`)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends.capacity import require_initial
from graphir.backends.dtypes import require_dtypes
from graphir.ir.extent import bind_sizes
from graphir.ir.graph import Graph
from graphir.ir.value import Value


def initialize(
    graph: Graph, sizes: Mapping[str, int], seed: int = 0, known: Mapping[str, NDArray[Any]] = MappingProxyType({})
) -> dict[str, NDArray[Any]]:
    """Arrays for every parameter and state of `graph`, by name; those that are `known` as they are.

    `normal(σ)` draws from a generator keyed by (seed, name): a tensor starts alike in whatever graph it is.
    Errors: DimError for sizes that do not fit the graph's dims; SizeError where they make tensors that this machine has
    no memory for; MissingDependencyError for bfloat16 where NumPy does not have it.
    """
    require_dtypes((*graph.parameters, *graph.state))
    complete = bind_sizes(graph, sizes)
    require_initial(graph, complete)
    values = {value.name: value for value in (*graph.parameters, *graph.state)}
    drawn = (_initial(value, complete, seed) for name, value in values.items() if name not in known)
    return {name: array for name, array in known.items() if name in values} | dict(drawn)


def _initial(value: Value, sizes: Mapping[str, int], seed: int) -> tuple[str, NDArray[Any]]:
    shape = tuple(dim.size(sizes) for dim in value.shape)
    if value.init == "zeros":
        return value.name, np.zeros(shape, value.dtype)
    if value.init == "ones":
        return value.name, np.ones(shape, value.dtype)
    assert value.init is not None
    if value.init.startswith("full("):
        return value.name, np.full(shape, float(value.init.removeprefix("full(").removesuffix(")")), value.dtype)
    deviation = float(value.init.removeprefix("normal(").removesuffix(")"))
    generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(value.name.encode())]))
    return value.name, (generator.standard_normal(shape) * deviation).astype(value.dtype)
