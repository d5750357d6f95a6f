"""One training step by two engines, graphir's own and XLA: the same loss, masks and updates, on one device and on four.

    pip install ".[xla]"
    python examples/second_engine.py

XLA is given the same kernels, by way of JAX. What it shares with graphir's executor is the graph and nothing else:
where both agree to the last digits, and on every bit of dropout's masks, neither has misread it. On a mesh each rank is
a device; of a machine with CPUs alone they are virtual.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import graphir as gi
from graphir.export import stablehlo
from graphir.passes import Optimizer, autodiff, optimize, shard

SIZES = {"B": 4, "S": 16, "D": 32, "N_H": 4, "D_ff": 64, "V": 48}


def main() -> None:
    """Prints how far the engines are apart after five steps; and writes what each of four devices runs."""
    model = gi.models.transformer(layers=2, dropout=0.1, dtype="float64", decode=None)
    step = optimize(autodiff(model), Optimizer("adamw", learning_rate=1e-3, epsilon=1e-4))
    sharded = shard(step, gi.Mesh(dp=2, tp=2), "data+megatron")
    runs = {
        # Four devices first: once JAX has begun, it has those that it has.
        "xla, 4 devices": gi.compile(sharded, SIZES, backend="xla", donate=True),
        "xla": gi.compile(step, SIZES, backend="xla", donate=True),
        "numpy": gi.compile(step, SIZES),
    }
    ids = np.random.default_rng(0).integers(0, SIZES["V"], (SIZES["B"], SIZES["S"]))
    ends = {}
    for name, run in runs.items():
        state = gi.initialize(step, SIZES)
        for number in range(5):
            made = run(state, {"T": ids, "Y": np.roll(ids, -1, axis=1), "seed": 0, "step": number})
            state = made.updated()
        ends[name] = {"L": np.asarray(made["L"]), **{each: np.asarray(array) for each, array in state.items()}}
        print(f"{name:<15} L = {float(made['L']):.12f}")
    ours = ends.pop("numpy")
    for name, found in ends.items():
        apart = max(float(np.abs(found[each] - array).max()) for each, array in ours.items())
        print(f"{name:<15} differs from numpy by {apart:.0e}")
    with tempfile.TemporaryDirectory() as folder:
        for file in stablehlo.save(sharded, Path(folder) / "step.mlir", SIZES):
            print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
