"""What a rank does in tests of compiled graphs: run one on real ranks, and compare with the same on simulated ones.

mpiexec -n 6 python -m tests.support.mpi_program dp=2,tp=3 data+megatron numpy 1000
"""

from __future__ import annotations

import sys

import numpy as np

import graphir as gi
from graphir.backends.communicator import communicator_for
from graphir.checking import Setting
from graphir.ir.layout import Mesh


def compare(mesh: Mesh, plan: str, backend: str, bucket: int, donate: bool) -> None:
    """Two steps, the second from what the first left, against simulated ranks; dropped alike, repeated bit for bit."""
    setting = Setting(plan=plan, mesh=mesh, layers=1, dtype="float64", dropout=0.3)
    single = setting.single()
    graph, sizes, arguments = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    dropped = [value.name for node in graph.nodes if node.operator.random for value in node.outputs]
    fetch = list(dict.fromkeys([*(value.name for value in graph.outputs), *dropped]))
    inputs = {name: arguments[name] for name in ("T", "Y", "seed", "step")}

    def steps(ranks: str) -> list[dict[str, np.ndarray]]:
        given = {name: np.array(array) for name, array in arguments.items()}
        travel = {"bucket": bucket} if ranks == "mpi" and backend == "numpy" else {}
        run = gi.compile(graph, sizes, fetch=fetch, backend=backend, ranks=ranks, donate=donate, **travel)
        first = run(given)
        found = [{name: np.array(first.gather(name)) for name in first}]
        second = run(first.updated(), inputs)
        return [*found, {name: np.array(second.gather(name)) for name in second}]

    real, again, simulated = steps("mpi"), steps("mpi"), steps("simulated")
    assert any((real[0][name] == 0).any() for name in dropped)
    for mine, repeated, wanted in zip(real, again, simulated, strict=True):
        assert mine.keys() == wanted.keys()
        for name, array in wanted.items():
            assert mine[name].shape == array.shape, name
            assert np.array_equal(mine[name], repeated[name], equal_nan=True), f"{name} differs when repeated"
            if name in dropped:
                assert np.array_equal(mine[name] == 0, array == 0), f"{name} is dropped elsewhere"
            # What is zero but for rounding (the gradient of a bias on K) has no digits to compare.
            scale = max(float(np.abs(array).max(initial=0)), 1e-6)
            assert np.abs(np.float64(mine[name]) - array).max(initial=0) <= 1e-11 * scale, name


def main() -> None:
    axes, plans, backend, bucket = sys.argv[1:]
    mesh = Mesh({name: int(size) for name, _, size in (each.partition("=") for each in axes.split(","))})
    for plan in plans.split(","):
        for donate in (False, True) if backend == "numpy" else (False,):
            compare(mesh, plan, backend, int(bucket), donate)
    if communicator_for(mesh, "mpi").leads:
        print("alike")


if __name__ == "__main__":
    main()
