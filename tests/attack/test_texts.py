"""A seeded moment of the attack by texts, and what it has found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest

import graphir as gi
from graphir.errors import InputError, TypeCheckError
from graphir.operators import square_sum
from graphir.operators.elementwise import activation, activation_with_slope, d_activation
from tests.attack import texts
from tests.attack.outcome import AttackError


@pytest.mark.slow
def test_texts_end_in_what_was_asked_for_or_in_an_error_of_graphirs() -> None:
    with np.errstate(all="ignore"):
        found = [each for number in range(3) for each in texts.try_batch(number)]
    wrong = [each for each in found if isinstance(each, AttackError)]
    assert not wrong, str(wrong[0])
    outcomes = Counter(outcome for _, outcome in found)  # type: ignore[misc]
    assert outcomes[texts.REFUSED] > 100
    assert outcomes[texts.RAN] > 100
    assert {kind for kind, _ in found} == {"as it is", "by grammar", "by bytes", "by both"}  # type: ignore[misc]


@pytest.mark.slow
def test_a_batch_follows_from_its_number() -> None:
    assert texts.try_batch(7, 40) == texts.try_batch(7, 40) != texts.try_batch(8, 40)


@pytest.mark.slow
def test_processes_of_their_own_try_batches_in_order() -> None:
    found = list(islice(texts.texts(0), 2 * texts.BATCH))
    assert found == [each for number in (0, 1) for each in texts.try_batch(number)]


# -- what was found ---------------------------------------------------------------------------------------

BACKENDS = ("numpy", "reference")


def _run(backend: str, rows: str, inputs: Sequence[str], given: dict[str, object], output: str) -> object:
    body = "\n".join(f"  {each}" for each in rows.split("\n"))
    named = "\n".join(f"  {each}" for each in inputs)
    graph = gi.verify(gi.parse(f"graph found\n\ninputs\n{named}\n\n/\n{body}\n\noutputs\n  {output}\n"))
    return gi.compile(graph, {"B": 3}, backend=backend)(given)[output]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("id", [-1, 3, 2**40])
def test_ids_that_a_graph_makes_are_looked_at_before_they_are_used(backend: str, id: int) -> None:
    given = {"X": np.ones((3, 3), np.float32), "k": np.array([0, 1, id])}
    for row in ("Y  [B, B]  = lookup(X, m)", "Y  [B],\nl  [B]  = CE(X, m)"):
        with pytest.raises(
            InputError, match=rf"^m\[2\] = {id} is out of range: Y = .* needs ids from 0 to 2 \(B = 3\)"
        ):
            _run(backend, f"m  [B] int64  = identity(k)\n{row}", ("X  [B, B]", "k  [B] int64"), given, "Y")
    given["k"] = np.array([0, 1, 2])
    made = _run(
        backend, "m  [B] int64  = identity(k)\nY  [B, B]  = lookup(X, m)", ("X  [B, B]", "k  [B] int64"), given, "Y"
    )
    assert np.array_equal(made, given["X"])  # type: ignore[call-overload]


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_counted_from_0(backend: str) -> None:
    adam = "W_new  [B],\nm_new  [B],\nv_new  [B]  = Adam(W, W, W, W, step, lr)"
    inputs = ("W  [B]", "step  [] int64", "lr  []")
    given = {"W": np.ones(3, np.float32), "lr": np.float32(0.1)}
    for rows, output in ((adam, "W_new"), ("r  [] float64  = schedule(step) {peak=1.0}", "r")):
        with pytest.raises(InputError, match=rf"step = -1, and {output} = \w+\(…\) counts from 0"):
            _run(backend, rows, inputs, {**given, "step": -1}, output)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "row",
    [
        "Y  [B, B],\nmean  [B],\nrstd  [B]  = LN(X, g, g)",
        'Y  [B, B]  = dLN(X, g, g, g, X) {only=("dX",)}',
        'Y  [B]  = dLN(X, g, g, X) {only=("dgamma",)}',
        "Y  [B, B]  = dS(X, X)",
        "Y  [B]  = row_dot(X, X)",
        "Y  [B] int64  = TOPk(X, n, n) {k=2, key=1}",
    ],
)
def test_rows_of_bfloat16_are_computed(backend: str, row: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    X = np.arange(9).reshape(3, 3) / 9
    given = {"X": X.astype(ml_dtypes.bfloat16), "g": X[1].astype(ml_dtypes.bfloat16), "n": 1}
    rows = row.replace("  =", " bfloat16  =").replace("],", "] bfloat16,").replace("int64 bfloat16", "int64")
    inputs = ("X  [B, B] bfloat16", "g  [B] bfloat16", "n  [] int64")
    made = np.asarray(_run(backend, rows, inputs, given, "Y")).astype(np.float64)
    wide = {"X": X.astype(np.float32), "g": X[1].astype(np.float32), "n": 1}
    right = np.asarray(_run("reference", row, ("X  [B, B]", "g  [B]", "n  [] int64"), wide, "Y"))
    np.testing.assert_allclose(made, right, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Y  [B]  = dDO(k, X) {p=1.0}", "p=1.0 is no dropout rate"),
        ("Y  [B] bool  = mask(n, n) {p=-1.0, key=1, dims=(B,)}", "p=-1.0 is no dropout rate"),
        (
            "W  [B],\nm  [B],\nv  [B]  = Adam(X, X, X, X, n, l) {beta1=1.0}",
            "beta1=1.0, beta2=0.999, epsilon=1e-08: need",
        ),
        (
            "W  [B],\nm  [B],\nv  [B]  = AdamW(X, X, X, X, n, l) {beta2=2.0}",
            "beta1=0.9, beta2=2.0, epsilon=1e-08: need",
        ),
        ('Y  [] text  = count(n) {dtype="text"}', "n holds numbers; its dtype cannot be text"),
        ("Y  []  = count(n) {by=-1}", "a value of rank -1 has no array"),
        ("Y  [B]  = scale(X) {by=9223372036854775807000000000}", ""),
        (f"Y  [B]  = scale(X) {{by={'9' * 90}}}", ""),
        ("Y  [B] int64  = ids(t) {v=B, ignore=9223372036854775808}", "ignore is an integer beyond 64 bits"),
    ],
)
def test_attributes_that_no_kernel_can_follow_are_refused(row: str, message: str) -> None:
    inputs = ("X  [B]", "k  [B] bool", "n  [] int64", "l  []", "t  [B] int64")
    body = "\n".join(f"  {each}" for each in row.split("\n"))
    named = "\n".join(f"  {each}" for each in inputs)
    text = f"graph found\n\ninputs\n{named}\n\n/\n{body}\n"
    if not message:
        gi.parse(text)
        return
    with pytest.raises(gi.GraphirError) as caught:
        gi.parse(text)
    assert message in str(caught.value)


def test_an_attribute_beyond_all_floats_is_refused() -> None:
    block = gi.Builder()
    with pytest.raises(TypeCheckError, match="attribute by is beyond all floats"):
        gi.scale(block.input("X", (2,)), by=10**400)


# -- fused nodes ------------------------------------------------------------------------------------------

FUSED = """\
graph held

inputs
  X  [B]

/
  A  [B]  = fused(X)
    E  [B]  = exp(X)
    A  [B]  = mul(E, E)
  C  [B]  = fused(A, X)
    E  [B]  = add(X, X)
    F  [B]  = fused(E)
      E2  [B]  = scale(E) {by=3.0}
      F   [B]  = add(E2, E)
    C  [B]  = add(F, A)
  E  [B]  = scale(C) {by=0.5}

outputs
  C
  E
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_holds_fused_nodes_is_run_by_every_backend(backend: str) -> None:
    """Inside, names are a node's own: E is three values here."""
    graph = gi.verify(gi.parse(FUSED))
    X = np.array([0.5, 1.0, 2.0], np.float32)
    made = gi.compile(graph, {"B": 3}, backend=backend)({"X": X})
    right = 8 * X + np.exp(X) ** 2
    np.testing.assert_allclose(made["C"], right, rtol=1e-5)
    np.testing.assert_allclose(made["E"], right / 2, rtol=1e-5)


def test_a_sum_of_squares_has_the_dtype_of_what_is_squared() -> None:
    pytest.importorskip("ml_dtypes")
    block = gi.Builder("squares", dtype="bfloat16")
    graph = block.build(square_sum(block.input("X", gi.dims("D E")), name="n"))
    X = np.ones((2, 3), "float32")
    for backend in ("reference", "numpy"):
        made = gi.compile(graph, {"D": 2, "E": 3}, backend=backend)({"X": X.astype("bfloat16")})
        assert (str(made["n"].dtype), float(made["n"])) == ("bfloat16", 6.0)


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "silu"])
def test_an_activation_has_the_dtype_of_its_operand(kind: str) -> None:
    pytest.importorskip("ml_dtypes")
    X = np.linspace(-3, 3, 12).astype("bfloat16")
    made = [activation.kernel(np, X, kind=kind), *activation_with_slope.kernel(np, X, kind=kind)]
    made.append(d_activation.kernel(np, X, X, kind=kind))
    assert [array.dtype for array in made] == [X.dtype] * 4
