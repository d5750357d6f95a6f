"""NCCL on as many GPUs as there are: the conformance suite, and a training step, each rank a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from graphir.backends.device import require_device
from graphir.errors import GraphirError
from tests.support.free_port import free_port
from tests.support.paths import ROOT
from tests.support.processes import environment


def devices() -> int:
    try:
        return int(require_device().cuda.runtime.getDeviceCount())
    except GraphirError:
        return 0


#: As many ranks as the suite has meshes for.
RANKS = max((count for count in (2, 4, 6) if count <= devices()), default=0)
pytestmark = pytest.mark.skipif(devices() == 1, reason="NCCL needs two GPUs; there is one")


def run(program: str) -> list[str]:
    """What each rank prints; all have to end well."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.program", program],
            env=environment(rank, RANKS, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(RANKS)
    ]
    told = [each.communicate(timeout=300) for each in processes]
    assert [each.returncode for each in processes] == [0] * RANKS, [err for _, err in told]
    return [out for out, _ in told]


def test_conformance() -> None:
    failures = [json.loads(out) for out in run("conformance")]
    assert failures == [{}] * RANKS


def test_a_training_step_is_that_of_simulated_ranks() -> None:
    assert run("step")[0].strip() == "alike"


def test_collectives_can_be_captured() -> None:
    assert [out.strip() for out in run("capture")] == ["captured"] * RANKS


def test_a_rank_that_raises_ends_those_that_wait_for_it_on_the_device() -> None:
    with pytest.raises(AssertionError, match="the moon is full"):
        run("failure")
