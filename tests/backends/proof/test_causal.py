"""The checker of programs on the causal half: what a mask spares may be left out, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.proof.halves import find_halves
from graphir.backends.proof.items import MASKED, ZERO, Half, Ledger
from graphir.ir.graph import Graph
from graphir.ir.operator import Place
from tests.backends.proof.test_proof import fails
from tests.support.handwritten import Handwritten

B, H, S, D = gi.dims("B H S D")
SIZES = {"B": 1, "H": 1, "S": 8, "D": 2}


def attention(causal: bool = True) -> Graph:
    """Z = SM(A), P = S(Z), O = P • V, on scores A [B, H, S, S]."""
    block = gi.Builder("attention")
    A, V = block.input("A", (B, H, S, S)), block.input("V", (B, H, S, D))
    Z = gi.scale_mask(A, width=D, causal=causal, name="Z")
    return block.build(gi.matmul(gi.softmax(Z, name="P"), V, name="O"))


class Tiles(Handwritten):
    """Attention, by blocks of queries, each in scratch of its own."""

    def attend(self, low: int, high: int, keys: int, told: int | None = None, kept: Any = None) -> None:
        """Queries `low` to `high`, with the first `keys` keys."""
        A, V, O = self.argument("A"), self.argument("V"), self.result("O")  # noqa: E741
        Z = np.empty((1, 1, high - low, keys), np.float32) if kept is None else kept
        rule = self.graph.nodes[0].inference.rule
        starts = {"b": 0, "h.0": 0, "q": low if told is None else told, "k": 0}
        place = Place(rule, starts, {"b": 1, "h.0": 1, "q": 8, "k": 8})
        scores = A[:, :, low:high, :keys]
        self.compute("Z", [scores], [Z], (np.multiply, scores, np.float32(1), Z), place=place)
        self.compute("P", [Z], [Z], (np.exp, Z, Z))
        out = O[:, :, low:high]
        self.compute("O", [Z, V[:, :, :keys]], [out], (np.matmul, Z, V[:, :, :keys], out))


def test_keys_that_no_query_sees_are_left_out() -> None:
    program = Tiles(attention(), SIZES)
    for low in (0, 3, 6):
        program.attend(low, min(low + 3, 8), min(low + 3, 8))
    program.prove()


def test_a_key_too_few() -> None:
    program = Tiles(attention(), SIZES)
    program.attend(0, 4, 3)
    fails(program, "P needs all of S 0:8, and reads S 0:3", "test_causal.py:")


def test_nothing_is_spared_without_a_mask() -> None:
    program = Tiles(attention(causal=False), SIZES)
    program.attend(0, 4, 4)
    fails(program, "P needs all of S 0:8, and reads S 0:4")


def test_a_mask_laid_elsewhere() -> None:
    program = Tiles(attention(), SIZES)
    program.attend(0, 4, 4)
    program.attend(4, 8, 8, told=3)
    fails(program, "Z is told that S 3:7 is computed, and it is S 4:8")


def test_a_product_that_leaves_out_what_is_seen() -> None:
    program = Tiles(attention(), SIZES)
    A, V, O = program.argument("A"), program.argument("V"), program.result("O")  # noqa: E741
    Z = np.empty((1, 1, 8, 8), np.float32)
    program.compute("Z", [A], [Z], (np.multiply, A, np.float32(1), Z))
    program.compute("P", [Z], [Z], (np.exp, Z, Z))
    program.compute("O", [Z[..., :7], V[:, :, :7]], [O], (np.matmul, Z[..., :7], V[:, :, :7], O))
    fails(program, "it reads O", "a sum that is not complete: O[B 0, H 0, S 7, D 0:2] lacks the terms [S 7]")


def test_what_was_left_out_is_not_there_to_be_read() -> None:
    program = Tiles(attention(), SIZES)
    whole = np.empty((1, 1, 8, 8), np.float32)
    for low in (0, 4):
        program.attend(low, low + 4, low + 4, kept=whole[:, :, low : low + 4, : low + 4])
    V, O = program.argument("V"), program.result("O")  # noqa: E741
    program.compute("O", [whole, V], [O], (np.matmul, whole, V, O))
    fails(program, "it reads P[B 0, H 0, S 0:8, S 0:8], of which P[B 0, H 0, S 0:4, S 4:8] is not there")


@pytest.mark.parametrize("cleared", [True, False])
def test_what_is_known_to_be_zero_may_be_cleared(cleared: bool) -> None:
    program = Tiles(attention(), SIZES)
    whole = np.empty((1, 1, 8, 8), np.float32)
    for low in (0, 4):
        program.attend(low, low + 4, low + 4, kept=whole[:, :, low : low + 4, : low + 4])
    V, O = program.argument("V"), program.result("O")  # noqa: E741
    if cleared:
        program.clear("P", whole[:, :, :4, 4:])
    else:
        program.clear("P", whole[:, :, :4, 3:])
    program.compute("O", [whole, V], [O], (np.matmul, whole, V, O))
    if cleared:
        program.prove()
    else:
        fails(program, "P[B 0, H 0, S 0:4, S 3:8] is no sum, and not known to be 0")


# -- the other way round: a gradient is a sum over the queries that see a key ------------------------------------


def gradient() -> Graph:
    """dV = Pᵀ • dO of a causal P."""
    block = gi.Builder("gradient")
    A, dO = block.input("A", (B, H, S, S)), block.input("dO", (B, H, S, D))
    P = gi.softmax(gi.scale_mask(A, width=D, causal=True, name="Z"), name="P")
    return block.build(gi.matmul(gi.transpose(P), dO, name="dV"))


@pytest.mark.parametrize(("first", "right"), [(4, True), (5, False)])
def test_a_sum_over_the_queries_that_see_a_key(first: int, right: bool) -> None:
    program = Handwritten(gradient(), SIZES)
    A, dO, dV = program.argument("A"), program.argument("dO"), program.result("dV")
    P = np.empty((1, 1, 8, 8), np.float32)
    program.compute("Z", [A], [P], (np.multiply, A, np.float32(1), P))
    program.compute("P", [P], [P], (np.exp, P, P))
    columns = P.swapaxes(-1, -2)
    for keys, queries in ((slice(0, 4), slice(0, 8)), (slice(4, 8), slice(first, 8))):
        part, rows = columns[:, :, keys, queries], dO[:, :, queries]
        program.compute("dV", [part, rows], [dV[:, :, keys]], (np.matmul, part, rows, dV[:, :, keys]))
    if right:
        program.prove()
    else:
        fails(program, "dV[B 0, H 0, S 4, D 0:2] lacks the terms [S 4]")


def test_what_is_known_beyond_follows_from_traits() -> None:
    block = gi.Builder("known")
    A, m = block.input("A", (B, H, S, S)), block.input("m", (B, H, S, S))
    Z = gi.scale_mask(A, width=D, causal=True, name="Z")
    P = gi.softmax(Z, name="P")
    graph = block.build(gi.exponential(gi.transpose(gi.multiply(P, m, name="Q"), name="T"), name="E"))
    ledger = Ledger(graph, {"B": 1, "H": 1, "S": 8, "D": 2}, 0)
    find_halves(ledger)
    known = {name: ledger.item(graph[name]).beyond for name in ("A", "Z", "P", "Q", "T", "E")}
    assert known == {
        "A": {}, "Z": {Half(2, 3): MASKED}, "P": {Half(2, 3): ZERO}, "Q": {Half(2, 3): ZERO}, "T": {Half(3, 2): ZERO},
        "E": {},
    }  # fmt: skip
