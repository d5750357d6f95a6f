"""What a kernel computes, as expressions over one row: X_k of an element in column k, μ of the row.

    mean = row.sum(X) / row.width
    N = X - mean
    rstd = 1 / row.sqrt(row.sum(N * N) / row.width + epsilon)

An expression is of each *element*, or of the *row* as a whole. Its *level* says how many loops over the row have to
be behind before it is known: operands are of level 0, a sum or a maximum is one above what it is taken of. So levels
are the loops of a kernel, and expressions of several nodes share a loop wherever none waits for another's result.

Equal expressions are one: what two nodes both need is computed once. Numbers are the kernel's arguments, not part of
its text, so that a kernel serves every width, scale and rate.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphir.backends.rows.scalars import Scalars
from graphir.formula.places import Sum
from graphir.ir.attributes import exact
from graphir.ir.operator import Place

#: Where a row lies: the number of its first element, and by how much that grows with each of the named dims.
Ramp: TypeAlias = Callable[[Place], tuple[int, Mapping[str, int]]]
Operand: TypeAlias = "Expression | float"


def ramp_of(given: Sum) -> Ramp:
    """An integer that follows from where a row lies: its first, and by how much it grows with each factor."""

    def ramp(at: Place) -> tuple[int, Mapping[str, int]]:
        return given.at(lambda key: at.start(key[1]) if key[0] == "start" else at.sizes[key[1]]), given.steps

    return ramp


@dataclass(frozen=True, eq=False)
class Expression:
    """An operation on other expressions; of a leaf, `detail` says what it stands for."""

    row: Row
    operation: str
    operands: tuple[Expression, ...]
    detail: Any
    each: bool  # of each element, or of the row
    level: int

    def __add__(self, other: Operand) -> Expression:
        return self.row.apply("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> Expression:
        return self.row.apply("subtract", self, other)

    def __rsub__(self, other: Operand) -> Expression:
        return self.row.apply("subtract", other, self)

    def __mul__(self, other: Operand) -> Expression:
        return self.row.apply("multiply", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Expression:
        return self.row.apply("divide", self, other)

    def __rtruediv__(self, other: Operand) -> Expression:
        return self.row.apply("divide", other, self)

    def __and__(self, other: Expression) -> Expression:
        return self.row.apply("and", self, other)


@dataclass(frozen=True)
class Prepared:
    """Numbers that are known at run time only, written once a run: `function(*arguments, array)`.

    Arguments are scalar operands, names of attributes of the node `node`, or what is to be computed of them.
    """

    function: Callable[..., None]
    node: int
    arguments: tuple[Expression | str | Scalars, ...]
    dtype: str
    count: int


class Row:
    """Makes expressions, and gathers what they need beside arrays: numbers, ramps, prepared numbers, masks."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Expression] = {}
        self._places: dict[Hashable, int] = {}
        self.numbers: list[float] = []
        #: The ramps, each with its node's number in the run.
        self.ramps: list[tuple[int, Ramp]] = []
        self.prepared: list[Prepared] = []
        #: For each mask its ramp, its keys among the prepared numbers, and the least draw that is kept.
        self.masks: list[tuple[Expression, int, int]] = []
        #: The number of the node whose formula is being lowered.
        self.node = 0

    # -- leaves ---------------------------------------------------------------------------------------

    def leaf(self, operation: str, detail: Any, each: bool = False) -> Expression:
        """What needs no other expression."""
        return self._make(operation, (), detail, each, 0)

    def number(self, value: float) -> Expression:
        """A number that is known when the kernel is called."""
        place = self._places.setdefault(exact(float(value)), len(self.numbers))
        if place == len(self.numbers):
            self.numbers.append(value)
        return self.leaf("number", place)

    @property
    def width(self) -> Expression:
        """How many elements the row has."""
        return self.leaf("width", None)

    @property
    def count(self) -> Expression:
        """How many elements the row has, as an integer."""
        return self.leaf("count", None)

    @property
    def column(self) -> Expression:
        """k."""
        return self.leaf("column", None, each=True)

    def ramp(self, where: Ramp) -> Expression:
        """An integer that follows from where the row lies."""
        self.ramps.append((self.node, where))
        return self.leaf("ramp", len(self.ramps) - 1)

    def prepare(
        self, function: Callable[..., None], count: int, *arguments: Expression | str | Scalars, dtype: str = "float"
    ) -> tuple[Expression, ...]:
        """`count` numbers that `function(*arguments, array)` writes once a run; see `Prepared`."""
        self.prepared.append(Prepared(function, self.node, arguments, dtype, count))
        return tuple(self.leaf("prepared", (len(self.prepared) - 1, i)) for i in range(count))

    def keep(
        self, seed: Expression, step: Expression, write_keys: Callable[..., None], at: Ramp, least: int, each: bool
    ) -> Expression:
        """Whether a dropout mask keeps an element: its 16-bit draw is not below `least`.

        Where it is not of each column, one draw is the row's.
        """
        self.prepare(write_keys, 2, seed, step, "key", dtype="uint32")
        self.masks.append((self.ramp(at), len(self.prepared) - 1, least))
        return self.leaf("keep", len(self.masks) - 1, each=each)

    # -- operations -----------------------------------------------------------------------------------

    def apply(self, operation: str, *operands: Operand, detail: Any = None) -> Expression:
        """An operation on elements, or on numbers of the row."""
        given = tuple(each if isinstance(each, Expression) else self.number(each) for each in operands)
        each, level = any(x.each for x in given), max(x.level for x in given)
        return self._make(operation, given, detail, each, level)

    def exp(self, X: Expression) -> Expression:
        """e^X."""
        return self.apply("exp", X)

    def log(self, X: Expression) -> Expression:
        """ln X."""
        return self.apply("log", X)

    def sqrt(self, X: Expression) -> Expression:
        """√X."""
        return self.apply("sqrt", X)

    def sigmoid(self, X: Expression) -> Expression:
        """σ(X) = 1 / (1 + e^−X)."""
        return self.apply("sigmoid", X)

    def normal(self, X: Expression) -> Expression:
        """Φ(X), the normal distribution."""
        return self.apply("normal", X)

    def maximum(self, X: Expression, Y: Operand) -> Expression:
        """The larger of two; where X is NaN, that."""
        return self.apply("maximum", X, Y)

    def minimum(self, X: Expression, Y: Operand) -> Expression:
        """The smaller of two; where X is NaN, that."""
        return self.apply("minimum", X, Y)

    def at_most(self, X: Expression, Y: Operand) -> Expression:
        """Whether X ≤ Y; not where one is NaN."""
        return self.apply("at most", X, Y)

    def less(self, X: Operand, Y: Operand) -> Expression:
        """Whether X < Y; not where one is NaN."""
        return self.apply("less", X, Y)

    def is_zero(self, X: Expression) -> Expression:
        """Whether X is 0."""
        return self.apply("zero", X)

    def choose(self, condition: Expression, X: Operand, Y: Operand) -> Expression:
        """X where the condition holds, Y elsewhere."""
        return self.apply("choose", condition, X, Y)

    def compare(self, X: Expression, sign: str, Y: Expression | int, moderate: bool = True) -> Expression:
        """A condition on integers: X == Y, X != Y, X <= Y, X < Y; of `moderate` ones 32 bits will do."""
        right = Y if isinstance(Y, Expression) else self.leaf("integer", Y)
        return self.apply("compare" if moderate else "compare long", X, right, detail=sign)

    def finite(self, X: Expression) -> Expression:
        """Whether X is neither NaN nor infinite."""
        return self.apply("finite", X)

    def minus(self, X: Expression, Y: Expression) -> Expression:
        """The difference of two integers."""
        return self.apply("minus", X, Y)

    def number_of(self, condition: Expression) -> Expression:
        """1 where the condition holds, 0 elsewhere."""
        return self.choose(condition, 1.0, 0.0)

    # -- of the whole row -----------------------------------------------------------------------------

    def sum(self, X: Expression) -> Expression:
        """Σ X over the row."""
        return self._make("sum", (X,), None, False, X.level + 1)

    def max(self, X: Expression) -> Expression:
        """The largest X of the row."""
        return self._make("max", (X,), None, False, X.level + 1)

    def gather(self, X: Expression, column: Expression) -> Expression:
        """An operand's element in another column than the one at hand."""
        return self._make("gather", (X, column), None, column.each, max(X.level, column.level))

    def pick(self, X: Expression, column: Expression) -> Expression:
        """X in one column, an integer of the row."""
        return self._make("pick", (X, column), None, False, max(X.level, column.level))

    def _make(
        self, operation: str, operands: tuple[Expression, ...], detail: Any, each: bool, level: int
    ) -> Expression:
        key = operation, tuple(map(id, operands)), exact(detail)
        if key not in self._made:
            self._made[key] = Expression(self, operation, operands, detail, each, level)
        return self._made[key]
