"""What a rank does in tests of NCCL on real GPUs: `python -m tests.gpu.program conformance`, on every rank."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import numpy as np

import graphir as gi
from graphir.backends.arrays import to_numpy
from graphir.backends.communicator.nccl import NcclCommunicator
from graphir.checking import Setting
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
from graphir.launch import find_launch
from tests.cuda.ranks import OnDevice, home, place
from tests.support.conformance import MESHES, cases_on_ranks

LAUNCH = find_launch()
assert LAUNCH is not None


def conformance() -> None:
    """Every case of as many ranks; prints this rank's failures, as JSON."""
    found: dict[str, str] = {}
    communicators: dict[Mesh, Any] = {mesh: OnDevice(NcclCommunicator(mesh)) for mesh in MESHES[LAUNCH.size]}
    for name, (mesh, case) in cases_on_ranks(LAUNCH.size).items():
        try:
            case(communicators[mesh])
        except Exception:
            found[name] = traceback.format_exc()
        communicators[mesh].barrier()
    print(json.dumps(found))


def step() -> None:
    """Three steps of training against simulated ranks on this rank's own device."""
    mesh = Mesh(dp=LAUNCH.size // 2, tp=2)
    setting = Setting(plan="sequence+zero1", mesh=mesh, layers=2, dtype="float32", dropout=0.3)
    single = setting.single()
    graph, sizes, arguments = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    given = {name: arguments[name] for name in ("T", "Y", "seed", "step")}

    def steps(ranks: str) -> list[dict[str, Any]]:
        run = gi.compile(graph, sizes, backend="cupy", ranks=ranks)
        result, found = run(dict(arguments)), []
        for _ in range(3):
            found.append({name: np.array(to_numpy(result.gather(name))) for name in result})
            result = run(result.updated(), given)
        return found

    for mine, right in zip(steps("nccl"), steps("simulated"), strict=True):
        for name, array in right.items():
            scale = max(float(np.abs(array).max(initial=0)), 1e-3)
            assert np.abs(mine[name] - array).max(initial=0) <= 2e-4 * scale, name
    print("alike" if LAUNCH.rank == 0 else "")


def capture() -> None:
    """An all-reduce in a CUDA graph, replayed with other numbers."""
    import cupy

    communicator = NcclCommunicator(Mesh(tp=LAUNCH.size))
    block = place(np.ones(1000, "float32"))
    communicator.all_reduce([block], ("tp",), out=[block])
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        communicator.all_reduce([block], ("tp",), out=[block])
        graph = stream.end_capture()
        for turn in (1, 2):
            block[...] = float(turn)
            graph.launch(stream)
            stream.synchronize()
            assert (home(block) == turn * LAUNCH.size).all()
    print("captured")


def failure() -> None:
    """The last rank raises, while the others wait for it on their devices."""
    communicator = NcclCommunicator(Mesh(tp=LAUNCH.size))
    ones = [place(np.ones(1000, "float32"))]
    communicator.all_reduce(ones, ("tp",))
    if LAUNCH.rank == LAUNCH.size - 1:
        raise ConfigError("the moon is full")
    home(communicator.all_reduce(ones, ("tp",))[0])
    raise AssertionError("reached")


if __name__ == "__main__":
    {each.__name__: each for each in (conformance, step, capture, failure)}[sys.argv[1]]()
