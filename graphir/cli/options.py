"""Options made from the declarations in `TrainConfig`, and help in groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from typing import Any

import click

from graphir.training.config import TrainConfig, flag, kind_of

_OTHERS = "Other"


class GroupedOption(click.Option):
    """An option that says under which heading help shows it."""

    def __init__(self, *arguments: Any, group: str = _OTHERS, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help shows its options under their headings, and what variables of the `environment` mean."""

    def __init__(self, *arguments: Any, environment: Mapping[str, str] | None = None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._environment = environment or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", _OTHERS), []).append(record)
        groups[_OTHERS] = groups.pop(_OTHERS, [])  # last, wherever its options were declared
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)
        if self._environment:
            with formatter.section("Environment"):
                formatter.write_dl(list(self._environment.items()))


def config_options(only: Collection[str] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds an option for each field of `TrainConfig`, or for those in `only`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(fields(TrainConfig)):
            if only is None or each.name in only:
                function = _option(each)(function)
        return function

    return decorate


def _option(each: Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    metadata = each.metadata
    keywords: dict[str, Any] = {"group": metadata["group"], "help": metadata["help"], "cls": GroupedOption}
    if isinstance(each.default, tuple):
        return click.option(flag(each.name), each.name, multiple=True, metavar="FILE", **keywords)
    if metadata["flags"]:
        return click.option("/".join(metadata["flags"]), each.name, default=each.default, show_default=True, **keywords)
    kind: Any = kind_of(each.name, each.default)
    if metadata["choices"]:
        kind = click.Choice(metadata["choices"])
    shown = each.default is not None
    return click.option(flag(each.name), each.name, type=kind, default=each.default, show_default=shown, **keywords)


def backend_option(group: str = _OTHERS) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds the option `--backend`."""
    return click.option(
        "--backend",
        cls=GroupedOption,
        group=group,
        type=click.Choice(["numpy", "cupy"]),
        default="numpy",
        show_default=True,
        help="What computes: the processor, by NumPy, or an NVIDIA GPU, by CuPy.",
    )


def given(context: click.Context) -> set[str]:
    """The names of the parameters that the user wrote, as opposed to defaults."""
    source = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is source}
