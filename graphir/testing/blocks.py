"""An operator on several ranks, each with its block: what sharding takes from a signature, measured.

Notation: a factor of the rule is split over r ranks; each rank's kernel sees its blocks, and is told where they
lie. What follows for an output is the rule's to say: it is split, too, or a term on each rank, or whole.
"""

from __future__ import annotations

import numpy as np

import graphir as gi
from graphir.errors import TypeCheckError
from graphir.ir.assignment import infer_layouts, operand_splits, read_assignment, write_split
from graphir.passes.sharding.reshard import route
from graphir.testing.cases import Array, Case, require, run, same_bits


def check_blocks(case: Case) -> None:
    """Each factor that may be split is split: the ranks together make what one rank makes.

    A factor may be split unless its dim is whole (`d!`) or it is the minor one of a composite dim.
    """
    whole = case.run()
    for factor in case.rule.factors:
        size = case.node.inference.factors[factor].size(case.sizes)
        ranks = next((count for count in range(2, size + 1) if size % count == 0), 1)
        graph = _split(case, factor, ranks)
        if ranks == 1 or graph is None:
            continue
        what = f"{case}, {factor} split over {ranks} ranks"
        results = run(graph, case.sizes, case.arrays, what)
        for operand, value in zip(case.rule.outputs, graph.outputs, strict=True):
            worst = _worst(np.asarray(results[value.name]), np.asarray(whole[operand.name]))
            require(
                worst <= 1,
                f"{what}: {operand.name} is not what one rank makes; its worst element is off by "
                f"{worst:.1e} times what rounding may be",
            )


def _split(case: Case, factor: str, ranks: int) -> gi.Graph | None:
    """The case with `factor` split over the mesh axis r, its outputs settled; None if that may not be."""
    operator, rule, assignment = case.operator, case.rule, {factor: ("r",)}
    layouts = [gi.Layout(operand_splits(operand, assignment)) for operand in rule.inputs]
    split = write_split(assignment, rule.output_only_factors)
    try:
        read = read_assignment(rule, layouts, split, case.node.inference.factors)
        # Of a composite dim, axes are read as its major factor's.
        if read.get(factor) != assignment[factor]:
            return None
        infer_layouts(operator, rule, layouts, split, case.node.inference.factors)
    except TypeCheckError:
        return None
    builder = gi.Builder("case", mesh=gi.Mesh(r=ranks))
    values = [
        builder.input(value.name, value.shape, value.dtype, layout)
        for value, layout in zip(case.node.inputs, layouts, strict=True)
    ]
    outputs = []
    for made in operator.all(*values, builder=builder, **{**case.node.attributes, "split": split}):
        value = made
        for hop in route(value.type.layout, value.type.layout.settled()):
            (value,) = builder.emit(hop.operator, [value], hop.attributes)
        outputs.append(value)
    return builder.build(*outputs)


def _worst(found: Array, expected: Array) -> float:
    """The largest difference of two elements, in units of a thousand roundings of numbers of their size."""
    if found.dtype.kind != "f":
        return 0.0 if same_bits(found, expected) else np.inf
    unit = 1000 * float(np.finfo(found.dtype).eps) * (1 + np.abs(expected))
    return float(np.max(np.abs(found - expected) / unit, initial=0.0))
