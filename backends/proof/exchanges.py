"""What ranks do together: what travels is being read, or written, until it has been waited for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from graphir.backends.proof.calls import Deeds
from graphir.backends.proof.contents import Contents
from graphir.backends.proof.doers import Doer
from graphir.backends.proof.items import Ledger
from graphir.backends.proof.lays import Lay
from graphir.backends.trace import Exchange
from graphir.errors import ProofError
from graphir.ir.graph import Node


@dataclass(eq=False)
class _Flight:
    """Something under way: what is read, what is written, and the parts of a bucket that are."""

    exchange: Exchange
    doer: Doer
    operand: Lay
    result: Lay
    parts: list[Exchange] = field(default_factory=list)


class Flights:
    """Carries out exchanges, and keeps watch over those that have begun."""

    def __init__(self, ledger: Ledger, contents: Contents) -> None:
        self._ledger, self._contents, self._lays = ledger, contents, contents.lays
        self._packed: list[Exchange] = []
        self._under_way: dict[Node, _Flight] = {}

    def written(self, lists: Iterable[Sequence[Exchange]]) -> list[Lay]:
        """All that exchanges write."""
        arrays = (each.result for exchanges in lists for each in exchanges)
        return [lay for array in arrays if array is not None and (lay := self._lays.of(array)).size]

    def carry_out(self, exchanges: Sequence[Exchange], segment: int) -> None:
        """What comes before a segment."""
        for exchange in exchanges:
            node = exchange.node
            doer = Doer(
                f"before segment {segment}", f"{exchange.kind} {node.name} = {node.operator.symbol}", node.meta.at
            )
            self._contents.counts.exchanges += 1
            if exchange.kind == "run":
                self._check_arrays(exchange, doer)
                self._read(exchange, doer)
                self._write(exchange, doer)
            elif exchange.kind == "pack":
                self._check_arrays(exchange, doer)
                self._read(exchange, doer)
                # In the bucket it is the operand still.
                item = self._ledger.item(node.inputs[0])
                self._contents.write_block(item, exchange.result, doer)
                self._packed.append(exchange)
            elif exchange.kind == "start":
                self._start(exchange, doer)
            elif exchange.kind == "wait":
                self._wait(exchange, doer)
            elif exchange.kind == "unpack":
                self._check_arrays(exchange, doer)
                item = self._ledger.item(node.outputs[0])
                self._contents.read(item, exchange.operand, doer)
                self._write(exchange, doer)
            else:
                doer.fail(f"{exchange.kind!r} is no kind of exchange")

    def _read(self, exchange: Exchange, doer: Doer) -> None:
        item = self._ledger.item(exchange.node.inputs[0])
        if exchange.operand is None or tuple(exchange.operand.shape) != item.shape:
            doer.fail(f"it takes all of {item.name}, {list(item.shape)}")
        self._contents.read(item, exchange.operand, doer)

    def _write(self, exchange: Exchange, doer: Doer) -> None:
        item = self._ledger.item(exchange.node.outputs[0])
        if exchange.result is None or tuple(exchange.result.shape) != item.shape:
            doer.fail(f"it makes all of {item.name}, {list(item.shape)}")
        self._contents.write_block(item, exchange.result, doer)

    def _check_arrays(self, exchange: Exchange, doer: Doer) -> None:
        """What is carried out at once leaves alone what is under way."""
        deeds = Deeds()
        for lays, array in ((deeds.reads, exchange.operand), (deeds.writes, exchange.result)):
            if array is None:
                doer.fail("it has an operand and a result")
            lay = self._lays.of(array)
            if lay.size:
                lays[lay.key] = lay
        self.check(deeds, doer)

    def _start(self, exchange: Exchange, doer: Doer) -> None:
        self._check_arrays(exchange, doer)
        operand, result = self._lays.of(exchange.operand), self._lays.of(exchange.result)
        parts = [each for each in self._packed if operand.contains(self._lays.of(each.result))]
        for each in parts:
            item = self._ledger.item(each.node.inputs[0])
            self._contents.read(item, each.result, doer)
        if not parts:
            self._read(exchange, doer)
        self._packed = [each for each in self._packed if each not in parts]
        if exchange.node in self._under_way:
            doer.fail("it is under way already")
        self._under_way[exchange.node] = _Flight(exchange, doer, operand, result, parts)

    def _wait(self, exchange: Exchange, doer: Doer) -> None:
        flight = self._under_way.pop(exchange.node)
        if flight is None:
            doer.fail("it waits for what has not begun")
        if not flight.parts:
            self._write(flight.exchange, doer)
        for each in flight.parts:
            shift = flight.result.address - flight.operand.address
            if shift:
                doer.fail("the parts of a bucket arrive where they lay")
            self._write(each, doer)

    def check(self, deeds: Deeds, doer: Doer) -> None:
        """ProofError where something under way is touched."""
        for flight in self._under_way.values():
            for lay in deeds.writes.values():
                if lay.touches(flight.operand) or lay.touches(flight.result):
                    self._interfere(doer, "writes to", flight)
            for lay in deeds.reads.values():
                if lay.touches(flight.result):
                    self._interfere(doer, "reads", flight)

    def _interfere(self, doer: Doer, deed: str, flight: _Flight) -> NoReturn:
        doer.fail(f"it {deed} memory that is under way since {flight.doer}, and has not been waited for")

    def require_landed(self) -> None:
        """ProofError where something has not been waited for."""
        for flight in self._under_way.values():
            raise ProofError(f"{flight.doer} has begun, and nobody waits for it before the run ends")
        for each in self._packed:
            raise ProofError(f"{each.node.name} has been packed into a bucket that is never sent")
