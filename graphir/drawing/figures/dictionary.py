"""The operator dictionary (B 4.4): every operator of the registry beside its d-operator, in graphs that run.

Each operator stands in a scope of its own, on inputs that bear its signature's names; what the backward pass of one
graph of them all adds in that scope is what the dictionary shows beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from graphir.drawing.figures.config import Figure
from graphir.drawing.picture import Cluster, Label, Picture, Run
from graphir.drawing.view import View
from graphir.ir.builder import Builder
from graphir.ir.dims import Dim, dim, product
from graphir.ir.graph import Graph
from graphir.ir.infer import given_factors
from graphir.ir.operator import Operator, operators
from graphir.ir.signature import Operand, expand
from graphir.ir.traits import Hidden
from graphir.ir.value import Value
from graphir.operators import add, cast, reduce_sum

#: The documents' dims for the letters of signatures; other letters stay as they are.
_DIMS = {"b": "B", "b.0": "B", "b.1": "S", "s": "S", "d": "D", "v": "V", "h": "N_H", "h.0": "N_H"}
_COLUMNS = 3


def shown() -> Iterator[Operator]:
    """What the dictionary holds: the library's operators that a program is written in, d-operators beside them."""
    hidden = ("split_vocabulary", "update", "collectives")
    for each in operators():
        module = each.kernel.__module__
        own = module.startswith("graphir.operators.") and module.rpartition(".")[2] not in hidden
        if own and each.d_operator_of is None and each.trait(Hidden) is None:
            yield each


@lru_cache(maxsize=1)
def dictionary() -> Graph:
    """One graph with a node for each operator, each in the scope of its key, and all their gradients."""
    from graphir.passes import autodiff

    block = Builder("operators")
    wanted: list[str] = []
    losses: list[Value] = []
    for each in shown():
        with block.scope(each.key):
            operands, results = _apply(each, block)
        if each.no_gradient is None:
            wanted += [value.name for value in operands if _has_gradient(each, value)]
            with block.scope("loss"):
                total = reduce_sum(results[0])
                losses.append(total if total.dtype == block.dtype else cast(total, to=block.dtype))
    with block.scope("loss"):
        L = add(*losses, name="L")
    block.output(L)
    return autodiff(block.build(), wrt=wanted)


def _apply(each: Operator, block: Builder) -> tuple[list[Value], tuple[Value, ...]]:
    """A node of the operator on inputs made to its signature: `*b` is B, S, or B where more dims follow."""
    attributes = each.examples[0]
    normal = each.normalize(attributes)
    rule = each.signatures(normal)[0]
    starred = [operand for operand in rule.inputs if any(axis.star for axis in operand.axes)]
    width = min((1 if sum(not a.star for a in o.axes) > 1 else 2 for o in starred), default=0)
    ranks = [
        sum(not axis.star for axis in operand.axes) + (width if any(axis.star for axis in operand.axes) else 0)
        for operand in rule.inputs
        for _ in range(2 if operand.variadic else 1)
    ]
    fitted = expand(rule, tuple(ranks))
    assert fitted is not None
    sizes: dict[str, Dim] = {**fitted.literals, **given_factors(each, normal)}
    for factor in fitted.factors:
        if factor not in sizes:
            sizes[factor] = dim(_DIMS.get(factor, factor.replace(".", "_")))
    values = [
        block.input(o.name, [product(sizes[f] for f in axis.factors) for axis in o.axes], _dtype(o, block))
        for o in fitted.inputs
    ]
    names = [operand.name for operand in fitted.outputs]
    return values, each.all(*values, builder=block, names=names, **attributes)


def _dtype(operand: Operand, block: Builder) -> str:
    if operand.dtype in ("bool", "text"):
        return operand.dtype
    return "int64" if operand.is_integer else block.dtype


def _has_gradient(each: Operator, operand: Value) -> bool:
    if not operand.type.is_float:
        return False
    if each.gradient_rule is not None or each.d_operator is None:
        return True
    rules = each.d_operator.static or each.d_operator.signatures(each.normalize(each.examples[0]))
    results = {o.name for rule in rules for o in rule.outputs}
    return not results or f"d{operand.local_name}" in results


def _frame(picture: Picture, graph: Graph) -> Picture:
    """Each operator and its d-operator in a frame that says what they compute; frames in columns."""
    clusters, order = [], []
    keys = [each for each in shown() if any(node.scope == each.key for node in picture.nodes)]
    members = {each.key: [node.id for node in picture.nodes if node.scope == each.key] for each in keys}
    for each in keys:
        clusters.append(Cluster(each.key, _explain(each), tuple(members[each.key])))
    for position, (left, right) in enumerate(pairwise(keys), start=1):
        if position % _COLUMNS:
            last = _ends(picture, members[left.key])[1][0]
            order += [(last, first) for first in _ends(picture, members[right.key])[0]]
    # A layout from left to right stacks what it is told last on top.
    return replace(picture, nodes=picture.nodes[::-1], clusters=tuple(clusters[::-1]), order=tuple(order))


def _ends(picture: Picture, ids: list[str]) -> tuple[list[str], list[str]]:
    """The nodes of a frame that nothing precedes, and those that nothing follows."""
    into, from_ = {edge.target for edge in picture.edges}, {edge.source for edge in picture.edges}
    return [id for id in ids if id not in into], [id for id in ids if id not in from_]


def _explain(each: Operator) -> Label:
    lines = [_first_sentence(each)]
    if each.d_operator is not None:
        lines.append(_first_sentence(each.d_operator))
    return (Run(f"{each.symbol}  ", "bold"), Run("\n".join(lines)))


def _first_sentence(each: Operator) -> str:
    text = " ".join(each.doc.split("\n\n")[0].split())
    end = text.find(". ")
    text = text if end < 0 else text[:end]
    return text.rstrip(".") if len(text) <= 70 else text[:67].rsplit(" ", 1)[0] + " …"


FIGURES = (
    Figure(
        "operator-dictionary", "The operator dictionary", "B 4.4",
        "Every operator beside its d-operator: what enters, what leaves, what the backward node caches. A node without "
        "a partner has no gradient.",
        lambda config: dictionary(),
        lambda config: View(
            "The operator dictionary", scopes=tuple(each.key for each in shown()), cached="ports", full=True,
            hide=("*/seed", "*/step"), direction="LR",
        ),
        finish=_frame,
    ),
)  # fmt: skip

__all__ = ["FIGURES", "dictionary", "shown"]
