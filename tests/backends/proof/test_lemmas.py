"""Lemmas and patterns: what they prove is what is proved step by step, and no fault hides behind an equal layer."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends import proof
from graphir.backends.proof import Trace, lemmas, prover
from graphir.backends.proof.twice import prove_twice
from graphir.backends.trace import Step
from graphir.errors import ProofError
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, autodiff, optimize
from graphir.passes.sharding import complete_plan, shard
from tests.backends.proof.test_proof import B, D, chain, exp, fails
from tests.support.handwritten import Handwritten
from tests.support.sampled import sampled
from tests.support.tilings import drawn
from tests.support.traces import MUTATIONS, Mutant, traces

SIZES = {"B": 4, "S": 6, "D": 8, "N_H": 2, "D_ff": 8, "V": 12}
#: What may change nothing that a proof can see, so that it is found in some places only; the others are in all.
HARMLESS = {
    "a call is left out",
    "an argument is shifted",
    "arguments change places",
    "operands change places",
    "something else is written beside",
    "two steps change places",
}


def step(layers: int, optimizer: str | None = "adamw", dropout: float = 0.1) -> Graph:
    graph = autodiff(gi.models.transformer(layers, dropout=dropout, decode=None))
    return graph if optimizer is None else optimize(graph, Optimizer(optimizer))


def noted(patch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that lemmas speak of, from now on."""
    found: list[Step] = []
    apply = lemmas._apply

    def noting(lemma: Any, case: Any) -> None:
        found.extend(done.step for done in case.dones)
        apply(lemma, case)

    patch.setattr(lemmas, "_apply", noting)
    return found


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that lemmas have spoken of."""
    return noted(monkeypatch)


# -- the same is seen --------------------------------------------------------------------------------------


@sampled(2, optimizer=["adamw", "sgd"], threads=[1, 2, 3])
def test_a_training_step_is_proved_by_lemmas_as_without(applied: list[Step], optimizer: str, threads: int) -> None:
    for trace in traces(step(4, optimizer), SIZES, threads=threads):
        proved = prove_twice(trace)
        assert len(applied) > proved.counts.steps / 5


@sampled(1, seed=range(3))
def test_under_tilings_drawn_at_random(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(proof, "prove", prove_twice)
    gi.compile(step(3, None), SIZES, threads=2, tiling=drawn(seed), check=True)


@sampled(1, mesh=[{"tp": 2}, {"dp": 2}, {"dp": 2, "tp": 2}])
def test_on_ranks(applied: list[Step], mesh: dict[str, int]) -> None:
    local = shard(step(3), Mesh(mesh), complete_plan(None, Mesh(mesh)), SIZES)
    for trace in traces(local, SIZES, threads=2):
        prove_twice(trace)
    assert applied


# -- a fault in one layer alone ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def right() -> Trace:
    """A training step of three layers, on two threads."""
    (trace,) = traces(step(3, "sgd"), {**SIZES, "S": 64, "D": 32}, threads=2)
    return trace


@pytest.fixture(scope="module")
def spoken(right: Trace) -> set[int]:
    """The steps of it, by their ids, that lemmas speak of."""
    with pytest.MonkeyPatch.context() as patch:
        found = noted(patch)
        prover.prove(right)
    return {id(step) for step in found}


@pytest.mark.slow
@sampled(3, name=list(MUTATIONS))
def test_a_fault_behind_layers_that_are_right(right: Trace, spoken: set[int], name: str) -> None:
    """Where a lemma would have spoken, had the step been right; else, where no such step is fit for it, at any."""
    random, tried, found = Random(name), 0, 0
    steps = Mutant(right, random).steps
    places = sorted(random.sample([*steps], len(steps)), key=lambda where: id(steps[where]) not in spoken)
    for where in places:
        mutant = Mutant(right, random)
        if tried == 4:
            break
        if not MUTATIONS[name](mutant, where):
            continue
        tried += 1
        try:
            prove_twice(mutant.trace)
        except ProofError:
            found += 1
    assert tried
    assert found == tried or (found and name in HARMLESS)


# -- what must not be taken for the same -------------------------------------------------------------------


def test_a_step_that_is_like_another_but_writes_over_what_is_still_read(applied: list[Step]) -> None:
    program = Handwritten(chain("A", "C", "E", "Y"), {"B": 4, "D": 6})
    X, A, C, E, Y = program.argument("X"), *map(program.array, "ACE"), program.result("Y")
    for name, source, target in (("A", X, A), ("C", A, C), ("E", C, E), ("Y", E, Y)):
        program.compute(name, [source], [target], exp(source, target))
    program.prove()
    assert applied
    # E is written where A lies, which Y reads.
    block = gi.Builder("again")
    first = gi.exponential(block.input("X", (B, D)), name="A")
    second = gi.exponential(first, name="C")
    graph = block.build(gi.add(first, gi.exponential(second, name="E"), name="Y"))
    program = Handwritten(graph, {"B": 4, "D": 6})
    X, A, C, Y = program.argument("X"), program.array("A"), program.array("C"), program.result("Y")
    for name, source, target in (("A", X, A), ("C", A, C), ("E", C, A)):
        program.compute(name, [source], [target], exp(source, target))
    program.compute("Y", [A, A], [Y], (np.add, A, A, Y))
    fails(program, "Y = +", "it reads A", "what lies there is E[B 0:4, D 0:6], by E")


def test_what_lies_near_is_not_taken_for_what_lies_far(applied: list[Step]) -> None:
    """Two halves of a value, apart in one case and side by side in the other: together they are read in one only."""
    graph = chain("A", "C", "E", "Y")
    for together in (True, False):
        program = Handwritten(graph, {"B": 4, "D": 6})
        Y = program.result("Y")
        memory = {"X": program.argument("X"), **{name: np.empty((8, 6), np.float32) for name in "ACE"}}
        for name, before in ("AX", "CA", "EC"):
            second = slice(4, 6) if name == "E" and not together else slice(2, 4)
            for here, there in ((slice(0, 2), slice(0, 2)), (slice(2, 4), second)):
                read, target = memory[before][here], memory[name][there]
                program.compute(name, [read], [target], exp(read, target))
        program.compute("Y", [memory["E"][:4]], [Y], exp(memory["E"][:4], Y))
        if together:
            program.prove()
            assert applied
        else:
            fails(program, "it reads E", "of which E[B 2:4, D 0:6] is not there")
