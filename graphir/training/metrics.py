"""What a run tells of itself: one JSON object a step in `metrics.jsonl`, and their curve in `loss.png`.

A line holds `step` (steps done, from 1), `loss` (before this step's update, in nats a token), `lr`, `norm` (of all
gradients together, before clipping), `tokens_per_second` and, where the step was followed by a validation,
`val_loss`. Where a loss scale follows the gradients, `scale` is that of this step, and a step whose gradients were not
finite, and so changed no parameter, has `skipped` in place of `norm`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import ConfigError, MissingDependencyError
from graphir.extras import install
from graphir.files import write_atomically
from graphir.training.schema import Record, read_record

#: Bytes of the longest line that is read as one.
_LONGEST = 1 << 16
#: Of the steps so far, over a part of how many a loss that falls is as good as straight.
_STEEP = 4


class MetricsFile:
    """An append-only file of records; opened after `step`, it forgets what a lost run did beyond.

    last    the last record that was kept; empty if there is none
    broken  the numbers of lines that are no records, and were left out; one that was being written is none of them
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept, self.broken = _read(path, step) if step else ([], [])
        self.last: Record = kept[-1] if kept else {}
        lines = "".join(map(_line, kept)).encode()
        write_atomically(path, lambda file: file.write(lines))
        with self._named():
            self._file = path.open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Adds a line, in one write where the disk takes it in one."""
        line = _line(record).encode()
        with self._named():
            while line:  # of a disk that is nearly full, a part is taken first, and then the error is told
                line = line[self._file.write(line) or 0 :]

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
    """The records of a metrics file in order of their steps; what is no record is left out."""
    return _read(path)[0]


def _read(path: Path, last: float = math.inf) -> tuple[list[Record], list[int]]:
    """The records up to step `last`, and the numbers of lines that are none; a last one without its end is no line."""
    records: list[Record] = []
    broken: list[int] = []
    if not path.is_file():
        return records, broken
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
            record = read_record(line, records[-1]["step"] if records else 0)
            if record is None and line.endswith(b"\n"):
                broken.append(number)
            if record is not None and record["step"] <= last:
                records.append(record)
    return records, broken


def draw_loss(records: list[Record], path: Path, title: str, tokens: int | None = None) -> None:
    """Draws training and validation loss over the steps as a PNG, and over the tokens seen, where a step has `tokens`.

    MissingDependencyError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ImportError:
        raise MissingDependencyError(f"{path} needs matplotlib: {install('viz')}") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, losses = [r["step"] for r in records], [r["loss"] for r in records]
    smooth = smoothed(losses)
    axes.plot(steps, losses, color="#b8cce4", linewidth=0.8, label="training, each step")
    axes.plot(steps, smooth, color="#1f5a99", linewidth=1.6, label="training, mean of steps around")
    checked = [record for record in records if "val_loss" in record]
    if checked:
        points = [r["step"] for r in checked], [r["val_loss"] for r in checked]
        axes.plot(*points, color="#c8501e", linewidth=1.6, marker="o", markersize=4, label="validation")
        last = checked[-1]
        # Its number stands on the side where the training's curve is not.
        below = last["val_loss"] < smooth[-1]
        axes.annotate(
            f"{last['val_loss']:.3f}",
            (last["step"], last["val_loss"]),
            xytext=(0, -8 if below else 8),
            textcoords="offset points",
            ha="right",
            va="top" if below else "bottom",
            color="#c8501e",
        )
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token)")
    if tokens:
        above = axes.secondary_xaxis("top", functions=(_times(tokens), _times(1 / tokens)))
        above.set_xlabel("tokens seen")
        above.xaxis.set_major_formatter(EngFormatter(sep=" "))
        above.spines["top"].set_visible(False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=144))


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda numbers: np.multiply(numbers, factor)


def smoothed(values: list[float], share: float = 0.04) -> list[float]:
    """At each place what a line through the values around it says there, which lags behind nothing.

    Around are up to a `share` of all values, as many before as after. A loss falls the more slowly the longer it has
    fallen, so at the beginning they are a quarter of those that have come before; at the end those after are missing.
    """
    y = np.asarray(values, dtype=np.float64)
    here = np.arange(len(y))
    reach = np.minimum(max(1, round(share * len(y))), here // _STEEP)
    low, high = here - reach, np.minimum(here + reach + 1, len(y))

    def mean(of: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.concatenate([[0.0], np.cumsum(of)])
        return np.asarray((sums[high] - sums[low]) / (high - low))

    x = here.astype(np.float64)
    spread = mean(x * x) - mean(x) ** 2
    slope = np.divide(mean(x * y) - mean(x) * mean(y), spread, out=np.zeros_like(y), where=spread > 0)
    return [float(each) for each in mean(y) + slope * (x - mean(x))]
