"""What every communicator must do, as cases that run on whichever ranks a process holds.

Every process builds all ranks' blocks from a seed, hands in those that it holds, and compares what comes out with
plain NumPy on all of them. A case is a function of a communicator; `cases` has them by name. Run as a program, by a
launcher, the module runs the cases of every mesh of so many ranks, and rank 0 prints what became of each, as JSON.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np

from graphir.backends.communicator import Communicator
from graphir.ir.layout import Layout, Mesh
from tests.support.pairs import pairwise

DTYPES = ("float16", "float32", "float64", "int32", "int64", "bool")
MESHES = {
    2: (Mesh(tp=2), Mesh(dp=1, tp=2)),
    4: (Mesh(tp=4), Mesh(dp=2, tp=2)),
    6: (Mesh(dp=2, tp=3), Mesh(tp=6)),
}
Case = Callable[[Communicator], None]
Place = TypeVar("Place")
REDUCE: dict[str, Callable[[Any], Any]] = {
    "sum": lambda stack: stack.sum(axis=0, dtype=stack.dtype),
    "max": lambda stack: stack.max(axis=0),
    "mean": lambda stack: (stack.sum(axis=0, dtype=stack.dtype) / len(stack)).astype(stack.dtype),
}


def blocks_of(mesh: Mesh, shape: tuple[int, ...], dtype: str = "float64", strided: bool = False) -> list[np.ndarray]:
    """A block for each rank: small whole numbers, so that every order of summation has the same bits."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 2, shape) if dtype == "bool" else rng.integers(-9, 9, shape) for _ in range(mesh.size)]
    blocks = [each.astype(dtype) for each in drawn]
    return [np.repeat(each[..., None], 2, axis=-1)[..., 0] for each in blocks] if strided else blocks


def by_group(mesh: Mesh, axes: tuple[str, ...], blocks: list[Any], make: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """What `make` makes of the blocks of each group, put back in the order of ranks."""
    result = list(blocks)
    for group in mesh.groups(axes):
        for rank, block in zip(group, make([blocks[rank] for rank in group]), strict=True):
            result[rank] = block
    return result


def check(communicator: Communicator, operation: str, blocks: list[Any], expected: list[Any], **arguments: Any) -> None:
    """Carries out an operation with and without `out`, and leaves what it is given as it is."""
    held = [blocks[rank] for rank in communicator.ranks]
    kept = [block.copy() for block in held]
    wanted = [expected[rank] for rank in communicator.ranks]
    found = getattr(communicator, operation)(held, **arguments)
    out = [np.empty(each.shape, each.dtype) for each in wanted]
    written = getattr(communicator, operation)(held, **arguments, out=out)
    assert all(mine is target for mine, target in zip(written, out, strict=True)), "out was not used"
    for rank, mine, target, right in zip(communicator.ranks, found, out, wanted, strict=True):
        assert mine.dtype == right.dtype, (rank, mine.dtype, right.dtype)
        np.testing.assert_array_equal(mine, right, err_msg=f"rank {rank}")
        np.testing.assert_array_equal(target, right, err_msg=f"rank {rank}, out")
    for block, before in zip(held, kept, strict=True):
        np.testing.assert_array_equal(block, before, err_msg="an operand was changed")


# -- collectives -------------------------------------------------------------------------------------------


def all_reduce(communicator: Communicator, shape: tuple[int, ...], reduce: str, dtype: str, strided: bool) -> None:
    """Chunks of uneven sizes, of none, of fewer elements than ranks."""
    mesh = communicator.mesh
    blocks = blocks_of(mesh, shape, dtype, strided)
    for axes in dict.fromkeys([("tp",), mesh.names, mesh.names[::-1]]):  # no set: all ranks need one order
        right = by_group(mesh, axes, blocks, lambda mine: [REDUCE[reduce](np.stack(mine))] * len(mine))
        if reduce == "mean" and mesh.count(axes) == 1:
            right = blocks
        check(communicator, "all_reduce", blocks, right, axes=axes, reduce=reduce)
        held = [blocks[rank].copy() for rank in communicator.ranks]
        communicator.all_reduce(held, axes, reduce, out=held)
        for rank, mine in zip(communicator.ranks, held, strict=True):
            np.testing.assert_array_equal(mine, right[rank], err_msg=f"rank {rank}, in place")


def all_gather(communicator: Communicator, along: tuple[int, tuple[int, ...]], dtype: str, strided: bool) -> None:
    dim, shape = along
    blocks = blocks_of(communicator.mesh, shape, dtype, strided)
    for axis in communicator.mesh.names:
        right = by_group(communicator.mesh, (axis,), blocks, lambda mine: [np.concatenate(mine, dim)] * len(mine))
        check(communicator, "all_gather", blocks, right, dim=dim, axis=axis)


def reduce_scatter(
    communicator: Communicator, along: tuple[int, tuple[int, ...]], reduce: str, dtype: str, strided: bool
) -> None:
    dim, shape = along
    blocks = blocks_of(communicator.mesh, shape, dtype, strided)

    def scatter(mine: list[Any]) -> list[Any]:
        return np.split(REDUCE[reduce](np.stack(mine)), len(mine), axis=dim)

    for axis in communicator.mesh.names:
        right = by_group(communicator.mesh, (axis,), blocks, scatter)
        check(communicator, "reduce_scatter", blocks, right, dim=dim, axis=axis, reduce=reduce)


def all_to_all(communicator: Communicator, dims: tuple[int, int], dtype: str, strided: bool) -> None:
    """The whole array of a group is the same before and after."""
    source, target = dims
    for shape in ((12, 12, 2), (0, 12, 12), (12, 12, 0)):
        blocks = blocks_of(communicator.mesh, shape, dtype, strided)
        right = by_group(
            communicator.mesh,
            ("tp",),
            blocks,
            lambda mine: np.split(np.concatenate(mine, source), len(mine), axis=target),
        )
        check(communicator, "all_to_all", blocks, right, source=source, target=target, axis="tp")


def local_slice(communicator: Communicator, dim: int, dtype: str, strided: bool) -> None:
    blocks = by_group(
        communicator.mesh,
        ("tp",),
        blocks_of(communicator.mesh, (12, 12), dtype, strided),
        lambda mine: [mine[0]] * len(mine),
    )
    right = by_group(communicator.mesh, ("tp",), blocks, lambda mine: np.split(mine[0], len(mine), axis=dim))
    communicator.take_traffic()
    check(communicator, "local_slice", blocks, right, dim=dim, axis="tp")
    assert communicator.take_traffic().total_bytes == 0


def broadcast(communicator: Communicator, shape: tuple[int, ...], dtype: str, strided: bool) -> None:
    mesh = communicator.mesh
    blocks = blocks_of(mesh, shape, dtype, strided)
    for axes in dict.fromkeys([("tp",), mesh.names, mesh.names[::-1]]):  # no set: all ranks need one order
        for root in range(mesh.count(axes)):
            right = by_group(mesh, axes, blocks, lambda mine: [mine[root]] * len(mine))  # noqa: B023
            check(communicator, "broadcast", blocks, right, axes=axes, root=root)


def a_maximum_keeps_a_nan(communicator: Communicator) -> None:
    """Whoever holds it: what is not a number must not be lost on the way."""
    last = communicator.mesh.size - 1
    held = [np.array([np.nan if rank == last else 1.0, 2.0]) for rank in communicator.ranks]
    for found in communicator.all_reduce(held, communicator.mesh.names, "max"):
        np.testing.assert_array_equal(found, [np.nan, 2.0])


def all_ranks_get_the_same_bits(communicator: Communicator, shape: tuple[int, ...], dtype: str) -> None:
    """Numbers whose sum depends on the order of summation; near the exact sum, as rounding allows."""
    mesh, rng = communicator.mesh, np.random.default_rng(1)
    scale = 10.0 ** rng.integers(-4, 4, (mesh.size, *shape))
    blocks = list((rng.standard_normal((mesh.size, *shape)) * scale).astype(dtype))
    held = [blocks[rank] for rank in communicator.ranks]
    terms = np.abs(np.stack(blocks)).sum(axis=0, dtype="float64")
    for reduce, count in (("sum", 1), ("mean", mesh.size)):
        found = communicator.all_reduce(held, mesh.names, reduce)
        exact = np.stack(blocks).sum(axis=0, dtype="float64") / count
        limits = np.finfo(dtype)
        bound = (mesh.size - 1 + (reduce == "mean")) * limits.eps * terms / count + float(limits.smallest_subnormal)
        for mine in found:
            assert (np.abs(mine - exact) <= bound).all()
        everyone = communicator.collect(found)
        assert (everyone is not None) == communicator.leads
        assert everyone is None or len({each.tobytes() for each in everyone}) == 1


def several_may_be_under_way(communicator: Communicator) -> None:
    """Started one after the other, polled, and waited for in another order; the results are those of one at a time."""
    mesh = communicator.mesh
    all_blocks = [blocks_of(mesh, (count,), "float32") for count in (5, 4096, 0, 300_000)]
    started = []
    for blocks in all_blocks:
        held = [blocks[rank] for rank in communicator.ranks]
        out = [np.empty_like(block) for block in held]
        started.append((communicator.start_all_reduce(held, mesh.names, "sum", out), out))
    for pending, _ in started:
        assert pending.poll() in (True, False)
    for blocks, (pending, out) in reversed(list(zip(all_blocks, started, strict=True))):
        for mine, target in zip(pending.wait(), out, strict=True):
            assert mine is target
            np.testing.assert_array_equal(mine, sum(blocks))
        assert pending.poll()


# -- messages, and the process as a whole ------------------------------------------------------------------


def messages(communicator: Communicator, dtype: str) -> None:
    """To the next rank around the ring, to oneself, empty ones, two in a row; what was sent may be changed at once."""
    size = communicator.mesh.size
    for shift in (0, 1):
        for shape in ((3, 2), (), (0, 4)):
            blocks = blocks_of(communicator.mesh, shape, dtype, strided=True)
            for rank in communicator.ranks:
                for factor in (1, 0):
                    letter = np.array(blocks[rank] * np.array(factor, dtype))
                    communicator.send(letter, rank, (rank + shift) % size)
                    letter[...] = 1
            for rank in communicator.ranks:
                source = (rank - shift) % size
                for factor in (1, 0):
                    found = communicator.receive(source, rank, shape, dtype)
                    assert found.dtype == dtype
                    np.testing.assert_array_equal(found, blocks[source] * np.array(factor, dtype))


def agreement(communicator: Communicator) -> None:
    assert communicator.agree(7 if 0 in communicator.ranks else 3) == 7
    communicator.barrier()


def wholes(communicator: Communicator) -> None:
    """A whole array is put together from its blocks, split over one axis or several, and from what is pending."""
    from graphir.backends.blocks import split_blocks

    mesh = communicator.mesh
    array = np.arange(24 * 24.0).reshape(24, 24)
    layouts = [Layout(((), ("tp",))), Layout((mesh.names, ())), Layout(((), mesh.names[::-1])), Layout(((), ()))]
    for layout in layouts:
        blocks = split_blocks(array, layout, mesh)
        found = communicator.whole([blocks[rank] for rank in communicator.ranks], layout)
        np.testing.assert_array_equal(found, array)
    found = communicator.whole([array] * len(communicator.ranks), Layout(((), ()), {"tp": "sum"}))
    np.testing.assert_array_equal(found, array * mesh.sizes["tp"])


def traffic(communicator: Communicator) -> None:
    """Of an all-reduce the best algorithm sends 2 (N − 1)/N payloads from each rank; each counts what it sends."""
    mesh = communicator.mesh
    communicator.take_traffic()
    communicator.all_reduce([np.ones(120 * mesh.size) for _ in communicator.ranks], mesh.names)
    sent = communicator.take_traffic()
    for rank in range(mesh.size):
        assert sent.bytes[rank] == (2 * (mesh.size - 1) * 120 * 8 if rank in communicator.ranks else 0)


#: Truth has a sum and a maximum, and no mean.
NEVER = {("mean", "bool")}
#: Scalars, fewer elements than ranks, none, and what no number of ranks divides.
SHAPES = ((), (5,), (4, 3), (0, 3), (2, 3, 7))
ARRAYS = {"dtype": DTYPES, "strided": (False, True)}
ROUNDED = ("float16", "float32", "float64")

#: Of each case what it can be given.
CHOICES: dict[Callable[..., None], dict[str, Sequence[Any]]] = {
    all_reduce: {"shape": SHAPES, "reduce": tuple(REDUCE), **ARRAYS},
    broadcast: {"shape": SHAPES, **ARRAYS},
    all_gather: {"along": ((0, (2, 3)), (1, (2, 3)), (2, (2, 1, 3)), (0, (0, 3)), (1, (0, 3))), **ARRAYS},
    reduce_scatter: {
        "along": ((0, (12, 3)), (1, (3, 24)), (0, (0, 3)), (1, (0, 12)), (0, (12, 0))),
        "reduce": tuple(REDUCE),
        **ARRAYS,
    },
    all_to_all: {"dims": ((0, 1), (1, 0)), **ARRAYS},
    local_slice: {"dim": (0, 1), **ARRAYS},
    messages: {"dtype": DTYPES},
    all_ranks_get_the_same_bits: {"shape": ((37,), (50_000,)), "dtype": ROUNDED},
    **{case: {} for case in (a_maximum_keeps_a_nan, several_may_be_under_way, agreement, wholes, traffic)},
}


def cases(
    places: Mapping[str, Place], dtypes: Sequence[str] = DTYPES, without: Sequence[Callable[..., None]] = ()
) -> dict[str, tuple[Place, Case]]:
    """Of each operation so many cases that any two of place, dtype, shape and so on meet; by name, with their places.

    A place is all that the communicator depends on, its mesh above all.
    """
    found: dict[str, tuple[Place, Case]] = {}
    for case, choices in CHOICES.items():
        if case in without:
            continue
        narrowed = {"dtype": [each for each in choices["dtype"] if each in dtypes]} if "dtype" in choices else {}
        for chosen in pairwise({"place": tuple(places), **choices, **narrowed}, NEVER):
            place = chosen.pop("place")
            words = (case.__name__, *(f"{name}={value}" for name, value in chosen.items()), f"on {place}")
            found[" ".join(words)] = places[place], partial(case, **chosen)
    return found


@cache
def cases_on_ranks(count: int) -> dict[str, tuple[Mesh, Case]]:
    """The cases of so many real ranks, of pairs over all meshes."""
    everywhere = cases({str(mesh): mesh for meshes in MESHES.values() for mesh in meshes})
    return {name: (mesh, case) for name, (mesh, case) in everywhere.items() if mesh.size == count}


def main() -> None:
    """Runs every case of the meshes of as many ranks as were started."""
    from graphir.backends.communicator.meeting import peers
    from graphir.backends.communicator.mpi import MpiCommunicator

    found: dict[str, str] = {}
    communicators = {mesh: MpiCommunicator(mesh) for mesh in MESHES[peers().size]}
    for name, (mesh, case) in cases_on_ranks(peers().size).items():
        try:
            case(communicators[mesh])
            failure = ""
        except Exception:
            failure = traceback.format_exc()
        told = [each.decode() for each in peers().share(failure.encode(), name)]
        if any(told):
            found[name] = "".join(f"rank {i}: {each}" for i, each in enumerate(told) if each)
    if peers().rank == 0:
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
