"""`graphir draw` and `graphir guide` from the command line: every format, whole files, errors of one line."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from graphir.cli import main
from graphir.drawing import figures
from graphir.drawing.render import renderers


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of the command line."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    seen = capsys.readouterr()
    return end.value.code, seen.out, seen.err


def test_list_names_every_figure_and_its_place(capsys):
    code, out, _ = run(capsys, "draw", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [each.id for each in figures()]
    assert "B 5.3.2" in next(line for line in out.splitlines() if line.startswith("mha-backward"))


def test_a_figure_as_svg(capsys, tmp_path):
    file = tmp_path / "attention.svg"
    assert run(capsys, "draw", "mha-backward", "-o", file)[:2] == (0, f"{file}\n")
    words = "".join(ElementTree.parse(file).getroot().itertext())
    assert "dMatmul" in words
    assert "AO" in words
    assert [each.name for each in tmp_path.iterdir()] == ["attention.svg"]


@pytest.mark.parametrize(
    ("format", "start"), [("dot", b"digraph"), ("png", b"\x89PNG"), ("html", b"<!DOCTYPE html>"), ("json", b"{")]
)
def test_the_suffix_says_the_format(capsys, tmp_path, format, start):
    if format == "png" and format not in renderers():
        pytest.skip(f"nothing on this machine draws {format}")
    file = tmp_path / f"figure.{format}"
    assert run(capsys, "draw", "mlp-forward", "-o", file)[0] == 0
    assert file.read_bytes().startswith(start)


def test_without_output_the_figure_s_name_is_the_file_s(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "draw", "node-single", "--format", "dot")[1] == "node-single.dot\n"
    assert (tmp_path / "node-single.dot").read_text().startswith("digraph")


@pytest.mark.slow
def test_all_figures_into_a_folder(capsys, tmp_path):
    assert run(capsys, "draw", "--all", "--format", "dot", "-o", tmp_path / "out")[0] == 0
    assert {each.stem for each in (tmp_path / "out").iterdir()} == {each.id for each in figures()}


def test_options_change_the_figure(capsys, tmp_path):
    files = [tmp_path / name for name in ("two.dot", "four.dot", "lowered.dot", "folded.dot")]
    run(capsys, "draw", "tp-overall", "--tp", 2, "--heads", 6, "-o", files[0])
    run(capsys, "draw", "tp-overall", "--tp", 3, "--heads", 6, "-o", files[1])
    assert files[0].read_text().count("GPU") < files[1].read_text().count("GPU")
    run(capsys, "draw", "mlp-backward", "--lowered", "-o", files[2])
    run(capsys, "draw", "mlp-backward", "-o", files[3])
    assert "dMatmul" in files[3].read_text()
    assert "op=dMatmul" not in files[2].read_text()


def test_a_model_at_a_stage_under_a_mesh(capsys, tmp_path):
    file = tmp_path / "model.dot"
    code, _, _ = run(
        capsys, "draw", "transformer", "--stage", "train", "--layers", 12, "--dp", 2, "--tp", 3, "-o", file
    )
    assert code == 0
    source = file.read_text()
    assert "op=AR" in source
    assert "12" in source, "the layers are drawn once, × 12"
    assert len(source) < 400_000


def test_a_layer_can_be_drawn_on_its_own(capsys, tmp_path):
    file = tmp_path / "model.dot"
    run(capsys, "draw", "transformer", "--layers", 12, "--expand-layer", 5, "-o", file)
    assert "layer5/mha" in file.read_text()
    assert "layer7/mha" not in file.read_text()


@pytest.mark.slow
def test_the_full_view_folds_no_layer(capsys, tmp_path):
    file = tmp_path / "model.svg"
    assert run(capsys, "draw", "transformer", "--layers", 3, "--view", "full", "-o", file)[0] == 0
    words = file.read_text()
    assert ">layer2</tspan>" in words
    assert "layer2/mha/A_out" in words
    assert "× 3" not in words


def test_json_is_the_whole_graph(capsys, tmp_path):
    file = tmp_path / "model.json"
    run(capsys, "draw", "mlp", "--stage", "forward", "--layers", 3, "-o", file)
    (graph,) = json.loads(file.read_text())["graphs"]
    assert {"layer0/Z", "layer2/Z", "loss/L"} <= {node["id"] for node in graph["nodes"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mha-bakward"],
            "'mha-bakward' is neither a figure nor a model (transformer, mlp); did you mean mha-backward",
        ),
        (["chain", "-o", "x.gif"], "the suffix of 'x.gif' names no format; use .dot, .svg, .png, .pdf, .html, .json"),
        (["chain", "-o", "x"], "'x' has no suffix, which names no format"),
        (["chain", "--format", "dot", "-o", "no/such/x.dot"], "cannot write no/such/x.dot: No such file or directory"),
        (["chain", "--learning-rate", "1", "-o", "x.dot"], "a figure has no --learning-rate"),
        (["transformer", "--lowered", "-o", "x.dot"], "a model has no --lowered"),
        (["transformer", "--view", "sideways", "-o", "x.dot"], "has no view called 'sideways'"),
        (["transformer", "--expand-layer", "9", "-o", "x.html"], "cannot unfold layer 9: the model has layers 0 to 1"),
        (["mlp", "--dropout", "0.5", "-o", "x.dot"], "the model mlp has no --dropout"),
        (["tp-overall", "--tp", "4", "-o", "x.dot"], "heads=6 do not divide among tp=4"),
        (["--all"], "say with -o which folder to draw all figures into"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "draw", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_draw_is_a_usage_error(capsys):
    code, _, err = run(capsys, "draw")
    assert code == 2
    assert "name a figure or a model to draw; graphir draw --list lists the figures" in err


# -- graphir guide ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_guide_is_written(capsys, tmp_path):
    file = tmp_path / "guide.html"
    code, out, _ = run(capsys, "guide", "-o", file, "--layers", 2, "--heads", 4, "--tp", 2, "--width", 64)
    assert (code, out) == (0, f"{file}\n")
    assert file.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0"], "--layers must be at least 1, not 0"),
        (["--heads", "4", "--tp", "3"], "heads=4 do not divide among tp=3"),
    ],
)
def test_a_guide_that_cannot_be_is_refused(capsys, tmp_path, arguments, message):
    code, _, err = run(capsys, "guide", "-o", tmp_path / "guide.html", *arguments)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_lists_are_read_by_programs_too(capsys):
    listed = json.loads(run(capsys, "draw", "--list", "--json")[1])
    assert [each["id"] for each in listed] == [each.id for each in figures()]
    assert {"title", "where", "caption"} <= listed[0].keys()
    assert "--json is for --list" in run(capsys, "draw", "chain", "--json")[2]
    operators = json.loads(run(capsys, "ops", "--json")[1])
    assert next(each for each in operators if each["key"] == "LN")["d-operator"] == "dLN"


@pytest.mark.parametrize(
    "arguments",
    [
        ("mha-backward", "--tp", 2),
        ("mha-backward", "--layers", 5),
        ("mha-forward", "--heads", 12),
        ("tp-mha-forward", "--tp", 2),
        ("loss-forward", "--lowered"),
        ("mha-forward", "--activation", "relu"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_an_option_that_changes_nothing_in_a_figure_is_refused(capsys, tmp_path, arguments):
    code, _, err = run(capsys, "draw", *arguments, "-o", tmp_path / "figure.dot")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert f"{arguments[1]} changes nothing in the figure {arguments[0]}" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--all", "-o", "all.svg"), "names one; name a folder"),
        (("--list", "--tp", 2), "--list only lists the figures"),
        (("transformer", "--expand-layer", 7, "-o", "x.dot"), "cannot unfold layer 7: the model has layers 0 to 1"),
        (("transformer", "--tp", 2, "--plan", "", "-o", "x.dot"), "--plan is empty"),
        (("transformer", "--view", "overall", "-o", "x.html"), "html holds every view"),
        (("transformer", "--heads", 2, "-o", "x.dot"), "a model is drawn in named dims"),
        (("transformer", "--learning-rate", 1, "-o", "x.dot"), "the stage autodiff has no optimizer"),
    ],
)
def test_options_that_do_nothing_are_refused(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "draw", *arguments)
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert message in err
