"""Text, its split, and batches as functions of (seed, step)."""

import os

import numpy as np
import pytest

from graphir.errors import DataError
from graphir.training import TrainConfig
from graphir.training.data import draw_batch, load_corpus, read_text, validation_batches

IDS = np.arange(1000, dtype=np.int64)


def test_a_batch_follows_from_seed_and_step_alone():
    T, Y = draw_batch(IDS, 4, 16, seed=3, step=7)
    draw_batch(IDS, 4, 16, seed=3, step=8)
    again = draw_batch(IDS, 4, 16, seed=3, step=7)
    np.testing.assert_array_equal((T, Y), again)
    assert T.shape == Y.shape == (4, 16)


@pytest.mark.parametrize(("seed", "step"), [(3, 8), (4, 7), (7, 3)])
def test_other_seeds_and_steps_draw_other_batches(seed, step):
    assert not np.array_equal(draw_batch(IDS, 4, 16, seed=3, step=7)[0], draw_batch(IDS, 4, 16, seed, step)[0])


def test_targets_are_the_tokens_that_follow():
    T, Y = draw_batch(IDS, 4, 16, seed=0, step=0)
    np.testing.assert_array_equal(Y, T + 1)


def test_every_window_can_be_drawn_the_first_and_the_last_included():
    starts = {int(start) for step in range(60) for start in draw_batch(IDS[:12], 4, 8, 0, step)[0][:, 0]}
    assert starts == {0, 1, 2, 3}


def test_the_split_keeps_the_end_for_validation(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a" * 800 + "b" * 200)
    corpus = load_corpus(TrainConfig(text=(str(path),), validation=0.2, sequence=16))
    assert set(corpus.train) == {ord("a")}
    assert set(corpus.validation) == {ord("b")}
    assert (len(corpus.train), len(corpus.validation)) == (800, 200)


def test_the_fingerprint_tells_texts_and_splits_apart(tmp_path):
    path, prints = tmp_path / "text.txt", []
    for text, share in (("abc" * 100, 0.5), ("abd" * 100, 0.5), ("abc" * 100, 0.4), ("abc" * 100, 0.5)):
        path.write_text(text)
        prints.append(load_corpus(TrainConfig(text=(str(path),), validation=share, sequence=16)).fingerprint)
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_validation_covers_every_target_once():
    ids = np.arange(1, 101, dtype=np.int64)
    batches = list(validation_batches(ids, batch=3, sequence=8, count=0))
    labels = np.concatenate([Y.reshape(-1) for _, Y in batches])
    assert sorted(labels[labels >= 0]) == list(range(2, 101))
    for T, Y in batches:
        assert T.shape == Y.shape == (3, 8)
        np.testing.assert_array_equal(T[Y >= 0] + 1, Y[Y >= 0])


def test_validation_batches_are_spread_evenly():
    firsts = [int(T[0, 0]) for T, _ in validation_batches(np.arange(801, dtype=np.int64), 1, 8, count=4)]
    assert firsts == [0, 200, 400, 600]


def test_a_name_that_no_file_can_have():
    with pytest.raises(DataError, match=r"cannot read the text .*: no file can be called so"):
        read_text(("a\0b",))


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
def test_a_text_without_end():
    """A checkpoint from elsewhere may name one."""
    with pytest.raises(DataError, match="/dev/zero is a device, which may have no end; give a file"):
        read_text(("/dev/zero",))


def test_the_default_text_is_pythons_reference_prose():
    assert "Assert statements are a convenient way to insert debugging assertions" in read_text(())
    assert len(read_text(())) > 300_000


def test_files_follow_each_other(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert read_text((str(tmp_path / "a"), str(tmp_path / "b"))) == "a\n\nb"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the text .*text.txt: No such file"),
        (b"", "the text .*text.txt is empty"),
        (b" \n\t\n", "the text .*text.txt is empty"),
        (b"ab\xffcd", "the text .*text.txt is not UTF-8: byte 2 is 0xff"),
        (b"x" * 100, "the training part of the text has 90 of its 100 tokens, but S=128 needs at least 129; give more"),
        (b"x" * 1000, "the validation part of the text has 100 of its 1000 tokens, but S=128 needs at least 129"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_corpus(TrainConfig(text=(str(path),), sequence=128))


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the text .*: Is a directory"):
        read_text((str(tmp_path),))
