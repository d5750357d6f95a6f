"""Ranks on several machines: at which address they meet, who else may be there, and a network that falls silent."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest

from graphir.backends.communicator.sockets import SILENCE, bind, close, listen, reach, spoken, watched
from graphir.backends.communicator.tcp_peers import TcpPeers
from graphir.errors import CommunicationError
from graphir.launch import Launch
from tests.support.free_port import free_port
from tests.support.paths import ROOT
from tests.support.processes import LIMIT, environment

#: An address that is kept for examples, and no machine's own.
NOBODYS = "192.0.2.1"


# -- addresses ---------------------------------------------------------------------------------------------


def places(bound: list[socket.socket]) -> list[tuple[str, int]]:
    """Where sockets are bound; they are closed."""
    found = [each.getsockname()[:2] for each in bound]
    close(bound)
    return found


def has_ipv6() -> bool:
    """Whether this machine reaches itself by IPv6."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def named(patch: pytest.MonkeyPatch, *addresses: str) -> None:
    """From now on these are what the name `gpu0` means."""
    usual = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> list[Any]:
        return [found for each in (addresses if host == "gpu0" else [host]) for found in usual(each, *rest, **more)]

    patch.setattr(socket, "getaddrinfo", look_up)


def test_an_address_is_listened_at_alone() -> None:
    assert places(bind(("127.0.0.1", port := free_port()))) == [("127.0.0.1", port)]


def test_a_name_is_listened_at_where_it_means_this_machine_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, NOBODYS, "127.0.0.2", "127.0.0.1", "127.0.0.2")
    port = free_port()
    assert places(bind(("gpu0", port))) == [("127.0.0.2", port), ("127.0.0.1", port)]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_whoever_else_listens_at_one_of_a_names_addresses_has_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that look it up may try that one first."""
    named(monkeypatch, "127.0.0.1", "::1")
    port = free_port()
    with (
        socket.create_server(("::1", port), family=socket.AF_INET6),
        pytest.raises(CommunicationError, match=r"^rank 0 cannot listen at gpu0:\d+ .* Address already in use"),
    ):
        bind(("gpu0", port))
    assert places(bind(("gpu0", port))) == [("127.0.0.1", port), ("::1", port)]


def test_a_name_that_other_machines_do_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many systems give a machine's own name an address, 127.0.1.1, that no other machine reaches."""
    named(monkeypatch, "127.0.1.1")
    launch = Launch(2, 0, 1, 0, ("gpu0", free_port()), token=b"0123456789abcdef")
    text = (
        "^other machines do not reach rank 0 at gpu0:.*, which here means 127.0.1.1: let MASTER_ADDR, or GRAPHIR_LIST"
    )
    with pytest.raises(CommunicationError, match=text):
        TcpPeers(launch)
    with pytest.raises(CommunicationError, match=r"and rank 1 did not.*; rank 0 listened at 127.0.0.1:\d+, where its"):
        TcpPeers(replace(launch, listen="127.0.0.1"), 0.1)


def test_an_address_that_passes_on_needs_another_that_is_listened_at() -> None:
    launch = Launch(2, 0, 1, 0, (NOBODYS, port := free_port()), token=b"0123456789abcdef")
    text = (
        rf"^rank 0 cannot listen at {NOBODYS}:{port}, which here means {NOBODYS}, no address of its machine: .* GRAPH"
    )
    with pytest.raises(CommunicationError, match=text):
        TcpPeers(launch)
    with pytest.raises(CommunicationError, match=rf"rank 0 listened at 0.0.0.0:{port}"):
        TcpPeers(replace(launch, listen="0.0.0.0"), 0.1)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "no such host"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(
        CommunicationError, match=r"^rank 0 cannot listen at .*: .*; choose another MASTER_PORT, and let"
    ):
        bind((host, 1))
    with pytest.raises(CommunicationError, match=r"^rank 1 finds nobody at "):
        reach((host, 1), 0.0, "rank 1")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_address_of_ipv6() -> None:
    bound = bind(address := ("::1", free_port()))
    listen(bound, address, 2)
    reach(address, 5.0, "rank 1").close()
    assert places(bound) == [address]
    assert spoken(address) == f"[::1]:{address[1]}"


def test_a_stranger_at_the_masters_port_is_no_rank() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
                connection.recv(4096)

        stranger = threading.Thread(target=greet)
        stranger.start()
        text = rf"^rank 1 has met somebody at 127.0.0.1:{port} who does not answer as rank 0: another program has that"
        with pytest.raises(CommunicationError, match=text):
            TcpPeers(Launch(2, 1, 1, 0, ("127.0.0.1", port)), 5.0)
        stranger.join()


# -- silence -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's options")
def test_the_system_watches_a_connection() -> None:
    with socket.socket() as connection:
        watched(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        idle, interval, count = (connection.getsockopt(socket.IPPROTO_TCP, each) for each in options)
        assert idle + interval * count == SILENCE
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * SILENCE


def has_own_network() -> bool:
    """Whether a process here may have a network that no other has."""
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode == 0


#: A rank that notices silence after two seconds.
RANK = """
import time
from graphir.backends.communicator import sockets
sockets._OPTIONS.update(TCP_KEEPIDLE=1, TCP_KEEPCNT=1, TCP_USER_TIMEOUT=2000)
from graphir.backends.communicator.meeting import peers
here = peers()
here.share(b"", "a start")
print("met", flush=True)
time.sleep(2 * 300) if here.rank == 1 else here.share(b"", "a sum")
"""
#: A network of its own, in which nothing arrives from some moment on, and three ranks that have met there.
SILENT = """
import fcntl, json, socket, struct, subprocess, sys
rank, environments = json.loads(sys.argv[1])

def loopback(flags):
    with socket.socket() as any:
        fcntl.ioctl(any, 0x8914, struct.pack("16sh", b"lo", flags))  # SIOCSIFFLAGS

loopback(1)
told = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
ranks = [subprocess.Popen([sys.executable, "-c", rank], env=each, **told) for each in environments]
for each in ranks:
    assert each.stdout.readline() == "met\\n", each.communicate()
loopback(0)
ended = [(each.communicate()[1], each.returncode) for each in ranks]
json.dump(ended, sys.stdout)
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_own_network(), reason="this system lets no test have a network of its own, by unshare -rn")
def test_a_network_that_falls_silent_ends_all_ranks_and_is_told() -> None:
    """No connection is closed, and no process ends: only nothing arrives any more. Rank 1 would sleep on."""
    port = free_port()
    given = json.dumps([RANK, [environment(rank, 3, port) for rank in range(3)]])
    command = ["unshare", "-rn", sys.executable, "-c", SILENT, given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert [code for _, code in ended] == [1, 1, 1]
    why = r"has not answered for \d+ s: its machine, or the network to it, is down; all ranks stop"
    lost = [re.findall(rf"^error: rank (\d) is gone: its process \d+ on \S+ {why}$", told, re.M) for told, _ in ended]
    # Rank 0 goes when it has lost one of the two; whether it has lost the other by then, the system's timers say.
    assert set(lost[0]) in ({"1"}, {"2"}, {"1", "2"})
    assert lost[1:] == [["0"], ["0"]]
    assert [told.count("\n") for told, _ in ended] == [len(each) for each in lost]
