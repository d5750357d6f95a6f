"""Which layer an item lies in: behind all that it follows, level with what shall be level, near what it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphir.drawing.layout.strip import Item, Link


def assign_layers(items: Sequence[Item], links: Sequence[Link], levels: Iterable[Sequence[int]]) -> list[int]:
    """An even layer for each item; links lead from lower to higher ones.

    `levels` are sets of items that lie in one layer; one that contradicts the links is left out. The links must have
    no circle.
    """
    leader = _level(len(items), links, levels)
    followers: dict[int, set[int]] = {}
    leaders: dict[int, set[int]] = {}
    for link in links:
        a, b = leader[link.source], leader[link.target]
        followers.setdefault(a, set()).add(b)
        leaders.setdefault(b, set()).add(a)
    order = _sorted(sorted(set(leader)), followers)
    assert order is not None
    layer: dict[int, int] = {}
    for each in order:
        layer[each] = max((layer[before] + 2 for before in leaders.get(each, ())), default=0)
    late = dict.fromkeys(set(leader), True)
    for number, item in enumerate(items):
        late[leader[number]] &= item.late
    for each in reversed(order):
        if followers.get(each) and (late[each] or not leaders.get(each)):
            layer[each] = min(layer[after] for after in followers[each]) - 2
    inner = [layer[leader[number]] for number, item in enumerate(items) if not item.end] or [0]
    ends = {-1: min(inner) - 2, 0: 0, 1: max(inner) + 2}
    found = [ends[item.end] if item.end else layer[leader[number]] for number, item in enumerate(items)]
    return [each - min(found) for each in found]


def _level(count: int, links: Sequence[Link], levels: Iterable[Sequence[int]]) -> list[int]:
    """Per item the first item of those that it is level with."""
    leader = list(range(count))
    followers: dict[int, set[int]] = {}
    for link in links:
        followers.setdefault(link.source, set()).add(link.target)
    for level in levels:
        first = leader[level[0]]
        for other in level[1:]:
            joined = leader[other]
            if joined == first or _leads(first, joined, followers) or _leads(joined, first, followers):
                continue
            leader = [first if each == joined else each for each in leader]
            followers[first] = followers.pop(first, set()) | followers.pop(joined, set())
            for targets in followers.values():
                if joined in targets:
                    targets.remove(joined)
                    targets.add(first)
    return leader


def _leads(start: int, end: int, followers: dict[int, set[int]]) -> bool:
    seen, queue = {start}, [start]
    while queue:
        each = queue.pop()
        if each == end:
            return True
        new = followers.get(each, set()) - seen
        seen |= new
        queue += new
    return False


def _sorted(numbers: Sequence[int], followers: dict[int, set[int]]) -> list[int] | None:
    """The numbers so that each comes before what follows it; None if they go in a circle."""
    waiting = dict.fromkeys(numbers, 0)
    for targets in followers.values():
        for each in targets:
            waiting[each] += 1
    ready = [each for each in numbers if not waiting[each]]
    found: list[int] = []
    for each in ready:
        found.append(each)
        for after in sorted(followers.get(each, ())):
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)
    return found if len(found) == len(numbers) else None


def without_circles(count: int, links: Sequence[Link]) -> list[bool]:
    """Per link whether it has to be turned round for the links to have no circle: those that lead back."""
    outgoing: list[list[int]] = [[] for _ in range(count)]
    for number, link in enumerate(links):
        outgoing[link.source].append(number)
    turned = [False] * len(links)
    state = [0] * count
    for start in range(count):
        if state[start]:
            continue
        state[start] = 1
        stack = [(start, iter(outgoing[start]))]
        while stack:
            at, rest = stack[-1]
            for number in rest:
                target = links[number].target
                if state[target] == 1:
                    turned[number] = True
                elif not state[target]:
                    state[target] = 1
                    stack.append((target, iter(outgoing[target])))
                    break
            else:
                state[at] = 2
                stack.pop()
    return turned
