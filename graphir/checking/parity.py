"""Single and parallel side by side: every value of the parallel run against the run on one rank.

All run with the same arguments, one after the other. Of the parallel run there are three: the compiled program that
returns every value, the one that returns the graph's results alone, and the interpreter's, of which only the node at
hand is held. Forward, backward and update are nodes of one graph, so nothing distinguishes them here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from graphir.backends import Executable, ExecutionPlan, plan
from graphir.backends.communicator import communicator_for
from graphir.backends.registry import find_backend
from graphir.checking.compare import Comparison, compare
from graphir.checking.programs import compare_program, compile_program, compile_whole, describe
from graphir.checking.reference import Reference, make_reference
from graphir.checking.report import Report
from graphir.errors import ConfigError
from graphir.ir.analysis import needed_nodes
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value

#: Makes of a plan what runs it: `Executable`, or one that does something otherwise.
Runner: TypeAlias = Callable[[ExecutionPlan], Executable]


def check(
    single: Graph,
    parallel: Graph,
    sizes: Sizes,
    *arguments: Mapping[str, Any],
    backend: str = "numpy",
    ranks: str = "simulated",
    runner: Runner | None = None,
    reference: Reference | None = None,
    title: str = "",
    **options: Any,
) -> Report:
    """Compares every value of runs of `parallel` with that of `single`, in the order of computation.

    What `gi.compile` makes of `parallel` with `backend`, `ranks` and the backend's `options` is compared, and then
    what the interpreter makes of it. Only what results are made of is run. What `parallel` makes for no result, though
    `single` does for one, is told. Where each process is one rank, all have to call this; that of rank 0 compares, and
    the others' reports are empty.

    `arguments` are those of a call of an executable: mappings from names to whole arrays. `runner` makes an
    executable that is put to the test in place of all these, `reference` is one made before for the same graphs and
    arguments.
    Errors: ConfigError if the graphs share no value; what planning, compiling and running raise.
    """
    entry, planned = find_backend(backend), plan(parallel, sizes)
    communicator = communicator_for(parallel.mesh, ranks, backend=backend)
    if runner is None:
        executable = Executable(planned, communicator=communicator, xp=entry.array_module())
    else:
        executable = runner(planned)
    if executable.communicator.leads:
        if reference is None:
            reference = make_reference(single, parallel, sizes, *arguments)
        require_kinship(single, parallel, reference)
    found = compare_run(executable, reference, *arguments)
    interpreted = Report(parallel, sizes, tuple(found.values()), title, unread=_unread(single, parallel))
    if runner is not None:
        return interpreted
    options = {"backend": backend, "ranks": ranks, **options}
    whole = compile_whole(parallel, sizes, **options)
    made = compare_program(whole, reference, *arguments)
    executor = describe(whole, entry, options)
    alone = compare_program(compile_program(parallel, sizes, **options), reference, *arguments)
    others = (
        Report(
            parallel, sizes, tuple(alone.values()), title, executor=f"{executor}, for its results alone", compiled=True
        ),
        replace(interpreted, executor="the interpreter", unread=()),
    )
    return replace(interpreted, comparisons=tuple(made.values()), executor=executor, compiled=True, others=others)


def _unread(single: Graph, parallel: Graph) -> tuple[str, ...]:
    """What `parallel` makes and no result of it is made of, though of `single` a result is made of it, or it is one.

    Where `parallel` returns less than `single`, only what both return counts.
    """
    outputs = single.outputs
    if len(parallel.outputs) < len(outputs):
        returned = {parallel.origin(value).name for value in parallel.outputs}
        outputs = tuple(value for value in outputs if value.name in returned)
    wanted = {value.name for value in _read(single, outputs)}
    read = _read(parallel, parallel.outputs)
    made = (value for node in parallel.nodes for value in node.outputs)
    return tuple(value.name for value in made if value not in read and value.name in wanted)


def _read(graph: Graph, outputs: Sequence[Value]) -> set[Value]:
    """The outputs, and what is read on the way to them."""
    return {*outputs, *(value for node in needed_nodes(graph, outputs) for value in node.inputs)}


def require_kinship(single: Graph, parallel: Graph, reference: Reference) -> None:
    """ConfigError unless the graphs make values of the same names."""
    shared = [v.name for node in parallel.nodes for v in node.outputs if v.name in reference.origin]
    if parallel.nodes and not shared:
        raise ConfigError(
            f"graph {parallel.name} makes nothing that graph {single.name} makes: no two values have one name; "
            f"check a graph against the one that it was sharded from"
        )


def compare_run(
    executable: Executable, reference: Reference | None, *arguments: Mapping[str, Any]
) -> dict[str, Comparison]:
    """What every node of a run makes, compared, by name, in the order of computation.

    Of several processes, that of rank 0 compares; the others, which need no reference, find nothing.
    """
    found: dict[str, Comparison] = {}
    blocks: list[tuple[Any, ...]] = []
    mesh, communicator = executable.mesh, executable.communicator

    def look(node: Node, rank: int, results: tuple[Any, ...]) -> None:
        blocks.append(results)
        if len(blocks) == len(communicator.ranks):
            for value, held in zip(node.outputs, zip(*blocks, strict=True), strict=True):
                everyones = communicator.collect(held)
                if everyones is not None and reference is not None:
                    found[value.name] = compare(value, everyones, mesh, reference)
            blocks.clear()

    with np.errstate(all="ignore"):  # what is not finite is a finding, and told as one
        executable(*arguments, watch=look)
    return found
