"""Tensors that another program left, against what this graph says each rank should hold.

The format. A folder with one file a rank of the mesh, in rank order (the first axis changes slowest: under dp=2, tp=3
rank 4 is dp=1, tp=1): `rank0.safetensors`, `rank1.safetensors`, …, or `rank0.npz`, …. A file maps names to that
rank's own blocks; which value of the graph a name stands for is told in `graphir.checking.names`. Of what is split, a
rank holds its part; of what is pending (a row-parallel result before its all-reduce, `layer0/mha/AO_lin`), its term;
the result of the all-reduce is `layer0/mha/AO_lin.AR`. What is replicated is on every rank, and is compared on each.
So is `layer0/mlp/H.grad`, after all reductions; `layer0/mlp/dH` is each rank's term of it.

What must be there. All parameters and inputs that the values dumped are computed from, T and Y included, on every
rank, so that the graph can be run; `seed` and `step` are 0 where they are missing, as dropout has to be off. What is
compared is whatever else is there: activations, gradients, the loss. The more is dumped, the nearer to the fault the
first departure lies.

Floats are measured by the roundoff of the dtype that they are stored in. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends.blocks import join_blocks
from graphir.backends.dtypes import is_float
from graphir.checking.compare import Comparison, compare
from graphir.checking.names import NameMap, Rule
from graphir.checking.reference import make_reference
from graphir.checking.report import Report
from graphir.cost import mesh_sizes
from graphir.errors import DataError
from graphir.ir.dims import Sizes, shape_text
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh, local_shape
from graphir.ir.value import Value

_SUFFIXES = (".safetensors", ".npz")
#: What a run may do without where dropout is off.
_COUNTERS = ("seed", "step")


@dataclass(frozen=True)
class Dump:
    """The tensors of every rank, by the names that the other program gave them."""

    path: Path
    ranks: tuple[Mapping[str, NDArray[Any]], ...]


@dataclass(frozen=True)
class Assigned:
    """The blocks of a dump by the graph's values, in the order of computation, and the names they came under.

    `settled` are the values of which the dump has what they become once what is pending has been reduced.
    """

    blocks: Mapping[Value, tuple[NDArray[Any], ...]]
    names: Mapping[Value, str]
    settled: frozenset[Value] = frozenset()


def read_dump(path: Path, mesh: Mesh) -> Dump:
    """The dump in the folder `path`, a file for each rank of `mesh`; DataError if one is missing or unreadable."""
    if not path.is_dir():
        raise DataError(f"{path} is no folder; a dump is a folder with rank0.safetensors (or .npz), one a rank")
    return Dump(path, tuple(_read_file(_file_of(path, rank, mesh)) for rank in range(mesh.size)))


def _file_of(path: Path, rank: int, mesh: Mesh) -> Path:
    for suffix in _SUFFIXES:
        file = path / f"rank{rank}{suffix}"
        if file.exists():
            return file
    there = ", ".join(sorted(each.name for each in path.iterdir())) or "nothing"
    raise DataError(
        f"{path} has no rank{rank}.safetensors or rank{rank}.npz for {mesh.describe(rank)} of {mesh.size} ranks "
        f"({mesh}); it has {there}"
    )


def _read_file(file: Path) -> dict[str, NDArray[Any]]:
    import safetensors.numpy  # late: a dump is rare

    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        return dict(safetensors.numpy.load_file(file))
    except Exception as error:  # each library has its own for a file that is not what its name says
        raise DataError(f"cannot read {file}: {error}") from None


def assign(dump: Dump, graph: Graph, rules: Sequence[Rule] = ()) -> Assigned:
    """The dump's tensors by the values of `graph` that they stand for, transposed where a rule says so.

    Errors: DataError for a name that stands for nothing, two for one value, or one that some ranks lack.
    """
    names, matches = NameMap(graph, rules), {}
    for tensors in dump.ranks:
        for name in tensors:
            if name not in matches:
                matches[name] = names.find(name)
    found: dict[Value, str] = {}
    for name, match in matches.items():
        if match.value is not None and found.setdefault(match.value, name) != name:
            raise DataError(f"{found[match.value]!r} and {name!r} both stand for {match.value.name}; leave one out")
    order = {value: position for position, value in enumerate(graph.values.values())}
    blocks = {}
    for value in sorted(found, key=order.__getitem__):
        name = found[value]
        lacking = [rank for rank, tensors in enumerate(dump.ranks) if name not in tensors]
        if lacking:
            where = ", ".join(graph.mesh.describe(rank) for rank in lacking)
            raise DataError(f"{name!r} ({value.name}) is missing on {where}; every rank dumps its block")
        turned = matches[name].transpose
        blocks[value] = tuple(tensors[name].T if turned else tensors[name] for tensors in dump.ranks)
    return Assigned(blocks, found, frozenset(value for value, name in found.items() if matches[name].settled))


def infer_sizes(assigned: Assigned, graph: Graph, given: Sizes) -> dict[str, int]:
    """`given`, completed by the sizes that follow from the shapes of the graph's arguments in the dump.

    The first to speak of a dim is believed; `check_dump` tells what contradicts it.
    """
    sizes = dict(given)
    for value in graph.arguments:
        blocks = assigned.blocks.get(value)
        if blocks is None or blocks[0].ndim != len(value.shape):
            continue
        for each, axes, local in zip(value.shape, value.type.layout.splits, blocks[0].shape, strict=True):
            if each.names == {str(each)}:  # a product or a number says nothing of a single name
                sizes.setdefault(str(each), local * graph.mesh.count(axes))
    return sizes


def check_dump(single: Graph, parallel: Graph, sizes: Sizes, assigned: Assigned, title: str = "") -> Report:
    """Compares each dumped value with the block that every rank should hold, in the order of computation.

    Errors: DataError for an argument that is missing, or a block of another shape than the layout says.
    """
    _check_shapes(assigned, parallel, sizes)
    arguments, notes = _arguments(assigned, parallel)
    reference = make_reference(single, parallel, sizes, arguments)
    found: list[Comparison] = []
    for value, blocks in assigned.blocks.items():
        dtype, settled = str(blocks[0].dtype), value in assigned.settled
        found.append(compare(value, blocks, parallel.mesh, reference, dtype, settled))
    made = [each for each in assigned.blocks if each in parallel.producers]
    if not made:
        raise DataError("the dump holds parameters and inputs only; dump what was computed from them, too")
    return Report(parallel, sizes, tuple(found), title, tuple(notes))


def _arguments(assigned: Assigned, graph: Graph) -> tuple[dict[str, Any], list[str]]:
    """Whole arrays for the graph's arguments, put together from the ranks' blocks."""
    found: dict[str, Any] = {}
    notes = []
    for value in graph.arguments:
        if value in assigned.blocks:
            joined = join_blocks(assigned.blocks[value], value.type.layout, graph.mesh)
            found[value.name] = np.asarray(joined).astype(value.dtype)
        elif value.name in _COUNTERS:
            found[value.name] = 0
            notes.append(f"{value.name} is not in the dump and taken to be 0")
        else:
            raise DataError(
                f"the dump lacks {value.name} {value.type}, without which the graph cannot be run; dump all "
                f"parameters and inputs ({', '.join(each.name for each in graph.inputs)})"
            )
    return found, notes


def _check_shapes(assigned: Assigned, graph: Graph, sizes: Sizes) -> None:
    complete = mesh_sizes(graph, sizes)
    for value, blocks in assigned.blocks.items():
        local = local_shape(value.shape, value.type.layout)
        wanted = tuple(each.size(complete) for each in local)
        for rank, block in enumerate(blocks):
            if block.shape != wanted:
                turned = block.shape[::-1] == wanted
                advice = "map it transposed" if turned else "map it otherwise, or mend plan, mesh or sizes"
                raise DataError(
                    f"{assigned.names[value]!r} is {list(block.shape)} on {graph.mesh.describe(rank)}, but "
                    f"{value.name} {value.type} is {shape_text(local)} = {list(wanted)} there; {advice}"
                )
            if is_float(block.dtype) != value.type.is_float:
                raise DataError(
                    f"{assigned.names[value]!r} is {block.dtype} on {graph.mesh.describe(rank)}, but {value.name} is "
                    f"{value.type}"
                )
