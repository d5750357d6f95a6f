"""What recorded calls declare that they write, held to what they do: of all operators, in NumPy's calls and Numba's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends import plan
from graphir.backends.effects import Effects, declare, effects_of, launches, writes
from graphir.backends.numpy import NumpyExecutable
from graphir.ir.operator import Operator
from graphir.passes import autodiff, dce, optimize, run_pipeline
from graphir.testing.cases import cases
from tests.support.deeds import hold_to_deeds
from tests.support.dictionary import dictionary
from tests.support.sampled import sampled

OPERATORS = [each for each in dictionary() if each.relayout is None and each.examples and each.key != "fused"]


# -- declaring --------------------------------------------------------------------------------------------


def test_what_is_named_is_written_and_all_else_is_read() -> None:
    @writes("out", updates="total")
    def function(X: Any, out: Any, total: Any, count: int) -> None: ...

    found = effects_of(function, (1, 2, 3, 4))
    assert found == Effects([1, 3, 4], [2, 3])


def test_of_ufuncs_outputs_stand_behind_inputs() -> None:
    assert effects_of(np.add, (1, 2, 3)) == Effects((1, 2), (3,))
    assert effects_of(np.matmul, (1, 2, 3)) == Effects((1, 2), (3,))
    assert effects_of(np.add.reduce, (1, -1, None, 4, True)) == Effects((1,), (4,))


def test_methods_and_partial_functions_have_their_functions_effects() -> None:
    class Engine:
        @writes("target")
        def copy(self, target: Any, source: Any) -> None: ...

    engine = Engine()
    assert effects_of(engine.copy, (1, 2)) == Effects([engine, 2], [1])


def test_a_launch_hands_over_its_arrays_in_one_tuple() -> None:
    def kernel(grid: Any, block: Any, arguments: Any) -> None: ...

    launches(kernel, [1, 2], [2])
    X, Y, Z = object(), object(), object()
    found = effects_of(kernel, ((1,), (32,), (X, Y, Z, Y)))
    # Y again, in place of an operand that there is not, is not read.
    assert found == Effects([X, Z], [Y, Z])


def test_what_nobody_has_declared_is_unknown() -> None:
    def function(X: Any) -> None: ...

    assert effects_of(function, (1,)) is None


# -- deeds: the instrument itself --------------------------------------------------------------------------


def _add_up(X: Any, total: Any) -> None:
    total += X


def _double(X: Any, out: Any) -> None:
    np.multiply(X, 2, out)
    X[0] = 7


def test_what_is_written_without_a_word_is_found() -> None:
    declare(_double, [1])
    with pytest.raises(AssertionError, match=r"_double.* writes to what it does not declare as written"):
        hold_to_deeds([(_double, (np.ones(3), np.zeros(3)))])


def test_what_is_read_without_a_word_is_found() -> None:
    declare(_add_up, [1])
    with pytest.raises(AssertionError, match=r"_add_up.* reads what it does not declare as read"):
        hold_to_deeds([(_add_up, (np.ones(3), np.zeros(3)))])
    declare(_add_up, [1], [1])
    assert hold_to_deeds([(_add_up, (np.ones(3), np.zeros(3)))]) == 1


def test_a_function_without_a_declaration_is_found() -> None:
    with pytest.raises(AssertionError, match="does not declare"):
        hold_to_deeds([(print, ())])


# -- deeds of all operators --------------------------------------------------------------------------------


def _calls(executable: Any, arguments: Any) -> list[Any]:
    """The calls of a single thread, after a run, so that all memory has its content."""
    executable(arguments)
    (program,) = executable.programs
    return [call for segment in program.segments for call in segment.calls[0]]


@sampled(operator=OPERATORS, dtype=["float32", "float64"])
def test_every_operator_in_numpy_calls(operator: Operator, dtype: str) -> None:
    for case in cases(operator, dtype, count=1):
        executable = gi.compile(case.graph, case.sizes, threads=1)
        calls = _calls(executable, case.arrays)
        assert hold_to_deeds(calls) == len(calls)


@sampled(len(OPERATORS) // 2, operator=OPERATORS)
def test_every_operator_in_fused_kernels(operator: Operator) -> None:
    fast = pytest.importorskip("graphir.backends.numpy.fast")
    for case in cases(operator, "float32", count=1):
        reference = plan(case.graph, case.sizes)
        kernels = fast.Kernels(least=0)
        executable = NumpyExecutable(reference, case.graph, threads=1, kernels=kernels)
        calls = _calls(executable, case.arrays)
        assert hold_to_deeds(calls) == len(calls)


@pytest.mark.parametrize("kernels", [pytest.param(None, marks=pytest.mark.slow), "numba"])
def test_a_training_step_with_all_its_fused_nodes(kernels: str | None) -> None:
    if kernels == "numba":
        pytest.importorskip("numba")
    graph = optimize(autodiff(gi.models.transformer(1, dropout=0.2)))
    sizes = {"B": 2, "S": 5, "D": 6, "N_H": 2, "D_ff": 8, "V": 7}
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(0, 7, (2, 5)) for name in "TY"}
    made: Any = None
    if kernels == "numba":
        from graphir.backends.numpy.fast import Kernels

        made = Kernels(least=0)
    pruned = dce(graph)
    executable = NumpyExecutable(plan(pruned, sizes), run_pipeline(pruned, "masks", ()), threads=1, kernels=made)
    arguments = {**gi.initialize(graph, sizes), **ids, "seed": 1, "step": 0}
    calls = _calls(executable, arguments)
    assert hold_to_deeds(calls) == len(calls)
