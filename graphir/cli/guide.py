"""`graphir guide`: the guide for a model of the reader's choice, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--output", "-o", default="guide.html", show_default=True, metavar="FILE", help="Where to write it.")
@click.option("--layers", type=int, default=12, show_default=True, help="L, the number of layers.")
@click.option("--heads", type=int, default=12, show_default=True, help="N_H, attention heads; a multiple of --tp.")
@click.option("--width", type=int, default=768, show_default=True, help="D, the width of the model.")
@click.option("--feed-forward", type=int, help="D_ff, the width inside an MLP.  [default: 4 D]")
@click.option("--sequence", type=int, default=1024, show_default=True, help="S, tokens a sequence.")
@click.option("--batch", type=int, default=8, show_default=True, help="B, sequences a step.")
@click.option("--vocabulary", type=int, default=50257, show_default=True, help="V, tokens in the vocabulary.")
@click.option("--dp", type=int, default=2, show_default=True, help="N_DP, ranks that share the batch.")
@click.option("--tp", type=int, default=3, show_default=True, help="N_T, ranks that share heads and D_ff.")
def guide(output: str, **options: Any) -> int:
    """Write the guide: Transformers and their parallelism, one HTML file.

    Its figures are drawn, its tables generated, its costs worked out and its proofs measured for the model and the
    mesh that the options describe.
    """
    from rich.console import Console

    from graphir.guide import GuideConfig
    from graphir.guide import guide as write_guide
    from graphir.training.files import write_atomically

    config = GuideConfig(**options)
    with Console(stderr=True).status("the guide") as status:
        content = write_guide(config, status.update).encode()
    write_atomically(Path(output), lambda file: file.write(content))
    click.echo(output)
    return 0
