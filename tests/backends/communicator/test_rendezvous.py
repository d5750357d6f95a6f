"""Where ranks meet by TCP, only members come in: who else knocks does no harm, and costs no more than it may."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from graphir.backends.communicator import handshake, rendezvous
from graphir.backends.communicator.frames import Frame, Kind, pack
from graphir.backends.communicator.peers import RankError
from graphir.backends.communicator.tcp_peers import TcpPeers
from graphir.backends.communicator.tokens import find_token, leave_token
from graphir.errors import CommunicationError
from graphir.launch import Launch
from tests.attack.siege import Impostor, Stranger, connect, see_through, spoken, take, withstand
from tests.attack.strangers import IMPOSTORS, STRANGERS
from tests.cuda.ranks import Ranks
from tests.support.free_port import free_port
from tests.support.processes import LIMIT, environment

TOKEN = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are left where nobody else leaves any."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


# -- strangers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stranger", STRANGERS, ids=spoken)
def test_ranks_meet_whoever_else_comes(stranger: Stranger) -> None:
    withstand(stranger, Random(spoken(stranger)))


@pytest.mark.parametrize("impostor", IMPOSTORS, ids=spoken)
def test_who_is_there_in_place_of_rank_0_is_seen_through(impostor: Impostor) -> None:
    see_through(impostor, Random(spoken(impostor)))


class Waiting:
    """Rank 0, which waits for the others, and what has become of it."""

    def __init__(self, token: bytes | None = TOKEN, seconds: float = LIMIT, size: int = 2) -> None:
        self.address = "127.0.0.1", free_port()
        self.launch = Launch(size, 0, size, 0, self.address, token=token)
        self.challenge = b""
        self.error: CommunicationError | None = None
        self._thread = threading.Thread(target=self._wait, args=(seconds,))
        self._thread.start()

    def _wait(self, seconds: float) -> None:
        try:
            TcpPeers(self.launch, seconds).close()
        except CommunicationError as error:
            self.error = error

    def other(self, token: bytes | None = TOKEN) -> None:
        """The other rank comes."""
        TcpPeers(replace(self.launch, rank=1, token=token), LIMIT).close()

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """A stranger comes, once it has been greeted."""
        connection = connect(self.address, source)
        self.challenge = take(connection, handshake.CHALLENGE)
        return connection

    def come(self, hello: Frame) -> socket.socket:
        """A member comes, and says that."""
        connection = self.connect()
        answer = handshake.new_answer(TOKEN, self.challenge)
        connection.sendall(answer)
        assert handshake.is_admission(TOKEN, self.challenge, answer, take(connection, handshake.ADMISSION))
        connection.sendall(pack(hello))
        return connection

    def end(self) -> str:
        """What rank 0 says in the end."""
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        return str(self.error)


@pytest.fixture
def waiting() -> Iterator[Callable[..., Waiting]]:
    made: list[Waiting] = []

    def begin(*given: object) -> Waiting:
        made.append(Waiting(*given))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for each in made:
        each.end()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What rank 0 takes for the time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(rendezvous, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_who_says_nothing_has_so_much_time(
    waiting: Callable[..., Waiting], clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    rank = waiting()
    with rank.connect() as one, rank.connect() as other:
        clock[0] += handshake.SECONDS
        with rank.connect() as third:
            assert (one.recv(1), other.recv(1)) == (b"", b"")
            third.sendall(handshake.new_answer(TOKEN, rank.challenge))
            assert len(take(third, handshake.ADMISSION)) == handshake.ADMISSION
    rank.other()
    assert rank.end() == "None"
    (told,) = caplog.records
    assert (told.name, told.levelno) == ("graphir", logging.WARNING)
    assert "has turned away 127.0.0.1:" in told.getMessage()
    assert "which was given 10 s to prove that it is a rank; others like it are not told of" in told.getMessage()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system may tell events in another order")
def test_who_has_just_had_to_make_room_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """It speaks, and another one comes, while rank 0 does not look."""
    monkeypatch.setattr(rendezvous, "NEWCOMERS", 1)
    address = "127.0.0.1", free_port()
    with closing(rendezvous.Rendezvous(Launch(2, 0, 2, 0, address, token=TOKEN), LIMIT)) as met:
        met._watch(met._listeners)
        with connect(address) as one:
            met._turn(0.0, LIMIT)
            with connect(address) as other:
                one.sendall(b"!")
                met._turn(0.0, LIMIT)
                assert len(take(other, handshake.CHALLENGE)) == handshake.CHALLENGE


def test_how_many_were_turned_away_is_said_when_time_is_over(
    waiting: Callable[..., Waiting], clock: list[float]
) -> None:
    rank = waiting()
    for _ in range(3):
        with rank.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1")
            assert connection.recv(1) == b""
    clock[0] += LIMIT
    with suppress(OSError):  # wakes it, if it does not look at its clock just then
        socket.create_connection(rank.address, LIMIT).close()
    assert (
        f"within {LIMIT:g} s, and rank 1 did not (3 connections were turned away); start every RANK from" in rank.end()
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a machine has but one address of its own")
def test_of_too_many_those_make_room_that_have_most_of_it(
    waiting: Callable[..., Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "NEWCOMERS", 4)
    rank = waiting()
    alone = rank.connect("127.0.0.2")
    crowd = [rank.connect("127.0.0.3") for _ in range(20)]
    assert [each.recv(1) for each in crowd[:17]] == [b""] * 17
    for each in (alone, *crowd[17:]):  # are there still, and would be heard
        answer = handshake.new_answer(TOKEN[::-1], b"")
        each.sendall(answer)
        assert take(each, handshake.ADMISSION) == handshake.DENIAL
    for each in (alone, *crowd):
        each.close()
    rank.other()


# -- members -----------------------------------------------------------------------------------------------


def test_a_rank_with_another_token_is_told_and_the_right_one_waited_for(waiting: Callable[..., Waiting]) -> None:
    rank = waiting()
    text = r"^rank 0 at 127.0.0.1:\d+ does not take rank 1 for a rank of its launch: its token is another; GRAPHIR_"
    with pytest.raises(CommunicationError, match=text):
        rank.other(TOKEN[::-1])
    with pytest.raises(CommunicationError, match=r"^rank 1 has no token to show to rank 0 at .*; set GRAPHIR_TOKEN to"):
        rank.other(None)
    rank.other()
    assert rank.end() == "None"


def test_a_member_that_goes_before_all_have_come_is_not_waited_for(waiting: Callable[..., Waiting]) -> None:
    rank = waiting(TOKEN, LIMIT, 3)
    rank.come(Frame(Kind.HELLO, 2, 3, "process 7 on gpu1")).close()
    text = "the ranks do not find together: rank 2 (process 7 on gpu1) came, and was gone before all others had come"
    assert rank.end() == text


def test_a_rank_that_sends_what_no_rank_sends_loses_its_own_connection_alone() -> None:
    """The others hear of it, and of each other."""
    ranks = Ranks(3)
    one = ranks.peers[1]
    assert one._connection is not None
    one._connection.sendall(b"?" * 100)
    for each in (ranks.peers[0], ranks.peers[2]):
        text = r"^rank 1 has failed: its process \d+ on \S+ has sent what no rank sends: a frame of kind 63$"
        with pytest.raises(RankError, match=text):
            each.fetch(1, "a message")
    ranks.peers[0].post(2, b"still here")
    with ranks.peers[2]._changed:
        assert ranks.peers[2]._changed.wait_for(lambda: ranks.peers[2]._messages[0], LIMIT)
    ranks.close()


def test_a_message_for_a_rank_that_is_none() -> None:
    met = Ranks(2)
    met.peers[1]._send(Frame(Kind.MESSAGE, 2))
    with pytest.raises(RankError, match="has sent what no rank sends: a message for rank 2 of 2"):
        met.peers[0].fetch(1, "a message")
    met.close()


def test_the_limit_is_the_launchers() -> None:
    launch = Launch(2, 0, 2, 0, ("127.0.0.1", free_port()), token=TOKEN, timeout=0.1)
    with pytest.raises(CommunicationError, match=r"only rank 0 came within 0.1 s, and rank 1 did not; start every"):
        TcpPeers(launch)
    with pytest.raises(CommunicationError, match=r"^rank 1 finds nobody at \S+ within 0.1 s"):
        TcpPeers(replace(launch, rank=1))


# -- tokens ------------------------------------------------------------------------------------------------


def test_ranks_of_one_machine_find_a_token_that_nobody_else_reads(waiting: Callable[..., Waiting]) -> None:
    rank = waiting(None)
    rank.connect().close()
    token = find_token(rank.address)
    assert token is not None
    assert len(token) == 64
    (file,) = Path(tempfile.gettempdir()).glob("graphir-*/*")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (file, file.parent)] == [0o600, 0o700]
    rank.other(None)
    assert rank.end() == "None"
    assert not file.exists()
    assert find_token(rank.address) is None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "kill"), reason="sends a signal")
def test_rank_0_interrupted_leaves_no_token(tmp_path: Path) -> None:
    address = "127.0.0.1", free_port()
    program = f"""
from graphir.backends.communicator.tcp_peers import TcpPeers
from graphir.launch import Launch
TcpPeers(Launch(3, 0, 3, 0, {address}))
"""
    variables = {**environment(0, 1, 1), "TMPDIR": str(tmp_path)}
    first = subprocess.Popen([sys.executable, "-c", program], env=variables, stderr=subprocess.PIPE, text=True)
    with connect(address) as stranger:
        assert take(stranger, 1)  # it is spoken to, so rank 0 waits for the others by now
    assert find_token(address) is not None
    first.send_signal(signal.SIGINT)
    assert first.communicate(timeout=LIMIT)[1].endswith("KeyboardInterrupt\n")
    assert find_token(address) is None


def test_no_token_is_left_where_others_may_read_it(tmp_path: Path) -> None:
    address = ("127.0.0.1", free_port())
    _, file = leave_token(address)
    assert find_token(address) is not None
    folder = file.parent
    folder.chmod(0o755)
    assert find_token(address) is None
    launch = Launch(2, 0, 2, 0, address)
    text = rf"^rank 0 cannot leave a token for the other ranks in {folder}: others than user .* can read or write it; "
    with pytest.raises(CommunicationError, match=text):
        TcpPeers(launch)
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CommunicationError, match=text):
        TcpPeers(launch)


def test_what_a_launch_that_was_killed_has_left_is_no_token_of_the_next() -> None:
    address = "127.0.0.1", free_port()
    left, file = leave_token(address)
    with closing(rendezvous.Rendezvous(Launch(2, 0, 2, 0, address), LIMIT)):
        assert find_token(address) not in (left, None)
    assert not file.exists()


def test_a_port_that_is_taken_leaves_its_owner_its_token() -> None:
    address = "127.0.0.1", free_port()
    launch = Launch(2, 0, 2, 0, address)
    with closing(rendezvous.Rendezvous(launch, LIMIT)):
        token = find_token(address)
        with pytest.raises(CommunicationError, match="Address already in use"):
            rendezvous.Rendezvous(launch, LIMIT)
        assert find_token(address) == token


def test_ranks_of_several_machines_need_a_token() -> None:
    text = "^ranks on several machines need a token to know each other by; set GRAPHIR_TOKEN to the same secret for all"
    with pytest.raises(CommunicationError, match=text):
        TcpPeers(Launch(2, 0, 1, 0, ("127.0.0.1", free_port())))
