"""Roles: in how many ways a value from outside is read, and which factors of which nodes are the same.

Nodes that are looked at together share factors where a value connects them. A value that one of them makes has one
set of factors, whoever reads it. A value from outside, or a view of one, has those of whoever reads it: a *role* for
each way of reading it. Where two ways go well together they are made one, so that loops over the factors of one node
are loops over those of the other, too; they do not where two factors of one node would become one: X • Xᵀ would then
be a diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphir.ir.dims import Dim
from graphir.ir.disjoint import DisjointSets
from graphir.ir.operator import Operator
from graphir.ir.signature import Operand, Signature

#: A factor of connected nodes.
Factor: TypeAlias = int
#: A value's dims, every dim as its factors, major first.
Axes: TypeAlias = tuple[tuple[Factor, ...], ...]
#: A node as it is seen here: operator, rule, factors with their dims, and the numbers of what it reads and makes.
Place: TypeAlias = tuple[Operator, Signature, tuple[tuple[str, Dim], ...], tuple[int, ...]]
Structure: TypeAlias = tuple[Place, ...]


@dataclass(frozen=True)
class Roles:
    """A structure in which every value is read in one role: the numbers that places touch are those of roles.

    places    the nodes, a view of a value from outside once for each role
    source    for each place, the node's position in the structure that it came from
    number    for each role, the number of its value there
    of        for each value's number, its roles, the first first
    factors   for each place its factors, by the names in its rule
    axes      for each role its dims
    tangled   factors that no tile can be a range of: of dims that one node cuts and another takes as one, or cuts
              otherwise, and those that a value which is made here makes one although a node tells them apart
    """

    places: Structure
    source: tuple[int, ...]
    number: tuple[int, ...]
    of: tuple[tuple[int, ...], ...]
    factors: tuple[Mapping[str, Factor], ...]
    axes: tuple[Axes, ...]
    tangled: frozenset[Factor]


def find_roles(structure: Structure) -> Roles:
    """The roles of a structure's values."""
    return _Roles(structure).run()


class _Factors:
    """Factors, each of a place and with a dim, made one where they are known, or may be taken, to be the same."""

    def __init__(self) -> None:
        self._sets = DisjointSets()
        self._dims: list[Dim] = []
        #: Of a factor that stands for others: the places that have one of them.
        self._places: dict[Factor, frozenset[int]] = {}
        self._tangled: list[Factor] = []

    def new(self, place: int, factors: Iterable[tuple[str, Dim]]) -> dict[str, Factor]:
        """Factors of a place, by their names."""
        names = {}
        for name, dim in factors:
            factor = names[name] = self._sets.new()
            self._dims.append(dim)
            self._places[factor] = frozenset((place,))
        return names

    def find(self, factor: Factor) -> Factor:
        """The factor that stands for this one."""
        return self._sets.find(factor)

    def unite(self, one: Axes, other: Axes) -> None:
        """Says that these are dims of the same elements."""
        for mine, theirs in zip(one, other, strict=True):
            if not self._alike(mine, theirs):
                self._tangled += (*mine, *theirs)
                continue
            for a, b in zip(mine, theirs, strict=True):
                if not self._merge(a, b):
                    self._tangled.append(a)
                    self._merge(a, b, at_all_costs=True)

    def offer(self, one: Axes, other: Axes) -> bool:
        """Makes of these dims the same what may be; whether all could."""
        done = [
            self._alike(mine, theirs) and all(self._merge(a, b) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip(one, other, strict=True)
        ]
        return all(done)

    def tangled(self) -> frozenset[Factor]:
        """The factors that no tile can be a range of."""
        return frozenset(map(self.find, self._tangled))

    def _alike(self, one: Sequence[Factor], other: Sequence[Factor]) -> bool:
        """Whether a dim is cut into the same factors by both."""
        return len(one) == len(other) and all(self._dims[a] == self._dims[b] for a, b in zip(one, other, strict=True))

    def _merge(self, one: Factor, other: Factor, at_all_costs: bool = False) -> bool:
        """Makes two factors one, unless a place has both."""
        first, second = sorted((self.find(one), self.find(other)))
        if first == second:
            return True
        if not at_all_costs and not self._places[first].isdisjoint(self._places[second]):
            return False
        self._sets.unite(second, first)
        self._places[first] |= self._places.pop(second)
        return True


@dataclass
class _Role:
    """A role of a value from outside: of a view, that of its operand that it is made of."""

    number: int
    axes: Axes
    parent: _Role | None
    place: int | None
    index: int = -1


class _Roles:
    """Goes through a structure, giving each operand from outside a role."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.factors = _Factors()
        self.names: list[dict[str, Factor]] = []
        self.source: list[int] = []
        self.maker = {number: i for i, place in enumerate(structure) for number in _made(place)}
        #: The values that are there before the first node, and views of them.
        self.outside = self._find_outside()
        #: The roles of a value from outside that are made of the same role of its operand.
        self.roles: dict[tuple[int, int], list[_Role]] = {}
        self.reads: dict[tuple[int, int], _Role] = {}
        self.own: dict[int, Axes] = {}

    def run(self) -> Roles:
        places = {}
        for index, place in enumerate(self.structure):
            if not self._is_outside_view(place):
                places[index] = self._new_place(index)
        for index, here in places.items():
            self._connect(index, here)
        for index, here in places.items():
            self._read_outside(index, here)
        for place in self.structure:
            if self._is_outside_view(place) and not self._roles_of(_made(place)[0]):
                self._add_role(_made(place)[0], None)
        return self._collect(places)

    # -- what is made here ----------------------------------------------------------------------------

    def _find_outside(self) -> frozenset[int]:
        found: set[int] = set()
        for place in self.structure:
            found.update(number for number in _read(place) if number not in self.maker)
            if self._is_view(place) and _read(place)[0] in found:
                found.update(_made(place))
        return frozenset(found)

    def _is_view(self, place: Place) -> bool:
        return place[0].view

    def _is_outside_view(self, place: Place) -> bool:
        return self._is_view(place) and _read(place)[0] in self.outside

    def _new_place(self, index: int) -> int:
        here = len(self.names)
        self.names.append(self.factors.new(here, self.structure[index][2]))
        self.source.append(index)
        return here

    def _connect(self, index: int, here: int) -> None:
        """What a place reads of what is made here has the factors that it was made with."""
        for number, operand in _pairs(self.structure[index]):
            if number not in self.outside:
                axes = _axes(operand, self.names[here])
                self.factors.unite(self.own.setdefault(number, axes), axes)

    # -- what comes from outside ----------------------------------------------------------------------

    def _read_outside(self, index: int, here: int) -> None:
        place = self.structure[index]
        for position, (number, operand) in enumerate(zip(_read(place), place[1].inputs, strict=True)):
            if number in self.outside:
                self.reads[here, position] = self._add_role(number, _axes(operand, self.names[here]))

    def _add_role(self, number: int, wanted: Axes | None) -> _Role:
        """A role in which a value is read with these dims: one that there is, if it goes, or a new one."""
        index = self.maker.get(number)
        if index is None:
            assert wanted is not None
            return self._find_role(number, wanted, None, None)
        view = self.structure[index]
        here = self._new_place(index)
        (source,), (made,) = view[1].inputs, view[1].outputs
        axes = _axes(made, self.names[here])
        if wanted is not None:
            self.factors.unite(axes, wanted)
        parent = self._add_role(_read(view)[0], _axes(source, self.names[here]))
        return self._find_role(number, axes, parent, here)

    def _find_role(self, number: int, axes: Axes, parent: _Role | None, here: int | None) -> _Role:
        mine = self.roles.setdefault((number, id(parent)), [])
        for role in mine:
            if self.factors.offer(role.axes, axes):
                return role
        mine.append(_Role(number, axes, parent, here))
        return mine[-1]

    def _roles_of(self, number: int) -> list[_Role]:
        return [role for (each, _), roles in self.roles.items() if each == number for role in roles]

    # -- the result -----------------------------------------------------------------------------------

    def _collect(self, places: Mapping[int, int]) -> Roles:
        count = 1 + max((number for place in self.structure for number in place[3]), default=-1)
        of: list[list[int]] = [[] for _ in range(count)]
        number: list[int] = []
        axes: list[Axes] = []
        outside = [role for roles in self.roles.values() for role in roles]
        roles_of: list[list[_Role]] = [[] for _ in range(count)]
        for role in outside:
            roles_of[role.number].append(role)
        for value, mine in enumerate(roles_of):
            for role in mine:
                role.index = len(number) + len(of[value])
                of[value].append(role.index)
            number += [value] * max(len(mine), 1)
            axes += [role.axes for role in mine] or [self.own[value]]
            if not mine:
                of[value].append(len(number) - 1)
        views = {role.place: role for role in outside if role.place is not None}
        kept = sorted([*places.values(), *views], key=lambda here: (self.source[here], here))
        result: list[Place] = []
        for here in kept:
            operator, rule, dims, touched = self.structure[self.source[here]]
            if here in views:
                role = views[here]
                assert role.parent is not None
                roles = [role.parent.index, role.index]
            else:
                reading = len(rule.inputs)
                roles = [
                    self.reads[here, i].index if i < reading and value in self.outside else of[value][0]
                    for i, value in enumerate(touched)
                ]
            result.append((operator, rule, dims, tuple(roles)))
        find = self.factors.find
        return Roles(
            tuple(result),
            tuple(self.source[here] for here in kept),
            tuple(number),
            tuple(map(tuple, of)),
            tuple({name: find(factor) for name, factor in self.names[here].items()} for here in kept),
            tuple(tuple(tuple(map(find, axis)) for axis in each) for each in axes),
            self.factors.tangled(),
        )


def _read(place: Place) -> tuple[int, ...]:
    return place[3][: len(place[1].inputs)]


def _made(place: Place) -> tuple[int, ...]:
    return place[3][len(place[1].inputs) :]


def _pairs(place: Place) -> Iterator[tuple[int, Operand]]:
    return zip(place[3], (*place[1].inputs, *place[1].outputs), strict=True)


def _axes(operand: Operand, names: Mapping[str, Factor]) -> Axes:
    return tuple([tuple([names[factor] for factor in axis.factors]) for axis in operand.axes])
