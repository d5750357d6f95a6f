"""How much memory there is, as the system and its control groups tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphir.memory import free_memory, total_memory


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


_MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    2000 kB\n"


def test_what_is_free_is_what_the_system_calls_available(tmp_path: Path) -> None:
    assert free_memory(_machine(tmp_path, {"proc/meminfo": _MEMINFO})) == 2000 << 10


def test_what_there_is_is_all_that_the_system_has(tmp_path: Path) -> None:
    assert total_memory(_machine(tmp_path, {"proc/meminfo": _MEMINFO})) == 16_000_000 << 10


def test_nothing_is_known_where_there_is_no_such_file(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    assert total_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("groups", "folder", "names"),
    [
        ("0::/user/job", "sys/fs/cgroup/user", ("memory.max", "memory.current", "inactive_file")),
        (
            "5:cpu:/x\n4:pids,memory:/user/job",
            "sys/fs/cgroup/memory/user",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_a_control_groups_limit_counts_those_above_it_too(
    groups: str, folder: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    """The limit is of the group above; pages of files among what is used can be given back."""
    limit, used, cache = names
    files = {
        "proc/meminfo": _MEMINFO,
        "proc/self/cgroup": groups,
        f"{folder}/{limit}": "1000000\n",
        f"{folder}/{used}": "700000\n",
        f"{folder}/memory.stat": f"anon 5\n{cache} 100000\n",
        f"{folder}/job/{limit}": "max\n" if "max" in limit else "9223372036854771712\n",
        f"{folder}/job/{used}": "600000\n",
    }
    root = _machine(tmp_path, files)
    assert free_memory(root) == 400_000
    assert total_memory(root) == 1_000_000
