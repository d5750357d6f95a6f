"""The training loop: it learns, goes on bit for bit, and stops where numbers are none."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from graphir import compile
from graphir.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from graphir.models import transformer
from graphir.training import Report, load_checkpoint, train
from graphir.training.checkpoint import list_checkpoints
from graphir.training.data import load_corpus, validation_batches
from graphir.training.metrics import MetricsFile, read_metrics
from tests.support.sampled import sampled
from tests.support.small_run import SMALL


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "text.txt"
    path.write_text("the cat sat on the mat, and the rat sat on the cat. " * 40)
    return dataclasses.replace(SMALL, text=(str(path),))


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(small, folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """The folder of a run that has ended, to do with as one likes."""
    return shutil.copytree(trained, tmp_path / "run")


def told(folder):
    """The metrics without what depends on the clock."""
    return [{k: v for k, v in record.items() if k != "tokens_per_second"} for record in read_metrics(folder)]


@pytest.mark.slow
@sampled(2, changes=[{}, {"optimizer": "sgd"}, {"clip": 0.0}, {"positions": "sinusoidal", "tied": False}])
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


def test_what_a_lost_run_did_after_its_checkpoint_is_done_again_once(small, run):
    expected = told(run / "metrics.jsonl")
    list_checkpoints(run)[-1][1].unlink()  # what was saved at step 8 is lost; steps 5 to 8 are in the metrics
    (run / ".step-000008.safetensors.abc.partial").write_bytes(b"half")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    train(small, run, resume=True)
    assert told(run / "metrics.jsonl") == expected
    assert not list(run.glob(".*"))


def test_the_metrics_have_a_line_for_every_step(trained):
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
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


@pytest.mark.slow
def test_validation_leaves_the_run_as_it_is(small, trained, tmp_path):
    never = train(dataclasses.replace(small, validate_every=0), tmp_path / "seldom")
    assert never.loss == told(trained / "metrics.jsonl")[-1]["loss"]


@pytest.mark.slow
def test_the_validation_loss_is_the_mean_over_tokens_without_dropout(small, tmp_path):
    # 26 windows in batches of 5: the last batch has one only, of letters never seen, and weighs less than the others.
    text = tmp_path / "odd.txt"
    usual = "the cat sat on the mat, and the rat sat on the cat. " * 40
    text.write_text(usual[:-16] + "Q" * 16)
    config = dataclasses.replace(small, text=(str(text),), batch=5, dropout=0.5, validate_batches=0)
    outcome = train(config, tmp_path / "run")
    saved = load_checkpoint(outcome.checkpoint)
    corpus = load_corpus(config)

    def losses(dropout):
        """For each batch the sum of its valid tokens' losses, and their number."""
        graph = transformer(**config.model_options(dropout=dropout), decode=None)
        model = compile(graph, {**saved.sizes}, fetch=["output/L_tok"])
        parameters = {value.name: saved.arrays[value.name] for value in graph.parameters}
        for T, Y in validation_batches(corpus.validation, config.batch, config.sequence, 0):
            result = model(parameters, {"T": T, "Y": Y, "seed": 0, "step": 0})
            yield float(result["output/L_tok"][Y >= 0].sum(dtype=np.float64)), int((Y >= 0).sum())

    def mean(pairs):
        return sum(total for total, _ in pairs) / sum(count for _, count in pairs)

    plain, dropped = list(losses(0.0)), list(losses(0.5))
    assert outcome.val_loss == pytest.approx(mean(plain), rel=1e-6)
    # Both other ways to do it would be seen.
    equally = np.mean([total / count for total, count in plain])
    for other in (mean(dropped), equally):
        assert abs(other / mean(plain) - 1) > 1e-4


def test_the_second_moment_forgets_within_a_hundred_steps(small, tmp_path):
    """β₁ = 0.9 and β₂ = 0.99: after one step from zero, m = 0.1 g and v = 0.01 g², so v = m²."""
    outcome = train(dataclasses.replace(small, steps=1, schedule="constant", warmup=0), tmp_path / "run")
    arrays = load_checkpoint(outcome.checkpoint).arrays
    moments = [name.removesuffix(".m") for name in arrays if name.endswith(".m")]
    assert "layer0/mlp/W_up" in moments
    for name in moments:
        m, v = (arrays[f"{name}.{moment}"].astype(np.float64) for moment in "mv")
        np.testing.assert_allclose(v, m**2, rtol=1e-4, atol=1e-30, err_msg=name)
    assert np.abs(arrays["layer0/mlp/W_up.m"]).max() > 0


def test_the_run_depends_on_its_seed(small, trained, tmp_path):
    other = train(dataclasses.replace(small, seed=small.seed + 1), tmp_path / "other")
    assert other.loss != told(trained / "metrics.jsonl")[-1]["loss"]


@pytest.mark.slow
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
        r"(NaN|infinity): \w+\(.*\), written at graphir/models/parts/\w+\.py:\d+; lower --learning-rate \(now 1e\+30\)"
    )
    with pytest.raises(NonFiniteError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_after_a_checkpoint_keeps_its_metrics(small, tmp_path):
    train(dataclasses.replace(small, steps=4, schedule_steps=8), tmp_path / "run")
    wild = dataclasses.replace(small, dropout=0.2, schedule_steps=8)

    class Spoiling(Report):
        def stepped(self, record):
            if record["step"] == 6:
                raise NonFiniteError("spoilt")

    with pytest.raises(NonFiniteError, match=r"^spoilt$"):
        train(wild, tmp_path / "run", resume=True, report=Spoiling())
    assert [record["step"] for record in read_metrics(tmp_path / "run/metrics.jsonl")] == list(range(1, 7))
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [4]


def test_a_failed_run_leaves_the_users_own_files(small, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(NonFiniteError):
        train(dataclasses.replace(small, learning_rate=1e30, warmup=0, clip=0.0), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_run_that_failed_before_its_first_checkpoint_may_be_started_again(small, tmp_path):
    with pytest.raises(NonFiniteError):
        train(dataclasses.replace(small, learning_rate=1e30, warmup=0, clip=0.0), tmp_path / "run")
    train(small, tmp_path / "run")
    assert len(read_metrics(tmp_path / "run/metrics.jsonl")) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "--layers must be at least 1, not 0"),
        ({"batch": 2.0}, "--batch must be int, not 2.0"),
        ({"dropout": 1.0}, "--dropout must be at most 0.99, not 1.0"),
        ({"learning_rate": 0.0}, "--learning-rate must be greater than 0, not 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be a finite number, not nan"),
        ({"activation": "tanh"}, "--activation 'tanh' is none of gelu, gelu_tanh, relu, silu"),
        ({"seed": -1}, "--seed must be at least 0, not -1"),
        ({"warmup": 8}, "--warmup 8 leaves a cosine schedule of 8 steps nothing to fall in; choose fewer than 8"),
        ({"width": 100, "heads": 6}, "D_h = D/N_H is not whole: D=100, N_H=6 gives 50/3; .*--width 100 is D"),
        ({"validation": 0.0}, "--validation must be greater than 0, not 0.0"),
        ({"text": "text.txt"}, "text must be a tuple of texts, not 'text.txt'"),
    ],
)
def test_options_that_cannot_be(small, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(dataclasses.replace(small, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(small, run):
    with pytest.raises(ConfigError, match="run holds a run already; go on with it by --resume"):
        train(small, run)


def test_a_checkpoint_of_another_configuration_names_every_difference(small, run):
    other = dataclasses.replace(small, steps=12, schedule_steps=8, width=32, dropout=0.1, validate_every=1)
    message = "is of another configuration: .*--width 32, not 16; "
    with pytest.raises(CheckpointError, match=message) as raised:
        train(other, run, resume=True)
    assert "--dropout 0.1, not 0.2" in str(raised.value)
    assert "--validate-every" not in str(raised.value)  # which may differ


def test_another_text_is_noticed(small, run, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("quite another text " * 100)
    with pytest.raises(CheckpointError, match=r"was trained on another text: its fingerprint is \w{12}, that of"):
        train(dataclasses.replace(small, steps=12, schedule_steps=8, text=(str(other),)), run, resume=True)


def test_nothing_to_resume(small, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        train(small, tmp_path / "nowhere", resume=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no checkpoint"):
        train(small, tmp_path / "empty", resume=True)


def test_a_folder_that_cannot_be(small, tmp_path):
    (tmp_path / "file").write_text("")

    class Silent(Report):
        def begin(self, *arguments):
            pytest.fail("told of a run that cannot be")

    with pytest.raises(ConfigError, match=r"cannot write to the folder .*file/run: Not a directory; choose another"):
        train(small, tmp_path / "file/run", report=Silent())


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
