"""Attention's core in one kernel: the real sources, emulated, against float64 and against the interpreter.

On a GPU 16-bit factors go to the tensor cores; here one instruction of theirs is carried out by all lanes of a warp as
its definition has it, so that which lane holds what is tested, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.backends.compiled.emission import Array
from graphir.backends.cupy.attention import FORWARD, KEYS, QUERIES, AttentionKernels, Kernel, Tiles, load, padded
from graphir.backends.cupy.attention_match import AttentionRun
from graphir.backends.cupy.kernels import CudaKernels
from graphir.ir.graph import Graph
from graphir.operators.dropout import keep_mask
from graphir.passes import autodiff, dce, mixed_precision, run_pipeline
from tests.cuda import emulator
from tests.cuda.harness import HostArray, HostEngine, HostExecutable, copied
from tests.support.sampled import sampled

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

DTYPES = {"double": np.float64, "float": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


# -- whole graphs -----------------------------------------------------------------------------------------


class Engine(HostEngine):
    tf32 = False


class Counted(AttentionKernels):
    """Counts the attention that is written, and that is refused."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine, CudaKernels(engine))
        self.written = self.refused = 0

    def write(self, call: Any, run: Any, *others: Any) -> bool:
        done = super().write(call, run, *others)
        if isinstance(run, AttentionRun):
            self.written += done
            self.refused += not done
        return done


SIZES = {"B": 2, "S": 20, "D": 24, "N_H": 2, "D_ff": 32, "V": 11}


def _step(options: Mapping[str, Any], precision: str = "float32") -> Graph:
    return autodiff(mixed_precision(gi.models.transformer(1, decode=None, **options), precision))


def _arguments(graph: Graph, sizes: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    rng, shape = np.random.default_rng(0), (sizes["B"], sizes["S"])
    given = {"T": rng.integers(0, sizes["V"], shape), "Y": rng.integers(0, sizes["V"], shape), "seed": 5, "step": 3}
    names = {value.name: value for value in graph.arguments}
    if "keep" in names:
        square = names["keep"].shape[0] == names["keep"].shape[1]
        keep = np.ones((sizes["S"],) * 2 if square else shape, bool)
        keep[1:, -5:] = False
        given["keep"] = keep
    return gi.initialize(graph, sizes, seed=1), given


def _compile(
    graph: Graph,
    sizes: Mapping[str, int],
    level: str,
    engine: Engine,
    make: type[Counted] = Counted,
    on_gpu: bool = True,
) -> tuple[HostExecutable, Counted]:
    reference, kernels = gi.compile(graph, sizes).plan, make(engine)
    graph = run_pipeline(dce(graph), level, on_gpu=on_gpu)
    return HostExecutable(reference, graph, engine, kernels=kernels), kernels


def _worst(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    """The largest difference of any result, as a share of its largest element."""
    pairs = [(np.asarray(made[name], np.float64), np.asarray(array, np.float64)) for name, array in wanted.items()]
    return max(float(abs(one - other).max() / max(abs(other).max(), 1e-6)) for one, other in pairs)


VARIANTS: dict[str, dict[str, Any]] = {
    "padding, dropout": {"dropout": 0.1, "mask": "padding"},
    "bidirectional": {"causal": False},
    "causal, dropout": {"dropout": 0.2},
    "a given mask": {"causal": False, "mask": "given"},
}


@sampled(1, variant=list(VARIANTS))
def test_steps_of_the_transformer(variant: str) -> None:
    graph = _step({"dtype": "float64", **VARIANTS[variant]})
    arguments = _arguments(graph, SIZES)
    executable, kernels = _compile(graph, SIZES, "attention", Engine())
    made = executable(*arguments)
    assert (kernels.written, kernels.refused) == (2, 0)
    assert _worst(made, gi.compile(graph, SIZES, backend="reference")(*arguments)) < 1e-12


class Cut(Counted):
    """As if some of a task were left to others."""

    def in_registers(self, task: Any) -> Any:
        return frozenset()


@pytest.mark.parametrize("kernels", [Counted, Cut])
def test_queries_in_tiles(kernels: type[Counted]) -> None:
    """A task that is all attention is not cut: no gradient is a sum over tiles, and no scores are planned for.

    In tiles, the keys behind a tile's last query are left out.
    """
    sizes = {**SIZES, "S": 150}
    graph = _step({"dropout": 0.1})
    arguments = _arguments(graph, sizes)
    executable, kept = _compile(graph, sizes, "attention", Engine(), kernels)
    made = executable(*arguments)
    scores = sizes["B"] * sizes["N_H"] * sizes["S"] ** 2 * 4
    if kernels is Counted:
        assert kept.written == 2
        assert executable.memory.scratch < scores / 4
    else:
        assert kept.written > 2
        assert executable.memory.scratch > scores / 4
    assert _worst(made, gi.compile(graph, sizes, backend="reference")(*arguments)) < 1e-4


@pytest.mark.parametrize("mask", ["none", "each"])
def test_grouped_heads(mask: str) -> None:
    """Keys and values are read once for all heads of a group, and nowhere repeated; a mask may be of each sequence."""
    B, S, N_KV, G, D_h = gi.dims("B S N_KV G D_h")
    block = gi.Builder("grouped", dtype="float64")
    Q = block.parameter("Q", (B, N_KV, G, S, D_h))
    K, V = (block.parameter(name, (B, N_KV, S, D_h)) for name in "KV")
    keep = [block.input("keep", (B, S, S), "bool")] if mask == "each" else []
    Z = gi.scale_mask(gi.matmul(Q, gi.transpose(K)), *keep, width=D_h, causal=True, mask=mask)
    P = gi.dropout(gi.softmax(Z), *(block.input(name, (), "int64") for name in ("seed", "step")), p=0.2, key=3)
    O = gi.matmul(P, V)  # noqa: E741
    graph = autodiff(block.build(gi.reduce_sum(gi.multiply(O, O), name="L")))
    sizes = {"B": 2, "S": 37, "N_KV": 2, "G": 3, "D_h": 8}
    arguments = gi.initialize(graph, sizes, seed=1), {"seed": 5, "step": 3}
    if keep:
        arguments[1]["keep"] = np.random.default_rng(0).random((2, 37, 37)) < 0.7
    executable, kernels = _compile(graph, sizes, "attention", Engine())
    made = executable(*arguments)
    assert (kernels.written, kernels.refused) == (2, 0)
    assert _worst(made, gi.compile(graph, sizes, backend="reference")(*arguments)) < 1e-12


def test_narrow_operands_are_rounded_where_the_graph_rounds_them() -> None:
    sizes = {**SIZES, "D": 32}
    graph = _step({"dropout": 0.1}, "bfloat16")
    arguments = _arguments(graph, sizes)
    executable, kernels = _compile(graph, sizes, "attention", Engine())
    made = executable(*arguments)
    assert (kernels.written, kernels.refused) == (2, 0)
    assert _worst(made, gi.compile(graph, sizes, backend="reference")(*arguments)) < 2e-2


@pytest.mark.parametrize(("level", "cores"), [("attention", 2), ("selective", 2), ("full", 3)])
def test_no_scores_are_in_memory(level: str, cores: int) -> None:
    """S × S is in no buffer: neither in the arena, nor in scratch. At level full O is made again by the core."""
    sizes = {**SIZES, "S": 100}
    graph = _step({"dropout": 0.1})
    arguments = _arguments(graph, sizes)
    executable, kernels = _compile(graph, sizes, level, Engine())
    made = executable(*arguments)
    assert (kernels.written, kernels.refused) == (cores, 0)
    assert _worst(made, gi.compile(graph, sizes, backend="reference")(*arguments)) < 1e-4
    for program in executable.programs:
        arrays = [each for s in program.segments for _, arguments in s.calls[0] for each in _flat(arguments)]
        assert arrays
        assert all(each.shape[-2:] != (100, 100) for each in arrays)


def _flat(arguments: Any) -> list[Array]:
    if isinstance(arguments, tuple):
        return [each for one in arguments for each in _flat(one)]
    return [arguments] if isinstance(arguments, np.ndarray) else []


@pytest.mark.parametrize(("level", "on_gpu", "cores"), [("masks", True, 0), ("attention", False, 1)])
def test_what_is_not_as_the_kernels_want_it_is_left_to_products(level: str, on_gpu: bool, cores: int) -> None:
    """P held for the backward pass has to be made; without statistics the gradient's rows would have to be summed."""
    graph = _step({"dropout": 0.1})
    arguments = _arguments(graph, SIZES)
    executable, kernels = _compile(graph, SIZES, level, Engine(), on_gpu=on_gpu)
    made = executable(*arguments)
    assert (kernels.written, kernels.refused) == (cores, 0)
    assert _worst(made, gi.compile(graph, SIZES, backend="reference")(*arguments)) < 1e-4


@pytest.mark.parametrize("why", ["tf32", "width", "an old device"])
def test_what_the_kernels_are_not_for_is_left_to_products(why: str) -> None:
    engine, sizes, graph = Engine(), dict(SIZES), _step({})
    if why == "tf32":
        engine.tf32 = True
    elif why == "width":
        sizes |= {"D": 272, "S": 6}
    else:
        engine.has_ampere_tensor_cores, graph = False, _step({}, "bfloat16")
    arguments = _arguments(graph, sizes)
    executable, kernels = _compile(graph, sizes, "attention", engine)
    made = executable(*arguments)
    assert (kernels.written, kernels.refused) == (0, 2)
    bound = 2e-2 if why == "an old device" else 1e-4
    assert _worst(made, gi.compile(graph, sizes, backend="reference")(*arguments)) < bound


# -- kernels ----------------------------------------------------------------------------------------------


class Problem:
    """Attention on views [B, N_KV, G, S, D_h] of rows [B, S, D], keys without G, what it is to give, and the kernels'
    arguments."""

    def __init__(self, value: str, queries: int, keys: int, width: int, causal: bool, p: float, group: int = 1) -> None:
        self.value, self.causal, self.p, self.group = value, causal, p, group
        self.shape = (2, 3, group, queries, keys)
        self.rng, self.width = np.random.default_rng(0), width
        self.Q, self.dO = (self._draw(queries, group) for _ in range(2))
        self.K, self.V = (self._draw(keys)[:, :, 0] for _ in range(2))
        self.sum = np.float64 if value == "double" else np.float32
        #: The dtype of results, beside that of sums.
        self.stored: Any = self.sum
        #: Which query may see which key, beside what a causal mask hides; None if all may.
        self.keep: Any = None

    def _draw(self, rows: int, group: int = 1) -> Any:
        return self._heads(self.rng.standard_normal((2, rows, 3 * group * self.width)).astype(DTYPES[self.value]))

    def _heads(self, rows: NDArray[Any]) -> Any:
        heads = copied(rows).reshape(2, rows.shape[1], 3, -1, self.width)
        return heads.transpose(0, 2, 3, 1, 4).view(HostArray)

    def by_queries(self) -> Any:
        """NaN, to be written over."""
        return self._heads(np.full((2, self.shape[3], 3 * self.group * self.width), np.nan, self.stored))

    def by_keys(self) -> Any:
        """NaN, to be written over."""
        return self._heads(np.full((2, self.shape[4], 3 * self.width), np.nan, self.stored))[:, :, 0]

    def exact(self) -> tuple[NDArray[Any], ...]:
        """O, dQ, dK, dV in float64."""
        M, N = self.shape[3:]
        Q, dO = (np.asarray(each, np.float64) for each in (self.Q, self.dO))
        K, V = (np.asarray(each, np.float64)[:, :, None] for each in (self.K, self.V))
        seen = np.arange(M)[:, None] >= np.arange(N) if self.causal else np.ones((M, N), bool)
        seen = seen if self.keep is None else seen & np.asarray(self.keep)
        Z = np.where(seen, Q @ K.swapaxes(-1, -2) / np.sqrt(self.width), -1e30)
        P = np.exp(Z - Z.max(-1, keepdims=True)) * seen
        P /= np.maximum(P.sum(-1, keepdims=True), np.finfo(float).tiny)
        kept = keep_mask(np, (0,) * 5, self.shape, self.shape, 5, 3, 77, self.p) / (1 - self.p)
        dP = kept * (dO @ V.swapaxes(-1, -2))
        dZ = P * (dP - (P * dP).sum(-1, keepdims=True)) * seen / np.sqrt(self.width)
        dK, dV = dZ.swapaxes(-1, -2) @ Q, (P * kept).swapaxes(-1, -2) @ dO
        return (P * kept) @ V, dZ @ K, dK.sum(2), dV.sum(2)

    def numbers(self, count: int = 3) -> list[Any]:
        """Numbers of the rows, NaN, as views of [B, S, N_KV, G]."""
        B, heads, group, queries, _ = self.shape
        plain = [np.full((B, queries, heads, group), np.nan, self.sum) for _ in range(count)]
        return [copied(each).transpose(0, 2, 3, 1).view(HostArray) for each in plain]

    def launch(self, kernel: Kernel, length: int, tiles: Tiles, arrays: Sequence[Any], numbers: Sequence[Any]) -> None:
        """Runs a kernel on `arrays`, operands and results, and numbers of the rows, if any."""
        B, heads, G, M, N = self.shape
        sum_ = "float64" if self.sum is np.float64 else "float32"
        named = {"double": "float64", "float": "float32"}.get(self.value, self.value)
        types = {"Value": named, "Result": np.dtype(self.stored).name, "Sum": sum_, "Id": "int64"}
        switches = {
            "MASK": 0 if self.keep is None else 2,
            "CAUSAL": self.causal,
            "PAIRED": N % 2 == 0,
            "DROPOUT": self.p > 0,
            "STATISTICS": bool(numbers),
            "GROUP": G,
        }
        # Without numbers, of any array none is written.
        rows = numbers or [arrays[0]] * 2
        steps = [each.strides for each in arrays] + [each.strides if numbers else (0, 0, 0, 0) for each in rows]
        sizes_of = [each.itemsize for each in (*arrays, *rows)]
        lying = [np.int64(step // size) for each, size in zip(steps, sizes_of, strict=True) for step in each]
        sizes = (*map(np.int64, (heads, M, N)), np.int32(self.width))
        factors = self.sum(1 / np.sqrt(self.width)), self.sum(1 / (1 - self.p))
        seed, step = (np.full((), each, np.int64).view(HostArray) for each in (5, 3))
        drawn = (seed, step, np.int64(77), np.uint32(round(self.p * 65536)))
        keep, strides = (self.Q, (0, 0)) if self.keep is None else (self.keep, self.keep.strides)
        mask = (
            keep,
            *map(np.int64, (0, *strides, 0)),
            *drawn,
            *map(np.int64, (0, heads * G * M * N, G * M * N, M * N, N)),
        )
        function = load(emulator, kernel, tiles, padded(self.width), self.Q.itemsize, {**types, **switches})
        grid = (B * heads * (1 if kernel is KEYS else G) * -(-length // tiles.rows),)
        function(grid, (32 * tiles.warps,), (*arrays, *rows, *sizes, *factors, *lying, *mask))


#: The first four are of the four dtypes.
PROBLEMS = [
    ("double", 50, 50, 20, True, 0.2, Tiles(1, 1, 16)),
    ("float", 100, 100, 33, True, 0.1, Tiles(2, 2, 16)),
    ("float16", 75, 75, 64, True, 0.2, Tiles(1, 2, 64)),
    ("bfloat16", 65, 129, 40, False, 0.0, Tiles(2, 2, 32)),
    ("double", 33, 70, 16, False, 0.2, Tiles(1, 2, 32)),
    ("double", 1, 1, 1, True, 0.0, Tiles(1, 1, 16)),
    ("bfloat16", 33, 33, 80, True, 0.0, Tiles(1, 1, 32)),
    ("bfloat16", 200, 200, 64, True, 0.1, Tiles(2, 4, 64)),
    ("float", 17, 65, 96, False, 0.99, Tiles(1, 2, 16)),
    ("float16", 40, 257, 128, False, 0.01, Tiles(1, 1, 32)),
]
#: The same of grouped heads, so many to a group.
GROUPED = [
    ("double", 50, 50, 20, True, 0.2, Tiles(1, 1, 16), 2),
    ("bfloat16", 37, 70, 32, False, 0.1, Tiles(2, 2, 32), 3),
]
#: The largest error: results are of the size of 1, operands rounded to so many digits.
_ERRORS = {"double": 1e-13, "float": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


@sampled(3, problem=PROBLEMS + GROUPED)
def test_kernels_against_float64(problem: tuple[Any, ...]) -> None:
    *numbers, tiles = problem[:7]
    this = Problem(*numbers, *problem[7:])
    M, N = this.shape[3:]
    wanted, error = this.exact(), _ERRORS[this.value]
    if tiles.high == 2 and this.value == "bfloat16":
        this.stored = ml_dtypes.bfloat16
    out, dQ, dK, dV = this.by_queries(), this.by_queries(), this.by_keys(), this.by_keys()
    top, s, c = this.numbers()
    this.launch(FORWARD, M, tiles, (this.Q, this.K, this.V, out), (top, s))
    c[...] = (np.asarray(out, np.float64) * np.asarray(this.dO, np.float64)).sum(-1)
    operands = (this.Q, this.K, this.V, this.dO)
    this.launch(QUERIES, M, tiles, (*operands, dQ), (top, s, c))
    this.launch(KEYS, N, tiles, (*operands, dK, dV), (top, s, c))
    for made, exact in zip((out, dQ, dK, dV), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(made, np.float64), exact, rtol=error, atol=error)


@sampled(2, problem=PROBLEMS[:4])
def test_a_query_that_sees_no_key_is_zero(problem: tuple[Any, ...]) -> None:
    """With its gradients, exactly; before others and after, alone and as all of a tile."""
    *numbers, tiles = problem
    this = Problem(*numbers)
    M, N = this.shape[3:]
    this.keep = copied(this.rng.random((M, N)) < 0.3).view(HostArray)
    this.keep[::5] = this.keep[20:38] = False
    this.keep[:, :9] = False
    wanted, error = this.exact(), _ERRORS[this.value]
    blind = ~(np.asarray(this.keep) & (np.arange(M)[:, None] >= np.arange(N) if this.causal else True)).any(axis=-1)
    assert blind[:9].all() == this.causal
    out, dQ, dK, dV = this.by_queries(), this.by_queries(), this.by_keys(), this.by_keys()
    top, s, c = this.numbers()
    this.launch(FORWARD, M, tiles, (this.Q, this.K, this.V, out), (top, s))
    assert not np.asarray(s)[..., blind].any()
    assert (np.asarray(top)[..., blind] <= -1e30).all()
    c[...] = (np.asarray(out, np.float64) * np.asarray(this.dO, np.float64)).sum(-1)
    operands = (this.Q, this.K, this.V, this.dO)
    this.launch(QUERIES, M, tiles, (*operands, dQ), (top, s, c))
    this.launch(KEYS, N, tiles, (*operands, dK, dV), (top, s, c))
    for made, exact in zip((out, dQ, dK, dV), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(made, np.float64), exact, rtol=error, atol=error)
    for made in (out, dQ):
        assert not np.asarray(made, np.float64)[..., blind, :].any()


def test_statistics_are_those_of_the_scaled_scores() -> None:
    this = Problem("double", 40, 56, 16, True, 0.3)
    out, (top, s) = this.by_queries(), this.numbers(2)
    this.launch(FORWARD, 40, Tiles(1, 2, 16), (this.Q, this.K, this.V, out), (top, s))
    Z = np.asarray(this.Q) @ np.asarray(this.K)[:, :, None].swapaxes(-1, -2) / 4
    Z = np.where(np.arange(40)[:, None] >= np.arange(56), Z, -1e30)
    np.testing.assert_allclose(top, Z.max(-1), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(s, np.exp(Z - Z.max(-1, keepdims=True)).sum(-1), rtol=1e-13)
    plain = this.by_queries()
    this.launch(FORWARD, 40, Tiles(1, 2, 16), (this.Q, this.K, this.V, plain), ())
    np.testing.assert_array_equal(plain, out)


def test_a_tile_more_changes_nothing_that_is_stored() -> None:
    """How the work is cut does not show but in rounding; results beside the last row are left as they are."""
    this = Problem("double", 40, 40, 16, True, 0.3)
    results = [this.by_queries() for _ in range(3)]
    for out, tiles in zip(results, (Tiles(1, 1, 16), Tiles(2, 2, 32), Tiles(1, 4, 64)), strict=True):
        this.launch(FORWARD, 40, tiles, (this.Q, this.K, this.V, out), ())
        np.testing.assert_allclose(out, results[0], rtol=1e-13, atol=1e-13)


def test_nan_is_seen() -> None:
    this = Problem("float", 20, 20, 16, True, 0.0)
    this.K[0, 1, 5, 3] = np.nan
    out = this.by_queries()
    this.launch(FORWARD, 20, Tiles(1, 1, 16), (this.Q, this.K, this.V, out), ())
    rows = np.isnan(np.asarray(out)[:, :, 0]).all(axis=-1)
    assert rows[0, 1, 5:].all()
    assert rows.sum() == 15


def test_tiles_fit_into_shared_memory() -> None:
    for itemsize in (2, 4, 8):
        for width in range(16, 129, 16):
            for kernel in (FORWARD, QUERIES, KEYS):
                for dropout in (False, True):
                    tiles = kernel.tiles(itemsize, width, dropout)
                    if tiles is None:
                        assert itemsize == 8
                        assert width > 64
                        continue
                    assert tiles.shared(kernel.held, width, itemsize) <= (96 if itemsize == 2 else 64) << 10
                    assert tiles.wide <= 32 * tiles.warps
