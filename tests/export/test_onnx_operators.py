"""Every operator that can be exported computes in ONNX what its kernel does, whatever the shapes."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.errors import ExportError
from graphir.ir.operator import Operator
from graphir.testing import Case, cases
from tests.support.dictionary import dictionary
from tests.support.own_operators import OWN

pytestmark = pytest.mark.slow
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from graphir.export.onnx import to_onnx  # noqa: E402
from tests.support import onnx_runs  # noqa: E402

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
#: Forward operators, with examples to draw from.
FORWARD = [each for each in dictionary() if each.examples and not each.d_operator_of]
#: What is refused, under all of its examples or some, and by which words.
REFUSED = {
    "DO": "at random",
    "mask": "at random",
    "TOPk": "at random",
    "Tokenizer": "reads text",
    "LS": "update pass",
    "SGD": "update pass",
    "Adam": "update pass",
    "AdamW": "update pass",
}


def exported(case: Case, open: tuple[str, ...]) -> object:
    """The model of a case's one node, with these dims open; None of one that is refused as it should be."""
    sizes = {name: size for name, size in case.sizes.items() if name not in open}
    try:
        return to_onnx(case.graph, sizes, fetch=[each.name for each in case.node.outputs], open=open)
    except ExportError as error:
        told = str(error)
    assert REFUSED[case.operator.key] in told
    assert case.node.name in told
    return None


def open_dims(case: Case) -> tuple[str, ...]:
    """The dims that an input shows as they are."""
    return tuple({str(each) for value in case.graph.inputs for each in value.shape} & case.sizes.keys())


@pytest.mark.parametrize(
    ("operator", "dtype"),
    # Each in one of both: what is exported follows from its formula, whatever the dtype.
    [
        pytest.param(operator, [*TOLERANCE][i % 2], id=operator.key)
        for i, operator in enumerate([*FORWARD, *(each for each in OWN if not each.d_operator_of)])
    ],
)
def test_an_operator_computes_what_its_kernel_does(operator: Operator, dtype: str) -> None:
    made = 0
    for case in cases(operator, dtype, count=4):
        wanted = dict(zip((each.name for each in case.node.outputs), case.run().values(), strict=True))
        for open in ((), open_dims(case)):
            model = exported(case, open)
            if model is None:
                continue
            made += 1
            onnx_runs.check(model)
            engines = [onnx_runs.evaluate, *([onnx_runs.run] if onnx_runs.can_run(model) else [])]
            assert len(engines) == 2 or dtype == "float64"
            for engine in engines:
                for name, found in engine(model, case.arrays).items():
                    onnx_runs.assert_close(found, wanted[name], TOLERANCE[dtype], f"{engine.__name__} {case}")
    assert made or operator.key in REFUSED


def _masked(dtype: str) -> list[list[float]]:
    ends = [-np.inf, -np.inf, -np.inf]
    if dtype == "float16":
        return [[1.0, 2.0, 3.0], [-np.inf, 2.0, 3.0], ends]
    some, none = [[1.0, 2.0, 3.0], [-1e30, 2.0, 3.0], [-2e30, -np.inf, 1.0]], [[-1e30] * 3, [-3e30, -1e30, -np.inf]]
    return [*some, *none, ends]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_masked_scores_have_probability_0_in_rows_of_nothing_else_too(dtype: str) -> None:
    block = gi.Builder("scores", dtype=dtype)
    graph = block.build(gi.softmax(block.input("Z", gi.dims("B S")), name="P"))
    Z = np.asarray(_masked(dtype)).astype(np.dtype(dtype) if dtype != "bfloat16" else _bfloat16())
    model = to_onnx(graph)
    onnx_runs.check(model)
    with np.errstate(invalid="ignore"):  # −∞ − −∞, of which nothing is taken
        found = onnx_runs.evaluate(model, {"Z": Z})["P"]
        again = onnx_runs.run(model, {"Z": Z})["P"] if dtype != "bfloat16" and onnx_runs.can_run(model) else found
    wanted = gi.compile(graph, {"B": len(Z), "S": 3}, backend="reference")({"Z": Z})["P"]
    for each in (found, again):
        onnx_runs.assert_close(each, wanted, 1e-2 if Z.itemsize == 2 else 1e-6)
        assert ((each == 0) == (wanted == 0)).all()
    assert (wanted.astype("float64").sum(axis=-1) == 0).any()


def _bfloat16() -> np.dtype:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


def test_a_remainder_has_the_sign_of_the_divisor_as_numpys() -> None:
    @gi.operator("rest_by", "X[*b], by[*b] -> Y[*b]", elementwise=True, no_gradient="a test's")
    def rest(xp: gi.Xp, X: gi.Array, by: gi.Array) -> gi.Array:
        """Y = X mod by."""
        return X % by

    block = gi.Builder("rest", dtype="float64")
    X, by = block.input("X", gi.dims("B")), block.input("by", gi.dims("B"))
    model = to_onnx(block.build(rest(X, by, name="Y")))
    arrays = {"X": np.array([5.5, -5.5, 5.5, -5.5, 4.0, -4.0]), "by": np.array([2.0, 2.0, -2.0, -2.0, 2.0, -2.0])}
    np.testing.assert_array_equal(onnx_runs.evaluate(model, arrays)["Y"], arrays["X"] % arrays["by"])


def test_a_kernel_without_formula_is_refused_with_its_line_and_by_a_rule_it_is_not() -> None:
    from graphir.export.onnx import rule

    @gi.operator("sorted_rows", "X[*b k!] -> Y[*b k!]", no_gradient="a test's")
    def sort(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Y: each row of X in order, the least first."""
        return xp.sort(X, axis=-1)

    block = gi.Builder("sorts")
    graph = block.build(sort(block.input("X", (*gi.dims("B"), 4)), name="Y"))
    words = r"Y \(operator sorted_rows, at .*test_onnx_operators.py:\d+\).*xp.sort.*@rule"
    with pytest.raises(ExportError, match=words):
        to_onnx(graph)

    @rule(sort)
    def _sort(write, node, X):
        values, _ = write.all("TopK", X, write.integers([4]), results=2, axis=-1, largest=0)
        return values

    X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    model = to_onnx(graph)
    onnx_runs.check(model)
    np.testing.assert_array_equal(onnx_runs.run(model, {"X": X})["Y"], np.sort(X))
