"""The proof of a program: segment by segment, meeting by meeting, step by step.

Between two meetings threads run side by side. That no byte one of them writes is touched by another is seen first; then
their order does not matter, and they are gone through one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from graphir.backends.proof.calls import Lays
from graphir.backends.proof.contents import Contents
from graphir.backends.proof.doers import Counts, Doer, Done
from graphir.backends.proof.exchanges import Flights
from graphir.backends.proof.halves import find_halves
from graphir.backends.proof.items import Item, Ledger
from graphir.backends.proof.kept import Kept
from graphir.backends.proof.lays import Lay, Spans
from graphir.backends.proof.lemmas import Lemmas
from graphir.backends.proof.patterns import Holder
from graphir.backends.proof.report import Proof
from graphir.backends.proof.rules import prove_rules
from graphir.backends.proof.steps import Steps
from graphir.backends.trace import Meeting, Step, ThreadTrace, Trace
from graphir.errors import ProofError
from graphir.ir.collector import without_collector

#: What each thread does between two meetings.
_Phase = list[list[Done]]


@without_collector
def prove(trace: Trace) -> Proof:
    """Proves that a program does what its graph says; ProofError, in values and ranges, where it does not.

    What is read is there, as it was last written, whole; what threads do side by side does not meet in memory; what
    travels is left alone; every result lies where it is looked for. What that does not say is listed in the result.
    """
    return Prover(trace).prove()


class Prover:
    """Proves one program. With `again`, by no pattern and no lemma without holding it to what it speaks of."""

    def __init__(self, trace: Trace, again: bool = False) -> None:
        self.trace, self.lays, self.counts = trace, Lays(), Counts()
        self.holder = Holder(self.lays, again)
        self.contents = Contents(self.lays, self.counts)
        self.memory = self.contents.memory
        self.ledger = Ledger(trace.graph, trace.sizes, trace.rank)
        find_halves(self.ledger, trace.seen)
        self.steps = Steps(self.ledger, self.contents)
        self.flights = Flights(self.ledger, self.contents)
        self.kept = Kept(self.ledger, self.memory, self.lays)
        self.lemmas = Lemmas(self.steps, self.kept, again)

    def prove(self) -> Proof:
        """What has been proved; ProofError where the program does not do what its graph says."""
        trace = self.trace
        if len(trace.exchanges) != len(trace.segments) + 1:
            raise ProofError(
                f"a program of {len(trace.segments)} segments has exchanges before each and after the last; "
                f"there are {len(trace.exchanges)} lists of them"
            )
        prove_rules(trace.rules)
        phases = [[*self._phases(number, segment)] for number, segment in enumerate(trace.segments)]
        self._find_kept([done for segment in phases for phase in segment for thread in phase for done in thread])
        self._find_wanted(phases)
        begin = Doer("before the run", "the caller")
        for value, array in trace.arguments.items():
            item = self.ledger.item(value)
            self._require_block(item, array, begin)
            self.contents.write_block(item, array, begin)
        for number, segment in enumerate(phases):
            self.flights.carry_out(trace.exchanges[number], number)
            for phase in segment:
                self._check_threads(phase)
                for thread in phase:
                    for _, task in groupby(thread, _task):
                        self.lemmas.carry_out(list(task), self._carry_out)
                self.end_phase()
        self.flights.carry_out(trace.exchanges[-1], len(phases))
        self.flights.require_landed()
        end = Doer("after the run", "the caller")
        for value, array in trace.results.items():
            item = self.ledger.item(value)
            self._require_block(item, array, end)
            self.contents.read(item, array, end)
        return Proof(self.trace.graph.name, self.counts)

    def end_phase(self) -> None:
        """Called when all that is done until a meeting has been gone through."""

    def _require_block(self, item: Item, array: Any, doer: Doer) -> None:
        if tuple(array.shape) != item.shape:
            doer.fail(f"{item.name} is {list(item.shape)} on a rank, its block {list(array.shape)}")

    # -- what is to be done ---------------------------------------------------------------------------

    def _phases(self, number: int, segment: Sequence[ThreadTrace]) -> Iterator[_Phase]:
        """A segment's steps, from meeting to meeting."""
        lists: list[list[list[Done]]] = []
        for thread, each in enumerate(segment):
            parts: list[list[Done]] = [[]]
            behind = 0
            for count, step in enumerate(each.steps):
                where = f"thread {thread}, segment {number}, step {count}"
                if step.start < behind:
                    raise ProofError(f"{where}: it begins at call {step.start}, which is another step's")
                if step.start > behind:
                    raise ProofError(f"{where}: calls {behind} to {step.start - 1} before it are no step's")
                if isinstance(step, Meeting):
                    parts.append([])
                    behind = step.start + 1
                    continue
                behind = step.stop
                doer = Doer(where, _what(step), _line(step))
                parts[-1].append(Done(step, doer, self.holder.hold(step, each.calls, doer.fail), thread))
                self.counts.calls += step.stop - step.start
            if behind != len(each.calls):
                raise ProofError(
                    f"thread {thread}, segment {number}: calls {behind} to {len(each.calls) - 1} are no step's"
                )
            lists.append(parts)
        meetings = {len(parts) - 1 for parts in lists}
        if len(meetings) > 1:
            raise ProofError(
                f"segment {number}: its threads meet {', '.join(str(len(parts) - 1) for parts in lists)} times; "
                "who comes to a meeting that another does not come to waits for ever"
            )
        self.counts.meetings += max(meetings, default=0)
        for phase in zip(*lists, strict=True):
            yield list(phase)

    def _find_kept(self, every: Sequence[Done]) -> None:
        """What nodes read that earlier tiles of theirs have written; all else that is read beside is a constant."""
        lays = [lay for done in every for lay in done.deeds.writes.values()]
        lays += [self.lays.of(array) for array in self.trace.arguments.values()]
        lays += self.flights.written(self.trace.exchanges)
        touched = Spans([(lay.low, lay.high) for lay in lays])
        self._check_constants(every, touched)
        self.kept.find(every, touched)

    def _check_constants(self, every: Sequence[Done], touched: Spans) -> None:
        """Nobody writes to them."""
        for lay in map(self.lays.of, self.trace.constants):
            if touched.touch(lay):
                for done in every:
                    if any(each.touches(lay) for each in done.deeds.writes.values()):
                        done.doer.fail("it writes to a constant")

    def _find_wanted(self, phases: Sequence[Sequence[_Phase]]) -> None:
        """Counts what is going to be read of each value."""
        for segment in phases:
            for phase in segment:
                for thread in phase:
                    for done in thread:
                        for item in self.steps.read_by(done.step):
                            self.memory.wanted[item.root] += 1
        # Exchanges and results are looked at as long as the proof takes.
        values = [
            value for each in self.trace.exchanges for one in each for value in (*one.node.inputs, *one.node.outputs)
        ]
        for value in (*values, *self.trace.results):
            self.memory.wanted[self.ledger.item(value).root] += 1

    # -- threads --------------------------------------------------------------------------------------

    def _check_threads(self, phase: _Phase) -> None:
        """No thread touches what another writes before they meet."""
        events: list[tuple[int, int, bool, Lay, Done]] = []
        seen: set[object] = set()
        for thread in phase:
            for done in thread:
                self.flights.check(done.deeds, done.doer)
                if len(phase) < 2:
                    continue
                for writes, lays in ((True, done.deeds.writes), (False, done.deeds.reads)):
                    for key, lay in lays.items():
                        if (done.thread, writes, key) not in seen:
                            seen.add((done.thread, writes, key))
                            events.append((lay.low, lay.high, writes, lay, done))
        events.sort(key=lambda each: each[0])
        active: list[tuple[int, int, bool, Lay, Done]] = []
        for event in events:
            low, _, writes, lay, done = event
            active = [each for each in active if each[1] > low]
            for _, _, other_writes, other, who in active:
                if (writes or other_writes) and who.thread != done.thread and lay.touches(other):
                    first, second = (done, who) if writes else (who, done)
                    deed = "writes, too" if writes and other_writes else "reads"
                    first.doer.fail(
                        f"it writes to memory that {second.doer} {deed}, and the threads do not meet between the two"
                    )
            active.append(event)

    # -- one after the other --------------------------------------------------------------------------

    def _carry_out(self, done: Done) -> None:
        self.kept.carry_out(done)
        self.steps.carry_out(done.step, done.doer)
        for item in self.steps.read_by(done.step):
            self.memory.wanted[item.root] -= 1


def _task(done: Done) -> object:
    """Equal for steps of one task."""
    return done.step.within or done.step.nodes or done.step.value


def _what(step: Step) -> str:
    if step.nodes:
        return ", ".join(f"{node.name} = {node.operator.symbol}" for node in step.nodes)
    return f"{step.kind} of {step.value.name if step.value is not None else 'nothing'}"


def _line(step: Step) -> str | None:
    lines: Iterable[str | None] = (node.meta.at for node in step.nodes)
    return next((line for line in lines if line), None)
