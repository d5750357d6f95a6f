"""Tests on a real GPU, all of them: `pytest -m gpu`. Where there is none they are skipped, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphir.backends.device import require_device
from graphir.errors import DeviceError, MissingDependencyError

HERE = Path(__file__).parent


def why_not() -> str:
    """Why these tests cannot run; nothing if they can."""
    try:
        require_device()
    except (DeviceError, MissingDependencyError) as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    reason = why_not() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
