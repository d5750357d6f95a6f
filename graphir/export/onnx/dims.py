"""Sizes of an exported model: numbers where they are given, names where not.

Dims of names that stay *open*, B, S and S_k unless told otherwise, are dim_params, and whatever needs their numbers
asks the shapes of the model's inputs when it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction

from graphir.errors import DimError
from graphir.ir.dims import Dim, Sizes, dim, dim_names, resolve_sizes
from graphir.ir.graph import Graph
from graphir.ir.value import Value

#: What may be without a size: a batch, a sequence's length and a cache's are known when the model is run.
OPEN = ("B", "S", "S_k")


class Dims:
    """What is known of a graph's dims: the `sizes` that are given, and the names that may stay `open`.

    Errors: DimError for a dim without a size that cannot stay open, and as of `resolve_sizes`.
    """

    def __init__(self, graph: Graph, sizes: Sizes, open: Collection[str] = OPEN, known: Collection[str] = ()) -> None:
        """`graph` has the nodes that are exported; `known` are names that others of it had."""
        used = dict.fromkeys((*graph.dims, *(each for node in graph.nodes for each in node.inference.factors.values())))
        names = dim_names([used])
        given = {name: size for name, size in sizes.items() if name in names or name not in known}
        self.may_open = frozenset(open)
        self.open = self.may_open - given.keys()
        missing = sorted({name for each in used for name in each.names} - given.keys() - self.open)
        if missing:
            how = f"sizes={{{missing[0]!r}: …}} or --size {missing[0]}=…"
            raise DimError(
                f"{', '.join(missing)} of graph {graph.name} must have a size, by {how}; what may be left to be known "
                f"when the exported model runs is {', '.join(sorted(open)) or 'nothing'}"
            )
        fixed = [each for each in used if not each.names & self.open]
        self.sizes = resolve_sizes([fixed, map(dim, given.keys() & names)], given)

    def fixed(self, each: Dim) -> int | None:
        """The dim's number; None where it is known at run time only."""
        return None if each.names & self.open else each.size(self.sizes)

    def shown(self, each: Dim) -> int | str:
        """The dim as ONNX's types have it: a number, or in names."""
        size = self.fixed(each)
        return str(each) if size is None else size

    def fixed_shape(self, shape: Iterable[Dim]) -> list[int] | None:
        """The numbers of all of these dims; None where one is open."""
        found = [self.fixed(each) for each in shape]
        return None if None in found else [size for size in found if size is not None]

    def parts(self, each: Dim) -> tuple[Fraction, list[tuple[str, int]]]:
        """The dim as a number times powers of open names."""
        coefficient, powers = each.expanded
        for name, power in powers:
            if name not in self.open:
                coefficient *= Fraction(self.sizes[name]) ** power
        return coefficient, [(name, power) for name, power in powers if name in self.open]

    def find(self, name: str, arguments: Sequence[Value]) -> tuple[Value, int, Fraction]:
        """Where an open name can be read: an argument, which of its dims, and by what that is larger.

        DimError where no argument has it.
        """
        found = [
            (value, axis, coefficient)
            for value in arguments
            for axis, each in enumerate(value.shape)
            for coefficient, powers in [self.parts(each)]
            if powers == [(name, 1)]
        ]
        if not found:
            raise DimError(f"no input of the exported model has the dim {name}, so that it needs a size: {name}=…")
        return min(found, key=lambda each: each[2] != 1)
