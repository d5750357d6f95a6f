"""The checker of programs, on programs written by hand: one right, and beside it one of each kind of fault."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import ProofError
from graphir.ir.graph import Graph
from graphir.ir.operator import Place
from tests.support.handwritten import Handwritten

B, D, F, S = gi.dims("B D F S")
SIZES = {"B": 4, "D": 6}


def chain(*steps: str, shape: Any = (B, D)) -> Graph:
    """X → A → B → …, each the exponential of the one before."""
    block = gi.Builder("chain")
    value = block.input("X", shape)
    for name in steps:
        value = gi.exponential(value, name=name)
    return block.build(value)


def fails(program: Handwritten, *parts: str) -> None:
    """The proof finds fault, and says all of this."""
    with pytest.raises(ProofError) as raised:
        program.prove()
    text = str(raised.value)
    for part in parts:
        assert part in text, f"{part!r} is not said: {text}"


def exp(X: Any, Y: Any) -> tuple[Any, ...]:
    return np.exp, X, Y


# -- what is read is there ---------------------------------------------------------------------------------


def test_a_program_in_tiles_is_proved() -> None:
    program = Handwritten(chain("A", "Y"), SIZES)
    X, Y, scratch = program.argument("X"), program.result("Y"), np.empty((2, 6), np.float32)
    for low in (0, 2):
        tile = slice(low, low + 2)
        program.compute("A", [X[tile]], [scratch], exp(X[tile], scratch))
        program.compute("Y", [scratch], [Y[tile]], exp(scratch, Y[tile]))
    proof = program.prove()
    assert (proof.counts.steps, proof.counts.calls, proof.counts.ranges) == (4, 4, 4)
    assert str(proof) == ("chain: 4 steps of 4 calls, 5 reads, 4 ranges written, 0 meetings and 0 exchanges proved")
    assert any("caller hands in later" in each for each in proof.unseen)


def test_a_tile_one_short() -> None:
    program = Handwritten(chain("Y"), SIZES)
    X, Y = program.argument("X"), program.result("Y")
    program.compute("Y", [X[:3]], [Y[:3]], exp(X[:3], Y[:3]))
    fails(
        program,
        "the caller (after the run): it reads Y[B 0:4, D 0:6], of which Y[B 3, D 0:6] is not there",
        "it has not been written",
    )


def test_an_operand_overwritten_too_early() -> None:
    program = Handwritten(chain("A", "C", "Y"), SIZES)
    X, Y, A = program.argument("X"), program.result("Y"), program.array("A")
    program.compute("A", [X], [A], exp(X, A))
    program.compute("C", [A], [Y], exp(A, Y))
    program.compute("Y", [Y], [Y], exp(Y, Y))
    program.prove()
    block = gi.Builder("twice")
    value = gi.exponential(block.input("X", (B, D)), name="A")
    graph = block.build(gi.add(value, gi.exponential(value, name="C"), name="Y"))
    program = Handwritten(graph, SIZES)
    X, Y, A = program.argument("X"), program.result("Y"), program.array("A")
    program.compute("A", [X], [A], exp(X, A))
    program.compute("C", [A], [A], exp(A, A))
    program.compute("Y", [A, A], [Y], (np.add, A, A, Y))
    fails(program, "Y = + (thread 0, segment 0, step 2, ", "it reads A", "what lies there is C[B 0:4, D 0:6], by C")


def test_only_what_is_overwritten_is_lost() -> None:
    program = Handwritten(chain("A", "Y"), SIZES)
    X, Y, A = program.argument("X"), program.result("Y"), program.array("A")
    program.compute("A", [X], [A], exp(X, A))
    program.compute("Y", [A[:2]], [A[:2]], exp(A[:2], A[:2]))
    program.copy("Y", A[:2], Y[:2])
    program.compute("Y", [A[1:]], [Y[1:]], exp(A[1:], Y[1:]))
    fails(program, "reads A[B 1:4, D 0:6]", "A[B 1, D 0:6] is not there", "Y = exp (thread 0, segment 0, step 1")


def test_a_layout_that_the_reader_cuts_otherwise() -> None:
    # Two blocks of columns, one behind the other: as rows they are something else.
    program = Handwritten(chain("A", "Y"), SIZES)
    X, Y = program.argument("X"), program.result("Y")
    packed = np.empty(24, np.float32)
    first, last = packed[:12].reshape(4, 3), packed[12:].reshape(4, 3)
    program.compute("A", [X[:, :3]], [first], exp(X[:, :3], first))
    program.compute("A", [X[:, 3:]], [last], exp(X[:, 3:], last))
    rows = packed.reshape(4, 6)
    program.compute("Y", [rows], [Y], exp(rows, Y))
    fails(program, "reads A of shape [4, 6] where none of it lies in this layout", "A[B 0:4, D 0:3]")


def test_a_result_that_lies_elsewhere() -> None:
    program = Handwritten(chain("Y"), SIZES)
    X, Y = program.argument("X"), np.empty((4, 6), np.float32)
    program.result("Y")
    program.compute("Y", [X], [Y], exp(X, Y))
    fails(program, "the caller (after the run): it reads Y of shape [4, 6] where none of it lies")


def test_memory_of_another_dtype() -> None:
    program = Handwritten(chain("Y"), SIZES)
    X, Y = program.argument("X"), program.result("Y").view(np.int32)
    program.compute("Y", [X], [Y], exp(X, Y))
    fails(program, "Y is float32, the array for it int32")


# -- ranges agree ------------------------------------------------------------------------------------------


def twice() -> Graph:
    block = gi.Builder("twice")
    X = block.input("X", (B, B))
    return block.build(gi.add(X, gi.transpose(X), name="Y"))


def test_a_value_in_two_roles() -> None:
    program = Handwritten(twice(), {"B": 4})
    X, Y = program.argument("X"), program.result("Y")
    for low in (0, 2):
        tile = slice(low, low + 2)
        program.compute("Y", [X[tile], X.T[tile]], [Y[tile]], (np.add, X[tile], X.T[tile], Y[tile]))
    program.prove()


def test_a_value_in_two_roles_on_the_diagonal_blocks_alone() -> None:
    program = Handwritten(twice(), {"B": 4})
    X, Y = program.argument("X"), program.result("Y")
    for low in (0, 2):
        part = (slice(low, low + 2), slice(low, low + 2))
        program.compute("Y", [X[part], X.T[part]], [Y[part]], (np.add, X[part], X.T[part], Y[part]))
    fails(program, "reads Y[B 0:4, B 0:4]", "Y[B 2:4, B 0:2] is not there: it has not been written")


def test_operands_of_different_parts() -> None:
    program = Handwritten(twice(), {"B": 4})
    X, Y = program.argument("X"), program.result("Y")
    program.compute("Y", [X[:2], X.T[2:]], [Y[:2]], (np.add, X[:2], X.T[2:], Y[:2]))
    fails(program, "Y is computed of B 0:2 in X0 = X, but of B 2:4 in X1 = ", "test_proof.py:")


def test_a_result_of_other_lengths() -> None:
    program = Handwritten(chain("Y"), SIZES)
    X, Y = program.argument("X"), program.result("Y")
    program.compute("Y", [X[:1]], [Y], exp(X[:1], Y))
    fails(program, "Y is computed of B 0:1 in X = X, but of 4 of B in Y = Y")


def test_what_a_node_mixes_is_whole() -> None:
    block = gi.Builder("softmax")
    graph = block.build(gi.softmax(block.input("X", (B, D)), name="Y"))
    program = Handwritten(graph, SIZES)
    X, Y = program.argument("X"), program.result("Y")
    for part in (slice(0, 3), slice(3, 6)):
        program.compute("Y", [X[:, part]], [Y[:, part]], exp(X[:, part], Y[:, part]))
    fails(program, "Y needs all of D 0:6, and reads D 0:3")


def test_a_kernel_that_is_told_another_place() -> None:
    block = gi.Builder("dropout")
    X, seed, step = block.input("X", (B, D)), block.input("seed", (), "int64"), block.input("step", (), "int64")
    graph = block.build(gi.dropout(X, seed, step, p=0.5, name="Y"))
    rule = graph.nodes[0].inference.rule
    for start, right in ((2, True), (1, False)):
        program = Handwritten(graph, SIZES)
        X_, Y, m = program.argument("X"), program.result("Y"), program.array("Y.m")
        numbers = program.argument("seed"), program.argument("step")
        for low in (0, 2):
            tile = slice(low, low + 2)
            place = Place(rule, {"b.0": start if low else 0, "b.1": 0}, {"b.0": 4, "b.1": 6})
            calls = [(np.greater, X_[tile], *numbers[:1], m[tile]), (np.multiply, X_[tile], m[tile], Y[tile])]
            program.compute("Y", [X_[tile], *numbers], [Y[tile], m[tile]], *calls, place=place)
        if right:
            program.prove()
        else:
            fails(program, "Y is told that B 1:3 is computed, and it is B 2:4")


# -- views -------------------------------------------------------------------------------------------------


def test_a_broadcast_is_its_operands_memory() -> None:
    block = gi.Builder("bias")
    X, b = block.input("X", (B, D)), block.input("b", (D,))
    graph = block.build(gi.add(X, gi.broadcast(b, (B,)), name="Y"))
    program = Handwritten(graph, SIZES)
    X_, b_, Y = program.argument("X"), program.argument("b"), program.result("Y")
    wide = np.broadcast_to(b_, (4, 6))
    for low in (0, 3):
        part = (slice(None), slice(low, low + 3))
        program.compute("Y", [X_[part], wide[part]], [Y[part]], (np.add, X_[part], wide[part], Y[part]))
    program.prove()
    copy = np.empty((4, 6), np.float32)
    program.compute("Y", [X_, copy], [Y], (np.add, X_, copy, Y))
    fails(program, "reads BC0 of shape [4, 6] where none of it lies in this layout; nothing has been written there")


def test_a_result_is_made_where_its_view_lies() -> None:
    block = gi.Builder("heads")
    X = block.input("X", (B, F, D))
    graph = block.build(gi.concatenate(gi.exponential(X, name="A"), name="Y"))
    program = Handwritten(graph, {"B": 2, "F": 3, "D": 4})
    X_, Y = program.argument("X"), program.result("Y")
    heads = Y.reshape(2, 3, 4)
    for head in range(3):
        program.compute("A", [X_[:, head : head + 1]], [heads[:, head : head + 1]],
                        exp(X_[:, head : head + 1], heads[:, head : head + 1]))  # fmt: skip
    program.prove()


def test_a_view_that_cuts_otherwise() -> None:
    block = gi.Builder("cut")
    X = block.input("X", (F, D))
    merged = gi.reshape(X, "f d -> (f d)")
    graph = block.build(gi.exponential(gi.reshape(merged, "(d f) -> d f", f=F), name="Y"))
    sizes = {"F": 2, "D": 3}
    program = Handwritten(graph, sizes)
    X_, Y = program.argument("X"), program.result("Y")
    view = X_.reshape(3, 2)
    program.compute("Y", [view], [Y], exp(view, Y))
    program.prove()
    program = Handwritten(graph, sizes)
    X_, Y = program.argument("X"), program.result("Y")
    program.compute("Y", [X_.T], [Y], exp(X_.T, Y))
    fails(program, "where none of it lies in this layout")


# -- sums --------------------------------------------------------------------------------------------------


def total() -> Graph:
    block = gi.Builder("total")
    return block.build(gi.exponential(gi.reduce_sum(block.input("X", (B, D)), (0,), name="A"), name="Y"))


def _summed(X: Any, out: Any) -> tuple[Any, ...]:
    return np.add.reduce, X, 0, None, out


def test_a_sum_over_tiles() -> None:
    program = Handwritten(total(), SIZES)
    X, Y, A, term = program.argument("X"), program.result("Y"), program.array("A"), program.array("A")
    program.compute("A", [X[:2]], [A], _summed(X[:2], A))
    program.compute("A", [X[2:]], [term], _summed(X[2:], term))
    program.add("A", A, term, A)
    program.compute("Y", [A], [Y], exp(A, Y))
    program.prove()


def test_a_sum_that_lacks_a_term() -> None:
    program = Handwritten(total(), SIZES)
    X, Y, A = program.argument("X"), program.result("Y"), program.array("A")
    program.compute("A", [X[:3]], [A], _summed(X[:3], A))
    program.compute("Y", [A], [Y], exp(A, Y))
    fails(program, "reads A[D 0:6], a sum that is not complete: A[D 0:6] lacks the terms [B 3]")


def test_a_term_added_twice() -> None:
    program = Handwritten(total(), SIZES)
    X, A, term = program.argument("X"), program.array("A"), program.array("A")
    program.result("Y")
    program.compute("A", [X[:3]], [A], _summed(X[:3], A))
    program.compute("A", [X[2:]], [term], _summed(X[2:], term))
    program.add("A", A, term, A)
    fails(program, "add of A", "adds to A[D 0:6] the terms [B 2], which are in it already")


def test_a_term_added_to_what_was_not_cleared() -> None:
    for cleared in (True, False):
        program = Handwritten(total(), SIZES)
        X, Y, A, term = program.argument("X"), program.result("Y"), program.array("A"), program.array("A")
        if cleared:
            program.clear("A", A)
        program.compute("A", [X], [term], _summed(X, term))
        program.add("A", A, term, A)
        program.compute("Y", [A], [Y], exp(A, Y))
        if cleared:
            program.prove()
        else:
            fails(program, "reads A of shape [6] where none of it lies in this layout; nothing has been written there")


def test_a_sum_formed_as_a_maximum() -> None:
    program = Handwritten(total(), SIZES)
    X, A, term = program.argument("X"), program.array("A"), program.array("A")
    program.result("Y")
    program.compute("A", [X[:2]], [A], _summed(X[:2], A))
    program.compute("A", [X[2:]], [term], _summed(X[2:], term))
    program.add("A", A, term, A, kind="maximum")
    fails(program, "A is the sum of its terms, and it forms another")


def test_equal_terms_are_counted() -> None:
    block = gi.Builder("equal")
    graph = block.build(gi.reduce_sum(gi.broadcast(block.input("x", (D,)), (B,)), (0,), name="Y"))
    for count in (4, 3):
        program = Handwritten(graph, SIZES)
        x, Y, term = program.argument("x"), program.result("Y"), program.array("Y")
        row = np.broadcast_to(x, (4, 6))[:1]
        program.compute("Y", [row], [Y], _summed(row, Y))
        for _ in range(count - 1):
            program.compute("Y", [row], [term], _summed(row, term))
            program.add("Y", Y, term, Y)
        if count == 4:
            program.prove()
        else:
            fails(program, "lacks the terms [B 3]")


def test_the_text_is_one_line_without_addresses() -> None:
    program = Handwritten(chain("Y"), SIZES)
    program.argument("X")
    program.result("Y")
    with pytest.raises(ProofError) as raised:
        program.prove()
    assert "\n" not in str(raised.value)
    assert not re.search(r"0x[0-9a-f]{6,}|\d{9,}", str(raised.value))


def test_equal_elements_are_told_from_no_others() -> None:
    # All of Y is the same along B: which rows a tile makes shows in nothing but where it puts them.
    block = gi.Builder("equal")
    wide = gi.broadcast(block.input("x", (D,)), (B,), name="A")
    graph = block.build(gi.exponential(wide, name="Y"))
    for rows in (4, 3):
        program = Handwritten(graph, SIZES)
        x, Y = program.argument("x"), program.result("Y")
        for row in range(rows):
            one = np.broadcast_to(x, (1, 6))
            program.compute("Y", [one], [Y[row : row + 1]], exp(one, Y[row : row + 1]))
        if rows == 4:
            program.prove()
        else:
            fails(program, "it reads Y[B 0:4, D 0:6], of which Y[B 3, D 0:6] is not there")


def test_equal_elements_in_copies_that_lie_side_by_side() -> None:
    # Two copies of a sum of equal terms, of which nothing says where one ends and the other begins but who reads them.
    block = gi.Builder("copies")
    wide = gi.broadcast(block.input("x", ()), (B, D), name="A")
    graph = block.build(gi.reduce_sum(wide, (0,), name="Y"))
    program = Handwritten(graph, {"B": 2, "D": 2})
    x, Y, copies = program.argument("x"), program.result("Y"), np.empty((2, 2), np.float32)
    one = np.broadcast_to(x, (1, 1))
    for copy, column in ((0, 1), (1, 0), (0, 0), (1, 1)):
        part = copies[copy, column : column + 1]
        program.compute("Y", [one], [part], (np.add.reduce, one, 0, None, part))
    program.add("Y", copies[0], copies[1], Y)
    program.prove()
