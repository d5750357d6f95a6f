"""The command line: `train`, `generate`, `ir`, `draw`, `explore`, `guide`, `check`, `why`, `cost`, `profile`, `bench`,
`export`, `ops`.

Commands are loaded when they are called, so that help is there at once. Whatever is wrong with what a user gave ends
as one line on stderr, `error: …`, and exit code 2, a defect as one line and exit code 1; an interrupted command exits
with 130.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

import graphir
from graphir.cli.core import pick_core
from graphir.cli.failure import defects_told, tell
from graphir.cli.ranks import share_processors
from graphir.errors import meant
from graphir.interrupts import watched

#: Where each command lives, and what it is for.
_COMMANDS = {
    "train": ("graphir.cli.train", "Train the documents' Transformer on text."),
    "generate": ("graphir.cli.generate", "Continue a text with a trained model."),
    "ir": ("graphir.cli.inspect", "Print a model as a graph, at any stage."),
    "draw": ("graphir.cli.draw", "Draw a figure of the documents, or a model, as a picture or a page."),
    "explore": ("graphir.cli.explore", "Write a whole model as one page: folded, searched, measured in place."),
    "guide": ("graphir.cli.guide", "Write the guide to Transformers and their parallelism, as one page."),
    "check": ("graphir.cli.check", "Compare a parallel run with the run on one rank, tensor by tensor."),
    "why": ("graphir.cli.why", "Tell why each collective is there, and what it sends."),
    "cost": ("graphir.cli.cost", "Work out what a training step costs: parameters, FLOPs, memory, bytes sent."),
    "profile": ("graphir.cli.profile", "Show where the time of a step goes, node by node, beside its floor."),
    "bench": ("graphir.cli.bench", "Show how fast NumPy's BLAS multiplies here, and what to set."),
    "export": ("graphir.cli.export", "Write a model in a format that other programs run."),
    "ops": ("graphir.cli.inspect", "List the operator dictionary."),
}


class _Commands(click.Group):
    """A group that imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            commands = ", ".join(_COMMANDS)
            raise click.UsageError(
                f"no command is called {args[0]!r}; {meant(args[0], list(_COMMANDS), f'there are {commands}')}",
                ctx,
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in _COMMANDS.items()])


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(graphir.__version__, prog_name="graphir")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Transformers as typed computation graphs: train one, sample from it, look inside."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0, 2 for what the user can mend, 1 for a defect, 128 + n after signal n."""
    with watched() as watch, defects_told():
        try:
            pick_core()
            share_processors()
            _prepare_streams()
            code = cli.main(arguments, prog_name="graphir", standalone_mode=False)
            if watch.interrupted:  # and somebody has dropped it
                raise KeyboardInterrupt
            sys.stdout.flush()  # else Python stumbles over a full disk, or a closed pipe, when it exits
        except SystemExit:
            raise
        except BaseException as error:
            watch.unmute()
            # Whatever an interruption has become on its way.
            code = tell(KeyboardInterrupt() if watch.interrupted else error)
    sys.exit(code if isinstance(code, int) else 0)


def _prepare_streams() -> None:
    """What an encoding lacks is written as its number, what has nowhere to go is dropped: neither ends anything."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the command began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
