"""What a rule has recorded on one tile, recorded again on another whose arrays lie alike.

Tiles, threads and layers want the same calls again and again, on other memory. What a rule records follows from how its
arrays lie, and not from where: it is asked once for each form of them, and what it has recorded is replayed on the
arrays of every other tile of that form. What does depend on the tile, the counters of a random mask, is recorded anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import DTypeLike

from graphir.backends.compiled.buffers import Span, addresses
from graphir.backends.compiled.emission import Array, Calls, Function, Rule
from graphir.backends.compiled.engine import Engine
from graphir.ir.operator import Place


class _Part(NamedTuple):
    """A view of the memory of one of a tile's arrays, from a byte on."""

    array: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any


class _Call(NamedTuple):
    """A call, or, where it `is_anew`, what is handed to `Calls.anew`.

    Arguments are as given but for those at some positions, which are parts of the tile's arrays.
    """

    function: Function
    given: tuple[Any, ...]
    parts: tuple[tuple[int, int], ...]
    is_anew: bool = False


#: The shape and dtype of a buffer.
_Buffer: TypeAlias = tuple[Sequence[int], DTypeLike]


@dataclass(frozen=True)
class Recording:
    """Calls on parts of a tile's arrays, which are those that it has been given, then scratch, then what is prepared.

    scratch    what of it is asked for
    prepared   what is filled once a run, and by which call
    """

    engine: Engine
    parts: Sequence[_Part]
    scratch: Sequence[_Buffer]
    prepared: Sequence[tuple[_Buffer, _Call]]
    calls: Sequence[_Call]

    def replay(self, call: Calls, given: Iterable[Array], place: Place, attributes: Mapping[str, Any]) -> None:
        """Records the calls on other arrays of the same form."""
        arrays = [*given, *(call.scratch(*buffer) for buffer in self.scratch)]
        views: list[Array | None] = [None] * len(self.parts)

        def filled(each: _Call) -> list[Any]:
            found = list(each.given)
            for position, number in each.parts:
                view = views[number]
                if view is None:
                    part = self.parts[number]
                    view = views[number] = self._view(arrays[part.array], part)
                found[position] = view
            return found

        for buffer, each in self.prepared:
            arrays.append(call.prepared(*buffer, each.function, *filled(each)))
        for each in self.calls:
            if each.is_anew:
                call.anew(each.function, place, attributes, *filled(each))
            else:
                call(each.function, *filled(each))

    def _view(self, array: Array, part: _Part) -> Array:
        is_whole = part.offset == 0 and part.shape == array.shape and part.strides == array.strides
        if is_whole and part.dtype == array.dtype:
            return array
        return self.engine.view(array, part.shape, part.dtype, part.offset, part.strides)


class Recordings:
    """What formulas' rules have recorded, by the form of a tile's arrays."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Recording | None] = {}

    def record(
        self,
        engine: Engine,
        call: Calls,
        rule: Rule,
        operands: Mapping[str, Array],
        results: Mapping[str, Array | None],
        place: Place,
        attributes: Mapping[str, Any],
    ) -> bool:
        """Records what a formula's rule does, by asking it or by a replay; False where the rule cannot do it."""
        arrays = [array for array in (*operands.values(), *results.values()) if array is not None]
        if any(array.size == 0 or array.dtype.hasobject for array in arrays):
            return bool(rule.emit(call, operands, results, place, attributes))
        wanted = tuple(name for name, array in results.items() if array is not None)
        starts = tuple(place.starts.items()) if rule.is_placed else ()
        form = rule.formula, wanted, starts, tuple(place.sizes.items()), form_of(engine, arrays)
        if form in self._found:
            found = self._found[form]
            if found is not None:
                found.replay(call, arrays, place, attributes)
        else:
            tape = Tape(engine, call, arrays)
            done = rule.emit(tape, operands, results, place, attributes)
            found = self._found[form] = tape.recording() if done else None
        return found is not None

    def forget(self) -> None:
        """Lets go of all of it: nothing more is to be written."""
        self._found.clear()


def form_of(engine: Engine, arrays: Sequence[Array]) -> Hashable:
    """How arrays lie: each by itself, and those that share memory to each other."""
    shared, address = engine.xp.may_share_memory, engine.address
    return (
        *((array.shape, array.strides, array.dtype) for array in arrays),
        *(
            (i, k, address(other) - address(one))
            for (i, one), (k, other) in combinations(enumerate(arrays), 2)
            if shared(one, other)
        ),
    )


class Tape:
    """As `Calls`: hands on what a rule records for the arrays `given`, and keeps it as a recording."""

    def __init__(self, engine: Engine, call: Calls, given: Iterable[Array]) -> None:
        self._engine, self._call = engine, call
        #: Of each array its first element and its memory, in which what the rule records is looked for.
        self._memory = [self._place(array) for array in given]
        self._parts: dict[_Part, int] = {}
        self._scratch: list[tuple[_Buffer, Array]] = []
        self._prepared: list[tuple[_Buffer, Function, tuple[Any, ...], Array]] = []
        self._calls: list[tuple[Function, tuple[Any, ...], bool]] = []

    def __call__(self, function: Function, *arguments: Any) -> None:
        self._calls.append((function, arguments, False))
        self._call(function, *arguments)

    def anew(self, record: Function, place: Place, attributes: Mapping[str, Any], *arguments: Any) -> None:
        self._calls.append((record, arguments, True))
        self._call.anew(record, place, attributes, *arguments)

    def scratch(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        made = self._call.scratch(shape, dtype)
        self._scratch.append(((shape, dtype), made))
        return made

    def prepared(self, shape: Sequence[int], dtype: DTypeLike, function: Function, *arguments: Any) -> Array:
        made = self._call.prepared(shape, dtype, function, *arguments)
        self._prepared.append(((shape, dtype), function, arguments, made))
        return made

    def constant(self, make: Function, *arguments: Any) -> Array:
        return self._call.constant(make, *arguments)

    def recording(self) -> Recording:
        """What has been recorded."""
        made = [*(array for _, array in self._scratch), *(array for *_, array in self._prepared)]
        self._memory += map(self._place, made)
        prepared = [(buffer, self._moved(function, given)) for buffer, function, given, _ in self._prepared]
        calls = [self._moved(*each) for each in self._calls]
        return Recording(self._engine, tuple(self._parts), [buffer for buffer, _ in self._scratch], prepared, calls)

    def _moved(self, function: Function, arguments: tuple[Any, ...], is_anew: bool = False) -> _Call:
        """A call that keeps none of the tile's arrays, of which none may stand within a tuple."""
        arrays = self._engine.xp.ndarray
        assert not any(isinstance(each, arrays) for some in arguments if isinstance(some, tuple) for each in some)
        found = [self._part(each) for each in arguments]
        given = tuple(each if number is None else None for each, number in zip(arguments, found, strict=True))
        parts = tuple((position, number) for position, number in enumerate(found) if number is not None)
        return _Call(function, given, parts, is_anew)

    def _part(self, argument: Any) -> int | None:
        """Which part of the tile's arrays an argument is; None of a number, and of what a rule has brought along."""
        if not isinstance(argument, self._engine.xp.ndarray):
            return None
        element, span = self._place(argument)
        for number, (first, memory) in enumerate(self._memory):
            if span is not None and memory is not None and memory[0] <= span[0] and span[1] <= memory[1]:
                part = _Part(number, element - first, argument.shape, argument.strides, argument.dtype)
                return self._parts.setdefault(part, len(self._parts))
        return None

    def _place(self, array: Array) -> tuple[int, Span | None]:
        return self._engine.address(array), addresses(self._engine, array)
