"""Makes the gallery: its pictures, each by one command of graphir's, and the page that shows them.

python examples/gallery/make.py
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


@dataclass(frozen=True)
class Entry:
    """A picture: what is said of it, its file, and what `graphir draw` is asked for to make it."""

    said: str
    file: str
    drawn: str


def documents() -> Iterator[Entry]:
    """Every figure of the documents."""
    listed = subprocess.run(
        [sys.executable, "-m", "graphir", "draw", "--list", "--json"], cwd=ROOT, capture_output=True
    )
    for figure in json.loads(listed.stdout):
        yield Entry(figure["title"], f"{figure['id']}.svg", figure["id"])


#: Blocks of models that people have, in the same language.
BLOCKS = (
    Entry("Attention of Llama 3: rotary positions, grouped heads", "llama3-mha.svg", "mha-forward --model llama3-8b"),
    Entry("… and its backward pass", "llama3-mha-backward.svg", "mha-backward --model llama3-8b"),
    Entry("The gated MLP of Llama 3", "llama3-mlp.svg", "mlp-forward --model llama3-8b"),
    Entry(
        "Attention of Qwen 3, whose queries and keys are normalised", "qwen3-mha.svg", "mha-forward --model qwen3-8b"
    ),
    Entry("The MLP of GPT-2", "gpt2-mlp.svg", "mlp-forward --model gpt2"),
    Entry("GPT-2 as a whole", "gpt2.svg", "transformer-overall --model gpt2"),
    Entry("Grouped heads on one of N_T ranks", "grouped-heads.svg", "tp-mha-forward --model llama3-8b"),
    Entry("A block of one's own", "swiglu.svg", "examples/swiglu.py:swiglu --tp 2"),
)

#: A block under each plan.
PLANS = tuple(
    Entry(f"`--plan {plan}`", f"plan-{plan}.svg", f"transformer --view layer0/mlp {ranks} --plan {plan}")
    for plan, ranks in {
        "data": "--dp 2",
        "megatron": "--tp 2",
        "sequence": "--tp 2",
        "context": "--cp 2",
        "zero1": "--dp 2 --stage train",
        "zero3": "--dp 2 --stage train",
    }.items()
)

SECTIONS = {
    "The documents' figures": tuple(documents()),
    "Models that people have": BLOCKS,
    "An MLP under each plan": PLANS,
}

_TOP = """# Gallery

Every picture is a view of a graph that runs, made by the command beside it; `python examples/gallery/make.py` makes all
of them, and this page. A whole model on one page, which folds and unfolds, is
`graphir explore --model llama3-8b --tp 8 --plan sequence -o llama.html`.

## A fault, caught

What is right, and what `graphir check` says of a program in which one all-reduce was forgotten:

![A tensor-parallel MLP's backward pass, with its all-reduce](../pictures/tp-mlp-backward.svg)

![graphir check names the forgotten all-reduce](../pictures/caught-fault.svg)
"""


def main() -> None:
    """Draws every entry, and writes the page."""
    page = [_TOP]
    for section, entries in SECTIONS.items():
        page.append(f"\n## {section}\n")
        for entry in entries:
            command = f"draw {entry.drawn} -o {FOLDER / entry.file}"
            subprocess.run([sys.executable, "-m", "graphir", *shlex.split(command)], cwd=ROOT, check=True)
            page.append(f"\n**{entry.said}**: `graphir draw {entry.drawn}`\n\n![{entry.said}]({entry.file})\n")
    (FOLDER / "README.md").write_text("".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
