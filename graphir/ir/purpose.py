"""What an inserted collective is for: written into its node's `why`, and read from there to see that it is still so.

    Z_down is a pending sum over tp; A_out = add(…) reads it as X0 [B, S, D]
    dX_norm = dMatmul(…) reads X_norm as X [B, S, D]
    the plan wants X_out as [B, S|tp, D]
    dW is a pending sum over dp; it is an output of the graph

A collective changes how a value lies and never what it is, so another value of the same type in its place is no type
error. What tells is its purpose: which value it brings to whom. Whoever writes a collective by hand states none, and
may put it where types allow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value

_AXES = r"[\w.]+(?: and [\w.]+)*"
_SETTLES = re.compile(rf"(?P<operand>.+?) is a pending (?P<kind>\w+) over (?P<axes>{_AXES}); (?P<rest>.+)")
_READ = re.compile(r"(?P<reader>.+) = (?P<key>\S+)\(…\) reads (?P<moved>.+) as (?P<name>\S+) (?P<lies>\[.*)")
_PINNED = re.compile(r"the plan wants (?P<moved>.+?) as (?P<lies>\[.*)")
_RETURNED = re.compile(r"(?P<moved>.+) is an output of the graph")
#: What stands for the moved value where the sentence has named it already.
_IT = "it"


@dataclass(frozen=True)
class Reading:
    """Who reads what a collective makes: the node, its operator, the operand."""

    node: str
    key: str
    operand: str

    @classmethod
    def of(cls, node: Node, operand: str, name: str | None = None) -> Reading:
        """`node`, or what is called `name` and does as `node` does, as the reader."""
        return cls(name or node.name, node.operator.key, operand)

    def __str__(self) -> str:
        return f"{self.node} = {self.key}(…)"


@dataclass(frozen=True)
class Purpose:
    """Which value is brought to whom, and how it is wanted.

    moved    the value's name
    lies     how it is wanted, `[B, S|tp, D]`; empty if however it lies, but settled
    reading  who reads it; None if the plan pins it, or, without `lies`, if the graph returns it
    pending  what is due of the operand, (its name, the reduction, the axes), where a collective settles that
    """

    moved: str
    lies: str = ""
    reading: Reading | None = None
    pending: tuple[str, str, tuple[str, ...]] | None = None

    def settling(self, operand: Value, axes: Sequence[str]) -> Purpose:
        """The same, of a collective that first forms what is pending in `operand` over `axes`."""
        return replace(self, pending=(operand.name, dict(operand.type.layout.pending)[axes[0]], tuple(axes)))

    def moving(self, name: str) -> Purpose:
        """The same, where the value called `name` stands for what was moved: made again, or found to be equal."""
        return replace(self, moved=name, pending=self.pending and (name, *self.pending[1:]))

    def __str__(self) -> str:
        before, moved = "", self.moved
        if self.pending is not None:
            operand, kind, axes = self.pending
            before, moved = f"{operand} is a pending {kind} over {' and '.join(axes)}; ", _IT
        if self.reading is not None:
            return f"{before}{self.reading} reads {moved} as {self.reading.operand} {self.lies}"
        if self.lies:
            return f"{before}the plan wants {self.moved} as {self.lies}"
        return f"{before}{moved} is an output of the graph"

    @classmethod
    def read(cls, why: str | None) -> Purpose | None:
        """The purpose that `why` states; None if it is about something else."""
        settles = _SETTLES.fullmatch(why or "")
        rest = settles["rest"] if settles else why or ""
        pending = (settles["operand"], settles["kind"], tuple(settles["axes"].split(" and "))) if settles else None

        def named(moved: str) -> str:
            return pending[0] if pending and moved == _IT else moved

        if found := _READ.fullmatch(rest):
            reading = Reading(found["reader"], found["key"], found["name"])
            return cls(named(found["moved"]), found["lies"], reading, pending)
        if found := _PINNED.fullmatch(rest):
            return cls(found["moved"], found["lies"], None, pending)
        if found := _RETURNED.fullmatch(rest):
            return cls(named(found["moved"]), "", None, pending)
        return None


class Places:
    """The collectives of a graph, and where their purposes say that they belong.

    Of what other passes have taken away, or made otherwise (a reader that is fused by now), nothing is said.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.values, self.outputs = graph, graph.values, frozenset(graph.outputs)

    def misplaced(self, node: Node) -> str | None:
        """Why a collective is not where it belongs; None if it is, or states no purpose."""
        purpose = None if node.operator.relayout is None else Purpose.read(node.meta.why)
        if purpose is None:
            return None
        return self._mistaken(node, purpose) or self._misread(node, purpose) or self._misfiled(node, purpose)

    def _mistaken(self, node: Node, purpose: Purpose) -> str | None:
        """What is wrong with what it moves, or with what it makes of that."""
        origin, moved = self.graph.origin(node.inputs[0]), self.values.get(purpose.moved)
        if moved is None or self.graph.origin(moved) is not origin:
            lost = "there is none" if moved is None else "nothing reads that" if self._is_unread(moved) else ""
            return f"it is there to bring {purpose.moved} to its place, but moves {origin.name}{lost and f'; {lost}'}"
        if purpose.pending is not None:
            _, kind, axes = purpose.pending
            formed = node.attributes["reduce"], tuple(node.attributes.get("axes") or (node.attributes["axis"],))
            if formed != (kind, axes):
                return f"it is there for a {kind} over {' and '.join(axes)}, but forms another"
        return None

    def _misread(self, node: Node, purpose: Purpose) -> str | None:
        """Whether who should read what it makes does not."""
        made = node.outputs[0]
        if purpose.reading is not None:
            reader = self._reader(purpose.reading)
            if reader is None:
                return None
            value = reader.inputs[_operands(reader).index(purpose.reading.operand)]
            if made in self._route(value):
                return None
            return f"it is there for {purpose.reading}, which reads {value.name} as {purpose.reading.operand} instead"
        # A graph that returns nothing is there for what is fetched of it.
        if purpose.lies or self._is_returned(made) or not self.graph.outputs:
            return None
        return f"it is there because {purpose.moved} is an output of the graph, but what it makes is none"

    def _misfiled(self, node: Node, purpose: Purpose) -> str | None:
        """Whether it stands in another scope or pass than who makes what it moves, and who reads what it makes."""
        reader = None if purpose.reading is None else self._reader(purpose.reading)
        if purpose.reading is not None and reader is None:
            return None
        maker = self.graph.producers.get(self.graph.origin(node.inputs[0]))
        served = [each for each in (reader, maker) if each is not None]
        scope, phase = node.meta.scope, node.meta.phase
        if not served or any(each.body is not None for each in served):
            return None  # a fused node is of no one scope
        if any((each.meta.scope, each.meta.phase) == (scope, phase) for each in served):
            return None
        place = f"{served[0].meta.scope or 'the top scope'}, {served[0].meta.phase}"
        return f"it serves {served[0].name} in {place}, but stands in {scope or 'the top scope'}, {phase}"

    def _is_unread(self, value: Value) -> bool:
        return not self.graph.uses[value] and value not in self.outputs

    def _reader(self, reading: Reading) -> Node | None:
        """The node that a purpose names, as long as it is what it was."""
        value = self.values.get(reading.node)
        reader = None if value is None else self.graph.producers.get(value)
        if reader is None or reader.name != reading.node or reader.operator.key != reading.key:
            return None
        return reader if reading.operand in _operands(reader) else None

    def _route(self, value: Value) -> list[Value]:
        """`value` and all that collectives alone made it from."""
        found = [value]
        while (node := self.graph.producers.get(value)) is not None and node.operator.relayout is not None:
            value = node.inputs[0]
            found.append(value)
        return found

    def _is_returned(self, made: Value) -> bool:
        """Whether `made`, or what collectives make of it, is an output."""
        if made in self.outputs:
            return True
        further = [reader.outputs[0] for reader, _ in self.graph.uses[made] if reader.operator.relayout is not None]
        return any(map(self._is_returned, further))


def _operands(node: Node) -> list[str]:
    return [operand.name for operand in node.inference.rule.inputs]
