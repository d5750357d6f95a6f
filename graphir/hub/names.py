"""What parameters are called in files, and how they lie there: one table a family, read in both directions.

    Stored("model.layers.{i}.self_attn.q_proj.weight", "layer{i}/mha/W_Q", transposed=True)

says that this tensor of a file is, transposed, the parameter W_Q of layer i. Several parameters, side by side along
their last dim, may lie in one tensor (GPT-2's c_attn is W_Q, W_K and W_V). A table lists all that members of a family
may have: what a model has no parameter for is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import ModelFileError

Array = NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, by its name there, and the parameters that it holds; `{i}` is a layer's number.

    parameters    names, separated by blanks, of what lies side by side along the last dim
    transposed    whether the file has [out, in] where parameters are [in, out]
    """

    name: str
    parameters: str
    transposed: bool = False

    def of_layer(self, layer: int) -> Stored:
        """The same with a layer's number in place of `{i}`."""
        name, parameters = (each.replace("{i}", str(layer)) for each in (self.name, self.parameters))
        return replace(self, name=name, parameters=parameters)


def linear(name: str, scope: str, maps: str, *, transposed: bool = True) -> tuple[Stored, Stored]:
    """Weight and bias of a linear map, or of several that lie side by side: `Q K V` are W_Q, W_K, W_V and b_Q, …."""
    weights, biases = (" ".join(f"{scope}/{kind}_{each}" for each in maps.split()) for kind in "Wb")
    return Stored(f"{name}.weight", weights, transposed), Stored(f"{name}.bias", biases)


def norm(name: str, scope: str, of: str = "") -> tuple[Stored, Stored]:
    """gamma and beta of a norm; `of`: whose, where a block has several."""
    suffix = f"_{of}" if of else ""
    return Stored(f"{name}.weight", f"{scope}/gamma{suffix}"), Stored(f"{name}.bias", f"{scope}/beta{suffix}")


@dataclass(frozen=True)
class Piece:
    """Where a parameter lies: in which tensor of the file, and which of its last dim's elements it is there."""

    stored: Stored
    start: int
    stop: int

    def cut(self, tensor: Array) -> Array:
        """The parameter, as a view of the file's tensor."""
        whole = tensor.T if self.stored.transposed else tensor
        return whole[..., self.start : self.stop]


class Names:
    """The table of a family, for a model whose parameters have these shapes."""

    def __init__(self, table: Sequence[Stored], layers: int, shapes: Mapping[str, Sequence[int]]) -> None:
        self._shapes = shapes
        spread = [
            each
            for stored in table
            for each in (map(stored.of_layer, range(layers)) if "{i}" in stored.name else (stored,))
        ]
        #: The tensors of a file, of which the model has the parameters.
        self.stored = [each for each in spread if all(name in shapes for name in each.parameters.split())]
        self._pieces: dict[str, Piece] = {}
        for stored in self.stored:
            start = 0
            for name in stored.parameters.split():
                stop = start + shapes[name][-1]
                self._pieces[name] = Piece(stored, start, stop)
                start = stop
        missing = sorted(shapes.keys() - self._pieces.keys())
        if missing:
            raise ModelFileError(f"folders of this family have no tensor for {', '.join(missing[:5])}")

    def __iter__(self) -> Iterator[str]:
        """The parameters, in the order of the table."""
        return iter(self._pieces)

    def __contains__(self, parameter: object) -> bool:
        return parameter in self._pieces

    def piece(self, parameter: str) -> Piece:
        """Where a parameter lies."""
        return self._pieces[parameter]

    def shape(self, stored: Stored) -> tuple[int, ...]:
        """The shape that a tensor of the file has."""
        names = stored.parameters.split()
        whole = (*self._shapes[names[0]][:-1], sum(self._shapes[name][-1] for name in names))
        return whole[::-1] if stored.transposed else whole

    def join(self, stored: Stored, parameter: Callable[[str], Array]) -> Array:
        """The tensor of the file, put together of parameters."""
        parts = [parameter(name) for name in stored.parameters.split()]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return np.ascontiguousarray(whole.T if stored.transposed else whole)
