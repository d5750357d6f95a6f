"""An option of a model is declared once: whoever builds, trains, keeps, checks or draws one takes it from there."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

import graphir as gi
from graphir.checking import Setting
from graphir.checking.options import SettingOptions
from graphir.cli import cli
from graphir.errors import ConfigError
from graphir.models.sizes import DIMS, Sizes
from graphir.models.transformer import Architecture, Options
from graphir.options import Option, flag, option, options_of
from graphir.training import TrainConfig
from tests.support.paths import ROOT

#: The commands that build a Transformer of the user's choice.
COMMANDS = ("train", "ir", "draw", "check", "why", "cost", "profile")


def flags(command: str) -> set[str]:
    """All that the command line takes, `--untied` for `--tied` among it."""
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return {name for each in found.params for name in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("name", options_of(Architecture))
def test_every_option_of_the_model_is_reached_from_everywhere(name: str) -> None:
    assert all(flag(name) in flags(command) for command in COMMANDS)
    assert all(name in options_of(each) for each in (Options, TrainConfig, SettingOptions, Setting))
    assert name in TrainConfig().as_dict()
    assert name in TrainConfig().model_options()
    assert name in Setting().model_options()


def test_what_a_model_is_built_for_is_no_option_of_the_command_line() -> None:
    """A mask that is not causal, say: who trains or samples knows what that needs, and asks for it."""
    own = options_of(Options).keys() - options_of(Architecture) - {"text", "tokenizer"}
    assert own == {"causal", "mask", "mean", "padded", "loss", "packed", "cached", "decode", "k", "temperature"}
    assert not any(flag(name) in flags("train") for name in own)


@pytest.mark.parametrize("name", options_of(Sizes))
def test_every_size_is_reached_from_everywhere(name: str) -> None:
    assert all(flag(name) in flags(command) for command in ("train", "check", "why", "cost", "profile", "guide"))
    changed = replace(TrainConfig(), **{name: 12}).sizes(vocabulary=5)
    assert (changed[DIMS[name]], changed["V"]) == (12, 5)


def test_every_option_has_a_sentence() -> None:
    for declared_by in (Options, Sizes, TrainConfig, SettingOptions):
        for name, declared in options_of(declared_by).items():
            assert declared.help.partition("  [")[0].endswith("."), name


#: Declares an option more, as its author would, and asks everybody for it.
ONE_MORE = """
from graphir.checking import Setting
from graphir.cli import cli
from graphir.models.transformer import Options, transformer
from graphir.training import TrainConfig
import click, contextlib, io, json

built = []
composition = Options.composition
Options.composition = lambda self: (built.append(self.window), composition(self))[1]

told = TrainConfig.from_dict(json.loads(json.dumps(TrainConfig(window=5).as_dict())), "here")
transformer(**told.model_options())
Setting(1, window=6).single()
with contextlib.redirect_stdout(io.StringIO()) as out:
    cli.main(["ir", "transformer", "--window", "7"], standalone_mode=False)
    cli.main(["why", "--layers", "1", "--window", "8"], standalone_mode=False)
    for command in COMMANDS:
        cli.main([command, "--help"], standalone_mode=False)
assert out.getvalue().count("How far a place sees.  [default: 0]") == len(COMMANDS), out.getvalue()
assert TrainConfig.from_dict({"layers": 1}, "an older checkpoint").window == 0
try:
    TrainConfig(window=-1).check()
except Exception as error:
    print(built, error)
"""


@pytest.mark.slow
def test_one_more_option_touches_one_file(tmp_path: Path) -> None:
    copy = tmp_path / "graphir"
    shutil.copytree(ROOT / "graphir", copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("passes", "backends"):
        (tmp_path / name).symlink_to(ROOT / name)
    declaring = copy / "models/transformer.py"
    text = declaring.read_text(encoding="utf-8")
    (before,) = [line for line in text.splitlines() if line.startswith("    dtype: str = option(")]
    more = '    window: int = option(0, "How far a place sees.", least=0)'
    declaring.write_text(text.replace(before, f"{before}\n{more}"), encoding="utf-8")
    program = f"COMMANDS = {COMMANDS!r}\n{ONE_MORE}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == "[5, 6, 7, 8] --window must be at least 0, not -1\n", done.stderr


def test_no_other_file_lists_the_models_options() -> None:
    """But for what has another default, one at a time, and the figures, which show what one of them changes."""
    names = set(options_of(Architecture)) - {"layers", "dtype", "dropout"}
    for file in (ROOT / "graphir").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in names}
        said |= {
            node.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in names
        }
        assert len(said) < 2 or file.name == "transformer.py", file


# -- what a declaration says -------------------------------------------------------------------------------


def test_a_field_without_a_type_is_no_option() -> None:
    with pytest.raises(AssertionError, match="a default of None has no type"):
        option(None, "A size.")


def test_true_is_no_number_and_one_is_no_switch() -> None:
    number = Option(default=1, help="A number.", kind=int, choices=(1, 2))
    with pytest.raises(ConfigError, match=r"^n True is none of 1, 2$"):
        number.check("n", True)
    with pytest.raises(ConfigError, match=r"^s must be bool, not 1$"):
        Option(default=True, help="A switch.", kind=bool).check("s", 1)


def test_models_are_asked_for_by_name() -> None:
    assert gi.models.MODELS["mlp"].build(1) == gi.models.mlp(1)
    assert gi.models.MODELS["transformer"].build(1) == gi.models.transformer(1)
