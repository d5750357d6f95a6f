"""What nodes keep from tile to tile: memory beside their results that earlier tiles of theirs have written."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.backends.proof.boxes import whole
from graphir.backends.proof.calls import Lays
from graphir.backends.proof.doers import Done
from graphir.backends.proof.items import Item, Ledger
from graphir.backends.proof.lays import Lay, Spans
from graphir.backends.proof.memory import Memory
from graphir.backends.trace import Step
from graphir.ir.graph import Node


class Kept:
    """Finds what is kept, and sees that it is there when it is read.

    places     for nodes that are alike (`Done.owner`) what they keep, as the item that stands for it
    made_of    who has made it, and of which of its operands, by their positions; None if it was of something else, too
    """

    def __init__(self, ledger: Ledger, memory: Memory, lays: Lays) -> None:
        self._ledger, self._memory, self._lays = ledger, memory, lays
        self.places: dict[object, list[tuple[Lay, Item]]] = {}
        self.made_of: dict[Item, tuple[Node, dict[int, Item] | None]] = {}

    def find(self, every: Sequence[Done], touched: Spans) -> None:
        """Notes what is read beside of what the program writes, which `touched` spans; all else is a constant."""
        needed: dict[object, list[Lay]] = {}
        for done in every:
            outside = {key: lay for key, lay in done.deeds.outside.items() if touched.touch(lay)}
            done.deeds.outside = outside
            if outside:
                needed.setdefault(done.owner, []).extend(outside.values())
        for done in every:
            wanted = needed.get(done.owner) if done.deeds.scratch else None
            if wanted is None:
                continue
            known = self.places.setdefault(done.owner, [])
            for lay in done.deeds.scratch.values():
                if any(lay.contains(each) for each in wanted) and all(each.key != lay.key for each, _ in known):
                    value = done.step.nodes[0].outputs[0]
                    item = Item(f"what {value.name} keeps", value, lay.shape)
                    self._memory.wanted[item] = 1
                    known.append((lay, item))

    def carry_out(self, done: Done) -> None:
        """What a step's calls do beside its operands and results."""
        kept = self.places.get(done.owner, ())
        for lay in done.deeds.outside.values():
            if not any(each.contains(lay) and self._is_there(item, done.step) for each, item in kept):
                done.doer.fail(
                    f"one of its calls reads memory of shape {list(lay.shape)} that is no operand of it, and that it "
                    "has not written itself"
                )
        for key, lay in done.deeds.scratch.items():
            item = next((item for each, item in kept if each.key == key), None)
            if item is None:
                self._memory.overwrite(lay, done.doer)
            else:
                self._memory.write(item, lay, whole(lay.shape), None, frozenset(), done.doer)
                self.made_of[item] = done.step.nodes[0], self._sources(done, key)

    def _is_there(self, item: Item, step: Step) -> bool:
        """Whether what is kept is there, and is the step's: its node's own, or made of operands that it has, too."""
        if not any(each.valid.boxes == [whole(item.shape)] for each in self._memory.by_item.get(item, ())):
            return False
        node, made_of = self.made_of[item]
        if node is step.nodes[0]:
            return True
        work = self._ledger.find_work(step.nodes[0], step.within)
        return (
            work is not None
            and made_of is not None
            and all(work.inputs[position] is operand for position, operand in made_of.items())
        )

    def _sources(self, done: Done, key: object) -> dict[int, Item] | None:
        """The operands that memory beside the results has been made of."""
        work = self._ledger.find_work(done.step.nodes[0], done.step.within)
        if work is None:
            return None
        found: dict[int, Item] = {}
        places = [None if array is None else self._lays.of(array).key for array in done.step.operands[0]]
        for lay in done.deeds.sources[key]:
            if lay is None or lay.key not in places:
                return None
            found[places.index(lay.key)] = work.inputs[places.index(lay.key)]
        return found
