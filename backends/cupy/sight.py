"""What arguments say who sees, as CUDA text: of one query and one key, and of ranges of both (`compiled.bounds`).

struct QueryRange, KeyRange    of each operand the least and the greatest
struct Sight                   the operands, of one sequence; may_see and may_miss, the rule
SIGHT_PARAMETERS, MAKE_SIGHT   as kernels are given them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from graphir.backends.compiled.bounds import rule_of, spelled
from graphir.backends.compiled.emission import Array
from graphir.backends.cupy.matmul import steps
from graphir.backends.cupy.text import TYPES
from graphir.backends.inequalities import Bound, Every, Rule, Some
from graphir.ir.graph import Node


@dataclass(frozen=True)
class Operand:
    """An operand of the rule, of queries or of keys, by its place among those behind the scores."""

    place: int
    name: str
    of_keys: bool
    factors: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Sight:
    """How a node's operands say what is seen."""

    rule: Rule
    operands: tuple[Operand, ...]

    @property
    def text(self) -> str:
        """What kernels are compiled with."""
        return _text(self)

    def arguments(self, arrays: Sequence[Array]) -> Iterator[Any]:
        """SIGHT_PARAMETERS, of the arrays of what the node reads beside scores."""
        for operand in self.operands:
            array = arrays[operand.place]
            by = dict(zip(operand.factors, steps(array), strict=True))
            along = by.get("k", 0) if operand.of_keys else by.get("q", 0)
            yield from (array, np.int64(by.get("b", 0)), np.int64(along))


#: Where no argument says what is seen, for kernels that are told in another way, or see all.
NONE = Sight(Rule(Every(()), Some(())), ())


def sight_of(node: Node) -> Sight | None:
    """How a node's operands say what is seen; None where they do not, or a kernel cannot ask them one by one."""
    rule, found = rule_of(node), []
    for place, (operand, value) in enumerate(zip(node.inference.rule.inputs, node.inputs, strict=True)):
        if not value.type.is_float:
            if not {"b", "q", "k"}.issuperset(operand.factors) or {"q", "k"}.issubset(operand.factors):
                return None
            found.append(Operand(place - 1, operand.name, "k" in operand.factors, operand.factors, value.dtype))
    return None if rule is None else Sight(rule, tuple(found))


@cache
def _text(sight: Sight) -> str:
    number = {operand.name: i for i, operand in enumerate(sight.operands)}

    def bound(each: Bound) -> str:
        side = "keys" if sight.operands[number[each.operand]].of_keys else "queries"
        return f"{side}.r{number[each.operand]}.{'greatest' if each.greatest else 'least'}"

    def of(keys: bool) -> list[tuple[int, Operand]]:
        return [(i, operand) for i, operand in enumerate(sight.operands) if operand.of_keys == keys]

    lines = [f"const bool SIGHT = {'true' if sight.operands else 'false'};"]
    for name, mine in (("QueryRange", of(False)), ("KeyRange", of(True))):
        lines += [
            f"struct {name} {{",
            *(f"    Range<{_range_type(operand)}> r{i};" for i, operand in mine),
            f"    __device__ inline void join(const {name}& other) {{{_each('r{0}.join(other.r{0});', mine)}}}",
            f"    __device__ inline void join_lanes() {{{_each('r{0}.join_lanes();', mine)}}}",
            "};",
        ]
    lines += ["struct Sight {"]
    for i, operand in enumerate(sight.operands):
        lines += [f"    const {TYPES[operand.dtype]}* o{i};", f"    long long o{i}_step;"]
    for name, index, mine in (("QueryRange", "q", of(False)), ("KeyRange", "k", of(True))):
        made = _each(f"found.r{{0}}.put(o{{0}}[{index} * o{{0}}_step]);", mine)
        method = "query" if index == "q" else "key"
        lines += [
            f"    __device__ inline {name} {method}(int {index}) const {{",
            f"        {name} found;",
            f"        {made}",
            "        return found;",
            "    }",
        ]
    for method, condition in (("may_see", sight.rule.may_see), ("may_miss", sight.rule.may_miss)):
        lines += [
            f"    __device__ static inline bool {method}(const QueryRange& queries, const KeyRange& keys) {{",
            f"        return {spelled(condition, bound)};",
            "    }",
        ]
    lines += ["};"]
    parameters = "".join(
        f", const {TYPES[operand.dtype]}* o{i}, long long o{i}_b, long long o{i}_s"
        for i, operand in enumerate(sight.operands)
    )
    made = _each("sight.o{0} = o{0} + place.b * o{0}_b; sight.o{0}_step = o{0}_s;", list(enumerate(sight.operands)))
    lines += [f"#define SIGHT_PARAMETERS {parameters}", f"#define MAKE_SIGHT(sight, place) {made}"]
    return "\n".join(lines)


def _range_type(operand: Operand) -> str:
    return "int" if operand.dtype == "bool" else TYPES[operand.dtype]


def _each(text: str, operands: Sequence[tuple[int, Operand]]) -> str:
    return " ".join(text.format(i) for i, _ in operands)
