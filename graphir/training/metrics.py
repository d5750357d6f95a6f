"""What a run tells of itself: one JSON object a step in `metrics.jsonl`, and their curve in `loss.png`.

A line holds `step` (steps done, from 1), `loss` (before this step's update, in nats a token), `lr`, `norm` (of all
gradients together, before clipping), `tokens_per_second` and, where the step was followed by a validation,
`val_loss`. Where a loss scale follows the gradients, `scale` is that of this step, and a step whose gradients were not
finite, and so changed no parameter, has `skipped` in place of `norm`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from graphir.errors import ConfigError, MissingDependencyError
from graphir.training.files import write_atomically

Record: TypeAlias = dict[str, float]


class MetricsFile:
    """An append-only file of records; opened after `step`, it forgets what a lost run did beyond."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [record for record in read_metrics(path) if record["step"] <= step] if step else []
        lines = "".join(map(_line, kept)).encode()
        write_atomically(path, lambda file: file.write(lines))
        with self._named():
            self._file = path.open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Adds a line, in one write."""
        with self._named():
            self._file.write(_line(record).encode())

    def sync(self) -> None:
        """Brings all lines to the disk: before a checkpoint, so that none it counts on can be lost."""
        with self._named():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What the system refuses, in the user's terms."""
        try:
            yield
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror or error}") from error


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics file in order of their steps; an incomplete last line is left out."""
    records: list[Record] = []
    if not path.is_file():
        return records
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            records.append({**record, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            break
    return records


def draw_loss(records: list[Record], path: Path, title: str) -> None:
    """Draws training and validation loss over the steps as a PNG; MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(f"{path} needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, losses = [r["step"] for r in records], [r["loss"] for r in records]
    axes.plot(steps, losses, color="#b8cce4", linewidth=0.8, label="training, each step")
    axes.plot(steps, _smooth(losses), color="#1f5a99", linewidth=1.6, label="training, smoothed")
    checked = [record for record in records if "val_loss" in record]
    if checked:
        points = [r["step"] for r in checked], [r["val_loss"] for r in checked]
        axes.plot(*points, color="#c8501e", linewidth=1.6, marker="o", markersize=4, label="validation")
        last = checked[-1]
        axes.annotate(
            f"{last['val_loss']:.3f}",
            (last["step"], last["val_loss"]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color="#c8501e",
        )
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=144))


def _smooth(values: list[float], memory: float = 0.95) -> list[float]:
    """An exponential mean, corrected for its empty start."""
    smooth: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = memory * total + value, memory * weight + 1
        smooth.append(total / weight)
    return smooth
