"""The watchdog of a machine's ranks: who is none of them does no harm by coming."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from graphir.backends.communicator import watchdog
from graphir.backends.communicator.watchdog import Watchdog, prove
from graphir.backends.communicator.watchdog_client import WatchdogClient
from tests.support.processes import LIMIT

TOKEN = b"0123456789abcdef"


class Scene:
    """A watchdog at work, as a thread, and what it tells."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, seconds: float = LIMIT) -> None:
        self.told: list[str] = []
        patch.setattr(watchdog, "tell", self.told.append)
        self.path = folder / "here" / "watchdog"
        self.path.parent.mkdir()
        self.held: list[socket.socket] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(1000)
        self.watchdog = Watchdog(listener, TOKEN, seconds)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        self.watchdog.watch()
        self.watchdog.close()

    def connect(self, *words: bytes) -> socket.socket:
        """Somebody comes, and says that."""
        connection = socket.socket(socket.AF_UNIX)
        self.held.append(connection)
        connection.settimeout(LIMIT)
        connection.connect(str(self.path))
        for each in words:
            connection.sendall(each)
        return connection

    def rank(self, number: int) -> WatchdogClient:
        """A rank comes, and is seen. It says of no process that it is its own, so that none is ended."""
        rank = WatchdogClient()
        rank.connect(f"{TOKEN.decode()} {self.path}", number)
        rank.meet(LIMIT)
        assert rank.is_connected
        return rank

    def end(self) -> None:
        """Returns when the watchdog has."""
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        for each in self.held:
            each.close()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(watchdog, "GRACE", 0.0)
    made = Scene(tmp_path, monkeypatch)
    yield made
    made.end()


def come(number: bytes) -> bytes:
    return b"come " + number + b" " + prove(TOKEN, number) + b"\n"


STRANGERS = {
    "garbage": b"\xff\xfe\n",
    "no proof": b"come 1\n",
    "wrong proof": b"come 1 " + prove(b"another", b"1") + b"\n",
    "another's proof": b"come 1 " + prove(TOKEN, b"2") + b"\n",
    "its own proof": b"come watchdog " + prove(TOKEN, watchdog.WATCHDOG) + b"\n",
    "no number": come(b"one"),
    "below zero": come(b"-1"),
    "infinite": come(b"Infinity"),
    "a long line": b"x" * 10_000,
    "a rank that has come": come(b"0"),
    "somebody's process": b"rank 1 rank 1\n",
    "no process": come(b"1") + b"rank one rank 1\n",
    "an end": b"failed\n",
}


@pytest.mark.parametrize("words", STRANGERS.values(), ids=STRANGERS)
def test_who_is_no_rank_is_sent_away_and_not_missed(words: bytes, scene: Scene) -> None:
    first = scene.rank(0)
    stranger = scene.connect(words)
    with suppress(ConnectionResetError):  # what it said last may not even have been read
        while stranger.recv(100):
            pass
    second = scene.rank(1)
    for each in (first, second):
        each.tell("bye")
        each.close()
    scene.end()
    assert scene.told == []


def test_who_says_nothing_has_to_make_room(scene: Scene) -> None:
    silent = [scene.connect() for _ in range(200)]
    assert silent[0].recv(1) == b""
    rank = scene.rank(0)
    rank.tell("met")
    rank.tell("bye")
    rank.close()
    scene.end()
    assert scene.told == []


def test_nobody_comes_once_ranks_have_met(scene: Scene) -> None:
    rank = scene.rank(0)
    rank.tell("met")
    rank.close()  # without a word
    scene.end()
    assert not scene.path.parent.exists()
    (told,) = scene.told
    assert told.startswith("error: a rank is gone: its process 0 on ")


def test_strangers_do_not_keep_the_watchdog_from_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy they keep it."""
    scene = Scene(tmp_path, monkeypatch, seconds=0.1)

    def knock() -> None:
        with suppress(OSError):  # until it listens no more
            while True:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(scene.path))

    strangers = [threading.Thread(target=knock) for _ in range(3)]
    rank = scene.rank(0)
    for each in strangers:
        each.start()
    scene.end()
    rank.close()
    for each in strangers:
        each.join(LIMIT)
    (told,) = scene.told
    assert "has waited 0.1 s for all ranks to begin with MPI" in told


def test_a_rank_whose_watchdog_is_none_goes_on_alone(tmp_path: Path) -> None:
    rank = WatchdogClient()
    rank.connect(f"{TOKEN.decode()} {tmp_path / 'nobody'}", 0)
    rank.meet(LIMIT)
    assert not rank.is_connected
    rank.tell("bye")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "impostor"))
        listener.listen(1)
        rank.connect(f"{TOKEN.decode()} {tmp_path / 'impostor'}", 0)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(prove(TOKEN, b"0") + b"\n")
            rank.meet(LIMIT)
    assert not rank.is_connected
