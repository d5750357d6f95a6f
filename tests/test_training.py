"""The training loop: it learns, goes on bit for bit, and stops where numbers are none."""

import dataclasses
import json
import re

import numpy as np
import pytest

from graphir.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from graphir.training import TrainConfig, load_checkpoint, train
from graphir.training.checkpoint import list_checkpoints
from graphir.training.metrics import MetricsFile, read_metrics

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


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat, and the rat sat on the cat. " * 40)
    return dataclasses.replace(SMALL, text=(str(path),))


def told(folder):
    """The metrics without what depends on the clock."""
    return [{k: v for k, v in record.items() if k != "tokens_per_second"} for record in read_metrics(folder)]


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "sgd"}, {"clip": 0.0}, {"positions": "sinusoidal", "tied": False}]
)
def test_two_halves_are_one_whole_bit_for_bit(small, tmp_path, changes):
    whole = dataclasses.replace(small, schedule_steps=8, **changes)
    first = train(whole, tmp_path / "whole")
    train(dataclasses.replace(whole, steps=4), tmp_path / "halves")
    second = train(whole, tmp_path / "halves", resume=True)
    assert first.loss == second.loss
    one, two = load_checkpoint(first.checkpoint), load_checkpoint(second.checkpoint)
    assert one.step == two.step == 8
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == two.arrays[name].tobytes(), name
    assert told(tmp_path / "whole/metrics.jsonl") == told(tmp_path / "halves/metrics.jsonl")


def test_what_a_lost_run_did_after_its_checkpoint_is_done_again_once(small, tmp_path):
    folder = tmp_path / "run"
    train(small, folder)
    expected = told(folder / "metrics.jsonl")
    list_checkpoints(folder)[-1][1].unlink()  # what was saved at step 8 is lost; steps 5 to 8 are in the metrics
    (folder / ".step-000008.safetensors.abc.partial").write_bytes(b"half")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    train(small, folder, resume=True)
    assert told(folder / "metrics.jsonl") == expected
    assert not list(folder.glob(".*"))


def test_the_metrics_have_a_line_for_every_step(small, tmp_path):
    train(small, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 9))
    assert [record["step"] for record in records if "val_loss" in record] == [2, 4, 6, 8]
    for record in records:
        assert record["lr"] > 0
        assert record["norm"] > 0
        assert record["tokens_per_second"] > 0
        # A model that knows nothing yet gives each of V = 256 tokens the same probability.
        assert 0.5 * np.log(256) < record["loss"] < 1.2 * np.log(256)


def test_it_learns(small, tmp_path):
    config = dataclasses.replace(small, steps=150, dropout=0.0, learning_rate=1e-2, validate_every=0)
    outcome = train(config, tmp_path / "run")
    assert outcome.val_loss < 1.5
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")


def test_validation_leaves_the_run_as_it_is(small, tmp_path):
    once = train(dataclasses.replace(small, validate_every=1), tmp_path / "often")
    never = train(dataclasses.replace(small, validate_every=0), tmp_path / "seldom")
    assert once.loss == never.loss


def test_the_run_depends_on_its_seed(small, tmp_path):
    losses = {train(dataclasses.replace(small, seed=seed), tmp_path / str(seed)).loss for seed in (1, 2)}
    assert len(losses) == 2


def test_old_checkpoints_go(small, tmp_path):
    train(dataclasses.replace(small, checkpoint_every=1, keep=3), tmp_path / "few")
    assert [step for step, _ in list_checkpoints(tmp_path / "few")] == [6, 7, 8]
    train(dataclasses.replace(small, checkpoint_every=2, keep=0), tmp_path / "all")
    assert [step for step, _ in list_checkpoints(tmp_path / "all")] == [2, 4, 6, 8]


# -- what stops a run -----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_node_and_saves_nothing_of_it(small, tmp_path):
    config = dataclasses.replace(small, learning_rate=1e30, warmup=0, schedule="constant", clip=0.0, weight_decay=0.0)
    message = (
        r"step \d+ gives loss \S+, gradient norm \S+, and was not saved: \S+ float32\[B.*\] is the first value to hold "
        r"(NaN|infinity): \w+\(.*\), written at graphir/models/transformer.py:\d+; lower --learning-rate \(now 1e\+30\)"
    )
    with pytest.raises(NonFiniteError, match=message):
        train(config, tmp_path / "run")
    for record in read_metrics(tmp_path / "run/metrics.jsonl"):
        assert np.isfinite([record["loss"], record["norm"]]).all()
    for _, path in list_checkpoints(tmp_path / "run"):
        for array in load_checkpoint(path).arrays.values():
            assert np.isfinite(array).all()


def test_a_run_that_failed_before_its_first_checkpoint_may_be_started_again(small, tmp_path):
    with pytest.raises(NonFiniteError):
        train(dataclasses.replace(small, learning_rate=1e30, warmup=0, clip=0.0), tmp_path / "run")
    assert not list_checkpoints(tmp_path / "run")
    train(small, tmp_path / "run")
    assert len(read_metrics(tmp_path / "run/metrics.jsonl")) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "--layers must be at least 1, not 0"),
        ({"batch": 2.0}, "--batch must be int, not 2.0"),
        ({"dropout": 1.0}, "--dropout must be less than 1, not 1.0"),
        ({"learning_rate": 0.0}, "--learning-rate must be greater than 0, not 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be a finite number, not nan"),
        ({"activation": "tanh"}, "--activation 'tanh' is none of gelu, gelu_tanh, relu, silu"),
        ({"seed": -1}, "--seed must be at least 0, not -1"),
        ({"warmup": 8}, "--warmup 8 leaves a cosine schedule of 8 steps nothing to fall in; choose fewer than 8"),
        ({"width": 100, "heads": 6}, "D_h = D/N_H is not whole: D=100, N_H=6 gives 50/3; .*--width 100 is D"),
        ({"validation": 0.0}, "--validation must be greater than 0, not 0.0"),
        ({"text": "text.txt"}, "text must be a tuple of paths, not 'text.txt'"),
    ],
)
def test_options_that_cannot_be(small, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(dataclasses.replace(small, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(small, tmp_path):
    train(small, tmp_path / "run")
    with pytest.raises(ConfigError, match="run holds a run already; go on with it by --resume"):
        train(small, tmp_path / "run")


def test_a_run_that_is_done_says_so(small, tmp_path):
    train(small, tmp_path / "run")
    with pytest.raises(ConfigError, match="run is at step 8 of 8 already; ask for more --steps"):
        train(small, tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_configuration_names_every_difference(small, tmp_path):
    train(small, tmp_path / "run")
    other = dataclasses.replace(small, steps=12, schedule_steps=8, width=32, dropout=0.1, validate_every=1)
    message = re.escape("is of another configuration: --width 32, not 16; ")
    with pytest.raises(CheckpointError, match=message) as raised:
        train(other, tmp_path / "run", resume=True)
    assert "--dropout 0.1, not 0.2" in str(raised.value)
    assert "--validate-every" not in str(raised.value)  # which may differ


def test_another_text_is_noticed(small, tmp_path):
    train(small, tmp_path / "run")
    other = tmp_path / "other.txt"
    other.write_text("quite another text " * 100)
    with pytest.raises(CheckpointError, match=r"was trained on another text: its fingerprint is \w{12}, that of"):
        train(dataclasses.replace(small, steps=12, schedule_steps=8, text=(str(other),)), tmp_path / "run", resume=True)


def test_nothing_to_resume(small, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        train(small, tmp_path / "nowhere", resume=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no checkpoint"):
        train(small, tmp_path / "empty", resume=True)


def test_a_folder_that_cannot_be(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to the folder .*file/run: Not a directory; choose another"):
        train(small, tmp_path / "file/run")


def test_a_bad_text_leaves_no_folder(small, tmp_path):
    with pytest.raises(DataError, match="S=4000 needs at least 4001"):
        train(dataclasses.replace(small, sequence=4000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- metrics --------------------------------------------------------------------------------------------


def test_a_metrics_file_goes_on_after_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    file = MetricsFile(path, step=1)
    file.append({"step": 2, "loss": 2.5})
    file.sync()
    file.close()
    assert read_metrics(path) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}]
