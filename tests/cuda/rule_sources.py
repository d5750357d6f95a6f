"""The texts of the kernels that are written by hand: of the CuPy backend's rules, and of attention."""

from __future__ import annotations

from collections.abc import Iterator

import graphir as gi
from graphir.backends.cupy.attention import FORWARD, KEYS, QUERIES, tile_sizes
from graphir.backends.cupy.attention import source as attention_source
from graphir.backends.cupy.rules.shared import source
from graphir.backends.cupy.sight import Sight, sight_of

_FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
#: Width of a head, kind of mask, causal, dropout. The widest takes longest to compile; float64 goes without.
_CASES = ((16, 0, True, True), (64, 1, True, True), (128, 2, False, False))


def rule_sources() -> Iterator[tuple[str, str]]:
    """Each text by what it is."""
    for value, itemsize in _FLOATS.items():
        total = "float64" if value == "float64" else "float32"
        for ids in ("int32", "int64"):
            yield f"lookup {value} {ids}", source("lookup.cu", Value=value, Id=ids)
            yield f"CACHE {value} {ids}", source("cache.cu", Value=value, Id=ids)
            yield f"dLookup {value} {ids}", source("lookup_gradient.cu", Value=value, Sum=total, Id=ids)
        yield f"sum {value}", source("reduce.cu", Value=value, Sum=total)
        yield f"ARG {value}", source("argmax.cu", Value=value, Sum=total, Id="int64")
        for kernel in (FORWARD, QUERIES, KEYS):
            for width, mask, causal, dropout in _CASES[:2] if value == "float64" else _CASES:
                tiles = kernel.tiles(itemsize, width, dropout)
                if tiles is not None:
                    types = {"Value": value, "Result": value if width == 64 else total, "Sum": total, "Id": "int64"}
                    switches = {
                        "MASK": mask,
                        "CAUSAL": causal,
                        "PAIRED": width > 16,
                        "DROPOUT": dropout,
                        "STATISTICS": True,
                        "GROUP": 3 if width == 64 else 1,
                    }
                    sizes = tile_sizes(tiles, width)
                    yield f"{kernel.file} {value} {width}", attention_source(kernel.file, **types, **sizes, **switches)
                    if width == 64 and value in ("bfloat16", "float64"):
                        sighted = {**switches, "MASK": 0, "CAUSAL": False}
                        text = attention_source(kernel.file, _sight(), **types, **sizes, **sighted)
                        yield f"{kernel.file} {value} by position", text


def _sight() -> Sight:
    """Of operands of all kinds."""
    B, H, S, S_k, D = gi.dims("B H S S_k D")
    block = gi.Builder("masks")
    of = {"q": (S, "int64"), "k": (S_k, "int64"), "keep": (S_k, "bool"), "q_id": (S, "int32"), "k_id": (S_k, "int32")}
    ids = [block.input(name, (B, size), dtype) for name, (size, dtype) in of.items()]
    Z = gi.scale_mask_by_position(
        block.input("A", (B, H, S, S_k)), *ids, width=D, window=3, mask="padding", segments=True
    )
    found = sight_of(block.build(Z).nodes[0])
    assert found is not None
    return found
