"""Where a formula's results may lie: wherever it is, they are right; and over some operands they cost nothing more."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from graphir.backends.compiled.emission import Array
from graphir.backends.numpy.formulas import rule_of
from graphir.backends.numpy.recipe import recipe_of
from graphir.formula.trace import Formula, find_formula
from graphir.ir.operator import Operator, Place
from graphir.ir.signature import Signature, expand
from tests.backends.numpy.test_rules import Recorder
from tests.support.random_halves import draw_halved
from tests.support.random_kernels import draw_operator

SEEDS = [*range(30), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(30, 400))]
LENGTHS = {"b": 3, "d": 4}


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

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        (signature,) = operator.signatures({})
        rule = expand(signature, tuple(len(each.axes) for each in signature.inputs))
        assert rule is not None
        formula = find_formula(operator, rule, {}, "float64")
        assert isinstance(formula, Formula), formula
        self.rule: Signature = rule
        self.formula = formula
        rng = np.random.default_rng(0)
        self.operands = {each.name: rng.standard_normal(self.shape(each)) for each in rule.inputs}
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
        call = Counting()
        assert rule_of(self.formula).emit(call, operands, results, Place(self.rule, {}, {}), {})
        call.run()
        return call, results

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
