"""The problem in PyTorch on a GPU, as its users write it: autocast for bfloat16, and one flag for tf32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from benchmarks.contestants.problem import Problem
from benchmarks.contestants.pytorch import Attention, PlainAttention, Transformer, contest

DEVICE = "cuda"


def rate() -> float:
    torch.set_float32_matmul_precision("highest")
    A, B = torch.rand(2, 8192, 8192, device=DEVICE)
    C = torch.empty_like(A)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.mm(A, B, out=C)
    start.record()
    for _ in range(3):
        torch.mm(A, B, out=C)
    end.record()
    end.synchronize()
    return 2e-9 * 8192**3 / (start.elapsed_time(end) / 3e3)


def finish() -> None:
    torch.cuda.synchronize()


def free_memory() -> int:
    """What steps keep stays kept: only the first call, before them, gives back."""
    finish()
    if not torch.cuda.is_current_stream_capturing() and not _prepared:
        torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


_prepared = False


def prepare(
    problem: Problem,
    parameters: Mapping[str, Any],
    batch: Mapping[str, Any],
    compiled: bool = False,
    plain: bool = False,
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    global _prepared
    _prepared = True
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if problem.precision == "tf32" else "highest")
    model = Transformer(problem, PlainAttention if plain else Attention)
    model.load(parameters)
    model.to(DEVICE)
    ids, targets = (torch.as_tensor(batch[name], device=DEVICE) for name in "TY")
    narrow = partial(torch.autocast, DEVICE, torch.bfloat16)
    return contest(problem, model, ids, targets, compiled, narrow if problem.precision == "bfloat16" else nullcontext)
