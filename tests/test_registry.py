"""Generic tests over the registry: a new operator is tested the moment it is declared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphir as gi
from graphir.ir.operator import Operator
from graphir.passes import autodiff
from tests import registry_checks as checks
from tests.registry_cases import Case, cases

#: The dictionary itself; what other tests or programs register in the same process is theirs to check.
DICTIONARY = [each for each in gi.operators() if each.kernel.__module__.startswith("graphir.operators.")]


def _key(item: object) -> str:
    return item.key if isinstance(item, Operator) else str(getattr(item, "__name__", item))


#: Collectives have no examples: their content is the identity, their types are layouts over a mesh.
DRAWN = [each for each in DICTIONARY if each.examples]


@pytest.mark.parametrize("operator", DICTIONARY, ids=_key)
def test_the_declaration_has_no_hole(operator: Operator) -> None:
    checks.check_declaration(operator)


@pytest.mark.parametrize("operator", DRAWN, ids=_key)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inferred_types_are_what_the_kernel_returns(operator: Operator, dtype: str) -> None:
    for case in cases(operator, dtype, count=6):
        checks.check_types(case)


@pytest.mark.parametrize(
    ("operator", "check"),
    [
        (operator, check)
        for check, applies in checks.CHECKS.items()
        for operator in DRAWN
        if applies(operator) and check is not checks.check_types
    ],
    ids=_key,
)
def test_what_is_declared_holds(operator: Operator, check: Callable[[Case], None]) -> None:
    for case in cases(operator, "float64", count=6):
        check(case)


# -- the checks themselves: each refuses an operator that breaks its promise ------------------------------


def _broken(signature: str, kernel: Callable[..., object], **traits: object) -> Operator:
    """An operator outside the registry, whose declaration promises what its kernel does not keep."""
    kernel.__doc__ = "Y, of X."
    traits.setdefault("no_gradient", "it is broken")
    return Operator("broken", signature, kernel, **traits)  # type: ignore[arg-type]


def _in_place(xp, X):  # type: ignore[no-untyped-def]
    X += 1
    return X


def _narrow(xp, X):  # type: ignore[no-untyped-def]
    return X.astype("float32")


def _reversed(xp, X):  # type: ignore[no-untyped-def]
    return X.reshape(-1)[::-1].reshape(X.shape) * 1


def _shifted(xp, X):  # type: ignore[no-untyped-def]
    return X + 1


def _both(xp, X, W):  # type: ignore[no-untyped-def]
    return X + W


def _moody(xp, X):  # type: ignore[no-untyped-def]
    return X + np.random.default_rng().random()


def _half(xp, X, dY, *, only: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    return X * dY


def _square(xp, X):  # type: ignore[no-untyped-def]
    return X * X


@pytest.mark.parametrize(
    ("check", "operator", "complaint"),
    [
        (checks.check_types, _broken("X[*b] -> Y[*b]", _narrow), "is inferred as float64"),
        (checks.check_types, _broken("X[a b] -> Y[b a]", _shifted), "its kernel made"),
        (checks.check_inputs_unchanged, _broken("X[*b] -> Y[*b]", _in_place), "changed its operand X"),
        (checks.check_same_again, _broken("X[*b] -> Y[*b]", _moody), "differs when computed again"),
        (checks.check_elementwise, _broken("X[*b] -> Y[*b]", _reversed, elementwise=True), "other elements"),
        (checks.check_linear, _broken("X[*b] -> Y[*b]", _shifted, linear="X"), "not linear in X"),
        (checks.check_depends, _broken("X[*b], W[*b] -> Y[*b]", _both, depends={"Y": "X"}), "depends on W"),
    ],
    ids=_key,
)
def test_a_check_refuses_a_broken_promise(check: Callable[..., None], operator: Operator, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        all(check(case) is None for case in cases(operator))


def test_a_wrong_gradient_is_refused() -> None:
    square = _broken("X[*b] -> Y[*b]", _square, no_gradient=None)
    half = _broken("X[*b], dY[*b] -> dX[*b]", _half)
    square.d_operator, half.d_operator_of = half, square
    with pytest.raises(AssertionError, match="finite differences are off by"):
        checks.check_gradient(next(cases(square)))


def test_an_operand_without_gradient_is_refused_in_words() -> None:
    block = gi.Builder("mean", dtype="float64")
    X, n = block.input("X"), block.input("n")
    graph = block.build(gi.divide(X, n, name="Y"))
    with pytest.raises(gi.GraphirError, match=r"Y = div\(…\) .* declares no gradient for its operand n"):
        autodiff(graph, wrt=["n"])


def test_dims_that_only_attributes_name_are_sized() -> None:
    block = gi.Builder("scores", dtype="float64")
    A = block.input("A", (1, 3, 3))
    graph = block.build(gi.scale_mask(A, width=gi.dim("D_h"), name="Z"))
    Z = gi.compile(graph, {"D_h": 4})({"A": np.full((1, 3, 3), 6.0)})["Z"]
    assert np.array_equal(Z, np.full((1, 3, 3), 3.0))
    with pytest.raises(gi.GraphirError, match="D_h is not given"):
        gi.compile(graph, {})
