"""How a training run shows: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from graphir.training.config import TrainConfig
from graphir.training.data import Corpus
from graphir.training.loop import Report
from graphir.training.schema import Record

#: Where there is no bar, this many lines tell of a run, beside its validations.
_LINES = 20


def report_to(config: TrainConfig) -> Report:
    """A bar if stdout is a terminal, else lines."""
    return _Bar() if sys.stdout.isatty() else _Lines(config.steps)


class _Shown(Report):
    """What both have in common: what is said before the run, and the pace."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.speed = 0.0
        self.val_loss: float | None = None

    def begin(self, config: TrainConfig, corpus: Corpus, sizes: Mapping[str, int], parameters: int, step: int) -> None:
        dims = "  ".join(f"{name}={size}" for name, size in sizes.items())
        text = f"{corpus.source}: {len(corpus.train):,} tokens to train on, {len(corpus.validation):,} to validate on"
        start = f", from step {step}" if step else ""
        self.say(text)
        where = f"of {config.model} are trained" if config.has_weights else f"in {config.layers} layers"
        where += f" of {config.model}" if config.model and not config.has_weights else ""
        self.say(f"{parameters:,} parameters {where}  {dims}")
        narrow = "" if config.precision == "float32" else f", products of {config.precision}"
        narrow += " with narrow results" if config.results == "narrow" else ""
        self.say(f"{config.steps} steps{start}: {config.optimizer}, learning rate {config.learning_rate:g}{narrow}")

    def stepped(self, record: Record) -> None:
        pace = record["tokens_per_second"]
        # A mean over some steps: a single one is too nervous to be read.
        self.speed = 0.9 * self.speed + 0.1 * pace if self.speed else pace
        self.val_loss = record.get("val_loss", self.val_loss)

    def saved(self, path: Path) -> None:
        self.say(f"saved {path}")

    def note(self, text: str) -> None:
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Bar(_Shown):
    def __init__(self) -> None:
        super().__init__(Console())
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            expand=True,
        )

    def begin(self, config: TrainConfig, corpus: Corpus, sizes: Mapping[str, int], parameters: int, step: int) -> None:
        super().begin(config, corpus, sizes, parameters, step)
        self.task = self.progress.add_task("train", total=config.steps, completed=step, told="")
        self.progress.start()

    def stepped(self, record: Record) -> None:
        super().stepped(record)
        validated = "" if self.val_loss is None else f"  val {self.val_loss:.3f}"
        told = f"loss {record['loss']:.3f}{validated}  {self.speed:,.0f} tokens/s"
        self.progress.update(self.task, completed=record["step"], told=told)

    def end(self) -> None:
        self.progress.stop()


class _Lines(_Shown):
    def __init__(self, steps: int) -> None:
        super().__init__(Console(file=sys.stdout))
        self.steps = steps
        self.every = max(1, steps // _LINES)

    def stepped(self, record: Record) -> None:
        super().stepped(record)
        step = int(record["step"])
        if step % self.every and step != self.steps and "val_loss" not in record:
            return
        validated = f"  val loss {record['val_loss']:.4f}" if "val_loss" in record else ""
        left = (self.steps - step) * self.seconds(record)
        scale = f"  scale {record['scale']:g}" if "scale" in record else ""
        told = f"loss {record['loss']:.4f}{validated}  lr {record['lr']:.2e}{scale}  {self.speed:,.0f} tokens/s"
        self.say(f"step {step}/{self.steps}  {told}  {_clock(left)} left")
        sys.stdout.flush()

    def begin(self, config: TrainConfig, corpus: Corpus, sizes: Mapping[str, int], parameters: int, step: int) -> None:
        super().begin(config, corpus, sizes, parameters, step)
        self.tokens = config.batch * config.sequence

    def seconds(self, record: Record) -> float:
        """Seconds a step at the present pace."""
        return self.tokens / self.speed


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
