"""The memory plan against what is really allocated, as Python tracks it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.buffers import Scratch
from graphir.passes import autodiff, optimize, shard

SIZES = {"B": 8, "S": 256, "D": 256, "N_H": 4, "D_ff": 1024, "V": 2048}


def tracked(executable, parameters, batch):
    """Bytes of arrays while the graph runs again: its buffers, its results, what comes and goes; arguments left out.

    Second, what comes and goes only while it runs for the first time, and its program is written.
    """
    tracemalloc.start()
    try:
        run = executable(parameters, batch)
        now, most = tracemalloc.get_traced_memory()
        held = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
        del run
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        executable(parameters, batch)
        passing = tracemalloc.get_traced_memory()[1] - before
        return sum(trace.size for trace in held.traces) + passing, most - now - passing
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def gradients():
    return autodiff(gi.models.transformer(layers=3, dropout=0.1))


def check(graph, ranks=1, **options):
    # A proof's own memory is none of the program's.
    executable = gi.compile(graph, SIZES, check=False, **options)
    ids = np.random.default_rng(0).integers(0, SIZES["V"], (SIZES["B"], SIZES["S"]))
    scalars = {value.name: 1 for value in graph.arguments if value.name in ("seed", "step", "lr")}
    plan = executable.memory
    planned = ranks * (plan.bytes - plan.arguments)
    again, first = tracked(executable, gi.initialize(graph, SIZES), {"T": ids, "Y": ids, **scalars})
    assert again == pytest.approx(planned, rel=0.1)
    assert first < 0.1 * plan.arguments


@pytest.mark.slow
@pytest.mark.parametrize("level", ["masks", "nothing", "full"])
def test_gradients_at_levels(gradients, level):
    check(gradients, recompute=level)


@pytest.mark.slow
def test_a_step_of_adamw(gradients):
    check(optimize(gradients), donate=True)


@pytest.mark.slow
def test_simulated_ranks(gradients):
    check(shard(gradients, gi.Mesh(dp=2), "data"), ranks=2)


def test_a_tile_gives_back_all_of_its_scratch(gradients, monkeypatch):
    """What a node works in is the next one's: else a tile would outgrow the cache that it was cut for."""
    left = []

    def clear(scratch, clear=Scratch.clear):
        left.append(sum(size for used in scratch._used for _, size in used))
        clear(scratch)

    monkeypatch.setattr(Scratch, "clear", clear)
    gi.compile(gradients, SIZES, threads=2, check=False).programs  # noqa: B018
    assert len(left) > 100
    assert not any(left)
