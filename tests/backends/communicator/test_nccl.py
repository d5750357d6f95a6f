"""Ranks on several GPUs: NCCL's communicator over a stand-in whose ranks are threads, which meet by TCP for real.

The conformance suite is that of all communicators, on 2, 4 and 6 ranks, with blocks on the device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import graphir as gi
from graphir.backends.arrays import to_numpy
from graphir.backends.communicator import SimulatedCommunicator, nccl_groups
from graphir.backends.communicator.nccl import NcclCommunicator
from graphir.checking import Setting
from graphir.errors import CommunicationError, ConfigError, MissingDependencyError
from graphir.ir.layout import Mesh
from tests.cuda import emulator, nccl, standin
from tests.cuda.ranks import OnDevice, Ranks, home, on_threads, place
from tests.support.conformance import REDUCE, blocks_of, cases, cases_on_ranks

#: Simulated ranks leave dtypes to the arrays' own module: one that is added, and truth.
ON_A_DEVICE = cases({str(mesh): mesh for mesh in (Mesh(tp=1), Mesh(dp=2, tp=3))}, dtypes=("float32", "bool"))


@pytest.fixture(scope="module", autouse=True)
def cupy() -> Iterator[Any]:
    """The stand-in, with a device for each rank."""
    with standin.installed() as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(found.cuda.runtime, "devices", 8)
        yield found


@pytest.fixture(scope="module")
def ranks() -> Iterator[Any]:
    """Ranks that have met, by how many; they are met once."""
    made: dict[int, Ranks] = {}

    def meet(count: int) -> Ranks:
        if count not in made:
            made[count] = Ranks(count)
        return made[count]

    yield meet
    for each in made.values():
        each.close()


# -- what arrives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)])
def test_conformance(count: int, ranks: Any) -> None:
    failures = {name: ranks(count).failures(mesh, case) for name, (mesh, case) in cases_on_ranks(count).items()}
    assert not any(failures.values()), {name: failure for name, failure in failures.items() if failure}


@pytest.mark.parametrize("name", ON_A_DEVICE)
def test_conformance_of_simulated_ranks_on_a_device(name: str) -> None:
    mesh, case = ON_A_DEVICE[name]
    case(OnDevice(SimulatedCommunicator(mesh)))  # type: ignore[arg-type]


@pytest.mark.parametrize("reduce", REDUCE)
def test_bfloat16(reduce: str, ranks: Any) -> None:
    """Sums by NCCL, a maximum in the order of ranks; moved as bytes."""
    blocks = [each.astype(ml_dtypes.bfloat16) for each in blocks_of(Mesh(tp=2), (4, 6))]

    def work(communicator: NcclCommunicator) -> list[Any]:
        mine = [place(blocks[communicator.rank])]
        reduced = communicator.all_reduce(mine, ("tp",), reduce)
        scattered = communicator.reduce_scatter(mine, 1, "tp", reduce)
        gathered = communicator.all_gather(mine, 1, "tp")
        return [home(made[0]) for made in (reduced, scattered, gathered)]

    right = REDUCE[reduce](np.stack(blocks).astype("float32")).astype(ml_dtypes.bfloat16)
    for rank, (reduced, scattered, gathered) in enumerate(ranks(2).run(Mesh(tp=2), work)):
        np.testing.assert_array_equal(reduced, right)
        np.testing.assert_array_equal(scattered, np.split(right, 2, axis=1)[rank])
        np.testing.assert_array_equal(gathered, np.concatenate(blocks, 1))


def test_blocks_of_numpy_travel_to_the_device_and_back(ranks: Any) -> None:
    blocks = blocks_of(Mesh(tp=2), (4, 2), "float32")

    def work(communicator: NcclCommunicator) -> Any:
        out = [np.empty((4, 2), "float32")]
        written = communicator.all_reduce([blocks[communicator.rank]], ("tp",), out=out)
        assert written[0] is out[0]
        return communicator.all_gather([blocks[communicator.rank]], 0, "tp")[0], out[0]

    for gathered, total in ranks(2).run(Mesh(tp=2), work):
        assert type(gathered) is np.ndarray
        np.testing.assert_array_equal(gathered, np.concatenate(blocks))
        np.testing.assert_array_equal(total, blocks[0] + blocks[1])


def test_ids_as_before_cupy_14(ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuples of C's chars, some of them negative."""
    monkeypatch.setattr(nccl, "IDS_ARE_BYTES", False)
    met = Ranks(2)
    found = met.run(Mesh(tp=2), lambda c: home(c.all_reduce([place(np.ones(3))], ("tp",))[0]))
    met.close()
    assert all((each == 2).all() for each in found)


# -- on streams --------------------------------------------------------------------------------------------


def test_collectives_can_be_captured(ranks: Any, cupy: Any) -> None:
    """Once they have been carried out: nothing is allocated, nothing waits, and a replay sees what is there then."""

    def work(communicator: NcclCommunicator) -> None:
        rank = communicator.rank
        block, strided = place(np.zeros((2, 4), "float32")), place(np.zeros((4, 2, 3), "float32")[..., 0])
        total, whole, most, part = (cupy.empty(s, "float32") for s in ((2, 4), (2, 8), (4, 2), (2, 2)))

        def step() -> None:
            communicator.all_reduce([block], ("tp",), "mean", out=[total])
            communicator.all_gather([block], 1, "tp", out=[whole])
            communicator.all_reduce([strided], ("tp",), "max", out=[most])
            communicator.reduce_scatter([block], 1, "tp", out=[part])

        step()
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            step()
            graph = stream.end_capture()
        for turn in (1, 5):
            block[...] = place(np.arange(8, dtype="float32").reshape(2, 4) + turn * (rank + 1))
            strided[...] = turn * (rank + 1)
            graph.launch()
            ones = [np.arange(8, dtype="float32").reshape(2, 4) + turn * (each + 1) for each in range(2)]
            np.testing.assert_array_equal(home(total), (ones[0] + ones[1]) / 2)
            np.testing.assert_array_equal(home(whole), np.concatenate(ones, 1))
            assert (home(most) == 2 * turn).all()
            np.testing.assert_array_equal(home(part), np.split(ones[0] + ones[1], 2, axis=1)[rank])

    ranks(2).run(Mesh(tp=2), work)


def test_a_started_reduction_goes_on_beside_and_is_waited_for_by_the_stream(
    ranks: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(cupy.cuda.Stream, "wait_event", lambda stream, event: waited.append((stream.null, event)))

    def work(communicator: NcclCommunicator) -> int:
        block = place(np.full(4, communicator.rank + 1.0))
        communicator.barrier()  # the device counts for all ranks
        before = len(standin.STATE.waits)
        pending = communicator.start_all_reduce([block], ("tp",), "sum", [block])
        assert len(pending.wait()) == 1
        assert pending.poll()
        waits = len(standin.STATE.waits) - before
        communicator.barrier()
        assert (home(block) == 3).all()
        return waits

    met = ranks(2)
    assert met.run(Mesh(tp=2), work) == [0, 0], "the host waited"
    # On each rank the stream beside waits for the current one, and later the current one for it.
    assert sorted(null for null, _ in waited) == [False, False, True, True]


# -- what goes wrong ---------------------------------------------------------------------------------------


def test_what_nccl_complains_of_is_told_with_the_rank_and_the_operation() -> None:
    met = Ranks(2)

    def work(communicator: NcclCommunicator) -> str:
        ones = [place(np.ones(2))]
        communicator.all_reduce(ones, ("tp",))
        communicator.barrier()
        if communicator.rank == 1:
            communicator._groups.along(("tp",)).nccl.abort()
        communicator.barrier()
        if communicator.rank == 1:
            return ""
        with pytest.raises(CommunicationError) as error:
            communicator.all_gather(ones, 0, "tp")
        return str(error.value)

    told, _ = met.run(Mesh(tp=2), work)
    met.close()
    assert told == (
        "rank 0 (tp=0), an all-gather over tp: NCCL says NCCL_ERROR_REMOTE: a rank has aborted; NCCL_DEBUG=WARN makes "
        "it say more"
    )


def test_a_mesh_of_another_size(ranks: Any) -> None:
    with pytest.raises(ConfigError, match=r"^tp=3 needs 3 ranks, but 2 processes were started; start it by torchrun"):
        NcclCommunicator(Mesh(tp=3), ranks(2).peers[0], 0)


def test_machines_of_one_name_are_told_apart(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines of one image: the same name, and devices in the same places."""
    monkeypatch.setattr(cupy.cuda.runtime, "devices", 1)
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    monkeypatch.setattr(nccl_groups, "identity", lambda: threading.current_thread().name)
    met = Ranks(2)
    communicators = on_threads(2, lambda rank: NcclCommunicator(Mesh(tp=2), met.peers[rank], 0))
    met.close()
    assert [each.rank for each in communicators] == [0, 1]


def test_more_processes_than_devices(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "devices", 2)
    met = Ranks(3)

    def work(communicator_of: int) -> str:
        try:
            NcclCommunicator(Mesh(tp=3), met.peers[communicator_of], communicator_of)
        except ConfigError as error:
            return str(error)
        return ""

    told = on_threads(3, work)
    met.close()
    assert told[0] == told[2]
    assert told[0].startswith("ranks 0, 2 are all on one device, 0000:00:00.0 of ")
    assert told[0].endswith(
        "which shows each of them 2; NCCL needs one for each rank: start no more processes on a machine than it has "
        "devices, and let LOCAL_RANK count them"
    )
    assert told[1] == ""


def test_without_nccl(monkeypatch: pytest.MonkeyPatch, ranks: Any) -> None:
    monkeypatch.setattr(nccl, "available", False)
    with pytest.raises(MissingDependencyError, match=r"^ranks='nccl' needs NCCL, and CuPy finds none; pip install"):
        NcclCommunicator(Mesh(tp=2), ranks(2).peers[0], 0)


def test_a_message_of_another_shape_is_told(ranks: Any) -> None:
    def work(communicator: NcclCommunicator) -> None:
        rank = communicator.rank
        communicator.send(place(np.zeros((2, 3), "float32")), rank, 1 - rank)
        text = rf"^rank {rank} \(tp={rank}\) expects float64\[2, 3\] of rank {1 - rank} \(tp={1 - rank}\), which sent"
        with pytest.raises(CommunicationError, match=text):
            communicator.receive(1 - rank, rank, (2, 3), "float64")

    ranks(2).run(Mesh(tp=2), work)


def test_a_process_that_was_started_alone_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    from graphir.backends.communicator.tcp_peers import TcpPeers

    communicator = NcclCommunicator(Mesh(), TcpPeers(None), 0)
    assert communicator.leads
    assert communicator.agree(4) == 4
    (found,) = communicator.all_reduce([place(np.ones(2))], ())
    assert (home(found) == 1).all()
    communicator.barrier()


# -- compiled graphs ---------------------------------------------------------------------------------------


def steps(setting: Setting, **options: Any) -> list[dict[str, Any]]:
    """Two steps of training, the second from what the first left: all results, whole."""
    single = setting.single()
    graph, sizes, arguments = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    inputs = {name: arguments[name] for name in ("T", "Y", "seed", "step")}
    run = gi.compile(graph, sizes, **options)
    first = run(dict(arguments))
    found = [{name: np.array(to_numpy(first.gather(name))) for name in first}]
    second = run(first.updated(), inputs)
    return [*found, {name: np.array(to_numpy(second.gather(name))) for name in second}]


@pytest.mark.slow
@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
@pytest.mark.parametrize(("plan", "bucket"), [("data+megatron", 0), ("sequence+zero1", 1000)])
def test_a_training_step_is_that_of_simulated_ranks(
    plan: str, bucket: int, ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In buckets, which travel while more is computed, or one by one."""
    mesh, here = Mesh(dp=2, tp=2), threading.local()
    setting = Setting(plan=plan, mesh=mesh, layers=1, dtype="float32", dropout=0.3)
    wanted = steps(setting)
    monkeypatch.setattr("graphir.backends.communicator.communicator_for", lambda *_: here.communicator)

    def work(communicator: NcclCommunicator) -> list[dict[str, Any]]:
        here.communicator = communicator
        return steps(setting, backend="cupy", ranks="nccl", bucket=bucket)

    for found in ranks(4).run(mesh, work):
        for mine, right in zip(found, wanted, strict=True):
            assert mine.keys() == right.keys()
            for name, array in right.items():
                scale = max(float(np.abs(array).max(initial=0)), 1e-3)
                assert np.abs(np.float64(mine[name]) - array).max(initial=0) <= 2e-4 * scale, name
