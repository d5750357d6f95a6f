"""Texts that were made up or damaged, through all four stages: parsed, verified, compiled and run.

Whatever a text says, a stage ends in what was asked for or in an error of graphir's that is not about graphir itself,
and takes no longer than the text's length allows. What parses prints as a text that parses to the same graph. Texts are
small and so are sizes: a text takes a millisecond, one that runs some more. Processes, one for each processor, try
batches of them.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import traceback
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NeverError
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import graphir as gi
from graphir.errors import GraphirError, OperatorError, ParseError, PlanError, ProofError
from graphir.ir.dims import dim_names
from graphir.ir.extent import count_bytes, values_within
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from tests.attack.corpus import choose, grow
from tests.attack.grammar import mutate
from tests.attack.outcome import AttackError, HangError, RawError

#: What came of a text.
REFUSED = "refused as a text"
UNVERIFIED = "parsed, and refused as a graph"
UNCOMPILED = "parsed, and refused by the compiler"
UNFIT = "parsed, and refused what it was given"
LARGE = "parsed, and too large to run here"
RAN = "parsed, and run"

BATCH = 200
#: Seconds of a thread's processor time for a text, and for each of its characters more: of parsing, and of all stages.
_PARSING, _ALL = (1.0, 2e-4), (5.0, 1e-3)
#: After so many seconds without an end, a batch is given up.
_NEVER = 120.0
#: Errors that no text may lead to: what is planned, proved and computed is graphir's own affair.
_OWN = (PlanError, ProofError, OperatorError)
#: Bytes of all of a graph's values beyond which it is not run here.
_LARGEST = 1 << 22

Trial: TypeAlias = tuple[str, str]


def texts(seed: int) -> Iterator[Trial]:
    """Mutates texts without end, and yields of each how it was changed and what came of it, in the order of seeds.

    Errors: RawError or HangError, with the text, where a stage ends otherwise than it must.
    """
    workers = max(os.cpu_count() or 1, 1)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    pending: deque[tuple[int, Future[list[Trial | AttackError]]]] = deque()
    try:
        for number in count(seed * 1_000_003):
            pending.append((number, pool.submit(try_batch, number)))
            if len(pending) <= 2 * workers:
                continue
            yield from _collected(*pending.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _collected(number: int, future: Future[list[Trial | AttackError]]) -> Iterator[Trial]:
    where = f"texts, batch {number}"
    try:
        found = future.result(timeout=_NEVER)
    except NeverError:
        raise HangError(where, f"no end within {_NEVER:g} s") from None
    except BrokenProcessPool as error:
        raise RawError(where, f"the process crashed: {error}") from None
    for each in found:
        if isinstance(each, AttackError):
            raise each
        yield each


def try_batch(number: int, size: int = BATCH) -> list[Trial | AttackError]:
    """Tries so many texts, all drawn from the batch's number."""
    rng = random.Random(f"texts {number}")
    grown = [grow(rng) for _ in range(max(size // 10, 1))]
    found: list[Trial | AttackError] = []
    for _ in range(size):
        text = rng.choice(grown) if rng.random() < 0.5 else choose(rng)
        text, kind = mutate(text, choose(rng), rng)
        try:
            found.append((kind, attempt(text, random.Random(zlib.crc32(text.encode("utf-8", "surrogatepass"))))))
        except AttackError as error:
            found.append(type(error)(kind, str(error)))
        except Exception as error:  # by its nature, anything may come
            raised = "".join(traceback.format_exception(error)[-3:])
            found.append(RawError(kind, f"{raised}\n--- the text:\n{text}"))
    return found


def attempt(text: str, rng: random.Random) -> str:
    """Takes a text through the stages, and says how far it came; which backend runs it is drawn."""
    began = time.thread_time()
    try:
        graph = gi.parse(text)
    except ParseError:
        _require_speed(began, _PARSING, text)
        return REFUSED
    try:
        gi.verify(graph)
    except GraphirError:
        return UNVERIFIED
    _require_speed(began, _PARSING, text)
    if rng.random() < 0.1:
        _require_return(graph, text)
    outcome = _run(graph, rng)
    _require_speed(began, _ALL, text)
    return outcome


def _run(graph: Graph, rng: random.Random) -> str:
    sizes = {name: rng.choice((1, 2, 2, 2, 3, 4, 4, 6)) for name in sorted(dim_names([graph.dims]) - _defined(graph))}
    if rng.random() < 0.02 and sizes:
        sizes[rng.choice(list(sizes))] = rng.choice((0, -1, 1 << 20, 1 << 40, 1 << 62, 1 << 63, 10**30))
    backend = rng.choice(("numpy", "numpy", "reference"))
    options: dict[str, Any] = {}
    if backend == "numpy":
        options = {"threads": rng.choice((1, 1, 2)), "check": rng.random() < 0.1}
    try:
        executable = gi.compile(graph, sizes, backend=backend, **options)
        if sum(count_bytes(value.type, sizes) for value in values_within(graph)) > _LARGEST:
            return LARGE
        given = {value.name: _array(value, sizes, rng) for value in graph.arguments}
    except _OWN:
        raise
    except GraphirError:
        return UNCOMPILED
    try:
        with np.errstate(all="ignore"):
            executable(given)
    except _OWN:
        raise
    except GraphirError:
        return UNFIT
    finally:
        team = vars(executable).get("_team")
        if team is not None:
            team.stop()
    return RAN


def _defined(graph: Graph) -> set[str]:
    return {name for dim in graph.dims for name in dim.definitions}


def _array(value: Value, sizes: dict[str, int], rng: random.Random) -> NDArray[Any]:
    """Content for an argument: ids are 0 or 1, now and then something that is no id."""
    shape = tuple(dim.size(sizes) for dim in value.shape)
    draw = np.random.default_rng(rng.randrange(1 << 30))
    if value.dtype == "text":
        return np.full(shape, "ab", object)
    if value.dtype == "bool":
        return draw.random(shape) < 0.7
    if value.type.is_float:
        return (draw.standard_normal(shape) * rng.choice((1, 1, 1, 1e4, 0))).astype(value.dtype)
    if not shape:
        return np.asarray(rng.choice((0, 0, 1, 2, -1, (1 << 31) - 1)), value.dtype)
    return draw.integers(0, 1 if rng.random() < 0.8 else 3, shape).astype(value.dtype)


def _require_return(graph: Graph, text: str) -> None:
    """What is printed of a graph is a text of it."""
    try:
        printed = gi.to_text(graph)
    except GraphirError:
        return
    if gi.parse(printed) != graph:
        raise RawError("texts", f"another graph comes back of\n{text}")


def _require_speed(began: float, limit: tuple[float, float], text: str) -> None:
    once, each = limit
    took, most = time.thread_time() - began, once + each * len(text)
    if took > most:
        raise HangError("texts", f"{took:.1f} s where {most:.1f} are much, for {len(text)} characters:\n{text[:4000]}")
