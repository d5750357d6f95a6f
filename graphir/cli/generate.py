"""`graphir generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphir.cli.options import backend_option

if TYPE_CHECKING:
    from graphir.training import Sampler


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT_OR_DIR")
@click.option("--prompt", default="The ", show_default=True, help="The text to continue.")
@click.option("--tokens", default=300, show_default=True, help="How many tokens to add.")
@click.option("--temperature", default=0.8, show_default=True, help="0: always the most probable token.")
@click.option("--top-k", default=40, show_default=True, help="How many of the most probable tokens may be drawn.")
@click.option("--seed", default=0, show_default=True, help="The same seed draws the same text.")
@backend_option()
def generate(checkpoint: str, prompt: str, tokens: int, temperature: float, top_k: int, seed: int, backend: str) -> int:
    """Continue a text with a trained model.

    CHECKPOINT_OR_DIR is a checkpoint, or the folder of a run, whose latest one is taken.
    """
    from graphir.training import Sampler, find_checkpoint, load_checkpoint

    saved = load_checkpoint(find_checkpoint(Path(checkpoint)))
    sampler = Sampler(saved, temperature=temperature, top_k=top_k, seed=seed, backend=backend)
    unknown = sampler.unknown(prompt)
    if unknown:
        click.echo(f"note: {unknown} of the prompt's tokens are unknown to the tokenizer", err=True)
    write_stream(sampler, prompt, tokens)
    return 0


def write_stream(sampler: Sampler, prompt: str, tokens: int) -> None:
    """Writes prompt and continuation to stdout as they come; what the terminal cannot show becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"

    def write(text: str) -> None:
        click.echo(text.encode(encoding, errors="replace").decode(encoding), nl=False)
        sys.stdout.flush()

    pieces = sampler.stream(prompt, tokens)
    first = next(pieces, "")  # an impossible prompt fails before anything is written
    write(prompt + first)
    for piece in pieces:
        write(piece)
    write("\n")
