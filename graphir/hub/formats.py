"""The families whose folders are read and written, as tables: what config.json says, and what tensors are called.

Words are those of transformers' configurations and state dictionaries; what a family is stands in
`graphir.models.families`, and what folders leave open is as it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from graphir.hub.keys import Biases, Fixed, Key, Part, Size
from graphir.hub.names import Stored, linear, norm
from graphir.hub.rotation import Rotation, Windows
from graphir.models.composition import Composition
from graphir.models.families import BERT, GEMMA2, GEMMA3, GPT2, LLAMA, MISTRAL, PHI3, QWEN2, QWEN3, SMOLLM


@dataclass(frozen=True)
class Format:
    """A family's folders.

    kind             the `model_type`
    family           what the members of the family have in common
    architectures    the classes of transformers whose tensors these are, and in what they are not as the family is
    keys             what the fields of config.json mean
    tensors          what its tensors are called
    prefix           what some folders leave out at the beginning of names: those of a model without its head
    unread           ends of names of tensors that are no parameters: buffers, and heads for other tasks
    copies           of tensors that some folders hold a second time, what they are the same as
    """

    kind: str
    family: Composition
    architectures: Mapping[str, Mapping[str, object]]
    keys: tuple[Key, ...]
    tensors: tuple[Stored, ...]
    prefix: str
    unread: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=lambda: {"lm_head.weight": "model.embed_tokens.weight"})

    def bare(self) -> Format:
        """The same of folders whose names have no prefix."""
        tensors = tuple(replace(each, name=each.name.removeprefix(self.prefix)) for each in self.tensors)
        copies = {copy: one.removeprefix(self.prefix) for copy, one in self.copies.items()}
        return replace(self, tensors=tensors, copies=copies)


_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}

#: Fields that do not change what a model computes for given tokens: how it was made, how it is kept and run, what is
#: drawn of its logits, what training drops, heads for other tasks.
HARMLESS = (
    *(
        "_name_or_path",
        "_model_name_or_path",
        "_commit_hash",
        "_attn_implementation_autoset",
        "architectures",
        "auto_map",
        "model_type",
        "task_specific_params",
        "tokenizer_class",
    ),
    *("transformers_version", "dtype", "torch_dtype", "_attn_implementation", "attn_implementation", "use_cache"),
    *("cache_implementation", "chunk_size_feed_forward", "gradient_checkpointing", "pretraining_tp"),
    *("reorder_and_upcast_attn", "output_attentions", "output_hidden_states", "return_dict", "torchscript"),
    *("initializer_range", "rescale_layers", "is_llama_config", "rope_interleaved"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "unk_token_id"),
    *("max_length", "min_length", "do_sample", "num_beams", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "classifier_dropout"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "id2label", "label2id", "problem_type", "num_labels"),
    *("finetuning_task", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "n_ctx", "transformers.js_config"),
)

_TIED = "tie_word_embeddings"
_EPSILON = Part("rms_norm_eps", "norm.epsilon", float, 1e-6)
_HEAD_EPSILON = Part("rms_norm_eps", "norm.epsilon attention.norm.epsilon", float, 1e-6)

#: Of all since Llama, and in all but names of BERT.
_SIZES = (
    Part("num_hidden_layers", "layers", int),
    Size("vocab_size", "V"),
    Size("hidden_size", "D"),
    Size("intermediate_size", "D_ff"),
    Size("num_attention_heads", "N_H"),
    Size("max_position_embeddings", "S_max"),
    Fixed("is_encoder_decoder", False),
)
_GROUPED = (*_SIZES, Size("num_key_value_heads", "N_KV", "num_attention_heads"))
_WIDE = (*_GROUPED, Size("head_dim", "D_h", None))
_SILU = Part("hidden_act", "mlp.activation", str, "silu", _ACTIVATIONS)


def _tied(default: bool) -> Part:
    return Part(_TIED, "head.tied", bool, default)


def _decoder(*blocks: tuple[Stored, ...]) -> tuple[Stored, ...]:
    """The tensors of a decoder as Llama names them, with `blocks` in place of what a family has of its own."""
    return (
        Stored("model.embed_tokens.weight", "embedding/E"),
        *(stored for block in blocks for stored in block),
        *norm("model.norm", "output"),
        *linear("lm_head", "output", "lm"),
    )


_LAYER, _MHA, _MLP = "model.layers.{i}", "layer{i}/mha", "layer{i}/mlp"
_HEADS = tuple(stored for which in "QKV" for stored in linear(f"{_LAYER}.self_attn.{which.lower()}_proj", _MHA, which))
_HEAD_NORMS = (
    *norm(f"{_LAYER}.self_attn.q_norm", _MHA, "Q"),
    *norm(f"{_LAYER}.self_attn.k_norm", _MHA, "K"),
)
_OUT = linear(f"{_LAYER}.self_attn.o_proj", _MHA, "O")
_GATE_UP = (*linear(f"{_LAYER}.mlp.gate_proj", _MLP, "gate"), *linear(f"{_LAYER}.mlp.up_proj", _MLP, "up"))
_DOWN = linear(f"{_LAYER}.mlp.down_proj", _MLP, "down")
_PRE_NORMS = (
    *norm(f"{_LAYER}.input_layernorm", _MHA),
    *norm(f"{_LAYER}.post_attention_layernorm", _MLP),
)
_SANDWICH_NORMS = (
    *norm(f"{_LAYER}.input_layernorm", _MHA),
    *norm(f"{_LAYER}.post_attention_layernorm", _MHA, "out"),
    *norm(f"{_LAYER}.pre_feedforward_layernorm", _MLP),
    *norm(f"{_LAYER}.post_feedforward_layernorm", _MLP, "out"),
)
_LLAMA_TENSORS = _decoder(_PRE_NORMS, _HEADS, _HEAD_NORMS, _OUT, _GATE_UP, _DOWN)
_GEMMA_TENSORS = _decoder(_SANDWICH_NORMS, _HEADS, _HEAD_NORMS, _OUT, _GATE_UP, _DOWN)
_ROTARY_BUFFERS = ("rotary_emb.inv_freq",)

_GEMMA = (
    *_WIDE,
    Part("hidden_activation", "mlp.activation", str, "gelu_pytorch_tanh", _ACTIVATIONS),
    Fixed("hidden_act", "gelu_pytorch_tanh", ("gelu",)),  # older folders have it, and nobody reads it
    Part("query_pre_attn_scalar", "attention.width", int, 256),
    Fixed("attention_bias", False),
    Fixed("use_bidirectional_attention", False),
    _tied(True),
)

_GPT2 = Format(
    "gpt2",
    GPT2,
    {"GPT2LMHeadModel": {}},
    (
        Part("n_layer", "layers", int),
        Size("vocab_size", "V"),
        Size("n_embd", "D"),
        Size("n_head", "N_H"),
        Size("n_positions", "S_max"),
        Size("n_inner", "D_ff", "n_embd", times=4),
        Part("activation_function", "mlp.activation", str, "gelu_new", _ACTIVATIONS),
        Part("layer_norm_epsilon", "norm.epsilon", float, 1e-5),
        _tied(True),
        Fixed("scale_attn_weights", True),
        Fixed("scale_attn_by_inverse_layer_idx", False),
        Fixed("add_cross_attention", False),
        Fixed("is_encoder_decoder", False),
    ),
    (
        Stored("transformer.wte.weight", "embedding/E"),
        Stored("transformer.wpe.weight", "embedding/P_theta"),
        *norm("transformer.h.{i}.ln_1", _MHA),
        *linear("transformer.h.{i}.attn.c_attn", _MHA, "Q K V", transposed=False),
        *linear("transformer.h.{i}.attn.c_proj", _MHA, "O", transposed=False),
        *norm("transformer.h.{i}.ln_2", _MLP),
        *linear("transformer.h.{i}.mlp.c_fc", _MLP, "up", transposed=False),
        *linear("transformer.h.{i}.mlp.c_proj", _MLP, "down", transposed=False),
        *norm("transformer.ln_f", "output"),
        *linear("lm_head", "output", "lm"),
    ),
    "transformer.",
    (".attn.bias", ".attn.masked_bias"),
    {"lm_head.weight": "transformer.wte.weight"},
)

_LLAMA = Format(
    "llama",
    LLAMA,
    {"LlamaForCausalLM": {}},
    (
        *_WIDE,
        _EPSILON,
        _SILU,
        Rotation(),
        _tied(False),
        Biases("attention_bias", "QKVO"),
        Part("mlp_bias", "mlp.bias", bool, False),
    ),
    _LLAMA_TENSORS,
    "model.",
    _ROTARY_BUFFERS,
)

_MISTRAL = Format(
    "mistral",
    MISTRAL,
    {"MistralForCausalLM": {}},
    (*_WIDE, _EPSILON, _SILU, Rotation(), Windows(), _tied(False)),
    _LLAMA_TENSORS,
    "model.",
    _ROTARY_BUFFERS,
)

_LATE_WINDOWS = Windows(switch="use_sliding_window", behind="max_window_layers")

_QWEN2 = Format(
    "qwen2",
    QWEN2,
    {"Qwen2ForCausalLM": {}},
    (
        *_GROUPED,
        _EPSILON,
        _SILU,
        Rotation(),
        _LATE_WINDOWS,
        _tied(False),
    ),
    _LLAMA_TENSORS,
    "model.",
    _ROTARY_BUFFERS,
)

_QWEN3 = Format(
    "qwen3",
    QWEN3,
    {"Qwen3ForCausalLM": {}},
    (
        *_WIDE,
        _HEAD_EPSILON,
        _SILU,
        Rotation(),
        _LATE_WINDOWS,
        Biases("attention_bias", "QKVO"),
        _tied(False),
    ),
    _LLAMA_TENSORS,
    "model.",
    _ROTARY_BUFFERS,
)

_GEMMA2 = Format(
    "gemma2",
    GEMMA2,
    {"Gemma2ForCausalLM": {}},
    (
        *_GEMMA,
        _EPSILON,
        Rotation(),
        Windows(every=2, default=4096),
        Part("attn_logit_softcapping", "attention.cap", float, None, none=0.0),
        Part("final_logit_softcapping", "head.cap", float, None, none=0.0),
    ),
    _GEMMA_TENSORS,
    "model.",
    _ROTARY_BUFFERS,
)

_GEMMA3 = Format(
    "gemma3_text",
    GEMMA3,
    {"Gemma3ForCausalLM": {}},
    (
        *_GEMMA,
        _HEAD_EPSILON,
        Rotation(1_000_000.0, windowed=10_000.0),
        Windows(every=6, default=4096),
        Part("attn_logit_softcapping", "attention.cap", float, None, none=0.0),
        Part("final_logit_softcapping", "head.cap", float, None, none=0.0),
    ),
    _GEMMA_TENSORS,
    "model.",
    _ROTARY_BUFFERS,
)

_PHI3 = Format(
    "phi3",
    PHI3,
    {"Phi3ForCausalLM": {}},
    (
        *_GROUPED,
        Part("rms_norm_eps", "norm.epsilon", float, 1e-5),
        _SILU,
        Rotation(),
        Windows(),
        Fixed("attention_bias", False),
        _tied(False),
    ),
    _decoder(
        _PRE_NORMS,
        linear(f"{_LAYER}.self_attn.qkv_proj", _MHA, "Q K V"),
        _OUT,
        linear(f"{_LAYER}.mlp.gate_up_proj", _MLP, "gate up"),
        _DOWN,
    ),
    "model.",
    _ROTARY_BUFFERS,
)

_BERT_LAYER = "bert.encoder.layer.{i}"
_BERT = Format(
    "bert",
    BERT,
    {"BertForMaskedLM": {}, "BertModel": {"head": None}},
    (
        *_SIZES,
        Size("type_vocab_size", "N_types", 2),
        Part("hidden_act", "mlp.activation head.transform", str, "gelu", _ACTIVATIONS),
        Part("layer_norm_eps", "norm.epsilon", float, 1e-12),
        _tied(True),
        Fixed("position_embedding_type", "absolute"),
        Fixed("is_decoder", False),
        Fixed("add_cross_attention", False),
    ),
    (
        Stored("bert.embeddings.word_embeddings.weight", "embedding/E"),
        Stored("bert.embeddings.position_embeddings.weight", "embedding/P_theta"),
        Stored("bert.embeddings.token_type_embeddings.weight", "embedding/E_type"),
        *norm("bert.embeddings.LayerNorm", "embedding"),
        *(
            stored
            for which, name in (("Q", "query"), ("K", "key"), ("V", "value"))
            for stored in linear(f"{_BERT_LAYER}.attention.self.{name}", _MHA, which)
        ),
        *linear(f"{_BERT_LAYER}.attention.output.dense", _MHA, "O"),
        *norm(f"{_BERT_LAYER}.attention.output.LayerNorm", _MHA),
        *linear(f"{_BERT_LAYER}.intermediate.dense", _MLP, "up"),
        *linear(f"{_BERT_LAYER}.output.dense", _MLP, "down"),
        *norm(f"{_BERT_LAYER}.output.LayerNorm", _MLP),
        *linear("cls.predictions.transform.dense", "output", "map"),
        *norm("cls.predictions.transform.LayerNorm", "output"),
        Stored("cls.predictions.decoder.weight", "output/W_lm", transposed=True),
        Stored("cls.predictions.bias", "output/b_lm"),
    ),
    "bert.",
    ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"),
    {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)

#: All of them by `model_type`.
FORMATS: Mapping[str, Format] = {
    each.kind: each for each in (_GPT2, _LLAMA, _MISTRAL, _QWEN2, _QWEN3, _GEMMA2, _GEMMA3, _PHI3, _BERT)
}


def format_of(composition: Composition) -> Format:
    """How folders of a composition's family are written; SmolLM's are Llama's."""
    family = LLAMA if composition.name == SMOLLM.name else composition
    return next(each for each in FORMATS.values() if each.family.name == family.name)
