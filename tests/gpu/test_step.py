"""The compiled step on a GPU: against float64, against the processor, against itself, on one rank and on several."""

from __future__ import annotations

import pytest

from tests.cuda import bodies
from tests.cuda.bodies import SMALL, UNEVEN, VARIANTS

sizes = pytest.mark.parametrize("sizes", [SMALL, UNEVEN], ids=["small", "uneven"])


@sizes
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_node_is_near_float64(variant: str, sizes: dict[str, int]) -> None:
    bodies.every_node_is_near_float64(variant, sizes)


@sizes
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_products_that_read_less_are_as_near_as_that_allows(precision: str, sizes: dict[str, int]) -> None:
    bodies.every_node_is_near_float64("plain", sizes, precision)


@sizes
@pytest.mark.parametrize("variant", VARIANTS)
def test_results_alone_are_near_float64(variant: str, sizes: dict[str, int]) -> None:
    bodies.results_alone_are_near_float64(variant, sizes)


@sizes
def test_masks_are_those_of_numpy(sizes: dict[str, int]) -> None:
    bodies.masks_are_those_of_numpy(sizes)


@sizes
def test_a_replay_repeats_the_first_run(sizes: dict[str, int]) -> None:
    bodies.a_replay_repeats_the_first_run(sizes)


@pytest.mark.parametrize("donate", [False, True])
def test_training_follows_the_processor(donate: bool) -> None:
    bodies.training_follows_the_processor(SMALL, donate)
    bodies.training_follows_the_processor(UNEVEN, donate)


@pytest.mark.parametrize("plan", ["data+megatron", "sequence+zero1"])
@pytest.mark.parametrize("axes", [{"dp": 1, "tp": 2}, {"dp": 2, "tp": 3}], ids=str)
def test_simulated_ranks_on_one_device(plan: str, axes: dict[str, int]) -> None:
    bodies.simulated_ranks_are_those_of_the_processor(plan, axes)


@sizes
def test_a_run_and_its_caller_wait_for_each_other(sizes: dict[str, int]) -> None:
    bodies.a_run_and_its_caller_wait_for_each_other(sizes)


def test_memory_is_as_planned() -> None:
    bodies.memory_is_as_planned(UNEVEN)
