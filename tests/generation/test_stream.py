"""`gi.generate` and `graphir generate --model`: tokens as they come, ends and stops, batches, and what cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import graphir as gi
from graphir.errors import ConfigError, DataError, ModelFileError
from graphir.generation.text import Piecewise
from graphir.hub import open_model
from graphir.tokenizer import ByteTokenizer
from tests.support.hub import FOLDERS, with_tokenizer
from tests.support.mpi import command, environment, needs_mpi
from tests.support.paths import ROOT

pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
pytest.importorskip("jinja2", reason="the extra `hub` is not installed")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer("llama", tmp_path_factory.mktemp("model"))


def words(folder: Path, *arguments: Any, **options: Any) -> list[str]:
    """The text of each prompt's answer, drawn node by node."""
    tokens = list(gi.generate(folder, *arguments, backend="reference", **options))
    count = 1 + max(token.number for token in tokens)
    return ["".join(token.text for token in tokens if token.number == number) for number in range(count)]


# -- pieces of text ---------------------------------------------------------------------------------------


def shown(text: str, *stops: str) -> tuple[list[str], bool]:
    """What is shown of a text after each of its bytes, and whether it has come to a stop."""
    pieces, content = Piecewise(ByteTokenizer(), b"x", stops), text.encode()
    found = []
    for place, byte in enumerate(content):
        found.append(pieces.add(byte, last=place == len(content) - 1))
        if pieces.stopped:
            break
    return found, pieces.stopped


def test_characters_are_shown_whole() -> None:
    assert shown("aü€b") == (["a", "", "ü", "", "", "€", "b"], False)


def test_a_text_ends_before_a_stop() -> None:
    assert shown("a\n\nb", "\n\n", "z") == (["a", "", ""], True)
    assert shown("abcabd", "abd") == (["", "", "abc", "", "", ""], True)


def test_what_looked_like_a_stop_is_shown_when_it_is_none() -> None:
    assert shown("a\nb", "\n\n") == (["a", "", "\nb"], False)
    assert shown("ab", "abd") == (["", "ab"], False)
    pieces = Piecewise(ByteTokenizer(), b"", ["bc"])
    assert (pieces.add(ord("b")), pieces.end()) == ("", "b")


# -- tokens -----------------------------------------------------------------------------------------------


def test_a_batch_says_what_each_prompt_says_alone(folder: Path) -> None:
    prompts = ["w1 w2 w3 w4 w5", "w7", "w9 w8"]
    for options in ({"temperature": 0}, {"seed": 3, "temperature": 2.0}):
        together = words(folder, prompts, max_tokens=8, **options)
        assert together[0] == words(folder, prompts[0], max_tokens=8, **options)[0]
        if options["temperature"] == 0:  # draws are keyed by a prompt's number
            assert together == [words(folder, prompt, max_tokens=8, **options)[0] for prompt in prompts]


def test_weights_held_as_they_are_stored_say_the_same(folder: Path, tmp_path: Path) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    shutil.copytree(folder, tmp_path / "narrow")
    file = tmp_path / "narrow/model.safetensors"
    save_file({name: each.astype(bfloat16) for name, each in load_file(file).items()}, file)
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    prompts = ["w1 w2 w3", "w4"]
    wide, stored = (words(tmp_path / "narrow", prompts, weights=each, **options) for each in ("wide", "stored"))
    assert stored == wide
    with pytest.raises(ConfigError, match="weights 'narrow' is none of wide, stored"):
        gi.generate(folder, "w1", weights="narrow")


def test_the_last_token_is_known_as_such(folder: Path) -> None:
    tokens = list(gi.generate(folder, "w1", max_tokens=5, temperature=0, backend="reference"))
    assert len(tokens) == 5
    assert [token.last for token in tokens] == [False] * 4 + [True]
    assert list(gi.generate(folder, "w1", max_tokens=0)) == []


def test_a_text_ends_where_the_model_ends_it(folder: Path) -> None:
    drawn = next(
        tokens
        for seed in range(50)
        for tokens in [list(gi.generate(folder, "w1", max_tokens=6, temperature=3.0, seed=seed, backend="reference"))]
        if tokens[-1].id == 35
    )
    assert drawn[-1].last
    assert drawn[-1].text == ""
    assert all(token.id != 35 for token in drawn[:-1])


def test_a_text_ends_where_there_are_no_more_positions(folder: Path) -> None:
    tokens = list(gi.generate(folder, "w1 " * 29, temperature=0, backend="reference"))
    assert len(tokens) == 3  # of 32
    assert tokens[-1].last


def test_a_stop_ends_the_text(folder: Path) -> None:
    text = words(folder, "w1 w2", max_tokens=8, temperature=0)[0]
    stop = text.split()[4]
    assert words(folder, "w1 w2", max_tokens=8, temperature=0, stop=stop)[0] == text[: text.index(stop)]


def test_a_chat_is_what_the_template_says(folder: Path) -> None:
    model = open_model(folder)
    asked = [
        {"role": "user", "content": "w1 w2"},
        {"role": "assistant", "content": "w3"},
        {"role": "user", "content": "w4"},
    ]
    assert gi.generate(model, asked, chat=True).prompts == [[1, 2, 3, 4, 35]]
    assert gi.generate(model, ["w1", "w2 w3"], chat=True).prompts == [[1, 35], [2, 3, 35]]


def test_what_cannot_be_generated(folder: Path) -> None:
    with pytest.raises(DataError, match="has no token that the model knows"):
        gi.generate(folder, "")
    with pytest.raises(DataError, match="a prompt has 33 tokens"):
        list(gi.generate(folder, "w1 " * 33))
    with pytest.raises(ConfigError, match="max_tokens must be at least 0"):
        gi.generate(folder, "w1", max_tokens=-1)
    with pytest.raises(ConfigError, match="temprature"):
        list(gi.generate(folder, "w1", temprature=1))
    with pytest.raises(ModelFileError, match=r"has no tokenizer; a text needs one"):
        gi.generate(FOLDERS / "llama", "w1")


# -- the command ------------------------------------------------------------------------------------------


def test_the_command_writes_prompt_and_text_and_tells_its_pace(call: Call, folder: Path) -> None:
    code, out, err = call("generate", "--model", folder, "--prompt", "w1 w2", "--max-tokens", 5, "--temperature", 0)
    assert code == 0
    assert out == "w1 w2" + words(folder, "w1 w2", max_tokens=5, temperature=0)[0] + "\n"
    assert err.startswith("2 tokens read, ")
    assert "; 5 chosen, " in err


def test_the_command_answers_several_questions(call: Call, folder: Path) -> None:
    arguments = ["--chat", "--prompt", "w1", "--prompt", "w2 w3", "--max-tokens", 4, "--temperature", 0]
    code, out, _ = call("generate", "--model", folder, *arguments)
    assert code == 0
    answers = words(folder, ["w1", "w2 w3"], chat=True, max_tokens=4, temperature=0)
    assert out.splitlines() == answers
    code, out, err = call("generate", "--model", folder, *arguments, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["texts"] == [{"prompt": "w1", "text": answers[0]}, {"prompt": "w2 w3", "text": answers[1]}]
    assert found["read"]["tokens"] > 2 < found["chosen"]["tokens"] <= 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a checkpoint, or the folder of a run, or a model by --model"),
        (["run", "--model", "DIR"], "give a checkpoint, or the folder of a run, or a model by --model"),
        (["--model", "nowhere"], "nowhere is neither a folder with a model nor a .gguf file"),
        (["run", "--top-p", "0.5"], "--top-p is for models by --model, not for checkpoints"),
        (["--model", FOLDERS / "llama", "--plan", "megatron"], "--plan megatron splits nothing on one rank"),
        (["--model", FOLDERS / "llama", "--top-p", "2"], "--top-p must be at most 1"),
        (["--model", FOLDERS / "llama"], "has no tokenizer; a text needs one"),
    ],
)
def test_what_the_command_refuses(call: Call, arguments: list[Any], message: str) -> None:
    code, _, err = call("generate", *arguments)
    assert code == 2
    assert message in " ".join(err.split())


@pytest.mark.slow
@needs_mpi
def test_ranks_that_are_processes_say_what_one_process_says(folder: Path) -> None:
    arguments = ["--prompt", "w1 w2", "--prompt", "w3", "--max-tokens", "5", "--temperature", "0"]
    program = ["-m", "graphir", "generate", "--model", str(folder), *arguments]
    asked = [[sys.executable, *program], command(3, *program, "--tp", 3)]
    told = [
        subprocess.run(each, capture_output=True, text=True, timeout=300, env=environment(), cwd=ROOT, check=True)
        for each in asked
    ]
    assert told[0].stdout == told[1].stdout
    assert len(told[0].stdout.splitlines()) == 2
