"""Graphs of the user's own: what a function of a Python file returns, or a text.

    block.py:swiglu     what a function of a Python file returns, called with the values of --set
    block.gir           a graph as text, as `graphir ir … -o block.gir` writes it

A Python file is a program, and to load it is to run it: with all that the user may do, as `python block.py` has. A text
is only read.
"""

from __future__ import annotations

import difflib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from graphir.errors import ConfigError, GraphirError

if TYPE_CHECKING:
    from graphir.ir.graph import Graph

_TEXT, _PROGRAM = ".gir", ".py"
#: How a graph of one's own is written where a command takes one.
FORMS = "FILE.py:FUNCTION or FILE.gir"
#: What is neither JSON nor meant as a text.
_PYTHON = {"True": True, "False": False, "None": None}


def is_own(what: str | None) -> bool:
    """Whether `what` names a graph of the user's own, and no model or figure of graphir's."""
    return what is not None and (what.endswith((_TEXT, _PROGRAM)) or f"{_PROGRAM}:" in what)


def name_of_file(what: str) -> str:
    """`swiglu` of `blocks/block.py:swiglu`, `block` of `block.gir`, `qwen3` of `models/qwen3`: what its file is called.

    It is written where the command is given, and not beside what is shown.
    """
    return Path(what.rpartition(":")[2]).stem if is_own(what) else Path(what).name


def load_graph(what: str, settings: Sequence[str] = ()) -> Graph:
    """The graph that `what` names, in one of the forms above; `settings` are those of --set.

    Errors: ConfigError for a file or a function that is not there, fails, or returns no graph, with the file's line;
    ParseError, with line and column, for a text that is no graph.
    """
    if what.endswith(_TEXT):
        if settings:
            raise ConfigError(f"--set is for a function of a Python file; {what} is a graph as text")
        return _read_text(Path(what))
    file, _, name = what.rpartition(":") if not what.endswith(_PROGRAM) else (what, ":", "")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"there is no file {file}; a graph of your own is named as {FORMS}")
    with _errors_told(path):
        module = _run(path)
    found = _find(module, path, name)
    with _errors_told(path):
        made = found(**_arguments(found, name, settings)) if callable(found) else found
    return _as_graph(made, f"{file}:{name}")


# -- texts ------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> Graph:
    from graphir.errors import ParseError
    from graphir.text import parse

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}; a graph of your own is named as {FORMS}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} holds no text: it is not UTF-8") from None
    try:
        return parse(text)
    except ParseError as error:
        raise ConfigError(f"{path}: {error}") from None


# -- programs ---------------------------------------------------------------------------------------------


def _run(path: Path) -> ModuleType:
    """The file as a module, run under its own name, so that what stands under `if __name__ == "__main__"` is not."""
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_of_yours"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as `python FILE` has it: files beside it can be imported
    sys.modules[name] = module  # dataclasses ask there for the module that they are defined in
    spec.loader.exec_module(module)
    return module


def _find(module: ModuleType, path: Path, name: str) -> Any:
    """What the file calls `name`; ConfigError, with what it could be, where there is none."""
    own = [
        each
        for each, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    if not name:
        raise ConfigError(f"say which function of {path} makes the graph: {path}:{own[0] if own else 'FUNCTION'}")
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, own, n=3, cutoff=0.5) or own
        raise ConfigError(f"{path} has no {name!r}; {_meant(close, 'it has no functions')}")
    return getattr(module, name)


def _meant(names: Sequence[str], none: str) -> str:
    return f"did you mean {' or '.join(names)}?" if names else none


def _arguments(function: Callable[..., Any], name: str, settings: Sequence[str]) -> dict[str, Any]:
    """The keywords that --set gives; ConfigError where the function has no such parameter, or needs another."""
    found = dict(_setting(each) for each in settings)
    parameters = inspect.signature(function).parameters.values()
    keywords = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        for unknown in found.keys() - keywords:
            close = difflib.get_close_matches(unknown, keywords, n=3, cutoff=0.5) or keywords
            raise ConfigError(f"{name} has no parameter {unknown!r}; {_meant(close, 'it takes none')}")
    needed = [each.name for each in parameters if each.default is each.empty and each.name in keywords]
    missing = [each for each in needed if each not in found]
    if missing:
        raise ConfigError(f"{name} needs {', '.join(missing)}; give {' '.join(f'--set {each}=…' for each in missing)}")
    return found


def _setting(written: str) -> tuple[str, Any]:
    """`("layers", 2)` of `layers=2`: a number, true, a list in JSON, or else a text."""
    name, equals, value = written.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError(f"--set {written} is no name and its value; write it like layers=2")
    if value in _PYTHON:
        return name, _PYTHON[value]
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _as_graph(made: object, what: str) -> Graph:
    from graphir.ir.builder import Builder
    from graphir.ir.graph import Graph
    from graphir.ir.value import Value

    if isinstance(made, Graph):
        return made
    hint = {Builder: "; return builder.build(…), which is the graph", Value: "; return builder.build(value)"}
    told = next((text for kind, text in hint.items() if isinstance(made, kind)), "")
    raise ConfigError(f"{what} is no graph but {type(made).__name__}{told}")


@contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    """What goes wrong in the user's file is told with the line of it; what is graphir's says that by itself."""
    try:
        yield
    except GraphirError:
        raise
    except SyntaxError as error:
        where = f"{error.filename or path}:{error.lineno}"
        raise ConfigError(f"{where}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if _is(each.filename, path)]
        first = str(error).strip().partition("\n")[0]
        what = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise ConfigError(f"{path}{f':{lines[-1]}' if lines else ''}: {what}") from error


def _is(file: str, path: Path) -> bool:
    return Path(file).resolve() == path.resolve()
