"""Families of models: their parts do what they say, and presets have the parameters that their papers count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import ConfigError
from graphir.ir.dims import resolve_sizes
from graphir.models import FAMILIES, PRESETS, Blueprint, blueprint
from graphir.models.parts.attention import Attention
from graphir.models.parts.norm import Norm
from graphir.models.parts.positions import Rotary, Rows
from graphir.passes import autodiff

#: Of published checkpoints, a tied head counted once; of BERT with the head that predicts masked tokens.
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-175b": 174_604_259_328,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "qwen2-0.5b": 494_032_768,
    "qwen2-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma3-1b": 999_885_952,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "phi3-mini": 3_821_079_552,
    "bert-base": 109_514_298,
}
SIZES = {"D": 12, "N_H": 6, "D_h": 4, "D_ff": 16, "V": 20, "S_max": 32}
B, S = 2, 7


def test_every_preset_is_counted() -> None:
    assert PARAMETERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_has_the_parameters_of_the_published_model(name: str) -> None:
    model = PRESETS[name]
    counts = []
    for layers in (1, 2):  # all layers have the same parameters: what a second one adds, each adds
        graph = model.but(layers=layers).graph(decode=None)
        sizes = resolve_sizes([graph.dims], model.bind(graph, B=1, S=1))
        counts.append(sum(math.prod(dim.size(sizes) for dim in each.shape) for each in graph.parameters))
    assert counts[0] + (model.composition.layers - 1) * (counts[1] - counts[0]) == PARAMETERS[name]


def small(name: str, **changes: Any) -> Blueprint:
    """A tiny member of the family in float64, with other parts."""
    family = FAMILIES[name]
    groups = {"N_KV": 3} if family.attention.layout == "grouped" else {}
    types = {"N_types": 2} if family.embedding.types else {}
    return Blueprint(replace(family, dtype="float64", **changes), {**SIZES, **groups, **types})


def logits(model: Blueprint, inputs: dict[str, np.ndarray], usage: dict[str, Any] | None = None) -> np.ndarray:
    """Of random parameters, the same for every graph of the model."""
    graph = model.graph(loss=False, decode=None, **(usage or {}))
    B, S = inputs["T"].shape
    sizes = model.bind(graph, B=B, S=S)
    run = gi.compile(graph, sizes, backend="reference")
    return run(parameters(graph, sizes), inputs)[model.composition.answer]


def parameters(graph: gi.Graph, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Random ones, for each name the same in every graph; state is empty."""
    drawn, state = gi.initialize(graph, sizes), {each.name for each in graph.state}
    random = {name: np.random.default_rng([*name.encode()]) for name in drawn}
    return {name: each if name in state else random[name].normal(0.3, 0.5, each.shape) for name, each in drawn.items()}


def inputs_of(model: Blueprint, T: np.ndarray, **more: np.ndarray) -> dict[str, np.ndarray]:
    """T, with each token's place in its row where the model asks for positions, and all of one type."""
    places = np.broadcast_to(np.arange(T.shape[1]), T.shape).copy()
    wanted = {"positions": places} if model.composition.positions.given else {}
    types = {"types": np.zeros_like(T)} if model.composition.embedding.types else {}
    return {"T": T, **wanted, **types, **more}


def tokens(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SIZES["V"], shape)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_graph_is_written_and_read_again(name: str) -> None:
    step = gi.verify(autodiff(small(name).graph(), loss="L"))
    assert gi.parse(gi.to_text(step)) == step


@pytest.mark.parametrize("name", FAMILIES)
def test_a_decoder_sees_nothing_of_what_follows(name: str) -> None:
    """An encoder does: each place's logits follow from all tokens."""
    model, T = small(name), tokens(B, S)
    changed = T.copy()
    changed[:, 4] = (T[:, 4] + 1) % SIZES["V"]
    one, other = (logits(model, inputs_of(model, each)) for each in (T, changed))
    same = np.isclose(one, other, rtol=0, atol=1e-12).all(axis=(0, 2))
    assert same[:4].all() == model.composition.attention.causal
    assert not same[4]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_documents_packed_into_a_row_are_as_they_were_alone(name: str) -> None:
    model, T = small(name), tokens(1, S)
    first = 3
    positions = np.concatenate([np.arange(first), np.arange(S - first)])[None]
    segments = (np.arange(S) >= first).astype(np.int64)[None]
    packed = logits(model, inputs_of(model, T) | {"positions": positions, "segments": segments}, {"packed": True})
    alone = [logits(model, inputs_of(model, each)) for each in (T[:, :first], T[:, first:])]
    np.testing.assert_allclose(packed, np.concatenate(alone, axis=1), rtol=0, atol=1e-11)


def test_tokens_in_another_order_with_their_positions_are_the_same_text() -> None:
    model, T, order = small("qwen3"), tokens(1, S), np.random.default_rng(2).permutation(S)
    straight = logits(model, inputs_of(model, T))
    mixed = logits(model, inputs_of(model, T[:, order]) | {"positions": order[None]})
    np.testing.assert_allclose(mixed, straight[:, order], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "llama"])
def test_tokens_one_by_one_through_a_cache_are_the_whole_text(name: str) -> None:
    """Prompts of 4 and 2 tokens, the shorter one filled up; then two tokens more of each."""
    model, never = small(name), 1 << 30
    lengths, T = np.asarray([4, 2]), tokens(2, 6)
    whole = logits(model, inputs_of(model, T))
    graph = model.graph(loss=False, decode=None, cached=True)
    arrays = parameters(graph, model.bind(graph, B=2, S=6, S_k=8))
    known, done, rows = np.full((2, 8), never), np.zeros(2, np.int64), 0
    for count in (4, 1, 1):
        ahead = lengths if count == 4 else np.ones(2, np.int64)
        inside = np.arange(count) < ahead[:, None]
        positions = np.where(inside, done[:, None] + np.arange(count), 0)
        known[:, rows : rows + count] = np.where(inside, positions, never)
        ids = np.take_along_axis(T, np.minimum(positions, 5), axis=1)
        given = {"T": ids, "positions": positions, "key_positions": known, "start": np.full(2, rows)}
        out = gi.compile(graph, model.bind(graph, B=2, S=count, S_k=8), donate=True)(arrays, given)
        arrays |= out.updated()
        for b in range(2):
            found, expected = out[model.composition.answer][b, : ahead[b]], whole[b, done[b] : done[b] + ahead[b]]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
        done, rows = done + ahead, rows + count


@pytest.mark.parametrize(
    ("name", "usage", "message"),
    [
        ("bert", {}, "bert is an encoder, whose tokens see all others: it has no use for a cache"),
        ("llama", {"packed": True}, "leave out packed"),
        ("llama", {"mask": "given"}, "llama masks by positions, and takes padding beside them"),
    ],
)
def test_a_cache_without_sense_is_refused(name: str, usage: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(name).graph(cached=True, **usage)


def test_padding_is_seen_by_no_one() -> None:
    for name in ("bert", "llama"):
        model, T = small(name), tokens(1, S)
        keep = np.arange(S)[None] < 5
        padded = logits(model, inputs_of(model, T, keep=keep), {"mask": "padding"})
        alone = logits(model, inputs_of(model, T[:, :5]))
        np.testing.assert_allclose(padded[:, :5], alone, rtol=0, atol=1e-11)


def test_a_window_is_as_wide_as_it_says_in_the_layers_that_have_it() -> None:
    """A token reaches (window − 1) places further with each layer that has a window, any place through one without."""
    T, reach = tokens(1, 9), {}
    for windowed in ((True,), (True, False)):
        attention = replace(FAMILIES["mistral"].attention, window=3, windowed=windowed)
        model = small("mistral", attention=attention)
        changed = T.copy()
        changed[:, 0] = (T[:, 0] + 1) % SIZES["V"]
        one, other = (logits(model, inputs_of(model, each)) for each in (T, changed))
        reach[windowed] = int(np.flatnonzero(~np.isclose(one, other, rtol=0, atol=1e-12).all(axis=(0, 2)))[-1])
    assert reach == {(True,): 4, (True, False): 8}


def test_heads_in_groups_are_plain_heads_whose_keys_are_repeated() -> None:
    grouped, T = small("llama"), tokens(B, S)
    plain = replace(grouped, sizes={**grouped.sizes, "N_KV": 6})
    graphs = {each: each.graph(loss=False, decode=None) for each in (grouped, plain)}
    arrays = parameters(graphs[grouped], grouped.bind(graphs[grouped], B=B, S=S))
    repeated = {
        name: np.repeat(each.reshape(-1, 3, 4), 2, axis=1).reshape(-1, 24) if name[-3:] in ("W_K", "W_V") else each
        for name, each in arrays.items()
    }
    found = [
        gi.compile(graphs[model], model.bind(graphs[model], B=B, S=S), backend="reference")(given, inputs_of(model, T))[
            model.composition.answer
        ]
        for model, given in ((grouped, arrays), (plain, repeated))
    ]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-11)


def test_dropout_is_where_the_documents_have_it_and_nowhere_without() -> None:
    with_dropout = small("llama", dropout=0.1).graph(decode=None)
    assert sum(node.operator.random for node in with_dropout.nodes) == 1 + 2 * 4
    assert {each.name for each in with_dropout.inputs} == {"T", "Y", "positions", "seed", "step"}
    assert not any(node.operator.random for node in small("llama").graph().nodes)


def test_what_no_part_asks_for_is_no_input() -> None:
    def names(graph: gi.Graph) -> set[str]:
        return {each.name for each in graph.inputs}

    assert names(small("llama").graph(decode=None)) == {"T", "Y", "positions"}
    assert names(small("bert").graph(loss=False)) == {"T", "types", "positions"}
    assert names(small("gpt2").graph(decode="top-k", packed=True)) == {
        "T",
        "Y",
        "positions",
        "segments",
        "seed",
        "step",
    }
    dynamic = Rotary(scaling=replace(Rotary().scaling, kind="dynamic", factor=2.0, original=8))
    assert "length" in names(small("llama", positions=dynamic).graph())


def test_without_a_head_the_last_vectors_are_the_result() -> None:
    model = small("bert", head=None)
    graph = model.graph()
    assert model.composition.answer == "output/X"
    assert graph.outputs == (graph["output/X"],)
    assert not any(each.name.startswith("output/") for each in graph.parameters)


# -- names and sizes --------------------------------------------------------------------------------------


def test_a_presets_sizes_can_be_others() -> None:
    model = blueprint("llama3-8b", layers=2, N_H=16, D=512)
    assert model.composition.layers == 2
    assert {name: model.sizes[name] for name in ("N_H", "N_KV", "D_h")} == {"N_H": 16, "N_KV": 4, "D_h": 32}
    assert blueprint("qwen3-0.6b", D=512).sizes["D_h"] == 128  # it was no share of D
    assert blueprint("gpt2", N_H=6).sizes["N_KV"] == 6


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("lama3-8b", {}, "no model is called 'lama3-8b'; did you mean llama3-8b"),
        ("llama", {"N_KV": 3}, "G = N_H/N_KV is no whole number of N_H=4 and N_KV=3"),
        ("llama3-8b", {"N_H": 30}, "N_KV = N_H/G is no whole number of N_H=30 and G=4"),
        ("gpt2", {"D": 100}, "D_h = D/N_H is no whole number of D=100 and N_H=12"),
        ("gpt2", {"D_ff": 0}, "D_ff must be at least 1, not 0"),
        ("gpt2", {"layers": 0}, "layers must be at least 1, not 0"),
        ("gpt2", {"X": 1}, "gpt2 has no size X; it has D, N_H, D_ff, V, S_max"),
    ],
)
def test_what_makes_no_model_is_said(name: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message.replace('(', chr(92) + '(')}"):
        blueprint(name, **sizes)


def test_nothing_that_a_model_cannot_do_is_passed_over() -> None:
    with pytest.raises(
        ConfigError, match="for rows of several documents positions have to be an input; gpt2 counts the places"
    ):
        small("gpt2", positions=Rows()).graph(packed=True)
    with pytest.raises(ConfigError, match="for a window positions have to be an input"):
        small("gpt2", positions=Rows(), attention=replace(FAMILIES["gpt2"].attention, window=2)).graph()
    with pytest.raises(ConfigError, match="it has no use for rows of several documents"):
        small("bert").graph(packed=True)
    with pytest.raises(ConfigError, match="it has no use for a window"):
        small("bert", attention=replace(FAMILIES["bert"].attention, window=2)).graph()


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Norm("rsm"), "norm 'rsm' is none of layer, rms"),
        (lambda: replace(FAMILIES["gpt2"], residual="both"), "residual 'both' is none of pre, post, sandwich"),
        (lambda: Attention(layout="group"), "layout 'group' is none of shares, plain, grouped"),
        (lambda: Attention(biases="QX"), "bias of 'X' is none of Q, K, V, O"),
        (lambda: Attention(windowed=()), "windowed=() says of no layer"),
        (lambda: Rows("sines"), "positions 'sines' is none of learned, sinusoidal"),
    ],
)
def test_a_part_that_is_misspelled_is_none(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        declare()
    assert message in str(caught.value)


def test_a_norm_with_an_offset_starts_where_one_without_does() -> None:
    (gamma,) = {each.init for each in small("gemma2").graph().parameters if "gamma" in each.local_name}
    assert gamma == "zeros"
    assert Norm("rms").offset == 0
