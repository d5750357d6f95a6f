"""A whole training step on XLA: its numbers, its masks, its state from step to step; on one device, and on several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.checking import Setting, check, settings
from graphir.passes import Optimizer, autodiff, mixed_precision, optimize
from tests.support.xla import DEVICES, distance, jax

pytestmark = pytest.mark.slow

SIZES = {"B": 2, "S": 12, "D": 24, "N_H": 4, "D_ff": 48, "V": 40}


def step_graph(dtype: str = "float64", dropout: float = 0.1) -> gi.Graph:
    model = gi.models.transformer(layers=2, decode=None, dropout=dropout, dtype=dtype, qkv_bias=True)
    return optimize(autodiff(model), Optimizer("adamw", learning_rate=1e-2, clip=1.0, epsilon=1e-4))


def batches(seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    for step in range(20):
        ids = rng.integers(0, SIZES["V"], (2, SIZES["S"] + 1))
        yield {"T": ids[:, :-1], "Y": ids[:, 1:], "seed": 7, "step": step}


def test_twenty_steps_are_those_of_numpy() -> None:
    graph = step_graph()
    first = gi.initialize(graph, SIZES, seed=1)
    here, there = gi.compile(graph, SIZES), gi.compile(graph, SIZES, backend="xla", donate=True)
    one, other = dict(first), dict(first)
    for batch in batches():
        expected, found = here(one, batch), there(other, batch)
        assert distance(found["L"], expected["L"]) <= 1e-12
        one, other = expected.updated(), found.updated()
    for name, array in one.items():
        if "b_K" in name:  # whose gradient is 0 but for rounding, and so is all that Adam has made of it
            assert np.abs(np.asarray(other[name]) - array).max() <= 1e-12, name
            continue
        assert distance(other[name], array) <= 1e-10, name  # what rounding differs in, Adam has carried on 20 times


def test_masks_are_the_same_bits() -> None:
    graph = step_graph()
    masks = [value.name for node in graph.nodes for value in node.outputs if value.dtype == "bool"]
    assert masks
    given = gi.initialize(graph, SIZES, seed=1), next(batches())
    here, there = (gi.compile(graph, SIZES, backend=backend, fetch=masks)(*given) for backend in ("reference", "xla"))
    for name in masks:
        assert 0 < np.mean(here[name]) < 1
        assert np.array_equal(here[name], there[name]), name


@pytest.mark.parametrize("shape", [(3, 8), (3, 7), (1,), (), (5, 2, 3), (2, 0)])
@pytest.mark.parametrize("start", [0, 1, 6, (1 << 33) - 2])
def test_a_block_of_a_mask_has_the_bits_of_the_whole(shape: tuple[int, ...], start: int) -> None:
    from graphir.backends.xla.library import own_settings
    from graphir.backends.xla.module import XlaModule
    from graphir.operators.dropout import keep_mask

    starts = tuple(start if axis == len(shape) - 1 else axis for axis in range(len(shape)))
    sizes = tuple(each + size + axis for axis, (each, size) in enumerate(zip(starts, shape, strict=True)))
    expected = keep_mask(np, starts, sizes, shape, np.int64(-3), np.int64(5), (1 << 63) + 1, 0.3)
    with own_settings():
        traced = jax.jit(
            lambda seed, step: keep_mask(XlaModule(), starts, sizes, shape, seed, step, (1 << 63) + 1, 0.3)
        )
        assert np.array_equal(traced(np.int64(-3), np.int64(5)), expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_products_of_fewer_bits(precision: str) -> None:
    graph = autodiff(mixed_precision(gi.models.transformer(layers=1, decode=None), precision))
    given = gi.initialize(graph, SIZES, seed=1), next(batches())
    expected, found = (gi.compile(graph, SIZES, backend=backend)(*given) for backend in ("reference", "xla"))
    assert distance(found["L"], expected["L"]) <= 1e-4
    for name, array in expected.items():
        assert np.asarray(found[name]).dtype == array.dtype
        assert distance(found[name], array) <= 5e-2, name


# -- on a mesh --------------------------------------------------------------------------------------------

MESHES = [gi.Mesh(dp=3, tp=2), gi.Mesh(dp=2, cp=2, tp=2)]


def _plans() -> Iterator[Setting]:
    """Every plan on the first mesh; on the next what only that has; and two on a mesh of one axis."""
    seen: set[str] = set()
    for mesh in MESHES:
        for setting in settings(Setting(mesh=mesh, plan="all", dropout=0.1, dtype="float64", layers=1)):
            plan = setting.title.partition(" on ")[0]
            if plan not in seen:
                seen.add(plan)
                yield setting
    for plan in ("vocabulary", "sequence"):
        yield Setting(mesh=gi.Mesh(tp=2), plan=plan, dropout=0.1, dtype="float64", layers=1)


@pytest.mark.parametrize("setting", list(_plans()), ids=lambda setting: setting.title)
def test_every_plan_computes_what_one_rank_does(setting: Setting) -> None:
    assert setting.mesh.size <= DEVICES
    single = setting.single()
    parallel, sizes, given = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    expected = gi.compile(single, sizes)(given)
    executable: Any = gi.compile(parallel, sizes, backend="xla")
    found = executable(given)
    vanishing = [name for name in expected if name.endswith("db_K")]  # 0 but for rounding
    for name, array in expected.items():
        if name not in vanishing:
            assert distance(found[name], array) <= 1e-12, name
    assert _sent(executable) == _stated(executable.optimised.graph)


def _stated(graph: gi.Graph) -> Mapping[str, int]:
    """The graph's collectives, by their methods; a slice sends nothing."""
    methods = (node.operator.collective for node in graph.nodes)
    return Counter(each for each in methods if each not in (None, "local_slice"))


def _sent(executable: Any) -> Mapping[str, int]:
    """Those of the program that XLA is handed."""
    text = executable.lowered.as_text()
    kinds = "all_reduce", "all_gather", "reduce_scatter", "all_to_all"
    return Counter({kind: text.count(f'"stablehlo.{kind}"') for kind in kinds if f'"stablehlo.{kind}"' in text})


def test_what_is_gathered_again_on_purpose_is_kept_apart() -> None:
    """XLA's CPU compiler takes barriers away before it looks for what is computed twice; others do not."""
    setting = Setting(mesh=gi.Mesh(dp=2), plan="zero3", layers=1, dropout=0.0, optimizer="none")
    executable: Any = gi.compile(setting.parallel(setting.single()), setting.complete_sizes(), backend="xla")
    gathers = [node.inputs[0] for node in executable.optimised.graph.nodes if node.operator.collective == "all_gather"]
    again = len(gathers) - len(set(gathers))
    assert again > 5
    assert executable.lowered.as_text().count("stablehlo.optimization_barrier") == again


def test_a_check_compares_every_tensor() -> None:
    setting = Setting(mesh=gi.Mesh(dp=2, tp=2), layers=1)
    single = setting.single()
    report = check(single, setting.parallel(single), setting.complete_sizes(), setting.arguments(single), backend="xla")
    assert report.ok
    assert "compiled for xla" in report.text()


def test_what_is_pending_is_summed_up_when_it_is_fetched() -> None:
    setting = Setting(mesh=gi.Mesh(dp=2, tp=2), layers=1, dropout=0.0, dtype="float64")
    single = setting.single()
    parallel, sizes, given = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    pending = [v.name for node in parallel.nodes for v in node.outputs if v.type.layout.pending][:12]
    assert pending
    expected, found = (gi.compile(parallel, sizes, backend=each, fetch=pending)(given) for each in ("numpy", "xla"))
    for name in expected:
        assert distance(found[name], expected[name]) <= 1e-11, name
