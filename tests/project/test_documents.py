"""The documents speak of what there is: files, modules, functions; and the architecture is told in one page."""

from __future__ import annotations

import ast
import pydoc
import re
from collections.abc import Iterator
from functools import cache

import pytest

from graphir.drawing import figures
from tests.support.paths import ROOT

PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("ARCHITECTURE.md", "README.md", "USAGE.md", "DOCUMENTS.md", "SECURITY.md", "CHANGELOG.md")
}
ARCHITECTURE = PAGES["ARCHITECTURE.md"]

#: A path that begins with one of the project's folders, wherever it stands: in prose, a command, a link's target.
_PATH = re.compile(r"(?<![\w./-])(?:\.ci|backends|benchmarks|examples|graphir|passes|tests)(?:/[\w-][\w.-]*)+")
#: A file's name in backticks.
_FILE = re.compile(r"`([\w./-]+\.(?:py|md|toml|cuh?))`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
#: A program that Python is asked to run.
_PROGRAM = re.compile(r"-m ((?:tests|benchmarks|graphir)[\w.]*)")
#: A name of the package, as it is imported.
_DOTTED = re.compile(r"(?<![\w./])(?:gi|graphir)((?:\.[A-Za-z_]\w*)+)")
#: Where the page says that something is done.
_ANSWER = re.compile(r"`([\w.]+)`\s+in\s+`([\w./]+\.py)`")


def paths_in(text: str) -> set[str]:
    """Every path and file that a text names."""
    found = {*_PATH.findall(text), *_FILE.findall(text), *_LINK.findall(text)}
    return {path.rstrip(".") for path in found}


def missing(text: str) -> list[str]:
    """What a text names and the project does not have."""
    gone = [path for path in paths_in(text) if not (ROOT / path).exists()]
    for name in _PROGRAM.findall(text):
        program = ROOT / name.replace(".", "/")
        if not (program.with_suffix(".py").is_file() or (program / "__main__.py").is_file()):
            gone.append(f"-m {name}")
    gone += [f"graphir{name}" for name in _DOTTED.findall(text) if pydoc.locate(f"graphir{name}") is None]
    return sorted(gone)


@cache
def defined_in(path: str) -> frozenset[str]:
    """The functions, classes and methods that a file defines, methods as `Class.method`."""

    def names(body: list[ast.stmt], above: str = "") -> Iterator[str]:
        for each in body:
            if isinstance(each, ast.FunctionDef | ast.ClassDef):
                yield f"{above}{each.name}"
                if isinstance(each, ast.ClassDef):
                    yield from names(each.body, f"{each.name}.")

    return frozenset(names(ast.parse((ROOT / path).read_text(encoding="utf-8")).body))


def unanswered(text: str) -> list[tuple[str, str]]:
    """What a text says to be in a file, and is not."""
    return [(name, path) for name, path in _ANSWER.findall(text) if name not in defined_in(path)]


def section(title: str) -> str:
    """What stands under a heading of the architecture's page."""
    _, _, rest = ARCHITECTURE.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    assert paths_in(PAGES[page])
    assert missing(PAGES[page]) == []


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("see `graphir/ir/dim.py`.", "graphir/ir/dim.py"),
        ("`nowhere.py`", "nowhere.py"),
        ("[a page](benchmarks/results/none.md#top)", "benchmarks/results/none.md"),
        ("run `python -m tests.siege`", "-m tests.siege"),
        ("by `gi.compiled(graph)`", "graphir.compiled"),
        ("`graphir.ir.dims.dimension`", "graphir.ir.dims.dimension"),
    ],
)
def test_what_is_not_there_is_found(text: str, gone: str) -> None:
    assert missing(text) == [gone]


def test_the_ten_answers_lead_to_what_they_name() -> None:
    answers = re.split(r"^\d+\. ", section("Ten questions"), flags=re.MULTILINE)[1:]
    assert len(answers) == 10
    assert all(_ANSWER.search(answer) for answer in answers)
    # A file that is named says what of it is meant.
    assert {path for answer in answers for path in _FILE.findall(answer)} == {
        path for answer in answers for _, path in _ANSWER.findall(answer)
    }
    assert unanswered(section("Ten questions")) == []
    assert unanswered("`nobody` in\n`graphir/ir/dims.py`") == [("nobody", "graphir/ir/dims.py")]


def test_every_room_is_in_the_table() -> None:
    def packages(folder: str) -> set[str]:
        found = {file.parent for file in (ROOT / folder).glob("*/__init__.py")}
        return {package.name for package in found if not package.is_symlink()}

    rooms = {"passes", "backends", *packages("backends"), *(f"graphir/{name}" for name in packages("graphir"))}
    assert rooms - set(re.findall(r"`([\w./]+)`", section("Rooms"))) == set()


#: Packages that have a map of their modules; elsewhere a folder holds files of one kind, or few.
MAPPED = (
    *("backends", "backends/communicator", "backends/compiled", "backends/cupy", "backends/numpy"),
    *("backends/numpy/fast", "backends/proof", "backends/rows", "passes", "passes/fuse", "passes/sharding"),
    *("graphir/checking", "graphir/export/onnx", "graphir/formula", "graphir/ir", "graphir/training"),
)


@pytest.mark.parametrize("package", MAPPED)
def test_a_map_of_modules_is_complete(package: str) -> None:
    folder = ROOT / package
    told = set(re.findall(r"\w+", ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""))
    modules = {file.stem for file in folder.glob("*.py")} | {file.parent.name for file in folder.glob("*/__init__.py")}
    assert modules - {"__init__"} - told == set()


def test_the_architecture_is_one_page() -> None:
    assert ARCHITECTURE.count("\n") <= 140
    for what in ("an operator", "a pass", "a backend"):
        assert 0 < section(f"Adding {what}").strip().count("\n") < 12


def test_every_figure_is_listed_with_its_sections_and_speaks_for_itself() -> None:
    """No caption asks for a document that its reader has not."""
    listed = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (.*) \|$", PAGES["DOCUMENTS.md"], flags=re.MULTILINE))
    assert listed == {each.id: each.where for each in figures()}
    letters = re.compile(r"\b[AB] (?:\d|calls|writes|has|counts|splits)|\b[AB]'s\b|as in [AB]\b")
    assert [each.id for each in figures() if letters.search(each.caption)] == []
