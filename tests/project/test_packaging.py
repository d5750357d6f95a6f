"""Packaging: what pyproject.toml lists is all there is, and what is built and installed can be imported whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import graphir
from graphir.extras import EXTRAS, install
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

#: Imports every module of the graphir it finds, and prints where that is and what it found.
IMPORT_ALL = """
import importlib, pathlib, graphir
root = pathlib.Path(graphir.__file__).parent
print(root)
for folder in (root, root / "passes", root / "backends"):
    for file in folder.rglob("*.py"):
        parts = file.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.endswith("__main__"):
            importlib.import_module(name)
        print(name)
"""


def modules():
    """Every module's path inside the package `graphir`: the two links are followed, each file comes once."""
    for folder in ("graphir", "graphir/passes", "graphir/backends"):
        for file in (ROOT / folder).rglob("*.py"):
            yield file.relative_to(ROOT).as_posix()


def data_files():
    """Every file that is no module and that a module reads: the type marker, assets, prose."""
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / package.replace(".", "/")
        for pattern in patterns:
            yield from (file.relative_to(ROOT).as_posix() for file in folder.glob(pattern))


def dotted(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# -- what is listed ---------------------------------------------------------------------------------------


def test_every_subpackage_is_listed():
    folders = {dotted(str(Path(path).parent)) for path in modules()}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(folders)


def test_every_folder_of_modules_is_a_package():
    found = set(modules())
    assert {f"{Path(path).parent.as_posix()}/__init__.py" for path in found} <= found


def test_the_links_lead_to_the_two_folders():
    for name in ("passes", "backends"):
        assert (ROOT / "graphir" / name).is_symlink()
        assert os.readlink(ROOT / "graphir" / name) == f"../{name}"
        assert PROJECT["tool"]["setuptools"]["package-dir"][f"graphir.{name}"] == name


def test_every_file_that_is_no_module_is_listed():
    folders = ROOT / "graphir", ROOT / "graphir/passes", ROOT / "graphir/backends"
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    others = {file for file in files if file.suffix not in (".py", ".pyc", ".md")}
    assert {file.relative_to(ROOT).as_posix() for file in others} == set(data_files())


def test_the_version_is_told_once():
    assert PROJECT["project"]["version"] == graphir.__version__


def test_people_are_told_to_install_extras_that_there_are():
    files = [*map(ROOT.joinpath, modules())]
    told = {
        name for file in files for name in re.findall(r"""install\(f?['"](\w+)""", file.read_text(encoding="utf-8"))
    }
    assert set(EXTRAS) <= set(PROJECT["project"]["optional-dependencies"])
    assert told >= {"viz", "fast", "mpi", "onnx", "xla"}
    assert told <= {*EXTRAS, "cuda"}, "the number of a CUDA follows it"
    assert install("fast") == 'pip install ".[fast]" in graphir\'s checkout'


def test_every_hint_installs_what_is_ours():
    """From the checkout: neither by the name on PyPI, which is another project's, nor package by package."""
    pattern = re.compile(r"install[^\n]*graphir\[\w|pip install (?!--|-e |[\"']\.\[)")
    folders = ("benchmarks/**/*.py", "examples/**/*.py")
    files = [*map(ROOT.joinpath, modules()), *(file for folder in folders for file in ROOT.glob(folder))]
    files += [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/**/*.md")]
    found = {
        f"{file.relative_to(ROOT)}: {line}"
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if pattern.search(line) and file.name != "extras.py"
    }
    assert found == set()


def test_extras_are_what_the_readme_promises():
    assert {"viz", "fast", "mpi", "cuda12", "cuda13", "test"} <= set(PROJECT["project"]["optional-dependencies"])


# -- what is built ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what a build reads, so that building leaves nothing behind in the real one."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("graphir", "passes", "backends"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]):
        shutil.copy(ROOT / name, copy)
    return copy


def run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | options.pop("env", {})
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


#: A model with its gradients, which needs both folders.
EXAMPLE = """
import graphir as gi
from graphir.passes import autodiff
step = autodiff(gi.models.mlp(1, dtype="float64"))
sizes = {"B": 2, "D_in": 3, "D_out": 2}
run = gi.compile(step, sizes, threads=1)(gi.initialize(step, sizes), {"X": [[1.0] * 3] * 2, "Target": [[0.0] * 2] * 2})
print(float(run["loss/L"]) > 0, *gi.__path__)
"""


@pytest.mark.slow
def test_a_checkout_without_symbolic_links_is_imported_all_the_same(checkout, tmp_path):
    """As a zip has it that is unpacked on Windows: each link is a small text file."""
    for name in ("passes", "backends"):
        (checkout / "graphir" / name).rename(tmp_path / name)
        (checkout / "graphir" / name).write_text(f"../{name}", encoding="utf-8")
    try:
        assert run("-c", EXAMPLE, cwd=checkout) == f"True {checkout / 'graphir'} {checkout}\n"
        file = run("-c", "import graphir.backends.numpy as here; print(here.__file__)", cwd=checkout)
        assert Path(file.strip()) == checkout / "backends/numpy/__init__.py"
    finally:
        for name in ("passes", "backends"):
            (checkout / "graphir" / name).unlink()
            (tmp_path / name).rename(checkout / "graphir" / name)


@pytest.mark.slow
def test_a_checkout_with_links_is_looked_into_nowhere_else(checkout):
    assert run("-c", EXAMPLE, cwd=checkout) == f"True {checkout / 'graphir'}\n"


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, checkout)
    (built,) = folder.glob("graphir-*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_holds_every_module_once(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(set(names)) == len(names)
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == {*modules(), *data_files()}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_a_wheel_can_be_imported_whole(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    where, *found = run("-c", IMPORT_ALL, cwd=tmp_path).splitlines()
    assert Path(where) == tmp_path / "graphir"
    assert set(found) == {dotted(path) for path in modules()}


@pytest.mark.slow
def test_an_editable_install_finds_the_two_folders(checkout, tmp_path):
    # --ignore-installed: an installed graphir, editable or not, is not to be touched.
    install = ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--ignore-installed")
    run(*install, "--no-warn-script-location", "--prefix", tmp_path, "--editable", checkout)
    scheme = {"base": tmp_path, "platbase": tmp_path}
    packages = Path(sysconfig.get_path("purelib", "posix_prefix", {key: str(path) for key, path in scheme.items()}))
    # Its .pth file works from a site folder only, so the program makes one of it first.
    # An editable install that the tests themselves run from would answer first, with a finder of the same name.
    program = (
        f"import site, sys; sys.path[:0] = ['', {str(packages)!r}]\n"
        "for name in [name for name in sys.modules if name.startswith('__editable__')]: del sys.modules[name]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, '__module__', '').startswith('__editable__')]\n"
        f"site.addsitedir({str(packages)!r})\n{IMPORT_ALL}"
    )
    where, *found = run("-c", program, cwd=tmp_path).splitlines()
    assert Path(where).resolve() == (checkout / "graphir").resolve()
    assert set(found) == {dotted(path) for path in modules()}
