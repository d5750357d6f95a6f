"""Where in the user's program a node was written."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

_PACKAGE = Path(__file__).resolve().parents[1]
#: Folders whose frames are the machinery, not the author. `graphir/models` is not among them: its files are
#: programs in the public language, and a node of a ready-made model is best explained by the model's line; but for
#: what its parts share, which is called from that line.
_MACHINERY = (
    *(
        f"{(_PACKAGE / folder).resolve()}{os.sep}"
        for folder in ("ir", "operators", "passes", "backends", "text", "training", "checking", "testing", "cli")
    ),
    str((_PACKAGE / "models/parts/frame.py").resolve()),
)
#: Behind the command line stands no program of the user's, only whatever called it.
_COMMAND_LINE = f"{(_PACKAGE / 'cli').resolve()}{os.sep}"
#: Of each file whether it is machinery, and whether it is the command line's.
_known: dict[str, tuple[bool, bool]] = {}
_shown: dict[str, str] = {}


def user_line() -> str | None:
    """`examples/mlp.py:12`: the innermost frame outside the machinery; None if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        known = _known.get(file)
        if known is None:
            resolved = str(Path(file).resolve())
            known = _known[file] = resolved.startswith(_MACHINERY), resolved.startswith(_COMMAND_LINE)
        inside, of_command_line = known
        if not inside:
            return f"{_show(file)}:{frame.f_lineno}"
        if of_command_line:
            return None
        frame = frame.f_back
    return None


def _show(file: str) -> str:
    """The path as short as it stays findable: from the package, from the working directory, or whole."""
    shown = _shown.get(file)
    if shown is None:
        path = Path(file).resolve()
        if path.is_relative_to(_PACKAGE):
            path = path.relative_to(_PACKAGE.parent)
        elif path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())
        shown = _shown[file] = path.as_posix()
    return shown
