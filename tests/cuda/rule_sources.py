"""The texts of the kernels that are written by hand: of the CuPy backend's rules, and of attention."""

from __future__ import annotations

from collections.abc import Iterator

from graphir.backends.cupy.attention import FORWARD, KEYS, QUERIES, tile_sizes
from graphir.backends.cupy.attention import source as attention_source
from graphir.backends.cupy.rules.shared import source

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
                    text = attention_source(kernel.file, **types, **tile_sizes(tiles, width), **switches)
                    yield f"{kernel.file} {value} {width}", text
