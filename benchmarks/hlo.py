"""What a program that XLA has compiled sends: its collectives, read from the HLO's text.

A collective's group is as large as `replica_groups` says, in any of its three spellings: `{{0,1},{2,3}}`,
`[2,2]<=[4]` (as many groups as the first number, as large as the second), or `mesh['dp'=2,'tp'=2] {'tp'}`. XLA puts
several all-reduces into one of a tuple, and joins their names: here each operand counts as one again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

#: A kind -> what each rank of a ring of n sends, in results of one rank. A reduce-scatter's operand is n of these.
SENT = {
    "all-reduce": lambda n: Fraction(2 * (n - 1), n),
    "all-gather": lambda n: Fraction(n - 1, n),
    "reduce-scatter": lambda n: Fraction(n - 1),
    "all-to-all": lambda n: Fraction(n - 1, n),
    "collective-permute": lambda n: Fraction(1),
}

_KINDS = "|".join(SENT)
_HEAD = re.compile(r"^(?:ENTRY )?%?(\S+) \(.*\{$")
_LINE = re.compile(r"^\s*(?:ROOT )?%?(\S+) = (.*?) ([\w-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{}]*\{([^}]*)\}")


@dataclass(frozen=True)
class Collective:
    """One collective of one array: its kind, how many share it, what each sends in a ring, and what it is named after.

    name    the `op_name` of what it belongs to; empty where XLA knows none
    sliced  nothing but slices of the result is read, so that an all-reduce might be a reduce-scatter
    """

    kind: str
    ranks: int
    bytes: Fraction
    name: str
    sliced: bool = False


def collectives(text: str) -> list[Collective]:
    """Those of a compiled program, in its order.

    ValueError for one that stands in a loop or a branch, which runs nobody knows how often, and for an asynchronous
    one.
    """
    program = HloText(text)
    if re.search(rf" (?:{_KINDS})-start\(", text):
        raise ValueError("a collective is asynchronous")
    if len(re.findall(rf" (?:{_KINDS})\(", text)) != sum(each.op in SENT for each in program.entry.values()):
        raise ValueError("a collective stands in another computation than the program's own")
    return [found for each in program.entry.values() if each.op in SENT for found in program.parts(each)]


@dataclass(frozen=True)
class Instruction:
    """A line: `%name = result op(operands), rest`."""

    name: str
    result: str
    op: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.partition("), ")[0])

    @property
    def attribute(self) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\w+)", self.rest))


@dataclass
class HloText:
    """A program's computations, of which `entry` is the one that runs."""

    text: str
    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    entry: dict[str, Instruction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        here: dict[str, Instruction] = {}
        for line in self.text.splitlines():
            if head := _HEAD.match(line):
                here = self.computations[head[1]] = {}
                self.entry = here if line.startswith("ENTRY") else self.entry
            elif match := _LINE.match(line):
                here[match[1]] = Instruction(*match.groups())

    def parts(self, each: Instruction) -> Iterator[Collective]:
        """A collective, as one of each array that it is of."""
        sizes = [_bytes(*array) for array in _ARRAY.findall(each.result)]
        made = [each.name]
        if each.op == "all-to-all":  # of a tuple, each part goes to one rank
            sizes = [sum(sizes)]
        elif len(sizes) > 1:
            taken = {found.attribute.get("index"): found.name for found in self._readers(self.entry, each.name)}
            made = [taken.get(str(position), "") for position in range(len(sizes))]
        names = split_names(self._name(each))
        if len(names) != len(sizes):
            names = names[:1] if len(sizes) == 1 else [""] * len(sizes)
        ranks = 1 if each.op == "collective-permute" else group_size(each.rest)
        for size, name, result in zip(sizes, names, made, strict=True):
            sliced = self._only_sliced(self.entry, result)
            yield Collective(each.op, ranks, size * SENT[each.op](ranks), name, sliced)

    def _name(self, each: Instruction | None) -> str:
        """The `op_name` of an instruction, or of the first before it that has one."""
        while each is not None:
            if found := _NAME.search(each.rest):
                return found[1]
            each = self.entry.get(each.operands[0]) if each.operands else None
        return ""

    def _only_sliced(self, computation: dict[str, Instruction], name: str) -> bool:
        readers = self._readers(computation, name)
        return bool(readers) and all(self._slices(computation, reader, name) for reader in readers)

    def _slices(self, computation: dict[str, Instruction], reader: Instruction, name: str) -> bool:
        if reader.op == "dynamic-slice":
            return reader.operands[0] == name
        if reader.op in ("bitcast", "copy", "reshape", "transpose"):
            return self._only_sliced(computation, reader.name)
        called = _CALLED.search(reader.rest) if reader.op in ("fusion", "call") else None
        if not called:
            return False
        inner = self.computations[called[1]]
        places = {f"{position})" for position, operand in enumerate(reader.operands) if operand == name}
        taken = [
            each
            for each in inner.values()
            if each.op == "parameter" and each.rest[: each.rest.index(")") + 1] in places
        ]
        return all(self._only_sliced(inner, each.name) for each in taken)

    def _readers(self, computation: dict[str, Instruction], name: str) -> list[Instruction]:
        return [each for each in computation.values() if name in each.operands]


def group_size(text: str) -> int:
    """How many ranks take part in a collective together; ValueError where the text does not say."""
    if listed := _LISTED.search(text):
        return listed[1].count(",") + 1
    if iota := _IOTA.search(text):
        return int(iota[2])
    if mesh := _MESH.search(text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        # A part of an axis is written 'axis':(before)size.
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    raise ValueError(f"no group in {text.strip()}")


def split_names(name: str) -> list[str]:
    """`jit(run)/a/(b:c/d)` as `jit(run)/a/b` and `jit(run)/a/c/d`."""
    head, joined, tail = name.partition("/(")
    return [f"{head}/{each}" for each in tail.removesuffix(")").split(":")] if joined else [name]


def _bytes(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    return math.prod(int(each) for each in dims.split(",") if each) * bits // 8
