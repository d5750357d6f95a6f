"""The floor on a GPU: the matrix products of a step, and nothing else, by cuBLAS in one CUDA graph.

As `floor`: the causal half of attention's products only, by blocks of rows, and no call allocates. Operands and results
are of what products read: float32, multiplied as float32 or as tf32, or bfloat16 with sums in float32. A step that
stores its results wider, or adds anything, is slower. An odd vocabulary is padded, which makes its products faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.contestants import cuda_pytorch
from benchmarks.contestants.floor import Products
from benchmarks.contestants.problem import PaddedProblem, Problem
from graphir.passes import dce

#: Rows of scores at a time: as few more than the triangle as large products allow.
BLOCK = 256
#: Bytes of scores at a time: those of all heads.
TILE = 1 << 30

rate, finish, free_memory = cuda_pytorch.rate, cuda_pytorch.finish, cuda_pytorch.free_memory


class DeviceProducts(Products):
    """The products on arrays of PyTorch's, in one part."""

    def __init__(self, problem: Problem, dtype: torch.dtype, device: str) -> None:
        self._make = lambda shape: torch.full(shape, 0.01, dtype=dtype, device=device)
        padded = PaddedProblem(problem.size, problem.what, problem.dropout)
        super().__init__(dce(padded.graph()), padded.sizes, 1, BLOCK, TILE)

    def _stored(self, key: object, shape: tuple[int, ...]) -> Any:
        if key not in self._arrays:
            self._arrays[key] = self._make(shape)
        return self._arrays[key]

    def multiply(self) -> None:
        """All of them, one after the other."""
        (calls,) = self.calls
        for left, right, out in calls:
            torch.matmul(left, right, out=out)


def prepare(
    problem: Problem, parameters: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    torch.set_float32_matmul_precision("high" if problem.precision == "tf32" else "highest")
    dtype = torch.bfloat16 if problem.precision == "bfloat16" else torch.float32
    products = DeviceProducts(problem, dtype, cuda_pytorch.DEVICE)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        products.multiply()  # cuBLAS makes its workspace outside of the graph
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            products.multiply()
    return graph.replay, dict
