"""Families of models as data: each a composition, to be varied by `dataclasses.replace`, with no code of its own.

What a family's members differ in beside their sizes (the base of their angles, whether the head is tied) is as its
first members have it. Names are those of `transformers`' classes and papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphir.models.composition import Composition
from graphir.models.parts.attention import Attention
from graphir.models.parts.embedding import Embedding
from graphir.models.parts.feed_forward import FeedForward
from graphir.models.parts.head import Head
from graphir.models.parts.norm import RMS, Norm
from graphir.models.parts.positions import Rotary, Table
from graphir.models.parts.residual import POST, SANDWICH

#: Radford et al., 2019: learned positions, LN before each block, biases everywhere but in the head, which is Eᵀ.
GPT2 = Composition(
    "gpt2",
    layers=2,
    embedding=Embedding(),
    positions=Table(),
    norm=Norm(),
    attention=Attention(layout="plain", biases="QKVO"),
    mlp=FeedForward(),
    head=Head(bias=False),
)

#: Touvron et al., 2023: RMS, rotary positions, a gated MLP, no biases, a head of its own; grouped heads since Llama 2.
LLAMA = Composition(
    "llama",
    layers=2,
    embedding=Embedding(),
    positions=Rotary(),
    norm=Norm(RMS, 1e-5),
    attention=Attention(layout="grouped", biases=""),
    mlp=FeedForward("silu", gated=True, bias=False),
    head=Head(tied=False, bias=False),
)

#: Jiang et al., 2023: Llama with a sliding window.
MISTRAL = replace(LLAMA, name="mistral", attention=replace(LLAMA.attention, window=4096))

#: Allal et al., 2025: Llama, small, with a tied head.
SMOLLM = replace(LLAMA, name="smollm", positions=Rotary(100_000.0), head=Head(bias=False))

#: Yang et al., 2024: Llama with biases on Q, K and V.
QWEN2 = replace(
    LLAMA,
    name="qwen2",
    positions=Rotary(1_000_000.0),
    norm=Norm(RMS, 1e-6),
    attention=replace(LLAMA.attention, biases="QKV"),
)

#: Yang et al., 2025: no biases again; each head of Q and K is normalized.
QWEN3 = replace(QWEN2, name="qwen3", attention=replace(LLAMA.attention, norm=Norm(RMS, 1e-6)))

#: Abdin et al., 2024: Llama with a window; its checkpoints hold Q, K and V, and gate and up, as one matrix each.
PHI3 = replace(LLAMA, name="phi3", attention=replace(LLAMA.attention, window=2047))

_GEMMA_NORM = Norm(RMS, 1e-6, offset=1.0)

#: Gemma Team, 2024: norms before and after each block, scores and logits within bounds, a window in every other layer.
GEMMA2 = Composition(
    "gemma2",
    layers=2,
    embedding=Embedding(scaled=True),
    positions=Rotary(),
    norm=_GEMMA_NORM,
    attention=Attention(layout="grouped", biases="", window=4096, windowed=(True, False), cap=50.0, width=256),
    mlp=FeedForward("gelu_tanh", gated=True, bias=False),
    head=Head(bias=False, cap=30.0),
    residual=SANDWICH,
)

#: Gemma Team, 2025: normalized heads in place of bounds; five layers of six have a window, and angles of their own.
GEMMA3 = replace(
    GEMMA2,
    name="gemma3",
    positions=Rotary(1_000_000.0, windowed_base=10_000.0),
    attention=replace(
        GEMMA2.attention, norm=_GEMMA_NORM, window=512, windowed=(True, True, True, True, True, False), cap=0.0
    ),
    head=Head(bias=False),
)

#: Devlin et al., 2019: an encoder, LN after each block, types of tokens; its head predicts masked tokens.
BERT = Composition(
    "bert",
    layers=2,
    embedding=Embedding(types=True, norm=True),
    positions=Table(),
    norm=Norm(epsilon=1e-12),
    attention=Attention(causal=False, layout="plain", biases="QKVO"),
    mlp=FeedForward("gelu"),
    head=Head(transform="gelu"),
    residual=POST,
)

#: All families by name.
FAMILIES: Mapping[str, Composition] = {
    each.name: each for each in (GPT2, LLAMA, MISTRAL, SMOLLM, QWEN2, QWEN3, PHI3, GEMMA2, GEMMA3, BERT)
}
