"""Generic tests over the registry: a new operator is tested the moment it is declared."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import graphir as gi
from graphir import testing as checks
from graphir.ir.operator import Operator
from graphir.operators.dropout import keep_mask
from graphir.operators.special import random_bits
from graphir.passes import autodiff
from graphir.testing import Case, cases, same_bits

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
    for case in cases(operator, "float64", count=4):
        check(case)


@pytest.mark.parametrize("operator", [each for each in DRAWN if checks.CHECKS[checks.check_only](each)], ids=_key)
def test_a_gradient_is_not_declared_to_need_what_it_does_not_read(operator: Operator) -> None:
    # Else a forward value is kept, and split and moved, for a gradient that could do without it.
    declared, seen = set(), set()
    for case in cases(operator, count=6):
        before = case.run()
        for output, operand in itertools.product(case.rule.outputs, case.rule.inputs):
            if operand.name in operator.dependencies(case.rule, [output.name]):
                declared.add((output.name, operand.name))
                after = case.run(**{operand.name: case.redraw(operand.name, 1)})
                if not same_bits(after[output.name], before[output.name]):
                    seen.add((output.name, operand.name))
    assert declared == seen


def test_the_gradient_of_a_cast_comes_back_in_the_dtype_of_its_operand() -> None:
    block = gi.Builder("cast")
    X = block.input("X", (3,), "float32")
    wide = gi.cast(X, to="float64")
    joint = autodiff(block.build(gi.reduce_sum(gi.multiply(wide, wide), name="L")), wrt=["X"])
    dX = gi.compile(joint, {})({"X": np.arange(3, dtype="float32")})["dX"]
    assert same_bits(dX, np.asarray([0, 2, 4], "float32"))


#: Linear, as trying shows, and not declared so. A declaration says what terms of a sum may pass through before they are
#: added, and so where every reduction stands: no gradient of more than its own product, of LN or GL say, is put off.
HELD_BACK = {
    **{key: {"dY"} for key in ("dMul", "dMatmul", "dGL", "dGLU", "dCAP")},
    **{key: {"dL"} for key in ("dCE", "dCEP")},
    **{key: {"dH"} for key in ("dLN", "dRMS")},
    "dExp": {"Y", "dY"},
    "row_dot": {"P", "dP"},
    "center": {"P"},
    "pick": {"Z"},
    "zeros": {"X"},
    "rescale": {"c"},
}


def _is_linear(operator: Operator, name: str) -> bool:
    """Whether trying finds it linear in an operand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operator, "linear", frozenset({name}))
        patch.setattr(operator, "jointly_linear", False)
        mine = [case for case in cases(operator, "float64", count=6) if name in case.arrays]
        try:
            for case in mine:
                checks.check_linear(case)
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize("operator", DRAWN, ids=_key)
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # a mixture of two operands lies in no domain
def test_what_is_linear_passes_terms_of_a_sum_on(operator: Operator) -> None:
    drawn = list(cases(operator, "float64", count=1))
    floats = {name for case in drawn for name, array in case.arrays.items() if array.dtype.kind == "f"}
    makes_floats = all(value.type.is_float for case in drawn for value in case.node.outputs[:1])
    found = {name for name in floats if makes_floats and _is_linear(operator, name)}
    assert found - operator.linear == HELD_BACK.get(operator.key, set())


def test_collectives_pass_terms_of_a_sum_on_and_operands_of_any_number_do_together() -> None:
    assert all(each.linear == {"X"} for each in DICTIONARY if each.collective)
    variadic = [each for each in DICTIONARY if each.variadic]
    assert variadic == [each for each in DICTIONARY if each.jointly_linear]
    assert variadic == [each for each in DICTIONARY if each.associative]


def test_the_mask_of_what_is_a_term_of_a_sum_is_no_term() -> None:
    block = gi.Builder("dropped", mesh=gi.Mesh(r=2))
    X = block.input("X", (2, 4), layout=gi.Layout([(), ("r",)]))
    W = block.input("W", (4, 2), layout=gi.Layout([("r",), ()]))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    Y, m = gi.dropout.all(gi.matmul(X, W), seed, step, p=0.5, key=1)
    assert Y.type.layout.pending == (("r", "sum"),)
    assert m.type.layout.is_replicated


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


def _square(xp, X):  # type: ignore[no-untyped-def]
    return X * X


def _largest(xp, X):  # type: ignore[no-untyped-def]
    return X.max(axis=-1)


def _centered(xp, X):  # type: ignore[no-untyped-def]
    return X - X.mean(axis=-1, keepdims=True)


def _rows(xp, X):  # type: ignore[no-untyped-def]
    return X + xp.arange(X.shape[0])[:, None]


def _first_twice(xp, *X):  # type: ignore[no-untyped-def]
    return X[0] + sum(X)


def _impossible(xp, X):  # type: ignore[no-untyped-def]
    return X @ X[None, None]


@pytest.mark.parametrize(
    ("check", "operator", "complaint"),
    [
        (checks.check_types, _broken("X[*b] -> Y[*b]", _narrow), r"made float32\[.*its signature makes float64"),
        (checks.check_types, _broken("X[a b] -> Y[b a]", _shifted), r"made float64\[4, 3\] .* = float64\[3, 4\]"),
        (checks.check_types, _broken("X[m k] -> Y[m k]", _impossible), "a kernel failed, ValueError: matmul"),
        (checks.check_inputs_unchanged, _broken("X[*b] -> Y[*b]", _in_place), "broken writes into an operand"),
        (checks.check_same_again, _broken("X[*b] -> Y[*b]", _moody), "differs when computed again"),
        (checks.check_elementwise, _broken("X[*b] -> Y[*b]", _reversed, elementwise=True), "other elements"),
        (checks.check_elementwise, _broken("X[m k] -> Y[m]", _largest, elementwise=True), r"its shapes are \[\("),
        (checks.check_linear, _broken("X[*b] -> Y[*b]", _shifted, linear="X"), "not linear in X"),
        (checks.check_depends, _broken("X[*b], W[*b] -> Y[*b]", _both, depends={"Y": "X"}), "depends on W"),
        (checks.check_selects, _broken("X[*b] -> Y[*b]", _shifted, selects="X"), "more than elements of X"),
        (checks.check_shape_only, _broken("X[*b] -> Y[*b]", _shifted, shape_only=True), "more than the shapes"),
        (
            checks.check_associative,
            _broken("X...[*b] -> Y[*b]", _first_twice, associative=True),
            "is another when X0 and X1 are put together first",
        ),
        (
            checks.check_updates,
            _broken("X[m k] -> Y[m]", _largest, updates={"Y": "X"}),
            r"float64\[n_m\] is to replace X float64\[n_m, n_k\]",
        ),
        (
            checks.check_variants,
            _broken("X[*b] -> Y[*b]", _shifted, with_slope="GLs"),
            "its variant GLs makes another Y",
        ),
        # A maximum is no sum, a mean needs its whole row, a row's number where the block lies.
        (
            checks.check_blocks,
            _broken("X[m k] -> Y[m]", _largest),
            "k split over . ranks: Y is not what one rank makes",
        ),
        (checks.check_blocks, _broken("X[m k] -> Y[m k]", _centered), "k split over . ranks: Y is not what"),
        (checks.check_blocks, _broken("X[m k] -> Y[m k]", _rows), "m split over . ranks: Y is not what"),
    ],
    ids=_key,
)
def test_a_check_refuses_a_broken_promise(check: Callable[..., None], operator: Operator, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        all(check(case) is None for case in cases(operator, count=6))


def test_the_same_kernels_under_declarations_that_they_keep() -> None:
    for operator in (
        _broken("X[m k] -> Y[m]", _largest, reduction="max"),
        _broken("X[m k!] -> Y[m k!]", _centered),
        _broken("X[m! k] -> Y[m! k]", _rows),
    ):
        for case in cases(operator, count=6):
            checks.check_blocks(case)


def test_a_dim_that_must_be_whole_is_not_split_even_where_only_results_have_it() -> None:
    text = gi.Builder("text", mesh=gi.Mesh(r=2))
    with pytest.raises(gi.GraphirError, match="s must be whole, but the attribute split lays it over r"):
        gi.tokenize(text.input("text", (2,), "text"), s=8, split=("s|r",))


def _differentiable(signature: str, kernel: Callable[..., object], backward: str, d_kernel: Callable[..., object]):  # type: ignore[no-untyped-def]
    f, d = _broken(signature, kernel, no_gradient=None), _broken(backward, d_kernel)
    f.d_operator, d.d_operator_of = d, f
    return f


def _half(xp, X, dY):  # type: ignore[no-untyped-def]
    return X * dY


def _clipped(xp, X):  # type: ignore[no-untyped-def]
    return xp.where(X > 0, X, -1e30)


def _leak(xp, dY):  # type: ignore[no-untyped-def]
    return dY * 1


def _no_leak(xp, X, dY):  # type: ignore[no-untyped-def]
    return dY * (X > 0)


def _root(xp, X):  # type: ignore[no-untyped-def]
    return xp.sqrt(xp.where(X > 0, X, xp.inf))


def _sum_and_product(xp, X, W):  # type: ignore[no-untyped-def]
    return X + W, X * W


def _d_sum_and_product(xp, X, W, dS, dP):  # type: ignore[no-untyped-def]
    return dS + W * dP, dS + X * dP


def _d_sum_unless_alone(xp, X, W, dS, dP):  # type: ignore[no-untyped-def]
    # Right where both gradients arrive, or dS alone: what takes an output that nobody uses for one in use.
    dS = dS if dS.any() else dS + 1
    return dS + W * dP, dS + X * dP


def test_a_wrong_gradient_is_refused() -> None:
    half = _differentiable("X[*b] -> Y[*b]", _square, "X[*b], dY[*b] -> dX[*b]", _half)
    with pytest.raises(AssertionError, match=r"a loss of Y: the gradient along .* finite differences are off by"):
        checks.check_gradient(next(cases(half)))


def test_a_gradient_that_leaks_through_a_mask_is_refused() -> None:
    tight = _differentiable("X[*b] -> Y[*b]", _clipped, "X[*b], dY[*b] -> dX[*b]", _no_leak)
    leaky = _differentiable("X[*b] -> Y[*b]", _clipped, "dY[*b] -> dX[*b]", _leak)
    masked = [case for case in cases(tight, count=6) if (case.arrays["X"] < 0).any()]
    assert len(masked) > 2
    for case in masked:
        checks.check_gradient(case)
    for case in cases(leaky, count=6):
        if (case.arrays["X"] < 0).any():
            with pytest.raises(AssertionError, match="finite differences are off by"):
                checks.check_gradient(case)


def test_a_loss_may_depend_on_one_output_of_two() -> None:
    forward = "X[*b], W[*b] -> S[*b], P[*b]", _sum_and_product
    backward = "X[*b], W[*b], dS[*b], dP[*b] -> dX[*b], dW[*b]"
    right = _differentiable(*forward, backward, _d_sum_and_product)
    wrong = _differentiable(*forward, backward, _d_sum_unless_alone)
    for case in cases(right):
        checks.check_gradient(case)
    with pytest.raises(AssertionError, match=r"a loss of P: .* finite differences are off by"):
        all(checks.check_gradient(case) is None for case in cases(wrong))


def test_an_operand_is_drawn_from_where_the_operator_is_defined() -> None:
    half_root = _differentiable("X[*b] -> Y[*b]", _root, "X[*b], dY[*b] -> dX[*b]", _half)
    outside = next(case for case in cases(half_root, count=6) if (case.arrays["X"] < 0).any())
    with pytest.raises(AssertionError, match=r"Y holds NaN or infinity, .* draw operands from .* \(domains=…\)"):
        checks.check_gradient(outside)
    with pytest.raises(AssertionError, match="finite differences are off by"):
        checks.check_gradient(next(cases(half_root, domains={"X": checks.positive})))


@pytest.mark.parametrize(
    ("traits", "complaint"),
    [
        ({"symbol": " "}, "broken has no symbol to be drawn with"),
        ({"examples": ()}, "broken has no example, so nothing would be checked"),
        ({"no_gradient": None}, "broken declares no gradient: give it a d-operator"),
        ({}, "no operator is called 'broken'"),
    ],
)
def test_a_declaration_with_a_hole_is_refused(traits: dict[str, object], complaint: str) -> None:
    with pytest.raises((AssertionError, gi.GraphirError), match=complaint):
        checks.check_operator(_broken("X[*b] -> Y[*b]", _shifted, **traits))


def test_a_docstring_names_what_is_computed() -> None:
    with pytest.raises(AssertionError, match="broken: its docstring names none of its outputs Q, R"):
        checks.check_declaration(_broken("X[*b] -> Q[*b], R[*b]", _shifted))


def test_a_gradient_that_fits_no_operand_is_refused() -> None:
    # Its d-operator wants a dY of one dim more than Y has.
    steep = _differentiable("X[*b] -> Y[*b]", _square, "X[*b], dY[*b r] -> dX[*b r]", _half)
    with pytest.raises(AssertionError, match="declares a gradient, but has none for any operand"):
        checks.check_gradient(next(cases(steep)))


def test_a_case_was_written_where_it_was_asked_for() -> None:
    case = next(cases(_broken("X[*b] -> Y[*b]", _square)))
    assert str(case.node.meta.at).startswith("tests/operators/test_registry.py:")


@pytest.mark.slow
def test_no_test_runner_is_needed_and_no_optimization_silences_a_check() -> None:
    program = (
        "import sys, graphir as gi\n"
        "from graphir.testing import check_operator\n"
        "def same(xp, X):\n"
        "    'Y = 1.'\n"
        "    return X / X\n"
        "check_operator(gi.operator('same', 'X[*b] -> Y[*b]', linear='X', no_gradient='it is constant')(same))"
    )
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, timeout=300)
    assert re.match(r"AssertionError: same0 .* = same\(X\) with .*: Y is not linear in X", done.stderr.splitlines()[-1])
    program = "import sys, graphir.testing; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"pytest", "_pytest", "hypothesis", "unittest", "networkx", "click", "rich", "safetensors"}


def test_an_operand_without_gradient_is_refused_in_words() -> None:
    block = gi.Builder("mean", dtype="float64")
    X, n = block.input("X"), block.input("n")
    graph = block.build(gi.divide_by_count(X, n, name="Y"))
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


# -- what no check of one declaration can know ------------------------------------------------------------


def test_a_short_text_is_filled_up_with_the_padding_asked_for() -> None:
    block = gi.Builder("text")
    graph = block.build(gi.tokenize(block.input("text", (2,), "text"), s=4, pad=9, name="T"))
    T = gi.compile(graph, {})({"text": np.asarray(["ab", "abcdef"], object)})["T"]
    assert T.tolist() == [[97, 98, 9, 9], [97, 98, 99, 100]]


def test_a_key_draws_the_same_for_good() -> None:
    # A resumed run draws the masks of the run it continues, whatever version began it: the hash may not change. It has
    # once, before any version was released, for one that takes NumPy half the passes.
    counters = np.asarray([0, 1, 2, 3, 2**32, 2**40 + 5])
    expected = [4182797491, 3940820309, 4181855045, 4007426121, 3277287352, 938132999]
    assert random_bits(np, counters, seed=1, step=2, node=3).tolist() == expected
    mask = keep_mask(np, (0,), (16,), (16,), seed=1, step=2, key=3, p=0.5)
    assert mask.astype(int).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1]
    # A half of the hash is kept from the rate times 2¹⁶ on.
    halves = random_bits(np, np.arange(1 << 16), seed=1, step=2, node=3).view(np.uint16)
    assert np.array_equal(keep_mask(np, (0,), halves.shape, halves.shape, 1, 2, 3, 0.25), halves >= 0.25 * 2**16)
