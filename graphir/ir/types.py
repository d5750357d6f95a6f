"""Types of values: a dtype and a shape of named dims, `float32[B, S, D]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from graphir.errors import TypeCheckError
from graphir.ir.dims import Dim, DimLike, as_dim, product, shape_text

Shape: TypeAlias = tuple[Dim, ...]

#: Bytes an element, by dtype. `text` is Python's own strings, which only a tokenizer reads.
DTYPES: Mapping[str, int] = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
    "bool": 1,
    "text": 0,
}
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
INTEGERS = frozenset({"int32", "int64"})


class TensorType:
    """What is known of a value before it is computed: dtype and shape. Immutable, hashable."""

    __slots__ = ("_hash", "dtype", "shape", "text")

    def __init__(self, dtype: str, shape: Iterable[DimLike] = ()) -> None:
        if dtype not in DTYPES:
            raise TypeCheckError(f"{dtype!r} is no dtype; choose from {', '.join(DTYPES)}")
        self.dtype = dtype
        self.shape: Shape = tuple(map(as_dim, shape))
        self._hash = hash((dtype, self.shape))
        #: The type as written. Equal types may be spelled differently: `[D_h]` and `[D/N_H]`.
        self.text = f"{dtype}{shape_text(self.shape)}"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, TensorType) and self.dtype == other.dtype and self.shape == other.shape

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    @property
    def rank(self) -> int:
        """The number of dims."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether a gradient of such a value makes sense."""
        return self.dtype in FLOATS

    @property
    def elements(self) -> Dim:
        """The number of elements, as a formula."""
        return product(self.shape)
