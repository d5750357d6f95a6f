"""Every operator and d-operator on XLA, on drawn shapes, against its kernel on NumPy."""

from __future__ import annotations

import pytest

import graphir as gi
from graphir.errors import OperatorError
from graphir.ir.operator import Operator
from graphir.testing import cases
from tests.support.dictionary import dictionary
from tests.support.own_operators import OWN
from tests.support.xla import distance

pytestmark = pytest.mark.slow

_LIMITS = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2**-5}  # a few roundings of 8 bits, which may cancel
_DRAWN = [each for each in dictionary() if each.examples]


#: Each in float64, and every other one in each narrower dtype.
_CASES = [
    pytest.param(operator, dtype, id=f"{operator.key}-{dtype}")
    for i, operator in enumerate([*_DRAWN, *OWN])
    for dtype in ("float64", ("float32", "bfloat16")[i % 2])
]


@pytest.mark.parametrize(("operator", "dtype"), _CASES)
def test_a_kernel_means_the_same_on_xla(operator: Operator, dtype: str) -> None:
    for case in cases(operator, dtype, count=2):
        if any(value.dtype == "text" for value in case.node.inputs):
            with pytest.raises(OperatorError, match="reads text"):
                gi.compile(case.graph, case.sizes, backend="xla")
            continue
        expected = gi.compile(case.graph, case.sizes, backend="reference")(case.arrays)
        found = gi.compile(case.graph, case.sizes, backend="xla")(case.arrays)
        for name, array in expected.items():
            assert distance(found[name], array) <= _LIMITS[dtype], f"{case}: {name}"
