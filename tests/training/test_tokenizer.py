"""Tokenizers: bytes, and files of the tokenizers package."""

import json
from pathlib import Path

import pytest

from graphir.errors import DataError
from graphir.tokenizer import ByteTokenizer, load_tokenizer


def write_words(path, words, unknown="<unk>"):
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return str(path)


@pytest.mark.parametrize("text", ["", "plain", "Σ — 東京 🙂", "\x00\n\t"])
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocabulary == 256
    assert tokenizer.unknown is None


def test_bytes_of_a_command_line_that_are_no_utf_8_come_back():
    assert ByteTokenizer().encode(b"a\xff".decode("utf-8", "surrogateescape")) == [97, 255]


def test_a_lone_surrogate_is_refused():
    with pytest.raises(DataError, match="the text cannot be written as bytes"):
        ByteTokenizer().encode("\ud800")


def test_a_file_encodes_decodes_and_knows_what_it_does_not_know(tmp_path):
    tokenizer = load_tokenizer(write_words(tmp_path / "words.json", ["<unk>", "the", "cat", "sat"]))
    assert tokenizer.vocabulary == 4
    assert tokenizer.encode("the cat barked") == [1, 2, 0]
    assert tokenizer.unknown == 0
    assert tokenizer.decode([1, 3]) == "the sat"


def test_ids_with_gaps_count_up_to_the_highest(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    path = tmp_path / "gaps.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 9}, unk_token="a")).save(str(path))
    assert load_tokenizer(str(path)).vocabulary == 10


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json is no file; give 'bytes' or the path of a tokenizer\.json"):
        load_tokenizer(str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "it is no object"),
        (b"{}", "Model missing"),
        (b'{"version": Infinity}', "Infinity is no number of JSON"),
        (b"\xff\xfe", "can't decode byte"),
    ],
)
def test_a_malformed_file(tmp_path, content, message):
    pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"broken\.json cannot be read as a tokenizer\.json: .*{message}"):
        load_tokenizer(str(path))


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="it is larger than 256 MiB"):
        load_tokenizer(str(path))


@pytest.mark.parametrize("length", [2, 1 << 31])
def test_texts_are_neither_cut_off_nor_filled_up(tmp_path, length):
    """A length from elsewhere would lose tokens, or take all of the memory: the package aborts the process."""
    path = Path(write_words(tmp_path / "words.json", ["<unk>", "the", "cat", "sat"]))
    said = json.loads(path.read_text())
    said["padding"] = {
        "strategy": {"Fixed": length},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    said["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(said))
    assert load_tokenizer(str(path)).encode("the cat sat") == [1, 2, 3]


def test_a_panic_of_the_package_is_an_error_of_ours(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(write_words(tmp_path / "words.json", ["<unk>", "the"]))

    class PanicException(BaseException):
        pass

    class Panicking:
        def encode(self, text, add_special_tokens):
            raise PanicException("capacity overflow")

    monkeypatch.setattr(tokenizer, "_tokenizer", Panicking())
    with pytest.raises(DataError, match="the tokenizer cannot encode the text: capacity overflow"):
        tokenizer.encode("the")
