"""The body of a CUDA kernel's loop over rows: what a team does with one row, level by level, and with its numbers.

Names are those of `source`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphir.backends.cupy.form import Form, Kind, kept_by, make_schedule
from graphir.backends.cupy.text import TYPES, apply, indented, type_of
from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.schedule import Schedule, Store


@dataclass(frozen=True)
class KernelSpec:
    """What a kernel is to compute, and how: all that its text follows from, beside how prepared numbers come about.

    stores    the results
    array_of  of each operand that is read, by number, its array
    kinds     of every array
    loops     how many loops over rows there are
    dtype     what is computed in
    """

    row: Row
    stores: Sequence[Store]
    array_of: Mapping[int, int]
    kinds: Sequence[Kind]
    loops: int
    form: Form
    dtype: str

    @cached_property
    def terms(self) -> list[Store]:
        """The stores that add to sums over rows, of which the kernel leaves terms."""
        return [store for store in self.stores if store.adds]

    @cached_property
    def schedule(self) -> Schedule:
        """In which of a row's loops everything is computed."""
        return make_schedule(self.stores, self.array_of, self.kinds, self.form, self.dtype)

    @cached_property
    def kept(self) -> dict[Expression, int]:
        """What is kept from one loop to the next, numbered."""
        return {value: i for i, value in enumerate(kept_by(self.schedule))}

    @cached_property
    def buffers(self) -> list[str]:
        """The types of what a block keeps of a row in memory."""
        return [] if self.form.steps else [self.type_of(value) for value in self.kept]

    @cached_property
    def written(self) -> set[int]:
        """The arrays that are written."""
        return {store.array for store in self.stores if not store.adds}

    @cached_property
    def used(self) -> list[int]:
        """The arrays that are read or written, in order."""
        return sorted(self.written.union(self.array_of.values()))

    @property
    def slab(self) -> str:
        """Where a block's columns begin, to be added to."""
        return "slab + " if self.form.slabs else ""

    def type_of(self, value: Expression) -> str:
        """The type of a value in CUDA."""
        return type_of(value, lambda each: self.kinds[self.array_of[each.detail]].dtype)


class CannotWriteError(Exception):
    """A kernel would have to read in other columns what it writes over."""


class RowBody:
    """Writes the lines for one row, once."""

    def __init__(self, spec: KernelSpec) -> None:
        self.spec, self.form, self.row, self.kinds, self.array_of = (
            spec, spec.form, spec.row, spec.kinds, spec.array_of
        )  # fmt: skip
        self._count = itertools.count()
        self._out: list[str] = []
        self._names: dict[Expression, str] = {}

    def lines(self) -> list[str]:
        """The row's place in every array, its loops, and the numbers that are left of it."""
        self._locate()
        if self.form.steps:
            for value, i in self.spec.kept.items():
                self._out.append(f"{self.spec.type_of(value)} w{i}[STEPS * VECTOR];")
        for level in self.spec.schedule.levels:
            self._write_loop(level)
        self._write_numbers()
        return self._out

    def _locate(self) -> None:
        """Where the row begins in each array, and in each ramp."""
        loops = self.spec.loops
        if loops > 1:
            self._out.append("Index rest = row;")
            for j in reversed(range(1, loops)):
                self._out += [f"const Index i{j} = rest % Index(n{j});", f"rest /= Index(n{j});"]
            self._out.append("const Index i0 = rest;")
        else:
            self._out.append("const Index i0 = row;")
        for i in self.spec.used:
            self._out.append(f"const long long p{i} = " + " + ".join(f"i{j} * g{i}_{j}" for j in range(loops)) + ";")
        for i in range(len(self.row.ramps)):
            terms = [f"i{j} * m{i}_{j}" for j in range(loops)]
            self._out.append(f"const long long q{i} = " + " + ".join([f"first{i}", *terms]) + ";")

    def _write_numbers(self) -> None:
        """What has one number a row. Everything is read before anything is written."""
        values = [(store, self._of_row(store.value)) for store in self.spec.stores if not store.each]
        if self.form.team and any(not store.adds for store, _ in values):
            self._out.append("team_sync<TEAM>();")
        for store, value in values:
            if store.adds:
                self._out.append(f"t{self.spec.terms.index(store)} += {value};")
            else:
                target = f"a{store.array}[p{store.array}] = convert<{TYPES[self.kinds[store.array].dtype]}>({value});"
                self._out.append(f"if (lane == 0) {target}" if self.form.team else target)

    # -- loops ----------------------------------------------------------------------------------------

    def _write_loop(self, level: int) -> None:
        self._level = level
        self._loads, self._body, ends = list[str](), list[str](), list[str]()
        self._elements: dict[Expression, str] = {}
        before, after = [], []
        for pick in self.spec.schedule.picks:
            # Before the loop writes over what is picked from.
            if pick.level == level:
                self._of_row(pick)
        if self.form.team and any(pick.level == level for pick in self.spec.schedule.picks):
            self._out.append("team_sync<TEAM>();")
        for value, i in self.spec.kept.items():
            if value.level == level:
                self._body.append(f"{self._kept_at(i)} = {self._element(value, kept=False)};")
        for i, each in enumerate(self.spec.schedule.reductions):
            if each.operands[0].level != level:
                continue
            term, total = self._element(each.operands[0]), f"s{i}"
            self._names[each] = total
            if each.operation == "sum":
                before.append(f"T {total} = T(0);")
                self._body.append(f"{total} += {term};")
            else:
                before.append(f"T {total} = lowest<T>();")
                self._body.append(f"{total} = larger({total}, T({term}));")
            after.append(f"{total} = team_{each.operation}<TEAM>({total});")
        for store in self.spec.stores:
            if store.each and store.value.level == level:
                ends += self._store(store)
        if self._body or ends:
            self._out += [*before, *self._loop([*self._loads, *self._inner(), *ends]), *after]

    def _store(self, store: Store) -> list[str]:
        """The lines behind the loop over a pack; those in it are added to the body."""
        value, array = self._element(store.value), store.array
        if store.adds:
            i = self.spec.terms.index(store)
            if self.form.steps:
                self._body.append(f"t{i}[s * VECTOR + j] += {value};")
            else:
                self._body.append(f"y{i}[k] = row == start ? {value} : y{i}[k] + {value};")
            return []
        dtype, pack = TYPES[self.kinds[array].dtype], f"e{next(self._count)}"
        self._loads.append(f"Pack<{dtype}, VECTOR> {pack};")
        self._body.append(f"{pack}.v[j] = convert<{dtype}>({value});")
        if self.kinds[array].packed:
            return [f"store<VECTOR>(a{array} + p{array} + k0, {pack});"]
        return [f"scatter<VECTOR>(a{array} + p{array} + k0 * x{array}, x{array}, {pack});"]

    def _inner(self) -> list[str]:
        if not self._body:
            return []
        counted = ["const Index k = k0 + j;"] if any(re.search(r"\bk\b", line) for line in self._body) else []
        return ["#pragma unroll", "for (int j = 0; j < VECTOR; ++j) {", *indented([*counted, *self._body]), "}"]

    def _loop(self, lines: list[str]) -> list[str]:
        if not self.form.team:
            return lines
        if not self.form.steps:
            return ["for (Index k0 = lane * VECTOR; k0 < d; k0 += TEAM * VECTOR) {", *indented(lines), "}"]
        step = [f"const Index k0 = {self.spec.slab}(s * TEAM + lane) * VECTOR;", "if (k0 < d) {", *indented(lines), "}"]
        return ["#pragma unroll", "for (int s = 0; s < STEPS; ++s) {", *indented(step), "}"]

    def _kept_at(self, number: int) -> str:
        return f"w{number}[s * VECTOR + j]" if self.form.steps else f"w{number}[k]"

    # -- elements -------------------------------------------------------------------------------------

    def _element(self, value: Expression, kept: bool = True) -> str:
        """The name of `value` in column k in the loop that is being written."""
        if not value.each:
            return self._of_row(value)
        if value not in self._elements:
            text = self._element_text(value, kept)
            self._elements[value] = name = f"v{next(self._count)}"
            self._body.append(f"const auto {name} = {text};")
        return self._elements[value]

    def _element_text(self, value: Expression, kept: bool) -> str:
        if kept and value in self.spec.kept and value.level < self._level:
            return self._kept_at(self.spec.kept[value])
        if value.operation == "load":
            return self._loaded(self.array_of[value.detail])
        if value.operation == "repeat":
            return self._of_row(value)
        if (held := self.spec.schedule.held(value, self._level)) is not None:
            return self._loaded(held)
        if value.operation == "column":
            return "k"
        if value.operation == "gather":
            return self._gathered(value, self._element(value.operands[1]))
        if value.operation == "keep":
            return self._drawn(value.detail)
        return apply(value, [self._element(each) for each in value.operands])

    def _loaded(self, array: int) -> str:
        """Column k of an array, of which a pack is loaded first."""
        name = f"b{array}"
        way = f"load<VECTOR>(a{array} + p{array} + k0)"
        if not self.kinds[array].packed:
            way = f"gather<VECTOR>(a{array} + p{array} + k0 * x{array}, x{array})"
        line = f"const auto {name} = {way};"
        if line not in self._loads:
            self._loads.append(line)
        return self._converted(self.kinds[array].dtype, f"{name}.v[j]")

    def _converted(self, dtype: str, element: str) -> str:
        return f"T(number({element}))" if dtype in ("float16", "bfloat16", "float32", "float64") else element

    def _drawn(self, mask: int) -> str:
        """Whether a mask keeps column k."""
        ramp, keys, least = self.row.masks[mask]
        if not self.form.pairs[mask]:
            return self._drawn_at(mask, "k")
        line = f"const auto drawn{mask} = draws<VECTOR>(h{keys}_0, q{ramp.detail} + k0);"
        if line not in self._loads:
            self._loads.append(line)
        return f"drawn{mask}.v[j] >= {least}"

    def _drawn_at(self, mask: int, column: str) -> str:
        """Whether a mask keeps one column, by a draw of its own; of a row with one draw, whether it keeps that."""
        ramp, keys, least = self.row.masks[mask]
        beyond = f" + {column} * u{ramp.detail}" if column else ""
        return f"draw(h{keys}_0, q{ramp.detail}{beyond}) >= {least}"

    # -- numbers of the row ---------------------------------------------------------------------------

    def _of_row(self, value: Expression) -> str:
        """The name of a number of the row, computed before the loop that is being written."""
        if value not in self._names:
            text = self._row_text(value)
            if text.isidentifier():
                self._names[value] = text
            else:
                self._names[value] = f"r{next(self._count)}"
                self._out.append(f"const auto {self._names[value]} = {text};")
        return self._names[value]

    def _row_text(self, value: Expression) -> str:
        match value.operation:
            case "load" | "repeat":
                array = self.array_of[value.detail]
                return self._converted(self.kinds[array].dtype, f"a{array}[p{array}]")
            case "number":
                return f"c{value.detail}"
            case "integer":
                return f"{value.detail}ll"
            case "width":
                return "T(d)"
            case "count":
                return "width"
            case "ramp":
                return f"q{value.detail}"
            case "prepared":
                return f"h{value.detail[0]}_{value.detail[1]}"
            case "pick":
                return self._picked(value.operands[0], self._of_row(value.operands[1]), value.level)
            case "gather":
                return self._gathered(value, self._of_row(value.operands[1]))
            case "keep":
                return f"({self._drawn_at(value.detail, '')})"
        return apply(value, [self._of_row(each) for each in value.operands])

    def _gathered(self, value: Expression, column: str) -> str:
        """The text of an operand's element in another column."""
        array = self.array_of[value.operands[0].detail]
        return self._converted(self.kinds[array].dtype, f"a{array}[p{array} + ({column}) * x{array}]")

    def _picked(self, value: Expression, column: str, level: int) -> str:
        """The text of `value` in one column, computed for itself alone from what it is made of."""
        if not value.each:
            return self._of_row(value)
        if value.operation == "load":
            array = self.array_of[value.detail]
            if self.spec.schedule.is_spoilt(value, level):
                raise CannotWriteError
            return self._converted(self.kinds[array].dtype, f"a{array}[p{array} + {column} * x{array}]")
        if value.operation == "repeat":
            return self._of_row(value)
        if value.operation == "column":
            return f"({column})"
        if value.operation == "gather":
            return self._gathered(value, self._picked(value.operands[1], column, level))
        if value.operation == "keep":
            return f"({self._drawn_at(value.detail, column)})"
        return f"({apply(value, [self._picked(each, column, level) for each in value.operands])})"
