"""Sizes and arguments for any graph: small dims that every mesh axis divides, and numbers in general position.

Parameters that start at zero or one hide faults (a bias that is zero may be added on every rank, a gain of one be cut
anywhere), and so does Adam's first step, which depends on a gradient's sign alone. So every parameter is drawn, the
optimizer has a past, and labels that may be ignored are so here and there, more of them on the first replica.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphir.backends import initialize, plan
from graphir.errors import ConfigError, DimError
from graphir.ir.extent import bind_sizes
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value

#: Of places that a mask lets be seen, about so many are.
_SEEN = 0.8
#: Of the sizes that nothing else says, each is another, so that dims that are mistaken for each other do not fit.
_VARIETY = 3


def small_sizes(graph: Graph, mesh: Mesh, given: Mapping[str, int]) -> dict[str, int]:
    """A small number for every dim of `graph`, those `given` as they are, that every axis of `mesh` divides.

    What others are divided by (N_H in D_h = D/N_H) is least, what is divided a multiple of it.
    Errors: ConfigError where no such sizes fit the graph; it says which to give.
    """
    whole = 2 * math.lcm(*mesh.sizes.values(), 1)
    divisors: dict[str, set[str]] = {}
    for dim in graph.dims:
        powers = dim.expanded[1]
        below = {name for name, power in powers if power < 0}
        for name, _ in powers:
            divisors.setdefault(name, set()).update(below - {name})
    divide = {name for names in divisors.values() for name in names}
    sizes: dict[str, int] = {}
    for name, names in divisors.items():
        factor = 1 if name in divide else 4 if names else 1 + len(sizes) % _VARIETY
        sizes[name] = factor * whole ** max(1, len(names))
    sizes |= given
    try:
        bind_sizes(graph, sizes)
    except DimError as error:
        raise ConfigError(f"small sizes that were tried do not fit: {error}; give them by --size, or sizes=…") from None
    return sizes


def general_position(graph: Graph, sizes: Mapping[str, int], seed: int) -> dict[str, Any]:
    """An array for every parameter, state and input of `graph`, drawn from `seed`.

    Integers lie within what they index; those that index nothing are places, 0, 1, ….
    Errors: ConfigError for an input of texts, which nothing can be drawn for.
    """
    planned = plan(graph, sizes)
    shapes = {value: tuple(dim.size(planned.sizes) for dim in value.shape) for value in graph.arguments}
    found: dict[str, Any] = dict(initialize(graph, sizes, seed))
    draw = np.random.default_rng(seed)
    for value in graph.parameters:
        drawn = found[value.name] + 0.1 * draw.standard_normal(shapes[value])
        found[value.name] = drawn.astype(value.dtype)
    for value in graph.state:
        if not value.shape:
            continue  # the loss scale and its count, which start where they are meant to
        noise = 1e-2 * draw.standard_normal(shapes[value])
        found[value.name] = (noise**2 if value.local_name.endswith(".v") else noise).astype(value.dtype)
    return found | draw_inputs(graph, sizes, seed, draw)


def draw_inputs(
    graph: Graph, sizes: Mapping[str, int], seed: int, draw: np.random.Generator | None = None
) -> dict[str, Any]:
    """An array for every input of `graph`, drawn from `seed`, or from a generator that goes on."""
    planned, draw = plan(graph, sizes), draw or np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for value in graph.inputs:
        shape = tuple(dim.size(planned.sizes) for dim in value.shape)
        uses = [] if value.type.is_float else planned.indexed(_passed_on(graph, value))
        end = min((each.end for each in uses if each.end is not None), default=None)
        exempt = {each.exempt for each in uses}
        found[value.name] = _input(value, shape, end, exempt.pop() if len(exempt) == 1 else None, seed, draw)
    return found


def _passed_on(graph: Graph, value: Value) -> list[Value]:
    """An input, and what its integers are handed on as: ids that are checked first, say."""
    found = [value]
    for each in found:
        for node, _ in graph.uses[each]:
            found += [out for out in node.outputs if (out.dtype, out.shape) == (each.dtype, each.shape)]
    return found


def _input(
    value: Value, shape: tuple[int, ...], end: int | None, exempt: int | None, seed: int, draw: np.random.Generator
) -> Any:
    """Numbers for an input: ids below `end`, but for `exempt` ones that nobody counts."""
    if value.type.is_float:
        return draw.standard_normal(shape).astype(value.dtype)
    if value.dtype == "bool":
        seen = draw.random(shape) < _SEEN
        return seen | (np.arange(shape[-1]) == 0) if shape else seen
    if value.dtype == "text":
        raise ConfigError(f"{value.name} is text, which nothing can be drawn for; build the graph from ids")
    if not shape:
        return seed + 1 if value.local_name == "seed" else 3
    if end is None:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(value.dtype)
    ids = draw.integers(0, end, shape).astype(value.dtype)
    if exempt is not None:
        # Padding, all of it on one replica: a mean is still the global one.
        ids[0, ..., : shape[-1] // 2] = exempt
    return ids
