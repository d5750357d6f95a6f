"""The forms of a CUDA kernel: which threads work on which elements, and how an array's elements are reached.

    elements   no sum over a row or rows: threads go through all elements, `vector` at a time, rows and columns alike
    rows       a team works on a row at a time: a warp, or the whole block; thread t has the columns t, t + team, …,
               each standing for `vector` that lie side by side
    slabs      rows, of which a block has some columns only: sums over rows whose columns know nothing of each other

Where a row takes few `steps` of a team, loops over it are unrolled, and what is kept from one to the next stays in
registers; else, of the longest rows, it is kept in a buffer of global memory that each block has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphir.backends.rows.expressions import Expression
from graphir.backends.rows.schedule import Schedule, Store

#: The longest rows that a warp works on.
WARP_WIDTH = 1024
#: The longest rows whose loops are unrolled.
BLOCK_WIDTH = 8192
#: So many numbers a thread may keep in registers, beside those that it computes with.
REGISTERS = 128
#: So many columns a thread has of a slab: enough loads at a time.
SLAB = 8


@dataclass(frozen=True)
class Kind:
    """An array as a kernel sees it: its dtype, and whether the elements of a row are loaded in packs."""

    dtype: str
    packed: bool


@dataclass(frozen=True)
class Form:
    """A kernel's form.

    team     threads to a row; 0 for the form `elements`
    block    threads to a block
    vector   elements to a pack: 1, 2 or 4
    steps    of a team's loop over a row, if it is unrolled; 0 if it is not
    wide     whether elements are counted with 64 bits
    pairs    for each mask, whether its elements are drawn in packs
    slabs    whether a block has a slab of the columns, by its second number
    """

    team: int
    block: int
    vector: int
    steps: int
    wide: bool
    pairs: tuple[bool, ...]
    slabs: bool = False

    @property
    def teams(self) -> int:
        """How many rows a block works on at a time."""
        return self.block // self.team if self.team else 0

    @property
    def kept(self) -> int:
        """How many of a row's numbers each thread has."""
        return self.steps * self.vector


def elements_form(vector: int, wide: bool, pairs: Sequence[bool]) -> Form:
    """The form of what needs no row."""
    return Form(0, 256, vector, 0, wide, tuple(pairs))


def rows_form(width: int, vector: int, wide: bool, pairs: Sequence[bool], unrolled: bool = True) -> Form:
    """The form for rows of a width."""
    if width <= WARP_WIDTH and unrolled:
        # Not where terms are added up in memory: a block has one row of them, and no two teams may add to it.
        team, block = 32, 256
    elif width <= BLOCK_WIDTH:
        team, block = 256, 256
    else:
        team, block = 512, 512
    steps = -(-width // (team * vector)) if unrolled and width <= BLOCK_WIDTH else 0
    return Form(team, block, vector, steps, wide, tuple(pairs))


def slabs_form(vector: int, wide: bool, pairs: Sequence[bool]) -> Form:
    """The form for sums over rows in which nothing is asked of a whole row."""
    return Form(256, 256, vector, SLAB // vector, wide, tuple(pairs), slabs=True)


def make_schedule(
    stores: Sequence[Store], array_of: Mapping[int, int], kinds: Sequence[Kind], form: Form, dtype: str
) -> Schedule:
    """The schedule of a kernel: in registers all is kept that fits there, in memory only what must be."""

    def exact(array: int) -> bool:
        return kinds[array].dtype in (dtype, "bool")

    schedule = Schedule(stores, array_of, reads_back=exact, keeps=True)
    terms = sum(store.adds and store.each for store in stores)
    if form.steps and (len(kept_by(schedule)) + terms) * form.kept <= REGISTERS:
        return schedule
    return Schedule(stores, array_of, reads_back=exact, little=1 << 62)


def kept_by(schedule: Schedule) -> list[Expression]:
    """What a schedule keeps; masks are drawn anew."""
    return [value for value in schedule.buffers if value.operation != "keep"]
