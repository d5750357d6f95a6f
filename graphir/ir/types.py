"""Types of values: a dtype, a shape of named dims, and a layout, `float32[B|dp, S, D]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias
from weakref import WeakValueDictionary

from graphir.errors import TypeCheckError
from graphir.ir.dims import Dim, DimLike, as_dim, product
from graphir.ir.layout import Layout, layout_text

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
#: The most dims that arrays have, of every NumPy.
HIGHEST_RANK = 32


def widest(dtypes: Iterable[str]) -> str:
    """The float dtype in which the numbers of all these are numbers: of float16 and bfloat16 that is float32."""
    found = set(dtypes)
    if {"float16", "bfloat16"} <= found:
        found.add("float32")
    return max(found, key=DTYPES.__getitem__)


class TensorType:
    """What is known of a value before it is computed. Immutable, hashable.

    `shape` is the logical one, of the whole value; `layout` says which part of it a rank holds. A value of a
    graph that is not sharded is replicated over no axes at all.

    Types that are equal and written alike are one object as long as somebody holds it, made and compared once: a graph
    has few distinct ones.
    """

    __slots__ = ("__weakref__", "_hash", "dtype", "layout", "shape", "text")

    dtype: str
    shape: Shape
    layout: Layout
    #: The type as written. Equal types may be spelled differently: `[D_h]` and `[D/N_H]`.
    text: str
    _hash: int

    def __new__(cls, dtype: str, shape: Iterable[DimLike] = (), layout: Layout | None = None) -> TensorType:
        if dtype not in DTYPES:
            raise TypeCheckError(f"{dtype!r} is no dtype; choose from {', '.join(DTYPES)}")
        try:
            dims = tuple(map(as_dim, shape))
        except TypeError:
            # A comma was forgotten: (D) is D.
            raise TypeCheckError(f"a shape is a tuple of dims, not {shape}; with one dim it is ({shape},)") from None
        require_rank(len(dims))
        laid = Layout.replicated(len(dims)) if layout is None else layout
        key = dtype, dims, tuple(map(str, dims)), laid
        return _TYPES.get(key) or _TYPES.setdefault(key, cls._make(dtype, dims, laid))

    @classmethod
    def _make(cls, dtype: str, shape: Shape, layout: Layout) -> TensorType:
        if len(layout.splits) != len(shape):
            raise TypeCheckError(f"layout {layout} is for {len(layout.splits)} dims, not {len(shape)}")
        self = object.__new__(cls)
        self.dtype, self.shape, self.layout = dtype, shape, layout
        self._hash = hash((dtype, shape, layout))
        self.text = f"{dtype}{layout_text(shape, layout)}"
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return TensorType, (self.dtype, self.shape, self.layout)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, TensorType)
            and self.dtype == other.dtype
            and self.shape == other.shape
            and self.layout == other.layout
        )

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


def require_rank(rank: int) -> int:
    """`rank` itself if there are arrays of so many dims; TypeCheckError if not."""
    if not 0 <= rank <= HIGHEST_RANK:
        raise TypeCheckError(f"a value of rank {rank} has no array; ranks are 0 to {HIGHEST_RANK}")
    return rank


_TYPES: WeakValueDictionary[tuple[object, ...], TensorType] = WeakValueDictionary()
