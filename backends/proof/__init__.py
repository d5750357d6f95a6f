"""The checker of programs: proves, range by range, that what is about to run does what its graph says.

    prove(trace)        ProofError, in values and ranges, or what has been proved and what the proof cannot see

    items       what the graph says: values, factors, views; halves: what a causal mask spares
    rules       by which it is told, run by run, what positions let be left out
    boxes, lays, lattices, memory, losses, finding, contents
                ranges of indices, bytes of arrays, elements in even steps, what lies where, what is written over
    ranges      the part of a node that a step computes
    calls       calls held to what their step says
    steps, kept, exchanges, doers, prover, report
                the proof itself
    patterns, cases, lemmas         what has been proved once, and again holds where all it depends on is the same
    twice                           the same without these, for tests: both have to see the same

A compiled program is right if every read sees what was last written for that value, whole, in the layout in which it
was written. This is proved of a program before it runs, and no code is shared with what writes programs: *what must be*
follows from nodes, signatures and traits, *what is* from addresses, shapes and strides of the arrays in the calls.

A trace (`graphir.backends.trace`) is what the writer puts down: *steps*, a few consecutive calls of a thread that
compute nodes, copy a value, add to a sum or clear it, with the array of each operand and result; the meetings of
threads; what ranks exchange. It says nothing of tiles, loops and buffers.

Holdings (`memory`). Of each value the checker knows where its elements lie: a base, strides, and the boxes of indices
that are there; of a sum also the boxes of terms that are in. An array that is read is looked for there, or, of a view,
where its operand lies, seen through the view's rule; from its offset follows which part of the value it shows
(`finding`). What has been made part by part is gathered. Writing takes the bytes away from whoever held them
(`losses`), so that what is overwritten too early is missed by its next reader.

Ranges. The parts that a step reads and writes are ranges of its node's factors, on which all of them, and the `at` that
a kernel is told, have to agree; factors marked `!` are whole; a factor that is summed over makes a term, and a sum is
read when each of its terms is in it, once. The causal half is derived anew, over the whole graph: what is masked, what
is 0 of it, which terms of which sums are therefore nothing. That, and no more, may be left out.

Positions. What queries see by positions, windows, documents and padding each run tells anew, by a rule on the least and
the greatest of ranges of them. The rule is proved once, of all numbers that there are (`rules`): the trace's word for
what is seen is then what the rule says of the arguments, and what has been chosen for that is proved as all else is.

Threads, ranks, calls. Between two meetings no byte that a thread writes is touched by another; what travels is left
alone until it has been waited for; calls read their step's operands, constants, and scratch that they, or an earlier
tile of the node, have written, and write all of its results. Which arguments a function writes it declares
(`graphir.backends.effects`); tests run every operator's calls with all memory compared and poisoned around each.

Lemmas. A layer does what the one before it did, to other values at other addresses; so it is proved once. What calls
are held to follows from the pattern of their step, what a task's steps do to memory between two meetings from their
case: nodes, items, arrays and holdings in numbers, in the order in which they come. An equal case has an equal outcome,
a *lemma*. What cannot be put into numbers is proved step by step, and so is all that fails. That threads stay apart,
and what travels is left alone, is seen byte by byte for every step.

A ProofError speaks in values, index ranges, threads and the user's lines; `Proof.unseen` lists what the proof does not
say. `tests/backends/proof` holds it to programs written by hand, one fault of each kind beside a right one; whatever
the tests compile is proved, and faults put into one layer behind others that are right have to be found.
"""

from graphir.backends.proof.prover import prove
from graphir.backends.proof.report import Proof
from graphir.backends.trace import Trace

__all__ = ["Proof", "Trace", "prove"]
