"""Models by name, without weights: what their papers and published configurations say of parts and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphir.errors import ConfigError, meant
from graphir.models.blueprint import Blueprint
from graphir.models.composition import Composition
from graphir.models.families import BERT, FAMILIES, GEMMA2, GEMMA3, GPT2, LLAMA, MISTRAL, PHI3, QWEN2, QWEN3, SMOLLM
from graphir.models.parts.head import Head
from graphir.models.parts.positions import Rotary, Scaling


def _preset(family: Composition, layers: int, *, changes: Mapping[str, Any] | None = None, **sizes: int) -> Blueprint:
    """A member of a family: so many layers, other parts where there are `changes`, the sizes of its dims."""
    return Blueprint(replace(family, layers=layers, **(changes or {})), sizes)


def _gpt2(layers: int, D: int, N_H: int, S_max: int = 1024) -> Blueprint:
    return _preset(GPT2, layers, D=D, N_H=N_H, D_ff=4 * D, V=50257, S_max=S_max)


def _llama3_positions(factor: float) -> Rotary:
    """Llama 3.1 and later: made for 8,192 positions, then slowed down."""
    return Rotary(500_000.0, scaling=Scaling("llama3", factor=factor, original=8192))


_LLAMA3 = {"positions": Rotary(500_000.0)}
_LLAMA31 = {"positions": _llama3_positions(8.0)}
_LLAMA32 = {"positions": _llama3_positions(32.0), "head": Head(bias=False)}
_TIED = {"head": Head(bias=False)}

#: The models by name.
PRESETS: Mapping[str, Blueprint] = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt3-175b": _gpt2(96, 12288, 96, 2048),
    "llama2-7b": _preset(LLAMA, 32, D=4096, N_H=32, D_ff=11008, V=32000, S_max=4096),
    "llama2-13b": _preset(LLAMA, 40, D=5120, N_H=40, D_ff=13824, V=32000, S_max=4096),
    "llama2-70b": _preset(LLAMA, 80, D=8192, N_H=64, N_KV=8, D_ff=28672, V=32000, S_max=4096),
    "llama3-8b": _preset(LLAMA, 32, changes=_LLAMA3, D=4096, N_H=32, N_KV=8, D_ff=14336, V=128256, S_max=8192),
    "llama3-70b": _preset(LLAMA, 80, changes=_LLAMA3, D=8192, N_H=64, N_KV=8, D_ff=28672, V=128256, S_max=8192),
    "llama3-405b": _preset(LLAMA, 126, changes=_LLAMA31, D=16384, N_H=128, N_KV=8, D_ff=53248, V=128256, S_max=131072),
    "llama3.2-1b": _preset(LLAMA, 16, changes=_LLAMA32, D=2048, N_H=32, N_KV=8, D_ff=8192, V=128256, S_max=131072),
    "llama3.2-3b": _preset(LLAMA, 28, changes=_LLAMA32, D=3072, N_H=24, N_KV=8, D_ff=8192, V=128256, S_max=131072),
    "mistral-7b": _preset(MISTRAL, 32, D=4096, N_H=32, N_KV=8, D_ff=14336, V=32000, S_max=32768),
    "qwen2-0.5b": _preset(QWEN2, 24, changes=_TIED, D=896, N_H=14, N_KV=2, D_ff=4864, V=151936, S_max=131072),
    "qwen2-7b": _preset(QWEN2, 28, D=3584, N_H=28, N_KV=4, D_ff=18944, V=152064, S_max=131072),
    "qwen3-0.6b": _preset(QWEN3, 28, changes=_TIED, D=1024, N_H=16, N_KV=8, D_h=128, D_ff=3072, V=151936, S_max=40960),
    "qwen3-8b": _preset(QWEN3, 36, D=4096, N_H=32, N_KV=8, D_ff=12288, V=151936, S_max=40960),
    "gemma2-2b": _preset(GEMMA2, 26, D=2304, N_H=8, N_KV=4, D_h=256, D_ff=9216, V=256000, S_max=8192),
    "gemma2-9b": _preset(GEMMA2, 42, D=3584, N_H=16, N_KV=8, D_h=256, D_ff=14336, V=256000, S_max=8192),
    "gemma3-1b": _preset(GEMMA3, 26, D=1152, N_H=4, N_KV=1, D_h=256, D_ff=6912, V=262144, S_max=32768),
    "smollm2-135m": _preset(SMOLLM, 30, D=576, N_H=9, N_KV=3, D_ff=1536, V=49152, S_max=8192),
    "smollm2-360m": _preset(SMOLLM, 32, D=960, N_H=15, N_KV=5, D_ff=2560, V=49152, S_max=8192),
    "smollm2-1.7b": _preset(
        SMOLLM, 24, changes={"positions": Rotary(130_000.0)}, D=2048, N_H=32, D_ff=8192, V=49152, S_max=8192
    ),
    "phi3-mini": _preset(PHI3, 32, D=3072, N_H=32, D_ff=8192, V=32064, S_max=4096),
    "bert-base": _preset(BERT, 12, D=768, N_H=12, D_ff=3072, V=30522, S_max=512, N_types=2),
}

#: The names of all that `blueprint` knows.
NAMES = frozenset((*PRESETS, *FAMILIES))

#: The sizes of a family's member that nobody says more of: as small as the documents' Transformer is by itself.
_SMALL = {"D": 128, "N_H": 4, "D_ff": 512, "V": 256, "S_max": 1024}


def blueprint(name: str, *, layers: int | None = None, dtype: str | None = None, **sizes: int) -> Blueprint:
    """The preset of that name, or a small member of the family of that name, with other layers, floats or sizes.

    Sizes are named by their dims: `D=64, N_H=4, N_KV=2`; what follows of them is as `Blueprint.but` has it.
    Errors: ConfigError for a name that is unknown, with the nearest, a size that is no dim of the model, or sizes that
    make none.
    """
    if name in PRESETS:
        found = PRESETS[name]
    elif name in FAMILIES:
        family = FAMILIES[name]
        groups = {"N_KV": 2} if family.attention.layout == "grouped" else {}
        found = Blueprint(family, {**_SMALL, **groups, **({"N_types": 2} if family.embedding.types else {})})
    else:
        known = list(dict.fromkeys((*PRESETS, *FAMILIES)))
        hint = meant(name, known, f"there are {', '.join(known)}")
        raise ConfigError(f"no model is called {name!r}; {hint}")
    return found.but(layers=layers, dtype=dtype, **sizes)
