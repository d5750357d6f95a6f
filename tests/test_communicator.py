"""Collectives among simulated ranks against plain NumPy on the joined arrays, and what they send, by formula.

Notation: N ranks in a group, and a payload of P bytes, the block that a rank brings. Formulas are written out by
hand, after A 2.4 and A 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphir.backends.communicator import ALGORITHMS, SimulatedCommunicator, Traffic
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh

MESHES = [Mesh(tp=1), Mesh(tp=2), Mesh(tp=3), Mesh(tp=4), Mesh(tp=3, dp=2), Mesh(dp=2, tp=2, cp=2)]
DTYPES = ["float32", "float64", "int64"]
REDUCE: dict[str, Callable[[Any], Any]] = {
    "sum": lambda stack: stack.sum(axis=0),
    "max": lambda stack: stack.max(axis=0),
    "mean": lambda stack: stack.mean(axis=0),
}

algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
meshes = pytest.mark.parametrize("mesh", MESHES, ids=str)


def blocks_of(mesh: Mesh, shape: tuple[int, ...], dtype: str = "float64", seed: int = 0) -> list[np.ndarray]:
    """A block for each rank: small whole numbers, so that every order of summation has the same bits."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-9, 9, shape).astype(dtype) for _ in range(mesh.size)]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for rank, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert mine.dtype == theirs.dtype, rank
        np.testing.assert_array_equal(mine, theirs, err_msg=f"rank {rank}")


def by_group(mesh: Mesh, axes: tuple[str, ...], blocks: list[Any], make: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """What `make` makes of the blocks of each group, put back in the order of ranks."""
    result = list(blocks)
    for group in mesh.groups(axes):
        for rank, block in zip(group, make([blocks[rank] for rank in group]), strict=True):
            result[rank] = block
    return result


# -- what arrives ------------------------------------------------------------------------------------------


@algorithms
@meshes
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 3), (0, 3), (2, 3, 7)])
def test_all_reduce(algorithm: str, mesh: Mesh, dtype: str, shape: tuple[int, ...]) -> None:
    """Of chunks of uneven sizes, of none, of fewer elements than ranks."""
    blocks = blocks_of(mesh, shape, dtype)
    for reduce in ("sum", "max"):
        found = SimulatedCommunicator(mesh, algorithm).all_reduce(blocks, ("tp",), reduce)
        expected = by_group(mesh, ("tp",), blocks, lambda mine: [REDUCE[reduce](np.stack(mine))] * len(mine))  # noqa: B023
        assert_same(found, expected)


@algorithms
@meshes
def test_all_reduce_of_means(algorithm: str, mesh: Mesh) -> None:
    blocks = blocks_of(mesh, (4, 3))
    found = SimulatedCommunicator(mesh, algorithm).all_reduce(blocks, ("tp",), "mean")
    expected = by_group(mesh, ("tp",), blocks, lambda mine: [np.stack(mine).mean(axis=0)] * len(mine))
    np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=1e-15)


@algorithms
def test_all_reduce_over_several_axes(algorithm: str) -> None:
    mesh = Mesh(dp=2, tp=2, cp=2)
    blocks = blocks_of(mesh, (3,))
    found = SimulatedCommunicator(mesh, algorithm).all_reduce(blocks, ("dp", "cp"))
    assert_same(found, by_group(mesh, ("dp", "cp"), blocks, lambda mine: [sum(mine)] * 4))


@algorithms
def test_a_maximum_of_truths_is_whether_any_is_true(algorithm: str) -> None:
    mesh = Mesh(tp=3)
    blocks = [np.array([rank == 1, False]) for rank in range(3)]
    assert_same(SimulatedCommunicator(mesh, algorithm).all_reduce(blocks, ("tp",), "max"), [blocks[1]] * 3)


@algorithms
@meshes
@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
@pytest.mark.parametrize("dim", [0, 1])
def test_all_gather(algorithm: str, mesh: Mesh, dtype: str, dim: int) -> None:
    blocks = blocks_of(mesh, (2, 3), dtype)
    found = SimulatedCommunicator(mesh, algorithm).all_gather(blocks, dim, "tp")
    assert_same(found, by_group(mesh, ("tp",), blocks, lambda mine: [np.concatenate(mine, dim)] * len(mine)))


@algorithms
@meshes
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 3), (3, 24), (0, 12)])
def test_reduce_scatter(algorithm: str, mesh: Mesh, dtype: str, shape: tuple[int, ...]) -> None:
    dim = 0 if shape[0] == 12 else 1
    blocks = blocks_of(mesh, shape, dtype)
    for reduce in ("sum", "max"):
        found = SimulatedCommunicator(mesh, algorithm).reduce_scatter(blocks, dim, "tp", reduce)
        expected = by_group(
            mesh,
            ("tp",),
            blocks,
            lambda mine: np.split(REDUCE[reduce](np.stack(mine)), len(mine), axis=dim),  # noqa: B023
        )
        assert_same(found, expected)


@algorithms
def test_reduce_scatter_of_means(algorithm: str) -> None:
    mesh = Mesh(tp=4)
    blocks = blocks_of(mesh, (8,))
    found = SimulatedCommunicator(mesh, algorithm).reduce_scatter(blocks, 0, "tp", "mean")
    assert_same(found, np.split(np.stack(blocks).mean(axis=0), 4))


@meshes
@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
def test_all_to_all(mesh: Mesh, dtype: str) -> None:
    """From dim 0 to dim 1: the whole array of a group is the same before and after."""
    blocks = blocks_of(mesh, (2, 12), dtype)
    found = SimulatedCommunicator(mesh).all_to_all(blocks, 0, 1, "tp")
    assert_same(
        found, by_group(mesh, ("tp",), blocks, lambda mine: np.split(np.concatenate(mine, 0), len(mine), axis=1))
    )


@meshes
def test_local_slice(mesh: Mesh) -> None:
    blocks = by_group(mesh, ("tp",), blocks_of(mesh, (12, 2)), lambda mine: [mine[0]] * len(mine))
    communicator = SimulatedCommunicator(mesh)
    found = communicator.local_slice(blocks, 0, "tp")
    assert_same(found, by_group(mesh, ("tp",), blocks, lambda mine: np.split(mine[0], len(mine))))
    assert communicator.traffic.total_bytes == 0


@algorithms
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_all_ranks_get_the_same_bits(algorithm: str, count: int, reduce: str) -> None:
    """Numbers whose sum depends on the order of summation: 1e8 + 1 − 1e8 in float32, and random ones."""
    rng = np.random.default_rng(0)
    mesh = Mesh(tp=count)
    blocks = [(rng.standard_normal(37) * 10.0 ** rng.integers(-8, 8, 37)).astype("float32") for _ in range(count)]
    found = SimulatedCommunicator(mesh, algorithm).all_reduce(blocks, ("tp",), reduce)
    assert len({block.tobytes() for block in found}) == 1


@algorithms
def test_what_is_handed_in_is_not_changed(algorithm: str) -> None:
    mesh = Mesh(tp=3)
    blocks = blocks_of(mesh, (6, 3))
    kept = [block.copy() for block in blocks]
    communicator = SimulatedCommunicator(mesh, algorithm)
    communicator.all_reduce(blocks, ("tp",))
    communicator.reduce_scatter(blocks, 0, "tp")
    communicator.all_gather(blocks, 0, "tp")
    communicator.all_to_all(blocks, 0, 1, "tp")
    assert_same(blocks, kept)


@algorithms
def test_results_of_ranks_are_not_one_array(algorithm: str) -> None:
    """A rank that writes into its result does not write into another's."""
    mesh = Mesh(tp=3)
    communicator = SimulatedCommunicator(mesh, algorithm)
    for found in (
        communicator.all_reduce(blocks_of(mesh, (6,)), ("tp",)),
        communicator.all_gather(blocks_of(mesh, (6,)), 0, "tp"),
    ):
        assert not any(np.shares_memory(found[i], found[j]) for i in range(3) for j in range(i))


# -- what is sent ------------------------------------------------------------------------------------------

P = 288 * 8  #: a payload of 288 numbers of 8 bytes, which 2, 3 and 4 ranks share evenly
counts = pytest.mark.parametrize("N", [2, 3, 4])


def traffic(N: int, algorithm: str, call: Callable[[SimulatedCommunicator, list[Any]], object]) -> Traffic:
    communicator = SimulatedCommunicator(Mesh(tp=N), algorithm)
    call(communicator, blocks_of(communicator.mesh, (12, 24)))
    return communicator.traffic


@counts
def test_all_reduce_sends(N: int) -> None:
    def run(each: SimulatedCommunicator, blocks: list[Any]) -> object:
        return each.all_reduce(blocks, ("tp",))

    naive, direct, ring = (traffic(N, algorithm, run) for algorithm in ("naive", "direct", "ring"))
    # naive: 2 (N − 1) payloads in total, all through the root
    assert naive.total_bytes == 2 * (N - 1) * P
    assert naive.bytes == [(N - 1) * P] + [P] * (N - 1)
    assert naive.messages == [N - 1] + [1] * (N - 1)
    # direct: N − 1 payloads by each
    assert direct.bytes == [(N - 1) * P] * N
    assert direct.messages == [N - 1] * N
    # ring: 2 (N − 1)/N payloads by each, in 2 (N − 1) steps
    assert ring.bytes == [2 * (N - 1) * P // N] * N
    assert ring.messages == [2 * (N - 1)] * N


@counts
def test_reduce_scatter_sends(N: int) -> None:
    def run(each: SimulatedCommunicator, blocks: list[Any]) -> object:
        return each.reduce_scatter(blocks, 0, "tp")

    naive, direct, ring = (traffic(N, algorithm, run) for algorithm in ("naive", "direct", "ring"))
    assert naive.bytes == [(N - 1) * P // N] + [P] * (N - 1)
    assert direct.bytes == ring.bytes == [(N - 1) * P // N] * N
    assert direct.messages == ring.messages == [N - 1] * N


@counts
def test_all_gather_sends(N: int) -> None:
    def run(each: SimulatedCommunicator, blocks: list[Any]) -> object:
        return each.all_gather(blocks, 0, "tp")

    naive, direct, ring = (traffic(N, algorithm, run) for algorithm in ("naive", "direct", "ring"))
    assert naive.bytes == [(N - 1) * N * P] + [P] * (N - 1)
    assert direct.bytes == ring.bytes == [(N - 1) * P] * N
    assert direct.messages == ring.messages == [N - 1] * N


@counts
@algorithms
def test_all_to_all_sends(N: int, algorithm: str) -> None:
    found = traffic(N, algorithm, lambda each, blocks: each.all_to_all(blocks, 0, 1, "tp"))
    assert found.bytes == [(N - 1) * P // N] * N
    assert found.messages == [N - 1] * N


@counts
@algorithms
def test_uneven_chunks_add_up(N: int, algorithm: str) -> None:
    """Seven numbers do not divide: what each sends differs, the total does not."""
    communicator = SimulatedCommunicator(Mesh(tp=N), algorithm)
    communicator.all_reduce(blocks_of(communicator.mesh, (7,)), ("tp",))
    factor = N * (N - 1) if algorithm == "direct" else 2 * (N - 1)
    assert communicator.traffic.total_bytes == factor * 7 * 8


@algorithms
def test_groups_send_within_themselves(algorithm: str) -> None:
    """Two groups of three: each sends what one group of three sends; a group of one sends nothing."""
    alone, mesh = SimulatedCommunicator(Mesh(tp=3), algorithm), Mesh(dp=2, tp=3)
    alone.all_reduce(blocks_of(alone.mesh, (6,)), ("tp",))
    both = SimulatedCommunicator(mesh, algorithm)
    both.all_reduce(blocks_of(mesh, (6,)), ("tp",))
    assert both.traffic.bytes == alone.traffic.bytes * 2
    single = SimulatedCommunicator(Mesh(dp=3, tp=1), algorithm)
    single.all_reduce(blocks_of(single.mesh, (6,)), ("tp",))
    assert single.traffic == Traffic.none(3)


def test_traffic_adds_up() -> None:
    total = Traffic([1, 2], [8, 16]) + Traffic([0, 1], [0, 8])
    assert total == Traffic([1, 3], [8, 24])
    assert (total.total_messages, total.total_bytes) == (4, 32)


def test_an_unknown_algorithm() -> None:
    with pytest.raises(ConfigError, match=r"^algorithm 'tree' is unknown; choose from ring, direct, naive$"):
        SimulatedCommunicator(Mesh(tp=2), "tree")
