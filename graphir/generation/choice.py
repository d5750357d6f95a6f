"""Which token follows: the most probable, or one that is drawn of the logits, within bounds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.generation.options import Choice

Array = NDArray[Any]


def choose(choice: Choice, logits: Array, seen: Collection[int], text: int, step: int) -> int:
    """The id that follows, by its logits [V]; `seen` are those that have occurred.

    A draw is keyed by seed, `text` and `step`: what is drawn in a batch, and beside it, has no say in it.
    """
    scores = logits.astype(np.float64)
    if choice.repetition != 1 and seen:
        again = np.fromiter(set(seen), np.int64)
        old = scores[again]
        scores[again] = np.where(old > 0, old / choice.repetition, old * choice.repetition)
    if choice.temperature == 0:
        return int(scores.argmax())
    order = np.argsort(-scores, kind="stable")[: choice.top_k or None]
    powers = np.exp((scores[order] - scores[order[0]]) / choice.temperature)
    shares = powers / powers.sum()
    # The first token is always left: what stands before it has no probability.
    kept = (np.cumsum(shares) - shares < choice.top_p) & (shares >= choice.min_p * shares[0])
    shares = np.cumsum(np.where(kept, shares, 0))
    drawn = np.random.default_rng([choice.seed, text, step]).random() * shares[-1]
    return int(order[np.searchsorted(shares, drawn, side="right")])
