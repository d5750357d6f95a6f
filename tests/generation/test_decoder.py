"""A cache changes nothing: logits token by token are those of the whole text, for every family, on ranks, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.errors import ConfigError, DataError
from graphir.generation import Decoder, decoder
from tests.support.hub import FAMILIES, opened

DECODERS = tuple(name for name in FAMILIES if name != "bert")
#: The quick run has two: a table of positions and plain heads; grouped ones, rotary positions and a window.
SAMPLED = [name if name in ("gpt2", "gemma3") else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS]
#: Two texts, of which one begins with a prompt of eleven tokens, one with a prompt of three.
TEXTS = np.random.default_rng(0).integers(0, 36, (2, 20))
PROMPTS = (11, 3)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read four tokens at a time, and caches begin with eight rows."""
    for name, number in {"FEWEST_ROWS": 8, "SHORTEST": 4, "LONGEST": 4}.items():
        monkeypatch.setattr(decoder, name, number)


def largest_difference(name: str, **options: Any) -> float:
    """How far logits after each token are from those of the whole text, at most."""
    model = opened(name)
    blueprint, arrays = model.blueprint.but(dtype="float64"), model.arrays("float64")
    texts = Decoder(blueprint, arrays, len(TEXTS), **options)
    found = [texts.begin([list(text[:count]) for text, count in zip(TEXTS, PROMPTS, strict=True)])]
    rows = texts.rows
    for step in range(9):
        found.append(texts.step([text[count + step] for text, count in zip(TEXTS, PROMPTS, strict=True)]))
    assert texts.rows > rows
    whole = uncached(name)
    return max(
        float(np.abs(logits[text] - whole[text, count - 1 + step]).max())
        for step, logits in enumerate(found)
        for text, count in enumerate(PROMPTS)
    )


def uncached(name: str, tokens: int | None = None) -> NDArray[Any]:
    """The logits [B, S, V] of the texts, or of so many `tokens` of them, all at once, node by node."""
    model = opened(name)
    blueprint = model.blueprint.but(dtype="float64")
    graph = blueprint.graph(loss=False, decode=None)
    T = TEXTS[:, :tokens]
    B, S = T.shape
    run = gi.compile(graph, blueprint.bind(graph, B=B, S=S), backend="reference")
    known = {"T": T, "positions": np.broadcast_to(np.arange(S), (B, S)), "length": S}
    out = run(model.arrays("float64"), {value.name: known[value.name] for value in graph.inputs})
    logits: NDArray[Any] = out[blueprint.composition.answer]
    return logits


@pytest.mark.parametrize("name", SAMPLED)
def test_logits_with_a_cache_are_those_without(name: str) -> None:
    assert largest_difference(name) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), [("llama", {"tp": 3}), ("smollm", {"tp": 2}), ("qwen3", {"dp": 2, "tp": 2})])
def test_on_ranks_they_are_the_same(name: str, mesh: dict[str, int]) -> None:
    assert largest_difference(name, mesh=gi.Mesh(mesh)) < 1e-12


def test_a_text_that_becomes_a_long_one_is_turned_anew() -> None:
    model = opened("phi3_long")
    blueprint, short = model.blueprint.but(dtype="float64"), 5
    assert blueprint.composition.positions.scaling.turn == short
    texts = Decoder(blueprint, model.arrays("float64"), 2, backend="reference")
    logits = texts.begin([list(TEXTS[0, :4]), list(TEXTS[1, :2])])
    for step in range(4):
        whole = uncached("phi3_long", 4 + step)
        for text, count in enumerate((4, 2)):
            assert np.abs(logits[text] - whole[text, count + step - 1]).max() < 1e-12
        logits = texts.step([TEXTS[0, 4 + step], TEXTS[1, 2 + step]])


def test_texts_that_have_ended_change_nothing() -> None:
    model = opened("gpt2")
    both, one = (Decoder(model.blueprint, model.arrays(), batch, backend="reference") for batch in (2, 1))
    both.begin([[1, 2, 3], [4, 5]])
    one.begin([[4, 5]])
    for id in (6, 7, 8):
        logits = both.step([0, id], going={1})
        assert np.array_equal(both.lengths, [3, one.lengths[0] + 1])
        np.testing.assert_allclose(logits[1], one.step([id])[0], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_decoded() -> None:
    model = opened("gpt2")
    texts = Decoder(model.blueprint, model.arrays())
    with pytest.raises(DataError, match="a prompt has no token"):
        texts.begin([[]])
    with pytest.raises(DataError, match="a prompt has 33 tokens, and the model was made for S_max = 32 positions"):
        texts.begin([[1] * 33])
    with pytest.raises(ConfigError, match="is an encoder"):
        Decoder(opened("bert").blueprint, {})


@pytest.mark.parametrize(
    ("mesh", "plan", "message"),
    [
        (
            {"tp": 3},
            "sequence",
            "plan sequence splits S, but a text goes on by one token at a time; choose one that leaves",
        ),
        ({"cp": 2}, None, "plan context splits S, but a text"),
        ({"dp": 3}, None, "2 prompts cannot be shared out evenly over dp=3; give a multiple of it"),
    ],
)
def test_plans_that_do_not_fit_texts(mesh: dict[str, int], plan: str | None, message: str) -> None:
    model = opened("llama")
    with pytest.raises(ConfigError, match=message):
        Decoder(model.blueprint, model.arrays(), len(TEXTS), mesh=gi.Mesh(mesh), plan=plan)
