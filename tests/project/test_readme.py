"""What the README and its continuation say is so: programs run, commands are there, pictures show what is printed."""

from __future__ import annotations

import re
import runpy
from xml.etree import ElementTree

import numpy as np
import pytest

from graphir.backends.arrays import is_on_device
from graphir.cli import cli
from tests.cuda import emulator, standin
from tests.support.hub import with_tokenizer
from tests.support.paths import ROOT

README, USAGE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "USAGE.md"))


(OWN_GRAPH,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PROGRAM, OF_OTHERS, ON_A_GPU = re.findall(r"```python\n(.*?)```", USAGE, flags=re.DOTALL)


def run(*programs):
    """The names that the programs leave behind, one after the other; they are the project's own text."""
    ids = np.arange(8 * 32).reshape(8, 32) % 256
    names = {"ids": ids, "targets": np.roll(ids, -1, axis=1)}
    for program in programs:
        exec(compile(program, "README.md", "exec"), names)
    return names


def test_the_readme_is_short():
    assert README.count("\n") <= 90
    assert README.index("caught-fault.svg") < README.index("## Two commands")


def test_the_program_runs(capsys):
    assert float(run(PROGRAM)["out"]["L"]) == pytest.approx(np.log(256), rel=0.02)
    assert "pending sum(tp)" in capsys.readouterr().out


def test_the_program_with_a_model_of_others_runs(capsys, tmp_path):
    pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")
    pytest.importorskip("jinja2", reason="the extra `hub` is not installed")
    folder = with_tokenizer("llama", tmp_path)
    names = run(
        "import graphir as gi\nfrom graphir.passes import autodiff, shard",
        OF_OTHERS.replace("path/to/SmolLM2-135M", str(folder)),
    )
    assert capsys.readouterr().out.split()[0].startswith("w")
    assert names["local"].mesh.sizes == {"tp": 3}


@pytest.mark.slow
@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
def test_the_program_for_a_gpu_runs_over_the_stand_in():
    assert "range(1000)" in ON_A_GPU
    with standin.installed():
        names = run(PROGRAM, ON_A_GPU.replace("range(1000)", "range(3)"))
    assert is_on_device(names["tensors"]["embedding/E"])
    assert float(names["loss"]) < float(names["out"]["L"])


def test_the_graph_of_ones_own_is_the_example_and_its_commands_run(call, tmp_path, monkeypatch):
    example = runpy.run_path(str(ROOT / "examples/swiglu.py"))["swiglu"]()
    assert run(OWN_GRAPH)["swiglu"]() == example
    (commands,) = re.findall(r"```bash\n(graphir draw .*?)```", README, flags=re.DOTALL)
    file = ROOT / "examples/swiglu.py"
    monkeypatch.chdir(tmp_path)
    for command in commands.strip().splitlines():
        _, *words = command.replace("examples/swiglu.py", str(file)).split()
        assert call(*words)[0] == 0
    drawn = (ElementTree.parse(each) for each in (tmp_path / "swiglu.svg", ROOT / "examples/pictures/swiglu.svg"))
    assert len({"".join(each.getroot().itertext()) for each in drawn}) == 1


@pytest.mark.slow
def test_the_picture_of_a_fault_shows_what_is_printed():
    make = runpy.run_path(str(ROOT / "examples/pictures/make.py"), run_name="make")
    picture = (ROOT / "examples/pictures/caught-fault.svg").read_text(encoding="utf-8")
    assert picture == make["terminal"](make["FAULT"], make["output"](make["FAULT"]))
    assert "first departure: dX.AR" in picture
    assert "rank 1 (tp=1)" in picture
    assert "examples/check_pytorch.py:" in picture


def test_every_command_is_in_the_table_and_every_one_in_the_table_exists():
    told = set(re.findall(r"^\| `graphir (\w+)", USAGE, flags=re.MULTILINE))
    assert told == set(cli.list_commands(None))
