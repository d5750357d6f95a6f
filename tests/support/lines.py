"""Where a test stands, as graphir writes it."""

from __future__ import annotations

import inspect
from pathlib import Path


def this_line(offset: int = 0) -> str:
    """How graphir writes the caller's line, `offset` lines on."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    caller = frame.f_back
    path = Path(caller.f_code.co_filename).resolve()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown.as_posix()}:{caller.f_lineno + offset}"
