"""Logical dims: what each dim of a value stands for.

    W_Q [D, D]: its first D is D; its second is N_H·D_h, heads and their width

A shape says how many, not what of. That the second D of W_Q is made of heads follows from its use: X_norm • W_Q is
Q_lin [B, S, D], and `b s (h d) -> b s h d` takes Q_lin's D apart. So dims that share a factor of some node's rule are
one dim, and one that a node takes apart, or puts together, reads as the product of others: from the major one down.

A dim that must be whole in a node (`d!`) is not followed through it: no split could be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from graphir.ir.dims import Dim
from graphir.ir.disjoint import DisjointSets
from graphir.ir.graph import FORWARD, Node
from graphir.ir.signature import is_literal
from graphir.ir.value import Value

#: The dims that a dim is the product of, the major first.
Reading: TypeAlias = tuple[Dim, ...]


class LogicalDims:
    """The readings of each dim of the values that `nodes` read and make; gradients follow what they are of."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._sets = DisjointSets()
        self._dims: list[Dim] = []
        self._of: dict[Value, tuple[int, ...]] = {}
        self._products: list[tuple[int, tuple[int, ...]]] = []
        for node in nodes:
            if node.meta.phase == FORWARD:
                self._follow(node)
        self._made_of: dict[int, list[tuple[int, ...]]] = {}
        for whole, parts in self._products:
            self._made_of.setdefault(self._sets.find(whole), []).append(parts)
        #: The products of each dim that was asked for.
        self._known: dict[int, dict[Reading, None]] = {}

    def readings(self, value: Value, position: int) -> list[Reading]:
        """All that a dim stands for: itself, and each product that it is taken apart into or put together from."""
        dim = value.shape[position]
        if value not in self._of:
            return [(dim,)]
        whole = self._sets.find(self._of[value][position])
        if whole not in self._known:
            self._known[whole] = dict.fromkeys(self._products_of(whole, frozenset((whole,))))
        return list(dict.fromkeys([(dim,), *self._known[whole]]))

    def _products_of(self, whole: int, seen: frozenset[int]) -> Iterator[Reading]:
        for major, *rest in self._made_of.get(whole, ()):
            minor = tuple(self._dims[part] for part in rest)
            yield (self._dims[major], *minor)
            first = self._sets.find(major)
            if first not in seen:
                for reading in self._products_of(first, seen | {first}):
                    yield (*reading, *minor)

    # -- dims that are one ----------------------------------------------------------------------------

    def _follow(self, node: Node) -> None:
        rule, dims = node.inference.rule, node.inference.factors
        factors: dict[str, int] = {}
        for operand, value in zip((*rule.inputs, *rule.outputs), (*node.inputs, *node.outputs), strict=True):
            mine = self._of.get(value)
            if mine is None:
                mine = self._of[value] = tuple(map(self._new, value.shape))
            for axis, each in zip(operand.axes, mine, strict=True):
                if axis.whole or any(map(is_literal, axis.factors)):
                    continue
                parts = [
                    factors[f] if f in factors else factors.setdefault(f, self._new(dims[f])) for f in axis.factors
                ]
                if len(parts) == 1:
                    self._sets.unite(each, parts[0])
                elif parts:
                    self._products.append((each, tuple(parts)))

    def _new(self, dim: Dim) -> int:
        self._dims.append(dim)
        return self._sets.new()
