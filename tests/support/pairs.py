"""Cases for tests of many parameters: a few combinations in which any two values meet.

A fault that shows needs one value, or two that meet, far more often than three: so the product of all choices says
little that its pairs do not, at many times the price. Where three matter, two of the choices are given as one.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

Chosen = dict[str, Any]
Pair = tuple[tuple[str, Any], tuple[str, Any]]


def pairwise(
    choices: Mapping[str, Sequence[Hashable]], never: Collection[tuple[Hashable, Hashable]] = ()
) -> list[Chosen]:
    """One value of each choice, in few combinations: any two values of two choices are in at least one of them.

    Greedy, and the same in every process: a combination begins with a pair that is still missing, and takes of each
    further choice the value that adds most. Of what is in `never`, in the order of the choices, none is made.
    """

    def pairs(chosen: Chosen) -> Iterator[Pair]:
        return itertools.combinations(((name, chosen[name]) for name in choices if name in chosen), 2)

    def possible(pair: Pair) -> bool:
        (_, one), (_, other) = pair
        return (one, other) not in never

    def best(name: str, chosen: Chosen) -> Any:
        fitting = [value for value in choices[name] if all(map(possible, pairs({**chosen, name: value})))]
        return max(fitting, key=lambda value: sum(pair in missing for pair in pairs({**chosen, name: value})))

    if len(choices) == 1:
        return [{name: value} for name, values in choices.items() for value in values]
    both = (((a, x), (b, y)) for a, b in itertools.combinations(choices, 2) for x in choices[a] for y in choices[b])
    missing = dict.fromkeys(filter(possible, both))
    found: list[Chosen] = []
    while missing:
        chosen: Chosen = dict(next(iter(missing)))
        for name in choices:
            if name not in chosen:
                chosen[name] = best(name, chosen)
        for pair in pairs(chosen):
            missing.pop(pair, None)
        found.append({name: chosen[name] for name in choices})
    return found
