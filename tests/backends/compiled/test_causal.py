"""What a causal mask spares: only what contributes nothing, and halves whose parts are looked up, not agreed upon."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.causal import Half, find_causal
from graphir.backends.compiled.task import Numbers, Task, make_task
from graphir.backends.compiled.tiles import Cut
from graphir.errors import PlanError
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes import fuse
from tests.support.poison import poisoned
from tests.support.tilings import DrawnTiling, drawn

B, S, D = gi.dims("B S D")
SIZES = {"B": 2, "S": 7, "D": 3}


def scores(block: gi.Builder) -> Value:
    """Masked scores [B, S, S] of X with itself."""
    X, Y = block.input("X", (B, S, D)), block.input("Y", (B, S, D))
    return gi.scale_mask(gi.matmul(X, gi.transpose(Y)), width=D, causal=True)


def norm(block: gi.Builder, X: Value) -> Value:
    gamma, beta = (block.parameter(name, X.shape[-1:]) for name in ("gamma", "beta"))
    return gi.layer_norm(X, gamma, beta)


def build(make: Callable[[gi.Builder, Value], Value]) -> Graph:
    block = gi.Builder("scores", dtype="float64")
    return block.build(make(block, scores(block)))


def values(block: gi.Builder) -> Value:
    return block.input("V", (B, S, D))


READERS: dict[str, tuple[bool, Callable[[gi.Builder, Value], Value]]] = {
    "attention": (True, lambda b, Z: gi.matmul(gi.softmax(Z), values(b))),
    "attention whose probabilities are scaled": (
        True,
        lambda b, Z: gi.matmul(gi.scale(gi.softmax(Z), by=2.0), values(b)),
    ),
    "a sum of probabilities over queries": (True, lambda b, Z: gi.reduce_sum(gi.softmax(Z), (1,))),
    "a norm over keys": (False, lambda b, Z: gi.matmul(gi.multiply(gi.softmax(Z), norm(b, Z)), values(b))),
    "a sum of scores over queries": (False, lambda b, Z: gi.reduce_sum(Z, (1,))),
    "a sum of scores over keys": (False, lambda b, Z: gi.reduce_sum(Z, (2,))),
    "a product with scores": (False, lambda b, Z: gi.matmul(gi.scale(Z, by=1e-30), values(b))),
    "exponentials": (False, lambda b, Z: gi.matmul(gi.exponential(Z), values(b))),
    "what each key is given": (True, lambda b, Z: gi.matmul(gi.transpose(gi.softmax(Z)), values(b))),
    "probabilities of all together": (False, lambda b, Z: gi.reduce_sum(gi.softmax(Z), (0,))),
    "probabilities of probabilities": (False, lambda b, Z: gi.matmul(gi.softmax(gi.softmax(Z)), values(b))),
}


def task_of(graph: Graph) -> Task:
    fused = fuse(graph)
    node = next(node for node in fused.nodes if any(each.operator is gi.scale_mask for each in _inner(node)))
    return make_task(node, Numbers(Mesh(), SIZES))


def _inner(node: object) -> tuple[object, ...]:
    body = node.body  # type: ignore[attr-defined]
    return (node,) if body is None else body.nodes


@pytest.mark.parametrize("reader", READERS)
def test_only_what_contributes_nothing_is_left_out(reader: str) -> None:
    spares, make = READERS[reader]
    pair, _ = find_causal(task_of(build(make)), {})
    assert (pair is not None) == spares


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("seed", range(6))
def test_numbers_are_the_interpreters(reader: str, seed: int) -> None:
    graph = build(READERS[reader][1])
    rng = np.random.default_rng(seed)
    given = {
        value.name: rng.standard_normal([dim.size(SIZES) for dim in value.shape])
        for value in (*graph.inputs, *graph.parameters)
    }
    wanted = gi.compile(graph, SIZES, backend="reference")(given)
    made = gi.compile(graph, SIZES, threads=1 + seed % 3, tiling=drawn(seed))(given)
    for name, array in wanted.items():
        np.testing.assert_allclose(made[name], array, rtol=1e-12, atol=1e-12)


class SharedQueries(DrawnTiling):
    """Queries shared by two threads, so that the first has not all keys."""

    def cut(self, task: Task, threads: int) -> Cut:
        if task.causal is None:
            return Cut()
        q = task.causal[0]
        return Cut({q: 2}, q, (0, 3, task.sizes[q]))


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_a_sum_begins_at_0_where_a_thread_has_not_all_keys(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphir.backends.numpy.fast.kernels.LEAST", 0)
    graph = build(READERS["a sum of probabilities over queries"][1])
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((2, 7, 3)) for name in ("X", "Y")}
    tiling = SharedQueries(bytes=1 << 22, small=0, causal=(1, 1 << 20))
    with poisoned():
        made = gi.compile(graph, SIZES, threads=2, tiling=tiling, kernels=kernels)(given)
    for name, array in gi.compile(graph, SIZES, backend="reference")(given).items():
        np.testing.assert_allclose(made[name], array, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_what_not_all_can_read_as_a_half_is_stored_whole(seed: int) -> None:
    """Of P • P, the first P could be read by the tiles that have made it, the second cannot."""
    block = gi.Builder("two_roles", dtype="float64")
    P = gi.softmax(scores(block))
    graph = block.build(gi.matmul(gi.matmul(P, P), values(block)))
    rng = np.random.default_rng(seed)
    given = {name: rng.standard_normal((2, 7, 3)) for name in ("X", "Y", "V")}
    wanted = gi.compile(graph, SIZES, backend="reference")(given)
    made = gi.compile(graph, SIZES, threads=1 + seed % 3, tiling=drawn(seed))(given)
    for name, array in wanted.items():
        np.testing.assert_allclose(made[name], array, rtol=1e-12, atol=1e-12)


def test_a_part_that_is_none_of_a_halfs_is_refused() -> None:
    task = task_of(build(READERS["attention"][1]))
    task.causal, _ = find_causal(task, {})
    assert task.causal is not None
    q = task.causal[0]
    value = next(v for v in task.shapes if {(q,), (task.causal[1],)} <= set(task.space.dims[v]))
    task.tiles = Cut({q: 2}).tiles(task, 1)
    half = Half.made_by(task, value)
    # Seven queries two by two: 2·2 + 2·4 + 2·6 + 1·7 entries for each of two sequences.
    assert half.size == 2 * (4 + 8 + 12 + 7)
    tiles = list(task.tiles[0])
    for cut in (Cut({q: 3}), Cut(dict.fromkeys(task.space.loops, 1)), Cut({q: 2}, q, (0, 4, 7))):
        task.tiles = cut.tiles(task, 2)
        parts = [math.prod(task.shape(value, tile)) for thread in task.tiles for tile in thread]
        assert Half.made_by(task, value).size == sum(parts)
    task.tiles = [tiles]  # type: ignore[list-item]
    assert sorted(half.start(task, value, tile) for tile in tiles) == [0, 14, 38, 54]
    other = next(iter(Cut({q: 3}).tiles(task, 1)[0]))
    with pytest.raises(PlanError, match=r"reads .* at \[0:2, 5:6, 0:7\], which is stored in other parts: \[0:2, 6:7"):
        half.start(task, value, {**other, q: (5, 6)})
