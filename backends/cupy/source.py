"""From expressions to the text of a CUDA kernel.

    extern "C" __global__ void run(float* a0, const float* a1, …, T c0, long long n0, long long d, …)
        prepared numbers, by one thread into shared memory
        for (Index row = …; row < rows; row += …)
            p0, p1, …                              where the row begins in each array
            T s0 = T(0);
            for (int s = 0; s < STEPS; ++s)        level 0: this thread's columns k, in packs
                s0 += …
            s0 = team_sum<TEAM>(s0);
            for (int s = 0; s < STEPS; ++s)        level 1
                a2[p2 + k] = …
        what this block adds to sums over rows, into its row of the terms y0, …

Names: a arrays, p where a row begins in them, x the strides of their columns, v and r numbers of elements and of rows,
s sums and maxima of a row, w what is kept, t and y terms of sums over rows, h prepared numbers, o and f what these are
made of, c numbers, q ramps and u their steps along the columns, n and g sizes and strides of the loops over rows.
Everything is computed in T, float or double; arrays are converted as they are loaded and stored.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphir.backends.cupy.form import Form, Kind, kept_by, make_schedule
from graphir.backends.cupy.scalars import scalar_lines
from graphir.backends.cupy.text import TYPES, apply, indented, module_text, type_of
from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.scalars import Scalars
from graphir.backends.rows.schedule import Store


@dataclass(frozen=True)
class Prologue:
    """How prepared numbers come about: the types of what they are made of, and their own.

    scalars    what is computed, of its numbers and its operands; None of the two keys of a mask's draws
    arguments  a type that ends in `*` is that of a scalar operand, by its address
    """

    scalars: Scalars | None
    arguments: tuple[str, ...]
    numbers: str
    count: int


class CannotWriteError(Exception):
    """A kernel would have to read in other columns what it writes over."""


class Source:
    """The text of a kernel with these stores, for arrays of these kinds.

    Of stores that add, `terms` are the kernel's, in order; `buffers` are the dtypes of what a block keeps of a row.
    """

    def __init__(
        self,
        row: Row,
        stores: Sequence[Store],
        array_of: Mapping[int, int],
        kinds: Sequence[Kind],
        prologues: Sequence[Prologue],
        loops: int,
        form: Form,
        dtype: str,
    ) -> None:
        self.row, self.stores, self.array_of, self.kinds, self.prologues = row, stores, array_of, kinds, prologues
        self.loops, self.form, self.dtype = loops, form, dtype
        self.terms = [store for store in stores if store.adds]
        self._schedule = make_schedule(stores, array_of, kinds, form, dtype)
        self._kept = {value: i for i, value in enumerate(kept_by(self._schedule))}
        self.buffers = [] if form.steps else [type_of(value, self._dtype_of) for value in self._kept]
        self._count = itertools.count()

    def _dtype_of(self, value: Expression) -> str:
        return self.kinds[self.array_of[value.detail]].dtype

    # -- text -----------------------------------------------------------------------------------------

    def text(self) -> str:
        """The whole module's text."""
        body = [*self._main()]
        head = f'extern "C" __global__ void __launch_bounds__({self.form.block}) run('
        parameters = ",\n".join("    " + each for each in self._parameters())
        names = [f"typedef {'long long' if self.form.wide else 'int'} Index;"]
        if self.form.team:
            sizes = f"TEAM = {self.form.team}, STEPS = {self.form.steps}, VECTOR = {self.form.vector}"
            names.append(f"const int {sizes}, TEAMS = {self.form.teams};")
        else:
            names.append(f"const int VECTOR = {self.form.vector};")
        return module_text(self.dtype, "\n".join([*names, "", head, parameters, ") {", *indented(body), "}", ""]))

    def _parameters(self) -> Iterator[str]:
        written = {store.array for store in self.stores if not store.adds}
        used = {*written, *self.array_of.values()}
        for i, kind in enumerate(self.kinds):
            if i in used:
                yield f"{'' if i in written else 'const '}{TYPES[kind.dtype]}* __restrict__ a{i}"
        yield from (f"T* __restrict__ y{i}" for i in range(len(self.terms)))
        yield from (f"{kind}* __restrict__ w{i}" for i, kind in enumerate(self.buffers))
        for i, prologue in enumerate(self.prologues):
            for j, given in enumerate(prologue.arguments):
                yield f"const {given} __restrict__ o{i}_{j}" if given.endswith("*") else f"const {given} f{i}_{j}"
        yield from (f"const T c{i}" for i in range(len(self.row.numbers)))
        yield from (f"const long long n{j}" for j in range(self.loops))
        yield "const long long width"
        for i in range(len(self.kinds)):
            if i in used:
                yield from (f"const long long g{i}_{j}" for j in range(self.loops))
                yield f"const long long x{i}"
        for i in range(len(self.row.ramps)):
            yield f"const long long first{i}"
            yield from (f"const long long m{i}_{j}" for j in range(self.loops))
            yield f"const long long u{i}"

    def _main(self) -> Iterator[str]:
        yield "const Index d = Index(width);"
        yield from self._prologue()
        rows = " * ".join(f"Index(n{j})" for j in range(self.loops))
        self._out: list[str] = []
        if not self.form.team:
            yield f"const Index packs = {rows} * (d / VECTOR);"
            yield "const Index threads = gridDim.x * blockDim.x;"
            yield "for (Index pack = blockIdx.x * blockDim.x + threadIdx.x; pack < packs; pack += threads) {"
            self._out += ["const Index row = pack / (d / VECTOR), k0 = pack % (d / VECTOR) * VECTOR;"]
            self._write_row()
            yield from indented(self._out)
            yield "}"
            return
        yield "const int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;"
        yield f"const Index rows = {rows};"
        if self.form.slabs:
            yield "const Index slab = Index(blockIdx.y) * (STEPS * TEAM * VECTOR);"
        for i, store in enumerate(self.terms):
            if not store.each:
                yield f"T t{i} = T(0);"
            elif self.form.steps:
                yield f"T t{i}[STEPS * VECTOR] = {{}};"
            else:
                yield f"y{i} += (long long)blockIdx.x * width;"
        if not self.form.steps:
            yield from (f"w{i} += (long long)(blockIdx.x * TEAMS + team) * width;" for i in range(len(self.buffers)))
        yield "const Index start = Index(blockIdx.x) * TEAMS + team;"
        yield "for (Index row = start; row < rows; row += Index(gridDim.x) * TEAMS) {"
        self._write_row()
        yield from indented(self._out)
        yield "}"
        yield from self._epilogue()

    def _prologue(self) -> Iterator[str]:
        for i, each in enumerate(self.prologues):
            yield f"__shared__ {each.numbers} shared{i}[{each.count}];"
        if self.prologues:
            yield "if (threadIdx.x == 0) {"
            for i, each in enumerate(self.prologues):
                given = [
                    f"number(*o{i}_{j})" if kind.endswith("*") else f"f{i}_{j}" for j, kind in enumerate(each.arguments)
                ]
                if each.scalars is None:
                    yield f"    write_keys({', '.join([*given, f'shared{i}'])});"
                else:
                    yield from (f"    {line}" for line in scalar_lines(each.scalars, given, f"shared{i}", i))
            yield "}"
            yield "__syncthreads();"
        for i, each in enumerate(self.prologues):
            yield from (f"const {each.numbers} h{i}_{j} = shared{i}[{j}];" for j in range(each.count))

    def _epilogue(self) -> Iterator[str]:
        """This block's terms."""
        if any(store.each for store in self.terms) and self.form.steps and self.form.teams > 1:
            yield "__shared__ T total[TEAM * STEPS * VECTOR];"
        for i, store in enumerate(self.terms):
            if not store.each:
                yield f"t{i} = add_numbers<TEAMS, TEAM>(t{i});"
                yield f"if (threadIdx.x == 0) y{i}[blockIdx.x] = t{i};"
            elif self.form.steps and self.form.teams > 1:
                yield f"add_teams<TEAMS, TEAM, STEPS, VECTOR>(t{i}, total);"
                yield f"for (Index k = threadIdx.x; k < d; k += blockDim.x) y{i}[blockIdx.x * width + k] = total[k];"
            elif self.form.steps:
                yield "#pragma unroll"
                yield "for (int i = 0; i < STEPS * VECTOR; ++i) {"
                yield f"    const Index k = {self._slab}(i / VECTOR * TEAM + lane) * VECTOR + i % VECTOR;"
                yield f"    if (k < d) y{i}[blockIdx.x * width + k] = t{i}[i];"
                yield "}"

    def _write_row(self) -> None:
        loops = self.loops
        if loops > 1:
            self._out.append("Index rest = row;")
            for j in reversed(range(1, loops)):
                self._out += [f"const Index i{j} = rest % Index(n{j});", f"rest /= Index(n{j});"]
            self._out.append("const Index i0 = rest;")
        else:
            self._out.append("const Index i0 = row;")
        used = {*(store.array for store in self.stores if not store.adds), *self.array_of.values()}
        for i in sorted(used):
            self._out.append(f"const long long p{i} = " + " + ".join(f"i{j} * g{i}_{j}" for j in range(loops)) + ";")
        for i in range(len(self.row.ramps)):
            terms = [f"i{j} * m{i}_{j}" for j in range(loops)]
            self._out.append(f"const long long q{i} = " + " + ".join([f"first{i}", *terms]) + ";")
        if self.form.steps:
            for value, i in self._kept.items():
                self._out.append(f"{type_of(value, self._dtype_of)} w{i}[STEPS * VECTOR];")
        self._names: dict[Expression, str] = {}
        for level in self._schedule.levels:
            self._write_loop(level)
        self._write_numbers()

    def _write_numbers(self) -> None:
        """What has one number a row. Everything is read before anything is written."""
        values = [(store, self._of_row(store.value)) for store in self.stores if not store.each]
        if self.form.team and any(not store.adds for store, _ in values):
            self._out.append("team_sync<TEAM>();")
        for store, value in values:
            if store.adds:
                self._out.append(f"t{self.terms.index(store)} += {value};")
            else:
                target = f"a{store.array}[p{store.array}] = convert<{TYPES[self.kinds[store.array].dtype]}>({value});"
                self._out.append(f"if (lane == 0) {target}" if self.form.team else target)

    # -- loops ----------------------------------------------------------------------------------------

    def _write_loop(self, level: int) -> None:
        self._level = level
        self._loads, self._body, ends = list[str](), list[str](), list[str]()
        self._elements: dict[Expression, str] = {}
        before, after = [], []
        for pick in self._schedule.picks:
            # Before the loop writes over what is picked from.
            if pick.level == level:
                self._of_row(pick)
        if self.form.team and any(pick.level == level for pick in self._schedule.picks):
            self._out.append("team_sync<TEAM>();")
        for value, i in self._kept.items():
            if value.level == level:
                self._body.append(f"{self._kept_at(i)} = {self._element(value, kept=False)};")
        for i, each in enumerate(self._schedule.reductions):
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
        for store in self.stores:
            if store.each and store.value.level == level:
                ends += self._store(store)
        if self._body or ends:
            self._out += [*before, *self._loop([*self._loads, *self._inner(), *ends]), *after]

    def _store(self, store: Store) -> list[str]:
        """The lines behind the loop over a pack; those in it are added to the body."""
        value, array = self._element(store.value), store.array
        if store.adds:
            i = self.terms.index(store)
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
        step = [f"const Index k0 = {self._slab}(s * TEAM + lane) * VECTOR;", "if (k0 < d) {", *indented(lines), "}"]
        return ["#pragma unroll", "for (int s = 0; s < STEPS; ++s) {", *indented(step), "}"]

    @property
    def _slab(self) -> str:
        """Where a block's columns begin, to be added to."""
        return "slab + " if self.form.slabs else ""

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
        if kept and value in self._kept and value.level < self._level:
            return self._kept_at(self._kept[value])
        if value.operation == "load":
            return self._loaded(self.array_of[value.detail])
        if value.operation == "repeat":
            return self._of_row(value)
        if (held := self._schedule.held(value, self._level)) is not None:
            return self._loaded(held)
        if value.operation == "column":
            return "k"
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
            return f"draw(h{keys}_0, q{ramp.detail} + k * u{ramp.detail}) >= {least}"
        line = f"const auto drawn{mask} = draws<VECTOR>(h{keys}_0, q{ramp.detail} + k0);"
        if line not in self._loads:
            self._loads.append(line)
        return f"drawn{mask}.v[j] >= {least}"

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
        return apply(value, [self._of_row(each) for each in value.operands])

    def _picked(self, value: Expression, column: str, level: int) -> str:
        """The text of `value` in one column, computed for itself alone from what it is made of."""
        if not value.each:
            return self._of_row(value)
        if value.operation == "load":
            array = self.array_of[value.detail]
            if self._schedule.is_spoilt(value, level):
                raise CannotWriteError
            return self._converted(self.kinds[array].dtype, f"a{array}[p{array} + {column} * x{array}]")
        if value.operation == "repeat":
            return self._of_row(value)
        if value.operation == "column":
            return f"({column})"
        if value.operation == "keep":
            ramp, keys, least = self.row.masks[value.detail]
            return f"(draw(h{keys}_0, q{ramp.detail} + {column} * u{ramp.detail}) >= {least})"
        return f"({apply(value, [self._picked(each, column, level) for each in value.operands])})"
