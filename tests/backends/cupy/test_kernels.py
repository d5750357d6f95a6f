"""Fused CUDA kernels: what they compute, over the emulator and, marked `gpu`, on a real device: one body, two machines.

The bound of an error is in units of the result's dtype, beside the largest result: kernels add up in another order than
NumPy, and their exp, log, erfc are CUDA's. Where an expected result comes from float64, that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import graphir as gi
from graphir.backends.cupy import launch
from graphir.backends.cupy.form import BLOCK_WIDTH, WARP_WIDTH, rows_form
from graphir.backends.rows.geometry import overlap
from graphir.backends.rows.plan import Part
from graphir.ir.graph import Graph
from graphir.ir.operator import Operator
from graphir.operators.attention import scale_mask, softmax
from graphir.operators.dropout import keep_mask
from graphir.operators.elementwise import exponential
from graphir.operators.special import MASKED
from graphir.passes import Optimizer, autodiff, optimize
from graphir.testing import cases
from tests.cuda import emulator
from tests.cuda.harness import compile_with_kernels, launched, to_numpy, where
from tests.support.formulas import FUSED
from tests.support.random_graphs import Program, programs
from tests.support.sampled import sampled
from tests.support.sharding_cases import Case, batch, sharded_step_of, start, step_of

__all__ = ["where"]

D, N, M = gi.dims("D N M")
_few = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def _run(graph: Graph, sizes: Mapping[str, int], arrays: Any, where: str) -> tuple[dict[str, Any], Any]:
    executable = compile_with_kernels(graph, sizes, where)
    found = executable(arrays)
    return {name: to_numpy(found[name]) for name in found}, executable


def _same(found: Any, wanted: Any, dtype: str, units: float = 50) -> None:
    """`found` is `wanted`, given in a dtype no narrower, up to `units` of `dtype` beside the largest."""
    eps = float(ml_dtypes.finfo(dtype).eps)
    found, wanted = (np.asarray(each, "float64") for each in (found, wanted))
    with np.errstate(over="ignore"):
        # In float16, what is masked is minus infinity.
        masked = wanted.astype(dtype) == np.float64(MASKED).astype(dtype)
        assert np.array_equal(found.astype(dtype)[masked], wanted.astype(dtype)[masked])
    found, wanted = found[~masked], wanted[~masked]
    bound = units * eps * (1 + np.abs(wanted).max(initial=0))
    assert np.abs(found - wanted).max(initial=0) <= bound


def _check(graph: Graph, sizes: Mapping[str, int], arrays: Any, where: str, dtype: str) -> Any:
    """Kernels and reference agree."""
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    found, executable = _run(graph, sizes, arrays, where)
    for name, wanted in expected.items():
        assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape), name
        if wanted.dtype.kind in "bi":
            assert np.array_equal(found[name], wanted), name
        else:
            _same(found[name], wanted, dtype)
    return executable


# -- each operator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "dtype"),
    [
        pytest.param(operator, dtype, marks=pytest.mark.slow if slow else (), id=f"{operator.key}-{dtype}")
        # Each in float32, every other one quickly, and those between in float64, too.
        for i, operator in enumerate(FUSED)
        for dtype, slow in ([("float32", False)], [("float32", True), ("float64", True)])[i % 2]
    ],
)
def test_a_fused_kernel_computes_what_the_kernel_of_its_operator_does(
    operator: Operator, dtype: str, where: str
) -> None:
    for case in cases(operator, dtype, count=1):
        executable = _check(case.graph, case.sizes, case.arrays, where, dtype)
        assert executable.kernels.written
        assert not executable.kernels.refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "dtype"),
    [(operator, ("float16", "bfloat16")[i % 2]) for i, operator in enumerate(FUSED)],
    ids=lambda each: each if isinstance(each, str) else each.key,
)
def test_of_16_bits_only_the_results_are_rounded(operator: Operator, dtype: str, where: str) -> None:
    pairs = zip(cases(operator, dtype, count=1), cases(operator, "float64", count=1), strict=True)
    for narrow, wide in pairs:
        given = {
            name: array if array.dtype.kind in "bi" else np.asarray(array).astype("float64")
            for name, array in narrow.arrays.items()
        }
        expected = gi.compile(wide.graph, wide.sizes, backend="reference")(given)
        found, executable = _run(narrow.graph, narrow.sizes, narrow.arrays, where)
        assert executable.kernels.written
        for name, wanted in expected.items():
            if wanted.dtype.kind in "bi":
                assert np.array_equal(found[name], wanted), name
            else:
                _same(found[name], wanted, found[name].dtype.name, units=2)


# -- rows of all widths -----------------------------------------------------------------------------------

WIDTHS = (1, 31, 33, 768, 1025, 5000, 9001)


def _normalized(block: gi.Builder) -> gi.Value:
    X, R = block.input("X", (N, D)), block.input("R", (N, D))
    H = gi.layer_norm(X, block.parameter("gamma", (D,)), block.parameter("beta", (D,)))
    return gi.multiply(H, R)


def _attended(block: gi.Builder) -> gi.Value:
    A, R = block.input("X", (M, N, D)), block.input("R", (M, N, D))
    return gi.multiply(softmax(scale_mask(A, width=gi.dim("D_h"), causal=True)), R)


#: Each with the dims that it has.
_MADE = ((_normalized, "D N"), (_attended, "D N M D_h"))


def _sizes(names: str, width: int) -> dict[str, int]:
    return {name: {"D": width, "N": 19, "M": 2, "D_h": 16}[name] for name in names.split()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("make", "names"), _MADE, ids=["LN", "SM and S"])
def test_rows_of_any_width_agree_with_float64(make: Any, names: str, width: int, where: str) -> None:
    rng = np.random.default_rng(width)
    graphs = {}
    for dtype in ("float32", "float64"):
        block = gi.Builder(dtype=dtype)
        graph = block.build(gi.reduce_sum(make(block), name="L"))
        graphs[dtype] = autodiff(graph, wrt=[value.name for value in graph.arguments])
    sizes = _sizes(names, width)
    arrays = {
        value.name: rng.standard_normal([sizes[str(dim)] for dim in value.shape]).astype("float32")
        for value in graphs["float32"].arguments
    }
    expected = gi.compile(graphs["float64"], sizes, backend="reference")(
        {name: array.astype("float64") for name, array in arrays.items()}
    )
    found, _ = _run(graphs["float32"], sizes, arrays, where)
    for name, wanted in expected.items():
        _same(found[name], wanted, "float32", units=40 * max(1, np.log2(width)))


@pytest.mark.parametrize("width", WIDTHS)
def test_cross_entropy_of_any_vocabulary_agrees_with_float64(width: int, where: str) -> None:
    rng, graphs = np.random.default_rng(width), {}
    for dtype in ("float32", "float64"):
        block = gi.Builder(dtype=dtype)
        L = gi.cross_entropy(block.input("Z", (N, D)), block.input("Y", (N,), "int64"))
        graphs[dtype] = autodiff(block.build(gi.reduce_sum(L, name="L")), wrt=["Z"])
    labels = rng.integers(0, width, 21)
    labels[::5] = -100
    sizes, Z = {"N": 21, "D": width}, 3 * rng.standard_normal((21, width)).astype("float32")
    expected = gi.compile(graphs["float64"], sizes, backend="reference")({"Z": Z.astype("float64"), "Y": labels})
    found, _ = _run(graphs["float32"], sizes, {"Z": Z, "Y": labels}, where)
    for name, wanted in expected.items():
        _same(found[name], wanted, "float32", units=200)


def test_rows_are_for_a_warp_or_a_block_and_short_ones_stay_in_registers() -> None:
    assert (rows_form(768, 4, False, ()).team, rows_form(768, 4, False, ()).steps) == (32, 6)
    assert (rows_form(WARP_WIDTH + 1, 1, False, ()).team, rows_form(BLOCK_WIDTH, 4, False, ()).steps) == (256, 8)
    assert (rows_form(50257, 1, False, ()).team, rows_form(50257, 1, False, ()).steps) == (512, 0)


# -- how arrays lie ---------------------------------------------------------------------------------------


def test_transposed_operands_are_read_where_they_are(where: str) -> None:
    block = gi.Builder()
    X, Y = block.input("X", (M, N)), block.input("Y", (N, M))
    graph = block.build(exponential(gi.add(gi.transpose(X, (1, 0)), Y), name="Z"))
    rng = np.random.default_rng(0)
    for m, n in ((7, 33), (64, 128)):
        arrays = {"X": rng.standard_normal((m, n)), "Y": rng.standard_normal((n, m))}
        arrays = {name: array.astype("float32") for name, array in arrays.items()}
        executable = _check(graph, {"M": m, "N": n}, arrays, where, "float32")
        assert not executable.kernels.refused


def test_a_sum_over_some_of_the_rows_is_one_over_what_they_would_add(where: str) -> None:
    K = gi.dim("K")
    block = gi.Builder()
    X, c = block.input("X", (M, N, K, D)), block.input("c", (M, N, K, D))
    Y = gi.multiply(X, c)
    sums = [gi.reduce_sum(Y, axes, name=f"S{''.join(map(str, axes))}") for axes in ((0,), (1,), (0, 2))]
    graph = block.build(*sums)
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal((3, 4, 5, 33)).astype("float32") for name in "Xc"}
    _check(graph, {"M": 3, "N": 4, "K": 5, "D": 33}, arrays, where, "float32")


@sampled(count=[2, 9, 20], width=[100, 1024, 5000, 9001])
def test_any_number_of_sums_over_rows(count: int, width: int, where: str) -> None:
    """More than registers hold are added up in memory, or by blocks that have some of the columns only."""
    block = gi.Builder()
    X = block.input("X", (N, D))
    others = [block.input(f"R{i}", (N, D)) for i in range(count)]
    graph = block.build(*(gi.reduce_sum(gi.multiply(X, R), (0,), name=f"S{i}") for i, R in enumerate(others)))
    rng = np.random.default_rng(width)
    arrays = {value.name: rng.standard_normal((21, width)).astype("float32") for value in graph.arguments}
    executable = _check(graph, {"N": 21, "D": width}, arrays, where, "float32")
    assert (executable.kernels.written, executable.kernels.refused) == (1, 0)


def test_what_needs_more_than_32_bits_is_counted_with_64(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kernels as of the largest arrays, on small ones."""
    monkeypatch.setattr(launch, "NARROW", 0)
    for make, names in _MADE:
        for width in (33, 768, 9001):
            test_rows_of_any_width_agree_with_float64(make, names, width, where)
    test_a_sum_over_some_of_the_rows_is_one_over_what_they_would_add(where)
    test_any_number_of_sums_over_rows(2, 9001, where)


def _part(array: Any) -> Part:
    return Part(array, array.ctypes.data, array.strides, each=True)


def test_columns_of_the_same_rows_are_told_apart() -> None:
    whole = np.zeros((4, 6, 30), "float32")
    q, k = whole[:, :, :10], whole[:, :, 10:20]
    assert not overlap({0: _part(q), 1: _part(k)}, {0})
    assert not overlap({0: _part(q.transpose(1, 0, 2)), 1: _part(k)}, {0})
    assert overlap({0: _part(q), 1: _part(whole[:, :, 5:15])}, {0})
    assert overlap({0: _part(whole[:2]), 1: _part(whole[1:])}, {0})


# -- masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 128), (9, 455), (3, 5, 273), (4097,), (2, 2, 2)])
def test_masks_are_those_of_the_kernel_bit_for_bit(shape: tuple[int, ...], where: str) -> None:
    block = gi.Builder()
    X = block.input("X", tuple(gi.dim(f"N{i}") for i in range(len(shape))))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    graph = block.build(gi.dropout(X, seed, step, p=0.3, key=5, name="Y"))
    sizes = {f"N{i}": size for i, size in enumerate(shape)}
    found, _ = _run(graph, sizes, {"X": np.ones(shape, "float32"), "seed": -7, "step": 2}, where)
    assert np.array_equal(found["Y"] != 0, keep_mask(np, (0,) * len(shape), shape, shape, -7, 2, 5, 0.3))


# -- NaN and infinity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "names"), _MADE, ids=["LN", "SM and S"])
@pytest.mark.parametrize("width", [33, 1025])
def test_what_is_not_a_number_shows(make: Any, names: str, width: int, where: str) -> None:
    block = gi.Builder()
    graph = block.build(make(block))
    sizes = _sizes(names, width)
    shapes = {value.name: [sizes[str(dim)] for dim in value.shape] for value in graph.arguments}
    arrays = {name: np.ones(shape, "float32") for name, shape in shapes.items()}
    arrays["X"][..., 2, 0], arrays["X"][..., 4, 1 % width] = np.nan, np.inf
    (found,) = _run(graph, sizes, arrays, where)[0].values()
    bad = np.isnan(found).any(axis=-1)
    assert np.array_equal(np.broadcast_to(np.isin(np.arange(sizes["N"]), (2, 4)), bad.shape), bad)


def test_dropout_hides_no_nan(where: str) -> None:
    block = gi.Builder()
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    graph = block.build(gi.dropout(block.input("X", (N,)), seed, step, p=0.5, key=1, name="Y"))
    found, _ = _run(graph, {"N": 64}, {"X": np.full(64, np.nan, "float32"), "seed": 0, "step": 0}, where)
    assert np.isnan(found["Y"]).all()


# -- whole programs ---------------------------------------------------------------------------------------


def _step() -> tuple[Graph, dict[str, int], dict[str, Any]]:
    """A training step of a small Transformer, and what it runs on."""
    model = gi.models.transformer(2, dropout=0.1, decode=None, activation="gelu_tanh")
    graph = optimize(autodiff(model), Optimizer("adamw", learning_rate=1e-2, epsilon=1e-3, clip=0.1))
    sizes = {"B": 2, "S": 32, "D": 64, "N_H": 4, "D_ff": 128, "V": 99}
    T, Y = np.random.default_rng(0).integers(0, sizes["V"], (2, sizes["B"], sizes["S"]))
    Y[0, :5] = -100
    return graph, sizes, {**gi.initialize(graph, sizes), "T": T, "Y": Y, "seed": 3, "step": 4}


@pytest.mark.slow
def test_a_training_step_is_the_reference_and_the_same_every_time(where: str) -> None:
    graph, sizes, arrays = _step()
    executable = _check(graph, sizes, arrays, where, "float32")
    runs = [executable(arrays) for _ in range(3)]
    for name in runs[0]:
        assert all(np.array_equal(to_numpy(runs[0][name]), to_numpy(run[name])) for run in runs[1:]), name


@pytest.mark.slow
@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
def test_all_of_a_step_but_products_and_lookups_is_launches() -> None:
    graph, sizes, _ = _step()
    executable = compile_with_kernels(graph, sizes, "emulated")
    launches, others = launched(executable)
    assert not executable.kernels.refused  # type: ignore[union-attr]
    kernels = {call[1][1].__name__ for call in others}
    assert kernels == {"matmul", "d_matmul", "lookup", "d_lookup"}
    assert launches < 130


@pytest.mark.slow
@_few
@given(program=programs())
def test_random_programs_compute_what_their_nodes_do(program: Program, where: str) -> None:
    differentiable = [value.name for value in program.graph.arguments if value.type.is_float]
    graph = autodiff(program.graph, wrt=differentiable)
    _check(graph, program.sizes, program.arrays(), where, "float64")


_CASES = (
    Case("megatron", (("tp", 3),), padded=True),
    Case("vocabulary", (("tp", 2),), tied=False),
    Case("context", (("cp", 2),)),
)


@pytest.mark.slow
@pytest.mark.parametrize("case", _CASES, ids=str)
def test_ranks_compute_their_blocks_with_kernels(case: Case, where: str) -> None:
    arguments = {**start(step_of(case), tuple(case.sizes.items())), **batch(case.sizes, 0)}
    _check(sharded_step_of(case), case.sizes, arguments, where, "float64")
