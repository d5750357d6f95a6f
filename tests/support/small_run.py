"""The smallest runs in which all that training does can be seen."""

from __future__ import annotations

from graphir.training import TrainConfig

#: Widths divide by two and by three; it is in double precision, that curves can be held to each other.
CONFIG = TrainConfig(
    layers=1,
    sequence=12,
    width=24,
    heads=6,
    batch=4,
    dropout=0.2,
    dtype="float64",
    steps=6,
    schedule_steps=6,
    learning_rate=0.01,
    validate_batches=1,
    sample=0,
)
#: It validates and writes checkpoints on its way.
SMALL = TrainConfig(
    layers=1,
    sequence=16,
    width=16,
    heads=2,
    batch=2,
    steps=8,
    dropout=0.2,
    validation=0.2,
    validate_every=2,
    validate_batches=1,
    checkpoint_every=4,
    seed=5,
)
