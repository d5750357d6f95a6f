"""Masks computed again in the backward pass: what is made, once, where, and what it says of itself."""

from __future__ import annotations

import graphir as gi
from graphir.ir.graph import BACKWARD
from graphir.passes import autodiff, recompute_masks

B, D = gi.dims("B D")


def dropped() -> gi.Graph:
    """L = Σ DO(X ⊙ X) in the scope `block`, differentiated."""
    block = gi.Builder("dropped")
    X = block.input("X", (B, D))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    with block.scope("block"):
        H = block.alias("H", gi.multiply(X, X, name="square"))
        Y = gi.dropout(H, seed, step, p=0.5, key=3, name="Y")
    return autodiff(block.build(gi.reduce_sum(Y, name="L")), wrt=["X"])


def test_the_backward_pass_reads_a_mask_of_its_own() -> None:
    joint = dropped()
    again = gi.verify(recompute_masks(joint))
    mask = again.producers[again["block/Y.m.again"]]
    (reader,) = (node for node in again.nodes if mask.outputs[0] in node.inputs)
    assert (mask.operator.key, reader.operator.key) == ("mask", "dDO")
    # Nothing holds the forward pass's own mask any more.
    assert not any(again["block/Y.m"] in node.inputs for node in again.nodes)
    assert (mask.meta.scope, mask.meta.phase, mask.meta.of) == ("block", BACKWARD, "block/Y")
    assert mask.meta.at == joint.producers[joint["block/Y"]].meta.at
    assert mask.meta.why == "recomputed, so that block/Y.m need not be stored"


def test_names_outputs_and_aliases_stay() -> None:
    joint = dropped()
    again = recompute_masks(joint)
    assert [value.name for value in again.outputs] == [value.name for value in joint.outputs]
    aliases = {name: value.name for name, value in again.aliases.items()}
    assert aliases == {name: value.name for name, value in joint.aliases.items()}
    assert aliases["block/H"] == "block/square"


def test_two_readers_share_one_mask_and_the_forward_pass_keeps_its_own() -> None:
    block = gi.Builder("shared", mesh=gi.Mesh(dp=2))
    X = block.input("X", (B, D))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    Y, m = gi.dropout.all(X, seed, step, p=0.5, key=3, names=["Y", "m"])
    d_dropout = gi.find_operator("dDO")
    with block.context(phase=BACKWARD):
        first = d_dropout(m, Y, p=0.5, name="first")
        second = d_dropout(m, first, p=0.5, name="second")
    forward = d_dropout(m, Y, p=0.5, name="forward")
    again = gi.verify(recompute_masks(block.build(second, forward)))
    assert again.mesh == gi.Mesh(dp=2)
    read = {name: again.producers[again[name]].inputs[0].name for name in ("first", "second", "forward")}
    assert read == {"first": "m.again", "second": "m.again", "forward": "m"}
    assert [node.operator.key for node in again.nodes].count("mask") == 1


def test_what_has_no_mask_stays_as_it_is() -> None:
    joint = autodiff(gi.models.mlp(2))
    assert recompute_masks(joint) == joint


def test_a_mask_of_the_backward_pass_itself_is_near_enough() -> None:
    block = gi.Builder("late")
    X = block.input("X", (B, D))
    seed, step = block.input("seed", dtype="int64"), block.input("step", dtype="int64")
    with block.context(phase=BACKWARD):
        Y, m = gi.dropout.all(X, seed, step, p=0.5, key=3, names=["Y", "m"])
        graph = block.build(gi.find_operator("dDO")(m, Y, p=0.5, name="dX"))
    assert recompute_masks(graph) == graph
