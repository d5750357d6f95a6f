"""The checker of programs: proves, range by range, that what is about to run does what its graph says.

    prove(trace)        ProofError, in values and ranges, or what has been proved and what the proof cannot see

    items       what the graph says: values, factors, views; halves: what a causal mask spares
    boxes, lays, memory, losses, finding    ranges of indices, bytes of arrays, what lies where, what is written over
    calls       calls held to what their step says
    steps, kept, exchanges, prover  the proof itself
    patterns, cases, lemmas         what has been proved once, and again holds where all it depends on is the same
    twice                           the same without these, for tests: both have to see the same

It shares no code with what writes programs: what must be read and written follows from nodes, signatures and traits,
what is from the addresses, shapes and strides of the arrays in the calls.
"""

from graphir.backends.proof.prover import prove
from graphir.backends.proof.report import Proof
from graphir.backends.trace import Trace

__all__ = ["Proof", "Trace", "prove"]
