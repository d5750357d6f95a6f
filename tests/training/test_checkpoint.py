"""Checkpoints and files: whole or not at all, and nothing foreign is taken for one's own."""

import json
import os
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from graphir.errors import CheckpointError, ConfigError
from graphir.files import make_folder, remove_leftovers, write_atomically
from graphir.training import TrainConfig, find_checkpoint, load_checkpoint
from graphir.training.checkpoint import Checkpoint, checkpoint_path, checksum, remove_old, save_checkpoint

ARRAYS = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "W.m": np.zeros((), np.float64)}
#: D=2, and D_ff and V are 3, as the arrays have it.
CONFIG = TrainConfig(text=("some.txt",), layers=1, width=2, heads=1, feed_forward=3, steps=10**6).resolved()


def make(path, step=3, arrays=ARRAYS):
    checkpoint = Checkpoint(step, CONFIG, CONFIG.sizes(3), "0" * 64, "bytes", path, arrays)
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
    assert (loaded.data, loaded.tokenizer) == ("0" * 64, "bytes")


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


def forged(path, arrays=ARRAYS, without=(), **changes):
    """A checkpoint that says otherwise than it was written, with the checksum that belongs to what it says."""
    make(path)
    said = {name: value for name, value in {**about(path), **changes}.items() if name not in without}
    covered = {name: value for name, value in said.items() if name != "checksum"}
    said["checksum"] = checksum(arrays, covered if said.get("format") == 2 else None)
    save_file(arrays, path, metadata={"graphir": json.dumps(said)})
    return path


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
    with pytest.raises(CheckpointError, match="is corrupt: it does not have the checksum"):
        load_checkpoint(path)


def test_a_flipped_bit_in_what_is_said(tmp_path):
    path = make(tmp_path / "one.safetensors").path
    content = path.read_bytes()
    assert content.count(b'\\"learning_rate\\": 0.003') == 1
    path.write_bytes(content.replace(b'\\"learning_rate\\": 0.003', b'\\"learning_rate\\": 0.001'))
    with pytest.raises(CheckpointError, match="is corrupt: it does not have the checksum"):
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


def config(**changes):
    return {"config": {**CONFIG.as_dict(), **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "holds no configuration"),
        (config(layers="many"), "impossible configuration: --layers must be int, not 'many'"),
        (config(layers=True), "impossible configuration: --layers must be int, not True"),
        (config(dropout=7.0), "impossible configuration: --dropout must be at most 0.99, not 7.0"),
        (config(learning_rate=10**400), "--learning-rate must be a finite number, not a number of more than 30 digits"),
        (config(learning_rate=float("inf")), r"metadata cannot be read \(Infinity is no number of JSON\)"),
        (config(batch=2**53), "impossible configuration: --batch must be less than 9007199254740992"),
        (config(layers=10**9), "speaks of 1000000000 layers, but holds 2 tensors"),
        (config(width=4), "is corrupt: its sizes are not those of its configuration"),
        ({**config(width=4), "sizes": {**CONFIG.sizes(3), "D": 4}}, "says D=4, but none of its tensors has a dim of"),
        ({"sizes": 7}, "is corrupt: its vocabulary V is no whole number from 1"),
        ({"sizes": {**CONFIG.sizes(3), "V": -3}}, "is corrupt: its vocabulary V is no whole number from 1"),
        ({"sizes": CONFIG.sizes(10**12)}, "says V=1000000000000, but none of its tensors has a dim of that size"),
        ({"step": None}, "is corrupt: its step is none of the 1000000 of its configuration"),
        ({"step": -1}, "is corrupt: its step is none of the"),
        ({"step": 3.0}, "is corrupt: its step is none of the"),
        ({"step": float("inf")}, "metadata cannot be read"),
        ({"data": "../../etc"}, "is corrupt: its data is no fingerprint"),
        ({"tokenizer": "0" * 64}, "is corrupt: its tokenizer is not that of its options"),
        ({"version": ["0.1.0"]}, "is corrupt: its version is no short text"),
        ({"more": 1}, "is corrupt: its metadata is not about format, version, step"),
    ],
)
def test_what_cannot_be_said(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(forged(tmp_path / "one.safetensors", **changes))


def test_metadata_that_is_no_object(tmp_path):
    path = tmp_path / "one.safetensors"
    texts = {"[": "cannot be read", "[]": "is no object", "null": "is no object", "[" * 100_000: "nested too deeply"}
    for text, message in texts.items():
        save_file(ARRAYS, path, metadata={"graphir": text})
        with pytest.raises(CheckpointError, match=f"is corrupt: its metadata.*{message}"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("dtype", "shape", "count", "message"),
    [
        ("F8_E4M3", [4], 4, "x is of type F8_E4M3; checkpoints hold F16, BF16, F32"),
        ("BF16", [2], 4, "is corrupt: it does not have the checksum"),
        ("F8", [4], 4, "is no whole safetensors file"),
        ("F32", [10**18, 0], 0, r"x cannot be of shape \[1000000000000000000, 0\]"),
        ("F32", [1] * 70, 4, "is no whole safetensors file, truncated or corrupt: maximum supported dimension"),
        ("F32", [2**62, 4], 4, "is no whole safetensors file"),
    ],
)
def test_a_tensor_that_cannot_be(tmp_path, dtype, shape, count, message):
    path = make(tmp_path / "one.safetensors").path
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = len(content) - 8 - length
    header["x"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + count]}
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + length :] + bytes(count))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_more_than_the_memory_holds_is_not_read(tmp_path, monkeypatch):
    path = make(tmp_path / "one.safetensors").path
    monkeypatch.setattr("graphir.training.checkpoint.free_memory", lambda: 20)
    with pytest.raises(CheckpointError, match=r"holds 0\.0 MB of tensors; 0\.0 MB of memory are free"):
        load_checkpoint(path)


# -- versions -------------------------------------------------------------------------------------------


def test_a_checkpoint_whose_checksum_leaves_the_metadata_out_is_read(tmp_path):
    """Format 1, of whose options some are younger than it."""
    older = {name: value for name, value in CONFIG.as_dict().items() if name not in ("results", "vocabulary_multiple")}
    loaded = load_checkpoint(forged(tmp_path / "one.safetensors", format=1, config=older))
    assert loaded.config == CONFIG
    assert loaded.arrays.keys() == ARRAYS.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 99, "version": "7.0"},
            r"has format 99, by graphir 7\.0; .* reads up to 3: use the one that",
        ),
        (
            {"format": 0},
            "has format 0, by graphir .* reads 1 to 3: go on with it in the graphir that",
        ),
        ({"format": "two"}, "is corrupt: its format is no number"),
        (config(wings=2), r"by graphir .*, has options that this graphir does not know: --wings; use the graphir that"),
    ],
)
def test_what_another_version_has_written_says_what_to_do(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(forged(tmp_path / "one.safetensors", **changes))


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist; give a checkpoint or the --out folder of a run"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*gone: No such file"):
        load_checkpoint(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="is no file; give a checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
def test_a_pipe_of_a_checkpoints_name_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "step-000009.safetensors")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is no file"):
        load_checkpoint(tmp_path / "step-000009.safetensors")


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
