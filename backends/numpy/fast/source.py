"""From expressions to the text of a kernel: loops over rows, and in each row one loop over its elements a level.

    def run(g, c, a0, a1, a2):
        n0, d = N(g[0]), N(g[1])                   rows, columns; then the strides of each array, then the ramps
        for i0 in range(n0):
            p0, p1, p2 = …                         where the row begins in each array
            s0 = T(0)
            for k in range(d):                     level 0
                v0 = a0[p0 + k] + a1[p1 + k]
                s0 += v0
            v1 = s0 / T(d)
            for k in range(d):                     level 1
                a2[p2 + k] = …

What an element needs in a later loop is read again if it has an array, computed again if that is little, else kept
in a buffer of a row's length. Values that lie in each other's memory are one array: within a loop all is read before
anything is written, and what a later loop needs of an array that an earlier one writes over is kept in a buffer, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphir.backends.rows.expressions import Expression, Row

#: What is computed twice rather than kept in a buffer: so many operations, of which these count for more.
_LITTLE = 4
_COSTS = {"exp": 12, "sigmoid": 14, "normal": 20, "divide": 4, "log": 12, "sqrt": 4}

_TEXT = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "minus": "{} - {}",
    "and": "{} & {}",
    "exp": "exp({})",
    "log": "np.log({})",
    "sqrt": "np.sqrt({})",
    "sigmoid": "sigmoid({})",
    "normal": "normal({})",
    "maximum": "{1} if {0} < {1} else {0}",
    "choose": "{1} if {0} else {2}",
    "positive": "{} > T(0)",
}


@dataclass(frozen=True)
class Store:
    """A result: its array, whether that has elements or one number a row, and whether it is a sum over rows."""

    array: int
    value: Expression
    each: bool
    adds: bool


class Source:
    """The text of a kernel with these stores. `buffers` are the dtypes of what it needs of a row's length."""

    def __init__(self, row: Row, stores: Sequence[Store], arrays: Mapping[int, int], loops: int) -> None:
        self.row, self.loops, self.stores = row, loops, stores
        #: The array of each operand, by its number.
        self.array_of, self.arrays = arrays, len({*arrays.values(), *(store.array for store in stores)})
        #: For each array the level of the loop that writes over it.
        self._written = {store.array: store.value.level for store in self.stores if store.each}
        self._held = {store.value: store for store in self.stores if store.each and not store.adds}
        self._reductions = find_expressions(self.stores, "sum", "max")
        self._picks = find_expressions(self.stores, "pick")
        self._buffered: dict[Expression, int] = {}
        self._masks: dict[int, int] = {}
        self.buffers: list[str] = []
        levels = [*self._written.values(), *(each.level for each in self._picks)]
        self._levels = sorted({*levels, *(each.operands[0].level for each in self._reductions)})
        self._plan()

    # -- what is kept ---------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Finds what has to be kept from one loop to a later one."""
        for each in self._reductions:
            self._need(each.operands[0], each.operands[0].level)
        for store in self.stores:
            self._need(store.value, store.value.level)

    def _need(self, value: Expression, level: int) -> None:
        """Notes that the loop of `level` needs `value`."""
        if value.operation == "pick":
            self._need(value.operands[0], value.level)
        elif not value.each:
            for each in value.operands:
                self._need(each, each.level)
        elif value.operation == "keep":
            if value.detail not in self._masks:
                self._masks[value.detail] = self._new_buffer("uint32")
        elif value.operation == "load":
            if self._written.get(self.array_of[value.detail], level) < level:
                self._keep(value)
        elif value.level < level and not self._is_held(value, level) and _cost(value) > _LITTLE:
            self._keep(value)
        elif value.level == level or not self._is_held(value, level):
            for each in value.operands:
                self._need(each, level)

    def _keep(self, value: Expression) -> None:
        if value not in self._buffered:
            self._buffered[value] = self._new_buffer("T")
            for each in value.operands:
                self._need(each, value.level)
            self._levels = sorted({*self._levels, value.level})

    def _new_buffer(self, dtype: str) -> int:
        self.buffers.append(dtype)
        return len(self.buffers) - 1

    def _is_held(self, value: Expression, level: int) -> bool:
        """Whether an array has `value` when the loop of `level` runs."""
        return value in self._held and value.level < level

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
        for mask, buffer in self._masks.items():
            self._write_bits(mask, buffer)
        self._names: dict[Expression, str] = {}
        self._count = itertools.count()
        for level in self._levels:
            self._write_loop(level)
        # Everything is read before anything is written.
        for store, value in [(store, self._of_row(store.value)) for store in self.stores if not store.each]:
            self._row.append(f"a{store.array}[p{store.array}] {'+=' if store.adds else '='} {value}")

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
        for pick in self._picks:
            # Before the loop writes over what is picked from.
            if pick.level == level:
                self._of_row(pick)
        for value, buffer in self._buffered.items():
            if value.level == level:
                name = self._element(value, kept=False)
                body.append(f"w{buffer}[k] = {name}")
        for i, each in enumerate(self._reductions):
            if each.operands[0].level != level:
                continue
            term, total = self._element(each.operands[0]), f"s{i}"
            self._names[each] = total
            if each.operation == "sum":
                before.append(f"{total} = T(0)")
                body.append(f"{total} += {term}")
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
        if kept and value in self._buffered and value.level < self._level:
            return f"w{self._buffered[value]}[{k}]"
        if value.operation == "load":
            array = self.array_of[value.detail]
            return f"a{array}[p{array} + {k}]"
        if value.operation == "repeat":
            array = self.array_of[value.detail]
            return f"a{array}[p{array}]"
        if self._is_held(value, self._level):
            array = self._held[value].array
            return f"a{array}[p{array} + {k}]"
        if value.operation == "column":
            return f"I({k})"
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
            case "ramp":
                return f"q{value.detail}"
            case "prepared":
                return f"h{value.detail[0]}_{value.detail[1]}"
            case "pick":
                return self._picked(*value.operands)
        return _apply(value, [self._of_row(each) for each in value.operands])

    def _picked(self, value: Expression, column: Expression) -> str:
        """The name of `value` in one column, computed for itself alone."""
        saved = self._body, self._elements, self._index
        self._body, self._elements, self._index = self._row, {}, f"N({self._of_row(column)})"
        name = self._element(value)
        self._body, self._elements, self._index = saved
        return name


def _apply(value: Expression, operands: Sequence[str]) -> str:
    if value.operation == "compare":
        # In a vector, columns are 32-bit integers as floats are.
        wrap = "I({})" if value.each else "{}"
        return f" {value.detail} ".join(wrap.format(each) for each in operands)
    return _TEXT[value.operation].format(*operands)


def _cost(value: Expression) -> int:
    if not value.each or not value.operands:
        return 0
    return _COSTS.get(value.operation, 1) + sum(map(_cost, value.operands))


def find_expressions(stores: Sequence[Store], *operations: str) -> list[Expression]:
    """The expressions of these operations, operands first."""
    found: dict[Expression, None] = {}
    seen: set[Expression] = set()

    def visit(value: Expression) -> None:
        if value in seen:
            return
        seen.add(value)
        for each in value.operands:
            visit(each)
        if value.operation in operations:
            found[value] = None

    for store in stores:
        visit(store.value)
    return list(found)
