"""What the ranks of a training have to agree on before they begin: its options, its data, and where it starts."""

from __future__ import annotations

from collections.abc import Mapping

from graphir.backends.communicator import Terms
from graphir.backends.machine import Machine
from graphir.options import flag
from graphir.training.checkpoint import Checkpoint
from graphir.training.config import TrainConfig
from graphir.training.data import Corpus

#: Options that count for rank 0 alone, and those that name files, whose content counts.
_OTHERS = frozenset({"keep", "sample", "text", "tokenizer"})
#: Characters of a digest that are told.
_SHOWN = 16


def terms_of(
    config: TrainConfig,
    more: Mapping[str, object],
    corpus: Corpus,
    tokenizer: str,
    base: str | None,
    saved: Checkpoint | None,
) -> Terms:
    """Those of a run of `config`, with `more` options, by name; `tokenizer` and `base` are fingerprints.

    What computes, and the graphs that follow, are agreed on when these are compiled.
    """
    resolved = config.resolved()
    options = {name: value for name, value in resolved.as_dict().items() if name not in _OTHERS}
    told = {flag(name): "not given" if value is None else str(value) for name, value in {**options, **more}.items()}
    start = "none" if saved is None else f"{saved.path.name}, of step {saved.step}"
    tokens = len(corpus.train) + len(corpus.validation)
    data = f"{tokens} tokens of {corpus.vocabulary} kinds with the digest {corpus.fingerprint[:_SHOWN]}"
    common = {**told, "the data": data, "the tokenizer": tokenizer[:_SHOWN], "the checkpoint to go on from": start}
    if base is not None:
        common["the weights beside A and B"] = base[:_SHOWN]
    return Terms("graphir train", common, Machine.of_versions())
