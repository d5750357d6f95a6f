"""`graphir check` compares the program that runs: faults of the compiled path alone are found, and told as such."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.emission import Rule, Rules
from graphir.backends.effects import writes
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.results import ResultBuffers
from graphir.checking import Setting, check
from graphir.checking.programs import compile_program
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
from graphir.operators.attention import d_scale_mask
from graphir.operators.elementwise import activation, activation_with_slope, add

SETTING = Setting(1, "data+megatron", Mesh(dp=2, tp=2), optimizer="none", dropout=0.0)


def _check(**options: Any) -> Any:
    single = SETTING.single()
    parallel, sizes, arguments = SETTING.parallel(single), SETTING.complete_sizes(), SETTING.arguments(single)
    return check(single, parallel, sizes, arguments, **options)


def _spoil(monkeypatch: pytest.MonkeyPatch, operator: gi.Operator, when: Any = lambda **named: True) -> None:
    """What is recorded for `operator` makes its result a hundredth too large where `when` says so."""

    def too_large(right: Rule, call: Any, operands: Any, results: Any, place: Any, attributes: Any) -> bool:
        done = bool(right.emit(call, operands, results, place, attributes))
        (made,) = results.values()
        if when(**operands, **results, **attributes, at=place):
            call(np.multiply, made, np.array(1.01, made.dtype), made)
        return done

    own = rules.find(operator)
    if own is None:
        _replace(monkeypatch, operator, too_large)
        return

    def emit(call: Any, **named: Any) -> Any:
        done = own.emit(call, **named)
        call(np.multiply, named["Y"], np.array(1.01, named["Y"].dtype), named["Y"])
        return done

    monkeypatch.setitem(rules._rules, operator, Rule(emit, own.inplace))


def _replace(monkeypatch: pytest.MonkeyPatch, operator: gi.Operator, record: Any, in_place: bool = True) -> None:
    """What is recorded for `operator` is `record(right, call, …)`, which is given what is right beside the usual."""
    by_formula = Rules.by_formula

    def found(self: Rules, node: gi.Node, attributes: Any) -> Rule | None:
        right = by_formula(self, node, attributes)
        if right is None or node.operator is not operator:
            return right
        return Rule(partial(record, right), right.inplace if in_place else {}, right.formula)

    monkeypatch.setattr(Rules, "by_formula", found)


def test_every_value_is_compared_in_the_program_its_results_again_and_all_in_the_interpreter() -> None:
    report = _check(threads=3)
    assert report.ok, report.text()
    assert report.parting() is None
    made = [value.name for node in report.graph.nodes for value in node.outputs]
    counts = [[each.name for each in run.comparisons] for run in report.runs]
    results = {value.name for value in report.graph.outputs}
    assert counts == [made, [name for name in made if name in results], made]
    executors = [run.executor for run in report.runs]
    assert executors == [
        "compiled for numpy, 3 threads, proved",
        f"{'compiled for numpy, 3 threads, proved'}, for its results alone",
        "the interpreter",
    ]
    assert "(compiled for numpy, 3 threads, proved; for its results alone; the interpreter)" in report.summary()


@pytest.mark.slow
def test_what_only_the_program_does_wrong_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (activation, activation_with_slope):
        _spoil(monkeypatch, each)
    report = _check()
    assert not report.ok
    first, second, *_ = report.text().splitlines()
    assert first.startswith(
        "compiled and interpreted part at layer0/mlp/A_up: it departs by 1.0e-02 as computed by the program"
    )
    assert "not as computed by the interpreter; the fault is in graphir, not in the plan" in first
    assert "; 0 of " in second
    assert report.first is not None
    assert report.first.found.name == "layer0/mlp/A_up"


@pytest.mark.slow
def test_a_fault_that_fetching_everything_hides_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all values are fetched, none takes over another's memory: here only what does is wrong."""
    _spoil(monkeypatch, d_scale_mask, lambda dA, dZ, **others: np.may_share_memory(dA, dZ))
    everything, results, interpreted = _check().runs
    assert not everything.departing
    assert results.departing
    assert not interpreted.departing


@pytest.mark.slow
def test_a_result_that_the_next_run_writes_over_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ResultBuffers.renew

    def renew(self: ResultBuffers) -> None:
        if self._current is None:
            right(self)

    monkeypatch.setattr(ResultBuffers, "renew", renew)
    assert not _check().ok


@writes("left")
def _written(left: Any) -> None:
    """Claims to write, and does not, so that no proof sees it."""


@pytest.mark.slow
def test_what_a_run_makes_of_what_the_last_one_left_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    def emit(right: Rule, call: Any, operands: Any, results: Any, place: Any, attributes: Any) -> bool:
        """Adds nought times what the run before has left, which is something if that is NaN."""
        (Y,) = results.values()
        left = call.prepared(Y.shape, Y.dtype, _written)
        left[...] = 0
        done = bool(right.emit(call, operands, results, place, attributes))
        call(np.multiply, left, np.array(0, Y.dtype), left)
        call(np.add, Y, left, Y)
        call(np.copyto, left, operands["X0"])
        return done

    _replace(monkeypatch, add, emit, in_place=False)
    report = _check()
    assert report.first is not None
    assert report.first.found.name == "embedding/X_emb"
    assert not report.runs[-1].departing


@pytest.mark.slow
def test_the_command_says_which_executor_it_compared(call: Any) -> None:
    words = ["check", "--layers", 1, "--dp", 2, "--threads", 1, "--optimizer", "none"]
    code, out, _ = call(*words)
    assert code == 0
    assert "compiled for numpy, 1 thread, proved; for its results alone; the interpreter" in " ".join(out.split())
    code, out, _ = call(*words, "--json")
    assert code == 0
    (report,) = json.loads(out)["reports"]
    assert report["executor"] == "compiled for numpy, 1 thread, proved"
    assert report["parting"] is None
    assert [other["executor"] for other in report["others"]][1] == "the interpreter"


@pytest.mark.parametrize("option", [["--threads", "2"], ["--kernels", "numba"]], ids=" ".join)
def test_what_compiles_nothing_takes_no_options_of_compiling(option: list[str], call: Any) -> None:
    code, _, err = call("check", "--inject", *option)
    assert code == 2
    assert "--inject and --dump compare on the processor and compile nothing" in err


def test_a_program_is_compiled_with_the_options_given() -> None:
    graph = SETTING.parallel(SETTING.single())
    with pytest.raises(ConfigError, match="kernels 'fast' is none of numpy, numba"):
        compile_program(graph, SETTING.complete_sizes(), kernels="fast")
    assert compile_program(graph, SETTING.complete_sizes(), threads=5).threads == 5
