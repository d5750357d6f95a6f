"""How processes find out that they belong together, meet by TCP, and end together, without any MPI.

Real processes are started, and each test has a time limit, so that a hang is a failure.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from graphir.backends.communicator import communicator_for
from graphir.backends.communicator.frames import DATA, TEXT, Frame, Kind, Reader, pack
from graphir.backends.communicator.mpi import misfit
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
from graphir.launch import Launch, find_launch, processes_here
from tests.support.free_port import free_port
from tests.support.mpi import launch as mpiexec
from tests.support.mpi import needs_mpi
from tests.support.paths import ROOT
from tests.support.processes import LIMIT, PATIENT, environment, launch

TORCH = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu0", "MASTER_PORT": "29500"}

#: What every rank of a program does first.
START = """
import os, signal, sys, time
from graphir.backends.communicator.meeting import peers
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
here = peers()
here.name_ranks_by(Mesh(dp=2, tp=2))
rank = here.rank
here.share(b"", "a start")
"""


# -- variables ---------------------------------------------------------------------------------------------


def test_what_torchrun_says() -> None:
    assert find_launch(TORCH) == Launch(4, 3, 4, 1, ("gpu0", 29500))
    assert find_launch({**TORCH, "LOCAL_WORLD_SIZE": "2"}) == Launch(4, 3, 2, 1, ("gpu0", 29500))


def test_where_torchrun_has_taken_the_port_ranks_meet_at_the_next() -> None:
    told = find_launch({**TORCH, "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert told is not None
    assert told.master == ("gpu0", 29501)
    told = find_launch({**TORCH, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    assert told is not None
    assert told.master == ("gpu0", 29500)


@pytest.mark.parametrize("lacking", sorted(TORCH))
def test_some_of_the_variables_are_about_something_else(lacking: str) -> None:
    assert find_launch({name: value for name, value in TORCH.items() if name != lacking}) is None


def test_who_is_in_charge_where_several_launchers_speak() -> None:
    """mpiexec whose script sets the others' variables, too; torchrun that mpiexec has started on each machine."""
    mpi = {"PMI_SIZE": "2", "PMI_RANK": "1"}
    assert find_launch({**mpi, **TORCH}) == Launch(2, 1, 2, 1)
    assert find_launch({**mpi, **TORCH, "TORCHELASTIC_RUN_ID": "none"}) == Launch(4, 3, 4, 1, ("gpu0", 29500))


def test_how_many_share_a_machine() -> None:
    assert processes_here({}) == processes_here(TORCH | {"RANK": "9"}) == 1
    assert processes_here(TORCH | {"LOCAL_WORLD_SIZE": "2"}) == 2
    assert processes_here({"PMI_SIZE": "6", "PMI_RANK": "0", "MPI_LOCALNRANKS": "3"}) == 3


def test_which_process_of_its_machine_one_is() -> None:
    assert find_launch({"PMI_SIZE": "8", "PMI_RANK": "6", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "1"}) == Launch(
        8, 6, 4, 1
    )
    names = ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")
    assert find_launch({f"OMPI_COMM_WORLD_{name}": value for name, value in zip(names, "6230", strict=True)}) == Launch(
        6, 2, 3, 0
    )


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"RANK": "four"}, "RANK=four, LOCAL_RANK=1, MASTER_ADDR=gpu0, MASTER_PORT=29500, all but MASTER_ADDR must be"),
        ({"RANK": "4"}, "RANK=4, .*: ranks count from 0 to WORLD_SIZE - 1"),
        ({"MASTER_PORT": "65535"}, "a port is between 1 and 65534"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is a host"),
        ({"LOCAL_WORLD_SIZE": "two"}, "LOCAL_WORLD_SIZE=two, all but MASTER_ADDR must be whole numbers"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE=0: ranks count from 0"),
        ({"GRAPHIR_TOKEN": "not-so-secret"}, "^GRAPHIR_TOKEN has 13 characters, and needs 16 at least, so that nobody"),
        ({"GRAPHIR_TOKEN": ""}, "^GRAPHIR_TOKEN has 0 characters"),
        ({"GRAPHIR_TIMEOUT": "soon"}, "^GRAPHIR_TIMEOUT=soon is no number of seconds between 0 and 10,000,000$"),
        ({"GRAPHIR_TIMEOUT": "nan"}, "^GRAPHIR_TIMEOUT=nan is no number"),
        ({"GRAPHIR_TIMEOUT": "inf"}, "^GRAPHIR_TIMEOUT=inf is no number"),
        ({"GRAPHIR_TIMEOUT": "-1"}, "^GRAPHIR_TIMEOUT=-1 is no number"),
    ],
)
def test_variables_that_cannot_be(wrong: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        find_launch({**TORCH, **wrong})


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"PMI_SIZE": "six"}, "^of PMI_SIZE=six, PMI_RANK=1, all must be whole numbers$"),
        ({"PMI_RANK": "2"}, "^PMI_SIZE=2, PMI_RANK=2: ranks count from 0 to PMI_SIZE - 1"),
        ({"MPI_LOCALNRANKS": "0"}, "^PMI_SIZE=2, PMI_RANK=1, MPI_LOCALNRANKS=0: ranks count from 0"),
    ],
)
def test_variables_of_mpi_that_cannot_be(wrong: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        find_launch({"PMI_SIZE": "2", "PMI_RANK": "1", **wrong})


def test_variables_of_our_own() -> None:
    said = {"GRAPHIR_TOKEN": "0123456789abcdef", "GRAPHIR_LISTEN": "0.0.0.0", "GRAPHIR_TIMEOUT": "7.5"}
    launch = find_launch({**TORCH, **said})
    assert launch is not None
    assert (launch.token, launch.listen, launch.timeout) == (b"0123456789abcdef", "0.0.0.0", 7.5)
    assert "0123" not in repr(launch), "what is printed is no secret"
    mpi = find_launch({"PMI_SIZE": "2", "PMI_RANK": "1", **said})
    assert mpi is not None
    assert (mpi.token, mpi.timeout) == (None, 7.5)


@pytest.mark.slow
def test_on_the_command_line_variables_that_cannot_be_are_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graphir", "train", "--steps", "1"],
        env={**environment(0, 2, 1), "RANK": "x"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=LIMIT,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: of WORLD_SIZE=2, RANK=x, LOCAL_RANK=0")
    assert done.stderr.count("\n") == 1


# -- which communicator ------------------------------------------------------------------------------------


def test_ranks_and_backends_that_do_not_go_together() -> None:
    for backend in ("numpy", "reference"):
        text = rf"^backend='{backend}' has no ranks='nccl': choose from simulated, mpi, or use backend='cupy'$"
        with pytest.raises(ConfigError, match=text):
            communicator_for(Mesh(tp=2), "nccl", backend=backend)
    with pytest.raises(
        ConfigError, match=r"^backend='cupy' has no ranks='mpi': choose from simulated, nccl, or use backend='numpy'"
    ):
        communicator_for(Mesh(tp=2), "mpi", backend="cupy")
    with pytest.raises(ConfigError, match=r"^ranks='pvm' is unknown; choose from simulated, mpi, nccl$"):
        communicator_for(Mesh(tp=2), "pvm")


def test_a_mesh_of_another_size_says_what_fits() -> None:
    assert misfit(Mesh(dp=2, tp=3), 4, "torchrun --nproc-per-node") == (
        "dp=2, tp=3 needs 6 ranks, but 4 processes were started; start it by torchrun --nproc-per-node 6, or choose "
        "tp=4 or dp=2, tp=2 or dp=4"
    )


# -- frames ------------------------------------------------------------------------------------------------


def test_frames_come_out_of_pieces_of_any_size() -> None:
    frames = [Frame(Kind.FAILED, text="é"), Frame(Kind.MESSAGE, 1, 2**64 - 1, data=bytes(range(256)) * 40)]
    stream = b"".join(pack(frame) for frame in frames)
    for size in (1, 7, 4096, len(stream)):
        reader = Reader(Kind)
        found = [frame for i in range(0, len(stream), size) for frame in reader.feed(stream[i : i + size])]
        assert found == frames


def test_what_is_no_frame_is_refused() -> None:
    for stream, text in {
        b"GET / HTTP/1.1\r\n\r\n" + bytes(25): "a frame of kind 71",
        pack(Frame(Kind.WELCOME)): "a frame of kind 2",
        pack(Frame(Kind.FAILED, text="12345")): "a frame with a text of 5 and data of 0 bytes",
        pack(Frame(Kind.PART, data=b"123456789")): "a frame with a text of 0 and data of 9 bytes",
        pack(Frame(Kind.FAILED, text="é"))[:-1] + b"!": "invalid continuation byte",
    }.items():
        with pytest.raises(ValueError, match=text):
            list(Reader([Kind.FAILED, Kind.PART], text=4, data=8).feed(stream))


def test_a_frame_says_that_it_is_too_long_before_it_has_come() -> None:
    head = pack(Frame(Kind.PART))[:-8] + (DATA + 1).to_bytes(8, "big")
    with pytest.raises(ValueError, match=f"data of {DATA + 1} bytes"):
        list(Reader(Kind).feed(head))


def test_a_traceback_of_any_length_and_any_characters_can_be_told() -> None:
    (frame,) = Reader(Kind).feed(pack(Frame(Kind.FAILED, text="\udc80" + "é" * TEXT)))
    assert frame.text.startswith("\\udc80é")
    assert TEXT - 2 < len(frame.text.encode()) <= TEXT


# -- meeting -----------------------------------------------------------------------------------------------


SHARING = (
    START
    + """
assert here.share(b"%d" % rank * rank, "parts") == [b"", b"1", b"22", b"333"]
here.post((rank + 1) % 4, b"one of %d" % rank)
here.post((rank + 1) % 4, bytes(1 << 20))
here.post(rank, b"own")
assert here.fetch((rank - 1) % 4, "a message") == b"one of %d" % ((rank - 1) % 4)
assert here.fetch((rank - 1) % 4, "a message") == bytes(1 << 20)
assert here.fetch(rank, "a message") == b"own"
if rank < 3:
    here.fetch(rank + 1, "its last word")
sys.stdout.write(f"done {rank}\\n")  # in one piece, for the launcher puts together what all ranks write
if rank > 0:
    here.post(rank - 1, b"rank 0 ends last")
"""
)


def test_ranks_share_and_send() -> None:
    done = launch(4, "-c", SHARING)
    assert done.codes == [0] * 4, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", *(f"done {rank}" for rank in range(4))]
    assert done.stderr == [""] * 4


@pytest.mark.slow
@needs_mpi
def test_ranks_that_mpi_has_started_share_and_send() -> None:
    """What names a group of NCCL's travels so, under either launcher."""
    done = mpiexec(4, "-c", SHARING)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split("\n")) == ["", *(f"done {rank}" for rank in range(4))]


def meeting(folder: Path, ranks: int) -> str:
    """A program's beginning: it goes on when so many ranks have come so far, however long each took to start."""
    return f"""
import os, pathlib, time
(pathlib.Path({str(folder)!r}) / os.environ["RANK"]).touch()
while len(os.listdir({str(folder)!r})) < {ranks}:
    time.sleep(0.02)
"""


SHORT = "from graphir.backends.communicator import tcp_peers; tcp_peers.MEETING = 12.0\n"


@pytest.mark.slow
def test_who_waits_in_vain_is_told_who_came(tmp_path: Path) -> None:
    done = launch(4, "-c", SHORT + meeting(tmp_path, 2) + START, missing=frozenset({1, 3}))
    assert done.codes == [1, 1]
    text = (
        "the ranks do not find together: of 4 ranks only ranks 0, 2 came within 12 s, and ranks 1, 3 did not; start "
        "every RANK from 0 to 3 with the same MASTER_ADDR, MASTER_PORT and GRAPHIR_TOKEN; rank 0 listened at 127.0.0.1:"
    )
    assert all(text in told for told in done.stderr)


@pytest.mark.slow
def test_who_finds_no_master_is_told_where_it_looked() -> None:
    done = launch(2, "-c", SHORT.replace("12", "2") + START, missing=frozenset({0}))
    assert done.codes == [1]
    assert "rank 1 finds nobody at 127.0.0.1:" in done.stderr[0]
    assert "rank 0 has to be started there, and MASTER_ADDR and MASTER_PORT be the same" in done.stderr[0]


@pytest.mark.slow
def test_two_that_say_that_they_are_one_are_told_apart() -> None:
    # Who is refused last is told, too, however soon rank 0's process, and the hub with it, comes to its end.
    slow = "import time; from graphir.backends.communicator import rendezvous\n"
    slow += "usual = rendezvous._refuse; rendezvous._refuse = lambda *given: (usual(*given), time.sleep(0.5))\n"
    done = launch(3, "-c", slow + START, more={2: {"RANK": "1"}})
    assert done.codes == [1] * 3
    assert all("both say RANK=1; each needs one of its own" in told for told in done.stderr)


@pytest.mark.slow
def test_ranks_that_disagree_about_their_number() -> None:
    done = launch(2, "-c", START, more={1: {"WORLD_SIZE": "3"}})
    assert done.codes == [1] * 2
    assert all("says WORLD_SIZE=3, but rank 0 says WORLD_SIZE=2; all must say the same" in t for t in done.stderr)


@pytest.mark.slow
def test_a_stranger_at_the_port_is_sent_away() -> None:
    done = launch(
        2,
        "-c",
        """
import os, socket, threading, time
if os.environ["RANK"] == "1":
    for words in (b"GET / HTTP/1.1\\r\\n\\r\\n", b""):
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", int(os.environ["MASTER_PORT"])))
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        with stranger:
            stranger.sendall(words)
"""
        + START,
    )
    assert done.codes == [0, 0], done.stderr


@pytest.mark.slow
def test_a_port_that_is_taken() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        more = {0: {"MASTER_PORT": str(port)}}
        done = launch(2, "-c", SHORT + START, missing=frozenset({1}), more=more)
    assert done.codes == [1]
    assert f"rank 0 cannot listen at 127.0.0.1:{port} for the other ranks: Address already in use" in done.stderr[0]


# -- ending together ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rank_that_raises_ends_those_that_wait_for_it_and_those_that_do_not() -> None:
    """Rank 1 waits for rank 3, rank 0 and 2 for a device, which nothing of Python can interrupt."""
    done = launch(
        4,
        "-c",
        START
        + """
if rank == 3:
    raise ConfigError("the moon is full")
if rank == 1:
    here.share(b"", "a sum")
time.sleep(2 * 300)
print("reached")
""",
    )
    assert all(done.codes)
    told = done.stderr[3]
    assert told.startswith("rank 3 (dp=1, tp=1): Traceback (most recent call last):")
    assert "ConfigError: the moon is full\n" in told
    assert done.stderr[:3] == ["", "", ""]
    assert "reached" not in done.stdout


@pytest.mark.slow
def test_what_all_ranks_raise_is_told_once() -> None:
    # They wait for each other's note, and here for as long as a busy machine may take to bring it.
    patient = "from graphir.backends.communicator import peers as module; module.GRACE = 100.0\n"
    done = launch(4, "-c", START + patient + 'raise ConfigError("no such plan")')
    assert done.codes == [1] * 4
    assert "".join(done.stderr).count("no such plan") == 1
    assert done.stderr[0].startswith("Traceback (most recent call last):")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 2])
def test_a_rank_that_is_killed_is_named(killed: int) -> None:
    """Rank 0, through which all others speak, no less than any other."""
    done = launch(
        4,
        "-c",
        START
        + f"""
if rank == {killed}:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(2 * 300) if rank == 1 else here.share(b"", "a sum")
""",
    )
    assert all(done.codes)
    told = [line for text in done.stderr for line in text.splitlines() if line.startswith("error")]
    assert len(told) == 1
    named = "rank 0 (dp=0, tp=0)" if killed == 0 else "rank 2 (dp=1, tp=0)"
    assert told[0].startswith(f"error: {named} is gone: its process")
    assert told[0].endswith(" was killed or has crashed; all ranks stop")


#: Rank 0 waits until the others have said all they had to say.
LAST = """
while rank == 0 and len(here._heard) < here.size - 1:
    time.sleep(0.01)
"""


@pytest.mark.slow
def test_rank_0_killed_while_the_others_wait_for_its_end() -> None:
    """They have said all they had to say, and nobody would tell them anything any more."""
    done = launch(3, "-c", START.replace("dp=2, tp=2", "tp=3") + LAST + "\nif rank == 0:\n    os.kill(os.getpid(), 9)")
    assert done.codes == [-signal.SIGKILL, 1, 1]
    assert re.fullmatch(r"error: rank 0 \(tp=0\) is gone: its process \d+ on \S+ was killed or .*\n", done.stderr[1])
    assert done.stderr[2] == ""


@pytest.mark.slow
def test_rank_0_leaves_when_all_have_heard_that_it_does() -> None:
    """Its last words are on their way still when it has come to its end: here, for a tenth of a second each."""
    slow = """
import time
from graphir.backends.communicator.hub import Hub
usual = Hub._pass_on
Hub._pass_on = lambda *frame: (time.sleep(0.1), usual(*frame))
"""
    done = launch(2, "-c", slow + START.replace("dp=2, tp=2", "tp=2") + LAST)
    assert (done.codes, done.stderr) == ([0, 0], ["", ""])


@pytest.mark.slow
def test_a_rank_that_ends_too_early_is_waited_for_no_longer_than_patience() -> None:
    done = launch(
        2,
        "-c",
        START
        + """
from graphir.backends.communicator import peers
peers.PATIENCE = 1.0
if rank == 0:
    sys.exit(0)
here.share(b"", "an all-reduce over tp")
""",
    )
    assert done.codes[1] == 1
    text = "waits for an all-reduce over tp, but rank 0 (dp=0, tp=0) has come to the end of its program"
    assert text in done.stderr[1]


@pytest.mark.slow
def test_mpi_is_refused_to_processes_that_mpi_has_not_started() -> None:
    program = """
from graphir.backends.communicator import communicator_for
from graphir.ir.layout import Mesh
communicator_for(Mesh(tp=2), "mpi")
"""
    done = launch(2, "-c", program)
    assert done.codes == [1, 1]
    text = "ranks='mpi' needs processes that MPI's launcher has started, mpiexec or mpirun"
    assert "".join(done.stderr).count(text) == 1


@pytest.mark.slow
def test_wrong_options_are_told_once() -> None:
    done = launch(2, "-c", PATIENT, "train", "--nix")
    assert done.codes == [2, 2]
    assert "".join(done.stderr).count("error: No such option '--nix'") == 1


@pytest.mark.torch
@pytest.mark.slow
def test_torchrun_itself(tmp_path: Path) -> None:
    torchrun = Path(sys.executable).parent / "torchrun"
    found = str(torchrun) if torchrun.is_file() else shutil.which("torchrun")
    if found is None:
        pytest.skip("PyTorch is not installed")
    program = tmp_path / "program.py"
    program.write_text(START + 'assert here.share(b"%d" % rank, "ranks") == [b"0", b"1"]\nprint("met", rank)\n')
    done = subprocess.run(
        [found, "--nproc-per-node", "2", "--master-port", str(free_port()), str(program)],
        env=environment(0, 1, 1) | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("met") == 2
