"""Ranks that fail: all end within seconds, and it is told which one and why, once; nobody waits for ever.

Programs are started for real, by mpiexec; each test has a time limit, so that a hang is a failure.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from graphir.training import find_checkpoint, load_checkpoint
from tests.support.mpi import OPEN_MPIS_LAUNCHER, command, environment, launch, needs_mpi, process_of, words
from tests.support.paths import ROOT
from tests.support.processes import LIMIT, PATIENT

pytestmark = [needs_mpi, pytest.mark.slow]

#: What every rank of a program does first.
START = """
import os, signal, sys, time
import numpy as np
from graphir.backends.communicator.mpi import MpiCommunicator
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
communicator = MpiCommunicator(Mesh(dp=2, tp=2))
rank = communicator.rank
ones = [np.ones(1000)]
communicator.all_reduce(ones, ("tp",))
"""


def run(program: str, ranks: int = 4) -> subprocess.CompletedProcess[str]:
    """The outcome of a program on so many ranks."""
    return launch(ranks, "-c", START + program)


def test_a_rank_that_raises_ends_all_and_is_told_first() -> None:
    done = run("""
if rank == 3:
    raise ConfigError("the moon is full")
communicator.all_reduce(ones, ("dp", "tp"))
print("reached")
""")
    assert done.returncode != 0
    assert done.stderr.startswith("rank 3 (dp=1, tp=1): Traceback (most recent call last):")
    assert "ConfigError: the moon is full\n" in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "is gone" not in done.stderr
    assert "reached" not in done.stdout


def test_a_rank_that_raises_while_others_compute_ends_them() -> None:
    done = run("""
if rank == 1:
    raise ConfigError("too early")
time.sleep(2 * 300)
""")
    assert done.returncode != 0
    assert done.stderr.startswith("rank 1 (dp=0, tp=1): Traceback")


def test_what_all_ranks_raise_is_told_once(tmp_path: Path) -> None:
    # A rank that is still in the barrier when another raises would follow that one, and raise nothing itself. They wait
    # for each other's notes, and here for as long as a busy machine may take to bring them.
    done = run(f"""
from graphir.backends.communicator import peers
peers.GRACE = 100.0
communicator.barrier()
open(os.path.join({str(tmp_path)!r}, str(rank)), "w").close()
while len(os.listdir({str(tmp_path)!r})) < 4:
    time.sleep(0.02)
raise ConfigError("no such plan")
""")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.count("no such plan") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_rank_that_is_killed_is_named(number: signal.Signals) -> None:
    done = run(f"""
communicator.barrier()
if rank == 2:
    os.kill(os.getpid(), {number:d})
communicator.all_reduce(ones, ("dp", "tp"))
""")
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(told) == 1
    assert told[0].startswith("error: rank 2 (dp=1, tp=0) is gone: its process ")
    assert told[0].endswith(" was killed or has crashed; all ranks stop")


def test_a_rank_that_ends_too_early_is_waited_for_no_longer_than_patience() -> None:
    done = run("""
from graphir.backends.communicator import peers
peers.PATIENCE = 1.0
if rank == 0:
    sys.exit(0)
communicator.all_reduce(ones, ("dp", "tp"))
""")
    assert done.returncode != 0
    text = (
        "waits for the first meeting of the ranks along dp and tp, but rank 0 (dp=0, tp=0) has come to the end of its "
    )
    assert text in done.stderr


def test_a_rank_that_is_stopped_is_given_up_and_named() -> None:
    """With the collective at which it was waited for, and the node."""
    done = run("""
communicator.barrier()
if rank == 3:
    os.kill(os.getpid(), signal.SIGSTOP)
communicator.peers.timeout = 3.0
with communicator.serving("dW_up.AR"):
    communicator.all_reduce(ones, ("tp",))
    communicator.all_reduce(ones, ("dp",))
""")
    assert done.returncode == 1
    # Which of the others gives up first, where it waits by then, and who else has come so far, is up to the machine.
    text = r"waited 3 s at .* for (rank|ranks .*) 3\b.*, which do(es)? not answer; .*GRAPHIR_TIMEOUT=seconds"
    assert re.search(text, done.stderr)


def test_ranks_at_different_places_do_not_wait_for_ever() -> None:
    done = run("""
communicator.peers.timeout = 3.0
communicator.barrier() if rank == 2 else communicator.agree(1)
communicator.agree(1)
""")
    assert done.returncode == 1
    assert " waited 3 s at " in done.stderr


def test_a_rank_that_ends_before_it_begins_with_mpi_is_not_waited_for_longer_than_the_limit() -> None:
    """MPI's own start would wait for ever."""
    program = """
import os
os.environ["GRAPHIR_TIMEOUT"] = "3"
from graphir.launch import find_launch
if find_launch().rank != 1:
    from graphir.backends.communicator.meeting import peers
    peers()
"""
    done = launch(2, "-c", program)
    assert done.returncode != 0
    assert re.search(r"^error: rank 0 on \S+ has waited 3 s for all ranks to begin with MPI; one of", done.stderr, re.M)


def test_ranks_that_end_at_different_times_end_well() -> None:
    done = run("""
if rank > 0:
    communicator.receive(rank - 1, rank, (1000,), "float64")
sys.stdout.write(f"done {rank}\\n")  # in one piece, for the launcher puts together what all ranks write
if rank < 3:
    communicator.send(ones[0], rank, rank + 1)
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split("\n")) == ["", "done 0", "done 1", "done 2", "done 3"]


def test_a_message_of_another_size_is_told() -> None:
    done = run("""
communicator.send(np.ones(2), rank, rank ^ 1)
communicator.receive(rank ^ 1, rank, (3,), "float64")
""")
    # By whoever is told first: all others may only follow.
    text = r"rank \d \(.*\) expects float64\[3\], 24 bytes, of rank \d \(.*\), which sent 16"
    assert re.search(text, done.stderr)


# -- the command line --------------------------------------------------------------------------------------

OPTIONS = "--layers 1 --sequence 12 --width 24 --heads 6 --batch 4 --dropout 0.2 --dp 2 --tp 3 --sample 0"
OPTIONS += " --validate-batches 1 --checkpoint-every 3 --dtype float64"


def graphir(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launch(ranks, "-c", PATIENT, *arguments)


def test_a_run_of_the_wrong_size_says_which_sizes_fit() -> None:
    for arguments in (("check",), ("train", "--dp", "2", "--tp", "3", "--out", "nowhere")):
        done = graphir(4, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words(done.stderr) == (
            "error: dp=2, tp=3 needs 6 ranks, but 4 processes were started; start it by mpiexec -n 6, or choose "
            "tp=4 or dp=2, tp=2 or dp=4\n"
        )


def test_wrong_options_are_told_once() -> None:
    done = graphir(3, "train", "--tp", "3", "--heads", "5")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    done = graphir(2, "train", "--nix")
    assert done.returncode == 2
    assert (
        words(done.stderr)
        == "Usage: graphir train [OPTIONS]\nerror: No such option '--nix'. Did you mean '--untied'?\n"
    )
    done = graphir(2, "check", "--tp", "2", "--inject")
    assert done.returncode == 2
    assert done.stderr.count("--inject and --dump need no ranks but simulated ones; start them without mpiexec") == 1


def test_a_wrong_option_of_one_rank_ends_all_with_the_code_of_wrong_options() -> None:
    program = f"{PATIENT.replace('main(sys.argv[1:])', '')}\nfrom graphir.launch import find_launch\n"
    program += "main(['train', '--nix'] if find_launch().rank == 3 else ['train', '--tp', '4'])"
    done = launch(4, "-c", program.replace("GRACE = 100.0", "GRACE = 2.0"))
    assert done.returncode == 2
    assert done.stderr.count("error: No such option '--nix'") == 1


def start_training(folder: Path) -> subprocess.Popen[str]:
    """A run without end on six ranks, once its second checkpoint is there."""
    arguments = ("-m", "graphir", "train", *OPTIONS.split(), "--steps", "100000", "--out", folder)
    process = subprocess.Popen(
        command(6, *arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    end = time.monotonic() + LIMIT
    while not (folder / "step-000006.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint, and no end"
        time.sleep(0.05)
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="finds a rank's process by Linux's /proc")
def test_a_training_run_survives_the_killing_of_a_rank(tmp_path: Path) -> None:
    """All stop at once, the rank is named, and the last checkpoint is whole and can be gone on from."""
    process = start_training(tmp_path)
    os.kill(process_of(4, tmp_path), signal.SIGKILL)
    _, told = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert told.count("error:") == 1
    assert "error: rank 4 (dp=1, tp=1) is gone: its process " in told
    step = load_checkpoint(find_checkpoint(tmp_path)).step
    assert step >= 6
    done = graphir(4, "train", "--resume", "--dp", "2", "--tp", "2", "--steps", str(step + 2), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(find_checkpoint(tmp_path)).step == step + 2


@pytest.mark.skipif(sys.platform != "linux", reason="finds a rank's process by Linux's /proc")
@pytest.mark.parametrize("to_one", [False, True])
def test_a_signal_ends_all_ranks_after_one_step(tmp_path: Path, to_one: bool) -> None:
    """Ctrl-C at the launcher reaches every rank; a SIGTERM may reach only one."""
    process = start_training(tmp_path)
    number = signal.SIGTERM if to_one else signal.SIGINT
    os.kill(process_of(3, tmp_path) if to_one else process.pid, number)
    _, told = process.communicate(timeout=LIMIT)
    # Open MPI's launcher exits with a code of its own when it is told to end.
    assert process.returncode == 128 + number or (OPEN_MPIS_LAUNCHER and not to_one and process.returncode == 1)
    assert told.count("interrupted after step") == 1
    path = find_checkpoint(tmp_path)
    assert f"saved {path}; go on with" in told


@pytest.mark.skipif(sys.platform != "linux", reason="finds a rank's process by Linux's /proc")
def test_a_signal_ends_a_rank_that_waits_for_one_that_is_stopped(tmp_path: Path) -> None:
    """It waits some seconds, and says for whom; the last checkpoint is whole."""
    process = start_training(tmp_path)
    os.kill(process_of(4, tmp_path), signal.SIGSTOP)
    os.kill(process_of(3, tmp_path), signal.SIGTERM)
    _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM or OPEN_MPIS_LAUNCHER
    assert told.count("error:") == 1
    assert "error: interrupted, and the step at hand is lost: " in told
    assert load_checkpoint(find_checkpoint(tmp_path)).step >= 6


def test_what_ranks_find_together_is_waited_for() -> None:
    """A number that is none is searched for by all ranks, of which a busy machine may let one be late."""
    done = run("""
from graphir.backends.communicator import peers
from graphir.errors import NonFiniteError
peers.GRACE = 0.01
communicator.barrier()
time.sleep(0.5 * rank)
raise NonFiniteError("the loss is NaN")
""")
    assert (done.returncode, done.stderr.count("Traceback")) == (1, 1)
    assert done.stderr.startswith("Traceback")


def test_a_loss_that_is_no_number_is_told_once(tmp_path: Path) -> None:
    options = [*OPTIONS.split(), "--steps", "40", "--learning-rate", "1e150", "--clip", "0", "--warmup", "0"]
    done = graphir(6, "train", *options, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "is the first value to hold" in done.stderr
    assert "lower --learning-rate (now 1e+150)" in done.stderr


def test_training_on_six_processes_follows_the_curve_of_one(tmp_path: Path) -> None:
    """Loss and parameters as on one rank, up to the order of sums; a run may go on with other ranks or none."""
    options = [*OPTIONS.split(), "--steps", "4"]
    done = graphir(6, "train", *options, "--plan", "sequence+zero1", "--out", str(tmp_path / "six"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("4 steps") == 1, "rank 0 alone prints"
    arguments = [sys.executable, "-m", "graphir", "train", *options, "--dp", "1", "--tp", "1", "--steps", "4"]
    subprocess.run(
        [*arguments, "--out", str(tmp_path / "one")], check=True, capture_output=True, cwd=ROOT, timeout=LIMIT
    )
    six, one = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("six", "one"))
    assert six.arrays.keys() == one.arrays.keys()
    for name, array in one.arrays.items():
        # b_K's gradient is zero analytically, and Adam makes steps of its rounding errors.
        assert np.allclose(six.arrays[name], array, rtol=1e-7, atol=1e-9), name
