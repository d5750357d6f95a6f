"""What a masked score means, in every way of computing: a key of probability 0, and nothing else in a row of its own.

The truth is written here in float64 as PyTorch's attention has it: weights of the keys that are seen, 0 of all others,
a row of zeros where there is none, and no gradient through it. Such zeros are compared as numbers, not up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.operators.attention import d_softmax, softmax_rows
from graphir.operators.loss import (
    IGNORE,
    cross_entropy,
    cross_entropy_of_probabilities,
    d_cross_entropy,
    d_cross_entropy_of_probabilities,
    log_sum_exp,
)
from graphir.operators.split_vocabulary import exp_sum, negative_log_likelihood, normalize, pick, row_max
from graphir.passes import LEVELS, Plan, autodiff, shard
from tests.cuda import emulator, standin
from tests.cuda.harness import to_numpy
from tests.support.sampled import sampled

#: How a graph is run.
EXECUTORS: Mapping[str, Mapping[str, Any]] = {
    "reference": {"backend": "reference"},
    "numpy": {"threads": 1},
    "numba": {"threads": 1, "kernels": "numba"},
}
Array = NDArray[Any]


on_the_stand_in = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))


def run(graph: Graph, sizes: Mapping[str, int], given: Mapping[str, Any], executor: str, **options: Any) -> Any:
    if executor == "numba":
        pytest.importorskip("numba")
    return gi.compile(graph, sizes, **EXECUTORS[executor], **options)(given)


def run_on_the_stand_in(graph: Graph, sizes: Mapping[str, int], given: Mapping[str, Any], **options: Any) -> Any:
    """By the CUDA sources, compiled for the host."""
    with standin.installed():
        result = gi.compile(graph, sizes, backend="cupy", **options)(given)
        return {value.name: to_numpy(result[value.name]) for value in graph.outputs}


# -- rows of scores -----------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows of scores, some masked, and what is to be made of them, in float64: P and each row's loss."""

    Z: Array
    Y: Array
    masked: Array
    P: Array
    L: Array

    @property
    def empty(self) -> Array:
        return np.asarray(self.masked.all(axis=-1))


def rows_of_scores(dtype: str, width: int) -> Rows:
    rng = np.random.default_rng(width)
    least = -np.inf if dtype == "float16" else -1e30
    Z = rng.standard_normal((14, width))
    Z[1] = least
    Z[2] = -np.inf
    Z[3] = np.where(rng.random(width) < 0.5, least, -np.inf)
    Z[4] = least if dtype == "float16" else -3e38
    Z[5, ::2] = least
    Z[6, 1::2] = -np.inf
    Z[7, : width // 2] = 2 * least
    # Ordinary numbers, if only just: all of a row, and beside what is masked.
    Z[8] = -60000 if dtype == "float16" else np.nextafter(np.dtype(dtype).type(least), np.dtype(dtype).type(0))
    Z[9] = np.where(np.arange(width) < width - 1, least, -5000)
    Z = Z.astype(dtype)
    Y = rng.integers(0, width, 14)
    Y[2] = Y[11] = IGNORE
    wide = Z.astype("float64")
    masked = wide <= float(np.dtype(dtype).type(least))
    seen = np.where(masked, -np.inf, wide)
    empty = masked.all(axis=-1)
    level = np.where(empty, 0, seen.max(axis=-1))
    powers = np.exp(seen - level[:, None])
    total = np.where(empty, 1, powers.sum(axis=-1))
    at_label = seen[np.arange(14), np.where(Y == IGNORE, 0, Y)]
    L = np.where((Y == IGNORE) | empty, 0, np.log(total) + np.where(empty, 0, level - np.where(empty, 0, at_label)))
    return Rows(Z, Y, masked, powers / total[:, None], L)


def ways(dtype: str) -> Graph:
    """Softmax and cross-entropy in all the ways in which graphs have them: whole, in pieces, with their gradients."""
    block = gi.Builder("ways")
    Z, W = (block.input(name, gi.dims("n v"), dtype) for name in ("Z", "W"))
    Y, dL = block.input("Y", gi.dims("n"), "int64"), block.input("dL", gi.dims("n"), dtype)
    P, _, s = softmax_rows.all(Z, names=["P", "top", "s"])
    plain = gi.softmax(Z, name="P_plain")
    top = row_max(Z, name="top_apart")
    s_apart = exp_sum(Z, top, name="s_apart")
    P_apart = normalize(Z, top, s_apart, name="P_apart")
    L, lse = cross_entropy.all(Z, Y, names=["L", "lse"])
    L_apart, lse_apart = negative_log_likelihood.all(
        s_apart, top, pick(Z, Y, name="z"), Y, names=["L_apart", "lse_apart"]
    )
    L_of_P = cross_entropy_of_probabilities(plain, Y, name="L_of_P")
    gradients = d_softmax(P, W, name="dZ_S"), d_cross_entropy(Z, lse, Y, dL, name="dZ_CE")
    dP = d_cross_entropy_of_probabilities(P, Y, dL, name="dP")
    lse_alone = log_sum_exp(Z, name="lse_alone")
    return block.build(P, s, plain, s_apart, P_apart, L, lse, L_apart, lse_apart, L_of_P, *gradients, dP, lse_alone)


def beside(rows: Rows) -> dict[str, Array]:
    """What the graph of `ways` is given."""
    rng, dtype = np.random.default_rng(0), rows.Z.dtype
    gradients = {"W": rng.standard_normal(rows.Z.shape), "dL": rng.standard_normal(14)}
    return {"Z": rows.Z, "Y": rows.Y, **{name: array.astype(dtype) for name, array in gradients.items()}}


def check_rows(made: Mapping[str, Array], rows: Rows, dL: Array) -> None:
    dtype, width = rows.Z.dtype.name, rows.Z.shape[-1]
    for name in ("P", "P_plain", "P_apart", "dZ_S", "dZ_CE"):
        assert not made[name][rows.masked].any(), name
    for name in ("s", "s_apart", "L", "L_apart", "L_of_P", "lse", "lse_apart", "lse_alone", "dP"):
        assert not made[name][rows.empty].any(), name
    error = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-13}[dtype]
    for name in ("P", "P_plain", "P_apart"):
        np.testing.assert_allclose(made[name], rows.P, rtol=error, atol=error * 1e-2, err_msg=name)
    # Of row 8 the log-sum-exp may be rounded to a number of its own size.
    exact = np.arange(14) != 8
    for name in ("L", "L_apart"):
        np.testing.assert_allclose(made[name][exact], rows.L[exact], rtol=error, atol=error, err_msg=name)
    assert np.array_equal(np.isinf(rows.L), np.isinf(made["L_of_P"]) & (rows.P.max(axis=-1) > 0)) or dtype == "float16"
    label = (np.arange(width) == rows.Y[:, None]) & ~rows.masked
    dZ = (rows.P - label) * np.where(rows.Y == IGNORE, 0, dL.astype("float64"))[:, None]
    np.testing.assert_allclose(made["dZ_CE"][exact], dZ[exact], rtol=error, atol=error)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("width", [1, 2, 7, 64, 201])
def test_masked_scores_in_every_operator_that_reads_them(executor: str, dtype: str, width: int) -> None:
    rows = rows_of_scores(dtype, width)
    given = beside(rows)
    with np.errstate(divide="ignore"):  # −log 0
        made = run(ways(dtype), {"n": 14, "v": width}, given, executor)
    check_rows(made, rows, given["dL"])


@on_the_stand_in
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_masked_scores_in_cuda(dtype: str) -> None:
    rows = rows_of_scores(dtype, 75)
    given = beside(rows)
    check_rows(run_on_the_stand_in(ways(dtype), {"n": 14, "v": 75}, given), rows, given["dL"])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_label_whose_logit_is_masked_beside_others_has_no_probability(executor: str) -> None:
    """Its loss is −log 0, and what flows back is of the others: nothing into what is masked."""
    Z = np.array([[0.0, -1e30, 1.0], [0.0, -np.inf, 1.0]])
    given = {"Z": Z, "Y": np.array([1, 1]), "W": np.zeros_like(Z), "dL": np.array([2.0, 2.0])}
    with np.errstate(divide="ignore"):
        made = run(ways("float64"), {"n": 2, "v": 3}, given, executor)
    for name in ("L", "L_apart", "L_of_P"):
        assert np.array_equal(made[name], [np.inf, np.inf]), name
    share = 1 / (1 + np.e)
    np.testing.assert_allclose(made["dZ_CE"], [[2 * share, 0, 2 * (1 - share)]] * 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_nan_and_infinity_beside_masked_scores_stay_visible(executor: str) -> None:
    Z = np.full((3, 5), -1e30, "float32")
    Z[0, 2], Z[1, 2], Z[2, :2] = np.nan, np.inf, (np.nan, -np.inf)
    given = {"Z": Z, "Y": np.array([0, 2, IGNORE]), "W": np.ones_like(Z), "dL": np.ones(3, "float32")}
    with np.errstate(invalid="ignore"):
        made = run(ways("float32"), {"n": 3, "v": 5}, given, executor)
    for name in ("P", "P_plain", "P_apart", "L", "L_apart", "lse", "lse_apart", "lse_alone"):
        assert np.isnan(made[name]).reshape(3, -1).any(axis=-1).all(), name


# -- attention ----------------------------------------------------------------------------------------------

#: Kinds of masks, and whether there is a causal one beside.
MASKS = (("padding", True), ("padding", False), ("given", True), ("given", False))
LENGTHS = (1, 2, 3, 5, 17, 64, 65, 66, 100, 129, 200)


@lru_cache(maxsize=4)
def attention(mask: str, causal: bool) -> Graph:
    """Attention from given heads, its loss Σ C ⊙ O, and gradients."""
    block = gi.Builder("attention")
    Q, K, V, C = (block.parameter(name, gi.dims("B N_H S e"), "float64") for name in "QKVC")
    keep = block.input("keep", gi.dims("B S" if mask == "padding" else "S S"), "bool")
    A = gi.matmul(Q, gi.transpose(K), name="A")
    Z = gi.scale_mask(A, keep, width=gi.dim("e"), causal=causal, mask=mask, name="Z")
    O = gi.matmul(gi.softmax(Z, name="P"), V, name="O")  # noqa: E741
    loss = gi.reduce_sum(gi.multiply(O, C, name="CO"), (0, 1, 2, 3), name="L")
    return autodiff(block.build(loss, O))


def operands(mask: str, length: int) -> dict[str, Array]:
    """Heads, and a mask under which the first queries see nothing if it is causal, and every fifth in any case."""
    rng = np.random.default_rng(length)
    held: dict[str, Array] = {name: rng.standard_normal((2, 2, length, 3)) for name in "QKVC"}
    if mask == "padding":
        held["keep"] = np.arange(length) >= np.array([[(length + 1) // 2], [0]])
        held["keep"][1] = length % 2 == 0
    else:
        held["keep"] = rng.random((length, length)) < 0.5
        held["keep"][::5] = False
    return held


def truth(held: Mapping[str, Array], mask: str, causal: bool) -> dict[str, Array]:
    """O and the gradients, written down; and `blind`, the queries that see no key."""
    Q, K, V, C = (held[name] for name in "QKVC")
    keep, length = held["keep"], Q.shape[2]
    seen = np.broadcast_to(keep[:, None, None, :] if mask == "padding" else keep, (*Q.shape[:3], length))
    if causal:
        seen = seen & np.tri(length, dtype=bool)
    blind = ~seen.any(axis=-1)
    A = np.where(seen, Q @ K.swapaxes(-1, -2) / np.sqrt(3), -np.inf)
    P = np.exp(A - np.where(blind, 0, A.max(axis=-1))[..., None])
    P /= np.where(blind, 1, P.sum(axis=-1))[..., None]
    dP = C @ V.swapaxes(-1, -2)
    dA = P * (dP - (P * dP).sum(axis=-1, keepdims=True)) / np.sqrt(3)
    gradients = {"dQ": dA @ K, "dK": dA.swapaxes(-1, -2) @ Q, "dV": P.swapaxes(-1, -2) @ C}
    return {"O": P @ V, **gradients, "blind": blind}


def check_attention(made: Mapping[str, Array], held: Mapping[str, Array], mask: str, causal: bool) -> None:
    wanted = truth(held, mask, causal)
    blind = wanted.pop("blind")
    assert not made["O"][blind].any()
    assert not made["dQ"][blind].any()
    for name, array in wanted.items():
        np.testing.assert_allclose(made[name], array, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("mask", "causal"), MASKS)
def test_queries_that_see_no_key_are_zero_at_every_length(executor: str, mask: str, causal: bool) -> None:
    for length in LENGTHS:
        held = operands(mask, length)
        sizes = {"B": 2, "N_H": 2, "S": length, "e": 3}
        check_attention(run(attention(mask, causal), sizes, held, executor), held, mask, causal)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("mask", "causal"), MASKS)
def test_they_are_zero_where_probabilities_are_made_again(level: str, mask: str, causal: bool) -> None:
    for length in (7, 66):
        held = operands(mask, length)
        sizes = {"B": 2, "N_H": 2, "S": length, "e": 3}
        for executor in ("numpy", "numba"):
            made = run(attention(mask, causal), sizes, held, executor, recompute=level)
            check_attention(made, held, mask, causal)


@on_the_stand_in
@sampled(2, level=["attention", "nothing", "full"], masks=[("padding", True), ("given", False)])
def test_they_are_zero_in_cuda(level: str, masks: tuple[str, bool]) -> None:
    mask, causal = masks
    """Where scores lie in memory, and where one kernel makes all of attention."""
    held = operands(mask, 41)
    sizes = {"B": 2, "N_H": 2, "S": 41, "e": 3}
    check_attention(run_on_the_stand_in(attention(mask, causal), sizes, held, recompute=level), held, mask, causal)


@pytest.mark.torch
@pytest.mark.parametrize(("mask", "causal"), MASKS)
def test_they_are_what_pytorch_makes_of_them(mask: str, causal: bool) -> None:
    torch = pytest.importorskip("torch")
    held = operands(mask, 12)
    Q, K, V = (torch.tensor(held[name], requires_grad=True) for name in "QKV")
    seen = torch.tensor(held["keep"])[:, None, None, :] if mask == "padding" else torch.tensor(held["keep"])
    seen = seen.expand(2, 2, 12, 12)
    O = torch.nn.functional.scaled_dot_product_attention(  # noqa: E741
        Q, K, V, attn_mask=seen & torch.ones(12, 12, dtype=torch.bool).tril() if causal else seen
    )
    (O * torch.tensor(held["C"])).sum().backward()
    theirs = {"O": O, "dQ": Q.grad, "dK": K.grad, "dV": V.grad}
    check_attention({name: each.detach().numpy() for name, each in theirs.items()}, held, mask, causal)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("split", ["queries", "keys"])
@pytest.mark.parametrize(("mask", "causal"), MASKS)
def test_they_are_zero_on_every_rank(ranks: int, split: str, mask: str, causal: bool) -> None:
    """Also where a rank has keys, none of which a query sees, and other ranks have some that it sees."""
    length = 6 * ranks
    held = operands(mask, length)
    pins = {"O": "[_, _, _|cp, _]", "A": "[_, _, _|cp, _]" if split == "queries" else "[_, _, _, _|cp]"}
    plan = Plan("split", inputs={}, parameters=dict.fromkeys("QKVC", "[_, _, _|cp, _]"), activations=pins)
    sizes = {"B": 2, "N_H": 2, "S": length, "e": 3}
    local = gi.verify(shard(attention(mask, causal), Mesh(cp=ranks), plan, sizes))
    apart = any(node.operator.key == "exp_sum" for node in local.nodes)
    assert apart == (split == "keys")
    for executor in EXECUTORS:
        check_attention(run(local, sizes, held, executor), held, mask, causal)
