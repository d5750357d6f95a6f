"""Makes the pictures that README.md and DOCUMENTS.md show: figures drawn from graphs, and what a command prints.

python examples/pictures/make.py
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

FIGURES = {
    "tp-mlp-backward.svg": "draw tp-mlp-backward",
    "swiglu.svg": "draw examples/swiglu.py:swiglu --tp 2",
}
#: The tensors of a PyTorch program, in which an all-reduce is forgotten, against the graph.
FAULT = (
    "check examples/check_pytorch.py:block --tp 2 --dump examples/data/pytorch_tp2/forgotten "
    "--map examples/data/pytorch_tp2/names.json"
)
#: Lines of the report that a reader should see first.
_LOUD = ("first departure", "  on ", "  why", "  written")
_LINE, _LETTER, _MARGIN = 18, 7.85, 16


def output(command: str) -> str:
    """What the command prints, whatever its exit code."""
    done = subprocess.run([sys.executable, "-m", "graphir", *shlex.split(command)], cwd=ROOT, capture_output=True)
    return done.stdout.decode()


def terminal(command: str, printed: str) -> str:
    """A command and what it prints, as an SVG that looks like a terminal."""
    shown = command.replace(" --dump", " \\\n    --dump").replace(" --map", " \\\n    --map")
    lines = [*f"$ graphir {shown}".split("\n"), *printed.rstrip().splitlines()]
    width = 2 * _MARGIN + _LETTER * max(map(len, lines))
    height = 2 * _MARGIN + _LINE * len(lines)
    rows = "\n".join(
        f'<text x="{_MARGIN}" y="{_MARGIN + _LINE * (i + 0.75):g}" fill="{_colour(i, line)}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">
<title>graphir check names a forgotten all-reduce</title>
<rect width="100%" height="100%" rx="8" fill="#1e2430"/>
<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" xml:space="preserve">
{rows}
</g>
</svg>
"""


def _colour(position: int, line: str) -> str:
    if position < len(FAULT.split(" --")) and line.lstrip().startswith(("$", "--")):
        return "#8fd3ff"
    return "#ff9d8a" if line.startswith(_LOUD) else "#d7dce6"


def main() -> None:
    for name, command in FIGURES.items():
        print(output(f"{command} -o {FOLDER / name}").strip())
    (FOLDER / "caught-fault.svg").write_text(terminal(FAULT, output(FAULT)), encoding="utf-8")


if __name__ == "__main__":
    main()
