"""The folder of a run: one training at a time, and what a killed one has left is gone on with."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from graphir.errors import ConfigError, LayoutError
from graphir.training import Report, TrainConfig, load_checkpoint, train
from graphir.training import lock as module
from graphir.training.checkpoint import list_checkpoints
from graphir.training.lock import NAME, FolderLock, Holder
from graphir.training.metrics import MetricsFile, read_metrics
from tests.support.paths import ROOT

SMALL = TrainConfig(
    layers=1, sequence=8, width=8, heads=2, batch=2, steps=4, validation=0.2, validate_batches=1, checkpoint_every=2
)


@pytest.fixture
def small(tmp_path: Path) -> TrainConfig:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 40)
    return dataclasses.replace(SMALL, text=(str(path),))


def taken_and_left(folder: Path) -> None:
    """A process that takes the lock, and is killed."""
    program = (
        "import os, sys; from pathlib import Path; from graphir.training.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, timeout=300)


# -- one at a time ------------------------------------------------------------------------------------------


def test_who_comes_second_is_told_who_has_it(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(ConfigError) as refused:
        FolderLock(tmp_path)
    assert f"{tmp_path} is being trained into by process {os.getpid()} on this machine, since 20" in str(refused.value)
    assert str(refused.value).endswith("wait for its end, stop it, or choose another --out")
    lock.require()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    FolderLock(tmp_path).release()


@pytest.mark.slow
def test_two_trainings_in_one_folder(small: TrainConfig, tmp_path: Path) -> None:
    """The second is refused, whether it begins or goes on, and the first does not notice."""

    class Second(Report):
        refused = 0

        def stepped(self, record: dict[str, float]) -> None:
            for resume in (False, list_checkpoints(tmp_path / "run") != []):
                with pytest.raises(ConfigError, match="is being trained into by process"):
                    train(small, tmp_path / "run", resume=resume)
                self.refused += 1

    report = Second()
    train(small, tmp_path / "run", report=report)
    assert report.refused == 8
    train(small, tmp_path / "alone")
    alone, disturbed = (load_checkpoint(list_checkpoints(tmp_path / name)[-1][1]).arrays for name in ("alone", "run"))
    assert all(array.tobytes() == disturbed[name].tobytes() for name, array in alone.items())
    assert [record["step"] for record in read_metrics(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4]


def test_what_a_killed_process_has_left_locks_nobody_out(small: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    taken_and_left(folder)
    assert (folder / NAME).is_file()
    train(small, folder)
    assert not (folder / NAME).exists()


def test_a_run_that_fails_leaves_folders_as_they_were(small: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(LayoutError):
        train(dataclasses.replace(small, plan="no such plan"), tmp_path / "some/where/run")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.skipif(os.name == "nt", reason="links of another kind")
def test_a_link_in_place_of_the_lock_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="cannot write to the folder"):
        FolderLock(tmp_path)
    assert (tmp_path / "precious").read_text() == "precious"


# -- where the system's word is not enough -------------------------------------------------------------------


def signed(folder: Path, **changes: object) -> None:
    """A lock's file with another holder's name."""
    holder = {**dataclasses.asdict(Holder.here()), **changes}
    (folder / NAME).write_text(json.dumps(holder))


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_lock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_process_of_this_machine_is_looked_for(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(ConfigError, match=rf"by process {os.getpid()} on this machine, since .*, or choose another"):
        FolderLock(tmp_path)
    first.release()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=300)
    for gone in ({"pid": ended.pid}, {"birth": "1"}):  # a number that has come again is another process
        signed(tmp_path, **gone)
        FolderLock(tmp_path).release()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_process_of_another_machine_is_believed(tmp_path: Path) -> None:
    signed(tmp_path, host="elsewhere")
    with pytest.raises(ConfigError, match=rf"on the machine elsewhere, .*; if that has ended, remove .*{NAME}$"):
        FolderLock(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": 1}', "[" * 100_000, '{"pid": Infinity}'])
@pytest.mark.usefixtures("no_locks")
def test_what_is_no_holders_name_is_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    FolderLock(tmp_path).release()


def test_who_has_been_taken_over_writes_nothing_more(small: TrainConfig, tmp_path: Path) -> None:
    class Intruding(Report):
        def stepped(self, record: dict[str, float]) -> None:
            if record["step"] == 3:
                signed(tmp_path / "run", host="elsewhere", pid=7)

    with pytest.raises(ConfigError, match=r"has been taken over by process 7 on the machine elsewhere, .* ends"):
        train(small, tmp_path / "run", report=Intruding())
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [2]
    assert (tmp_path / "run" / NAME).is_file()


def test_who_finds_its_lock_tidied_away_takes_it_again(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / NAME).unlink()
    lock.require()
    with pytest.raises(ConfigError, match="is being trained into by process"):
        FolderLock(tmp_path)
    lock.release()
    assert socket.gethostname()
    assert list(tmp_path.iterdir()) == []


# -- what is missing at the end ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_killed_before_its_curve_is_drawn_is_finished(small: TrainConfig, tmp_path: Path) -> None:
    first = train(small, tmp_path / "run")
    before = first.checkpoint.read_bytes()
    (tmp_path / "run/loss.png").unlink()
    taken_and_left(tmp_path / "run")

    class Told(Report):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.notes.append(text)

    again = train(small, tmp_path / "run", resume=True, report=Told())
    assert (again.step, again.loss, again.val_loss) == (4, first.loss, first.val_loss)
    assert Told.notes == [f"{tmp_path / 'run'} is at step 4 of 4 already; ask for more --steps"]
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")
    assert first.checkpoint.read_bytes() == before


def test_fewer_steps_than_are_done_are_refused(small: TrainConfig, tmp_path: Path) -> None:
    train(small, tmp_path / "run")
    fewer = dataclasses.replace(small, steps=3, schedule_steps=4)
    with pytest.raises(ConfigError, match="run is at step 4 already; ask for more --steps than 3"):
        train(fewer, tmp_path / "run", resume=True)


# -- metrics -------------------------------------------------------------------------------------------------

GOOD = '{"step": 1, "loss": 3.0}\n'


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 2}',
        '{"step": Infinity, "loss": 1.0}',
        '{"step": 2, "loss": NaN}',
        '{"step": 2, "loss": 1e999}',
        '{"step": 2, "loss": 1' + "0" * 400 + "}",
        '{"step": 2, "loss": 1' + "0" * 5000 + "}",
        '{"step": 2.0, "loss": 1.0}',
        '{"step": true, "loss": 1.0}',
        '{"step": -1, "loss": 1.0}',
        '{"step": 1, "loss": 1.0}',
        '{"step": 2, "loss": "low"}',
        '{"step": 2, "loss": 1.0, "note": "a word"}',
        "[" * 100_000,
        '[2, "loss"]',
        "",
        "\x00\xff",
        '{"step": 2, "loss": 1.0, "note": "' + "x" * 100_000,
    ],
)
def test_a_line_that_is_no_record_is_left_out_and_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes((GOOD + line + "\n" + '{"step": 3, "loss": 2.0}\n').encode("latin-1"))
    wanted = [{"step": 1, "loss": 3.0}, {"step": 3, "loss": 2.0}]
    assert read_metrics(path) == wanted
    file = MetricsFile(path, step=5)
    file.close()
    assert file.broken[0] in (2, 3)
    assert read_metrics(path) == wanted


@pytest.mark.slow
def test_a_damaged_run_goes_on(small: TrainConfig, tmp_path: Path) -> None:
    train(small, tmp_path / "run")
    path = tmp_path / "run/metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(['{"step": 1}', lines[1], '{"step": Infinity}', lines[3], '{"step": 5, "lo']))
    notes = []

    class Told(Report):
        def note(self, text: str) -> None:
            notes.append(text)

    train(dataclasses.replace(small, steps=6, schedule_steps=4), tmp_path / "run", resume=True, report=Told())
    assert notes == [f"{path}: no records of steps, and left out: line 1, 3"]
    assert [record["step"] for record in read_metrics(path)] == [2, 4, 5, 6]


def test_a_line_that_a_nearly_full_disk_takes_in_parts_is_written_whole(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", step=0)
    usual = file._file.write

    class Slow:
        def write(self, data: bytes) -> int:
            return usual(data[:5])

        def close(self) -> None:
            usual.__self__.close()  # type: ignore[attr-defined]

    file._file = Slow()  # type: ignore[assignment]
    file.append({"step": 1, "loss": 2.0})
    file.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
