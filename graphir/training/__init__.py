"""Training Transformers on text, the documents' or those of others, its checkpoints, and text from them.

    from graphir.training import TrainConfig, train

    outcome = train(TrainConfig(steps=200, layers=2), "run")
    sampler = Sampler(load_checkpoint(outcome.checkpoint))
    print("".join(sampler.stream("The ", tokens=100)))

The configuration is here at once; what needs NumPy is loaded when it is asked for.

    config, data, vocabulary          what a training is, its batches, and its tokens in rows that machines like
    subject                           what is trained: the documents' model, one by name, or one with its weights
    programs, parallel, terms         its graphs, on the ranks of a mesh, and what ranks have to agree on
    resuming                          what a run that goes on has to have as it was
    loop, signals, metrics, sampling  step after step, its end, what it tells, and text from what it has learnt
    budget                            whether it fits into memory
    folder, lock, checkpoint, schema  what is written, and what is read again

Files come from elsewhere: they are checked before anything is made of them (`schema`), what a checkpoint says by types,
ranges and totals before a tensor is read, metrics line by line. What is written is renamed into its place when it is
whole (`graphir.files`), in a folder that the system keeps locked for one training (`lock`). What a command says that
fails is in `graphir.cli.failure`.

`python -m tests.attack` damages and forges files, kills trainings, fills disks, storms processes with signals, and
counts what came of it; `SECURITY.md` says what is promised.
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
