"""Buffer assignment: who may be written over whom, what is copied when, and what has a buffer of a task's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.assignment import Assignment, Reuse, TaskBuffer, assign
from graphir.backends.compiled.task import Numbers, Task, make_task
from graphir.backends.compiled.tiles import Cut
from graphir.backends.numpy.engine import rules
from graphir.ir import operator as language
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes import fuse

B, D, K = gi.dims("B D K")
SIZES = {"B": 4, "D": 6, "K": 5}


def assigned(
    graph: Graph,
    *dying: str,
    threads: int = 1,
    cut: Mapping[int, int] | None = None,
    share: int | None = None,
    halves: Collection[str] = (),
) -> tuple[Task, Assignment]:
    """The one task of a graph, its loops cut by number to so wide tiles and the loop `share` shared by threads; of
    `halves` only the causal half is stored."""
    fused = fuse(graph)
    (node,) = fused.nodes
    task = make_task(node, Numbers(Mesh(), SIZES))
    widths = {task.space.loops[loop]: width for loop, width in (cut or {}).items()}
    if share is not None:
        loop = task.space.loops[share]
        size = task.sizes[loop]
        made = Cut(widths, loop, tuple(size * i // threads for i in range(threads + 1)))
    else:
        made = Cut(widths)
    task.tiles, task.split = made.tiles(task, threads), made.shared
    given = {fused[name]: 0 for name in dying}
    return task, assign(task, SIZES, Reuse(given, frozenset(), {}, {fused[name] for name in halves}), rules)


def inner(task: Task, name: str) -> Value:
    return next(value for value in task.shapes if value.name.rpartition("/")[2] == name)


def test_a_result_takes_over_what_nobody_reads_any_more() -> None:
    block = gi.Builder("chain")
    X = block.input("X", (B, D))
    graph = block.build(gi.scale(gi.scale(X, by=2.0, name="Y"), by=3.0, name="Z"))
    task, made = assigned(graph, "X")
    assert made.first[inner(task, "Z")] is made.first[inner(task, "Y")]
    assert [(new.name, old.name) for new, old in made.reuses] == [("Z", "X")]
    # Where X may not be written over, both lie in the result's buffer.
    task, made = assigned(graph)
    assert not made.reuses
    assert made.buffer(inner(task, "Y")) is task.outer[inner(task, "Z")]


def test_a_half_is_not_written_over_what_is_stored_whole() -> None:
    """Scores that another task has made whole, and probabilities that lie part after part."""
    block = gi.Builder("probabilities")
    Z = block.input("Z", (B, D, D))
    graph = block.build(gi.softmax(gi.scale_mask(Z, width=D, causal=True), name="P"))
    task, made = assigned(graph, "Z")
    assert [(new.name, old.name) for new, old in made.reuses] == [("P", "Z")]
    task, made = assigned(graph, "Z", halves=["P"])
    assert not made.reuses
    assert made.buffer(inner(task, "P")) is task.outer[inner(task, "P")]


def test_of_two_results_one_takes_over_an_operand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own operator has no rule that says where results may lie: each may lie where an operand did."""
    monkeypatch.setattr(language, "_REGISTRY", dict(language._REGISTRY))

    @gi.operator("sincos", "X[*b] -> S[*b], C[*b]", elementwise=True, no_gradient="a test asks for none")
    def sincos(xp: gi.Xp, X: gi.Array) -> tuple[gi.Array, gi.Array]:
        """S = sin X, C = cos X."""
        return xp.sin(X), xp.cos(X)

    block = gi.Builder("two", dtype="float64")
    X = block.input("X", (B, D))
    # Nobody reads S, but a kernel may write it last.
    graph = block.build(sincos.all(gi.scale(X, by=2.0), names=("S", "C"))[1])
    task, made = assigned(graph, "X")
    assert made.first[inner(task, "S")] is not made.first[inner(task, "C")]
    given = {"X": np.arange(24.0).reshape(4, 6)}
    assert np.array_equal(gi.compile(graph, {"B": 4, "D": 6})(given)["C"], np.cos(2 * given["X"]))


def test_what_is_read_in_another_role_is_not_written_over() -> None:
    block = gi.Builder("roles")
    X = block.input("X", (B, B))
    graph = block.build(gi.add(X, gi.transpose(X), name="Y"))
    _, made = assigned(graph, "X")
    assert not made.reuses


def test_what_is_read_later_as_a_view_is_not_written_over() -> None:
    block = gi.Builder("views")
    X = block.input("X", (B, D))
    Y = gi.scale(X, by=2.0, name="Y")
    Z = gi.scale(Y, by=3.0, name="Z")
    graph = block.build(gi.add(Z, gi.reshape(gi.reshape(Y, "b d -> b d"), "b d -> b d"), name="W"))
    task, made = assigned(graph)
    assert made.first[inner(task, "Z")] is not made.first[inner(task, "Y")]
    assert made.last[inner(task, "Y")] == next(
        i for i, node in enumerate(task.nodes) if node.outputs[0].name.endswith("W")
    )


def test_a_copy_of_a_result_is_a_read_behind_all_nodes() -> None:
    block = gi.Builder("copies")
    X = block.input("X", (B, D))
    Y = gi.reduce_sum(X, (1,), name="Y")
    Z = gi.broadcast(Y, (D,), axes=(1,), name="Z")
    R = gi.activation(gi.add(X, gi.scale(Z, by=-0.5)), kind="silu", name="R")
    task, made = assigned(block.build(Z, R))
    assert made.last[inner(task, "Y")] == len(task.nodes)
    assert [value.name for value in made.finish] == ["Z"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sum_that_leaves_as_a_broadcast_has_a_buffer_of_its_own(threads: int) -> None:
    block = gi.Builder("sums")
    X = block.input("X", (B, D))
    total = gi.reduce_sum(gi.exponential(X), (0,), name="Y")
    graph = block.build(gi.broadcast(total, (K,), axes=(0,), name="Z"))
    task, made = assigned(graph, threads=threads, cut={0: 1}, share=0 if threads > 1 else None)
    Y = inner(task, "Y")
    assert made.buffer(Y) == TaskBuffer(Y)
    assert [value.name for value in made.late] == ["Z"]
    assert made.terms == ({Y: TaskBuffer(Y, 2)} if threads > 1 else {})


def test_a_result_is_made_through_the_view_that_it_leaves_as() -> None:
    block = gi.Builder("paths")
    X = block.input("X", (B, D, K))
    Y = gi.scale(X, by=2.0, name="Y")
    graph = block.build(gi.transpose(Y, (1, 0, 2), name="Z"))
    task, made = assigned(graph, cut={0: 2, 1: 2})
    assert [node.outputs[0].name for node in made.paths[inner(task, "Y")]] == ["Z"]
    assert not made.finish


def test_a_result_that_cannot_be_seen_back_is_copied() -> None:
    block = gi.Builder("merged")
    X = block.input("X", (B, D, K))
    Y = gi.scale(X, by=2.0, name="Y")
    merged = gi.reshape(gi.transpose(Y, (0, 2, 1)), "b k d -> b (k d)")
    graph = block.build(gi.transpose(merged, name="Z"))
    _, made = assigned(graph, cut={0: 2})
    # [(k d), b] as [b, k, d] is a view; if tiles cut d, (k d) has no part for them, and there is no such loop.
    assert made.paths
    block = gi.Builder("split")
    X = block.input("X", (B, gi.dim("E", D * K)))
    Y = gi.scale(X, by=2.0, name="Y")
    graph = block.build(gi.transpose(gi.reshape(Y, "b (d k) -> b d k", k=K), (0, 2, 1), name="Z"))
    _, made = assigned(graph)
    # [b, k, d] as [b, (d k)] is none.
    assert not made.paths
    assert [value.name for value in made.finish] == ["Z"]
