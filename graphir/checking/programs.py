"""The program that runs, compiled as a user's own run is, every value of it against what it should be.

What is fetched changes what is compiled: most values of a program lie in scratch memory, inside fused kernels, or
nowhere, and only what is fetched is stored. So a graph is compiled twice, once to return every value that its nodes
make, once to return its results alone, as `gi.compile` does unless told otherwise.

Each program runs three times, the second with NaN for all floats. Looked at are what the first run returned, once the
second is done, and what the third has left on each rank: a result that a later run writes over departs, and so does
one that is made of what an earlier run left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphir.backends.blocks import split_blocks
from graphir.backends.dtypes import is_float
from graphir.backends.executable import Executable
from graphir.backends.machine import default_threads
from graphir.backends.registry import Backend, find_backend
from graphir.checking.compare import Comparison, compare
from graphir.checking.reference import Reference
from graphir.ir.builder import Builder
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph
from graphir.ir.value import Value


def compile_program(graph: Graph, sizes: Sizes, backend: str = "numpy", **options: Any) -> Executable:
    """The program to be checked, by `gi.compile` with `options`. One of graphir's own is proved, or ProofError."""
    from graphir.compiler import compile

    return compile(graph, sizes, backend=backend, check=find_backend(backend).programs, **options)


def compile_whole(graph: Graph, sizes: Sizes, **options: Any) -> Executable:
    """As `compile_program`, of which all that the graph's nodes make is returned."""
    # In a sharded graph the name of an output means what collectives made of it; without outputs, each is itself.
    plain = Builder.extending(graph)[0].build()
    return compile_program(plain, sizes, fetch=[v.name for node in graph.nodes for v in node.outputs], **options)


def describe(program: Executable, entry: Backend, options: Mapping[str, Any]) -> str:
    """`compiled for numpy, 2 threads, proved`: what makes one program compute otherwise than another."""
    parts = [f"compiled for {entry.name}"]
    if "threads" in entry.options:
        threads = options.get("threads") or default_threads()
        parts.append(f"{threads} thread{'s' * (threads > 1)}")
    kernels = options.get("kernels")
    if kernels not in (None, entry.name):
        parts.append(f"{kernels}'s kernels")
    if program.proofs:
        parts.append("proved")
    return ", ".join(parts)


def compare_program(
    program: Executable, reference: Reference | None, *arguments: Mapping[str, Any]
) -> dict[str, Comparison]:
    """What a program returns, compared, by name, in the order of computation.

    Of several processes, that of rank 0 compares; the others, which need no reference, find nothing.
    """
    outputs = frozenset(program.graph.outputs)
    wanted = [value for node in program.graph.nodes for value in node.outputs if value in outputs]
    # A run holds the last of what collectives made of one value.
    held = {program.graph.origin(value): value for value in program.graph.outputs}.values()
    mesh, collect = program.mesh, program.communicator.collect
    returned: dict[str, Comparison] = {}
    found: dict[str, Comparison] = {}
    with np.errstate(all="ignore"):  # what is not finite is a finding, and told as one
        first = program(*arguments)
        program(*map(_not_numbers, arguments))
        for value in held:
            blocks = _returned(program, value, first.block(value.name))
            if blocks is not None and reference is not None:
                returned[value.name] = compare(value, blocks, mesh, reference, settled=program.local.is_alone)
        program(*arguments)
        for value in wanted:
            blocks = program.left_blocks(value)
            left = None if blocks is None else collect(blocks)
            both = [returned[value.name]] if value.name in returned else []
            if left is not None and reference is not None:
                both.append(compare(value, left, mesh, reference))
            if both:
                found[value.name] = max(both, key=lambda each: (each.departs, each.excess, not each.replicas))
    return found


def _returned(program: Executable, value: Value, array: Any) -> Sequence[Any] | None:
    """Every rank's block of a result as the caller has it; None but in rank 0's process."""
    if not program.local.is_alone:
        return program.communicator.collect([array])
    # Simulated ranks return the whole, with what is pending reduced.
    return split_blocks(array, value.type.layout.settled(), program.mesh)


def _not_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with NaN for all floats."""
    arrays = {name: np.asarray(array) for name, array in arguments.items()}
    return {name: np.full_like(a, np.nan) if is_float(a.dtype) else a for name, a in arrays.items()}
