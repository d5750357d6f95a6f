"""Grouped heads: queries that share keys and values, which nobody repeats; cut by query, the causal half left out."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.ir.value import Value
from graphir.passes import autodiff, lower
from tests.support.tilings import drawn

B, S, N_KV, G, D_h = gi.dims("B S N_KV G D_h")
SIZES = {"B": 2, "S": 13, "N_KV": 3, "G": 2, "D_h": 4}


def attention(repeated: bool = False) -> gi.Graph:
    """L = Σ Y², Y of grouped heads; `repeated`: of plain ones, of keys and values repeated for each of a group."""
    block = gi.Builder("grouped", dtype="float64")
    Q = block.parameter("Q", (B, S, N_KV * G * D_h))
    K, V = (block.parameter(name, (B, S, N_KV * D_h)) for name in "KV")
    q = gi.transpose(gi.reshape(Q, "b s (k g e) -> b s k g e", k=N_KV, g=G), (0, 2, 3, 1, 4))
    k, v = (gi.transpose(gi.reshape(X, "b s (k e) -> b s k e", k=N_KV), (0, 2, 1, 3)) for X in (K, V))
    if repeated:
        q = gi.reshape(q, "b k g s e -> b (k g) s e")
        k, v = (gi.reshape(gi.broadcast(X, (G,), axes=(2,)), "b k g s e -> b (k g) s e") for X in (k, v))
    Z = gi.scale_mask(gi.matmul(q, gi.transpose(k)), width=D_h, causal=True)
    O = gi.matmul(gi.softmax(Z), v)  # noqa: E741
    Y = _concatenated(O, repeated)
    return block.build(gi.reduce_sum(gi.multiply(Y, Y), name="L"))


def _concatenated(O: Value, repeated: bool) -> Value:  # noqa: E741
    if repeated:
        return gi.reshape(gi.transpose(O, (0, 2, 1, 3)), "b s h e -> b s (h e)")
    return gi.reshape(gi.transpose(O, (0, 3, 1, 2, 4)), "b s k g e -> b s (k g e)")


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal((2, 13, width)) for name, width in (("Q", 24), ("K", 12), ("V", 12))}


EXPECTED = gi.compile(autodiff(attention(repeated=True)), SIZES, backend="reference")(arrays())
RESULTS = ("L", "dQ", "dK", "dV")


def require_expected(found: object) -> None:
    for name in RESULTS:
        np.testing.assert_allclose(found[name], EXPECTED[name], rtol=1e-12, atol=1e-12)  # type: ignore[index]


@pytest.mark.parametrize("seed", range(8))
def test_grouped_heads_are_plain_ones_whose_keys_are_repeated(seed: int) -> None:
    graph = autodiff(attention())
    require_expected(gi.compile(graph, SIZES, threads=1 + seed % 3, tiling=drawn(seed), check=True)(arrays()))


def test_the_reference_and_the_lowered_graph_do_the_same() -> None:
    for graph in (autodiff(attention()), lower(autodiff(attention()))):
        require_expected(gi.compile(graph, SIZES, backend="reference")(arrays()))


def test_queries_are_cut_and_the_half_is_left_out() -> None:
    """Forward and backward; a product that waits for a whole group of heads would leave nothing out."""
    sizes = {**SIZES, "S": 512, "D_h": 16}
    run = gi.compile(autodiff(attention()), sizes, threads=1)
    cores = [task for task in run.prepared.tasks if task.causal is not None]
    assert len(cores) == 2
    for task in cores:
        assert [task.sizes[loop] for loop in task.space.loops] == [2, 3, 512]
        assert len(task.tiles[0].pieces[-1]) > 1
    # Keys and values of all heads of a group: 2 · 512 · 6 · 16 numbers of 8 bytes for each.
    assert not [array for array in run.prepared.steps.shapes.values() if array == (2, 6, 512, 16)]
    assert run.memory.scratch < 2 * 512 * 512 * 8


@pytest.mark.parametrize("cut", ["K", "G"])
def test_ranks_may_share_heads_of_keys_or_the_heads_of_a_group(cut: str) -> None:
    """With heads of keys split all is; with a group's alone keys and values are whole, and dK and dV pending sums."""
    ranks = 3 if cut == "K" else 2
    mesh = gi.Mesh(tp=ranks)
    split = gi.Builder("split", dtype="float64", mesh=mesh)
    kv, g = (("tp",), ()) if cut == "K" else ((), ("tp",))
    Q = split.parameter("Q", (B, N_KV, G, S, D_h), layout=gi.Layout([(), kv, g, (), ()]))
    K_T = split.parameter("K_T", (B, N_KV, D_h, S), layout=gi.Layout([(), kv, (), ()]))
    A = gi.matmul(Q, K_T, name="A")
    assert A.type.layout.splits == ((), kv, g, (), ())
    joint = autodiff(split.build(gi.reduce_sum(gi.multiply(A, A), name="L")))
    assert joint["dK_T"].type.layout.pending == (() if cut == "K" else (("tp", "sum"),))
