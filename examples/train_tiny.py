"""Training through the Python API: a tiny Transformer on Python's reference prose, in some seconds."""

import tempfile
from pathlib import Path

from graphir.training import Report, Sampler, TrainConfig, load_checkpoint, train


class Lines(Report):
    """Says how it goes where the loss is validated."""

    def stepped(self, record: dict[str, float]) -> None:
        if "val_loss" in record:
            print(f"step {record['step']:3}  loss {record['loss']:.3f}  validation {record['val_loss']:.3f}")


def main() -> None:
    sizes = {"layers": 1, "sequence": 32, "width": 64, "heads": 4, "batch": 16}
    config = TrainConfig(**sizes, steps=300, learning_rate=6e-3, validate_every=100)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(config, Path(folder) / "run", report=Lines())
        sampler = Sampler(load_checkpoint(outcome.checkpoint), temperature=0.5)
        print("".join(["The ", *sampler.stream("The ", tokens=80)]))


if __name__ == "__main__":
    main()
