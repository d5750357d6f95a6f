"""Replicas: the blocks of parameters and state that several ranks hold alike, compared while a run goes on.

Which ranks hold the same block of a value follows from its type: those that differ along mesh axes only that do not
split it. A whole array, from which a block is yet to be cut, all ranks hold alike.

Each rank takes a *digest* of each of its blocks, one number; the table of all ranks' digests travels by one
all-reduce, which goes on while the next step is computed. Equal blocks have equal digests, and different ones
different, by all that chance can do. Where machines differ, so that last bits may, norms are compared.

    digest   Σ (a_r + b_c) x_rc modulo 2^64, over an array's words x of 4 bytes, in rows of 4096; the weights a are
             even, b odd, and both were drawn at random once and for all. An odd weight sees every single bit, and what
             has changed places or signs weighs otherwise. Two sums over memory, by rows and by columns, are all it
             takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends.arrays import module_of, to_numpy
from graphir.backends.communicator import Pending
from graphir.backends.executable import Executable
from graphir.errors import ReplicaError
from graphir.ir.value import Value

#: By how much norms may differ where bits may: more than rounding comes to in the time between two comparisons.
_TOLERANCE = 1e-3
#: Words of a row.
_WIDTH = 4096


@dataclass(frozen=True)
class _Parting:
    """Replicas of a value that differ: those of fewer ranks, those of the others, and how many kinds there are."""

    value: Value
    astray: Sequence[int]
    others: Sequence[int]
    kinds: int


class Replicas:
    """Compares what the ranks of an executable hold of its parameters and state.

    All ranks have to do so at the same steps. Where one process holds all ranks there is nothing to compare.
    """

    def __init__(self, executable: Executable) -> None:
        self._communicator, self._graph = executable.communicator, executable.graph
        self._by_norm = bool(self._communicator.differences)
        sizes = executable.plan.sizes
        self._values = (*self._graph.parameters, *self._graph.state)
        self._shapes = {value: tuple(dim.size(sizes) for dim in value.shape) for value in self._values}
        self._begun: tuple[int, list[Any], Pending] | None = None
        self._alike: int | None = None

    def begin(self, arrays: Mapping[str, Any], step: int) -> None:
        """Takes the digests of `arrays`, by name, as they are after `step` steps, and sends them on their way."""
        if self._communicator.is_alone:
            return
        self.settle()
        xp = module_of(next(iter(arrays.values())))
        groups = [self._groups(value, arrays[value.name]) for value in self._values]
        take = _norm if self._by_norm else digest
        table = xp.zeros((self._communicator.mesh.size, len(groups)), np.float64 if self._by_norm else np.uint64)
        (rank,) = self._communicator.ranks
        for number, value in enumerate(self._values):
            table[rank, number] = take(arrays[value.name])
        with self._communicator.serving(f"the comparison of replicas after step {step}"):
            pending = self._communicator.start_all_reduce([table], self._communicator.mesh.names, "sum", [table])
        self._begun = step, groups, pending

    def settle(self) -> None:
        """Waits for what was begun; ReplicaError, on all ranks, if replicas were not alike."""
        if self._begun is None:
            return
        (step, groups, pending), self._begun = self._begun, None
        table = to_numpy(pending.wait()[0])
        found = [
            parting
            for number, (value, each) in enumerate(zip(self._values, groups, strict=True))
            if (parting := self._parting(value, table[:, number], each)) is not None
        ]
        if found:
            # What has gone astray first differs the most: by itself, and by what others have made of it since.
            raise ReplicaError(self._describe(sorted(found, key=lambda parting: -parting.kinds), step))
        self._alike = step

    def _groups(self, value: Value, array: Any) -> Sequence[Sequence[int]]:
        """The sets of ranks that hold the same block of a value."""
        mesh, layout = self._communicator.mesh, value.type.layout
        split = () if tuple(array.shape) == self._shapes[value] else layout.axes
        return mesh.groups([axis for axis in mesh.names if axis not in split])

    def _parting(self, value: Value, column: NDArray[Any], groups: Sequence[Sequence[int]]) -> _Parting | None:
        """The first replicas of a value that differ; None if all are alike."""
        for group in groups:
            held = column[list(group)]
            values: list[Any] = _alike(held) if self._by_norm else held.tolist()
            if len(set(values)) > 1:
                usual, _ = Counter(values).most_common(1)[0]
                astray = [rank for rank, each in zip(group, values, strict=True) if each != usual]
                return _Parting(value, astray, [rank for rank in group if rank not in astray], len(set(values)))
        return None

    def _describe(self, found: Sequence[_Parting], step: int) -> str:
        mesh, first, names = self._communicator.mesh, found[0], [each.value.name for each in found[1:]]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        also = f"; so it is with {', '.join(names[:3])}{more}" if names else ""
        whose = " and ".join(map(mesh.describe, first.astray[:3])) + (" and more" if len(first.astray) > 3 else "")
        other = mesh.describe(first.others[0])
        when = f"after step {step}" if step else "before the first step"
        before = "" if self._alike is None else f"; after step {self._alike} all replicas were alike"
        suspects = whose if len(first.astray) < len(first.others) else f"{whose} or {other}"
        return (
            f"{when} {first.value.name} {first.value.type} of {whose} is not that of {other}, though they are replicas"
            f"{also}{before}: the memory or the program of {suspects} is at fault; no checkpoint holds this, and the "
            f"last one can be gone on from"
        )


def digest(array: Any) -> Any:
    """A number [] that tells an array's bits from others; on a device where the array is, and not waited for."""
    xp = module_of(array)
    words = _words(xp, array)
    count = len(words) // _WIDTH
    body, rest = words[: count * _WIDTH].reshape(count, _WIDTH), words[count * _WIDTH :]
    even = _weights(xp, 1 << count.bit_length()) << np.uint64(1)
    odd = _weights(xp, _WIDTH) | np.uint64(1)
    terms = rest.astype(np.uint64) * (odd[: len(rest)] + even[count : count + 1])
    if count:
        rows, columns = body.sum(axis=1, dtype=np.uint64), body.sum(axis=0, dtype=np.uint64)
        terms = xp.concatenate((terms, rows * even[:count], columns * odd))
    return terms.sum()


@cache
def _weights(xp: Any, count: int) -> Any:
    """Numbers of 64 bits, always the same."""
    return xp.asarray(np.random.Generator(np.random.Philox(0)).integers(0, 1 << 64, count, np.uint64))


def _words(xp: Any, array: Any) -> Any:
    """An array's bits as numbers of 4 bytes [n]; of one that is not made of such, each element's."""
    flat = xp.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint32 if flat.nbytes % 4 == 0 else f"uint{8 * flat.itemsize}")


def _alike(norms: NDArray[Any]) -> list[Any]:
    """For each norm whether it is near that of most, or, of two, of the first; no number is near itself alone."""
    middle = norms[0] if len(norms) == 2 else np.median(norms[~np.isnan(norms)] if not np.isnan(norms).all() else norms)
    near = np.abs(norms - middle) <= _TOLERANCE * np.abs(middle)
    return list(near | (np.isnan(norms) & np.isnan(middle)))


def _norm(array: Any) -> Any:
    """√Σ x², in float64."""
    xp = module_of(array)
    wide = array.astype(np.float64)
    return xp.sqrt((wide * wide).sum())


__all__ = ["Replicas", "digest"]
