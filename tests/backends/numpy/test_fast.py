"""Fused kernels: what they compute, how they are written, and that without Numba nothing changes.

A kernel's text is Python, so most of it is tested without compiling: interpreted, over the registry and over random
programs. What compiling may change, the rounding of exp and what follows, masks and threads, is tested compiled.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import graphir as gi
from graphir.backends.compiled.engine import Tiling
from graphir.backends.numpy.engine import NumpyEngine
from graphir.backends.numpy.fast import build, kernels
from graphir.backends.numpy.fast.source import Source
from graphir.backends.rows.expressions import Row
from graphir.backends.rows.lower import Cut, lower
from graphir.backends.rows.schedule import Store
from graphir.errors import ConfigError, InputError, MissingDependencyError
from graphir.extras import install
from graphir.formula.trace import Formula, find_formula
from graphir.ir.graph import Graph
from graphir.ir.operator import Operator
from graphir.ir.signature import expand
from graphir.operators.dropout import keep_mask
from graphir.operators.normalization import layer_norm
from graphir.operators.special import MASKED, erf, hash_32
from graphir.passes import autodiff
from graphir.testing import cases
from tests.support.formulas import FORMULATED
from tests.support.random_graphs import Program, programs
from tests.support.sharding_cases import Case, batch, sharded_step_of, start, step_of

numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed: extra `fast`")
#: What computes single numbers has no row, ids are not floats, and a cast has two dtypes: they are left to the rules.
LEFT = {"one", "clip", "finite", "schedule", "LS", "ids", "cast", "size", "positions", "angles"}
FUSED = [each for each in FORMULATED if each.key not in LEFT]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels that tests compile stay out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHIR_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        build.cache_folder.cache_clear()
        yield
    build.cache_folder.cache_clear()


# -- interpreting -----------------------------------------------------------------------------------------


def _interpreted(dtype: str, text: str) -> Callable[..., None]:
    """The kernel as Python runs it."""
    float_of = getattr(np, dtype)
    types = ("float32", "float64", "int32", "int64", "uint32", "boolean")
    names: dict[str, Any] = dict(np=np, T=float_of, I=np.int32, N=np.uint64, U=np.uint32, IN=str, OUT=str)  # noqa: C408
    names |= {"exp": np.exp, "ordered": float_of, "unordered": float_of, "plus": lambda x, y: x + y}
    names |= {
        "types": SimpleNamespace(**{name: name for name in types}),
        "kernel": lambda *_: lambda function: function,
        "sigmoid": lambda x: float_of(1) / (float_of(1) + np.exp(-x)),
        "normal": lambda x: float_of(0.5) * (1 + float_of(math.erf(x * math.sqrt(0.5)))),
        "mixed": lambda x, key0, key1: hash_32(np, x, int(key0), int(key1)),
    }
    exec(text, names)
    run: Callable[..., None] = names["run"]
    return run


class Counted:
    """How many tiles kernels have been written for, and how many were left to the rules."""

    def __init__(self) -> None:
        self.written = self.refused = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Kernels for runs of any size, counted."""
    counts, write = Counted(), kernels.Kernels.write

    def counting(*arguments: Any) -> bool:
        done = write(*arguments)
        counts.written += done
        counts.refused += not done
        return done

    monkeypatch.setattr(kernels, "LEAST", 0)
    monkeypatch.setattr(kernels.Kernels, "write", counting)
    return counts


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch, counted: Counted) -> Counted:
    """As `counted`, and nothing is compiled."""
    monkeypatch.setattr(kernels, "build", _interpreted)
    monkeypatch.setattr(kernels, "require_numba", lambda: None)
    return counted


def _check(graph: Graph, sizes: Any, arrays: Any, dtype: str = "float64", **options: Any) -> None:
    """Kernels and reference agree."""
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    found = gi.compile(graph, sizes, kernels="numba", threads=1, **options)(arrays)
    for name, wanted in expected.items():
        array = np.asarray(found[name])
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
        if wanted.dtype.kind != "f":
            assert np.array_equal(array, wanted), name
        elif wanted.size:
            masked = wanted == wanted.dtype.type(MASKED)
            assert np.array_equal(array == wanted.dtype.type(MASKED), masked), name
            bound = 50 * np.finfo(dtype).eps * (1 + np.abs(wanted[~masked]).max(initial=0))
            assert np.abs(array - wanted)[~masked].max(initial=0) <= bound, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operator", FUSED, ids=lambda operator: operator.key)
def test_a_fused_kernel_computes_what_the_kernel_of_its_operator_does(
    operator: Operator, dtype: str, interpreted: Counted
) -> None:
    for case in cases(operator, dtype, count=3):
        _check(case.graph, case.sizes, case.arrays, dtype)
    assert interpreted.written


_few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@_few
@given(program=programs())
def test_runs_of_random_programs_compute_what_their_nodes_do(program: Program, interpreted: Counted) -> None:
    differentiable = [value.name for value in program.graph.arguments if value.type.is_float]
    graph = autodiff(program.graph, wrt=differentiable)
    _check(graph, program.sizes, program.arrays())


_CASES = (
    Case("data", (("dp", 2),)),
    Case("megatron", (("tp", 3),), padded=True),
    Case("vocabulary", (("tp", 2),), tied=False),
    Case("sequence", (("tp", 2),), qkv_bias=True),
    Case("context", (("cp", 2),)),
)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_ranks_compute_their_blocks_with_kernels(case: Case, interpreted: Counted) -> None:
    arguments = {**start(step_of(case), tuple(case.sizes.items())), **batch(case.sizes, 0)}
    _check(sharded_step_of(case), case.sizes, arguments)
    assert interpreted.written > 10


def test_an_id_that_the_program_makes_is_looked_at_before_a_kernel_reads_by_it(interpreted: Counted) -> None:
    B, V, W = gi.dims("B V W")
    block = gi.Builder("loss", dtype="float64")
    Y = gi.argmax(block.input("P", (B, W)), name="Y")
    Z = gi.activation(block.input("Z", (B, V)))
    graph = block.build(gi.scale(gi.cross_entropy(Z, Y, name="L"), by=2.0))
    run = gi.compile(graph, {"B": 3, "V": 5, "W": 7}, kernels="numba")
    P, Z = np.eye(3, 7, 3), np.zeros((3, 5))
    with pytest.raises(InputError, match=r"Y\[2\] = 5 is out of range: L = CE\(…\) needs ids from 0 to 4"):
        run({"P": P, "Z": Z})
    assert interpreted.written
    run({"P": np.eye(3, 7, 2), "Z": Z})


@pytest.mark.parametrize("refused", ["first", "others"])
def test_what_is_prepared_once_is_so_for_a_kernel_and_for_rules_of_other_tiles(
    refused: str, monkeypatch: pytest.MonkeyPatch, interpreted: Counted
) -> None:
    """Of a mask's tiles some are a kernel's and some the rules': each hashes with keys that have been written."""
    write, tiles = kernels.Kernels.write, itertools.count()
    monkeypatch.setattr(
        kernels.Kernels, "write", lambda *a: ((next(tiles) == 0) is not (refused == "first")) and write(*a)
    )
    monkeypatch.setattr(NumpyEngine, "tiling", Tiling(bytes=1 << 12, small=1 << 16, causal=(64, 128)))
    monkeypatch.setattr(NumpyEngine, "empty", lambda self, shape, dtype: np.full(tuple(shape), 7, dtype))
    block = gi.Builder()
    X = block.input("X", gi.dims("B D"))
    seed, step = (block.input(name, dtype="int64") for name in ("seed", "step"))
    graph = block.build(gi.scale(gi.dropout(gi.scale(X, by=2.0), seed, step, p=0.5, key=5), by=0.5, name="Y"))
    arrays = {"X": np.random.default_rng(0).standard_normal((64, 64)).astype("float32"), "seed": 7, "step": 2}
    _check(graph, {"B": 64, "D": 64}, arrays, "float32")
    assert interpreted.written
    assert next(tiles) > 2


# -- compiled ---------------------------------------------------------------------------------------------


@numba
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operator", FUSED, ids=lambda operator: operator.key)
def test_a_compiled_kernel_computes_what_the_kernel_of_its_operator_does(
    operator: Operator, dtype: str, counted: Counted
) -> None:
    for case in cases(operator, dtype, count=3):
        _check(case.graph, case.sizes, case.arrays, dtype)
    assert counted.written


def _step(dropout: float) -> tuple[Graph, dict[str, int], dict[str, Any]]:
    """A training step of a small Transformer, and what it runs on."""
    graph = autodiff(gi.models.transformer(2, dropout=dropout, decode=None, activation="gelu_tanh"))
    sizes = {"B": 2, "S": 32, "D": 64, "N_H": 4, "D_ff": 128, "V": 96}
    T, Y = np.random.default_rng(0).integers(0, sizes["V"], (2, sizes["B"], sizes["S"]))
    return graph, sizes, {**gi.initialize(graph, sizes), "T": T, "Y": Y, "seed": 0, "step": 3}


@numba
@pytest.mark.slow
def test_a_training_step_with_kernels_is_the_reference_and_the_same_every_time() -> None:
    graph, sizes, arrays = _step(dropout=0.1)
    _check(graph, sizes, arrays, "float32")
    runs = [gi.compile(graph, sizes, kernels="numba", threads=2)(arrays) for _ in range(2)]
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])


@numba
@pytest.mark.slow
def test_between_products_a_step_has_a_call_for_each_run_not_for_each_node() -> None:
    graph, sizes, arrays = _step(dropout=0.1)
    counts = {}
    for kind in ("numpy", "numba"):
        executable = gi.compile(graph, sizes, kernels=kind, threads=1)
        executable(arrays)
        counts[kind] = sum(len(calls) for calls in executable.programs[0].segments[0].calls)
    assert counts["numba"] < counts["numpy"] / 3


@numba
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 128), (9, 455), (3, 5, 273), (4097,)])
def test_masks_are_those_of_the_kernel_bit_for_bit(shape: tuple[int, ...]) -> None:
    block = gi.Builder()
    X = block.input("X", tuple(gi.dim(f"N{i}") for i in range(len(shape))))
    graph = block.build(
        gi.dropout(X, block.input("seed", dtype="int64"), block.input("step", dtype="int64"), p=0.3, key=5)
    )
    sizes = {f"N{i}": size for i, size in enumerate(shape)}
    made = gi.compile(graph, sizes, kernels="numba", threads=2)({"X": np.ones(shape, "float32"), "seed": 7, "step": 2})
    (Y,) = (np.asarray(made[value.name]) for value in graph.outputs if value.dtype == "float32")
    assert np.array_equal(Y != 0, keep_mask(np, (0,) * len(shape), shape, shape, 7, 2, 5, 0.3))


# -- exp, and what follows from it ------------------------------------------------------------------------


_LOOP = """
@kernel(IN(types.{}), OUT(types.{}))
def run(x, y):
    for k in range(len(x)):
        y[k] = {}(x[k])
"""


def _elementwise(name: str, dtype: str, to: str = "") -> Callable[[Any], Any]:
    """One of the functions, compiled, on arrays."""
    run = build.build(to if dtype.startswith("int") else dtype, _LOOP.format(dtype, to or dtype, name))

    def apply(x: Any) -> Any:
        y = np.empty(x.shape, to or dtype)
        run(x, y)
        return y

    return apply


@numba
@pytest.mark.slow
def test_exp_in_float32_is_right_to_two_units_in_the_last_place() -> None:
    exp, x = _elementwise("exp", "float32"), np.linspace(-86.9, 88.7, 2_000_003).astype("float32")
    exact = np.exp(x.astype("float64"))
    units = np.abs(exp(x) - exact) / np.spacing(exact.astype("float32"))
    assert units.max() < 2
    edges = np.array([0, -87, -1e4, MASKED, -np.inf, 88.73, 1e4, np.inf, np.nan], "float32")
    assert np.array_equal(
        exp(edges), np.array([1, 0, 0, 0, 0, np.inf, np.inf, np.inf, np.nan], "float32"), equal_nan=True
    )


@numba
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_and_normal_are_right_to_a_few_units(dtype: str) -> None:
    x = np.linspace(-80, 80, 200_001).astype(dtype)
    wide, eps = x.astype("float64"), np.finfo(dtype).eps
    assert np.all(np.abs(_elementwise("sigmoid", dtype)(x) * (1 + np.exp(-wide)) - 1) < 4 * eps)
    normal = 0.5 * (1 + erf(np, wide * math.sqrt(0.5)))
    assert np.abs(_elementwise("normal", dtype)(x) - normal).max() < eps


@numba
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_largest_integer_of_ordered_floats_is_the_largest_float(dtype: str) -> None:
    x = np.array([-np.inf, -1e30, -1.5, -0.0, 0.0, 1e-30, 2.5, np.inf, np.nan], dtype)
    whole = _elementwise("ordered", dtype, "int32" if dtype == "float32" else "int64")(x)
    assert np.all(np.diff(whole) > 0)
    assert np.array_equal(_elementwise("unordered", str(whole.dtype), dtype)(whole), x, equal_nan=True)


# -- text -------------------------------------------------------------------------------------------------


def _source(store_over: bool) -> Source:
    """LN of X + R, the sum stored, over the memory of X if asked."""
    row = Row()
    X, R = row.leaf("load", 0, each=True), row.leaf("load", 1, each=True)
    (rule,) = layer_norm.signatures({})
    formula = find_formula(layer_norm, expand(rule, (2, 1, 1)), {"epsilon": 1e-5})
    assert isinstance(formula, Formula)
    gamma, beta = row.leaf("load", 2, each=True), row.leaf("load", 3, each=True)
    operands = {"X": X + R, "gamma": gamma, "beta": beta}
    made = lower(row, formula, Cut(("d",), frozenset({"b.0"})), operands)
    stores = [Store(4, made["H"], True, False), Store(0 if store_over else 5, X * R, True, False)]
    return Source(row, stores, {0: 0, 1: 1, 2: 2, 3: 3}, loops=1)


def test_a_chain_has_one_loop_for_each_sum_that_something_waits_for() -> None:
    text = _source(store_over=False).text("…")
    assert text.count("for k in range(d):") == 3
    assert not _source(store_over=False).buffers


def test_what_a_later_loop_needs_of_memory_that_is_written_over_is_kept() -> None:
    source = _source(store_over=True)
    text = source.text("…")
    assert source.buffers == ["T"]
    assert text.index("w0[k] = ") < text.index("a0[p0 + k] = ")
    assert text.count("a0[p0 + k]") == 2


def test_numbers_are_arguments_so_that_kernels_serve_all_of_them() -> None:
    row = Row()
    doubled = row.leaf("load", 0, each=True) * 0.125
    text = Source(row, [Store(1, doubled, True, False)], {0: 0}, loops=1).text("…")
    assert row.numbers == [0.125]
    assert "0.125" not in text


# -- asking for them --------------------------------------------------------------------------------------


def _doubled() -> Graph:
    block = gi.Builder()
    return block.build(gi.scale(block.input("X"), by=2.0, name="Y"))


def test_without_numba_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as error:
        gi.compile(_doubled(), {}, kernels="numba")
    assert str(error.value) == (
        f'kernels="numba" was asked for, and Numba is not installed: {install("fast")}, or compile with kernels="numpy"'
    )


def test_kernels_are_numpy_or_numba_and_of_the_numpy_backend() -> None:
    with pytest.raises(ConfigError, match=r"^kernels 'cuda' is none of numpy, numba$"):
        gi.compile(_doubled(), {}, kernels="cuda")
    with pytest.raises(
        ConfigError, match=r"^kernels is no option of backend 'reference', which has algorithm; it is one of 'numpy'$"
    ):
        gi.compile(_doubled(), {}, backend="reference", kernels="numba")


def test_kernels_are_kept_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for named, folder in (("off", None), (str(tmp_path / "here"), tmp_path / "here")):
        monkeypatch.setenv("GRAPHIR_CACHE_DIR", named)
        build.cache_folder.cache_clear()
        assert build.cache_folder() == folder
    assert (tmp_path / "here").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("GRAPHIR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.cache_folder.cache_clear()
    assert build.cache_folder() == tmp_path / "graphir"
    monkeypatch.undo()
    build.cache_folder.cache_clear()


@numba
@pytest.mark.slow
def test_without_a_folder_kernels_are_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHIR_CACHE_DIR", "off")
    build.cache_folder.cache_clear()
    assert np.array_equal(_elementwise("exp", "float64")(np.zeros(3)), np.ones(3))
    monkeypatch.undo()
    build.cache_folder.cache_clear()
