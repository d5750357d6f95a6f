"""The gallery's pictures are those that its commands make now, and its page shows all of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

GALLERY = ROOT / "examples/gallery"
SHOWN = re.findall(r"`graphir (draw [^`]*)`\n\n!\[[^\]]*\]\(([^)]*)\)", (GALLERY / "README.md").read_text())


def test_the_page_shows_every_picture() -> None:
    assert {file for _, file in SHOWN} == {path.name for path in GALLERY.glob("*.svg")}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "file"), SHOWN[3::6], ids=[file for _, file in SHOWN[3::6]])
def test_a_picture_is_what_its_command_draws(
    command: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(ROOT)
    code, _, told = call(*shlex.split(command), "-o", str(tmp_path / file))
    assert code == 0, told
    assert (tmp_path / file).read_text() == (GALLERY / file).read_text()
