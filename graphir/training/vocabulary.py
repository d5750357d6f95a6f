"""A vocabulary of V tokens in V_pad rows: what ranks can share and tensor cores like, with the numbers of V.

The rows behind the last token are zero and stay zero: the model masks their logits, so their gradients are exactly
zero, and an update of zeros by a gradient of zero is zero, decay included. Whoever looks from outside, a checkpoint
or the count of parameters, sees V rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends import initialize
from graphir.ir.dims import Dim
from graphir.ir.graph import Graph
from graphir.ir.value import Value

Arrays = Mapping[str, NDArray[Any]]

_V_PAD = "V_pad"


@dataclass(frozen=True)
class Vocabulary:
    """`tokens` are V, `rows` V_pad."""

    tokens: int
    rows: int

    @classmethod
    def of(cls, tokens: int, multiple: int) -> Vocabulary:
        """As many rows as the next multiple of `multiple`."""
        return cls(tokens, -(-tokens // multiple) * multiple)

    @property
    def padded(self) -> bool:
        """Whether the model has to be built with V_pad beside V."""
        return self.rows > self.tokens

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that the model needs beside the configuration's."""
        return {_V_PAD: self.rows} if self.padded else {}

    @property
    def unpadded(self) -> dict[str, int]:
        """The sizes under which the same formulas count V rows."""
        return {_V_PAD: self.tokens} if self.padded else {}

    def initialize(
        self, graph: Graph, sizes: Mapping[str, int], seed: int, known: Arrays = MappingProxyType({})
    ) -> dict[str, NDArray[Any]]:
        """The initial values of the model without padding, padded: a draw fills a tensor row by row of V.

        What is `known` is not drawn.
        """
        return self.pad(graph, initialize(graph, {**sizes, **self.unpadded}, seed, known))

    def pad(self, graph: Graph, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The arrays of parameters and state with rows of zeros added."""
        result = dict(arrays)
        for value in (*graph.parameters, *graph.state):
            array = arrays.get(value.name)
            if array is not None and array.ndim == len(value.shape):
                missing = [self.rows - self.tokens if _is_padded(dim) else 0 for dim in value.shape]
                if any(missing):
                    result[value.name] = np.pad(array, [(0, count) for count in missing])
        return result

    def strip(self, graph: Graph, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The arrays of parameters and state without these rows."""
        return {name: array[self._tokens(graph[name])] for name, array in arrays.items()}

    def _tokens(self, value: Value) -> tuple[slice, ...]:
        return tuple(slice(self.tokens) if _is_padded(dim) else slice(None) for dim in value.shape)


def _is_padded(dim: Dim) -> bool:
    return str(dim) == _V_PAD
