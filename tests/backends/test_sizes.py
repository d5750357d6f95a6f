"""Sizes that no array, or not this machine, has: refused at once, with the largest tensor and its dims."""

from __future__ import annotations

import re
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest

import graphir as gi
from graphir.backends import capacity
from graphir.cost import peak_memory
from graphir.errors import ConfigError, DimError, GraphirError, SizeError
from graphir.ir.dims import dim_names
from graphir.ir.graph import Graph
from graphir.passes import autodiff, optimize, shard

STEP = optimize(autodiff(gi.models.transformer(layers=2)))
SIZES = {"B": 8, "S": 32, "D": 48, "N_H": 6, "D_ff": 96, "V": 256}
MLP = gi.models.mlp(1, widths=(gi.dim("D"), gi.dim("D_ff")))
BACKENDS = ("numpy", "reference")


def sizes_of(graph: Graph, **changed: int) -> dict[str, int]:
    return {name: size for name, size in (SIZES | changed).items() if name in dim_names([graph.dims])}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """What the machine has of memory, said by the test."""
    return lambda count: monkeypatch.setattr(capacity, "_memory", lambda: count)


# -- no array -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"S": 2**31},
            r"layer0/mha/A float32[B, N_H, S, S] = [8, 6, 2147483648, 2147483648] would have more than 2^63 ",
        ),
        (
            {"D": 6 * 10**10},
            r"layer0/mha/W_Q float32[D, D] = [60000000000, 60000000000] would have more than 2^63 bytes",
        ),
        (
            {"B": 2**60},
            r"would have more than 2^63 bytes, and is the largest tensor of graph transformer; no array has",
        ),
        ({"B": 2**63}, "the size of dim B is beyond 2^63 - 1, the longest that an array can be"),
        ({"B": 10**5000}, "the size of dim B is beyond 2^63 - 1, the longest that an array can be"),
    ],
)
def test_what_no_array_has_is_refused(backend: str, changed: dict[str, int], message: str) -> None:
    with pytest.raises((SizeError, DimError), match=re.escape(message)):
        gi.compile(STEP, SIZES | changed, backend=backend)
    for ask in (gi.initialize, peak_memory):
        with pytest.raises((SizeError, DimError), match=re.escape(message)):
            ask(STEP, SIZES | changed)


def test_a_dim_that_only_an_attribute_has_is_a_size_too() -> None:
    block = gi.Builder()
    A = block.input("A", (1, 1, 2, 2))
    graph = block.build(gi.scale_mask(A, width=gi.dim("D") * gi.dim("D")))
    with pytest.raises(DimError, match=r"dim D\*D is beyond 2\^63 - 1"):
        gi.compile(graph, {"D": 2**40})


# -- not this machine ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [2**40, 2**24])
def test_what_the_machine_has_not_is_refused_before_it_is_planned(
    backend: str, batch: int, machine: Callable[[int], None]
) -> None:
    machine(16 * 10**9)
    with pytest.raises(SizeError) as caught:
        gi.compile(STEP, SIZES | {"B": batch}, backend=backend)
    said = str(caught.value)
    assert "and this machine has 16.0 GB of memory; its largest tensor is output/Z_lin float32[B, S, V] = " in said
    assert f"[{batch}, 32, 256]" in said


def test_a_plan_that_does_not_fit_is_refused_and_shown(machine: Callable[[int], None]) -> None:
    planned = gi.compile(STEP, SIZES, threads=1, check=False)
    needed = planned.memory.arguments + planned.working_bytes()  # type: ignore[attr-defined]
    machine(needed)
    gi.compile(STEP, SIZES, threads=1, check=False)
    machine(needed - 1)
    with pytest.raises(SizeError, match=r"needs .* MB, and this machine has .*\nplanned peak"):
        gi.compile(STEP, SIZES, threads=1)
    # Who says what a rank may need has asked; who says infinity will not run it here.
    gi.compile(STEP, SIZES, threads=1, memory=float("inf"), check=False)
    with pytest.raises(ConfigError, match="does not fit into"):
        gi.compile(STEP, SIZES, threads=1, memory=1000, check=False)


def test_the_interpreter_needs_its_fullest_moment(machine: Callable[[int], None]) -> None:
    """X and Y of [B], and between them what is B times as large, one after the other freed."""
    block = gi.Builder()
    B = gi.dim("B")
    X = block.input("X", (B,))
    wide = gi.exponential(gi.exponential(gi.broadcast(X, (B,))))
    graph = block.build(gi.reduce_sum(wide, 0, name="Y"))
    # Two of [B, B] while the second is made, X and Y; the broadcast one is a view.
    needed = 2 * 4 * 100 * 100 + 2 * 4 * 100
    machine(needed)
    gi.compile(graph, {"B": 100}, backend="reference")
    machine(needed - 1)
    with pytest.raises(SizeError, match=r"needs at least 0\.1 MB"):
        gi.compile(graph, {"B": 100}, backend="reference")
    # Compiled, nothing of that size is stored.
    gi.compile(graph, {"B": 100}, threads=1)


def test_what_is_computed_piece_by_piece_has_an_end(machine: Callable[[int], None]) -> None:
    machine(10**6)
    block = gi.Builder()
    B = gi.dim("B")
    graph = block.build(gi.reduce_sum(gi.exponential(gi.broadcast(block.input("X", ()), (B,)))))
    with pytest.raises(SizeError, match=r"computes, if only piece by piece, a tensor of 4,398.0 GB"):
        gi.compile(graph, {"B": 2**40})


def test_initial_tensors_have_to_fit(machine: Callable[[int], None]) -> None:
    machine(10**6)
    with pytest.raises(SizeError, match=r"starts from .*; its largest tensor is .* = \[10000000, 48\], 1,920.0 MB"):
        gi.initialize(STEP, SIZES | {"V": 10**7})
    machine(10**9)
    assert gi.initialize(STEP, SIZES)


def test_ranks_that_are_simulated_have_an_end() -> None:
    graph = shard(MLP, gi.Mesh(dp=2048), "data")
    with pytest.raises(SizeError, match=r"is for 2,048 ranks \(dp=2048\), all of which this process would simulate"):
        gi.compile(graph, sizes_of(graph, B=2048))
    executable = gi.compile(graph, sizes_of(graph, B=2048), memory=float("inf"), check=False)
    assert executable.mesh.size == 2048


def test_where_nothing_is_known_of_memory_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "total_memory", lambda: None)
    gi.compile(STEP, SIZES | {"B": 2**20}, threads=1, check=False)


def test_ranks_on_one_machine_share_its_memory() -> None:
    with patch.object(capacity, "total_memory", lambda: 8), patch.object(capacity, "processes_here", lambda: 4):
        assert capacity._memory() == 2


def test_small_sizes_run() -> None:
    graph = MLP
    sizes = sizes_of(graph)
    given = {v.name: np.ones([d.size(sizes) for d in v.shape], v.dtype) for v in graph.arguments}
    for backend in BACKENDS:
        gi.compile(graph, sizes, backend=backend)(given)
    with pytest.raises(GraphirError):
        gi.compile(graph, {**sizes, "B": -1})
