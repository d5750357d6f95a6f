"""Ranks that wait for one that does not come: they give up after a limit, and say for whom they waited, and at what.

Here ranks are threads that meet by TCP; no test depends on how long anything takes, for who gives up is told when to.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from graphir.backends.communicator import SimulatedCommunicator
from graphir.backends.communicator.nccl import NcclCommunicator
from graphir.backends.communicator.tcp_peers import TcpPeers
from graphir.errors import CommunicationError, StoppedError
from graphir.ir.layout import Mesh
from graphir.training.signals import noting_signals
from tests.cuda import standin
from tests.cuda.ranks import Ranks, on_threads, place


@pytest.fixture
def peers() -> Iterator[list[TcpPeers]]:
    """Four ranks that have met."""
    met = Ranks(4)
    for each in met.peers:
        each.name_ranks_by(Mesh(dp=2, tp=2))
    yield met.peers
    met.close()


def until_all(ready: Callable[[], bool]) -> None:
    for _ in range(6000):
        if ready():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it does not come so far")


def give_up(peers: list[TcpPeers], places: dict[int, Callable[[TcpPeers], object]]) -> str:
    """What rank 0 is told when it gives up, while some ranks wait at other places, and all others do nothing."""
    told: list[str] = []

    def work(rank: int) -> None:
        try:
            places[rank](peers[rank])
        except CommunicationError as error:
            if rank == 0:
                told.append(str(error))

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in places]
    for each in threads:
        each.start()
    until_all(lambda: all(peers[rank]._waits_for for rank in places))
    peers[0].hurry(0)
    until_all(lambda: bool(told))
    return told[0]


def at(purpose: str) -> Callable[[TcpPeers], object]:
    return lambda peer: peer.share(b"", purpose)


def test_a_rank_that_does_something_else_is_named(peers: list[TcpPeers]) -> None:
    text = give_up(peers, dict.fromkeys((0, 1, 2), at("an all-reduce over dp and tp for dW_up")))
    assert text == (
        "ranks 0, 1, 2 have waited 0 s at an all-reduce over dp and tp for dW_up for rank 3 (dp=1, tp=1), which is "
        "busy with something else; let ranks wait longer by GRAPHIR_TIMEOUT=seconds if that is as it should be"
    )


def test_ranks_that_wait_for_each_other_are_told_where(peers: list[TcpPeers]) -> None:
    places = {0: at("a barrier"), 1: at("a barrier"), 2: lambda peer: peer.fetch(0, "a message of rank 0")}
    text = give_up(peers, {**places, 3: lambda peer: peer.fetch(0, "a message of rank 0")})
    assert text == (
        "ranks 0, 1 have waited 0 s at a barrier for ranks 2, 3, which have waited at a message of rank 0; all ranks "
        "must run, fetch and gather the same things in the same order"
    )


def test_who_does_not_answer_is_told_before_who_only_waits_for_it(peers: list[TcpPeers]) -> None:
    """Such as a process that is stopped, or a machine that hangs."""
    peers[3]._say = lambda word, text="": None  # type: ignore[method-assign]
    text = give_up(peers, {0: at("a sum"), 1: at("a sum"), 2: lambda peer: peer.fetch(3, "a message of rank 3")})
    assert text.startswith(
        "ranks 0, 1 have waited 0 s at a sum for rank 3 (dp=1, tp=1), which does not answer; also rank 2 (dp=1, tp=0), "
        "which has waited at a message of rank 3; let ranks wait longer by GRAPHIR_TIMEOUT=seconds"
    )


def test_what_comes_in_the_last_moment_is_taken(peers: list[TcpPeers]) -> None:
    """While the others are asked where they are, the last one comes."""
    for each in peers:
        each.timeout = 0.0
    assert on_threads(4, lambda rank: peers[rank].share(b"%d" % rank, "parts")) == [[b"0", b"1", b"2", b"3"]] * 4


# -- what is waited for ------------------------------------------------------------------------------------


def test_collectives_are_told_with_their_axes_and_their_node() -> None:
    communicator = SimulatedCommunicator(Mesh(dp=2, tp=2))
    assert communicator.purpose("an all-reduce", ("dp", "tp")) == "an all-reduce over dp and tp"
    with communicator.serving("layer0/mlp/Z_down.AR"):
        assert communicator.purpose("an all-reduce", ["tp"]) == "an all-reduce over tp for layer0/mlp/Z_down.AR"
    assert communicator.purpose("a collection of all blocks") == "a collection of all blocks"


def test_a_device_is_waited_for_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank may never do its part of what the device waits for."""
    with standin.installed() as cupy:
        monkeypatch.setattr(cupy.cuda.runtime, "devices", 2)
        met = Ranks(2)

        def work(communicator: NcclCommunicator) -> str:
            communicator.all_reduce([place(np.ones(2))], ("tp",))
            communicator.finish("step 1")
            communicator.barrier()
            if communicator.rank:
                return ""
            never: Any = type("Event", (), {"done": False, "record": lambda self, stream: None})
            communicator._event = never  # type: ignore[method-assign]
            communicator.hurry(0)
            with pytest.raises(CommunicationError) as error:
                communicator.finish("step 2")
            return str(error.value)

        text, _ = met.run(Mesh(tp=2), work)
        met.close()
    assert text.startswith(
        "rank 0 (tp=0) has waited 0 s at step 2 for rank 1 (tp=1), which is busy with something else"
    )


# -- signals -----------------------------------------------------------------------------------------------


def test_who_was_told_to_end_and_waits_in_vain_ends_by_that_signal() -> None:
    hurried: list[int] = []

    def interrupted() -> None:
        with noting_signals(lambda: hurried.append(1)) as received:
            signal.raise_signal(signal.SIGTERM)
            assert (received, hurried) == ([signal.SIGTERM], [1])
            raise CommunicationError("nobody comes")

    with pytest.raises(StoppedError, match=r"^interrupted, and the step at hand is lost: nobody comes$") as stopped:
        interrupted()
    assert stopped.value.signal == signal.SIGTERM


def test_who_waits_in_vain_without_a_signal_is_told_that() -> None:
    with pytest.raises(CommunicationError, match=r"^nobody comes$"), noting_signals(lambda: None):
        raise CommunicationError("nobody comes")
