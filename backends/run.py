"""What a run returns: arrays by the names of what was asked for, and what the next run starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from graphir.backends.arrays import to_numpy
from graphir.backends.communicator import Traffic
from graphir.backends.local_ranks import LocalRanks
from graphir.errors import InputError
from graphir.ir.graph import Graph
from graphir.ir.value import Value


class Fetched:
    """What the results of `graph` are called, by the names of `source`, which it was pruned from.

    `graph` may compute otherwise what `source` holds (a mask that is made again): names are those of the source.
    """

    def __init__(self, graph: Graph, source: Graph) -> None:
        self.graph, self.source = graph, source

    @cached_property
    def titles(self) -> Mapping[Value, str]:
        """The name of each result: of what collectives made it from, or, where that is returned, too, its own."""
        taken = {value.name for value in self.graph.outputs}
        found: dict[Value, str] = {}
        for value in dict.fromkeys(self.graph.outputs):
            origin = self._origin(value)
            found[value] = value.name if origin in taken else origin
            taken.add(origin)
        return found

    def find(self, name: str) -> str | None:
        """What the result is called that is meant by `name`, a name or an alias; None if it was not fetched."""
        value = self.source.find(name)
        return None if value is None else self._known.get(value.name) or self._known.get(self._origin(value))

    @cached_property
    def successors(self) -> Mapping[str, tuple[str, str | None]]:
        """For each parameter and state that is updated its new content, and what the result is called that is it."""
        # However collectives moved it, what is returned lies as the old does: `verify` sees to it.
        titles = {self._origin(value): title for value, title in self.titles.items()}
        return {old.name: (new.name, titles.get(new.name)) for old, new in self.source.updates.items()}

    @cached_property
    def unchanged(self) -> frozenset[str]:
        """The parameters and state that are not updated."""
        return frozenset(value.name for value in (*self.graph.parameters, *self.graph.state)) - self.successors.keys()

    @cached_property
    def _known(self) -> Mapping[str, str]:
        """The titles of results, by these themselves and by the results' own names."""
        return {title: title for title in self.titles.values()} | {v.name: title for v, title in self.titles.items()}

    def _origin(self, value: Value) -> str:
        """The name of what collectives alone made a value from."""
        graph = self.source if value.name in self.source else self.graph
        return graph.origin(graph[value.name]).name


class Run(Mapping[str, Any]):
    """What a run returned: arrays by name, aliases and the documents' own names included.

    A result that collectives brought together bears the name of what they started from, unless that is returned, too.
    Where each process is one rank, `run[name]` is there for results that all ranks have alike; of one that is split,
    `block` is this rank's, and `gather` the whole, for which all ranks have to ask.
    """

    def __init__(
        self,
        fetched: Fetched,
        local: LocalRanks,
        results: Mapping[str, tuple[Value, Any]],
        traffic: Mapping[str, Traffic],
        unchanged: Mapping[str, Any],
    ) -> None:
        self._fetched, self._local, self._results = fetched, local, results
        #: What each collective sent, by the name of its result; of one rank a process, what this one did.
        self.traffic = traffic
        # Of what is updated nothing is held on to: its memory may be wanted.
        self._unchanged = unchanged

    def __getitem__(self, name: str) -> Any:
        value, array = self._result(name)
        if not self._local.holds_whole(value):
            raise InputError(
                f"{name} {value.type} is split, and this process holds one rank's block of it: run.block({name!r}) is "
                f"that, and run.gather({name!r}), called by all ranks, the whole"
            )
        return array

    def numpy(self, name: str) -> NDArray[Any]:
        """As `run[name]`, as a NumPy array: of a result on a GPU a copy, as soon as the run has written it."""
        return to_numpy(self[name])

    def block(self, name: str) -> Any:
        """What this process holds of a result: its rank's block, or, of simulated ranks, the whole."""
        return self._result(name)[1]

    def gather(self, name: str) -> Any:
        """The whole of a result, on every rank; all ranks have to call this, for the same results in one order."""
        value, array = self._result(name)
        return array if self._local.holds_whole(value) else self._local.gather(value, array)

    def _result(self, name: str) -> tuple[Value, Any]:
        title = self._fetched.find(name)
        if title is None:
            self._fetched.source[name]  # GraphError for what there is not
            raise InputError(f"{name} was not fetched; compile with fetch=[…, {name!r}]")
        return self._results[title]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._fetched.find(name) is not None

    def updated(self) -> dict[str, Any]:
        """All parameters and state, by name, as the next run starts from them: what is updated new, all else as given.

        One rank a process has its blocks of them, and goes on from these.
        Errors: InputError if the new content of what the graph updates was not fetched.
        """
        graph, successors, results = self._fetched.graph, self._fetched.successors, self._results
        missing = [new for new, title in successors.values() if title is None]
        if missing:
            listed = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
            raise InputError(
                f"graph {graph.name} updates what it starts from, but did not return {len(missing)} of the "
                f"{len(successors)} updates; compile with fetch=[…, {listed}]"
            )
        renewed = {old: results[title][1] for old, (_, title) in successors.items() if title}
        current = {**self._unchanged, **renewed}
        return {value.name: current[value.name] for value in (*graph.parameters, *graph.state)}
