"""`graphir explore`: a whole model as one interactive page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from graphir.cli.inspect import OPTIMIZER_OPTIONS, PARALLEL_OPTIONS, STAGES, compiler_options, deeper, staged_subject
from graphir.cli.load import graph_argument, graph_options
from graphir.cli.options import MODEL_OPTIONS, GroupedCommand, GroupedOption, all_declared, config_options
from graphir.cli.options import given as told
from graphir.cli.own import is_own, name_of_file
from graphir.models.sizes import VOCABULARY, Sizes
from graphir.options import options_of

#: Sizes have no default here: those that nobody tells are the model's own, or such that the ranks divide them.
_SIZES = {
    name: replace(each, default=None, help=each.help.partition("  [")[0])
    for name, each in {**options_of(Sizes), "vocabulary": VOCABULARY}.items()
}


@click.command(cls=GroupedCommand)
@graph_argument()
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    help="How far to compile.  [default: train; a graph of your own as it is]",
)
@click.option("--output", "-o", metavar="FILE", help="Where to.  [default: the model's name, .html]")
@click.option("--expand-layer", type=int, multiple=True, metavar="N", help="A layer that is unfolded at first.")
@click.option("--open", "opens", is_flag=True, help="Show the page in the browser.", cls=GroupedOption)
@graph_options
@config_options(only=(*MODEL_OPTIONS, *OPTIMIZER_OPTIONS, *PARALLEL_OPTIONS))
@all_declared(_SIZES)
@compiler_options
@click.pass_context
def explore(
    context: click.Context,
    /,
    what: str,
    stage: str | None,
    output: str | None,
    expand_layer: tuple[int, ...],
    opens: bool,
    **options: Any,
) -> int:
    """Write a whole model as one page that folds, unfolds, searches and measures it.

    Layers and ranks unfold in place, of any number. Sliders change layers, sizes and mesh, and every formula, width and
    time with them; they begin with those that options say, or else the model's own, or a small GPT-2's. The page is
    one file, and needs no network.
    """
    from graphir.drawing.explore import model_page
    from graphir.files import write_atomically

    chosen = stage or ("forward" if is_own(what) else "train")
    known = {name: value for name, value in options.items() if value is not None or name not in _SIZES}
    graph, asked = staged_subject(what, chosen, dict(known), told(context))
    name = name_of_file(what)
    title = f"{name}, {graph.mesh}" if graph.mesh.axes else name
    page = model_page(graph, title, asked.sizes, expand_layer, deeper(what, chosen, known, told(context)))
    path = Path(output or f"{name}.html")
    write_atomically(path, lambda file: file.write(page.encode()))
    click.echo(str(path))
    if opens:
        click.launch(str(path))
    return 0
