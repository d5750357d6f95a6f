"""From expressions to the text of a kernel: loops over rows, and in each row one loop over its elements a level.

    def run(g, c, a0, a1, a2):
        n0, d = N(g[0]), N(g[1])                   rows, columns; then the strides of each array, then the ramps
        for i0 in range(n0):
            p0, p1, p2 = …                         where the row begins in each array
            s0 = T(0)
            for k in range(d):                     level 0
                v0 = a0[p0 + k] + a1[p1 + k]
                s0 = plus(s0, v0)
            v1 = s0 / T(d)
            for k in range(d):                     level 1
                a2[p2 + k] = …

What is kept from one loop to the next, and why, is said in `backends/rows/schedule.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.schedule import Schedule, Store

_TEXT = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "minus": "{} - {}",
    # A compiler takes it that integers with a sign do not begin anew.
    "minus long": "np.int64(np.uint64({}) - np.uint64({}))",
    "plus": "{} + {}",
    "times": "{} * {}",
    "quotient": "{} // {}",
    "rest": "{} % {}",
    "and": "{} & {}",
    "or": "{} | {}",
    "not": "not {}",
    "real": "T({})",
    "narrow": "np.int64(np.int32({}))",
    "same": "{} == {}",
    "other": "{} != {}",
    "power": "{} ** {}",
    "remainder": "{} % {}",
    "absolute": "abs({})",
    "tanh": "T(np.tanh({}))",
    "sin": "T(np.sin({}))",
    "cos": "T(np.cos({}))",
    "erf": "T(math.erf({}))",
    "exp": "exp({})",
    "log": "np.log({})",
    "sqrt": "np.sqrt({})",
    "sigmoid": "sigmoid({})",
    "normal": "normal({})",
    # A NaN among the two is the result; of 0 and -0, as NumPy has it of long rows, the second.
    "maximum": "{0} if {0} > {1} or {0} != {0} else {1}",
    "minimum": "{0} if {0} < {1} or {0} != {0} else {1}",
    "choose": "{1} if {0} else {2}",
    "at most": "{} <= {}",
    "less": "{} < {}",
    "zero": "{} == T(0)",
    "finite": "np.isfinite({})",
    "round": "{}",  # to T, which it is already
}


class Source:
    """The text of a kernel with these stores. `buffers` are the dtypes of what it needs of a row's length."""

    def __init__(self, row: Row, stores: Sequence[Store], arrays: Mapping[int, int], loops: int) -> None:
        self.row, self.loops, self.stores = row, loops, stores
        #: The array of each operand, by its number.
        self.array_of, self.arrays = arrays, len({*arrays.values(), *(store.array for store in stores)})
        self._schedule = schedule = Schedule(stores, arrays)
        self.buffers = ["uint32" if value.operation == "keep" else "T" for value in schedule.buffers]

    # -- text -----------------------------------------------------------------------------------------

    def text(self, signature: str) -> str:
        """The kernel's text; `signature` are its arguments' types."""
        arrays = [f"a{i}" for i in range(self.arrays)]
        prepared = [f"h{i}" for i in range(len(self.row.prepared))]
        buffers = [f"w{i}" for i in range(len(self.buffers))]
        head = [f"@kernel({signature})", f"def run({', '.join(['g', 'c', *arrays, *prepared, *buffers])}):"]
        return "\n".join([*head, *("    " + line for line in self._lines())]) + "\n"

    def _lines(self) -> Iterator[str]:
        loops = self.loops
        yield from (f"{name} = N(g[{j}])" for j, name in enumerate([*(f"n{j}" for j in range(loops)), "d"]))
        for i in range(len(self.row.numbers)):
            yield f"c{i} = c[{i}]"
        for i, each in enumerate(self.row.prepared):
            yield from (f"h{i}_{j} = h{i}[{j}]" for j in range(each.count))
        for j in range(loops):
            yield f"{'    ' * j}for i{j} in range(n{j}):"
        self._row: list[str] = []
        self._write_row()
        yield from ("    " * loops + line for line in self._row)

    def _write_row(self) -> None:
        at = self.loops + 1
        for i in range(self.arrays):
            self._row.append(f"p{i} = " + " + ".join(f"i{j} * N(g[{at + j}])" for j in range(self.loops)))
            at += self.loops
        for i in range(len(self.row.ramps)):
            terms = [f"np.int64(i{j}) * g[{at + 1 + j}]" for j in range(self.loops)]
            self._row.append(f"q{i} = " + " + ".join([f"g[{at}]", *terms]))
            at += self.loops + 1
        for value, buffer in self._schedule.buffers.items():
            if value.operation == "keep":
                self._write_bits(value.detail, buffer)
        self._names: dict[Expression, str] = {}
        self._count = itertools.count()
        for level in self._schedule.levels:
            self._write_loop(level)
        # Everything is read before anything is written.
        for store, name in [(store, self._of_row(store.value)) for store in self.stores if not store.each]:
            self._row.append(f"a{store.array}[p{store.array}] {'+=' if store.adds else '='} {name}")

    def _write_bits(self, mask: int, buffer: int) -> None:
        """The hashes of a row's pairs of elements; each half is a draw."""
        ramp, keys, _ = self.row.masks[mask]
        counter = f"q{ramp.detail}"
        self._row += [
            f"m{mask} = N({counter} & 1)",
            f"for k in range((d + m{mask} + N(1)) >> N(1)):",
            f"    w{buffer}[k] = mixed(U(U({counter} >> 1) + U(k)), h{keys}_0, h{keys}_1)",
            f"b{mask} = w{buffer}.view(np.uint16)",
        ]

    # -- loops ----------------------------------------------------------------------------------------

    def _write_loop(self, level: int) -> None:
        self._level, self._index = level, "k"
        self._body, self._elements = body, _ = list[str](), dict[Expression, str]()
        before, after, ends = [], [], []
        for pick in self._schedule.picks:
            # Before the loop writes over what is picked from.
            if pick.level == level:
                self._of_row(pick)
        for value, buffer in self._schedule.buffers.items():
            if value.level == level and value.operation != "keep":
                name = self._element(value, kept=False)
                body.append(f"w{buffer}[k] = {name}")
        for i, each in enumerate(self._schedule.reductions):
            if each.operands[0].level != level:
                continue
            term, total = self._element(each.operands[0]), f"s{i}"
            self._names[each] = total
            if each.operation == "sum":
                before.append(f"{total} = T(0)")
                body.append(f"{total} = plus({total}, {term})")
            else:
                before.append(f"{total} = ordered(T(-np.inf))")
                body += [f"o{i} = ordered({term})", f"{total} = o{i} if o{i} > {total} else {total}"]
                after.append(f"{total} = unordered({total})")
        for store in self.stores:
            if store.each and store.value.level == level:
                sign = "+=" if store.adds else "="
                ends.append(f"a{store.array}[p{store.array} + k] {sign} {self._element(store.value)}")
        if body or ends:
            self._row += [*before, "for k in range(d):", *("    " + line for line in (*body, *ends)), *after]

    def _element(self, value: Expression, kept: bool = True) -> str:
        """The name of `value` in column k in the loop that is being written."""
        if not value.each:
            return self._of_row(value)
        if value not in self._elements:
            text = self._element_text(value, kept)
            self._elements[value] = name = f"v{next(self._count)}"
            self._body.append(f"{name} = {text}")
        return self._elements[value]

    def _element_text(self, value: Expression, kept: bool) -> str:
        k = self._index
        buffers = self._schedule.buffers
        if kept and value in buffers and value.level < self._level and value.operation != "keep":
            return f"w{buffers[value]}[{k}]"
        if value.operation == "load":
            array = self.array_of[value.detail]
            return f"a{array}[p{array} + {k}]"
        if value.operation == "repeat":
            array = self.array_of[value.detail]
            return f"a{array}[p{array}]"
        if (held := self._schedule.held(value, self._level)) is not None:
            return f"a{held}[p{held} + {k}]"
        if value.operation == "column":
            return f"I({k})"
        if value.operation == "gather":
            array = self.array_of[value.operands[0].detail]
            return f"a{array}[p{array} + N({self._element(value.operands[1])})]"
        if value.operation == "keep":
            least = self.row.masks[value.detail][2]
            return f"b{value.detail}[m{value.detail} + {k}] >= np.uint16({least})"
        return _apply(value, [self._element(each) for each in value.operands])

    def _of_row(self, value: Expression) -> str:
        """The name of a number of the row, computed before the loop that is being written."""
        if value not in self._names:
            text = self._row_text(value)
            if text.isidentifier():
                self._names[value] = text
            else:
                self._names[value] = f"r{len(self._names)}"
                self._row.append(f"{self._names[value]} = {text}")
        return self._names[value]

    def _row_text(self, value: Expression) -> str:
        match value.operation:
            case "load":
                array = self.array_of[value.detail]
                return f"a{array}[p{array}]"
            case "number":
                return f"c{value.detail}"
            case "integer":
                return f"np.int64({value.detail})"
            case "width":
                return "T(d)"
            case "count":
                return "np.int64(d)"
            case "ramp":
                return f"q{value.detail}"
            case "prepared":
                return f"h{value.detail[0]}_{value.detail[1]}"
            case "pick":
                return self._picked(*value.operands)
            case "gather":
                array = self.array_of[value.operands[0].detail]
                return f"a{array}[p{array} + N({self._of_row(value.operands[1])})]"
            case "keep":
                ramp, keys, least = self.row.masks[value.detail]
                counter = f"q{ramp.detail}"
                bits = f"mixed(U({counter} >> 1), h{keys}_0, h{keys}_1)"
                return f"(np.int64({bits}) >> (np.int64(16) * ({counter} & 1))) & np.int64(0xFFFF) >= np.int64({least})"
        return _apply(value, [self._of_row(each) for each in value.operands])

    def _picked(self, value: Expression, column: Expression) -> str:
        """The name of `value` in one column, computed for itself alone."""
        saved = self._body, self._elements, self._index
        self._body, self._elements, self._index = self._row, {}, f"N({self._of_row(column)})"
        name = self._element(value)
        self._body, self._elements, self._index = saved
        return name


def _apply(value: Expression, operands: Sequence[str]) -> str:
    if value.operation == "compare long":
        return f" {value.detail} ".join(operands)
    if value.operation == "compare":
        # In a vector, columns are 32-bit integers as floats are.
        wrap = "I({})" if value.each else "{}"
        return f" {value.detail} ".join(wrap.format(each) for each in operands)
    return _TEXT[value.operation].format(*operands)
