"""What a run may begin with, and what one that goes on has to have as it was: options, text, tokenizer, weights."""

from __future__ import annotations

from pathlib import Path

from graphir.errors import CheckpointError, ConfigError
from graphir.training.checkpoint import Checkpoint
from graphir.training.config import TrainConfig
from graphir.training.data import Corpus


def require_one_meaning(config: TrainConfig) -> None:
    """ConfigError where a model by name is, by the same name, a folder with weights, too."""
    if config.model is not None and not config.has_weights and (Path(config.model) / "config.json").is_file():
        raise ConfigError(
            f"--model {config.model} is a model by name, from random weights, and a folder here; write "
            f"./{config.model} for the folder's"
        )


def require_same_options(saved: Checkpoint, config: TrainConfig) -> None:
    """CheckpointError, with the options, where one that may not differ does."""
    differences = saved.config.placed().differences(config.placed())
    if differences:
        raise CheckpointError(
            f"{saved.path} is of another configuration: {'; '.join(differences)}. "
            "Leave these options out to go on with the checkpoint's, or choose another --out"
        )


def require_same_base(saved: Checkpoint, base: str | None) -> None:
    """CheckpointError where the weights beside A and B are others now."""
    if saved.base != base:
        raise CheckpointError(
            f"{saved.path} was trained beside other weights than those that lie in {saved.config.model} now, and holds "
            "none: give back the files that it was begun with, or train anew into another --out"
        )


def require_same_data(saved: Checkpoint, corpus: Corpus, tokenizer: str) -> None:
    """CheckpointError where text or tokenizer are others now."""
    if saved.tokenizer != tokenizer:
        raise CheckpointError(f"{saved.path} was trained with another tokenizer; give that one's file to go on")
    if saved.data != corpus.fingerprint:
        raise CheckpointError(
            f"{saved.path} was trained on another text: its fingerprint is {saved.data[:12]}, that of {corpus.source} "
            f"{corpus.fingerprint[:12]}; give the same text to go on"
        )
