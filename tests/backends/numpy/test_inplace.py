"""Where a formula's results may lie: wherever it is, they are right; and over some operands they cost nothing more."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from graphir.backends.compiled.emission import Array
from graphir.backends.numpy.formulas import rule_of
from graphir.backends.numpy.recipe import recipe_of
from graphir.formula.trace import Formula, find_formula
from graphir.ir.operator import Operator, Place
from graphir.ir.signature import Signature, expand
from graphir.operators.special import masked_score
from tests.backends.numpy.test_rules import Recorder
from tests.support.random_halves import draw_halved
from tests.support.random_kernels import draw_operator

SEEDS = [*range(30), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(30, 130))]
LENGTHS = {"a": 2, "b": 3, "d": 4}


class Counting(Recorder):
    """Counts the arrays that steps lie in beside results."""

    def __init__(self) -> None:
        super().__init__()
        self.lent = 0

    def scratch(self, shape: Any, dtype: Any) -> Array:
        self.lent += 1
        return super().scratch(shape, dtype)


class Tried:
    """An operator on rows of numbers, and what its kernel makes of them."""

    def __init__(self, operator: Operator, flag: bool = True) -> None:
        (signature,) = operator.signatures({})
        rule = expand(signature, tuple(len(each.axes) for each in signature.inputs))
        assert rule is not None
        formula = find_formula(operator, rule, {}, "float64")
        assert isinstance(formula, Formula), formula
        self.rule: Signature = rule
        self.formula = formula
        rng = np.random.default_rng(0)
        self.operands = {each.name: rng.standard_normal(self.shape(each)) for each in rule.inputs}
        self.operands |= {each.name: np.asarray(flag) for each in rule.inputs if each.dtype == "bool"}
        made = operator.kernel(np, *self.operands.values())
        names = [each.name for each in rule.outputs]
        self.expected = dict(zip(names, made if isinstance(made, tuple) else (made,), strict=True))

    @staticmethod
    def shape(operand: Any) -> tuple[int, ...]:
        return tuple(int(np.prod([_length(factor) for factor in axis.factors])) for axis in operand.axes)

    def record(self, over: Mapping[str, str]) -> tuple[Counting, dict[str, Array]]:
        """The calls with results over the operands that are said, and the results, once they have been run."""
        operands = {name: array.copy() for name, array in self.operands.items()}
        results = {name: np.full(array.shape, np.nan) for name, array in self.expected.items()}
        results |= {name: operands[operand] for name, operand in over.items()}
        return self.emit(operands, results), results

    def emit(self, operands: Mapping[str, Array], results: Mapping[str, Array]) -> Counting:
        """The calls on these arrays, which have been run."""
        call = Counting()
        assert rule_of(self.formula).emit(call, operands, results, Place(self.rule, {}, {}), {})
        call.run()
        return call

    def choices(self) -> list[dict[str, str]]:
        """Which results may lie over which operands, each over another one."""
        alike = [
            [None, *(name for name, array in self.operands.items() if array.shape == wanted.shape)]
            for wanted in self.expected.values()
        ]
        found = []
        for taken in itertools.product(*alike):
            over = {name: each for name, each in zip(self.expected, taken, strict=True) if each is not None}
            if len({*over.values()}) == len(over):
                found.append(over)
        return found


def _length(factor: str) -> int:
    return int(factor) if factor.isdigit() else LENGTHS[factor[:1]]


def _drawn(seed: int) -> tuple[Tried, Tried]:
    return Tried(draw_operator(seed)), Tried(draw_halved(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_results_are_right_over_whatever_operands(seed: int) -> None:
    for tried in _drawn(seed):
        for over in tried.choices():
            _, results = tried.record(over)
            for name, expected in tried.expected.items():
                np.testing.assert_allclose(results[name], expected, rtol=1e-12, atol=1e-12, err_msg=f"{name}, {over}")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_may_lie_over_an_operand_costs_nothing_more(seed: int) -> None:
    for tried in _drawn(seed):
        fresh, _ = tried.record({})
        for name, operands in recipe_of(tried.formula).inplace.items():
            for operand in operands:
                if tried.operands[operand].shape == tried.expected[name].shape:
                    call, _ = tried.record({name: operand})
                    assert len(call.calls) <= len(fresh.calls), f"{name} over {operand}"


# -- kernels that were written for it ---------------------------------------------------------------------

Kernel = Callable[..., Any]
ONE, TWO = "X[*b d!], Y[*b d!] -> Z[*b d!]", "X[*b d!], Y[*b d!] -> P[*b d!], Q[*b d!]"
PARTS = "X[*b (2 d)], Y[*b (2 d)] -> Z[*b (2 d)]"


def _tried(kernel: Kernel, signature: str, flag: bool = True) -> Tried:
    kernel.__doc__ = "As it is written."
    return Tried(Operator("tried", signature, kernel, no_gradient="no test asks for it"), flag)


def _exchanged(xp: Any, X: Any, Y: Any) -> Any:
    one, other = xp.split(X, 2, axis=-1)
    return xp.concatenate((other, one), axis=-1) + xp.tanh(Y)


#: By what it is about: a kernel, its signature, and for each result the operands that it may lie over.
CHANCES: dict[str, tuple[Kernel, str, dict[str, tuple[str, ...]]]] = {
    "those first that are let go of first": (lambda xp, X, Y: xp.tanh(Y) * X, ONE, {"Z": ("Y", "X")}),
    "what both read is the last one's": (lambda xp, X, Y: (X + Y, X * Y), TWO, {"P": (), "Q": ("X", "Y")}),
    "what is read early and late": (
        lambda xp, X, Y: (xp.tanh(X), (Y + 1) * X),
        TWO,
        {"P": (), "Q": ("Y", "X")},
    ),
    "a choice is made elsewhere": (lambda xp, X, Y: xp.where(X < Y, X, 0.5), ONE, {"Z": ("Y",)}),
    "a mask is not": (lambda xp, X, Y: xp.where(Y < 1, X, masked_score(X.dtype)), ONE, {"Z": ("Y", "X")}),
    "an operand that is a result": (lambda xp, X, Y: (Y, X), TWO, {"P": ("Y",), "Q": ("X",)}),
    "an operand that is a result and is read": (lambda xp, X, Y: (X, X + Y), TWO, {"P": ("Y", "X"), "Q": ("Y",)}),
    "what is not computed": (lambda xp, X, Y: (xp.tanh(X), xp.ones_like(X)), TWO, {"P": ("X",), "Q": ("X",)}),
    "what is read at another place": (_exchanged, PARTS, {"Z": ("Y",)}),
    "numbers of rows before rows": (
        lambda xp, X, r: (X * r[..., None], r * 2),
        "X[*b d!], r[*b] -> P[*b d!], s[*b]",
        {"P": ("r", "X"), "s": ()},
    ),
    "what stays as it was": (
        lambda xp, X, Y, go: (xp.where(go, X + Y, X), xp.where(go, X * Y, Y)),
        "X[*b d!], Y[*b d!], go[] bool -> P[*b d!], Q[*b d!]",
        {"P": ("X",), "Q": ("Y",)},
    ),
}


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("name", CHANCES)
def test_which_operands_a_result_may_lie_over(name: str, flag: bool) -> None:
    kernel, signature, expected = CHANCES[name]
    tried = _tried(kernel, signature, flag)
    assert recipe_of(tried.formula).inplace == expected
    for over in tried.choices():
        _, results = tried.record(over)
        for result, array in tried.expected.items():
            np.testing.assert_allclose(results[result], array, rtol=1e-12, atol=1e-12, err_msg=f"{result}, {over}")


#: By what it is about: a kernel, its signature, what lies over what, how many calls there are, and arrays beside.
COSTS: dict[str, tuple[Kernel, str, dict[str, str], int, int]] = {
    "a chain lies in its result": (lambda xp, X, Y: xp.tanh(xp.exp(X)) + Y, ONE, {}, 3, 0),
    "and in its operand": (lambda xp, X, Y: xp.tanh(xp.exp(X)) + Y, ONE, {"Z": "X"}, 3, 0),
    "not in what is read later": (lambda xp, X, Y: xp.tanh(xp.exp(X)) + Y, ONE, {"Z": "Y"}, 3, 1),
    "one of two beside it": (lambda xp, X, Y: xp.exp(X) * xp.sin(Y), ONE, {}, 3, 1),
    "in another result until that is made": (lambda xp, X, Y: (xp.exp(X) * xp.sin(Y), X + Y), TWO, {}, 4, 0),
    "in none that is made before it is let go of": (
        lambda xp, X, Y: ((E := xp.exp(X)) * Y, E + 2),
        TWO,
        {},
        3,
        0,
    ),
    "nor in one that is chosen from it": (lambda xp, X, Y: xp.where(X < Y, xp.exp(X), 0.5), ONE, {}, 3, 2),
    "what is elsewhere stays there": (
        lambda xp, X, Y: (xp.tanh(xp.exp(X)), X + Y),
        TWO,
        {"P": "Y", "Q": "X"},
        4,
        1,
    ),
    "over what nobody reads": (
        lambda xp, X, r: X.sum(axis=-1),
        "X[*b d!], r[*b] -> s[*b]",
        {"s": "r"},
        1,
        0,
    ),
    "nothing is computed of what stays as it was": (
        lambda xp, X, Y, go: (xp.where(go, X + Y, X), xp.where(go, X * Y, Y)),
        "X[*b d!], Y[*b d!], go[] bool -> P[*b d!], Q[*b d!]",
        {"P": "X", "Q": "Y"},
        5,
        1,
    ),
    "what is let go of is taken again": (
        lambda xp, X, Y: (xp.exp(X) * xp.sin(Y)) + xp.exp(Y) * xp.sin(X),
        ONE,
        {},
        7,
        2,
    ),
    "nor is it lost where a result is made": (
        lambda xp, X, Y: (xp.exp(X) * xp.sin(Y), xp.cos(X) * xp.tanh(Y) + Y),
        TWO,
        {"Q": "Y"},
        7,
        2,
    ),
    "a choice is copied from elsewhere": (lambda xp, X, Y: xp.where(X < Y, X, 0.5), ONE, {"Z": "X"}, 3, 2),
    "operands exchanged": (lambda xp, X, Y: (Y, X), TWO, {"P": "X", "Q": "Y"}, 4, 2),
    "operands where they belong": (lambda xp, X, Y: (Y, X), TWO, {"P": "Y", "Q": "X"}, 2, 0),
}


@pytest.mark.parametrize("name", COSTS)
def test_how_much_is_copied_and_lies_elsewhere(name: str) -> None:
    kernel, signature, over, calls, lent = COSTS[name]
    call, _ = _tried(kernel, signature).record(over)
    assert (len(call.calls), call.lent) == (calls, lent)


def test_what_lies_otherwise_in_the_same_memory_is_not_written_over() -> None:
    memory = np.arange(20.0)
    X = memory[:16].reshape(4, 4)
    tried = _tried(lambda xp, X: 2 * X, "X[*b d!] -> Z[*b d!]")
    for Z in (memory[1:17].reshape(4, 4), X.T):
        memory[:] = np.arange(20.0)
        expected = 2 * X
        assert tried.emit({"X": X}, {"Z": Z}).lent == 1
        assert np.array_equal(Z, expected)
    assert tried.emit({"X": X}, {"Z": X}).lent == 0


def test_integers_in_the_same_memory_are_not_written_over() -> None:
    J = np.arange(12).reshape(3, 4)
    tried = _tried(lambda xp, X, J: X * J, "X[*b d!], J[*b d!] int -> Z[*b d!]")
    X, Z = np.full(J.shape, 0.5), J.view("float64")
    assert tried.emit({"X": X, "J": J}, {"Z": Z}).lent == 1
    assert np.array_equal(Z, 0.5 * np.arange(12).reshape(3, 4))


def test_a_choice_among_texts_is_left_to_the_kernel() -> None:
    signature = "X[*b], T[*b] text, U[*b] text -> Z[*b] text"
    tried = _tried(lambda xp, X, T, U: xp.where(X < 0, T, U), signature)
    texts = {name: np.full(array.shape, "a", object) for name, array in tried.operands.items() if name != "X"}
    operands, Z = {**tried.operands, **texts}, np.empty_like(texts["T"])
    assert not rule_of(tried.formula).emit(Counting(), operands, {"Z": Z}, Place(tried.rule, {}, {}), {})
