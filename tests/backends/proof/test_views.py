"""The checker of programs, on what is made part by part: copies of views, views of views, terms that are alike."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.engine import Tiling
from graphir.errors import ProofError
from graphir.ir.graph import Graph
from tests.support.handwritten import Handwritten

B, D, F, S = gi.dims("B D F S")


def fails(program: Handwritten, *parts: str) -> None:
    """The proof finds fault, and says all of this."""
    with pytest.raises(ProofError) as raised:
        program.prove()
    for part in parts:
        assert part in str(raised.value)


def exp(X: Any, Y: Any) -> tuple[Any, ...]:
    return np.exp, X, Y


def transposed() -> Graph:
    """X → R → T: rows are seen as two dims, which change places with the columns and are no rows any more."""
    block = gi.Builder("views")
    X = block.input("X", (B * S, D))
    R = gi.reshape(X, "(b s) d -> b s d", b=B, s=S, name="R")
    return block.build(gi.transpose(R, (1, 2, 0), name="T"))


@pytest.mark.parametrize("left_out", [None, (1, 2)])
def test_a_view_that_is_copied_part_by_part(left_out: tuple[int, int] | None) -> None:
    # Where T lies by itself, X's rows follow each other in no stride: so it is R that lies there.
    program = Handwritten(transposed(), {"B": 3, "S": 2, "D": 4})
    X, T = program.argument("X"), program.result("T")
    source = X.reshape(3, 2, 4).transpose(1, 2, 0)
    for s in (0, 1):
        for b in (2, 0, 1):
            if (s, b) != left_out:
                program.copy("T", source[s : s + 1, :, b : b + 1], T[s : s + 1, :, b : b + 1])
    if left_out is None:
        program.prove()
    else:
        fails(program, "the caller (after the run): it reads T[S 0:2, D 0:4, B 0:3]", "R[B 2, S 1, D 0:4] is not there")


def test_a_part_of_a_copied_view_that_is_written_over() -> None:
    program = Handwritten(transposed(), {"B": 3, "S": 2, "D": 4})
    X, T = program.argument("X"), program.result("T")
    source = X.reshape(3, 2, 4).transpose(1, 2, 0)
    program.copy("T", source, T)
    program.prove()
    program.copy("T", source[:1], T[1:])
    fails(program, "copy of T (thread 0, segment 0, step 1) has written over")


def test_a_dim_that_is_merged_and_split_again() -> None:
    # As one dim, what T makes of X lies in no stride; split again, it lies as it did.
    block = gi.Builder("split")
    T = gi.transpose(block.input("X", (S, B, D)), (1, 0, 2), name="T")
    C = gi.reshape(T, "b s d -> (b s) d", name="C")
    R = gi.reshape(C, "(b s) d -> b s d", b=B, s=S, name="R")
    program = Handwritten(block.build(gi.exponential(R, name="Y")), {"B": 3, "S": 2, "D": 4})
    X, Y = program.argument("X"), program.result("Y")
    seen = X.transpose(1, 0, 2)
    for b in range(3):
        program.compute("Y", [seen[b : b + 1]], [Y[b : b + 1]], exp(seen[b : b + 1], Y[b : b + 1]))
    program.prove()
    other = X.reshape(3, 2, 4)
    program.compute("Y", [other], [Y], exp(other, Y))
    fails(program, "it reads R of shape [3, 2, 4] where none of it lies in this layout")


def test_a_part_that_runs_on_into_the_next_row() -> None:
    # Four elements from the second of a row of three on: the last is the next row's first.
    block = gi.Builder("rows")
    A = gi.exponential(block.input("X", (B, D)), name="A")
    other = gi.exponential(block.input("Z", (B, F)), name="C")
    block.output(other)
    program = Handwritten(block.build(gi.exponential(A, name="Y")), {"B": 2, "D": 3, "F": 4})
    X, Z, Y, C = program.argument("X"), program.argument("Z"), program.result("Y"), program.result("C")
    memory = np.empty(6, np.float32)
    rows = memory.reshape(2, 3)
    program.compute("A", [X], [rows], exp(X, rows))
    program.compute("C", [Z[:1]], [memory[None, 1:5]], exp(Z[:1], memory[None, 1:5]))
    program.copy("C", memory[None, 1:5], C[:1])
    program.compute("C", [Z[1:]], [C[1:]], exp(Z[1:], C[1:]))
    program.compute("Y", [rows[1:, :1]], [Y[1:, :1]], exp(rows[1:, :1], Y[1:, :1]))
    fails(program, "C = exp (thread 0, segment 0, step 1, ", "has written over A")


@pytest.mark.parametrize("rounds", [2, 1, 3])
def test_equal_terms_are_counted_for_each_of_the_others(rounds: int) -> None:
    # B is alike, S is not: of each S there are as many terms as B, whichever way they are gone through.
    block = gi.Builder("equal")
    wide = gi.broadcast(block.input("x", (S, D)), (B,), name="A")
    graph = block.build(gi.reduce_sum(wide, (0, 1), name="Y"))
    program = Handwritten(graph, {"B": 2, "S": 3, "D": 4})
    x, Y, term = program.argument("x"), program.result("Y"), np.empty(4, np.float32)
    seen = np.broadcast_to(x, (2, 3, 4))[:1]
    for count in range(rounds):
        for s in range(3):
            part, target = seen[:, s : s + 1], term if count or s else Y
            program.compute("Y", [part], [target], (np.add.reduce, part, (0, 1), None, target))
            if target is term:
                program.add("Y", Y, term, Y)
    if rounds == 2:
        program.prove()
    else:
        fails(program, "lacks the terms" if rounds == 1 else "which are in it already")


@pytest.mark.parametrize("last", [3, 2])
def test_parts_of_a_view_some_of_which_are_parts_of_its_operand(last: int) -> None:
    # A whole head is a range of X's columns; single columns of the other head could be anywhere in it.
    block = gi.Builder("heads")
    R = gi.reshape(block.input("X", (B, F * D)), "b (f d) -> b f d", f=F, name="R")
    program = Handwritten(block.build(gi.transpose(R, (1, 0, 2), name="T")), {"B": 2, "F": 2, "D": 3})
    X, T = program.argument("X"), program.result("T")
    source = X.reshape(2, 2, 3).transpose(1, 0, 2)
    program.copy("T", source[:1], T[:1])
    for column in range(last):
        part = slice(1, 2), slice(None), slice(column, column + 1)
        program.copy("T", source[part], T[part])
    if last == 3:
        program.prove()
    else:
        fails(program, "the caller (after the run): it reads T[F 0:2, B 0:2, D 0:3]", "is not there")


def test_rows_that_a_view_joins_may_lie_apart() -> None:
    """dC1 is written over an operand, [F, B, (S F)]; of the result, [(F S), B, F], each tile's rows are copied."""
    graph = gi.parse(
        dedent("""
        graph joined float64 over dp=2

        inputs
          X   [F, B, F*S]
          R4  [F*S, B, F]

        /
          S4  [F*S|dp, B, F]     = SLICE(R4) {dim=0, axis="dp"}
          R5  [F|dp, S, B, F]    = R(S4) {pattern="(b h) s e -> b h s e", factors=("b", "h"), sizes=(F, S)}
          T6  [F|dp, B, S, F]    = T(R5) {perm=(0, 2, 1, 3)}
          C1  [F|dp, B, S*F]     = C(T6)
          S6  [F|dp, B, F*S]     = SLICE(X) {dim=0, axis="dp"}
          Y   [F|dp, B, F*S]     = add(S6, C1)
          Z   [F|dp, B, S, F]    = dC(Y) {h=S}
          Q   [F|dp, S, B, F]    = T(Z) {perm=(0, 2, 1, 3)}
          P   [F*S|dp, B, F]     = R(Q) {pattern="b h s e -> (b h) s e"}

        outputs
          P
        """)
    )
    for size in (16, 64, 1024):
        tiling = Tiling(bytes=size, small=1 << 16, causal=(64, 128))
        assert gi.compile(graph, {"B": 2, "S": 2, "F": 4}, threads=1, tiling=tiling, check=True).proofs
