"""`graphir guide`: the guide for a model of the reader's choice, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from graphir.cli.load import find_model, graph_options, model_option, subject
from graphir.cli.options import GroupedCommand, all_declared, given
from graphir.cli.own import FORMS, is_own
from graphir.errors import ConfigError
from graphir.guide.config import GuideConfig
from graphir.models.sizes import DIMS, named_sizes
from graphir.options import options_of


@click.command(cls=GroupedCommand)
@click.option("--output", "-o", default="guide.html", show_default=True, metavar="FILE", help="Where to write it.")
@click.argument("what", required=False, metavar=f"[{FORMS.replace(' or ', '|')}]")
@model_option(expose_value=True, callback=None)
@graph_options
@all_declared(options_of(GuideConfig))
@click.pass_context
def guide(context: click.Context, /, what: str | None, model: str | None, output: str, **options: Any) -> int:
    """Write the guide: Transformers and their parallelism, one HTML file.

    Its figures are drawn, its tables generated, its costs worked out and its proofs measured for the model and the
    mesh that the options describe; --model takes another model than the documents' Transformer.

    Of a graph of your own, FILE.py:FUNCTION or FILE.gir, it writes a page that explains that graph: figures and
    tensors, forward and backward, what ranks say to each other and whether they compute the same, and costs.
    """
    from graphir.guide import guide as write_guide

    size, settings = (options.pop(name) for name in ("size", "settings"))
    told = {name: options[name] for name in given(context) & options.keys()}
    if what is not None:
        return _write(
            output, lambda report: _of_graph(what, model, {**told, "size": size, "settings": settings}, report)
        )
    if size or settings:
        raise ConfigError(f"--set and --size are for a graph of your own, {FORMS}")
    config = GuideConfig(**options) if model is None else _of_model(model, told)
    return _write(output, lambda report: write_guide(config, report))


def _write(output: str, make: Callable[[Callable[[str], None]], str]) -> int:
    """Writes what `make` makes, which reports on its way."""
    from rich.console import Console

    from graphir.files import write_atomically

    with Console(stderr=True).status("the guide") as status:
        content = make(status.update).encode()
    write_atomically(Path(output), lambda file: file.write(content))
    click.echo(output)
    return 0


def _of_graph(what: str, model: str | None, told: dict[str, Any], report: Callable[[str], None]) -> str:
    """The page of a graph of the user's own."""
    from graphir.guide import sheet
    from graphir.ir.layout import Mesh

    if not is_own(what) or model is not None:
        raise ConfigError(f"{what} is no {FORMS}; a model is named by --model, and either is asked for alone")
    found = subject(what, told, told.keys())
    ranks: dict[str, int] = {axis: told[axis] for axis in ("dp", "tp") if axis in told} or {"tp": 2}
    return sheet(found.graph, Mesh(ranks), named_sizes(told["size"]), report)


def _of_model(model: str, told: dict[str, int]) -> GuideConfig:
    """The guide to a model by name, or with its weights, with the layers, sizes and ranks that somebody told."""
    run = {name: told[name] for name in ("batch", "sequence", "dp", "tp") if name in told}
    changes = {DIMS.get(name, name): size for name, size in told.items() if name not in run}
    return GuideConfig.of_model(model, find_model(model, changes)[0], **run)
