"""What a kernel reads beside its arguments: globals, cells of closures and defaults, its own and its helpers'.

A formula is good for as long as these are what they were when the kernel was called for it. Numbers, strings, tuples
and functions are compared; what may change without being another object, as a list or a generator of random numbers
does, is not to be traced. A kernel that asks what only symbols answer in their own way (`type(X)`, `xp is np`) is not
either. All of it is read off the code, which is not run.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from graphir.formula.terms import UntraceableError
from graphir.ir.attributes import exact

#: Packages whose functions answer alike whenever they are called; what is theirs is not read further.
_PURE = frozenset(
    {
        "graphir", "numpy", "cupy", "scipy", "math", "cmath", "operator", "functools", "itertools", "collections",
        "numbers", "fractions", "typing", "enum", "dataclasses", "builtins", "_operator", "__future__",
    }
)  # fmt: skip
#: Modules of these that are not pure all the same.
_IMPURE = frozenset({"numpy.random", "cupy.random", "scipy.stats"})
#: Builtins that tell symbols from arrays, or reach what the code does not name.
_REFUSED = frozenset(
    {
        "type", "id", "vars", "dir", "hasattr", "getattr", "setattr", "delattr", "globals", "locals", "eval", "exec",
        "compile", "open", "input", "object", "memoryview", "__import__",
    }
)  # fmt: skip


class Path(NamedTuple):
    """A name that code reads, and attributes of what is found there: `config.scale`."""

    name: str
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """What a function's code, and that of functions written within it, reads; `refused` says why not to trace it."""

    globals: frozenset[Path]
    cells: frozenset[Path]
    refused: str


def what_it_reads(kernel: Any) -> Hashable:
    """A key of all that `kernel` reads beside its arguments; UntraceableError where that may change unnoticed."""
    found: dict[int, Hashable] = {}
    _read_function(kernel, found)
    return tuple(found.values())


def _read_function(function: Any, found: dict[int, Hashable]) -> None:
    while isinstance(function, functools._lru_cache_wrapper):
        function = function.__wrapped__
    if id(function) in found or _is_pure(function):
        return
    if not isinstance(function, FunctionType):
        raise UntraceableError(f"it calls {_named(function)}, whose code cannot be read")
    code = read_code(function.__code__)
    if code.refused:
        raise UntraceableError(code.refused)
    values: list[Hashable] = [function.__code__]
    found[id(function)] = None
    for path in sorted(code.globals):
        outside = function.__globals__ if path.name in function.__globals__ else vars(builtins)
        if path.name in outside:
            values.append((path, _value_of(outside[path.name], path, found)))
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for path in sorted(code.cells):
        if path.name in cells:
            values.append((path, _value_of(_content(cells[path.name]), path, found)))
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    values.extend(_value_of(each, Path("a default", ()), found) for each in defaults)
    found[id(function)] = tuple(values)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet written
        return None


def _value_of(value: Any, path: Path, found: dict[int, Hashable]) -> Hashable:
    """What stands for a value in the key."""
    spelled = path.name
    for attribute in path.attributes:
        if isinstance(value, ModuleType):
            if _root(value.__name__) in _PURE and value.__name__ not in _IMPURE:
                # What lies in it, but for another module, stays what it is.
                inner = getattr(value, attribute, None)
                if not isinstance(inner, ModuleType):
                    return value.__name__, attribute
                value, spelled = inner, f"{spelled}.{attribute}"
                continue
            if value.__name__ in _IMPURE:
                break
            if attribute not in vars(value):
                return None
        elif _is_plain(value) or _is_function(value):
            break  # a method of a number or of a string
        elif attribute not in _held(value):
            raise UntraceableError(f"it reads {spelled}.{attribute}, which may change")
        value, spelled = _held(value)[attribute], f"{spelled}.{attribute}"
    if _is_plain(value):
        return _key(value)
    if isinstance(value, tuple):
        return tuple(_value_of(each, Path(spelled, ()), found) for each in value)
    if isinstance(value, ModuleType):
        if _root(value.__name__) in _PURE and value.__name__ not in _IMPURE:
            return value.__name__
        raise UntraceableError(f"it reads the module {spelled}, which may change")
    if isinstance(value, type):
        if _is_pure(value):
            return value
        raise UntraceableError(f"it uses the class {spelled}, whose code cannot be read")
    if _is_function(value):
        _read_function(value, found)
        return id(value)
    raise UntraceableError(f"it reads {spelled}, a {type(value).__name__}, which may change")


def _held(value: Any) -> dict[str, Any]:
    """What an object, a class or a module holds itself, not by code that would have to run."""
    held: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    return {name: each for name, each in held.items() if not isinstance(each, (property, staticmethod, classmethod))}


def _is_plain(value: Any) -> bool:
    """Whether a value cannot change."""
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_plain, value))
    if isinstance(value, enum.Enum) or value is None or value is Ellipsis:
        return True
    if type(value).__module__ == "numpy" and hasattr(value, "dtype") and hasattr(value, "item"):
        return not hasattr(value, "__setitem__") and value.dtype.kind in "biufc"
    return isinstance(value, (bool, int, float, complex, str, bytes)) or type(value).__name__.endswith("DType")


def _key(value: Any) -> Hashable:
    if isinstance(value, (tuple, frozenset)):
        return type(value), tuple(map(_key, value))
    return exact(value) if value == value else (type(value), repr(value))


def _is_function(value: Any) -> bool:
    return isinstance(value, (FunctionType, BuiltinFunctionType, functools._lru_cache_wrapper)) or _is_pure(value)


def _is_pure(value: Any) -> bool:
    """Whether a function or a class is of a package that is pure."""
    if isinstance(value, FunctionType):
        return _root(str(value.__globals__.get("__name__"))) in _PURE
    if isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, (ModuleType, type(None))):
        return False  # a method of something: random.random is one of a generator's
    if isinstance(value, (type, BuiltinFunctionType)) or (callable(value) and type(value).__module__ == "numpy"):
        module = str(getattr(value, "__module__", None) or type(value).__module__)
        return _root(module) in _PURE and module not in _IMPURE
    return False


def _root(module: str) -> str:
    return module.partition(".")[0]


def _named(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


# -- code -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def read_code(code: CodeType) -> Code:
    """What is read off a function's code."""
    globals_, cells, refused = set[Path](), set[Path](), ""
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "EXTENDED_ARG", "PRECALL")]
    for at, step in enumerate(steps):
        name = str(step.argval)
        match step.opname:
            case "LOAD_GLOBAL" | "LOAD_NAME":
                globals_.add(Path(name, tuple(_attributes(steps, at))))
                if name in _REFUSED:
                    refused = f"it asks for {name}(…), which symbols answer otherwise"
            case "LOAD_DEREF" | "LOAD_CLASSDEREF":
                cells.add(Path(name, tuple(_attributes(steps, at))))
            case "STORE_GLOBAL" | "DELETE_GLOBAL":
                refused = f"it changes the global {name}"
            case "STORE_DEREF" if name in code.co_freevars:
                refused = f"it changes {name}, which is not its own"
            case "IMPORT_NAME" if _root(name) not in _PURE:
                refused = f"it imports {name}, which may change"
            case "IS_OP" if not (steps[at - 1].opname == "LOAD_CONST" and _is_singleton(steps[at - 1].argval)):
                refused = "it asks whether two things are one, which of symbols is answered otherwise"
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found = read_code(inner)
            globals_ |= found.globals
            cells |= {path for path in found.cells if path.name in code.co_freevars}
            refused = refused or found.refused
    return Code(frozenset(globals_), frozenset(cells), refused)


def _attributes(steps: list[dis.Instruction], at: int) -> Iterator[str]:
    for step in steps[at + 1 :]:
        if step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return
        yield str(step.argval)


def _is_singleton(value: object) -> bool:
    return value is None or value is True or value is False or value is Ellipsis
