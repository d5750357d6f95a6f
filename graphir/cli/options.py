"""Options of commands, made of what declares them, and help in groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from graphir.errors import ConfigError
from graphir.models.sizes import Sizes
from graphir.models.transformer import Architecture
from graphir.options import Option, flag, options_of
from graphir.training.config import OF_DOCUMENTS, TrainConfig

if TYPE_CHECKING:
    from graphir.backends.registry import Backend

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

#: The model's options, and its sizes but for V.
MODEL_OPTIONS, SIZE_OPTIONS = tuple(options_of(Architecture)), tuple(options_of(Sizes))
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


def declared(name: str, option: Option, *flags: str, **keywords: Any) -> Decorator:
    """A decorator that adds an option as it is declared: its flag, type, default, help, and what it cannot be."""
    called = flag(name)
    keywords = {"group": option.group, "help": option.help, "default": option.default, **keywords}
    keywords.setdefault("show_default", keywords["default"] is not None)
    if option.kind is tuple:
        keywords |= {"multiple": True, "metavar": option.metavar, "show_default": False}
    elif option.kind is bool:
        called = f"{called}/{flag(option.opposite or f'no-{name}')}"
    else:
        keywords["type"] = click.Choice(option.choices) if option.choices else option.kind

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        return value if value is None else option.check(flag(name), value)

    return click.option(called, *flags, name, cls=GroupedOption, callback=check, **keywords)


def all_declared(options: Mapping[str, Option], **keywords: Any) -> Decorator:
    """A decorator that adds all of these options, in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(list(options)):
            function = declared(name, options[name], **keywords)(function)
        return function

    return decorate


def config_options(only: Collection[str] | None = None) -> Decorator:
    """A decorator that adds the options of `TrainConfig`, or those of them in `only`.

    Who trains nothing has the documents' sizes where nobody says others, also beside a model that has its own.
    """
    options = options_of(TrainConfig)
    if only is not None:
        options |= OF_DOCUMENTS
    return all_declared({name: options[name] for name in options if only is None or name in only})


def backend_option(group: str = _OTHERS) -> Decorator:
    """A decorator that adds the option `--backend`."""
    offered = offered_backends()
    return click.option(
        "--backend",
        cls=GroupedOption,
        group=group,
        type=click.Choice([each.name for each in offered]),
        default=offered[0].name,
        show_default=True,
        help=f"What computes: {', or '.join(each.help for each in offered)}.",
    )


def backend_options(*names: str, group: str = _OTHERS) -> Decorator:
    """A decorator that adds these options of backends, each as the first that has it declares it; none has a default.

    What is not given is left to the backend, which may have no such option.
    """
    entries = [each.options for each in offered_backends()]
    found = {name: next(options[name] for options in entries if name in options) for name in names}
    shown = {
        name: each if each.default is None else replace(each, help=f"{each.help}  [default: {each.default}]")
        for name, each in found.items()
    }
    return all_declared({name: replace(each, default=None, group=group) for name, each in shown.items()})


def offered_backends() -> list[Backend]:
    """Those that the command line lets a user choose from: what runs programs."""
    from graphir.backends.registry import BACKENDS  # late: not every command computes

    return [each for each in BACKENDS.values() if each.compiles]


def given(context: click.Context) -> set[str]:
    """The names of the parameters that the user wrote, as opposed to defaults."""
    source = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is source}


def require_ranks(plan: str | None, ranks: int) -> None:
    """ConfigError for a plan where there is but one rank, which it does nothing for; who writes `--tp 1` means one."""
    written = given(click.get_current_context())
    if plan is not None and ranks == 1 and written.isdisjoint(("dp", "cp", "tp")):
        raise ConfigError(f"--plan {plan} splits nothing on one rank; add --tp 2, say")
