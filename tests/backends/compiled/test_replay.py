"""What is recorded once and replayed on other tiles: the same calls as if the rule had been asked for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.emission import Array, Calls, Rule
from graphir.backends.compiled.replay import Recordings, Tape
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.numpy.engine import ENGINE
from graphir.ir.operator import Place
from graphir.ir.signature import parse_signature
from graphir.passes import autodiff
from tests.backends.numpy.test_rules import Recorder

SIZES = {"B": 2, "S": 130, "D": 24, "N_H": 3, "D_ff": 40, "V": 50}
RULE = parse_signature("X[a b], Y[a b] -> Z[a b]")

#: X, Y, and where Z goes, in new memory that lies as a way of making them says.
Arrays: TypeAlias = tuple[Array, Array, Array]


def _apart(numbers: Array) -> Arrays:
    return numbers[0].copy(), numbers[1].copy(), np.empty_like(numbers[0])


def _beside_each_other(numbers: Array) -> Arrays:
    """X and Y are columns of one array, as Q and K may be; the memory of each runs through the other's."""
    both = np.concatenate([numbers[0], numbers[1]], axis=1)
    return both[:, :5], both[:, 5:], np.empty_like(numbers[0])


def _in_place(numbers: Array) -> Arrays:
    X = numbers[0].copy()
    return X, numbers[1].copy(), X


def _backwards(numbers: Array) -> Arrays:
    return numbers[0][::-1].copy()[::-1], numbers[1].T.copy().T, np.empty_like(numbers[0][:, ::-1])[:, ::-1]


def _repeated(numbers: Array) -> Arrays:
    X = numbers[0, 0].copy()
    return np.broadcast_to(X, (4, 5)), numbers[1].copy(), np.empty_like(numbers[1])


WAYS = [_apart, _beside_each_other, _in_place, _backwards, _repeated]


class Asked:
    """A rule that counts how often it is asked, and takes parts of all that it is given."""

    def __init__(self) -> None:
        self.times = 0
        self.rule = Rule(self._emit, {})

    def _emit(
        self,
        call: Calls,
        operands: Mapping[str, Array],
        results: Mapping[str, Array | None],
        place: Place,
        attributes: Mapping[str, Any],
    ) -> bool:
        self.times += 1
        X, Y, Z = operands["X"], operands["Y"], results["Z"]
        assert Z is not None
        twice = call.prepared((1,), Y.dtype, np.add, Y[1, 2:3], Y[1, 2:3])
        total, flags = call.scratch(X.shape, X.dtype), call.scratch((5,), bool)
        call(np.multiply, X.T, call.constant(np.full, (4,), 3.0), total.T)
        call.anew(_shift, place, attributes, total[1:])
        call(np.greater, Y[-1], 0.0, flags)
        call(np.add, total, flags.view(np.int8), total)
        call(np.subtract, total, Y, Z)
        call(np.multiply, Z[::2, 1], twice, Z[::2, 1])
        return True

    def expected(self, X: Array, Y: Array, start: int, key: int) -> Array:
        total = 3 * X
        total[1:] += start + key
        Z = total + (Y[-1] > 0) - Y
        Z[::2, 1] *= 2 * Y[1, 2]
        return Z


def _shift(call: Calls, place: Place, attributes: Mapping[str, Any], part: Array) -> None:
    call(np.add, part, place.start("a") + attributes["key"], part)


def _record(recordings: Recordings, asked: Asked, arrays: Arrays, start: int = 0, key: int = 0) -> Recorder:
    X, Y, Z = arrays
    calls = Recorder()
    place = Place(RULE, {"a": start}, {"a": 100, "b": 5})
    assert recordings.record(ENGINE, calls, asked.rule, {"X": X, "Y": Y}, {"Z": Z}, place, {"key": key})
    return calls


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_computes_what_the_rule_would(way: Callable[[Array], Arrays]) -> None:
    rng, recordings, asked = np.random.default_rng(0), Recordings(), Asked()
    for start, key in ((0, 1), (8, 2), (16, 3)):
        X, Y, Z = way(rng.standard_normal((2, 4, 5)))
        expected = asked.expected(X, Y, start, key)
        _record(recordings, asked, (X, Y, Z), start, key).run()
        np.testing.assert_allclose(Z, expected, rtol=1e-14)
    assert asked.times == 1


def test_arrays_that_lie_otherwise_are_another_form() -> None:
    rng, recordings, asked = np.random.default_rng(0), Recordings(), Asked()
    for times, way in enumerate(WAYS, start=1):
        _record(recordings, asked, way(rng.standard_normal((2, 4, 5))))
        assert asked.times == times
    X = rng.standard_normal((5, 5))
    # The same views by themselves, of memory in which one begins a row, or none, after the other.
    for times, Y in ((6, X[1:]), (7, X[:-1])):
        _record(recordings, asked, (X[:-1], Y, np.empty((4, 5))))
        assert asked.times == times


def test_a_step_is_the_same_replayed_and_asked_for_each_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "threads": 2,
        "tiling": Tiling(bytes=1 << 15, small=1 << 10, causal=(32, 64)),
        "check": False,
    }
    graph = autodiff(gi.models.transformer(2, dropout=0.1))
    rng = np.random.default_rng(0)
    given = {name: rng.integers(0, SIZES["V"], (SIZES["B"], SIZES["S"])) for name in "TY"}
    given |= {**gi.initialize(graph, SIZES, seed=1), "seed": 5, "step": 3}
    replayed = gi.compile(graph, SIZES, **options)(given)
    with monkeypatch.context() as patch:
        other: Iterator[int] = iter(range(1 << 30))
        patch.setattr("graphir.backends.compiled.replay.form_of", lambda *_: next(other))
        asked = gi.compile(graph, SIZES, **options)(given)
    for name, array in replayed.items():
        assert np.array_equal(array, asked[name], equal_nan=True), name


def test_more_layers_ask_no_more_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    taped = []
    monkeypatch.setattr(Tape, "recording", lambda self, make=Tape.recording: taped.append(self) or make(self))
    counts = []
    for layers in (2, 5):
        graph = autodiff(gi.models.transformer(layers, dropout=0.1))
        taped.clear()
        gi.compile(graph, SIZES, threads=2, check=False).programs  # noqa: B018
        counts.append(len(taped))
    assert counts[0] == counts[1]
