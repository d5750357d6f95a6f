"""What an option is: a name's type, limits, default and sentence of help, declared once where it belongs.

Whoever takes the option has all that from its declaration: the constructor its default and its check, the command line
a flag and its help, a file what may stand in it.

    @dataclass(frozen=True)
    class Options:
        layers: int = option(2, "L, the number of layers.", least=1)

What a model may vary in is declared beside it (`Architecture`, `Sizes`), what a backend takes in its entry
(`graphir.backends.registry`); `TrainConfig`, `Setting`, the command line and checkpoints take it from there: an option
more touches one file.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from operator import index
from typing import Any, TypeVar

from graphir.errors import ConfigError

#: Whole numbers are below this, unless an option says otherwise: floats and JSON hold all of them exactly.
_BELOW = 2**53
_LARGEST = sys.float_info.max
#: Numbers beyond are not written out.
_ENDLESS = 10**30

_Declaring = TypeVar("_Declaring")


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option's declaration: what a value has to be, and what it is where none is given.

    default   None where nothing is chosen unless somebody chooses
    help      a sentence, and in brackets what a default of None comes to
    kind      the type of its values; a `float` may be a whole number, a `tuple` holds texts
    least, most, below, positive
              the limits of a number: least ≤ value ≤ most, value < below, value > 0
    choices   where there are few, the values themselves
    opposite  what a switch that is off is called, if not no-…
    group     the heading under which help shows it
    metavar   what a value of texts is called in a help text
    free      whether it may change when a training goes on
    """

    default: Any
    help: str
    kind: type
    least: float | None = None
    most: float | None = None
    below: float | None = None
    positive: bool = False
    choices: tuple[Any, ...] = ()
    opposite: str | None = None
    group: str = "Model"
    metavar: str = "FILE"
    free: bool = False

    def check(self, name: str, value: Any) -> Any:
        """`value` as it is kept: a whole number of any library's as Python's.

        ConfigError, with the option's `name`, for what it cannot be; None it can where that is the default.
        """
        if value is None and self.default is None:
            return None
        if self.choices:
            require_choice(name, value, self.choices)
            return value
        value = _as_int(value) if self.kind is int else value
        if not self._is_of_kind(value):
            kind = "a tuple of texts" if self.kind is tuple else self.kind.__name__
            raise ConfigError(f"{name} must be {kind}, not {_shown(value)}")
        if self.kind is float and not -_LARGEST <= value <= _LARGEST:  # a whole number may be too large for a float
            raise ConfigError(f"{name} must be a finite number, not {_shown(value)}")
        if value == "":
            raise ConfigError(f"{name} is empty; leave it out, or say which")
        below = _BELOW if self.kind is int and self.below is None else self.below
        if self.positive and value <= 0:
            raise ConfigError(f"{name} must be greater than 0, not {_shown(value)}")
        if self.least is not None and value < self.least:
            raise ConfigError(f"{name} must be at least {self.least:g}, not {_shown(value)}")
        if self.most is not None and value > self.most:
            raise ConfigError(f"{name} must be at most {self.most:g}, not {_shown(value)}")
        if below is not None and value >= below:
            raise ConfigError(f"{name} must be less than {below}, not {_shown(value)}")
        return value

    def _is_of_kind(self, value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if self.kind is tuple:
            return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
        if self.kind is float:
            return isinstance(value, float) or whole
        return whole if self.kind is int else isinstance(value, self.kind)


def require_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """ConfigError, with the `name` of what is chosen, for a value that is none of the choices."""
    choices = tuple(choices)
    if not any(value is each or (type(value) is type(each) and value == each) for each in choices):
        raise ConfigError(f"{name} {_shown(value)} is none of {', '.join(map(str, choices))}")


def option(default: Any, help: str, *, kind: type | None = None, **rest: Any) -> Any:
    """A dataclass's field with its declaration; its `kind` is the default's type, where there is one."""
    if kind is None:
        assert default is not None, "a default of None has no type that values could have"
        kind = type(default)
    return _field(Option(default=default, help=help, kind=kind, **rest))


def varied(declared_by: type, name: str, **changes: Any) -> Any:
    """The field, given by keyword, of another class that has this option, too, but with another default, say."""
    return _field(replace(options_of(declared_by)[name], **changes), kw_only=True)


def _field(declared: Option, **rest: Any) -> Any:
    return field(default=declared.default, metadata={"option": declared}, **rest)


def options_of(declared_by: type) -> dict[str, Option]:
    """The options that a dataclass declares, by name, in their order; its other fields are none."""
    found = {each.name: each.metadata.get("option") for each in fields(declared_by)}
    return {name: declared for name, declared in found.items() if declared is not None}


def checked(options: Any, called: Callable[[str], str] = str) -> dict[str, Any]:
    """Every option of a dataclass's instance as it is kept; ConfigError, with what one is `called`, if it cannot be."""
    declared = options_of(type(options))
    return {name: each.check(called(name), getattr(options, name)) for name, each in declared.items()}


def made_of(declared_by: type[_Declaring], owner: str, keywords: Mapping[str, Any]) -> _Declaring:
    """The dataclass with these options; ConfigError, with what its `owner` has, for those that it does not declare."""
    known = options_of(declared_by)
    unknown = sorted(keywords.keys() - known)
    if unknown:
        raise ConfigError(f"unknown option {', '.join(unknown)}; {owner} has {', '.join(known)}")
    return declared_by(**keywords)


def flag(name: str) -> str:
    """`--feed-forward` of `feed_forward`."""
    return f"--{name.replace('_', '-')}"


def _as_int(value: Any) -> Any:
    """A whole number of any library's as Python's; all else, and what is True or False, as it is."""
    try:
        return value if isinstance(value, bool) else index(value)
    except TypeError:
        return value


def _shown(value: object) -> str:
    """As Python writes it, but for what would fill a page."""
    if isinstance(value, int) and abs(value) >= _ENDLESS:
        return "a number of more than 30 digits"
    return reprlib.repr(value)
