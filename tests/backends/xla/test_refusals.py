"""What XLA cannot do, or is not there for, is told by name; and what is handed to it is safe."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import ConfigError, DeviceError, InputError, OperatorError
from graphir.passes import Optimizer, autodiff, optimize
from tests.support.xla import DEVICES, jax

pytestmark = pytest.mark.slow


@gi.operator("XlaLooks", "X[*b] -> Y[*b]", no_gradient="it is for a test")
def looks(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = |X|, if the first number is below 0."""
    return -X if float(X.reshape(-1)[0]) < 0 else X


@gi.operator("XlaWrites", "X[*b d] -> Y[*b d]", no_gradient="it is for a test")
def writes(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = X, with 0 in the first column."""
    Y = X.copy()
    Y[..., 0] = 0
    return Y


@gi.operator("XlaWritesThrough", "X[*b d] -> Y[*b d]", no_gradient="it is for a test")
def writes_through(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = 2 X, written through another name."""
    Y = X + 0
    same = Y
    same += X
    return Y


def graph_of(operator: Any) -> gi.Graph:
    b = gi.Builder("own")
    b.output(operator(b.input("X", [gi.dim("B"), gi.dim("D")]), name="Y"))
    return b.build()


@pytest.mark.parametrize("operator", [looks, writes, writes_through], ids=lambda each: each.key)
def test_a_kernel_that_cannot_be_traced_is_named_with_its_line(operator: Any) -> None:
    with pytest.raises(OperatorError, match=rf"Y = {operator.key}\(…\), written at .*test_refusals.py:\d+") as raised:
        gi.compile(graph_of(operator), {"B": 2, "D": 3}, backend="xla")
    assert 'backend="numpy"' in str(raised.value)


def test_a_mesh_with_more_devices_than_there_are() -> None:
    jax.devices()  # from now on there are no more
    b = gi.Builder("wide", mesh=gi.Mesh(dp=2 * DEVICES))
    b.output(gi.scale(b.input("X", [2 * DEVICES], layout=gi.Layout([("dp",)])), by=2.0))
    with pytest.raises(DeviceError, match=f"xla_force_host_platform_device_count={2 * DEVICES}"):
        gi.compile(b.build(), {}, backend="xla")


def test_ids_out_of_range_are_refused_before_anything_is_written_over() -> None:
    graph = optimize(autodiff(gi.models.transformer(layers=1, decode=None, dropout=0.0)), Optimizer("sgd"))
    sizes = {"B": 1, "S": 4, "D": 8, "N_H": 2, "D_ff": 8, "V": 16}
    run = gi.compile(graph, sizes, backend="xla", donate=True)
    state = run(gi.initialize(graph, sizes), _ids(3), {"step": 0}).updated()
    with pytest.raises(InputError, match=r"= 16 is out of range"):
        run(state, _ids(16), {"step": 1})
    assert np.isfinite(float(run(state, _ids(5), {"step": 1})["L"]))
    with pytest.raises(InputError, match=r"wrote over it; go on from run\.updated\(\)"):
        run(state, _ids(5), {"step": 1})


def _ids(first: int) -> dict[str, Any]:
    return {"seed": 0, "T": np.array([[first, 1, 2, 3]]), "Y": np.array([[1, 2, 3, 4]])}


def test_an_index_that_the_graph_makes_itself_is_looked_at_too() -> None:
    b = gi.Builder("made")
    T = b.input("T", [gi.dim("B")], "int64")
    ids = gi.token_ids(T, v=gi.dim("V"), name="ids")
    b.output(gi.lookup(b.parameter("E", [5, 2]), ids, name="X"))
    run = gi.compile(b.build(), {"B": 2, "V": 100}, backend="xla")
    E = np.ones((5, 2), np.float32)
    assert np.array_equal(run({"E": E, "T": np.array([0, 4])})["X"], E[:2])
    with pytest.raises(InputError, match=r"ids\[1\] = 5 is out of range"):
        run({"E": E, "T": np.array([0, 5])})


def test_arguments_are_the_callers() -> None:
    b = gi.Builder("own")
    b.output(gi.scale(b.input("X", [1 << 16]), by=2.0, name="Y"))
    run = gi.compile(b.build(), {}, backend="xla")
    X = np.ones(1 << 16, np.float32)
    made = run({"X": X})
    X[:] = 5
    assert np.all(np.asarray(made["Y"]) == 2)
    with pytest.raises(InputError, match="X must be float32"):
        run({"X": jax.numpy.ones((3,), "float32")})


def test_one_array_for_two_arguments_of_which_one_is_written_over() -> None:
    b = gi.Builder("two")
    W, V = b.parameter("W", [4]), b.parameter("V", [4])
    b.output(gi.reduce_sum(gi.multiply(W, V), name="L"))
    step = optimize(autodiff(b.build(), loss="L"), Optimizer("sgd"))
    run = gi.compile(step, {}, backend="xla", donate=True)
    one = jax.numpy.ones(4, "float32")
    rest = {value.name: np.zeros(value.shape and 4, np.float32) for value in step.state}
    with pytest.raises(InputError, match="W and V are given one array"):
        run({"W": one, "V": one, "step": 0} | rest)


def test_a_program_that_needs_more_than_it_may() -> None:
    graph = autodiff(gi.models.transformer(layers=1, decode=None, dropout=0.0))
    sizes = {"B": 1, "S": 4, "D": 8, "N_H": 2, "D_ff": 8, "V": 16}
    with pytest.raises(ConfigError, match=r"does not fit into 0\.0 MB:\nplanned by XLA"):
        gi.compile(graph, sizes, backend="xla", memory=1000)
    with pytest.raises(ConfigError, match="check is for programs that graphir writes"):
        gi.compile(graph, sizes, backend="xla", check=True)


def test_nothing_else_loads_jax() -> None:
    code = (
        "import sys, numpy, graphir as gi; graph = gi.models.mlp(1); "
        "gi.compile(graph, {'B': 1, 'D_in': 1, 'D_out': 1}); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_jax_it_is_said_what_to_install() -> None:
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "import graphir as gi\n"
        "b = gi.Builder('g'); b.output(gi.scale(b.input('X', [2]), by=2.0))\n"
        "try: gi.compile(b.build(), {}, backend='xla')\n"
        "except gi.GraphirError as error: print(error)"
    )
    made = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert made.stdout.startswith('backend="xla" was asked for, and JAX is not installed: pip install')
