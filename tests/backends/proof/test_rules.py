"""The rule by which keys are left out: proved for all positions, and each wrong one refuted by an example."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.bounds import holds, rule_of, spelled
from graphir.backends.compiled.sights import Sight
from graphir.backends.inequalities import AtMost, Bound, Condition, Every, Rule
from graphir.backends.proof.rules import prove_rules
from graphir.errors import ProofError
from graphir.ir.graph import Node
from graphir.ir.operator import Operator
from graphir.ir.traits import Sees

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 2},
    "padding": {"mask": "padding"},
    "documents": {"segments": True},
    "all": {"window": 3, "mask": "padding", "segments": True},
}


def masks(**options: Any) -> Node:
    """A node that masks scores by position."""
    B, H, S, S_k, D = gi.dims("B H S S_k D")
    block = gi.Builder("masks")
    given = [block.input("A", (B, H, S, S_k)), block.input("q", (B, S), "int64"), block.input("k", (B, S_k), "int64")]
    if options.get("mask") == "padding":
        given.append(block.input("keep", (B, S_k), "bool"))
    if options.get("segments"):
        given += [block.input("q_segment", (B, S), "int64"), block.input("k_segment", (B, S_k), "int64")]
    return block.build(gi.scale_mask_by_position(*given, width=D, **options)).nodes[0]


def is_proved(node: Node, rule: Rule) -> bool:
    try:
        prove_rules({node: rule})
    except ProofError:
        return False
    return True


@pytest.mark.parametrize("which", OPTIONS)
def test_the_rule_of_every_mask_is_right(which: str) -> None:
    node = masks(**OPTIONS[which])
    rule = rule_of(node)
    assert rule is not None
    prove_rules({node: rule})


# -- wrong rules -----------------------------------------------------------------------------------------------


def mutants(condition: Condition) -> Iterator[Condition]:
    """One thing wrong: < for ≤, the other end of a range, a sign, a part that is not there."""
    if not isinstance(condition, AtMost):
        for i, part in enumerate(condition.parts):
            before, behind = condition.parts[:i], condition.parts[i + 1 :]
            yield type(condition)((*before, *behind))
            yield from (type(condition)((*before, each, *behind)) for each in mutants(part))
        return
    terms = condition.terms
    for by in (-1, 1):
        yield AtMost(terms, condition.constant + by)
    for i, (bound, factor) in enumerate(terms):
        for other in ((Bound(bound.operand, not bound.greatest), factor), (bound, -factor)):
            yield AtMost((*terms[:i], other, *terms[i + 1 :]), condition.constant)


def is_right(node: Node, rule: Rule, numbers: range) -> bool:
    """Whether a rule is right of all ranges of these numbers: asked of each of them."""
    ranges = [(low, high) for low, high in itertools.product(numbers, repeat=2) if low <= high]
    names = [each.name for each in node.inference.rule.inputs[1:]]
    trait = node.operator.trait(Sees)
    assert trait is not None
    for bounds in itertools.product(*([(0, 0), (0, 1), (1, 1)] if name == "keep" else ranges for name in names)):
        told = {Bound(n, end): each[end] for n, each in zip(names, bounds, strict=True) for end in (False, True)}
        # One number of each operand against all of the others.
        points = np.meshgrid(*(np.arange(low, high + 1) for low, high in bounds), indexing="ij")
        flat = {n: each.reshape(1, -1) for n, each in zip(names, points, strict=True)}
        operands = {n: each.astype(bool) if n == "keep" else each for n, each in flat.items()}
        queries = {n: each for n, each in operands.items() if n.startswith("q")}
        seen = trait.rule(np, {**operands, **queries}, node.attributes)[0].diagonal()
        if (not holds(rule.may_see, told) and seen.any()) or (not holds(rule.may_miss, told) and not seen.all()):
            return False
    return True


@pytest.mark.parametrize("which", ["plain", "window", "padding"])
def test_a_wrong_rule_is_refuted_and_no_other(which: str) -> None:
    """What the proof says of a rule with a fault is what numbers say: some faults only leave less out."""
    node = masks(**OPTIONS[which])
    rule = rule_of(node)
    assert rule is not None
    verdicts = set()
    for side in ("may_see", "may_miss"):
        for other in mutants(getattr(rule, side)):
            mutant = dataclasses.replace(rule, **{side: other})
            verdicts.add(is_proved(node, mutant))
            assert is_proved(node, mutant) == is_right(node, mutant, range(-2, 3)), (side, other)
    assert verdicts == {True, False}


def test_what_is_wrong_is_told_by_an_example() -> None:
    node = masks(window=5)
    rule = rule_of(node)
    assert rule is not None
    assert isinstance(rule.may_see, Every)
    order, window = rule.may_see.parts
    assert isinstance(window, AtMost)
    narrower = dataclasses.replace(rule, may_see=Every((order, AtMost(window.terms, window.constant + 1))))
    with pytest.raises(
        ProofError, match=r"SMP0 = SM .*sees none of .* a query sees a key .*q_position is \d of \d to \d"
    ):
        prove_rules({node: narrower})


def test_a_program_is_proved_with_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run has to come to where the rule is wrong."""
    node = masks()
    rule = rule_of(node)
    assert rule is not None
    assert isinstance(rule.may_see, AtMost)
    wrong = dataclasses.replace(rule, may_see=AtMost(rule.may_see.terms, 1))
    monkeypatch.setattr("graphir.backends.compiled.prepared.rule_of", lambda node: wrong)
    graph = gi.Builder("whole")
    B, H, S, D = gi.dims("B H S D")
    at = [graph.input(name, (B, S), "int64") for name in ("q", "k")]
    Z = gi.scale_mask_by_position(graph.input("A", (B, H, S, S)), *at, width=D, name="Z")
    with pytest.raises(ProofError, match=r"Z = SM .* by the rule that it is run by"):
        gi.compile(graph.build(Z), {"B": 1, "H": 1, "S": 4, "D": 2}, check=True)


@pytest.mark.parametrize("which", OPTIONS)
def test_what_kernels_are_told_is_the_rule(which: str) -> None:
    """Its text in C is, of numbers drawn at random, what it says itself."""
    rule = rule_of(masks(**OPTIONS[which]))
    assert rule is not None
    random = np.random.default_rng(0)
    for condition in (rule.may_see, rule.may_miss):
        text = spelled(condition, lambda bound: f"told[{bound.operand!r}, {bound.greatest}]")
        code = compile(text.replace("&&", "and").replace("||", "or").replace("ll", ""), "a rule", "eval")
        for _ in range(50):
            names = ("q_position", "k_position", "keep", "q_segment", "k_segment")
            told = {
                Bound(n, end): int(random.integers(0, 2 if n == "keep" else 6)) for n in names for end in (False, True)
            }
            assert eval(code, {"told": told}) == holds(condition, told), text


# -- rules of other kinds ---------------------------------------------------------------------------------------


def _strided(xp: Any, operands: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    return (operands["q"][:, :, None] - operands["k"][:, None, :]) % 3 == 0


def _either(xp: Any, operands: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    q, k = operands["q"][:, :, None], operands["k"][:, None, :]
    return ~((k > q) | (2 * q - 3 * k == 1)) | (k < 1)


def own(rule: Any, dtype: str = "int64") -> Node:
    """A node that masks by a rule of one's own."""

    def kernel(xp: Any, A: Any, q: Any, k: Any) -> Any:
        """Z = A where it is seen."""
        return xp.where(rule(xp, {"q": q, "k": k}, {})[:, None], A, A.dtype.type(-1e30))

    mask = Operator("own", "A[b *h q k], q[b q] int, k[b k] int -> Z[b *h q k]", kernel, sees=rule, no_gradient="none")
    B, H, S, S_k = gi.dims("B H S S_k")
    block = gi.Builder("own")
    ids = block.input("q", (B, S), dtype), block.input("k", (B, S_k), dtype)
    return block.build(mask(block.input("A", (B, H, S, S_k)), *ids)).nodes[0]


@pytest.mark.parametrize(("rule", "is_linear"), [(_strided, False), (_either, True)])
def test_a_mask_of_ones_own(rule: Any, is_linear: bool) -> None:
    """Comparisons of sums have a rule, which is proved; of what is none the mask itself is asked."""
    node = own(rule)
    found = rule_of(node)
    assert (found is not None) == is_linear
    if found is not None:
        prove_rules({node: found})
        assert is_right(node, found, range(-2, 4))
    line = np.arange(12)[None]
    seen = sight(node).look(dict(zip(node.inputs[1:], (line, line), strict=True)), 1, 1)
    assert seen is not None
    for q, (mask, low, high) in enumerate(
        zip(rule(np, {"q": line, "k": line}, {})[0], *seen.lows, *seen.highs, strict=True)
    ):
        assert not np.delete(mask, slice(low, high)).any(), q


def sight(node: Node) -> Sight:
    trait = node.operator.trait(Sees)
    assert trait is not None
    operands = zip(node.inference.rule.inputs[1:], node.inputs[1:], strict=True)
    return Sight(trait.rule, node.attributes, tuple((e.name, e.factors, v) for e, v in operands), rule_of(node))


def _behind(xp: Any, operands: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    return operands["q"][:, :, None] - operands["k"][:, None, :] < 5


def test_of_numbers_that_sums_grow_out_of_each_is_asked() -> None:
    """What begins anew at the other end is seen again, and the rule, in which nothing does, would leave it out."""
    node = own(_behind, "int32")
    q, k = np.int32([[(1 << 31) - 1, 7]]), np.int32([[-3, 100, 0, 1]])
    assert _behind(np, {"q": q, "k": k}, {})[0].tolist() == [[True, False, False, False], [False, True, False, False]]
    told = sight(node).look(dict(zip(node.inputs[1:], (q, k), strict=True)), 1, 1)
    assert told is not None
    assert (told.lows, told.highs) == (((0, 1),), ((1, 2),))
