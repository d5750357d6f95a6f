"""Views: which part of a graph is drawn, and how far it is folded. A view knows scopes, phases and traits, no model.

    View("MLP, forward", scopes=("layer0/mlp",), phases=("forward",))
    View("The whole model", folds=(Fold("layer*/mha", "MHA"), Fold("layer*/mlp", "MLP")), detailed=False)

Patterns are those of `fnmatch`, scope part by scope part: `layer*/mha` is every layer's attention and what lies
inside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

from graphir.ir.graph import BACKWARD, FORWARD, Graph, Node


@dataclass(frozen=True, slots=True)
class Fold:
    """Nodes of a scope drawn as one block: those whose (forward) value has one of `names`, locally."""

    scope: str
    label: str
    names: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame around nodes that belong together, those of these (full) names."""

    label: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What is drawn of a graph.

    scopes, phases   the nodes that are drawn; what they read from elsewhere enters by ports
    only             of these, the nodes that make one of these values (full names); () for all
    hide             values that are not drawn: no edge, no port
    frames           frames around nodes, in place of those around layers
    folds            blocks; a d-node goes to the block of its forward node, of the backward pass
    expand           layers that are drawn on their own, where others like them are drawn once
    detailed         gradients thick (detailed figures) or dashed (overall ones), B 4.2.1
    local            one rank's shapes, [B, S, D/N_T], or the logical ones
    full             BC as a node, dAddB as a node, seeds as edges
    forks            whether dAddB, which only hands a gradient on, is a node
    cached           how forward values come to the d-nodes that read them: by "edges" from where they are made, from
                     "ports" at the d-node's side, or "no" (not drawn)
    parameters       "all" (parameters and their gradients), "gradients" or "no"
    side_by_side     mesh axes whose ranks are drawn beside each other
    mirror           the backward pass beside the forward one, each d-node level with its node
    abstract         operators are drawn as f and df (B 3)
    """

    title: str = ""
    scopes: tuple[str, ...] = ()
    phases: tuple[str, ...] = (FORWARD, BACKWARD)
    only: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    folds: tuple[Fold, ...] = ()
    apart: tuple[str, ...] = ()
    expand: tuple[int, ...] = ()
    direction: str = "TB"
    detailed: bool = True
    local: bool = False
    full: bool = False
    forks: bool = False
    cached: str = "edges"
    parameters: str = "all"
    side_by_side: tuple[str, ...] = ()
    mirror: bool = False
    abstract: bool = False

    def holds(self, node: Node) -> bool:
        """Whether the node is drawn, on its own or in a block."""
        if node.meta.phase not in self.phases:
            return False
        if self.scopes and not any(within(node.meta.scope, pattern) for pattern in self.scopes):
            return False
        return not self.only or any(matches(value.name, self.only) for value in node.outputs)

    def fold(self, node: Node, scope: str) -> tuple[Fold, str] | None:
        """The block that a node of `scope` belongs to, and the scope that the block stands for."""
        local = (node.meta.of or node.name).rpartition("/")[2]
        if not node.meta.why and any(fnmatchcase(local, pattern) for pattern in self.apart):
            return None
        for fold in self.folds:
            if within(scope, fold.scope) and any(fnmatchcase(local, pattern) for pattern in fold.names):
                depth = fold.scope.count("/") + 1
                return fold, "/".join(scope.split("/")[:depth])
        return None


def within(scope: str, pattern: str) -> bool:
    """Whether `scope` is, or lies in, a scope that fits `pattern`."""
    parts, patterns = scope.split("/"), pattern.split("/")
    return len(parts) >= len(patterns) and all(map(fnmatchcase, parts, patterns))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a full name fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# -- repeated layers --------------------------------------------------------------------------------------

_NUMBERED = re.compile(r"(.*?)(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Repeat:
    """Layers `first` … `last` (`stem` + number), which consist of the same nodes."""

    stem: str
    first: int
    last: int

    @property
    def count(self) -> int:
        """The number of layers."""
        return self.last - self.first + 1

    @property
    def scope(self) -> str:
        """The layer that is drawn for all."""
        return f"{self.stem}{self.first}"


class Repeats:
    """A graph's repeated layers: who stands for whom.

    Layers are alike if their nodes are: same operators, attributes, phases and types, in the same order.
    """

    def __init__(self, graph: Graph, expand: Sequence[int] = ()) -> None:
        layers: dict[tuple[str, int], list[Node]] = {}
        #: The layer of a sum whose terms all come from one layer other than its own: there it belongs.
        self.home: dict[Node, str] = {}
        for node in graph.nodes:
            terms = {
                graph.producers[value].meta.scope.split("/")[0] for value in node.inputs if value in graph.producers
            }
            own = node.meta.scope.split("/")[0]
            if node.operator.jointly_linear and len(terms) == 1 and node.meta.phase == BACKWARD and terms != {own}:
                own = self.home[node] = terms.pop()
            found = _NUMBERED.match(own)
            if found:
                layers.setdefault((found[1], int(found[2])), []).append(node)
        self.runs: list[Repeat] = []
        #: The layer that a node belongs to, and the one node that is drawn for it and its like.
        self.layer: dict[Node, tuple[str, int]] = {}
        self.drawn: dict[Node, Node] = {}
        self.members: dict[Node, list[Node]] = {}
        keys = sorted(layers)
        signatures = {key: self._signature(layers[key]) for key in keys}
        runs: list[list[tuple[str, int]]] = [[key] for key in keys[:1]]
        for before, key in pairwise(keys):
            alike = (
                before[0] == key[0]
                and before[1] + 1 == key[1]
                and not {before[1], key[1]} & set(expand)
                and signatures[before] == signatures[key]
            )
            if alike:
                runs[-1].append(key)
            else:
                runs.append([key])
        for run in runs:
            self.runs.append(Repeat(run[0][0], run[0][1], run[-1][1]))
            for key in run:
                for node, first in zip(layers[key], layers[run[0]], strict=True):
                    self.layer[node] = key
                    self.drawn[node] = first
                    self.members.setdefault(first, []).append(node)

    def represent(self, node: Node) -> Node:
        """The node that is drawn for `node`."""
        return self.drawn.get(node, node)

    def alike(self, node: Node) -> Sequence[Node]:
        """All nodes that `node` is drawn for."""
        return self.members.get(node, (node,))

    def loops(self, source: Node, target: Node) -> bool:
        """Whether an edge leads from one layer of a run to another: it stays inside of what is drawn once."""
        return (
            source in self.layer
            and target in self.layer
            and self.layer[source] != self.layer[target]
            and self.drawn[source] in self.members
            and self._run(source) == self._run(target)
        )

    def _run(self, node: Node) -> tuple[str, int]:
        return self.layer[self.drawn[node]]

    def _signature(self, nodes: Sequence[Node]) -> tuple[object, ...]:
        return tuple(
            (
                node.operator.key,
                tuple((name, value) for name, value in node.attributes.items() if name != "key"),
                node.meta.phase,
                "" if node in self.home else node.meta.scope.partition("/")[2],
                tuple(value.type for value in node.outputs),
            )
            for node in nodes
        )
