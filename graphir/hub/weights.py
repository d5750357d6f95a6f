"""The parameters of a model that lie in files: views of what is mapped, in the shapes that its graph has them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import ModelFileError
from graphir.hub.formats import Format
from graphir.hub.names import Names
from graphir.ir.value import of_stored

Array = NDArray[Any]


class Weights(Mapping[str, Array]):
    """Parameters by name, read-only: `weights["layer0/mha/W_Q"]` is a view of a file, [D, N_H·D_h].

    Nothing is read before somebody looks, and no more than somebody looks at: a rank's block is that part of the file.
    `weights["layer0/mha/W_Q.stored"]` is the same as it lies in the file, rows for columns there.
    """

    def __init__(self, names: Names, tensors: Mapping[str, Array], format: Format, where: str) -> None:
        """`tensors` by their names in the files.

        Errors: ModelFileError for a tensor that is missing, of another shape, or nobody's.
        """
        self.names, self.tensors = names, tensors
        known = {stored.name for stored in names.stored}
        #: Of tensors that are there twice, which one is the parameter.
        self._copies = {copy: one for copy, one in format.copies.items() if copy in tensors.keys() - known}
        shapes = {stored.name: names.shape(stored) for stored in names.stored}
        shapes |= {copy: shapes[one] for copy, one in self._copies.items() if one in shapes}
        for name, wanted in shapes.items():
            if name not in tensors:
                raise ModelFileError(f"{where} lacks {name}, which its config.json asks for")
            if tensors[name].shape != wanted:
                found = list(tensors[name].shape)
                raise ModelFileError(f"{where}: {name} is {found}, not {list(wanted)} as its config.json says")
        for name in sorted(tensors.keys() - shapes.keys()):
            if not name.endswith(format.unread or ("\0",)):
                raise ModelFileError(f"{where} holds {name}, which a model of its config.json does not have")

    def __getitem__(self, name: str) -> Array:
        wanted = of_stored(name)
        piece = self.names.piece(name if wanted is None else wanted)
        found = piece.cut(np.asarray(self.tensors[piece.stored.name]))
        return found.T if wanted is not None and piece.stored.transposed else found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (of_stored(name) or name) in self.names

    @property
    def lies(self) -> Mapping[str, tuple[str, bool]]:
        """How each parameter lies in its file: its dtype there, and whether transposed; see `passes.as_stored`."""
        pieces = {name: self.names.piece(name).stored for name in self}
        return {name: (self.tensors[each.name].dtype.name, each.transposed) for name, each in pieces.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return sum(1 for _ in self.names)

    @property
    def dtype(self) -> str:
        """The type of the floats, as most tensors have it."""
        kinds = [self.tensors[stored.name].dtype.name for stored in self.names.stored]
        return max(set(kinds), key=kinds.count)

    def written(self, arrays: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        """The tensors of the files, with `arrays` for parameters that are now others, each of the type it had."""
        new = arrays or {}
        tensors = dict(self.tensors)
        for stored in self.names.stored:
            if not new.keys().isdisjoint(stored.parameters.split()):
                whole = self.names.join(stored, lambda name: np.asarray(new.get(name, self[name])))
                tensors[stored.name] = whole.astype(tensors[stored.name].dtype)
        return tensors | {copy: tensors[one] for copy, one in self._copies.items() if one in tensors}
