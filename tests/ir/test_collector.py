"""The collector of cyclic garbage is off while a pass works, and as it was before, whatever happens."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator

import pytest

import graphir as gi
from graphir.errors import ConfigError, DifferentiationError, LayoutError
from graphir.ir.collector import without_collector
from graphir.passes import Optimizer, autodiff, optimize, shard


@pytest.fixture(autouse=True)
def collector_on() -> Iterator[None]:
    before = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if before else gc.disable)()


@without_collector
def looks(inner: object = None) -> list[bool]:
    """What of `gc.isenabled()` is seen: before, inside and after a call of `inner`."""
    seen = [gc.isenabled()]
    if callable(inner):
        seen.extend(inner())
    return [*seen, gc.isenabled()]


def test_it_is_off_inside_and_on_again_afterwards() -> None:
    assert looks() == [False, False]
    assert gc.isenabled()


def test_a_pass_inside_a_pass_does_not_switch_it_on() -> None:
    assert looks(looks) == [False] * 4
    assert gc.isenabled()


def test_who_switched_it_off_finds_it_off() -> None:
    gc.disable()
    assert looks() == [False, False]
    assert not gc.isenabled()


def test_what_is_wrapped_keeps_its_name_and_parameters() -> None:
    assert looks.__name__ == "looks"
    parameters = inspect.signature(autodiff).parameters
    assert list(parameters) == ["graph", "loss", "wrt", "results", "loss_scale", "dynamic"]


def test_passes_that_fail_leave_it_on() -> None:
    model = gi.models.mlp()
    with pytest.raises(LayoutError):
        shard(model, gi.Mesh(), "no such plan")
    with pytest.raises(ConfigError):
        optimize(model, Optimizer("no such optimizer"))
    with pytest.raises(DifferentiationError):
        autodiff(model, wrt=[])
    assert gc.isenabled()


def test_what_a_pass_adds_still_bears_the_users_line() -> None:
    graph = optimize(autodiff(gi.models.transformer(1)))
    update = next(node for node in graph.nodes if node.operator.updates)
    assert update.meta.at is not None
    assert update.meta.at.startswith("tests/ir/test_collector.py:")
