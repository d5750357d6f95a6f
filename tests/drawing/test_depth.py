"""Which layers repeat each other, so that a page can show more of them, or fewer: found, or refused with a reason."""

from __future__ import annotations

from functools import lru_cache

import pytest

import graphir as gi
from graphir.drawing.explore import Deeper
from graphir.drawing.explore.blocks import alike, blocks_of
from graphir.drawing.explore.depth import Depth, find_depth
from graphir.models import Usage, blueprint
from graphir.passes import Optimizer, autodiff, optimize


def found(graph, period=1):
    blocks = blocks_of(graph)
    return find_depth(graph, blocks, alike(graph, blocks, lambda node: None), lambda node: (), period)


@lru_cache
def step(layers):
    return optimize(autodiff(gi.models.transformer(layers=layers), loss="L"), Optimizer("adamw", clip=1.0))


@lru_cache
def family(name, layers):
    return blueprint(name, layers=layers).composition.build(Usage(decode=None))


def chain(layers, kind=lambda number: "relu", skips=(), summed=()):
    """Layers that each read the one before, those of `skips` the first, too; and a sum over those `summed`."""
    block = gi.Builder("chain")
    values = [block.input("x", gi.dims("B D"))]
    for number in range(layers):
        with block.scope(f"layer{number}"):
            x = gi.add(values[-1], *(values[1:2] if number in skips else ()))
            values.append(gi.activation(x, kind=kind(number), name="y"))
    total = gi.add(values[-1], *(values[number + 1] for number in summed), name="total") if summed else values[-1]
    return block.build(gi.exponential(total, name="z"))


def test_layers_between_the_first_and_the_last_repeat():
    assert found(step(6)) == Depth("layer", first=1, period=1, units=4, layers=6)
    assert list(found(step(6)).fewer) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(("name", "layers", "depth"), [
    ("gemma2", 8, Depth("layer", 1, 2, 3, 8)),
    # The last layer that sees all positions, 23, needs their angles last: it is no more like the others.
    ("gemma3", 26, Depth("layer", 1, 6, 3, 26)),
])  # fmt: skip
def test_of_layers_that_differ_in_turn_whole_periods_repeat(name, layers, depth):
    assert found(family(name, layers)) == depth


@pytest.mark.parametrize("layers", range(2, 13))
def test_a_run_of_alike_layers_within_a_period_is_no_period(layers):
    """Of five windows and one whole attention in turn, twice five windows must not be taken for what repeats."""
    depth = found(family("gemma3", layers), period=6)
    assert isinstance(depth, str)
    if layers > 6:
        assert isinstance(found(family("gemma3", layers)), str)


@pytest.mark.parametrize(("graph", "why"), [
    (chain(3), "fewer than 4 layers"),
    (chain(8, kind=lambda number: "relu" if number < 4 else "gelu"), "do not repeat"),
    (chain(8, skips=range(2, 8)), "do not repeat"),
    (chain(8, summed=[3]), "do not repeat"),
    (chain(8, summed=range(8), skips=[7]), "layer7 speaks of layer0"),
    (chain(8, summed=(0, 1, 2, 4, 3, 5, 6, 7)), "total does not read of all layers alike"),
])  # fmt: skip
def test_what_cannot_be_told_at_another_depth_is_refused(graph, why):
    depth = found(graph)
    assert isinstance(depth, str)
    assert why in depth


def test_a_sum_over_all_layers_is_one_over_as_many_as_there_are():
    assert found(chain(8, summed=range(8))) == found(chain(8, summed=range(7, -1, -1))) == Depth("layer", 1, 1, 6, 8)


def test_a_graph_without_layers_has_nothing_to_say():
    block = gi.Builder("plain")
    assert found(block.build(gi.exponential(block.input("x", gi.dims("B D")), name="y"))) == ""


@pytest.mark.parametrize(("period", "layers", "deeper"), [(1, 2, 6), (1, 9, 9), (2, 3, 11), (6, 7, 31), (6, 26, 26)])
def test_a_deeper_model_shows_its_periods_and_differs_by_whole_ones(period, layers, deeper):
    assert Deeper(step, period).than(layers) == deeper
    assert (deeper - layers) % period == 0
