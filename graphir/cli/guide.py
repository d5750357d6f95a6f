"""`graphir guide`: the guide for a model of the reader's choice, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphir.cli.options import all_declared
from graphir.guide.config import GuideConfig
from graphir.options import options_of


@click.command()
@click.option("--output", "-o", default="guide.html", show_default=True, metavar="FILE", help="Where to write it.")
@all_declared(options_of(GuideConfig))
def guide(output: str, **options: Any) -> int:
    """Write the guide: Transformers and their parallelism, one HTML file.

    Its figures are drawn, its tables generated, its costs worked out and its proofs measured for the model and the
    mesh that the options describe.
    """
    from rich.console import Console

    from graphir.files import write_atomically
    from graphir.guide import guide as write_guide

    config = GuideConfig(**options)
    with Console(stderr=True).status("the guide") as status:
        content = write_guide(config, status.update).encode()
    write_atomically(Path(output), lambda file: file.write(content))
    click.echo(output)
    return 0
