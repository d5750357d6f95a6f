"""Checkpoints and files: whole or not at all, and nothing foreign is taken for one's own."""

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from graphir.errors import CheckpointError, ConfigError
from graphir.training import TrainConfig, find_checkpoint, load_checkpoint
from graphir.training.checkpoint import Checkpoint, checkpoint_path, remove_old, save_checkpoint
from graphir.training.files import make_folder, remove_leftovers, write_atomically

ARRAYS = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "W.m": np.zeros((), np.float64)}


def make(path, step=3, arrays=ARRAYS):
    config = TrainConfig(text=("some.txt",), layers=1).resolved()
    checkpoint = Checkpoint(path, config, {"S": 128, "V": 256}, step, "fingerprint", "bytes", arrays)
    save_checkpoint(checkpoint)
    return checkpoint


def test_what_is_saved_comes_back(tmp_path):
    saved = make(tmp_path / "one.safetensors")
    loaded = load_checkpoint(saved.path)
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        assert loaded.arrays[name].tobytes() == array.tobytes()
    assert (loaded.config, loaded.sizes, loaded.step) == (saved.config, saved.sizes, 3)
    assert (loaded.data, loaded.tokenizer) == ("fingerprint", "bytes")


def test_a_transposed_array_comes_back_as_it_was(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(
        load_checkpoint(make(tmp_path / "t.safetensors", arrays={"W": array}).path).arrays["W"], array
    )


def test_the_latest_is_found_by_its_number(tmp_path):
    for step in (9, 10, 1_000_000):
        make(checkpoint_path(tmp_path, step), step)
    (tmp_path / "step-best.safetensors").write_bytes(b"")
    assert find_checkpoint(tmp_path).name == "step-1000000.safetensors"
    remove_old(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000.safetensors", "step-best.safetensors"]


# -- what is no checkpoint ------------------------------------------------------------------------------


def about(path):
    """A checkpoint's metadata, to be tampered with."""
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    return json.loads(header["__metadata__"]["graphir"])


def tampered(path, **changes):
    make(path)
    metadata = {**about(path), **changes}
    save_file(ARRAYS, path, metadata={"graphir": json.dumps(metadata)})


def test_a_truncated_file(tmp_path):
    path = make(tmp_path / "one.safetensors").path
    content = path.read_bytes()
    for length in (0, 4, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"one\.safetensors is no whole safetensors file, truncated"):
            load_checkpoint(path)


def test_a_flipped_bit(tmp_path):
    path = make(tmp_path / "one.safetensors").path
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is corrupt: its tensors do not have the checksum"):
        load_checkpoint(path)


def test_another_programs_file(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file(ARRAYS, path)
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors is a safetensors file, but no checkpoint"):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the file was unpickled",)


def test_a_pickle_is_not_read(tmp_path):
    path = tmp_path / "bomb.pt"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="is no whole safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "has format 99; this version of graphir reads 1"),
        ({"config": {"layers": 2}}, "holds no configuration of this version of graphir"),
        ({"config": {**TrainConfig().as_dict(), "layers": "many"}}, "impossible configuration: --layers must be int"),
        ({"config": {**TrainConfig().as_dict(), "dropout": 7.0}}, "impossible configuration: --dropout must be less"),
        ({"sizes": 7}, "is corrupt: its metadata cannot be read"),
        ({"step": None}, "is corrupt: its metadata cannot be read"),
    ],
)
def test_metadata_that_cannot_be(tmp_path, changes, message):
    path = tmp_path / "one.safetensors"
    tampered(path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_metadata_that_is_no_object(tmp_path):
    path = tmp_path / "one.safetensors"
    for text in ("[", "[]", "null"):
        save_file(ARRAYS, path, metadata={"graphir": text})
        with pytest.raises(CheckpointError, match="is corrupt: its metadata cannot be read"):
            load_checkpoint(path)


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist; give a checkpoint or the --out folder of a run"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*gone: No such file"):
        load_checkpoint(tmp_path / "gone")


# -- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the n")
        raise failure

    with pytest.raises(failure):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*one\.safetensors: No space left on device"):
        make(tmp_path / "one.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_new_file_has_ordinary_permissions(tmp_path):
    path, ordinary = tmp_path / "file", tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_leftovers_go_and_all_else_stays(tmp_path):
    for name in (".step-000001.safetensors.x7.partial", ".hidden", "file.partial"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "file.partial"]


def test_a_folder_under_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot write to the folder .*file/run: Not a directory; choose another"):
        make_folder(tmp_path / "file/run")
