"""Training the documents' Transformer on text, its checkpoints, and text from them.

    from graphir.training import TrainConfig, train

    outcome = train(TrainConfig(steps=200, layers=2), "run")
    sampler = Sampler(load_checkpoint(outcome.checkpoint))
    print("".join(sampler.stream("The ", tokens=100)))

The configuration is here at once; what needs NumPy is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphir.late import late
from graphir.training.config import TrainConfig

if TYPE_CHECKING:
    from graphir.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
    from graphir.training.loop import Outcome, Report, train
    from graphir.training.sampling import Sampler

__getattr__ = late(
    __name__,
    {
        "Checkpoint": "checkpoint",
        "Outcome": "loop",
        "Report": "loop",
        "Sampler": "sampling",
        "find_checkpoint": "checkpoint",
        "load_checkpoint": "checkpoint",
        "train": "loop",
    },
)

__all__ = [
    "Checkpoint",
    "Outcome",
    "Report",
    "Sampler",
    "TrainConfig",
    "find_checkpoint",
    "load_checkpoint",
    "train",
]
