"""Proving twice: once by patterns and lemmas, and once step by step, to see that nothing comes out otherwise.

So it is done in tests, which put `prove_twice` in the place of `proof.prove`. The second time each pattern and each
lemma is also held to what it speaks of, number by number; and what is in memory after each phase is compared, element
by element.
"""

from __future__ import annotations

from graphir.backends.proof.items import Item
from graphir.backends.proof.prover import Prover
from graphir.backends.proof.report import Proof
from graphir.backends.trace import Trace
from graphir.errors import ProofError


def prove_twice(trace: Trace) -> Proof:
    """What has been proved, both times; ProofError as the first time. AssertionError where the two see other things."""
    one, other = Witness(trace), Witness(trace, again=True)
    failures = [_failure(one), _failure(other)]
    if failures[0] != failures[1]:
        raise AssertionError(f"with lemmas: {failures[0]}; step by step: {failures[1]}")
    for phase, (seen, held) in enumerate(zip(one.seen, other.seen, strict=True)):
        for what, those in held.items():
            if seen[what] != those:
                raise AssertionError(f"phase {phase}, {what}: with lemmas {seen[what]}, step by step {those}")
    if one.error is not None:
        raise one.error
    return one.proof


class Witness(Prover):
    """A prover that puts down what is known after each phase, in words that another understands."""

    def __init__(self, trace: Trace, again: bool = False) -> None:
        super().__init__(trace, again)
        self.seen: list[dict[str, object]] = []
        self.error: ProofError | None = None

    def witness(self) -> Witness:
        """Itself, having proved, or failed."""
        try:
            self.proof = self.prove()
        except ProofError as error:
            self.error = error
        return self

    def end_phase(self) -> None:
        """Puts down all that is known of values that somebody will still read."""
        items = [*self.ledger.items(), *(item for known in self.kept.places.values() for _, item in known)]
        names = {item: f"{number} {item.name}" for number, item in enumerate(items)}
        memory = self.memory

        def name(item: Item) -> str:
            return names[item] if item.cleared_for is None else f"0 for {names[item.cleared_for]}"

        holdings: dict[str, list[object]] = {}
        for item, found in memory.by_item.items():
            if memory.wanted[item.root] and found:
                holdings.setdefault(name(item), []).extend(
                    (
                        *(each.base, each.strides, each.itemsize, each.floating, each.bounds, each.lay.key),
                        *(each.valid.boxes, each.terms and each.terms.boxes, str(each.by)),
                    )
                    for each in found
                )
        kept: dict[str, object] = {}
        for item, (node, operands) in self.kept.made_of.items():
            made_of = None if operands is None else [(at, name(each)) for at, each in operands.items()]
            kept[name(item)] = node.name, made_of
        self.seen.append(
            {
                "holdings": holdings,
                "wanted": {name(item): count for item, count in memory.wanted.items() if count},
                "alike": {name(item): factors for item, factors in self.steps.alike.items()},
                "kept": kept,
                "counts": str(self.counts),
            }
        )


def _failure(witness: Witness) -> str | None:
    """Who is at fault, and with what; what lies in its place may be told otherwise."""
    error = witness.witness().error
    return None if error is None else str(error).partition(";")[0]
