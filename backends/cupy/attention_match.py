"""Attention's core among a task's nodes, recognised by what they are and read, whatever their names.

    forward    A = Q • Kᵀ,  Z = SM(A),  P = S(Z),  P' = DO(P),  O = P' • V,  with each row's maximum and sum if they are
               kept: P, top, s = S(Z)
    gradient   A = Q • Kᵀ,  Z = SM(A),  P = exp(Z − top) / s,  P' = DO(P),  then dP' = dO • Vᵀ,  dV = P'ᵀ • dO,
               dP = dDO(dP'),  dZ = P ⊙ (dP − c),  dA = dSM(dZ),  dQ = dA • K,  dKᵀ = Qᵀ • dA

with nobody else reading what lies between; casts between them are left out. Q is [b, h, q, d], of grouped heads
[b, h, g, q, d]. So the gradient has its rows' numbers from elsewhere (`passes.keep_softmax_statistics`): top and s of
the forward pass, c = Σ O ⊙ dO. One that has not, S and dS, is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphir.backends.compiled.task import Task
from graphir.backends.cupy.sight import Sight, sight_of
from graphir.backends.rows.runs import FusedRun
from graphir.ir.graph import Node
from graphir.ir.operator import Operator
from graphir.ir.traits import (
    DROPOUT,
    MASKED_SCORES,
    PRODUCT,
    SEEN_SCORES,
    SOFTMAX,
    SOFTMAX_AGAIN,
    SOFTMAX_CENTERED,
    SOFTMAX_ROWS,
    Computes,
)
from graphir.ir.value import Value

#: The roles of numbers that each row has one of.
ROWS = ("top", "s", "c")


@dataclass(frozen=True)
class AttentionRun(FusedRun):
    """The nodes of attention's core, or of its gradient.

    roles     of the core Q, K_T, V, O, and top and s where they leave; of the gradient Q, K_T, V, top, s, c, dO, dQ,
              dK_T, dV. The numbers of rows are of the dtype that is computed in
    masked    the node that masks the scores; sight: how its operands say which, if they do
    dropped   the node that drops probabilities, if any
    """

    roles: Mapping[str, Value]
    masked: Node
    dropped: Node | None
    sight: Sight | None


def find_attention(task: Task) -> dict[int, AttentionRun]:
    """Attention's core and its gradient among a task's nodes, by the position of the first."""
    work = [(position, node) for position, node in enumerate(task.nodes) if not node.operator.view]
    found: dict[int, AttentionRun] = {}
    for index, (position, node) in enumerate(work):
        if _part(node.operator) == PRODUCT and len(node.outputs[0].shape) in (4, 5):
            try:
                run = _Match(task, work[index:]).run()
            except _MismatchError:
                continue
            if _is_closed(run):
                found[position] = run
    return found


def inner_values(run: AttentionRun) -> frozenset[Value]:
    """What the run makes and does not leave."""
    return frozenset(value for node in run.nodes for value in node.outputs) - set(run.outputs)


def _is_closed(run: AttentionRun) -> bool:
    """Whether nobody outside reads what the run does not leave, or a view of it."""
    inner, mine = set(inner_values(run)), set(run.nodes)
    for node in run.task.nodes:
        if node.operator.view and node.inputs[0] in inner:
            inner.add(node.outputs[0])
        elif node not in mine and not inner.isdisjoint(node.inputs):
            return False
    return inner.isdisjoint(run.task.leaving)


class _MismatchError(Exception):
    """The nodes are not attention's."""


class _Match:
    """Goes through nodes one after the other, casts left out."""

    def __init__(self, task: Task, work: Sequence[tuple[int, Node]]) -> None:
        self.task, self.work = task, work
        self.taken: list[Node] = []
        #: What a cast of this run is made of.
        self.source: dict[Value, Value] = {}
        self.stop = 0

    def run(self) -> AttentionRun:
        """The run that the nodes begin with. Errors: _MismatchError if they do not."""
        first = self._take(PRODUCT)
        part = self._next()
        if part not in (MASKED_SCORES, SEEN_SCORES):
            raise _MismatchError
        masked = self._take(part, A=first.outputs[0])
        roles = {"Q": first.inputs[0], "K_T": first.inputs[1]}
        kind = self._next()
        if kind not in (SOFTMAX, SOFTMAX_ROWS, SOFTMAX_AGAIN):
            raise _MismatchError
        is_gradient = kind == SOFTMAX_AGAIN
        rows = self._take(kind, Z=masked.outputs[0])
        P = rows.outputs[0]
        dropped = self._take(DROPOUT, X=P) if self._next() == DROPOUT else None
        kept = P if dropped is None else _result(dropped, "Y")
        if is_gradient:
            roles |= {"top": rows.inputs[1], "s": rows.inputs[2]}
            roles |= self._gradient(roles, masked, P, dropped, kept)
        else:
            last = self._take(PRODUCT, X=kept)
            roles |= {"V": last.inputs[1], "O": last.outputs[0]}
            roles |= self._leaving(rows)
        # One head of keys for each of queries, or for each group of them.
        if roles["Q"].type.rank not in (4, 5) or any(roles[name].type.rank != 4 for name in ("K_T", "V")):
            raise _MismatchError
        if any(self.source.keys() & {value} for value in roles.values()):
            raise _MismatchError
        made = {value for node in self.taken for value in node.outputs}
        inputs = dict.fromkeys(v for node in self.taken for v in node.inputs if v not in made)
        outputs = tuple(value for name, value in roles.items() if value in made)
        dtype = "float64" if roles["Q"].dtype == "float64" else "float32"
        if any(roles[name].dtype != dtype for name in ROWS if name in roles):
            raise _MismatchError
        sight = sight_of(masked)
        if sight is None and part == SEEN_SCORES:
            raise _MismatchError
        nodes = tuple(self.taken)
        return AttentionRun(
            self.task, nodes, (), (), tuple(inputs), outputs, dtype, self.stop, roles, masked, dropped, sight
        )

    def _leaving(self, rows: Node) -> dict[str, Value]:
        """The roles of the statistics that are kept: both or none."""
        kept = [value for value in rows.outputs[1:] if value in self.task.leaving]
        if len(kept) == 1:
            raise _MismatchError
        return dict(zip(("top", "s"), kept, strict=True)) if kept else {}

    def _gradient(
        self, roles: Mapping[str, Value], masked: Node, P: Value, dropped: Node | None, kept: Value
    ) -> dict[str, Value]:
        """The roles of what follows P' in the gradient."""
        of_kept = self._take(_gradient_of(PRODUCT), only=("dX",))
        dO = _operand(of_kept, "dY")
        of_v = self._take(_gradient_of(PRODUCT), only=("dW",), X=kept, dY=dO)
        dP = of_kept.outputs[0]
        if dropped is not None:
            dP = self._take(_gradient_of(DROPOUT), m=_result(dropped, "m"), dY=dP).outputs[0]
        centered = self._take(SOFTMAX_CENTERED, P=P, dP=dP)
        dZ, c = centered.outputs[0], centered.inputs[2]
        slope = self._take(_gradient_of(_part(masked.operator)), dZ=dZ)
        if slope.attributes != masked.attributes or slope.inputs[1:] != masked.inputs[1:]:
            raise _MismatchError
        dA = slope.outputs[0]
        of_q = self._take(_gradient_of(PRODUCT), only=("dX",), W=roles["K_T"], dY=dA)
        of_k = self._take(_gradient_of(PRODUCT), only=("dW",), X=roles["Q"], dY=dA)
        V = _operand(of_kept, "W")
        dQ, dK_T, dV = of_q.outputs[0], of_k.outputs[0], of_v.outputs[0]
        return {"c": c, "V": V, "dO": dO, "dQ": dQ, "dK_T": dK_T, "dV": dV}

    def _next(self) -> str | None:
        """The part of attention that comes next, if it is one; casts on the way are taken."""
        while len(self.taken) < len(self.work):
            node = self.work[len(self.taken)][1]
            if not node.operator.retypes:
                return _part(node.operator)
            self.taken.append(node)
            self.source[node.outputs[0]] = self.source.get(node.inputs[0], node.inputs[0])
        return None

    def _take(self, part: str, only: tuple[str, ...] | None = None, **operands: Value) -> Node:
        """The next node, which computes this part, of these operands."""
        if self._next() != part:
            raise _MismatchError
        position, node = self.work[len(self.taken)]
        given = {name: _operand(node, name) for name in operands}
        if (only is not None and node.attributes["only"] != only) or any(
            self.source.get(given[name], given[name]) is not value for name, value in operands.items()
        ):
            raise _MismatchError
        self.taken.append(node)
        self.stop = position + 1
        return node


def _part(operator: Operator) -> str | None:
    """Which part of attention an operator computes, or the gradient of which; None of any other."""
    own = operator.trait(Computes)
    if own is not None:
        return own.part
    forward = operator.d_operator_of
    found = None if forward is None else forward.trait(Computes)
    return None if found is None else _gradient_of(found.part)


def _gradient_of(part: str | None) -> str:
    return f"gradient of {part}"


def _operand(node: Node, name: str) -> Value:
    names = [operand.name for operand in node.inference.rule.inputs]
    if name not in names:
        raise _MismatchError
    return node.inputs[names.index(name)]


def _result(node: Node, name: str) -> Value:
    names = [operand.name for operand in node.inference.rule.outputs]
    return node.outputs[names.index(name)]
