"""Strangers at the port where ranks meet, before rank 0's door and in its place: none may do harm."""

from __future__ import annotations

import json
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random

from graphir.backends.communicator import handshake, rendezvous
from graphir.backends.communicator.frames import DATA, TEXT, Frame, Kind, pack
from tests.attack.siege import Impostor, Siege, Stranger, see_through, spoken, take, withstand

#: A head as it was before frames had one of fixed size: lengths, and JSON.
_LENGTHS = struct.Struct("!IQ")
#: Who comes to where ranks meet, and who is there in place of rank 0.
STRANGERS: list[Stranger] = []
IMPOSTORS: list[Impostor] = []


def stranger(kind: Stranger) -> Stranger:
    """Declares one who comes."""
    STRANGERS.append(kind)
    return kind


def impostor(kind: Impostor) -> Impostor:
    """Declares one who is there."""
    IMPOSTORS.append(kind)
    return kind


def strangers(seed: int) -> Iterator[tuple[str, str]]:
    """Every kind of stranger once, in some order: who it was, and what came of it. AttackError if it did harm."""
    random = Random(seed)
    trials: list[Callable[[Random], str]] = [
        *(partial(withstand, kind) for kind in STRANGERS),
        *(partial(see_through, kind) for kind in IMPOSTORS),
    ]
    kinds = [*STRANGERS, *IMPOSTORS]
    for number in random.sample(range(len(kinds)), len(kinds)):
        yield spoken(kinds[number]), trials[number](random)


# -- who says nothing, or nothing that is meant for us -----------------------------------------------------


@stranger
def silence(siege: Siege) -> None:
    siege.connect()


@stranger
def port_scan(siege: Siege) -> None:
    siege.connect().close()


@stranger
def reset(siege: Siege) -> None:
    connection = siege.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@stranger
def half_closed(siege: Siege) -> None:
    siege.connect().shutdown(socket.SHUT_WR)


@stranger
def web_browser(siege: Siege) -> None:
    siege.connect().sendall(b"GET / HTTP/1.1\r\nHost: gpu0:29500\r\n\r\n")


@stranger
def tls_client(siege: Siege) -> None:
    siege.connect().sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + siege.random.randbytes(500))


@stranger
def ssh_client(siege: Siege) -> None:
    siege.connect().sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")


@stranger
def noise(siege: Siege) -> None:
    siege.connect().sendall(siege.random.randbytes(siege.random.randrange(1, 5000)))


@stranger
def zeros(siege: Siege) -> None:
    siege.connect().sendall(bytes(handshake.ANSWER))


@stranger
def urgent_data(siege: Siege) -> None:
    siege.connect().send(b"!", socket.MSG_OOB)


@stranger
def endless_data(siege: Siege) -> None:
    connection, piece = siege.connect(), bytes(1 << 16)
    siege.go_on(lambda: connection.sendall(piece))


# -- who begins as a rank would ----------------------------------------------------------------------------


@stranger
def slow_writer(siege: Siege) -> None:
    connection, left = siege.connect(), iter(handshake.MAGIC + bytes(1 << 20))
    siege.go_on(lambda: connection.sendall(bytes([next(left)])))


@stranger
def half_an_answer(siege: Siege) -> None:
    connection = siege.connect()
    connection.sendall((handshake.MAGIC + siege.random.randbytes(64))[: siege.random.randrange(1, 72)])
    connection.close()


@stranger
def wrong_proof(siege: Siege) -> None:
    _answer(siege, handshake.MAGIC + siege.random.randbytes(64))


@stranger
def wrong_token(siege: Siege) -> None:
    connection = siege.connect()
    challenge = take(connection, handshake.CHALLENGE)
    connection.sendall(handshake.new_answer(siege.random.randbytes(32), challenge))
    assert take(connection, handshake.ADMISSION) == handshake.DENIAL


@stranger
def empty_token(siege: Siege) -> None:
    connection = siege.connect()
    connection.sendall(handshake.new_answer(b"", take(connection, handshake.CHALLENGE)))


@stranger
def echo(siege: Siege) -> None:
    connection = siege.connect()
    connection.sendall(take(connection, handshake.CHALLENGE) + bytes(32))


@stranger
def replay(siege: Siege) -> None:
    """What a rank has said once, to another challenge."""
    member, stranger = siege.connect(), siege.connect()
    answer = handshake.new_answer(siege.known_token(), take(member, handshake.CHALLENGE))
    take(stranger, handshake.CHALLENGE)
    stranger.sendall(answer)
    assert take(stranger, handshake.ADMISSION) == handshake.DENIAL


@stranger
def reflection(siege: Siege) -> None:
    """The hub's own proof, shown to it as a rank's."""
    one, other = siege.connect(), siege.connect()
    challenge = take(other, handshake.CHALLENGE)
    answer = handshake.new_answer(siege.known_token(), take(one, handshake.CHALLENGE))
    one.sendall(answer)
    other.sendall(challenge + take(one, handshake.ADMISSION))
    assert take(other, handshake.ADMISSION) == handshake.DENIAL


@stranger
def more_than_an_answer(siege: Siege) -> None:
    """A hello that does not wait for the proof to be believed."""
    _answer(siege, handshake.MAGIC + siege.random.randbytes(64) + pack(Frame(Kind.HELLO, 1, 2, "process 1 on here")))


# -- who says hello without a word about the token ---------------------------------------------------------


@stranger
def rank_1_pretended(siege: Siege) -> None:
    _say_hello(siege, '{"kind": "hello", "rank": 1, "size": 2, "process": 1, "machine": "here"}')


@stranger
def rank_99_pretended(siege: Siege) -> None:
    _say_hello(siege, '{"kind": "hello", "rank": 99, "size": 2, "process": 1, "machine": "here"}')


@stranger
def rank_below_zero_pretended(siege: Siege) -> None:
    _say_hello(siege, '{"kind": "hello", "rank": -1, "size": 2, "process": 1, "machine": "here"}')


@stranger
def infinite_rank(siege: Siege) -> None:
    _say_hello(siege, json.dumps({"kind": "hello", "rank": float("inf"), "size": float("nan")}))


@stranger
def deep_nesting(siege: Siege) -> None:
    _say_hello(siege, "[" * 100_000)


@stranger
def a_head_without_end(siege: Siege) -> None:
    siege.connect().sendall(_LENGTHS.pack(1 << 20, 1 << 60) + b"{" * 1000)


# -- who knows the token, and is out of its mind -----------------------------------------------------------


@stranger
def member_that_falls_silent(siege: Siege) -> None:
    siege.prove()


@stranger
def member_that_goes(siege: Siege) -> None:
    siege.prove().close()


@stranger
def member_with_a_rank_too_high(siege: Siege) -> None:
    siege.prove().sendall(pack(Frame(Kind.HELLO, 2, 2)))


@stranger
def member_with_a_rank_below_zero(siege: Siege) -> None:
    siege.prove().sendall(pack(Frame(Kind.HELLO, -1, 2)))


@stranger
def member_that_says_something_else(siege: Siege) -> None:
    kinds = [kind for kind in Kind if kind != Kind.HELLO]
    siege.prove().sendall(pack(Frame(siege.random.choice(kinds), 1, 2)))


@stranger
def member_that_talks_nonsense(siege: Siege) -> None:
    siege.prove().sendall(siege.random.randbytes(5000))


@stranger
def member_with_a_long_name(siege: Siege) -> None:
    siege.prove().sendall(pack(Frame(Kind.HELLO, 1, 2, "x" * siege.random.choice([5000, TEXT]))))


@stranger
def member_with_a_name_that_is_none(siege: Siege) -> None:
    siege.prove().sendall(pack(Frame(Kind.HELLO, 1, 2, "xx")).replace(b"xx", b"\xff\xfe"))


@stranger
def member_with_endless_data(siege: Siege) -> None:
    siege.prove().sendall(
        pack(Frame(Kind.HELLO, 1, 2))[:-8] + struct.pack("!Q", siege.random.choice([1, DATA, 1 << 63]))
    )


# -- many --------------------------------------------------------------------------------------------------


@stranger
def a_thousand_connections(siege: Siege) -> None:
    """As many as this process may have, of those that stay and say nothing."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for _ in range(min(1000, allowed - rendezvous.NEWCOMERS - 200)):
        siege.connect()


@stranger
def a_thousand_scans(siege: Siege) -> None:
    for _ in range(1000):
        siege.connect().close()


@stranger
def a_crowd_that_comes_again(siege: Siege) -> None:
    """Who is sent away is back at once."""

    def come() -> None:
        with suppress(OSError), socket.create_connection(siege.address) as connection:
            connection.sendall(b"me")

    for _ in range(4):
        siege.go_on(come)


@stranger
def no_descriptors_left(siege: Siege) -> None:
    """For a moment, this process may open nothing more, so that rank 0 can accept nobody."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as connection:
        siege.connect().close()  # rank 0 listens
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, usual[1]))
        try:
            connection.connect(siege.address)
            time.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@stranger
def all_at_once(siege: Siege) -> None:
    """Some of those above."""
    for each in siege.random.sample(STRANGERS[:-1], 8):
        with suppress(OSError):
            each(siege)


# -- who has rank 0's place --------------------------------------------------------------------------------


@impostor
def impostor_that_is_silent(siege: Siege, connection: socket.socket) -> None:
    siege.over.wait()


@impostor
def impostor_that_closes(siege: Siege, connection: socket.socket) -> None:
    """It does so each time."""


@impostor
def impostor_of_another_kind(siege: Siege, connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    take(connection, 1)


@impostor
def impostor_that_talks_slowly(siege: Siege, connection: socket.socket) -> None:
    for byte in handshake.new_challenge():
        connection.sendall(bytes([byte]))
        siege.over.wait(0.05)


@impostor
def impostor_that_denies(siege: Siege, connection: socket.socket) -> None:
    connection.sendall(handshake.new_challenge())
    take(connection, handshake.ANSWER)
    connection.sendall(handshake.DENIAL)
    take(connection, 1)


@impostor
def impostor_that_guesses(siege: Siege, connection: socket.socket) -> None:
    connection.sendall(handshake.new_challenge())
    take(connection, handshake.ANSWER)
    connection.sendall(siege.random.randbytes(handshake.ADMISSION))
    take(connection, 1)


@impostor
def impostor_that_reflects(siege: Siege, connection: socket.socket) -> None:
    """The rank's own proof, shown to it as the hub's."""
    connection.sendall(handshake.new_challenge())
    connection.sendall(take(connection, handshake.ANSWER)[-handshake.ADMISSION :])
    take(connection, 1)


@impostor
def impostor_that_welcomes(siege: Siege, connection: socket.socket) -> None:
    """As if nothing had to be proved."""
    connection.sendall(pack(Frame(Kind.WELCOME, 0, text="process 1 on here")) * 10)
    take(connection, 1)


def _answer(siege: Siege, words: bytes) -> None:
    connection = siege.connect()
    take(connection, handshake.CHALLENGE)
    connection.sendall(words)


def _say_hello(siege: Siege, head: str) -> None:
    siege.connect().sendall(_LENGTHS.pack(len(head), 0) + head.encode())


__all__ = ["IMPOSTORS", "STRANGERS", "strangers"]
