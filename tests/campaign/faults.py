"""Faults put into the fast path on purpose: those that it once had, and others like them.

    with FAULTS["a value has one role"]():
        run = gi.compile(graph, sizes)      # wrong, of some graphs

The proof of programs and the campaign have to find each: see tests/campaign/test_faults.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from graphir.backends.compiled import prepared
from graphir.backends.compiled.assignment import Assignment, Reuse, _Assigner, assign
from graphir.backends.compiled.causal import Group, Half, find_groups
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.backends.compiled.prepared import Prepared
from graphir.backends.compiled.program import Program
from graphir.backends.compiled.sums import Sums
from graphir.backends.compiled.task import Pieces, Task, Tile
from graphir.backends.numpy import formulas, known, recipe
from graphir.backends.numpy.recipe import is_masked_number
from graphir.formula import trace
from graphir.formula.terms import Term, Terms
from graphir.ir import roles, tiling
from graphir.ir.value import Value

Fault = Callable[[], AbstractContextManager[object]]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Callable[[], Iterator[None]]], Callable[[], Iterator[None]]]:
    """Declares what the decorated function does before it yields as the fault of that name."""

    def declare(make: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
        FAULTS[name] = contextmanager(make)
        return make

    return declare


def _forget() -> None:
    """What has been found of structures is found anew."""
    tiling._roles.cache_clear()
    tiling._find_pattern.cache_clear()


# -- once there -----------------------------------------------------------------------------------------------


@fault("halves are cut alike by agreement")
def _agreement() -> Iterator[None]:
    """Each task is cut by itself, and reads a half as if its parts followed each other as its own tiles do."""

    def apart(tasks: Sequence[Task], outside: Any) -> list[Group]:
        return [Group([task], group.values) for group in find_groups(tasks, outside) for task in group.tasks]

    def start(self: Half, task: Task, value: Value, tile: Tile) -> int:
        return Half.made_by(task, value).starts[task.ranges(value, tile)]

    with patch.object(prepared, "find_groups", apart), patch.object(Half, "start", start):
        yield


@fault("a value has one role")
def _one_role() -> Iterator[None]:
    """Whoever reads a value reads it by the same factors, also where that makes two of a node's factors one."""
    merge = roles._Factors._merge

    def always(self: Any, one: int, other: int, at_all_costs: bool = False) -> bool:
        return merge(self, one, other, at_all_costs=True)

    _forget()
    with patch.object(roles._Factors, "_merge", always):
        yield
    _forget()


@fault("a row without keys is spread over the tile's")
def _uniform() -> Iterator[None]:
    """The maximum of a row that is masked is the mask's value, and its exponentials are 1."""
    change = recipe._squares

    def unshifted(terms: Terms, term: Term, operands: tuple[Term, ...]) -> Term | None:
        compares = term.operation == "where" and operands[0].operation == "less_equal"
        if compares and is_masked_number(operands[0].operands[1]):
            return operands[2]
        return change(terms, term, operands)

    _forget_formulas()
    with patch.object(recipe, "_squares", unshifted):
        yield
    _forget_formulas()


@fault("a result is written where an operand is read later")
def _too_early() -> Iterator[None]:
    """What follows from a formula overwrites an operand that a later step reads."""

    def free(self: formulas._Tile, name: str, position: int, simple: bool) -> bool:
        return self._holds.get(name) is None

    with patch.object(formulas._Tile, "_is_free", free):
        yield


@fault("a mask begins a column late")
def _late_mask() -> Iterator[None]:
    """The first column that some query does not see is taken for one that all see."""
    region = known.region_of

    def late(*arguments: Any) -> known.Region:
        start, stop = region(*arguments)
        return known.Region(min(start + 1, stop), stop)

    with patch.object(formulas, "region_of", late):
        yield


def _forget_formulas() -> None:
    recipe.recipe_of.cache_clear()
    formulas.rule_of.cache_clear()


@fault("an attribute is left out of a kernel's key")
def _key() -> Iterator[None]:
    found: dict[Any, Any] = {}
    remembered = trace._remembered

    def first(operator: Any, rule: Any, dtype: str, *rest: Any) -> Any:
        key = operator, rule, dtype
        if key not in found:
            found[key] = remembered(operator, rule, dtype, *rest)
        return found[key]

    with patch.object(trace, "_remembered", first):
        yield


@fault("a sum that is read as a view lies in scratch")
def _scratch_sum() -> Iterator[None]:
    """Its total is cleared at each tile, and copied at the end of each."""

    def place(self: _Assigner) -> None:
        return None

    def copies(self: _Assigner) -> None:
        _find_copies(self)
        self.made.finish += self.made.late
        self.made.late.clear()

    _find_copies = _Assigner._find_copies
    with patch.object(_Assigner, "_place_sums", place), patch.object(_Assigner, "_find_copies", copies):
        yield


@fault("the copy of a result is no read")
def _no_read() -> Iterator[None]:
    def find(self: _Assigner) -> None:
        last, root = self.made.last, self.task.root
        last.update((value, -1) for value in (root[each] for each in self.task.leaving))
        for position, node in enumerate(self.task.nodes):
            if not node.operator.view:
                last.update((root[value], position) for value in node.inputs)

    with patch.object(_Assigner, "_find_reads", find):
        yield


@fault("a fetched argument is the program's own buffer")
def _own_buffer() -> Iterator[None]:
    def none(self: CompiledExecutable, given: Mapping[Value, Any]) -> dict[Value, Any]:
        return {}

    with patch.object(CompiledExecutable, "_copies_of_arguments", none):
        yield


@fault("factors are the same by their position")
def _position() -> Iterator[None]:
    """Whatever their sizes, and minor ones of a view of a sum may be loops."""

    def alike(self: Any, one: Sequence[int], other: Sequence[int]) -> bool:
        return len(one) == len(other)

    _forget()
    with patch.object(roles._Factors, "_alike", alike):
        yield
    _forget()


# -- like them ------------------------------------------------------------------------------------------------


@fault("threads do not meet")
def _no_meeting() -> Iterator[None]:
    """Every third meeting is left out."""
    collide, count = Program._collide, [0]

    def some(self: Program, *touched: Any) -> bool:
        if not collide(self, *touched):
            return False
        count[0] += 1
        return count[0] % 3 != 0

    with patch.object(Program, "_collide", some):
        yield


@fault("an operand is written over one task too early")
def _too_early() -> Iterator[None]:
    """Who reads a value last but one takes it for dying."""
    find = Prepared._assign

    def early(self: Prepared) -> list[Assignment]:
        readers: dict[Value, list[Task]] = {}
        for task in self.tasks:
            for value in dict.fromkeys(task.outer[inner] for inner in task.entering):
                readers.setdefault(value, []).append(task)
        outside = {*self._outside, *self.halves, *self.shared}
        hasty = {value: found[-2] for value, found in readers.items() if len(found) > 1 and value not in outside}

        def assigned(task: Task, sizes: Any, reuse: Reuse, rules: Any) -> Assignment:
            dying = {value: made for value, made in reuse.dying.items() if value not in hasty}
            dying |= {value: 0 for value, reader in hasty.items() if reader is task}
            return assign(task, sizes, replace(reuse, dying=dying), rules)

        with patch.object(prepared, "assign", assigned):
            return find(self)

    with patch.object(Prepared, "_assign", early):
        yield


@fault("a tile ends one short")
def _short() -> Iterator[None]:
    each = Pieces.__iter__

    def short(self: Pieces) -> Iterator[tuple[int, int]]:
        for low, high in each(self):
            yield low, high - 1 if high == self.stop and high - low > 1 else high

    with patch.object(Pieces, "__iter__", short):
        yield


@fault("a view stays where its argument was")
def _stale() -> Iterator[None]:
    """The last operand that lies in an argument is not bound anew."""
    bind = Program.bind

    def all_but_one(self: Program, value: Value, array: Any) -> None:
        found = self._relocations.get(value, [])
        with patch.dict(self._relocations, {value: found[:-1]}):
            bind(self, value, array)

    with patch.object(Program, "bind", all_but_one):
        yield


@fault("a sum's rest does not start at 0")
def _no_zero() -> Iterator[None]:
    def none(self: Sums, value: Value, tile: Tile) -> None:
        return None

    with patch.object(Sums, "beyond", none):
        yield
