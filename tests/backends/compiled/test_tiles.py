"""Tiles: whatever the cut, every combination of the loops' indices is in exactly one tile of one thread."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

import graphir as gi
from graphir.backends.compiled.task import Numbers, Pieces, Task, make_task
from graphir.backends.compiled.tiles import Cut, Tiling
from graphir.ir.layout import Mesh
from tests.support.tilings import drawn

B, S, D = gi.dims("B S D")
SIZES = {"B": 3, "S": 5, "D": 4}


@pytest.fixture(scope="module")
def task() -> Task:
    block = gi.Builder("rows")
    graph = block.build(gi.softmax(block.input("X", (B, S, D))))
    return make_task(graph.nodes[0], Numbers(Mesh(), SIZES))


def _indices(task: Task, cut: Cut, threads: int) -> Counter[tuple[int, ...]]:
    found: Counter[tuple[int, ...]] = Counter()
    for tile in (tile for tiles in cut.tiles(task, threads) for tile in tiles):
        found.update(product(*(range(*tile[loop]) for loop in task.space.loops)))
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(40))
def test_tiles_cover_every_index_once(task: Task, seed: int, threads: int) -> None:
    for tiling in (drawn(seed), Tiling(bytes=1 << (seed % 12), small=seed % 3, causal=(1, 2))):
        found = _indices(task, tiling.cut(task, threads), threads)
        assert found == Counter(product(*(range(task.sizes[loop]) for loop in task.space.loops)))


def test_a_cut_is_followed_by_another_tasks_loops() -> None:
    cut = Cut({0: 2, 1: 3}, 1, (0, 4, 7))
    assert cut.follow((0, 1), (5, 9)) == Cut({5: 2, 9: 3}, 9, (0, 4, 7))
    assert Cut().follow((0,), (5,)) == Cut()


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("stop", [4, 9, 12])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 12])
def test_samples_are_pieces_of_every_width(start: int, stop: int, width: int) -> None:
    pieces = Pieces(0, start, stop, width)
    assert set(pieces.samples()) <= set(pieces)
    assert {high - low for low, high in pieces.samples()} == {high - low for low, high in pieces}
    assert list(pieces.backwards()) == list(pieces)[::-1]
    assert len(pieces) == len(list(pieces))
