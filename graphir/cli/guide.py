"""`graphir guide`: the guide for a model of the reader's choice, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphir.cli.load import find_model, model_option
from graphir.cli.options import GroupedCommand, all_declared, given
from graphir.guide.config import GuideConfig
from graphir.models.sizes import DIMS
from graphir.options import options_of


@click.command(cls=GroupedCommand)
@click.option("--output", "-o", default="guide.html", show_default=True, metavar="FILE", help="Where to write it.")
@model_option(expose_value=True, callback=None)
@all_declared(options_of(GuideConfig))
@click.pass_context
def guide(context: click.Context, /, model: str | None, output: str, **options: Any) -> int:
    """Write the guide: Transformers and their parallelism, one HTML file.

    Its figures are drawn, its tables generated, its costs worked out and its proofs measured for the model and the
    mesh that the options describe; --model takes another model than the documents' Transformer.
    """
    from rich.console import Console

    from graphir.files import write_atomically
    from graphir.guide import guide as write_guide

    told = {name: options[name] for name in given(context) & options.keys()}
    config = GuideConfig(**options) if model is None else _of_model(model, told)
    with Console(stderr=True).status("the guide") as status:
        content = write_guide(config, status.update).encode()
    write_atomically(Path(output), lambda file: file.write(content))
    click.echo(output)
    return 0


def _of_model(model: str, told: dict[str, int]) -> GuideConfig:
    """The guide to a model by name, or with its weights, with the layers, sizes and ranks that somebody told."""
    run = {name: told[name] for name in ("batch", "sequence", "dp", "tp") if name in told}
    changes = {DIMS.get(name, name): size for name, size in told.items() if name not in run}
    return GuideConfig.of_model(model, find_model(model, changes)[0], **run)
