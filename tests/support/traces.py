"""Traces of programs that compiling has written, and the same with a fault put into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

import graphir as gi
from graphir.backends import proof
from graphir.backends.proof import Proof, Trace
from graphir.backends.proof.lays import address_of
from graphir.backends.trace import ADD, MAXIMUM, Meeting, Step, ThreadTrace
from graphir.ir.graph import Graph
from graphir.ir.inference import Place

#: Where a step is: segment, thread, and which of its steps.
Where = tuple[int, int, int]
Mutation = Callable[["Mutant", Where], bool]
#: What may be done to a step, and how it is called.
MUTATIONS: dict[str, Mutation] = {}


def traces(graph: Graph, sizes: dict[str, int], **options: Any) -> list[Trace]:
    """What compiling has proved, of each rank; the steps are still there."""
    found: list[Trace] = []

    def prove(trace: Trace) -> Proof:
        found.append(_copied(trace))
        return proof.prover.prove(trace)

    with patch.object(proof, "prove", prove):
        gi.compile(graph, sizes, check=True, **options)
    return found


def _copied(trace: Trace) -> Trace:
    segments = [[ThreadTrace(list(each.calls), list(each.steps)) for each in segment] for segment in trace.segments]
    return dataclasses.replace(trace, segments=segments)


class Mutant:
    """A trace that is changed at one step."""

    def __init__(self, trace: Trace, random: Random) -> None:
        self.trace, self.random = _copied(trace), random
        #: All steps, and all arrays of operands and results.
        self.steps: dict[Where, Step] = {}
        self.arrays: dict[int, Any] = {}
        for s, segment in enumerate(trace.segments):
            for t, thread in enumerate(segment):
                for c, step in enumerate(thread.steps):
                    if isinstance(step, Step):
                        self.steps[s, t, c] = step
                        shown = (each for side in (step.operands, step.results) for node in side for each in node)
                        self.arrays.update((id(array), array) for array in shown if array is not None)

    def thread(self, where: Where) -> ThreadTrace:
        """The thread of a step."""
        return self.trace.segments[where[0]][where[1]]

    def put(self, where: Where, **changes: Any) -> bool:
        """Changes a step."""
        self.thread(where).steps[where[2]] = dataclasses.replace(self.steps[where], **changes)
        return True

    def exchange(self, where: Where, old: Any, new: Any, side: str | None, calls: bool) -> bool:
        """Another array in place of one, among a step's operands or results, and in its calls."""
        step = self.steps[where]
        if calls:
            made: Any = self.thread(where).calls
            for number in range(step.start, step.stop):
                function, arguments = made[number]
                made[number] = function, _replaced(arguments, old, new)
        return side is None or self.put(where, **{side: _replaced(getattr(step, side), old, new)})

    def cut(self, where: Where, start: int, stop: int) -> None:
        """Takes calls of a step away."""
        calls: Any = self.thread(where).calls
        del calls[start:stop]
        self.stretch(where, start - stop)

    def stretch(self, where: Where, by: int) -> None:
        """Lets a step end so many calls later, and all that follows begin so many later."""
        steps = self.thread(where).steps
        for number, step in enumerate(steps[where[2] :], where[2]):
            start = step.start + (by if number > where[2] else 0)
            if isinstance(step, Step):
                steps[number] = dataclasses.replace(step, start=start, stop=step.stop + by)
            else:
                steps[number] = Meeting(start)

    def other(self, array: Any) -> Any:
        """Another array of the same shape, strides and dtype; None without one."""
        like = [
            each
            for each in self.arrays.values()
            if (each.shape, each.strides, each.dtype) == (array.shape, array.strides, array.dtype)
            and each.__array_interface__["data"] != array.__array_interface__["data"]
        ]
        return self.random.choice(like) if like else None


def _replaced(things: Any, old: Any, new: Any) -> Any:
    if isinstance(things, tuple):
        return tuple(_replaced(each, old, new) for each in things)
    return new if things is old else things


def mutation(name: str) -> Callable[[Mutation], Mutation]:
    """Declares what the decorated function does as the mutation of that name; False where it cannot be done."""

    def declare(made: Mutation) -> Mutation:
        MUTATIONS[name] = made
        return made

    return declare


def _any(mutant: Mutant, where: Where, side: str) -> Any:
    arrays = [each for node in getattr(mutant.steps[where], side) for each in node if each is not None and each.size]
    return mutant.random.choice(arrays) if arrays else None


def _exchange(side: str, calls: bool) -> Mutation:
    def made(mutant: Mutant, where: Where) -> bool:
        old = _any(mutant, where, side)
        new = None if old is None else mutant.other(old)
        return new is not None and mutant.exchange(where, old, new, side, calls)

    return made


MUTATIONS["another operand is told"] = _exchange("operands", False)
MUTATIONS["another result is told"] = _exchange("results", False)
MUTATIONS["another operand is read"] = _exchange("operands", True)
MUTATIONS["another result is written"] = _exchange("results", True)


@mutation("an argument is shifted")
def _shift(mutant: Mutant, where: Where) -> bool:
    """By a row, or an element, on or back."""
    step, calls = mutant.steps[where], mutant.thread(where).calls
    arguments = [each for _, given in calls[step.start : step.stop] for each in given if isinstance(each, np.ndarray)]
    arguments = [each for each in arguments if any(n > 1 for n in each.shape)]
    if not arguments:
        return False
    old = mutant.random.choice(arguments)
    off = mutant.random.choice([s for n, s in zip(old.shape, old.strides, strict=True) if n > 1])
    return mutant.exchange(where, old, _Elsewhere(old, mutant.random.choice((off, -off))), None, True)


@mutation("an operand is shifted")
def _shift_operand(mutant: Mutant, where: Where) -> bool:
    """In its step and in its calls."""
    old = _any(mutant, where, "operands")
    steps = [] if old is None else [s for n, s in zip(old.shape, old.strides, strict=True) if n > 1]
    return bool(steps) and mutant.exchange(where, old, _Elsewhere(old, mutant.random.choice(steps)), "operands", True)


class _Elsewhere:
    """An array of the same form so many bytes on: memory that is told of, and never touched."""

    def __init__(self, array: Any, off: int) -> None:
        self.shape, self.strides, self.dtype, self.itemsize = array.shape, array.strides, array.dtype, array.itemsize
        self.size, self.ndim = array.size, array.ndim
        self.address = address_of(array) + off
        self.data = self
        self.ptr = self.address
        self.__array_interface__ = {"data": (self.address, False)}


@mutation("a call is left out")
def _leave_out(mutant: Mutant, where: Where) -> bool:
    step = mutant.steps[where]
    number = mutant.random.randrange(step.start, step.stop)
    mutant.cut(where, number, number + 1)
    return True


@mutation("a step is left out")
def _leave_step_out(mutant: Mutant, where: Where) -> bool:
    step = mutant.steps[where]
    mutant.cut(where, step.start, step.stop)
    del mutant.thread(where).steps[where[2]]
    return True


@mutation("a meeting is left out")
def _leave_meeting_out(mutant: Mutant, where: Where) -> bool:
    """The last one before the step, of all threads."""
    threads = mutant.trace.segments[where[0]]
    steps = threads[where[1]].steps[: where[2]]
    nth = sum(isinstance(each, Meeting) for each in steps) - 1
    if nth < 0:
        return False
    for t, thread in enumerate(threads):
        at = [count for count, each in enumerate(thread.steps) if isinstance(each, Meeting)][nth]
        mutant.cut((where[0], t, at), thread.steps[at].start, thread.steps[at].start + 1)
        del thread.steps[at]
    return True


@mutation("arguments change places")
def _swap(mutant: Mutant, where: Where) -> bool:
    step, calls = mutant.steps[where], mutant.thread(where).calls
    number = mutant.random.randrange(step.start, step.stop)
    function, arguments = calls[number]
    places = [place for place, each in enumerate(arguments) if isinstance(each, np.ndarray)]
    if len(places) < 2:
        return False
    one, other = mutant.random.sample(places, 2)
    changed = list(arguments)
    changed[one], changed[other] = changed[other], changed[one]
    calls[number] = function, tuple(changed)  # type: ignore[index]
    return True


@mutation("a kernel is told of another place")
def _place(mutant: Mutant, where: Where) -> bool:
    step = mutant.steps[where]
    told = [each for each in step.places if each is not None]
    if not told:
        return False
    at = mutant.random.choice(told)
    factor = mutant.random.choice(at.rule.factors)
    moved = Place(at.rule, {**at.starts, factor: at.start(factor) + 1}, at.sizes)
    return mutant.put(where, places=tuple(moved if each is at else each for each in step.places))


@mutation("two steps change places")
def _order(mutant: Mutant, where: Where) -> bool:
    """A step and the next, with their calls."""
    thread: Any = mutant.thread(where)
    at = where[2]
    if at + 1 >= len(thread.steps) or isinstance(thread.steps[at + 1], Meeting):
        return False
    one, two = thread.steps[at], thread.steps[at + 1]
    thread.calls[one.start : two.stop] = [*thread.calls[two.start : two.stop], *thread.calls[one.start : one.stop]]
    middle = one.start + two.stop - two.start
    thread.steps[at : at + 2] = [
        dataclasses.replace(two, start=one.start, stop=middle),
        dataclasses.replace(one, start=middle, stop=two.stop),
    ]
    return True


@mutation("it is another layer's")
def _layer(mutant: Mutant, where: Where) -> bool:
    """The nodes, or the value, of the same step of another layer; operands and results are what they were."""
    step = mutant.steps[where]
    like = [
        each
        for each in mutant.steps.values()
        if (each.kind, len(each.nodes)) == (step.kind, len(step.nodes))
        and all(a.operator is b.operator for a, b in zip(each.nodes, step.nodes, strict=True))
        and (each.nodes, each.value) != (step.nodes, step.value)
    ]
    if not like:
        return False
    other = mutant.random.choice(like)
    return mutant.put(where, nodes=other.nodes, value=other.value, within=other.within)


@mutation("something else is written beside")
def _beside(mutant: Mutant, where: Where) -> bool:
    """One more call, to memory that a value may lie in."""
    target = mutant.random.choice([each for each in mutant.arrays.values() if each.size])
    calls: Any = mutant.thread(where).calls
    calls.insert(mutant.steps[where].stop, (np.copyto, (target, np.float32(0))))
    mutant.stretch(where, 1)
    return True


@mutation("operands change places")
def _swap_operands(mutant: Mutant, where: Where) -> bool:
    """As the step tells them; its calls stay."""
    step = mutant.steps[where]
    node = mutant.random.randrange(len(step.operands)) if step.operands else 0
    arrays = [each for each in step.operands[node] if each is not None] if step.operands else []
    if len({id(each) for each in arrays}) < 2:
        return False
    one, other = mutant.random.sample(arrays, 2)
    changed = tuple(other if each is one else one if each is other else each for each in step.operands[node])
    return one is not other and mutant.put(where, operands=(*step.operands[:node], changed, *step.operands[node + 1 :]))


@mutation("an operand is another of the same task")
def _neighbour(mutant: Mutant, where: Where) -> bool:
    """In the step and in its calls."""
    old = _any(mutant, where, "operands")
    near = [(where[0], where[1], where[2] + off) for off in (-3, -2, -1, 1, 2, 3)]
    like = [
        each
        for at in near
        if at in mutant.steps and mutant.steps[at].within is mutant.steps[where].within
        for side in (mutant.steps[at].operands, mutant.steps[at].results)
        for node in side
        for each in node
        if each is not None and old is not None and (each.shape, each.dtype) == (old.shape, old.dtype)
        if address_of(each) != address_of(old)
    ]
    return bool(like) and mutant.exchange(where, old, mutant.random.choice(like), "operands", True)


@mutation("it is another node")
def _node(mutant: Mutant, where: Where) -> bool:
    """One of another operator in the same task, with as many operands and results."""
    step = mutant.steps[where]
    if len(step.nodes) != 1:
        return False
    (node,) = step.nodes
    like = [
        each.nodes[0]
        for each in mutant.steps.values()
        if each.within is step.within and len(each.nodes) == 1
        if (len(each.nodes[0].inputs), len(each.nodes[0].outputs)) == (len(node.inputs), len(node.outputs))
        if each.nodes[0] is not node
    ]
    return bool(like) and mutant.put(where, nodes=(mutant.random.choice(like),))


@mutation("it adds otherwise")
def _kind(mutant: Mutant, where: Where) -> bool:
    """A sum is taken for a maximum, and a maximum for a sum."""
    step = mutant.steps[where]
    return step.kind in (ADD, MAXIMUM) and mutant.put(where, kind=MAXIMUM if step.kind == ADD else ADD)
