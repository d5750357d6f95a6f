"""The tokenizer in a GGUF file's metadata, as a tokenizer.json says it.

GGUF keeps tokens, and merges or scores, but how a text is cut before that only by a name, which stands for regular
expressions in llama.cpp's source. What `smollm` stands for here was compared with that model's own tokenizer.json; the
others are as their models' are published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphir.errors import ModelFileError

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
#: GPT-2's own cut is built into ByteLevel.
_GPT2_CUT = {**_BYTES, "use_regex": True}


def _cut(numbers: str) -> Mapping[str, Any]:
    """Words, numbers of so many digits, punctuation, blanks, as GPT-4's tokenizer cuts them, then bytes."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**_BYTES, "use_regex": False}]}


_DIGITS = {"type": "Digits", "individual_digits": True}
#: How texts are cut before merges, by `tokenizer.ggml.pre`; and whether a word that is a token is taken whole.
_CUTS: Mapping[str, tuple[Mapping[str, Any], bool]] = {
    "gpt-2": (_GPT2_CUT, False),
    "smollm": ({"type": "Sequence", "pretokenizers": [_DIGITS, _GPT2_CUT]}, False),
    "llama-bpe": (_cut(r"\p{N}{1,3}"), True),
    "qwen2": (_cut(r"\p{N}"), False),
}

#: Kinds of tokens in `tokenizer.ggml.token_type`: what is never part of a text, and what is taken whole.
_CONTROL, _OWN = 3, 4
_BLANK = "▁"
#: The ids of BERT's own vocabulary, which are meant where a file says none.
_BERT_IDS = {"unknown": 100, "first": 101, "last": 102}


def tokenizer_of(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a tokenizer.json says that is the tokenizer of this metadata.

    Errors: ModelFileError for a kind that is not read (byte pairs and SentencePiece's pairs are), or a vocabulary that
    contradicts itself.
    """
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    tokens, kinds = said.get("tokens"), said.get("token_type")
    if not isinstance(tokens, list) or (kinds is not None and len(kinds) != len(tokens)):
        raise ModelFileError(f"{where} says no tokens, or not of each what it is")
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ModelFileError(f"{where} has a token twice")
    kind = said.get("model")
    if kind == "gpt2":
        text = _byte_pairs(said, ids, where)
    elif kind == "llama":
        text = _sentence_pieces(said, ids, where)
    elif kind == "bert":
        text = _words(said, tokens)
    else:
        raise ModelFileError(f"{where}: a tokenizer of kind {kind!r} is not read; gpt2, llama and bert are")
    added = [_added(id, token, kinds[id]) for id, token in enumerate(tokens) if kinds and kinds[id] in (_CONTROL, _OWN)]
    return {"version": "1.0", "added_tokens": added, "post_processor": _framing(said, tokens), **text}


def _byte_pairs(said: Mapping[str, Any], ids: Mapping[str, int], where: str) -> dict[str, Any]:
    name = said.get("pre", "gpt-2")
    if name not in _CUTS:
        raise ModelFileError(f"{where}: texts cut as {name!r} are not read; these are: {', '.join(_CUTS)}")
    cut, whole = _CUTS[name]
    merges = said.get("merges")
    if not isinstance(merges, list) or not all(isinstance(each, str) and each.count(" ") == 1 for each in merges):
        raise ModelFileError(f"{where} says no merges, or others than of two tokens")
    model = {"type": "BPE", "vocab": ids, "merges": merges, "ignore_merges": whole}
    return {"model": model, "normalizer": None, "pre_tokenizer": cut, "decoder": {**_BYTES, "use_regex": True}}


def _sentence_pieces(said: Mapping[str, Any], ids: Mapping[str, int], where: str) -> dict[str, Any]:
    """SentencePiece's pairs: of all neighbours that make a token the one of the highest score is merged first."""
    scores = said.get("scores")
    if not isinstance(scores, list) or len(scores) != len(ids):
        raise ModelFileError(f"{where} says no score of each token")
    found = [
        (-scores[id], id, f"{token[:cut]} {token[cut:]}")
        for token, id in ids.items()
        for cut in range(1, len(token))
        if " " not in token and token[:cut] in ids and token[cut:] in ids
    ]
    unknown = said.get("unknown_token_id", 0)
    model = {
        "type": "BPE",
        "vocab": ids,
        "merges": [merge for _, _, merge in sorted(found)],
        "unk_token": next((token for token, id in ids.items() if id == unknown), None),
        "fuse_unk": True,
        "byte_fallback": True,
    }
    blanks = [{"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}]
    decoders = [
        {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if said.get("add_space_prefix", True):
        blanks.insert(0, {"type": "Prepend", "prepend": _BLANK})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "model": model,
        "normalizer": {"type": "Sequence", "normalizers": blanks},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _words(said: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """WordPiece, as BERT has it: ▁ stands here before what begins a word, there ## before what goes on with it."""

    def spelled(token: str) -> str:
        if token.startswith("[") and token.endswith("]"):
            return token
        return token[1:] if token.startswith(_BLANK) else f"##{token}"

    unknown = said.get("unknown_token_id", _BERT_IDS["unknown"])
    model = {
        "type": "WordPiece",
        "unk_token": tokens[unknown] if unknown < len(tokens) else "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {spelled(token): id for id, token in enumerate(tokens)},
    }
    kept = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    return {
        "model": model,
        "normalizer": {"type": "BertNormalizer", **kept},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }


def _added(id: int, token: str, kind: int) -> dict[str, Any]:
    whole = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": token, "special": kind == _CONTROL, **whole}


def _framing(said: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """What stands around a text of its own: a first token, a last one, or neither."""
    # SentencePiece's have a first one where nothing is said, BERT's both: [CLS] and [SEP].
    words = said.get("model") == "bert"
    framed = said.get("add_bos_token", words or said.get("model") == "llama"), said.get("add_eos_token", words)
    named = said.get("bos_token_id"), said.get("eos_token_id")
    if words:
        named = said.get("bos_token_id", _BERT_IDS["first"]), said.get("seperator_token_id", _BERT_IDS["last"])
    ends = [id if there else None for id, there in zip(named, framed, strict=True)]
    if ends == [None, None] or not all(id is None or id < len(tokens) for id in ends):
        return None
    first, last = ([] if id is None else [{"SpecialToken": {"id": tokens[id], "type_id": 0}}] for id in ends)
    special = {tokens[id]: {"id": tokens[id], "ids": [id], "tokens": [tokens[id]]} for id in ends if id is not None}
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*text, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": [*first, *text, *last],
        "pair": [*first, *pair, *last],
        "special_tokens": special,
    }
