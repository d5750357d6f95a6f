"""The operator dictionary (B 4.4): every operator of the registry beside its d-operator, in graphs that run.

Each operator stands in a scope of its own, on inputs that bear its signature's names; what the backward pass of one
graph of them all adds in that scope is what the dictionary shows beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from graphir.drawing.figures.config import Figure
from graphir.drawing.picture import Cell, Picture, Run, Section
from graphir.drawing.view import View
from graphir.ir.builder import Builder
from graphir.ir.dims import Dim, dim, dims, product
from graphir.ir.graph import Graph
from graphir.ir.infer import given_factors
from graphir.ir.layout import Layout, Mesh
from graphir.ir.operator import Operator, operators
from graphir.ir.signature import Operand, expand
from graphir.ir.traits import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    LOCAL_SLICE,
    REDUCE_SCATTER,
    Collective,
    Hidden,
)
from graphir.ir.value import Value
from graphir.operators import add, cast, reduce_sum
from graphir.operators.collectives import all_gather

#: The documents' dims for the letters of signatures; other letters stay as they are.
_DIMS = {"b": "B", "b.0": "B", "b.1": "S", "s": "S", "d": "D", "v": "V", "h": "N_H", "h.0": "N_H"}
#: Families, each a module of operators, in the order in which a Transformer needs them; others come behind.
_FAMILIES = {
    "embedding": "Embedding and positions",
    "rotary": "Rotary positions",
    "normalization": "Norms",
    "linear": "Products",
    "shape": "Shapes",
    "attention": "Attention",
    "elementwise": "Element by element",
    "dropout": "Dropout",
    "loss": "Loss",
    "decode": "Decoding",
    "cache": "Caches",
    "cast": "Precision",
    "loss_scale": "Loss scale",
    "collectives": "Collectives, over an axis of the mesh",
    "update": "Optimizers",
}
_MESH = Mesh(tp=2)
#: How the operand of each kind of collective lies, by the method that carries it out, and what the collective is told.
_COLLECTIVES: Mapping[str, tuple[bool, tuple[tuple[str, ...], ...], dict[str, Any]]] = {
    ALL_REDUCE: (True, ((), (), ()), {"axes": ("tp",)}),
    ALL_GATHER: (False, ((), (), ("tp",)), {"dim": 2, "axis": "tp"}),
    REDUCE_SCATTER: (True, ((), (), ()), {"dim": 2, "axis": "tp"}),
    ALL_TO_ALL: (False, (("tp",), (), ()), {"source": 0, "target": 2, "axis": "tp"}),
    LOCAL_SLICE: (False, ((), (), ()), {"dim": 2, "axis": "tp"}),
}


def family(each: Operator) -> str:
    """The name of the module that declares an operator."""
    return each.kernel.__module__.rpartition(".")[2]


def shown() -> list[Operator]:
    """What the dictionary holds, family by family: the operators that programs and passes write, d-operators beside."""
    found = [
        each
        for each in operators()
        if each.kernel.__module__.startswith("graphir.operators.")
        and family(each) != "split_vocabulary"
        and each.d_operator_of is None
        and each.trait(Hidden) is None
    ]
    known = list(_FAMILIES)
    return sorted(found, key=lambda each: known.index(family(each)) if family(each) in known else len(known))


@lru_cache(maxsize=1)
def dictionary() -> Graph:
    """One graph with a node for each operator, each in the scope of its key, and all their gradients."""
    from graphir.passes import autodiff

    block = Builder("operators", mesh=_MESH)
    wanted: list[str] = []
    losses: list[Value] = []
    for each in shown():
        operands, results = _meet(each, block) if each.trait(Collective) else _apply(each, block)
        if each.no_gradient is None:
            wanted += [value.name for value in operands if _has_gradient(each, value)]
            with block.scope(f"loss/{each.key}"):
                total = reduce_sum(_whole(results[0]))
                losses.append(total if total.dtype == block.dtype else cast(total, to=block.dtype))
    with block.scope("loss"):
        L = add(*losses, name="L")
    block.output(L)
    return autodiff(block.build(), wrt=wanted)


def _meet(each: Operator, block: Builder) -> tuple[list[Value], tuple[Value, ...]]:
    """A collective on an operand that lies as it wants it: split over an axis, or a sum that is pending there."""
    collective = each.trait(Collective)
    assert collective is not None
    pending, splits, attributes = _COLLECTIVES[collective.method]
    shape = dims("B S D")
    with block.scope(each.key):
        if not pending:
            X = block.input("X", shape, layout=Layout(splits))
    if pending:
        with block.scope("loss"):
            parts = block.input(f"{each.key}_parts", (dim("N"), *shape), layout=Layout((("tp",), (), (), ())))
            X = reduce_sum(parts, axes=(0,), name=f"/{each.key}/X")
    with block.scope(each.key):
        return [X], each.all(X, builder=block, names=["Y"], **attributes)


def _whole(value: Value) -> Value:
    """The value as every rank needs it for a sum: gathered where it is split."""
    for position, axes in enumerate(value.type.layout.splits):
        for axis in reversed(axes):
            value = all_gather(value, dim=position, axis=axis, name=value.local_name)
    return value


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
    with block.scope(each.key):
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
    backward = each.d_operator
    rules = backward.static or backward.signatures(backward.normalize(backward.examples[0]))
    results = {o.name.rstrip("*") for rule in rules for o in rule.outputs}
    return f"d{operand.local_name}" in results or any(o.variadic for rule in rules for o in rule.outputs)


def _by_family(picture: Picture, graph: Graph) -> Picture:
    """A cell for each operator, its d-operator beside it and below both what they compute; families together."""
    sections: list[Section] = []
    for name, members in groupby(shown(), key=family):
        cells = [_cell(each, [n.id for n in picture.nodes if n.scope == each.key]) for each in members]
        title = _FAMILIES.get(name, name.replace("_", " ").capitalize())
        sections.append(Section((Run(title, "bold"),), tuple(cell for cell in cells if cell.nodes)))
    return replace(picture, sections=tuple(sections))


def _cell(each: Operator, nodes: Sequence[str]) -> Cell:
    lines = [_computes(each)]
    if each.d_operator is not None:
        lines.append(_computes(each.d_operator))
    name = "" if each.key == each.symbol else f"   {each.key}"
    return Cell((Run(each.symbol, "bold"), Run(name)), tuple(lines), tuple(nodes))


def _computes(each: Operator) -> str:
    """An operator's own words, whole."""
    return f"{each.symbol}:  {' '.join(each.doc.split(chr(10) * 2)[0].split())}".replace("`", "")


FIGURES = (
    Figure(
        "operator-dictionary", "The operator dictionary", "B 4.4",
        "Every operator beside its d-operator: what enters, what leaves, what the backward node caches. A node without "
        "a partner has no gradient. Collectives are each other's: what an AG gathers, its gradient slices.",
        lambda config: dictionary(),
        lambda config: View(
            "The operator dictionary", scopes=tuple(each.key for each in shown()), cached="ports", full=True,
            local=True,
            hide=("*/seed", "*/step"), direction="LR",
        ),
        finish=_by_family,
    ),
)  # fmt: skip

__all__ = ["FIGURES", "dictionary", "shown"]
