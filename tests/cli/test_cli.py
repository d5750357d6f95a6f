"""The command line: what it says, with which exit code, and what it leaves on the disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from graphir.cli import main
from graphir.extras import install
from graphir.launch import LISTEN, TIMEOUT, TOKEN
from graphir.training import load_checkpoint
from graphir.training.checkpoint import list_checkpoints
from graphir.training.metrics import read_metrics
from tests.support.paths import ROOT

MODEL = ["--layers=1", "--sequence=16", "--width=16", "--heads=2", "--batch=2", "--validation=0.2"]
MODEL += ["--validate-batches=1"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat, and the rat sat on the cat. " * 40)
    return str(path)


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--text", text, *MODEL, "--steps=6", f"--out={folder}", "--quiet"])
    return folder


@pytest.fixture
def trained(run, tmp_path):
    """A folder with a small run of 6 steps, to do with as one likes."""
    return shutil.copytree(run, tmp_path / "run")


def refuses(call, *arguments):
    """The message of a command that must fail for a reason of the user's."""
    code, out, err = call(*arguments)
    assert code == 2
    assert "Traceback" not in err + out
    assert err.splitlines()[-1].startswith("error: ") or "\nerror: " in f"\n{err}"
    return err


# -- the whole ------------------------------------------------------------------------------------------


def test_help_lists_the_commands_and_their_options_in_groups(call):
    code, out, _ = call("--help")
    assert code == 0
    for command in ("train", "generate", "ir", "ops"):
        assert f"\n  {command} " in out
        assert call(command, "--help")[0] == 0
    out = call("train", "--help")[1]
    headings = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "Text:",
        "Model:",
        "Fine-tuning:",
        "Optimization:",
        "Parallel:",
        "Output:",
        "Memory:",
        "Other:",
        "Environment:",
    ]
    for command in ("train", "check"):
        assert all(f"\n  {name} " in call(command, "--help")[1] for name in (TOKEN, LISTEN, TIMEOUT))


def test_no_command_shows_the_help(call):
    assert call() == call("--help")


def test_the_version_by_every_way_in(call):
    assert call("--version")[1] == "graphir, version 0.1.0\n"
    result = subprocess.run([sys.executable, "-m", "graphir", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "graphir, version 0.1.0\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom graphir.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'rich', 'matplotlib', 'safetensors'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_unknown_commands_and_options(call):
    assert "no command is called 'fly'; there are train, " in refuses(call, "fly")
    assert "no command is called 'explor'; did you mean explore or export?" in refuses(call, "explor")
    assert "--wings" in refuses(call, "train", "--wings", 2)
    assert "'many' is not a valid integer" in refuses(call, "train", "--layers", "many")


# -- train ----------------------------------------------------------------------------------------------


def test_a_run_shows_its_way_and_leaves_its_files(call, text, tmp_path):
    folder = tmp_path / "run"
    code, out, err = call("train", "--text", text, *MODEL, "--steps", 4, "--sample", 5, "--out", folder)
    assert (code, err) == (0, "")
    assert "B=2  S=16  D=16  N_H=2  D_ff=64  V=256" in out
    assert "step 4/4  loss " in out
    assert "val loss " in out
    assert "tokens/s" in out
    assert f"graphir generate {folder} --prompt 'The '" in out
    assert sorted(path.name for path in folder.iterdir()) == ["loss.png", "metrics.jsonl", "step-000004.safetensors"]


def test_quiet_says_nothing(call, text, tmp_path):
    assert call("train", "--text", text, *MODEL, "--steps", 2, "--out", tmp_path / "run", "-q") == (0, "", "")


@pytest.mark.slow
def test_resume_takes_the_checkpoints_options(call, text, tmp_path):
    common = ["train", "--text", text, *MODEL, "--dropout", 0.3, "--schedule", "constant", "--quiet"]
    assert call(*common, "--steps", 6, "--out", tmp_path / "whole")[0] == 0
    assert call(*common, "--steps", 3, "--out", tmp_path / "halves", "--warmup", 0)[0] == 0
    assert call("train", "--resume", "--steps", 6, "--out", tmp_path / "halves", "--quiet")[0] == 0
    ends = [load_checkpoint(list_checkpoints(tmp_path / name)[-1][1]) for name in ("whole", "halves")]
    assert [end.step for end in ends] == [6, 6]
    for name, array in ends[0].arrays.items():
        assert array.tobytes() == ends[1].arrays[name].tobytes(), name


def test_without_matplotlib_it_says_what_to_install_and_goes_on(call, text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    folder = tmp_path / "run"
    code, out, _ = call("train", "--text", text, *MODEL, "--steps", 2, "--sample", 0, "--out", folder)
    assert code == 0
    assert f"loss.png needs matplotlib: {install('viz')}" in out
    assert not (folder / "loss.png").exists()


@pytest.mark.slow
def test_a_tokenizer_file_goes_with_its_run(call, text, tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    words = ["?", "the", "cat", "sat", "on", "mat", "and", "rat", ",", "."]
    model = tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    named = tmp_path / "words.json"
    tokenizer.save(str(named))
    folder = tmp_path / "run"
    arguments = ["--text", text, *MODEL, "--tokenizer", named, "--steps", 2, "--out", folder, "--quiet"]
    assert call("train", *arguments)[0] == 0
    named.unlink()
    assert call("train", "--resume", "--steps", 4, "--out", folder, "--quiet")[0] == 0
    code, out, err = call("generate", folder, "--prompt", "the dog", "--tokens", 3)
    assert code == 0
    assert out.startswith("the dog ")
    assert err == "note: 1 of the prompt's tokens are unknown to the tokenizer\n"
    assert "has no token that the model knows" in refuses(call, "generate", folder, "--prompt", "")
    (folder / "tokenizer.json").unlink()
    assert "needs the tokenizer it was trained with; neither" in refuses(call, "generate", folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", 100, "--heads", 6], "D_h = D/N_H is not whole: D=100, N_H=6 gives 50/3"),
        (["--sequence", 5000], "S=5000 needs at least 5001; give more text, a smaller --sequence"),
        (["--layers", 0], "--layers must be at least 1, not 0"),
        (["--text", "/nowhere/text.txt"], "cannot read the text /nowhere/text.txt: No such file or directory"),
        (["--tokenizer", "/nowhere.json"], "tokenizer /nowhere.json is no file"),
        (["--dropout", 1.5], "--dropout must be at most 0.99, not 1.5"),
        (["--warmup", 9, "--steps", 9], "--warmup 9 leaves a cosine schedule of 9 steps nothing to fall in"),
        (["--resume"], "does not exist; give a checkpoint or the --out folder of a run"),
    ],
)
def test_what_cannot_be_trained(call, text, tmp_path, arguments, message):
    assert message in refuses(call, "train", "--text", text, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"too short"])
def test_texts_that_cannot_be_used(call, tmp_path, content):
    (tmp_path / "bad.txt").write_bytes(content)
    assert "the " in refuses(call, "train", "--text", tmp_path / "bad.txt", "--out", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


def test_a_folder_with_a_run_or_none_at_all(call, trained, text):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    common = ["train", "--text", text, *MODEL, "--out"]
    assert "holds a run already; go on with it by --resume" in refuses(call, *common, trained)
    code, out, err = call(*common, text)
    assert (code, out) == (2, "")
    assert err == f"error: cannot write to the folder {text}: File exists; choose another\n"
    message = refuses(call, "train", "--resume", "--steps", 9, "--width", 32, "--heads", 4, "--out", trained)
    assert "another configuration: --width 32, not 16; --heads 4, not 2. Leave these options out" in message
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_a_corrupt_checkpoint(call, trained):
    (path,) = [path for _, path in list_checkpoints(trained)]
    path.write_bytes(path.read_bytes()[:-1])
    for command in (["generate", trained], ["train", "--resume", "--steps", 9, "--out", trained]):
        assert "is no whole safetensors file, truncated or corrupt" in refuses(call, *command)


def test_a_full_disk(call, text, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    message = refuses(call, "train", "--text", text, *MODEL, "--out", tmp_path / "run")
    assert "No space left on device" in message
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number(call, text, tmp_path):
    folder, wild = tmp_path / "run", ["--learning-rate=1e30", "--warmup=0", "--clip=0"]
    message = refuses(call, "train", "--text", text, *MODEL, *wild, "--out", folder)
    assert "is the first value to hold" in message
    assert "float32[B" in message
    assert "written at graphir/models/parts/" in message
    assert not folder.exists()


def test_more_than_the_memory_holds(call, text, tmp_path, monkeypatch):
    # A proof would allocate first, and fail as NumPy does.
    monkeypatch.setattr("graphir.compiler.CHECK", False)
    sizes = ["--layers=1", "--width", 10**12, "--heads=1", "--validation=0.2", "--sequence=16"]
    command = ["train", "--text", text, *sizes, "--out", tmp_path / "run"]
    message = refuses(call, *command, "--ignore-memory")
    assert "W_up float32[D, D_ff] = [1000000000000, 4000000000000] would have more than 2^63 bytes" in message
    assert not (tmp_path / "run").exists()


def interrupt_when_started(folder, *arguments):
    """A run in a process of its own, interrupted when it has made three steps."""
    command = [sys.executable, "-m", "graphir", "train", *map(str, arguments), "--out", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(read_metrics(folder / "metrics.jsonl")) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_ctrl_c_saves_and_says_how_to_go_on(call, text, tmp_path):
    folder, steps = tmp_path / "run", 100_000
    code, err = interrupt_when_started(folder, "--text", text, *MODEL, "--steps", steps, "--dropout", 0.2)
    assert code == 130
    ((step, path),) = list_checkpoints(folder)
    assert f"interrupted after step {step}, saved {path}; go on with\n  graphir train --resume --out {folder}\n" in err
    assert [record["step"] for record in read_metrics(folder / "metrics.jsonl")] == list(range(1, step + 1))
    assert not list(folder.glob(".*"))
    # Going on leads where the run would have come without the interruption.
    goal = step + 2
    assert call("train", "--resume", "--steps", goal, "--out", folder, "--quiet")[0] == 0
    whole = tmp_path / "whole"
    arguments = ["--steps", goal, "--schedule-steps", steps, "--dropout", 0.2, "--out", whole, "--quiet"]
    assert call("train", "--text", text, *MODEL, *arguments)[0] == 0
    ends = [load_checkpoint(list_checkpoints(each)[-1][1]).arrays for each in (folder, whole)]
    assert all(array.tobytes() == ends[1][name].tobytes() for name, array in ends[0].items())


# -- generate -------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_text(call, trained):
    texts = [call("generate", trained, "--tokens", 40, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("The ")


def test_without_temperature_no_seed_matters(call, trained):
    arguments = ["generate", trained, "--tokens", 20, "--temperature", 0, "--seed"]
    assert call(*arguments, 1) == call(*arguments, 2)


def test_a_prompt_longer_than_the_window(call, trained):
    prompt = "the cat sat on the mat " * 10
    code, out, _ = call("generate", trained, "--prompt", prompt, "--tokens", 5)
    assert code == 0
    assert out.startswith(prompt)
    assert len(out) > len(prompt)
    told = json.loads(call("generate", trained, "--prompt", prompt, "--tokens", 5, "--json")[1])
    assert told == {"texts": [{"prompt": prompt, "text": out.removeprefix(prompt).removesuffix("\n")}]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--temperature", -1],
            "--temperature must be at least 0, not -1.0",
        ),
        (["--temperature", "nan"], "--temperature must be a finite number, not nan"),
        (["--temperature", "inf"], "--temperature must be a finite number, not inf"),
        (["--top-k", 0], "--top-k must be at least 1, not 0; 1 always takes the most probable token"),
        (["--tokens", -1], "--max-tokens must be at least 0, not -1"),
        (["--seed", -1], "--seed must be at least 0, not -1"),
        (["--prompt", ""], "the prompt '' has no token that the model knows"),
    ],
)
def test_what_cannot_be_generated(call, trained, arguments, message):
    assert message in refuses(call, "generate", trained, *arguments)


def test_no_checkpoint_to_generate_from(call, tmp_path):
    assert "nowhere does not exist" in refuses(call, "generate", tmp_path / "nowhere")
    assert "holds no checkpoint" in refuses(call, "generate", tmp_path)
    (tmp_path / "notes.txt").write_text("a text")
    assert "is no whole safetensors file" in refuses(call, "generate", tmp_path / "notes.txt")


# -- ir, ops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["transformer", "mlp"])
def test_every_stage_is_printed_and_has_what_it_adds(call, model):
    texts = {}
    for stage in ("forward", "autodiff", "train", "lowered"):
        code, texts[stage], err = call("ir", model, "--stage", stage, "--layers", 1)
        assert (code, err) == (0, "")
    assert "dMatmul" not in texts["forward"]
    assert "dMatmul" in texts["autodiff"]
    assert "AdamW" not in texts["autodiff"]
    assert "AdamW" in texts["train"]
    assert "dMatmul" in texts["train"]
    assert "dMatmul(" not in texts["lowered"]
    assert "AdamW" in texts["lowered"]
    # Lines are the model's; what called the command line is of no interest.
    assert "graphir/models/" in texts["lowered"]
    assert "site-packages" not in texts["lowered"]
    assert "tests/" not in texts["lowered"]


def test_a_printed_graph_is_the_models(call, tmp_path):
    import graphir as gi

    assert call("ir", "transformer", "--layers", 1, "--untied", "-o", tmp_path / "model.txt") == (0, "", "")
    expected = gi.models.transformer(1, dropout=0.0, activation="relu", tied=False)
    assert gi.parse((tmp_path / "model.txt").read_text()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["model.txt"]


def test_what_cannot_be_printed(call, tmp_path):
    assert "the model mlp has no --positions, --tied" in refuses(
        call, "ir", "mlp", "--positions", "learned", "--untied"
    )
    assert "--layers must be at least 1, not 0" in refuses(call, "ir", "transformer", "--layers", 0)
    assert "no model is called 'rnn'; there are transformer, mlp, " in refuses(call, "ir", "rnn")
    message = refuses(call, "ir", "mlp", "-o", tmp_path / "no/folder/file")
    assert "cannot write" in message
    assert "No such file or directory" in message


def test_the_operator_dictionary_has_every_operator(call):
    import graphir as gi

    code, out, _ = call("ops")
    assert code == 0
    lines = out.splitlines()
    for each in gi.operators():
        called = each.symbol if each.symbol == each.key else f"{each.symbol} ({each.key})"
        assert any(line.startswith(f"{called}: ") for line in lines), each.key
    assert "    backward: dMatmul" in lines
    assert "    backward: by rule" in lines
    assert max(map(len, lines)) <= 80
