"""Agreement: ranks compare what they were started with before they compute together.

Ranks that disagree (another text, learning rate or number of steps, another version) would train on, each in its own
way, or wait for each other for ever. So each hands in its *terms*, short texts by name, and all raise the same error if
they are not the same, which names who differs and what each has. Of what would be a long text a digest is handed in;
the text is written only where digests differ, and its first line that differs is told.

Some terms belong to the machine: its BLAS, how many threads it has. Ranks of one machine have to agree on them; where
machines differ, results may differ in their last bits, which is told, and is no error.
"""

from __future__ import annotations

import json
import socket
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from graphir.backends.communicator.interface import Communicator
from graphir.backends.machine import Machine
from graphir.errors import AgreementError

#: The most characters of a value that are told.
_TOLD = 160
#: The most bytes of a text that is shared because it differs.
_LONGEST = 1 << 26
_PURPOSE = "the agreement on what is run"


@dataclass(frozen=True)
class Terms:
    """What a rank was started with.

    occasion  what all are about to do
    common    what has to be the same on all ranks, by name
    texts     what those of `common` that are digests are digests of, as it is to be told
    machine   what it computes with, of which ranks in one place have to have the same, and all the same versions
    """

    occasion: str
    common: Mapping[str, str]
    machine: Machine
    texts: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    def pack(self) -> bytes:
        """As it travels."""
        machine = {"place": self.machine.place, "traits": dict(self.machine.traits), "host": socket.gethostname()}
        common = {**self.machine.versions, **self.common}
        return json.dumps({"occasion": self.occasion, "common": common, **machine}).encode()


def require_agreement(communicator: Communicator, terms: Terms) -> tuple[str, ...]:
    """Returns, where all ranks have these terms, in what their machines differ: a sentence for each.

    Errors: AgreementError, the same on all ranks, that says who differs in what. All ranks have to call this.
    """
    everyones = [_unpack(each) for each in communicator.share(terms.pack(), _PURPOSE)]
    ranks = range(len(everyones))
    occasions = [{"what is done": each.get("occasion", "something else")} for each in everyones]
    found = [f"{name} is {_told(values, ranks)}" for name, values in _differing(occasions)]
    if not found:
        for name, values in _differing([each["common"] for each in everyones]):
            where = ""
            if name in terms.texts:  # as it is on all ranks that are about to do the same
                where, values = ", where it first differs,", _first_difference(communicator, terms.texts[name]())
            found.append(f"{name}{where} is {_told(values, ranks)}")
        for here in _places(everyones):
            held = _differing([everyones[rank]["traits"] for rank in here])
            found += [f"{name} on {everyones[here[0]]['host']} is {_told(values, here)}" for name, values in held]
    if found:
        raise AgreementError(f"the ranks do not agree: {'; '.join(found)}; start all of them alike")
    traits = _differing([each["traits"] for each in everyones])
    return tuple(f"{name} is {_told(values, ranks)}" for name, values in traits)


def _differing(held: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """The names under which not all have the same, and what each has."""
    names = dict.fromkeys(name for each in held for name in each)
    found = [(name, [each.get(name, "nothing") for each in held]) for name in names]
    return [(name, values) for name, values in found if len(set(values)) > 1]


def _places(everyones: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The ranks in each place."""
    places: dict[str, list[int]] = {}
    for rank, each in enumerate(everyones):
        places.setdefault(each["place"], []).append(rank)
    return list(places.values())


def _first_difference(communicator: Communicator, text: str) -> list[str]:
    """The first line that is not the same in all ranks' texts, as each rank has it; how it is spaced does not count."""
    parts = communicator.share(zlib.compress(text.encode()), _PURPOSE)
    texts = [zlib.decompressobj().decompress(part, _LONGEST).decode() for part in parts]
    lines = [[" ".join(line.split()) for line in text.splitlines() if line.strip()] for text in texts]
    return next((list(held) for held in zip_longest(*lines, fillvalue="nothing") if len(set(held)) > 1), texts)


def _told(values: Sequence[str], ranks: Sequence[int]) -> str:
    """`4 for rank 3 and 8 for all others`: the fewest first."""
    holders: dict[str, list[int]] = {}
    for rank, value in zip(ranks, values, strict=True):
        holders.setdefault(value, []).append(rank)
    *few, (value, most) = sorted(holders.items(), key=lambda item: (len(item[1]), item[1]))
    told = [f"{_short(each)} for {_listed(who)}" for each, who in few]
    return f"{', '.join(told)} and {_short(value)} for {_listed(most) if len(most) == 1 else 'all others'}"


def _listed(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _short(value: str) -> str:
    return value if len(value) <= _TOLD else f"{value[:_TOLD]}…"


def _unpack(part: bytes) -> Mapping[str, Any]:
    """What a rank has handed in; nothing of one that is about to do something else."""
    try:
        found = json.loads(part)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


__all__ = ["Terms", "require_agreement"]
