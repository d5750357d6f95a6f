"""Reductions that travel while the rest is computed: where they are placed, which go together, when they must be there.

What is said of buckets here holds by the plan alone, without any process but this one.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import graphir as gi
from graphir.backends import plan
from graphir.backends.buckets import Bucket, plan_buckets
from graphir.checking import Setting
from graphir.ir.graph import BACKWARD
from graphir.ir.layout import Mesh
from graphir.ir.types import DTYPES
from graphir.passes import overlap

SETTINGS = [
    Setting(plan="data", mesh=Mesh(dp=2)),
    Setting(plan="data+megatron"),
    Setting(plan="sequence+zero1"),
    Setting(plan="megatron+zero3"),
]
settings = pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: each.title)
limits = pytest.mark.parametrize("limit", [1, 1000, 20_000, 1 << 30])


def reduces(node):
    return node.operator.relayout is not None and "reduce" in node.attributes


@settings
def test_every_reduction_follows_what_makes_its_operand(setting):
    graph = gi.verify(overlap(setting.parallel(setting.single())))
    moved = 0
    for before, node in pairwise(graph.nodes):
        maker = graph.producers.get(node.inputs[0]) if reduces(node) else None
        if maker is not None:
            assert maker is before or reduces(before), node.name
            moved += node.meta.phase == BACKWARD
    assert moved > 10


@settings
def test_nothing_but_the_order_is_changed(setting):
    graph = setting.parallel(setting.single())
    made = overlap(graph)
    assert [value.name for value in made.outputs] == [value.name for value in graph.outputs]
    texts = [sorted(map(str, each.nodes)) for each in (graph, made)]
    assert texts[0] == texts[1]
    assert [n.name for n in graph.nodes] != [n.name for n in made.nodes]
    again = overlap(made)
    assert [n.name for n in again.nodes] == [n.name for n in made.nodes]


def test_a_graph_of_one_rank_stays_as_it_is():
    graph = Setting().single()
    assert overlap(graph) is graph


@pytest.mark.slow
def test_simulated_ranks_get_the_same_bits_with_and_without():
    setting = Setting(plan="data+megatron", layers=1)
    single = setting.single()
    parallel, sizes, arguments = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    late = gi.compile(parallel, sizes, without=["overlap"])(arguments)
    early = gi.compile(parallel, sizes)(arguments)
    for name in late:
        assert np.array_equal(late[name], early[name]), name


# -- buckets -----------------------------------------------------------------------------------------------


def planned(setting, limit):
    """The steps of a plan, its collectives, bytes of values, and buckets."""
    made = plan(overlap(setting.parallel(setting.single())), setting.complete_sizes())
    sizes = {value: int(np.prod(shape, dtype=int)) * DTYPES[value.dtype] for value, shape in made.shapes.items()}
    collectives = [step for step in made.steps if step.node.operator.relayout is not None]
    return made.steps, collectives, sizes, plan_buckets(made.steps, sizes, limit)


@settings
@limits
def test_every_all_reduce_is_in_one_bucket(setting, limit):
    _, collectives, _, buckets = planned(setting, limit)
    members = sorted(member for bucket in buckets for member in bucket.members)
    assert members == [i for i, step in enumerate(collectives) if step.node.operator.collective == "all_reduce"]


@settings
@limits
def test_a_bucket_holds_what_can_travel_as_one(setting, limit):
    _, collectives, sizes, buckets = planned(setting, limit)
    for bucket in buckets:
        nodes = [collectives[member].node for member in bucket.members]
        assert len({(node.attributes["axes"], node.attributes["reduce"], node.outputs[0].dtype) for node in nodes}) == 1
        assert len(nodes) == 1 or sum(sizes[node.inputs[0]] for node in nodes) <= limit
        assert list(bucket.members) == sorted(bucket.members)


@settings
@limits
def test_a_bucket_is_full_before_it_is_sent_and_there_before_it_is_read(setting, limit):
    """Carried out by the book: fill, send, wait, segment after segment, as an executor does."""
    steps, _, _, buckets = planned(setting, limit)
    segment, there, sent = 0, set(), set()

    def wait(segment):
        for bucket in buckets:
            if bucket.due <= segment:
                assert not bucket.members or bucket in sent or bucket in there
                there.add(bucket)

    bucket_of = {member: bucket for bucket in buckets for member in bucket.members}
    number = {}
    wait(0)
    for step in steps:
        for value in step.node.inputs:
            if value in number and number[value] in bucket_of:
                assert bucket_of[number[value]] in there, f"{step.node.name} reads {value.name} too early"
        if step.node.operator.relayout is not None:
            number[step.node.outputs[0]] = segment
            for bucket in buckets:
                if bucket.sent == segment:
                    assert max(bucket.members) <= segment
                    sent.add(bucket)
            segment += 1
            wait(segment)
    assert sent == set(buckets)


def test_gradients_of_data_parallelism_travel_through_the_backward_pass():
    """With room for little, many are under way at once; with much, few go."""
    _, collectives, _, few = planned(SETTINGS[0], 1 << 30)
    _, _, _, many = planned(SETTINGS[0], 1000)
    assert len(few) < len(many) < len(collectives)
    last = max(i for i, step in enumerate(collectives) if step.node.meta.phase == BACKWARD)
    early = [bucket for bucket in many if bucket.sent < last and bucket.due > last]
    assert len(early) > 5


def test_the_order_of_buckets_is_that_in_which_they_are_sent():
    for setting in SETTINGS:
        buckets = planned(setting, 1000)[3]
        assert buckets == sorted(buckets, key=lambda each: (each.sent, each.members))
        assert all(isinstance(each, Bucket) for each in buckets)
