"""The CuPy backend's step over the stand-in, by the very bodies that run on a GPU (`tests/gpu`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cuda import bodies, emulator, standin
from tests.cuda.bodies import SMALL, VARIANTS
from tests.cuda.runtime import STATE
from tests.support.sampled import sampled

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with standin.installed():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_node_is_near_float64(variant: str) -> None:
    bodies.every_node_is_near_float64(variant, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_products_that_read_less_are_as_near_as_that_allows(precision: str) -> None:
    bodies.every_node_is_near_float64("plain", SMALL, precision)


@sampled(2, variant=list(VARIANTS))
def test_results_alone_are_near_float64(variant: str) -> None:
    bodies.results_alone_are_near_float64(variant, SMALL)


def test_masks_are_those_of_numpy() -> None:
    bodies.masks_are_those_of_numpy(SMALL)


def test_a_replay_repeats_the_first_run() -> None:
    bodies.a_replay_repeats_the_first_run(SMALL)


def test_a_run_and_its_caller_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STATE, "is_late", True)
    bodies.a_run_and_its_caller_wait_for_each_other(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("donate", [False, True])
def test_training_follows_the_processor(donate: bool) -> None:
    bodies.training_follows_the_processor(SMALL, donate)


@pytest.mark.slow
def test_simulated_ranks_on_one_device() -> None:
    bodies.simulated_ranks_are_those_of_the_processor("data+megatron", {"dp": 2, "tp": 2})
