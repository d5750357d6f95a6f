"""From a formula to ONNX: a node for each operation on elements, each reduction, each pick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphir.export.onnx.axes import Axes, Laid
from graphir.export.onnx.writer import Tensor, Writer
from graphir.formula.terms import COMPARISONS, REDUCTIONS, Term, walk
from graphir.formula.trace import Formula
from graphir.ir.dims import product
from graphir.ir.graph import Node
from graphir.ir.signature import Signature

#: ONNX's words for operations whose operands are all of one dtype.
_ELEMENTWISE = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "equal": "Equal",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_not": "Not",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
    "absolute": "Abs",
    "negative": "Neg",
}
_REDUCTIONS = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}
#: From the narrowest to the widest: what meets is computed in the last of them.
_WIDTH = ("bool", "int32", "int64", "bfloat16", "float16", "float32", "float64")


def write_formula(
    write: Writer, node: Node, formula: Formula, operands: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Writes the results of a node that its formula has, in the order of its outputs; None of those not `wanted`."""
    axes = Axes(write, _order(formula.rule), node.inference.factors)
    named = {each.name: axes.lay(X, each) for each, X in zip(formula.rule.inputs, operands, strict=True)}
    terms = _Terms(write, axes, formula.terms.dtype, named)
    roots = [formula.results[each.name] for each in formula.rule.outputs]
    for term in walk(root for root, is_wanted in zip(roots, wanted, strict=True) if is_wanted):
        terms.add(term)
    return [
        write.cast(axes.result(terms.get(root), root.factors, each), value.dtype) if is_wanted else None
        for root, each, value, is_wanted in zip(roots, formula.rule.outputs, node.outputs, wanted, strict=True)
    ]


def write_term(write: Writer, node: Node, formula: Formula, term: Term, operands: Mapping[str, Tensor]) -> Laid:
    """Writes one term of a node's formula, which follows from these of its operands."""
    axes = Axes(write, _order(formula.rule), node.inference.factors)
    named = {each.name: axes.lay(operands[each.name], each) for each in formula.rule.inputs if each.name in operands}
    terms = _Terms(write, axes, formula.terms.dtype, named)
    for each in walk([term]):
        terms.add(each)
    return terms.get(term)


def _order(rule: Signature) -> list[str]:
    """The factors of a rule as that operand or result has them that has most, so that few are moved; others first."""
    most = max((*rule.outputs, *rule.inputs), key=lambda operand: len(operand.factors)).factors
    return [*(factor for factor in rule.factors if factor not in most), *most]


class _Terms:
    def __init__(self, write: Writer, axes: Axes, dtype: str, operands: Mapping[str, Laid]) -> None:
        self.write, self.axes, self.operands = write, axes, operands
        self.dtypes = {"float": dtype, "wide": "float64", "int": "int64", "bool": "bool"}
        self.known: dict[Term, Laid] = {}

    def get(self, term: Term, dtype: str | None = None) -> Laid:
        """A term that is written already, in this dtype, if one is wanted."""
        if term.operation == "number":
            # It is as exact as what it meets.
            return Laid(self.write.number(term.detail, dtype or self.dtypes[term.kind]), 0)
        found = self.known[term]
        return found if dtype is None else Laid(self.write.cast(found.tensor, dtype), found.rank)

    def add(self, term: Term) -> None:
        """Writes a term, whose operands are."""
        if term.operation != "number":
            self.known[term] = self._made(term)

    def _made(self, term: Term) -> Laid:
        write, operation, detail = self.write, term.operation, term.detail
        match operation:
            case "operand":
                return self._operand(self.operands[detail], term.kind)
            case "index":
                return self.axes.along(write.range(self.axes.dims[detail]), detail)
            case "start":
                return Laid(write.number(0, "int64"), 0)
            case "add" | "subtract" if term.operands[1].operation == "start":
                return self.get(term.operands[0])  # a whole tensor begins at 0
            case "extent" | "total":
                return Laid(write.size(product(self.axes.dims[factor] for factor in detail)), 0)
            case "convert":
                return self.get(term.operands[0], self.dtypes[detail])
            case "round":
                return self.get(term.operands[0], detail)
            case "at":
                return self._at(term.operands[0], term.operands[1], detail)
            case "where":
                condition, *choices = term.operands
                return self._elementwise("Where", [self.get(condition), *self._together(choices, term)])
            case "isfinite":
                (X,) = self._together(term.operands, term)
                infinite, nan = write("IsInf", X.tensor), write("IsNaN", X.tensor)
                return Laid(write("Not", write("Or", infinite, nan)), X.rank)
            case "not_equal":
                equal = self._elementwise("Equal", self._together(term.operands, term))
                return Laid(write("Not", equal.tensor), equal.rank)
            case "remainder":
                return self._remainder(*self._together(term.operands, term))
        if operation in REDUCTIONS:
            X = self.get(term.operands[0], "int64" if term.kind == "int" else None)
            over = write.integers([self.axes.place(factor) for factor in detail])
            return Laid(write(_REDUCTIONS[operation], X.tensor, over, keepdims=1), X.rank)
        return self._elementwise(_ELEMENTWISE[operation], self._together(term.operands, term))

    def _operand(self, X: Laid, kind: str) -> Laid:
        """An operand; integers of 64 bits, and a number beside the arrays, a learning rate, as float64."""
        return X if kind == "float" else Laid(self.write.cast(X.tensor, self.dtypes[kind]), X.rank)

    def _elementwise(self, kind: str, given: Sequence[Laid]) -> Laid:
        return Laid(self.write(kind, *(each.tensor for each in given)), max(each.rank for each in given))

    def _together(self, operands: Sequence[Term], term: Term) -> list[Laid]:
        """The operands of an operation in the dtype that they are computed with: the widest of theirs."""
        dtypes = [self.get(each).tensor.dtype for each in operands if each.operation != "number"]
        if term.operation not in COMPARISONS and term.kind != "bool" and term.kind != "float":
            dtypes.append(self.dtypes[term.kind])
        dtypes = dtypes or [self.dtypes[each.kind] for each in operands]
        return [self.get(each, max(dtypes, key=_WIDTH.index)) for each in operands]

    def _at(self, X: Term, where: Term, factor: str) -> Laid:
        """X where the index along a factor is `where`."""
        source, index, axis = self.get(X), self.get(where, "int64"), self.axes.place(factor)
        if not where.factors:
            one = self.write.reshape(index.tensor, (), (product(()),))
            return Laid(self.write("Gather", source.tensor, one, axis=axis), source.rank)
        # Elements are gathered where both have all of their axes, but for the one along which they are picked.
        rank, every = max(source.rank, index.rank), (X.factors - {factor}) | where.factors
        if source.rank != rank or X.factors != every | {factor}:
            source = self.axes.spread(source, every | {factor}, rank)
        if index.rank != rank or where.factors != every:
            index = self.axes.spread(index, every, rank)
        return Laid(self.write("GatherElements", source.tensor, index.tensor, axis=rank + axis), rank)

    def _remainder(self, X: Laid, Y: Laid) -> Laid:
        """As NumPy's, of the divisor's sign; ONNX has it so of integers, and of floats of the dividend's sign."""
        write, rank, dtype = self.write, max(X.rank, Y.rank), X.tensor.dtype
        if dtype == "int64":
            return Laid(write("Mod", X.tensor, Y.tensor), rank)
        rest, zero = write("Mod", X.tensor, Y.tensor, fmod=1), write.number(0, dtype)
        apart = write("Xor", write("Less", rest, zero), write("Less", Y.tensor, zero))
        other = write("And", apart, write("Not", write("Equal", rest, zero)))
        return Laid(write("Where", other, write("Add", rest, Y.tensor), rest), rank)
