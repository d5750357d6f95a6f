"""Folders: written again they are the same; what is missing, foreign or not understood is one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graphir.errors import ConfigError, DataError, ModelFileError
from graphir.hub import open_model, write_folder
from graphir.hub.config import read_config, write_config
from graphir.hub.shards import map_folder, write_shards
from graphir.passes import as_stored
from tests.support.hub import FAMILIES, FOLDERS, copied, opened, with_tokenizer

WEIGHTS = "model.safetensors"


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFileError) as error:
        open_model(folder)
    return str(error.value)


# -- there and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_written_again_is_the_same(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "again", opened(name))
    old, new = (load_file(folder / WEIGHTS) for folder in (FOLDERS / name, tmp_path / "again"))
    assert old.keys() == new.keys()
    for tensor in old:
        assert old[tensor].dtype == new[tensor].dtype
        assert old[tensor].tobytes() == new[tensor].tobytes()
    assert (tmp_path / "again/config.json").read_bytes() == (FOLDERS / name / "config.json").read_bytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_written_from_arrays_are_the_same_tensors(name: str, tmp_path: Path) -> None:
    model = opened(name)
    write_folder(tmp_path / "again", model, model.arrays("float64"))
    old, new = (load_file(folder / WEIGHTS) for folder in (FOLDERS / name, tmp_path / "again"))
    assert {tensor: array.tobytes() for tensor, array in old.items()} == {
        tensor: array.tobytes() for tensor, array in new.items()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_written_of_a_model_says_that_model(name: str) -> None:
    model = opened(name)
    assert read_config(write_config(model.format, model.blueprint, "float32"), "config.json") == (
        model.format,
        model.blueprint,
    )


def test_one_parameter_of_several_in_a_tensor_changes_alone(tmp_path: Path) -> None:
    model = opened("gpt2")
    W_K = model.weights["layer1/mha/W_K"] + 1
    write_folder(tmp_path / "again", model, {"layer1/mha/W_K": W_K})
    old, new = map_folder(FOLDERS / "gpt2"), map_folder(tmp_path / "again")
    (changed,) = (name for name in old if not np.array_equal(old[name], new[name]))
    D = len(W_K)
    assert changed == "transformer.h.1.attn.c_attn.weight"
    assert np.array_equal(new[changed][:, D : 2 * D], W_K)
    assert np.array_equal(np.delete(new[changed], range(D, 2 * D), 1), np.delete(old[changed], range(D, 2 * D), 1))


def test_a_tensor_that_is_there_twice_stays_the_same_as_the_other(tmp_path: Path) -> None:
    folder = copied("gpt2", tmp_path)
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"]}, folder / WEIGHTS)
    model = open_model(folder)
    write_folder(tmp_path / "again", model, {"embedding/E": 2 * model.weights["embedding/E"]})
    written = load_file(tmp_path / "again" / WEIGHTS)
    assert np.array_equal(written["lm_head.weight"], 2 * tensors["transformer.wte.weight"])


def test_names_without_the_familys_prefix_are_read(tmp_path: Path) -> None:
    folder = copied("gpt2", tmp_path)
    tensors = load_file(folder / WEIGHTS)
    # A buffer, as the first folders have it, and the head, which is the embedding.
    more = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32), "lm_head.weight": tensors["transformer.wte.weight"]}
    save_file({name.removeprefix("transformer."): each for name, each in tensors.items()} | more, folder / WEIGHTS)
    old, new = opened("gpt2").weights, open_model(folder).weights
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_weights_are_kept_in_16_bits_and_widened_when_read(tmp_path: Path) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    folder = copied("llama", tmp_path)
    tensors = {name: each.astype(bfloat16) for name, each in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    model = open_model(folder)
    assert model.weights["layer0/mha/W_Q"].dtype == bfloat16
    wide = model.arrays()["layer0/mha/W_Q"]
    assert wide.dtype == np.float32
    assert np.array_equal(wide.T, tensors["model.layers.0.self_attn.q_proj.weight"].astype(np.float32))
    write_folder(tmp_path / "again", model, model.arrays())
    written = map_folder(tmp_path / "again")
    assert {name: each.tobytes() for name, each in tensors.items()} == {
        name: each.tobytes() for name, each in written.items()
    }


def test_weights_held_as_they_are_stored_are_views_of_the_file(tmp_path: Path) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    folder = copied("phi3", tmp_path)  # one tensor holds W_Q, W_K and W_V, one below the other
    tensors = {name: each.astype(bfloat16) for name, each in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    model = open_model(folder)
    graph = as_stored(model.blueprint.graph(), model.lies())
    arrays = model.arrays_of(graph)
    D, D_h = (model.blueprint.sizes[name] for name in ("D", "D_h"))
    start = model.blueprint.sizes["N_H"] * D_h
    W_K = arrays["layer0/mha/W_K.stored"]
    assert W_K.dtype == bfloat16
    assert W_K.shape == (model.blueprint.sizes["N_KV"] * D_h, D)
    assert np.array_equal(W_K, tensors["model.layers.0.self_attn.qkv_proj.weight"][start:][: len(W_K)])
    assert arrays["output/gamma"].dtype == np.float32
    held = [name for name in arrays if name.endswith(".stored")]
    assert len(held) == sum(array.ndim == 2 for array in arrays.values())
    assert not any(arrays[name].flags.writeable for name in held)  # the file itself, mapped


# -- shards and slices ------------------------------------------------------------------------------------


def sharded(folder: Path, largest: int = 4000) -> Path:
    """The folder with its weights in several files."""
    tensors = {name: np.array(each) for name, each in map_folder(folder).items()}
    (folder / WEIGHTS).unlink()
    write_shards(folder, tensors, largest)
    return folder


def test_shards_are_read_as_one_file_is(tmp_path: Path) -> None:
    folder = sharded(copied("qwen3", tmp_path))
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert max(path.stat().st_size for path in folder.glob("*.safetensors")) < 8000
    old, new = opened("qwen3").weights, open_model(folder).weights
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_who_looks_at_a_part_reads_that_part(tmp_path: Path) -> None:
    rows = np.zeros((1 << 14, 1 << 12), np.float32)  # 256 MB, of which the file system keeps nothing
    header = json.dumps({"W": {"dtype": "F32", "shape": rows.shape, "data_offsets": [0, rows.nbytes]}}).encode()
    with (tmp_path / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + rows.nbytes)
    W = map_folder(tmp_path)["W"]
    before = resident()
    assert W[5000:5100].sum() == 0
    assert W.T[:, 12000:12100].sum() == 0
    assert resident() - before < 32 << 20


def resident() -> int:
    """Bytes of memory that this process holds."""
    path = Path("/proc/self/statm")
    if not path.exists():
        pytest.skip("the system does not say how much memory a process holds")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = sharded(copied("llama", tmp_path))
    next(folder.glob("model-00002*")).unlink()
    assert "lacks the shard model-00002-of-" in refusal(folder)


@pytest.mark.parametrize(
    "shard", ["../other/model.safetensors", "/etc/model.safetensors", "weights.bin", 7, "a\\b.safetensors"]
)
def test_a_shard_elsewhere_is_refused(shard: object, tmp_path: Path) -> None:
    folder = copied("llama", tmp_path)
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"W": shard}}))
    assert f"names the shard {shard!r}" in refusal(folder)


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"W": []}}', "{", '{"weight_map": 1}']
)
def test_an_index_that_is_none_is_refused(index: str, tmp_path: Path) -> None:
    folder = copied("llama", tmp_path)
    (folder / "model.safetensors.index.json").write_text(index)
    assert "is no index of shards" in refusal(folder)


def test_an_index_that_says_otherwise_than_its_shards_is_refused(tmp_path: Path) -> None:
    folder = copied("llama", tmp_path)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": WEIGHTS, "other": WEIGHTS}}))
    assert "lacks other, otherwise than" in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": WEIGHTS}}))
    assert "holds lm_head.weight, otherwise than" in refusal(folder)


# -- what is refused --------------------------------------------------------------------------------------


def test_a_folder_without_its_parts_is_refused(tmp_path: Path) -> None:
    folder = copied("llama", tmp_path)
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "as a pickle, which could run anything, and is not read" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "holds no weights" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)
    (tmp_path / "run").mkdir()
    copied("llama", tmp_path / "run")
    assert refusal(tmp_path / "run").endswith(f"run has no config.json; did you mean {tmp_path / 'run/llama'}?")
    assert "is neither a folder with a model nor a .gguf file" in refusal(folder / "model.bin")
    assert "gpt2 by its name alone has no weights" in refusal(Path("gpt2"))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = copied("llama", tmp_path) / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "is no whole safetensors file" in refusal(path.parent)


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    path = copied("llama", tmp_path) / WEIGHTS
    tensors = load_file(path)
    save_file({name: each for name, each in tensors.items() if name != "model.norm.weight"}, path)
    assert "lacks model.norm.weight" in refusal(path.parent)
    save_file({**tensors, "model.norm.weight": np.ones(13, np.float32)}, path)
    assert "model.norm.weight is [13], not [12]" in refusal(path.parent)
    save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": np.ones(48, np.float32)}, path)
    assert "holds model.layers.0.self_attn.q_proj.bias, which a model of its config.json does not have" in refusal(
        path.parent
    )
    save_file({**tensors, "model.norm.weight": np.ones(12, np.complex64)}, path)
    assert "is of type C64, which is not read" in refusal(path.parent)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", {"model_type": "lama"}, "model_type 'lama' is not known; llama is"),
        ("llama", {"model_type": None}, "lacks model_type"),
        (
            "llama",
            {"architectures": ["LlamaForSequenceClassification"]},
            "LlamaForSequenceClassification is not known of llama",
        ),
        ("llama", {"hidden_size": None}, "lacks hidden_size"),
        ("llama", {"hidden_size": "12"}, "hidden_size must be int, not '12'"),
        ("llama", {"hidden_size": 1 << 60}, "is no number that a model can have"),
        ("llama", {"num_hidden_layers": 0}, "a size is 0"),
        ("llama", {"hidden_act": "xielu"}, "hidden_act = 'xielu' is none of"),
        ("llama", {"logit_scale": 2.0}, "logit_scale = 2.0 is not understood, and may change what the model computes"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not understood"),
        ("llama", {"rope_parameters": {"rope_type": "ntk"}}, "rope_type 'ntk' is not built"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters lacks short_factor"),
        (
            "phi3_long",
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0, 0], "long_factor": [1.0, 2.0]}},
            "short_factor has to be a list of numbers above 0",
        ),
        (
            "phi3_long",
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "1 numbers of short_factor and 1 of long_factor for 2 planes",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta": 1}},
            "rope_parameters: beta = 1 is not",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_parameters lacks factor"),
        ("llama", {"num_key_value_heads": 4}, "N_KV"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True is not supported"),
        ("gpt2", {"n_head": 5}, "do not divide D=12"),
        ("bert", {"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ("gemma3", {"layer_types": ["full_attention"]}, "layer_types has to say"),
        ("gemma3", {"layer_types": [["full_attention"], 1]}, "layer_types has to say"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(name: str, change: dict, message: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path, lambda config: config.update(change))
    with pytest.raises((ModelFileError, ConfigError)) as error:
        open_model(folder)
    assert message in str(error.value)


def test_configs_of_older_years_say_the_same(tmp_path: Path) -> None:
    def older(config: dict) -> None:
        rotation = config.pop("rope_parameters")
        config["rope_theta"] = rotation.pop("rope_theta")
        config["rope_scaling"] = {**rotation, "type": rotation.pop("rope_type")}
        config["torch_dtype"] = config.pop("dtype")
        config["auto_map"] = {"AutoModel": "remote.Code"}

    assert open_model(copied("llama", tmp_path, older)).blueprint == opened("llama").blueprint

    def with_bases(config: dict) -> None:
        config.pop("rope_parameters")
        config |= {"rope_theta": 1000.0, "rope_local_base_freq": 100.0, "sliding_window_pattern": 2}
        config["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
        config.pop("layer_types")
        config.pop("_sliding_window_pattern")

    assert open_model(copied("gemma3", tmp_path, with_bases)).blueprint == opened("gemma3").blueprint


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        write_folder(tmp_path, opened("llama"))


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("llama")
    write_folder(tmp_path / "new", model)
    write_folder(tmp_path / "new", model, {"output/gamma": model.weights["output/gamma"] + 1}, over=True)
    assert np.array_equal(open_model(tmp_path / "new").weights["output/gamma"], model.weights["output/gamma"] + 1)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ConfigError, match="Input/output error"):
        write_folder(tmp_path / "new", model, over=True)
    assert np.array_equal(open_model(tmp_path / "new").weights["output/gamma"], model.weights["output/gamma"] + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graphir.hub.folder.write_shards", fail)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_folder(tmp_path / "new", opened("llama"))
    assert list(tmp_path.iterdir()) == []


# -- how it speaks ----------------------------------------------------------------------------------------


def test_what_a_folder_says_of_texts_goes_along(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    write_folder(tmp_path / "again", open_model(with_tokenizer("llama", tmp_path, 36)))
    model = open_model(tmp_path / "again")
    assert model.tokenizer.encode("w7 w1") == [7, 1]
    assert model.speech.ends == (35, 40)
    assert model.chat.render([{"role": "user", "content": "w1"}]) == "w1 <eos>"


def test_a_tokenizer_of_more_tokens_than_the_model_has_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    model = open_model(with_tokenizer("llama", tmp_path, 37))
    with pytest.raises(ModelFileError, match="ids up to 36, the model V = 36 tokens"):
        _ = model.tokenizer


def test_a_model_without_texts_says_so() -> None:
    with pytest.raises(ModelFileError, match=r"has no tokenizer; a text needs one"):
        _ = opened("llama").tokenizer
    with pytest.raises(DataError, match="has no chat template"):
        _ = opened("llama").chat
