"""How much memory the machine has, read without any array library, and amounts of it in words."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def free_memory(root: Path = _ROOT) -> int | None:
    """Bytes that this process may still take, by the system and by the control groups it is in; None if not known."""
    return min([*_meminfo(root, "MemAvailable"), *(left for _, left in _groups(root))], default=None)


@functools.cache
def total_memory(root: Path = _ROOT) -> int | None:
    """Bytes that there are for this process if nobody else takes any, by the same; None if not known."""
    return min([*_meminfo(root, "MemTotal"), *(limit for limit, _ in _groups(root))], default=None)


def _meminfo(root: Path, field: str) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, amount = line.partition(":")
        if name == field:
            yield int(amount.split()[0]) << 10


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Each limit over this process, of version 2 and of version 1, and what it leaves.

    Pages of files can be given back.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        base = mounted / "memory" if version_1 else mounted
        limit, used, cache = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if version_1
            else ("memory.max", "memory.current", "inactive_file")
        )
        folder = base / group.strip("/")
        # In a container, the group's own name may not be there, but its limits are at the top.
        for each in (folder, *folder.parents):
            if not each.is_relative_to(base):
                break
            most, now = _read(each / limit).strip(), _read(each / used).strip()
            if most.isdigit() and now.isdigit() and int(most) < 1 << 60:
                files = dict(line.split() for line in _read(each / "memory.stat").splitlines()).get(cache, "0")
                yield int(most), max(int(most) - int(now) + int(files), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def spelled(count: int) -> str:
    """`12.3 GB`, `456.7 MB`."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e10 else f"{count / 1e6:,.1f} MB"
