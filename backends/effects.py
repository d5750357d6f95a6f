"""Which of its arguments a recorded call writes: what a program's proof takes on trust, and tests hold to deeds.

    @writes("inside", "X")
    def _take_inside(E, T, first, inside, X): ...

    @writes("weights", updates="P")          # P is read before it is written, or not written in all places
    def _subtract_labels(P, Y, dL, ignore, first, weights): ...

Whatever else is an array is read. Ufuncs need no declaration: their outputs are the arguments behind their inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

Function: TypeAlias = Callable[..., Any]
_F = TypeVar("_F", bound=Function)


class Effects(NamedTuple):
    """What a call reads and writes; what it does both to is in both.

    spans   whether its arrays are the whole stretch from the first element to the last, of which it touches what its
            other arguments say
    """

    reads: Sequence[Any]
    writes: Sequence[Any]
    spans: bool = False


Judge: TypeAlias = Callable[..., Effects | None]

_JUDGES: dict[Any, Judge] = {}


def writes(*names: str, updates: str = "") -> Callable[[_F], _F]:
    """Declares the arguments, by their names, that the decorated function writes, and those that it also reads."""

    def decorate(function: _F) -> _F:
        known = list(inspect.signature(function).parameters)
        updated = updates.split()
        declare(function, [known.index(name) for name in (*names, *updated)], [known.index(name) for name in updated])
        return function

    return decorate


def declare(function: Function, written: Iterable[int], updated: Iterable[int] = (), spans: bool = False) -> None:
    """Declares the positions of the arguments that `function` writes, and of those among them that it also reads."""
    outputs, both = frozenset(written), frozenset(updated)

    def judge(*arguments: Any) -> Effects:
        reads = [each for i, each in enumerate(arguments) if i not in outputs or i in both]
        return Effects(reads, [arguments[i] for i in sorted(outputs) if i < len(arguments)], spans)

    judges(function)(judge)


def judges(function: Function) -> Callable[[Judge], Judge]:
    """Declares what a call of `function` does by what the decorated function, given the same arguments, returns."""

    def decorate(judge: Judge) -> Judge:
        _JUDGES[function] = judge
        return judge

    return decorate


def launches(function: Function, written: Iterable[int], updated: Iterable[int] = ()) -> Function:
    """Declares a kernel `function(grid, block, arguments)`, as `declare` by positions among `arguments`; returns it.

    An array that is written is not read for being handed over in place of one that there is not.
    """
    outputs, both = frozenset(written), frozenset(updated)

    def judge(grid: Any, block: Any, arguments: Sequence[Any]) -> Effects:
        made = [arguments[i] for i in sorted(outputs)]
        others = [each for i, each in enumerate(arguments) if i not in outputs and not any(each is one for one in made)]
        return Effects([*others, *(arguments[i] for i in sorted(both))], made)

    judges(function)(judge)
    return function


def effects_of(function: Function, arguments: Sequence[Any]) -> Effects | None:
    """What a call does; None if nobody has declared it."""
    judge = _JUDGES.get(function)
    if judge is not None:
        return judge(*arguments)
    method = getattr(function, "__func__", None)
    if method in _JUDGES:
        return _JUDGES[method](function.__self__, *arguments)  # type: ignore[attr-defined]
    if hasattr(function, "func") and hasattr(function, "keywords"):
        return effects_of(function.func, (*function.args, *arguments))  # type: ignore[attr-defined]
    if _is_ufunc(function):
        count: int = function.nin  # type: ignore[attr-defined]
        return Effects(arguments[:count], arguments[count:])
    if _is_reduction(function):
        # (X, axis, dtype, out, keepdims)
        return Effects(arguments[:1], arguments[3:4])
    return None


def is_closed(function: Function) -> bool:
    """Whether what a call does is among its arguments: not with methods of objects, and functions partly applied."""
    return function in _JUDGES or _is_ufunc(function) or _is_reduction(function)


def _is_ufunc(function: Any) -> bool:
    """Whether it is a universal function, NumPy's or one of another array module."""
    return isinstance(function, np.ufunc) or (type(function).__name__ == "ufunc" and hasattr(function, "nin"))


def _is_reduction(function: Any) -> bool:
    """Whether it is a universal function's `reduce`."""
    return getattr(function, "__name__", "") == "reduce" and _is_ufunc(getattr(function, "__self__", None))


def flat(arguments: Iterable[Any]) -> Iterator[Any]:
    """Arguments, with those in tuples each for itself."""
    for each in arguments:
        if isinstance(each, (tuple, list)):
            yield from flat(each)
        else:
            yield each


declare(np.copyto, [0])
declare(np.take, [3])
declare(np.clip, [3])
