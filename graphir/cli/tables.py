"""What is printed: how wide, amounts with units, the sizes that numbers stand for, layers that are alike said once."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

#: What a pipe or a file is printed for, which have no width of their own.
WIDTH = 80
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
#: A layer's name at the beginning of a scope's.
_LAYER = re.compile(r"(layer)(\d+)(?=/|\Z)")
#: What a line begins with: blanks, and a label that stands apart from its text.
_MARGIN = re.compile(r" *(?:\S+ {2,})?(?=\S)")

_T = TypeVar("_T")


def console() -> Console:
    """Where tables go, as wide as the terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def say(text: str) -> None:
    """Prints a line; what the stream's encoding lacks as its number, where click would write UTF-8 all the same."""
    print(text)


def wrapped(text: str, label: str = "", indent: int = 0) -> str:
    """`text` after a label, in lines that fit; what goes over stands below its beginning."""
    width = max(shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH, 40)
    start = " " * indent + label
    return textwrap.fill(
        text, width, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def folded(text: str) -> str:
    """Lines that fit: what goes over stands below its line's text, that of `  why   …` right of its label."""
    lines = text.split("\n")
    marks = [_MARGIN.match(line) for line in lines]
    return "\n".join(
        wrapped(line[mark.end() :], mark[0]) if mark else line for line, mark in zip(lines, marks, strict=True)
    )


def amount(number: Fraction | int | float, unit: str) -> str:
    """`1.54 kB`, `3.51 GFLOP`, `124 M parameters`: three digits, and a prefix before the unit."""
    value, power = float(number), 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_PREFIXES[power]}{unit}"


def sizes_line(sizes: Mapping[str, int]) -> str:
    """`with B=4, S=8, D=12`, whatever numbers stand for."""
    return wrapped(f"with {', '.join(f'{name}={size}' for name, size in sizes.items())}")


def beside_layer(name: str) -> str:
    """`layer/mha` of `layer3/mha`: what layers have in common."""
    return _LAYER.sub(r"\1", name, count=1)


def spanned(names: Sequence[str]) -> str:
    """`layer0…11/mha` of `layer0/mha` to `layer11/mha`, in either order; a name alone is that name."""
    names = sorted(names, key=lambda name: (len(name), name))
    first, last = _LAYER.match(names[0]), _LAYER.match(names[-1])
    if len(names) == 1 or not first or not last:
        return names[0]
    return f"{first[0]}…{last[2]}{names[0][first.end() :]}"


def alike(blocks: Sequence[tuple[str, _T]], same: Callable[[_T, _T], bool]) -> list[tuple[str, list[_T]]]:
    """Blocks in their order, those of layers that follow each other and are the same together, as `layer0…11`."""
    runs: list[tuple[list[str], list[_T]]] = []
    for name, each in blocks:
        names, members = runs[-1] if runs else ([], [])
        if names and _LAYER.match(name) and beside_layer(names[-1]) == beside_layer(name) and same(members[-1], each):
            names.append(name)
            members.append(each)
        else:
            runs.append(([name], [each]))
    return [(spanned(names), members) for names, members in runs]
