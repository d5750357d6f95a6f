"""Blocks on a device as NCCL reads and writes them: in order, where nothing is allocated while a stream is captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphir.backends.arrays import is_on_device, to_numpy
from graphir.backends.communicator.interface import Block, averaged
from graphir.backends.communicator.nccl_groups import FLOATS


class DeviceBlocks:
    """What is done to blocks beside sending them, on the current stream; `cupy` is the array module."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._buffers: dict[tuple[str, tuple[int, ...], str], Block] = {}

    def reduce(self, terms: Block, reduce: str, result: Block) -> Block:
        """The terms [N, …] together, in the order of ranks."""
        combine = self._cupy.maximum if reduce == "max" else self._cupy.add
        combine(terms[0, ...], terms[1, ...], result)
        for number in range(2, len(terms)):
            combine(result, terms[number, ...], result)
        return self.average(result, len(terms), reduce)

    def average(self, result: Block, count: int, reduce: str) -> Block:
        """A sum of so many terms, in place made their mean where that is asked for."""
        if reduce == "mean" and result.dtype.name in FLOATS:
            self._cupy.true_divide(result, result.dtype.type(count), result)
        elif reduce == "mean":
            result[...] = averaged(result, count, reduce)
        return result

    def carry_out(
        self, blocks: Sequence[Block], out: Sequence[Block] | None, run: Callable[[Block, Block | None], Block]
    ) -> list[Block]:
        """`run` of this rank's block, and where to write its result; by way of the device for NumPy's."""
        (block,) = blocks
        if is_on_device(block):
            return [run(block, None if out is None else out[0])]
        made = to_host(run(self._cupy.asarray(block), None))
        if out is None:
            return [made]
        np.copyto(out[0], made)
        return [out[0]]

    def target(self, shape: Sequence[int], dtype: Any, into: Block | None) -> Block:
        """Where a result is written: `into`, or a new block."""
        found: Block = self._cupy.empty(tuple(shape), dtype) if into is None else into
        return found

    def contiguous(self, block: Block) -> Block:
        """The block as NCCL can send it: itself, or a copy in a buffer."""
        if block.flags.c_contiguous:
            return block
        copied = self.buffer("contiguous", block.shape, block.dtype)
        copied[...] = block
        return copied

    def pieces(self, block: Block, dim: int, count: int) -> Block:
        """The parts of a dim one after the other, C-contiguous: [N, …]; of the first dim no copy."""
        parts = parted(block, dim, count)
        if parts.flags.c_contiguous:
            return parts
        pieces = self.buffer("pieces", parts.shape, parts.dtype)
        pieces[...] = parts
        return pieces

    def buffer(self, role: str, shape: Sequence[int], dtype: Any) -> Block:
        """A buffer that is kept: what is on the current stream uses it one after the other."""
        key = role, tuple(shape), np.dtype(dtype).name
        if key not in self._buffers:
            self._buffers[key] = self._cupy.empty(tuple(shape), dtype)
        return self._buffers[key]


def put(block: Block, into: Block | None) -> Block:
    """The block, copied `into` another one if there is one."""
    if into is None or into is block:
        return block
    into[...] = block
    return into


def to_host(block: Block) -> Block:
    """A C-contiguous copy for the host, which waits for it."""
    return np.array(to_numpy(block), order="C")


def address(array: Block) -> int:
    """Where NCCL finds an array."""
    return int(array.data.ptr)  # type: ignore[attr-defined]


def parted(block: Block, dim: int, count: int) -> Block:
    """`block` [.., N d, ..] as its parts along `dim`: [N, .., d, ..], a view."""
    shape = (*block.shape[:dim], count, block.shape[dim] // count, *block.shape[dim + 1 :])
    order = (dim, *(i for i in range(len(shape)) if i != dim))
    return block.reshape(shape).transpose(order)
