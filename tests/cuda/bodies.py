"""What the CuPy backend must do, as bodies of tests: over the stand-in everywhere, and on a GPU where there is one.

Each builds a graph, runs it on the device and compares: with the reference kernels in float64, with the same step on
the processor, or with itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import graphir as gi
from graphir.backends.arrays import to_numpy
from graphir.checking import Setting
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, autodiff, mixed_precision, optimize

SMALL = {"B": 2, "S": 6, "D": 8, "N_H": 2, "D_ff": 12, "V": 11}
#: Rows and columns that fill no warp and no block evenly, and queries in several blocks.
UNEVEN = {"B": 3, "S": 200, "D": 96, "N_H": 3, "D_ff": 388, "V": 1003}

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tied": False, "qkv_bias": True, "activation": "gelu", "final_norm": False},
    "no dropout": {"dropout": 0.0, "activation": "relu", "positions": "sinusoidal"},
    "bidirectional": {"causal": False, "activation": "silu"},
}
#: How far a value may be from the exact one, against the largest of its tensor, by what products read.
TOLERANCES = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 8e-2}


def transformer(dtype: str = "float32", layers: int = 2, **options: Any) -> Graph:
    """The documents' Transformer with its loss, with dropout unless told otherwise."""
    defaults = {"dropout": 0.2, "activation": "gelu_tanh", "decode": None}
    return gi.models.transformer(layers, **{**defaults, **options}, dtype=dtype)


def inputs(sizes: Mapping[str, int], step: int = 3) -> dict[str, Any]:
    """Ids, and labels of which some are ignored."""
    rng = np.random.default_rng(0)
    ids, labels = (rng.integers(0, sizes["V"], (sizes["B"], sizes["S"])) for _ in "TY")
    labels[0, : sizes["S"] // 2] = -100
    return {"T": ids, "Y": labels, "seed": 5, "step": step}


def far(found: Any, right: Any) -> float:
    """The largest deviation, against the largest magnitude."""
    found, right = np.asarray(to_numpy(found), "float64"), np.asarray(right, "float64")
    assert found.shape == right.shape
    assert np.array_equal(np.isfinite(found), np.isfinite(right))
    kept = np.isfinite(right)
    scale = float(np.abs(right, where=kept, out=np.zeros_like(right)).max(initial=0.0))
    apart = np.abs(np.subtract(found, right, where=kept, out=np.zeros_like(right))).max(initial=0.0)
    return float(apart) / max(scale, 1e-6)


def every_node_is_near_float64(variant: str, sizes: Mapping[str, int], precision: str = "float32") -> None:
    """All values of forward and backward pass against the reference kernels in float64; run three times, as the first,
    a captured and a replayed run go different ways."""
    options = VARIANTS[variant]
    exact = autodiff(transformer("float64", **options))
    narrow = "bfloat16" if precision == "bfloat16" else "float32"
    graph = autodiff(mixed_precision(transformer(**options), narrow))
    parameters = gi.initialize(graph, sizes, seed=1)
    wide = {name: np.asarray(array, "float64") for name, array in parameters.items()}
    shared = [n for n, value in graph.values.items() if value.type.is_float and exact.find(n) is not None]
    wanted = gi.compile(exact, sizes, backend="reference", fetch=shared)(wide, inputs(sizes))
    tf32 = "tf32" if precision == "tf32" else "float32"
    run = gi.compile(graph, sizes, backend="cupy", fetch=shared, precision=tf32)
    for _ in range(3):
        made = run(parameters, inputs(sizes))
        apart = {name: far(made[name], wanted[name]) for name in shared if not _vanishes(wanted[name])}
        worst = max(apart, key=apart.__getitem__)
        assert apart[worst] <= TOLERANCES[precision], (worst, apart[worst])


def results_alone_are_near_float64(variant: str, sizes: Mapping[str, int]) -> None:
    """As `every_node_is_near_float64`, of the gradients and the loss alone, when most values live in fused kernels."""
    options = VARIANTS[variant]
    exact, graph = autodiff(transformer("float64", **options)), autodiff(transformer(**options))
    parameters = gi.initialize(graph, sizes, seed=1)
    wide = {name: np.asarray(array, "float64") for name, array in parameters.items()}
    wanted = gi.compile(exact, sizes, backend="reference")(wide, inputs(sizes))
    run = gi.compile(graph, sizes, backend="cupy")
    for _ in range(3):
        made = run(parameters, inputs(sizes))
        for name, right in wanted.items():
            assert _vanishes(right) or far(made[name], right) <= TOLERANCES["float32"], name


def _vanishes(array: Any) -> bool:
    """Whether a tensor is zero but for rounding (the gradient of a bias on K), so that it has no digits to compare."""
    return float(np.abs(array).max(initial=0.0)) < 1e-9


def masks_are_those_of_numpy(sizes: Mapping[str, int]) -> None:
    """Bit for bit, at several steps."""
    graph = transformer(dropout=0.3)
    dropped = [value.name for node in graph.nodes if node.operator.random for value in node.outputs]
    assert dropped
    parameters = gi.initialize(graph, sizes, seed=1)
    ours, theirs = (gi.compile(graph, sizes, backend=each, fetch=dropped) for each in ("cupy", "numpy"))
    for step in (0, 1, 2, 1 << 20):
        mine, wanted = ours(parameters, inputs(sizes, step)), theirs(parameters, inputs(sizes, step))
        for name in dropped:
            assert np.array_equal(to_numpy(mine[name]) == 0, np.asarray(wanted[name]) == 0), (name, step)


def a_replay_repeats_the_first_run(sizes: Mapping[str, int]) -> None:
    """The first run carries calls out, the second captures them, later ones replay: the same bits each time."""
    graph = autodiff(transformer())
    parameters, given = gi.initialize(graph, sizes, seed=1), inputs(sizes)
    run = gi.compile(graph, sizes, backend="cupy")
    first = {name: np.array(to_numpy(array)) for name, array in run(parameters, given).items()}
    for _ in range(4):
        again = run(parameters, given)
        for name, array in first.items():
            assert np.array_equal(to_numpy(again[name]), array, equal_nan=True), name
    # And what a replay sees are the arguments of its own run.
    other = run(parameters, inputs(sizes, step=4))
    assert any(not np.array_equal(to_numpy(other[name]), array) for name, array in first.items())


def training_follows_the_processor(sizes: Mapping[str, int], donate: bool, steps: int = 6) -> None:
    """Losses and, at the end, parameters, of the same steps on both."""
    graph = optimize(autodiff(transformer()), Optimizer("adamw", learning_rate=1e-3, weight_decay=0.1))
    start = gi.initialize(graph, sizes, seed=1)

    def train(backend: str) -> tuple[list[float], dict[str, Any]]:
        run = gi.compile(graph, sizes, backend=backend, donate=donate)
        held: Mapping[str, Any] = {name: np.array(array) for name, array in start.items()}
        losses = []
        for step in range(steps):
            result = run(held, inputs(sizes, step))
            losses.append(float(result.numpy("L")))
            held = result.updated()
        return losses, {name: np.array(to_numpy(array)) for name, array in held.items()}

    (mine, ended), (wanted, right) = train("cupy"), train("numpy")
    np.testing.assert_allclose(mine, wanted, rtol=2e-5)
    assert mine[-1] < mine[0]
    for name, array in right.items():
        # Adam makes steps of the rounding errors of a gradient that is zero (of b_K), each of the learning rate.
        assert np.abs(ended[name] - array).max(initial=0.0) <= 2e-3 * max(1.0, float(np.abs(array).max(initial=0.0)))


def simulated_ranks_are_those_of_the_processor(plan: str, axes: Mapping[str, int]) -> None:
    """A sharded step, all its ranks on one device."""
    setting = Setting(plan=plan, mesh=Mesh(dict(axes)), layers=1, dtype="float32", dropout=0.3)
    single = setting.single()
    graph, sizes, arguments = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    wanted = gi.compile(graph, sizes)(dict(arguments))
    run = gi.compile(graph, sizes, backend="cupy")
    for _ in range(3):
        made = run(dict(arguments))
        for name, right in wanted.items():
            scale = max(float(np.abs(right).max(initial=0)), 1e-3)
            assert np.abs(np.float64(to_numpy(made[name])) - right).max(initial=0) <= 2e-4 * scale, name


def a_run_and_its_caller_wait_for_each_other(sizes: Mapping[str, int]) -> None:
    """Parameters that the caller's stream still works on, and several runs before somebody looks at a result."""
    import cupy

    graph = autodiff(transformer(layers=1))
    parameters = gi.initialize(graph, sizes, seed=1)
    ours, theirs = (gi.compile(graph, sizes, backend=each) for each in ("cupy", "numpy"))
    held = {name: cupy.empty(array.shape, array.dtype) for name, array in parameters.items()}
    placed = {name: cupy.asarray(array) for name, array in parameters.items()}
    results = []
    for step in range(4):
        for name, array in placed.items():
            cupy.multiply(array, 1 + step, out=held[name])
        results.append(ours(held, inputs(sizes, step)))
    for step, result in enumerate(results):
        wanted = theirs({name: array * (1 + step) for name, array in parameters.items()}, inputs(sizes, step))
        for name, right in wanted.items():
            assert _vanishes(right) or far(result[name], right) <= TOLERANCES["float32"], (name, step)


def memory_is_as_planned(sizes: Mapping[str, int], names: Sequence[str] = ("L",)) -> None:
    """Runs after the third take no more memory than there was."""
    import cupy

    graph = autodiff(transformer())
    parameters = gi.initialize(graph, sizes, seed=1)
    run, pool = gi.compile(graph, sizes, backend="cupy"), cupy.get_default_memory_pool()
    for _ in range(3):
        made = run(parameters, inputs(sizes))
        assert all(np.isfinite(made.numpy(name)).all() for name in names)
    del made
    before = pool.total_bytes()
    for _ in range(5):
        run(parameters, inputs(sizes))
    assert pool.total_bytes() == before
