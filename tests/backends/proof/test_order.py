"""The checker of programs on threads, on what travels between ranks, and on calls that do not as their step says."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends import proof
from graphir.backends.effects import declare, writes
from graphir.backends.proof.items import axes_of, convert
from graphir.ir.graph import Graph
from graphir.ir.operator import Operator
from graphir.testing.cases import cases
from tests.backends.proof.test_proof import SIZES, B, D, chain, exp, fails
from tests.support.dictionary import dictionary
from tests.support.handwritten import Handwritten

# -- threads -----------------------------------------------------------------------------------------------


def _halves(meetings: int, order: tuple[int, int] = (0, 1)) -> Handwritten:
    """A = exp(X), half by either thread; then Y = exp(A) of the other's half."""
    program = Handwritten(chain("A", "Y"), SIZES, threads=2)
    X, A, Y = program.argument("X"), program.array("A"), program.result("Y")
    parts = slice(0, 2), slice(2, 4)
    for thread in (0, 1):
        mine, other = parts[thread], parts[1 - thread]
        program.compute("A", [X[mine]], [A[mine]], exp(X[mine], A[mine]), thread=thread)
        for _ in range(meetings if thread == 0 else 1 if meetings else 0):
            program.meet(thread)
        program.compute("Y", [A[other]], [Y[other]], exp(A[other], Y[other]), thread=thread)
    return program


def test_threads_that_meet_before_they_read() -> None:
    proof = _halves(1).prove()
    assert proof.counts.meetings == 1


def test_a_meeting_left_out() -> None:
    fails(
        _halves(0), "A = exp (thread ", "it writes to memory that Y = exp (thread ",
        "reads, and the threads do not meet between the two",
    )  # fmt: skip


def test_a_thread_that_waits_for_ever() -> None:
    fails(_halves(2), "segment 0: its threads meet 2, 1 times")


def test_two_threads_that_write_the_same() -> None:
    program = Handwritten(chain("Y"), SIZES, threads=2)
    X, Y = program.argument("X"), program.result("Y")
    program.compute("Y", [X[:3]], [Y[:3]], exp(X[:3], Y[:3]))
    program.compute("Y", [X[2:]], [Y[2:]], exp(X[2:], Y[2:]), thread=1)
    fails(program, "writes to memory that", "writes, too")


def test_columns_that_interleave_do_not_touch() -> None:
    program = Handwritten(chain("Y"), SIZES, threads=2)
    X, Y = program.argument("X"), program.result("Y")
    for thread, part in enumerate((slice(0, 3), slice(3, 6))):
        program.compute("Y", [X[:, part]], [Y[:, part]], exp(X[:, part], Y[:, part]), thread=thread)
    program.prove()


def test_scratch_that_two_threads_share() -> None:
    program = Handwritten(chain("A", "Y"), SIZES, threads=2)
    X, Y, scratch = program.argument("X"), program.result("Y"), np.empty((2, 6), np.float32)
    for thread, part in enumerate((slice(0, 2), slice(2, 4))):
        program.compute("A", [X[part]], [scratch], exp(X[part], scratch), thread=thread)
        program.compute("Y", [scratch], [Y[part]], exp(scratch, Y[part]), thread=thread)
    fails(program, "the threads do not meet between the two")


# -- what travels ------------------------------------------------------------------------------------------


def _reduced() -> Graph:
    """A = exp(X), Y = the sum of all ranks' A, Z = exp(A)."""
    block = gi.Builder("reduced", mesh=gi.Mesh(dp=2))
    X = block.input("X", (B, D), layout=gi.Layout(((), ()), {"dp": "sum"}))
    A = gi.scale(X, by=2.0, name="A")
    Y = gi.all_reduce(A, axes=("dp",), name="Y")
    return block.build(Y, gi.scale(X, by=3.0, name="Z"))


def _scaled(program: Handwritten, name: str, X: Any, out: Any) -> None:
    program.compute(name, [X], [out], (np.multiply, X, np.float32(2), out))


def _travelling(spoil: str = "", wait: bool = True) -> Handwritten:
    program = Handwritten(_reduced(), SIZES)
    X, A, Y, Z = program.argument("X"), program.array("A"), program.result("Y"), program.result("Z")
    _scaled(program, "A", X, A)
    program.exchange("start", "Y", A, Y)
    _scaled(program, "Z", X, {"operand": A, "result": Y}.get(spoil, Z))
    if wait:
        program.exchange("wait", "Y", A, Y)
    return program


def test_what_travels_is_left_alone_until_it_has_arrived() -> None:
    assert _travelling().prove().counts.exchanges == 2


@pytest.mark.parametrize("spoil", ["operand", "result"])
def test_writing_to_what_travels(spoil: str) -> None:
    fails(_travelling(spoil), "Z = ×", "it writes to memory that is under way since start Y = AR (before segment 1")


def test_nobody_waits() -> None:
    fails(_travelling(wait=False), "start Y = AR", "nobody waits for it before the run ends")


def test_an_exchange_of_what_is_not_there() -> None:
    program = Handwritten(_reduced(), SIZES)
    X, A, Y, Z = program.argument("X"), program.array("A"), program.result("Y"), program.result("Z")
    _scaled(program, "A", X[:3], A[:3])
    program.exchange("run", "Y", A, Y)
    _scaled(program, "Z", X, Z)
    fails(program, "run Y = AR (before segment 1", "it reads A")


def test_a_bucket_of_its_parts() -> None:
    for packed in (True, False):
        program = Handwritten(_reduced(), SIZES)
        X, A, Y, Z = program.argument("X"), program.array("A"), program.result("Y"), program.result("Z")
        bucket = np.empty(24, np.float32)
        part = bucket.reshape(4, 6)
        _scaled(program, "A", X, A)
        if packed:
            program.exchange("pack", "Y", A, part)
        program.exchange("start", "Y", bucket if packed else part, bucket if packed else part)
        _scaled(program, "Z", X, Z)
        program.exchange("wait", "Y", bucket, bucket)
        program.exchange("unpack", "Y", part, Y)
        if packed:
            program.prove()
        else:
            fails(program, "start Y = AR", "it reads A of shape [4, 6] where none of it lies")


# -- calls -------------------------------------------------------------------------------------------------


@writes("scratch", "out")
def _by_way_of(X: Any, scratch: Any, out: Any) -> None: ...


@writes("out")
def _twice(X: Any, Y: Any, out: Any) -> None: ...


def _program(*calls: Any, threads: int = 1) -> tuple[Handwritten, Any, Any, Any]:
    program = Handwritten(chain("Y"), SIZES, threads)
    return program, program.argument("X"), program.result("Y"), np.empty((4, 6), np.float32)


def test_calls_may_use_scratch_that_they_have_written() -> None:
    program, X, Y, scratch = _program()
    program.compute("Y", [X], [Y], (np.exp, X, scratch), (np.add, scratch, scratch, Y))
    program.prove()


def test_scratch_that_nobody_has_written() -> None:
    program, X, Y, scratch = _program()
    program.compute("Y", [X], [Y], (np.add, X, scratch, Y), (np.exp, X, scratch))
    fails(program, "reads memory of shape [4, 6] that is no operand of it, and that it has not written itself")


def test_what_a_node_keeps_from_tile_to_tile() -> None:
    for spoiled in (False, True):
        program, X, Y, rate = _program()
        other = rate[1:2]
        kept = rate[0, :1]
        program.compute("Y", [X[:2]], [Y[:2]], (np.exp, X[0, :1], kept), (np.add, X[:2], kept, Y[:2]))
        if spoiled:
            program.copy("X", X[:1], rate[:1])
        program.compute("Y", [X[2:]], [Y[2:]], (np.exp, X[2:3], other), (np.add, X[2:], kept, Y[2:]))
        if spoiled:
            fails(program, "reads memory of shape [1] that is no operand of it")
        else:
            program.prove()


def test_constants_are_read_and_never_written() -> None:
    program, X, Y, table = _program()
    program.constants.append(table)
    program.compute("Y", [X], [Y], (np.add, X, table, Y))
    program.prove()
    program.compute("Y", [X], [Y], (np.exp, X, table), (np.add, X, table, Y))
    fails(program, "Y = exp (thread 0, segment 0, step 1", "it writes to a constant")


def test_a_call_that_writes_beyond_its_result() -> None:
    program, X, Y, _ = _program()
    program.compute("Y", [X[:2]], [Y[:2]], exp(X[:2], Y[:2]), exp(X[:3], Y[:3]))
    fails(program, "numpy.exp writes where an operand lies, or beyond its result")


def test_a_call_that_reads_beyond_its_operand() -> None:
    program, X, Y, _ = _program()
    program.compute("Y", [X[:2]], [Y[:2]], exp(X[1:3], Y[:2]))
    fails(program, "reads memory of shape [2, 6] that is no operand of it")


def test_calls_that_write_a_part_of_the_result() -> None:
    program, X, Y, _ = _program()
    program.compute("Y", [X], [Y], exp(X[:3], Y[:3]))
    fails(program, "its calls do not write all of its result")


def test_a_result_read_before_it_is_written() -> None:
    program, X, Y, _ = _program()
    program.compute("Y", [X], [Y], (np.add, X, Y, Y))
    fails(program, "reads a part of its result that no call has written yet")


def test_a_result_across_its_operand() -> None:
    program = Handwritten(chain("A", "Y", shape=(B, B)), {"B": 4})
    X, A, Y = program.argument("X"), program.array("A"), program.result("Y")
    rows = np.empty(20, np.float32)
    A, shifted = rows[:16].reshape(4, 4), rows[4:].reshape(4, 4)
    program.compute("A", [X], [A], exp(X, A))
    program.compute("Y", [A], [shifted], exp(A, shifted), exp(shifted, shifted))
    program.copy("Y", shifted, Y)
    fails(program, "a result lies across an operand: what one call writes, the next would read")


def test_a_function_that_says_nothing() -> None:
    def silent(X: Any, Y: Any) -> None: ...

    program, X, Y, _ = _program()
    program.compute("Y", [X], [Y], (silent, X, Y))
    fails(program, "silent, and nothing says which arguments that writes; declare it in graphir.backends.effects")
    declare(silent, [1])
    program.prove()


def test_a_kernel_that_takes_whole_stretches() -> None:
    """Of columns that have gaps between them, a generated kernel is handed all from the first to the last."""

    def kernel(geometry: Any, X: Any, Y: Any) -> None: ...

    declare(kernel, [2], spans=True)
    for stray in (False, True):
        program, X, Y, scratch = _program()
        if stray:
            program.copy("X", X, scratch)
        flat_X, flat_Y = (scratch if stray else X).reshape(-1), Y.reshape(-1)
        for low in (0, 3):
            part = (slice(None), slice(low, low + 3))
            span = slice(low, 18 + low + 3)
            program.compute("Y", [X[part]], [Y[part]], (kernel, np.arange(4), flat_X[span], flat_Y[span]))
        if stray:
            fails(program, "reads memory of shape [21] that is no operand of it")
        else:
            program.prove()


def test_calls_that_are_no_steps() -> None:
    program, X, _, scratch = _program()
    trace = program.trace().segments[0][0]
    assert isinstance(trace.calls, list)
    trace.calls.append((np.exp, (X, scratch)))
    fails(program, "thread 0, segment 0: calls 0 to 0 are no step's")


# -- what the checker stands on ----------------------------------------------------------------------------


def test_it_shares_nothing_with_what_writes_programs() -> None:
    for file in Path(proof.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                for room in ("graphir.backends.compiled", "graphir.backends.rows", "graphir.ir.tiling"):
                    assert not f"{name}.".startswith(f"{room}."), f"{file}:{node.lineno} imports {name}"


@pytest.mark.parametrize("operator", [each for each in dictionary() if each.view], ids=lambda operator: operator.key)
def test_a_views_rule_says_where_its_kernel_puts_each_element(operator: Operator) -> None:
    for case in cases(operator, count=4):
        node = case.node
        rule, factors, _ = node.inference
        sizes = {name: dim.size(case.sizes) for name, dim in factors.items()}
        X = next(iter(case.arrays.values()))
        numbered = np.arange(X.size, dtype="float64").reshape(X.shape)
        made = case.run(**{rule.inputs[0].name: numbered})[rule.outputs[0].name]
        for index in np.ndindex(made.shape):
            (box,) = convert(tuple((i, i + 1) for i in index), axes_of(rule.outputs[0]), axes_of(rule.inputs[0]), sizes)
            assert made[index] == numbered[tuple(low for low, _ in box)]


def test_what_nodes_of_one_operator_share_is_made_of_an_operand_that_both_have() -> None:
    # Y and Z both need the exponential of their second operand; Z uses what Y has made, which only T's would allow.
    for shared in (True, False):
        block = gi.Builder("shared")
        X, R, T = block.input("X", (B, D)), block.input("R", (B, D)), block.input("T", (B, D))
        block.output(gi.multiply(X, R, name="Y"))
        graph = block.build(gi.multiply(X, R if shared else T, name="Z"))
        program = Handwritten(graph, SIZES)
        X, R, T = program.argument("X"), program.argument("R"), program.argument("T")
        Y, Z, kept, other = program.result("Y"), program.result("Z"), program.array("Y"), R if shared else T
        program.compute("Y", [X, R], [Y], (np.exp, R, kept), (np.multiply, X, kept, Y))
        program.compute("Z", [X, other], [Z], (np.multiply, X, kept, Z))
        if shared:
            program.prove()
        else:
            fails(
                program, "Z = ⊙ (thread 0, segment 0, step 1", "reads memory of shape [4, 6] that is no operand of it"
            )
