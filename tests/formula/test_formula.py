"""Formulas: what is traced from a kernel is what the kernel computes, whatever the sizes; what has none says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphir.formula.evaluate import evaluate
from graphir.formula.terms import Term
from graphir.formula.trace import Formula, NoFormula
from graphir.ir.operator import Operator
from graphir.operators.dropout import keep_mask
from graphir.operators.special import erf
from graphir.testing import Case, cases
from tests.support.formulas import DRAWN, FORMULATED, PRIMITIVE, attributes_of, formula_of


def _key(operator: Operator) -> str:
    return operator.key


def computed(case: Case, formula: Formula) -> dict[str, NDArray[Any]]:
    """The results of a formula on a case's arrays."""
    rule, order = case.rule, list(case.rule.factors)
    lengths = {factor: dim.size(case.sizes) for factor, dim in case.node.inference.factors.items()}
    operands = {each.name: _spread(case.arrays[each.name], each.factors, order, lengths) for each in rule.inputs}

    def keep(term: Term, seed: Any, step: Any, key: Any) -> NDArray[Any]:
        factors, p = term.detail
        shape = tuple(lengths[factor] for factor in factors)
        mask = keep_mask(np, (0,) * len(shape), shape, shape, seed.reshape(()), step.reshape(()), key.item(), p)
        return _spread(mask, factors, order, lengths)

    made = evaluate(
        np, list(formula.results.values()), order, lengths, operands,
        dtype="float64", attributes=attributes_of(case),
        primitives={"keep": keep, "erf": lambda term, X: erf(np, X)},
    )  # fmt: skip
    results = {}
    for each, value, array in zip(rule.outputs, case.node.outputs, made, strict=True):
        shape = [lengths[factor] if factor in each.factors else 1 for factor in order]
        whole = _gathered(np.broadcast_to(array, shape), each.factors, order, lengths, each.axes)
        results[each.name] = whole.astype(value.dtype)
    return results


def _spread(
    array: NDArray[Any], factors: tuple[str, ...], order: list[str], lengths: Mapping[str, int]
) -> NDArray[Any]:
    split = np.asarray(array).reshape([lengths[factor] for factor in factors])
    split = split.transpose(sorted(range(len(factors)), key=lambda i: order.index(factors[i])))
    return split.reshape([lengths[factor] if factor in factors else 1 for factor in order])


def _gathered(array: Any, factors: Any, order: list[str], lengths: Mapping[str, int], axes: Any) -> NDArray[Any]:
    used = [i for i, factor in enumerate(order) if factor in factors]
    squeezed = array.reshape([array.shape[i] for i in used])
    names = [order[i] for i in used]
    moved = squeezed.transpose([names.index(factor) for factor in factors])
    return moved.reshape([int(np.prod([lengths[f] for f in axis.factors], dtype=int)) for axis in axes])


@pytest.mark.parametrize("operator", FORMULATED, ids=_key)
def test_a_formula_is_what_the_kernel_computes(operator: Operator) -> None:
    for case in cases(operator, "float64", count=4):
        formula = formula_of(case)
        assert isinstance(formula, Formula), formula
        expected, found = case.run(), computed(case, formula)
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-12, atol=1e-13, err_msg=f"{name} of {case}")


@pytest.mark.parametrize("operator", [each for each in DRAWN if each.key in PRIMITIVE], ids=_key)
def test_what_has_no_formula_says_why(operator: Operator) -> None:
    for case in cases(operator, "float64", count=1):
        found = formula_of(case)
        assert isinstance(found, NoFormula)
        assert found.reason.startswith("it ") or found.reason.startswith("what it does")
        assert "graphir/operators/" in found.line
