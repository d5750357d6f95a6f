"""What a proof has seen, and what it cannot see."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.backends.proof.doers import Counts

UNSEEN = (
    "What a call computes of its arguments: that is held to the interpreter by tests, number by number.",
    "Which arguments a call writes is declared (graphir.backends.effects); tests hold each declaration to deeds.",
    "In which order a rule reads an operand and writes a result that lie in the same memory, element on element: "
    "that it may is the rule's own word, and held by tests.",
    "Which elements between the first and the last a generated kernel touches of an array that has gaps.",
    "Which rows indices pick: that they are in range is looked at when a run begins.",
    "What is least and greatest of the positions of a run, what the rule, which is proved, says of that, and that no "
    "sum of positions grows out of its type: of so large ones each query and each key is asked.",
    "What other ranks hold: that a collective's operand is pending, or split, as its type says.",
    "Whether arguments that the caller hands in later lie apart, as those do that the program was written for.",
)


@dataclass(frozen=True)
class Proof:
    """What has been proved of a program: how much of it there is, and, in `unseen`, what is not part of the proof."""

    program: str
    counts: Counts

    @property
    def unseen(self) -> list[str]:
        """What the proof does not say, a sentence each."""
        found = list(UNSEEN)
        if self.counts.unplaced:
            names = ", ".join(self.counts.unplaced)
            found.append(f"Which part of {names} is made on a tile: nothing that is read or handed over says it.")
        return found

    def __str__(self) -> str:
        counts = self.counts
        return (
            f"{self.program}: {counts.steps} steps of {counts.calls} calls, {counts.reads} reads, {counts.ranges} "
            f"ranges written, {counts.meetings} meetings and {counts.exchanges} exchanges proved"
        )
