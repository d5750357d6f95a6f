"""The ranks held here, and what a process that holds them has of a value: all blocks, or one rank's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphir.backends.blocks import join_blocks, split_blocks
from graphir.backends.communicator import Communicator
from graphir.backends.turns import Turn
from graphir.ir.value import Value


class LocalRanks:
    """The ranks that `communicator` serves in this process; `turn` is what runs take that all ranks of it share."""

    def __init__(self, communicator: Communicator, turn: Turn) -> None:
        self.communicator, self.mesh = communicator, communicator.mesh
        self.turn = communicator.turn or turn

    @property
    def ranks(self) -> Sequence[int]:
        """Which ranks these are."""
        return self.communicator.ranks

    @property
    def is_alone(self) -> bool:
        """Whether this process holds all ranks."""
        return self.communicator.is_alone

    def holds_whole(self, value: Value) -> bool:
        """Whether this process has the whole of a value: all ranks' blocks, or one that is like all others."""
        return self.is_alone or value.type.layout.is_replicated

    def split(self, value: Value, array: Any, block: Sequence[int]) -> list[Any]:
        """The blocks of an array for these ranks, as views; one of the shape `block` is the rank's own already."""
        if not self.is_alone and array.shape == block:
            return [array]
        blocks = split_blocks(array, value.type.layout, self.mesh)
        return [blocks[rank] for rank in self.communicator.ranks]

    def join(self, value: Value, blocks: Sequence[Any]) -> Any:
        """What this process has of a value: the whole, or its rank's block."""
        return join_blocks(blocks, value.type.layout, self.mesh) if self.is_alone else blocks[0]

    def gather(self, value: Value, block: Any) -> Any:
        """The whole of which each process has a block, on all of them; all have to call this."""
        return self.turn.take(self.communicator.whole, [block], value.type.layout)
