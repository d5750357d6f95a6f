"""Implementations of one training step, to be timed beside each other: each in a process of its own.

A contestant's module has two functions. `prepare(problem, parameters, batch, **options)` returns `(step, check)`:
`step()` does the problem's work once and returns when the results are there; `check()`, called before any step,
returns numbers that have to agree among all who compute the problem, by name: `loss`, the `norm` of all gradients
together, the `next loss` after an update; nothing if no problem is solved but only timed. `rate()` is the GFLOP/s of a
float32 product of two square matrices by the contestant's own library: 1024 × 1024 on all its threads, 8192 × 8192 on
a GPU.
"""

from __future__ import annotations

from typing import Any

#: Each contestant's module and the options of its `prepare`.
CONTESTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "graphir": ("graphs", {"backend": "numpy"}),
    "graphir-numba": ("graphs", {"backend": "numpy", "kernels": "numba"}),
    "reference": ("graphs", {"backend": "reference"}),
    "pytorch": ("pytorch", {}),
    "torch.compile": ("pytorch", {"compiled": True}),
    "jax": ("xla", {}),
    "graphir-xla": ("xla_graphs", {}),
    "floor": ("floor", {"own_threads": True}),
    "floor-blas": ("floor", {"own_threads": False}),
}

#: Those that compute on a GPU. Their modules have two functions more: `finish()` waits for what steps have begun, and
#: `free_memory()` are the device's free bytes.
ON_GPU: dict[str, tuple[str, dict[str, Any]]] = {
    "graphir": ("cuda_graphs", {}),
    "eager+sdpa": ("cuda_pytorch", {}),
    "eager": ("cuda_pytorch", {"plain": True}),
    "torch.compile": ("cuda_pytorch", {"compiled": True}),
    "floor": ("cuda_floor", {}),
}

#: The step's matrix products alone; the faster of the two is what the others are measured by.
FLOORS = ("floor", "floor-blas")

#: torch.compile takes minutes to prepare, so it has to be asked for.
DEFAULT = tuple(name for name in CONTESTANTS if name != "torch.compile")
