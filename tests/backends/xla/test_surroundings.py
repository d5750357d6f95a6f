"""Whatever else a process does with JAX: its settings, its meshes, its traces, its arrays, its children."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import DeviceError, InputError, RunError
from graphir.passes import Optimizer, autodiff, optimize, shard
from tests.support.xla import distance, jax

pytestmark = pytest.mark.slow

SIZES = {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 8, "V": 16}
BATCH = {"T": np.array([[3, 1, 2, 3], [0, 5, 6, 15]]), "Y": np.array([[1, 2, 3, 4]] * 2), "seed": 3, "step": 1}


def step_graph() -> gi.Graph:
    return optimize(autodiff(gi.models.transformer(layers=1, decode=None, dropout=0.1)), Optimizer("sgd"))


def set_mesh() -> Any:
    return jax.set_mesh(jax.sharding.Mesh(np.array(jax.devices()[:2]), ("dp",)))


@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.numpy_rank_promotion("raise"),
        lambda: jax.disable_jit(),
        lambda: jax.enable_x64(False),
        set_mesh,
    ],
    ids=["strict dtypes", "strict shapes", "no jit", "32 bits", "a mesh"],
)
@pytest.mark.parametrize("mesh", [None, gi.Mesh(dp=2, tp=2)], ids=str)
def test_what_jax_is_told_elsewhere_changes_nothing(setting: Any, mesh: gi.Mesh | None) -> None:
    graph = step_graph()
    given = gi.initialize(graph, SIZES, seed=1), BATCH
    expected = gi.compile(graph, SIZES)(*given)
    around: AbstractContextManager[Any] = setting()
    with around:
        found = gi.compile(graph if mesh is None else shard(graph, mesh, "data+megatron"), SIZES, backend="xla")(*given)
        assert distance(found["L"], expected["L"]) <= 1e-5


def test_products_have_all_bits_of_their_factors_on_every_device() -> None:
    text = gi.compile(step_graph(), SIZES, backend="xla").lowered.as_text()  # type: ignore[attr-defined]
    assert "HIGHEST" in text
    assert "DEFAULT" not in text


def doubled() -> tuple[gi.Graph, Any]:
    b = gi.Builder("twice")
    b.output(gi.scale(b.input("X", [3]), by=2.0, name="Y"))
    graph = b.build()
    return graph, gi.compile(graph, {}, backend="xla")


def test_inside_of_what_jax_traces() -> None:
    graph, run = doubled()
    X = np.ones(3, np.float32)
    assert np.all(jax.jit(lambda by: run({"X": X})["Y"] * by)(2.0) == 4)
    with pytest.raises(InputError, match="X is what JAX traces a function with"):
        jax.grad(lambda X: run({"X": X})["Y"].sum())(jax.numpy.ones(3, "float32"))
    with pytest.raises(RunError, match="compile it outside of jit"):
        jax.jit(lambda by: gi.compile(graph, {}, backend="xla")({"X": X})["Y"] * by)(2.0)


def test_integers_of_jax_with_32_bits_are_ids() -> None:
    graph = step_graph()
    run, state = gi.compile(graph, SIZES, backend="xla"), gi.initialize(graph, SIZES, seed=1)
    narrow = jax.numpy.asarray(BATCH["T"], "int32")
    assert float(run(state, BATCH | {"T": narrow})["L"]) == float(run(state, BATCH)["L"])
    with pytest.raises(InputError, match="T must be int64, not float32"):
        run(state, BATCH | {"T": narrow.astype("float32")})


def test_two_arrays_in_one_memory_of_which_one_is_written_over() -> None:
    b = gi.Builder("two")
    W, V = b.parameter("W", [4]), b.parameter("V", [4])
    b.output(gi.reduce_sum(gi.multiply(W, V), name="L"))
    step = optimize(autodiff(b.build(), loss="L"), Optimizer("sgd"))
    one = jax.numpy.ones(4, "float32")
    other = one.addressable_data(0)
    assert other is not one
    rest = {value.name: np.zeros(4, np.float32) for value in step.state}
    with pytest.raises(DeviceError, match=r"XLA could not run two: .*donate the same buffer twice"):
        gi.compile(step, {}, backend="xla", donate=True)({"W": one, "V": other, "step": 0} | rest)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_forked_child_is_told_that_it_cannot_compile() -> None:
    graph, _ = doubled()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # rather than wait for ever
        try:
            gi.compile(graph, {}, backend="xla")
        except RunError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert "start processes by 'spawn', and compile there" in told.read()
    os.waitpid(child, 0)
