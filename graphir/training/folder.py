"""The folder of a run: locked while it goes on, and all that is written there.

step-000400.safetensors   checkpoints
metrics.jsonl             a line a step
loss.png                  their curve
tokenizer.json            a copy of the tokenizer's file, without which checkpoints are of no use
.graphir.lock             while a run goes on: whose
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from graphir.errors import MissingDependencyError
from graphir.files import make_folder, remove_leftovers, write_bytes
from graphir.training.checkpoint import Checkpoint, checkpoint_path, list_checkpoints, remove_old, save_checkpoint
from graphir.training.lock import FolderLock
from graphir.training.metrics import MetricsFile, draw_loss, read_metrics

_METRICS, _TOKENIZER, _LOSS = "metrics.jsonl", "tokenizer.json", "loss.png"


class RunFolder:
    """A folder to train into; as a context, it is locked, and what a run that came to nothing has left there goes.

    Of the processes of a run one `leads`; those of the others touch nothing.
    Errors: ConfigError for a folder that cannot be made or written, or that another training writes into.
    """

    def __init__(self, path: Path, leads: bool) -> None:
        self.path, self.leads = path, leads
        self._lock: FolderLock | None = None
        #: Folders that were not there, the innermost first; and what the run has written beside checkpoints.
        self._made: list[Path] = []
        self._written: list[Path] = []

    def __enter__(self) -> RunFolder:
        if self.leads:
            self._made = make_folder(self.path)
            try:
                self._lock = FolderLock(self.path)
                remove_leftovers(self.path)
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self.leads:
            if not list_checkpoints(self.path):
                # Metrics would tell of what cannot go on.
                for path in self._written:
                    path.unlink(missing_ok=True)
            self._leave()

    def _leave(self) -> None:
        if self._lock is not None:
            self._lock.release()
        with suppress(OSError):  # one that holds anything stays
            for path in self._made:
                path.rmdir()

    # -- what is written --------------------------------------------------------------------------------------

    def open_metrics(self, step: int, note: Callable[[str], None]) -> MetricsFile | None:
        """The metrics, to go on with after `step`; what of them is damaged is noted."""
        if not self.leads:
            return None
        path = self.path / _METRICS
        self._written.append(path)
        metrics = MetricsFile(path, step)
        if metrics.broken:
            lines = ", ".join(map(str, metrics.broken[:5])) + (", …" if len(metrics.broken) > 5 else "")
            note(f"{path}: no records of steps, and left out: line {lines}")
        return metrics

    def keep_tokenizer(self, content: bytes | None) -> None:
        """A copy of the tokenizer's file, if it has one."""
        if self.leads and content is not None:
            path = self.path / _TOKENIZER
            if not path.exists():  # else it may be the user's own
                self._written.append(path)
            write_bytes(path, content)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after `step` is."""
        return checkpoint_path(self.path, step)

    def save(self, checkpoint: Checkpoint, keep: int) -> None:
        """Writes the checkpoint, and removes all but the latest `keep`."""
        assert self._lock is not None
        self._lock.require()
        save_checkpoint(checkpoint)
        remove_old(self.path, keep)

    def draw(self, title: str, tokens: int, note: Callable[[str], None]) -> None:
        """The curve of the losses, of steps of so many tokens, where there is something to draw it with."""
        if self.leads:
            try:
                draw_loss(read_metrics(self.path / _METRICS), self.path / _LOSS, title, tokens)
            except MissingDependencyError as error:
                note(str(error))
