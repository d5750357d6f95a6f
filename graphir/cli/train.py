"""`graphir train`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.options import GroupedCommand, GroupedOption, backend_option, config_options, given, require_ranks
from graphir.cli.ranks import ENVIRONMENT, ranks_option, start_ranks
from graphir.training.config import TRAINED, TrainConfig

if TYPE_CHECKING:
    from graphir.training import Outcome


@click.command(cls=GroupedCommand, environment=ENVIRONMENT)
@config_options()
@click.option(
    "--out",
    cls=GroupedOption,
    group="Output",
    default="run",
    show_default=True,
    metavar="DIR",
    help="The folder for checkpoints, metrics.jsonl and loss.png.",
)
@click.option(
    "--resume",
    cls=GroupedOption,
    group="Output",
    is_flag=True,
    help="Go on from the latest checkpoint in --out, with its options; more --steps may be asked for.",
)
@ranks_option("Parallel")
@backend_option("Parallel")
@click.option(
    "--verify-replicas",
    cls=GroupedOption,
    group="Parallel",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="Steps after which ranks that are processes compare the parameters and state that several of them hold alike, "
    "as they do before each checkpoint; 0: never.",
)
@click.option(
    "--recompute",
    cls=GroupedOption,
    group="Memory",
    type=click.Choice(["nothing", "masks", "attention", "selective", "full"]),
    help="What the backward pass computes again instead of holding it.  [default: masks; on a GPU attention]",
)
@click.option(
    "--ignore-memory",
    cls=GroupedOption,
    group="Memory",
    is_flag=True,
    help="Train even where the plan needs more memory than is free.",
)
@click.option("--quiet", "-q", cls=GroupedOption, group="Output", is_flag=True, help="Show nothing but errors.")
@click.pass_context
def train(
    context: click.Context,
    /,
    out: str,
    resume: bool,
    ranks: str | None,
    backend: str,
    quiet: bool,
    recompute: str | None,
    ignore_memory: bool,
    verify_replicas: int,
    **options: Any,
) -> int:
    """Train the documents' Transformer on text, or a model by name, or one that others have trained further.

    Without options, it reads Python's own reference prose for about two minutes and shows what it has learnt.
    Ctrl-C ends it after the step at hand, with a checkpoint to go on from.
    """
    ranks, leads = start_ranks(ranks, backend)
    quiet = quiet or not leads
    config = TrainConfig(**options)
    if resume:
        config = _resumed(Path(out), {name: options[name] for name in given(context) & set(options)})
    else:
        require_ranks(config.plan, config.mesh().size)
    config = config.check()

    from graphir.cli.progress import report_to
    from graphir.training import train as run

    outcome = run(
        config,
        out,
        resume=resume,
        report=None if quiet else report_to(config),
        ranks=ranks,
        backend=backend,
        recompute=recompute,
        ignore_memory=ignore_memory,
        verify_replicas=verify_replicas,
    )
    if outcome.signal is not None:
        command = f"graphir train --resume --out {shlex.quote(out)}"
        saved = f"interrupted after step {outcome.step}, saved {outcome.checkpoint}"
        if leads:
            click.echo(f"{saved}; go on with\n  {command}", err=True)
        return 128 + outcome.signal
    if not quiet:
        _show(outcome, config, out, backend)
    return 0


def _resumed(folder: Path, given_options: dict[str, Any]) -> TrainConfig:
    """The checkpoint's configuration, with what the user gave beside `--resume` put over it."""
    from graphir.training import find_checkpoint, load_checkpoint
    from graphir.training.sampling import find_tokenizer

    saved = load_checkpoint(find_checkpoint(folder))
    config = saved.config
    if "tokenizer" not in given_options:
        config = replace(config, tokenizer=find_tokenizer(saved))
    return replace(config, **given_options)


def _show(outcome: Outcome, config: TrainConfig, out: str, backend: str) -> None:
    """Where everything is, and a sample of what the model writes."""
    folder = Path(out)
    written = [folder / "metrics.jsonl", folder / "loss.png"]
    click.echo("wrote " + ", ".join(str(path) for path in written if path.is_file()))
    if config.has_weights:
        model = shlex.quote(str(folder / TRAINED))
        click.echo(f"the model lies in {model}: graphir generate --model {model} --prompt 'The '")
        return
    if not config.sample:
        return
    from graphir.cli.generate import write_stream
    from graphir.training import Sampler, load_checkpoint

    sampler = Sampler(load_checkpoint(outcome.checkpoint), seed=config.seed, backend=backend)
    prompt = "The "
    click.echo(f"\nthe model continues {prompt!r}:\n")
    write_stream(sampler, prompt, config.sample)
    click.echo(f"\nmore of it: graphir generate {shlex.quote(out)} --prompt {shlex.quote(prompt)}")
    if config.model is not None:
        click.echo(f"as others read it: {shlex.quote(str(folder / TRAINED))}")
