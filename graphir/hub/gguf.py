"""GGUF files, as llama.cpp has them: read, by the package `gguf`, and dequantised; 16-bit floats stay as they are.

A file's metadata are said again as the config.json that the same model has, so that one table a family says what both
mean; tensors are called what that folder calls them, by the package's own table, and what the conversion to GGUF did to
them is taken back.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import MissingDependencyError, ModelFileError
from graphir.extras import install
from graphir.hub.chat import ChatTemplate
from graphir.hub.config import nearest, read_config
from graphir.hub.pretrained import Pretrained, Speech, parameter_names
from graphir.hub.vocabulary import tokenizer_of
from graphir.hub.weights import Weights
from graphir.models.blueprint import Blueprint
from graphir.tokenizer import JsonTokenizer

Array = NDArray[Any]

#: The `model_type` of each architecture that is read.
_KINDS = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "bert": "bert",
}
#: What a config.json calls the metadata of an architecture.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
#: Of BERT, whose angles nobody asks for.
_BERT_FIELDS = {**_FIELDS, "attention.layer_norm_epsilon": "layer_norm_eps"}
_GPT2_FIELDS = {
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "context_length": "n_positions",
}
#: Metadata of an architecture that are said by others, or of how it was made.
_KNOWN = ("vocab_size", "attention.value_length", "rope.dimension_count", "attention.causal", "pooling_type")
_SCALING = "rope.scaling."
#: What a config.json calls what is said of it; and the tensors that say more.
_SCALED = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
}
_FREQUENCIES, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


@dataclass(frozen=True)
class Quantised:
    """A tensor of a GGUF file: an array to whoever makes one of it, of floats and as a folder has it.

    shape    as the folder has it
    dtype    the floats that it is dequantised to, or has
    read     dequantises it
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """The bytes that these take."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self.read(), dtype)


def read_gguf(path: Path) -> Pretrained:
    """The model in a GGUF file; tensors are dequantised when they are looked at.

    Errors: MissingDependencyError without the package `gguf`; ModelFileError for what is no whole GGUF file, an
    architecture, a quantisation or metadata that are not read.
    """
    try:
        import gguf
    except ImportError:
        raise MissingDependencyError(f"{path} needs the gguf package: {install('gguf')}") from None
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # of a damaged file the package raises whatever comes
        if gguf.GGMLQuantizationType.__name__ in str(error):
            raise ModelFileError(
                f"{path} has a tensor quantised as the gguf package here does not know: {error}"
            ) from None
        raise ModelFileError(f"{path} is no whole GGUF file, truncated or corrupt: {error}") from None
    packed = {tensor.name: tensor for tensor in reader.tensors}
    architecture = str(metadata.get("general.architecture"))
    if architecture not in _KINDS:
        raise ModelFileError(f"{path}: the architecture {architecture!r} is not read; {nearest(architecture, _KINDS)}")
    fields = _config(architecture, metadata, packed, str(path))
    format, blueprint = read_config(fields, str(path))
    names = parameter_names(format, blueprint)
    called = gguf.get_tensor_name_map(_architecture(architecture), blueprint.composition.layers)
    tensors: dict[str, Any] = {}
    for stored in names.stored:
        name = called.get_name(stored.name.removeprefix("bert."), try_suffixes=(".weight", ".bias"))
        if name in packed:
            tensors[stored.name] = _tensor(packed.pop(name), stored.name, architecture, blueprint, path)
    for name in (_FREQUENCIES, _LONG, _SHORT):
        packed.pop(name, None)
    if packed:
        raise ModelFileError(f"{path} holds {min(packed)}, which a model of its metadata does not have")
    weights = Weights(names, tensors, format, str(path))
    return Pretrained(path, format, blueprint, weights, _speech(metadata, path), fields, (path,))


def _architecture(name: str) -> Any:
    import gguf

    return next(each for each, called in gguf.MODEL_ARCH_NAMES.items() if called == name)


# -- what the model is ------------------------------------------------------------------------------------


def _config(architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a config.json that say what the metadata do."""
    prefix = f"{architecture}."
    said = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    words = {"gpt2": _GPT2_FIELDS, "bert": _BERT_FIELDS}.get(architecture, _FIELDS)
    tied = "output.weight" not in tensors
    fields: dict[str, Any] = {"model_type": _KINDS[architecture], "tie_word_embeddings": tied}
    for name, value in said.items():
        if name in words:
            fields[words[name]] = _decimal(value)
        elif name not in _KNOWN and not name.startswith(_SCALING):
            raise ModelFileError(
                f"{where}: {prefix}{name} = {value!r} is not understood, and may change what the model computes"
            )
    if "token_embd.weight" not in tensors:
        raise ModelFileError(f"{where} lacks token_embd.weight")
    fields["vocab_size"] = int(tensors["token_embd.weight"].shape[-1])
    width = said.get("attention.key_length")
    if said.get("attention.value_length", width) != width:
        raise ModelFileError(f"{where}: values as wide as {said['attention.value_length']} beside keys of {width}")
    encoder = architecture == "bert"
    if said.get("attention.causal", not encoder) == encoder:
        raise ModelFileError(
            f"{where}: {prefix}attention.causal = {encoder} is not how a model of this architecture is"
        )
    if encoder:  # without a head, which llama.cpp leaves out
        types = tensors.get("token_types.weight")
        fields |= {"architectures": ["BertModel"], "type_vocab_size": 2 if types is None else int(types.shape[-1])}
    if architecture in ("llama", "qwen3"):
        fields["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if architecture == "llama":
        fields["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    if architecture in ("gemma2", "gemma3") and "num_attention_heads" in fields:
        fields["query_pre_attn_scalar"] = _query_scale(architecture, fields)
    if architecture not in ("gpt2", "bert"):
        fields["rope_scaling"] = _rotation(said, fields, tensors, where)
    return fields


def _query_scale(architecture: str, fields: Mapping[str, Any]) -> int:
    """What Gemma's scores are divided by the root of, which GGUF does not say: the largest models have D/N_H."""
    largest = {"gemma2": 46, "gemma3": 62}[architecture]
    share = fields["hidden_size"] // fields["num_attention_heads"]
    return int(share if fields["num_hidden_layers"] == largest else fields.get("head_dim", share))


def _rotation(
    said: Mapping[str, Any], fields: Mapping[str, Any], tensors: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """What a config.json says of rotary positions under `rope_scaling`."""
    rotation: dict[str, Any] = {"rope_type": "default"}
    width = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    rotation["partial_rotary_factor"] = said.get("rope.dimension_count", width) / width
    scaling = {name.removeprefix(_SCALING): value for name, value in said.items() if name.startswith(_SCALING)}
    scaling.pop("finetuned", None)
    kind = scaling.pop("type", "none")
    if kind != "none":
        rotation["rope_type"] = kind
    if kind != "none" or _LONG in tensors:
        unknown = sorted(scaling.keys() - _SCALED.keys())
        if unknown:
            raise ModelFileError(f"{where}: {_SCALING}{unknown[0]} = {scaling[unknown[0]]!r} is not understood")
        rotation |= {_SCALED[name]: _decimal(value) for name, value in scaling.items()}
    if _LONG in tensors and _SHORT in tensors:
        factors = {"long_factor": _LONG, "short_factor": _SHORT}
        rotation |= {name: [_decimal(float(each)) for each in tensors[of].data] for name, of in factors.items()}
        rotation["rope_type"] = "longrope"
    if _FREQUENCIES in tensors:
        rotation |= _llama3(np.asarray(tensors[_FREQUENCIES].data, np.float64), fields, where)
    return rotation


def _llama3(factors: Array, fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The scaling that gave these factors, one a plane, by which Llama's angles are divided: GGUF keeps no more."""
    said = {"factor": float(factors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    planes = np.arange(len(factors)) / len(factors)
    turns = 8192 / (2 * np.pi) * float(fields.get("rope_theta", 10000.0)) ** -planes
    own = np.clip((turns - 1.0) / 3.0, 0, 1)
    if not np.allclose(1 / factors, own + (1 - own) / said["factor"], rtol=1e-4, atol=0):
        raise ModelFileError(f"{where}: {_FREQUENCIES} is no scaling of Llama 3's kind, over 8,192 positions")
    return {"rope_type": "llama3", "original_max_position_embeddings": 8192, **said}


def _decimal(value: Any) -> Any:
    """A float32 as the shortest decimal that it is the nearest to: 1e-05, where the file has 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


# -- its tensors ------------------------------------------------------------------------------------------


def _tensor(tensor: Any, name: str, architecture: str, blueprint: Blueprint, path: Path) -> Quantised:
    """A tensor as a folder calls and has it."""
    import gguf

    shape = tuple(int(each) for each in reversed(tensor.shape))
    transposed = architecture == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))

    shifted = architecture.startswith("gemma") and name.endswith("norm.weight")
    dtype = np.dtype(np.float32) if shifted else _floats(tensor.tensor_type.name)

    def read() -> Array:
        try:
            narrow = tensor.data.view(dtype) if dtype.itemsize == 2 else None
            found: Array = gguf.dequantize(tensor.data, tensor.tensor_type) if narrow is None else narrow
            found = found.reshape(shape)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise ModelFileError(f"{path}: {tensor.name} is quantised as {kind}, which is not read") from None
        if architecture == "llama" and ".self_attn.q_proj." in name:
            found = _halves(found, blueprint.sizes["N_H"])
        if architecture == "llama" and ".self_attn.k_proj." in name:
            found = _halves(found, blueprint.sizes["N_KV"])
        if shifted:
            found = found - 1
        return found.T if transposed else found

    return Quantised(shape[::-1] if transposed else shape, dtype, read)


def _floats(kind: str) -> np.dtype[Any]:
    """The floats of a tensor that is stored as `kind`: its own, of 16 bits, or what it is dequantised to."""
    if kind == "F16":
        return np.dtype(np.float16)
    if kind == "BF16" and importlib.util.find_spec("ml_dtypes") is not None:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return found
    return np.dtype(np.float32)


def _halves(W: Array, heads: int) -> Array:
    """The rows of each head, planes of neighbours (2i, 2i + 1), as planes of halves (i, i + D_h/2)."""
    return W.reshape(heads, -1, 2, *W.shape[1:]).swapaxes(1, 2).reshape(W.shape)


# -- its texts --------------------------------------------------------------------------------------------


def _speech(metadata: Mapping[str, Any], path: Path) -> Speech:
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_id") for name in ("bos_token", "eos_token", "eot_token")}
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    texts = {name: tokens[id] for name, id in ids.items() if id is not None and id < len(tokens)}
    template = metadata.get("tokenizer.chat_template")
    return Speech(
        (lambda: JsonTokenizer(tokenizer_of(metadata, str(path)), f"the tokenizer of {path}")) if tokens else None,
        ChatTemplate(template, texts) if isinstance(template, str) else None,
        tuple(id for name, id in ids.items() if name != "bos_token" and id is not None),
    )
