"""Who talks to whom, about what, for how much: every collective of a layer (A 2.6)."""

from __future__ import annotations

from dataclasses import replace

from graphir.cost import collective_cost
from graphir.drawing.figures import graphs
from graphir.drawing.figures.config import Figure
from graphir.drawing.labels import formula_label
from graphir.drawing.naming import Naming, collective_axes
from graphir.drawing.picture import Label, Picture, PictureNode, Run
from graphir.drawing.ranks import rank_name
from graphir.drawing.view import View, within
from graphir.ir.graph import Graph, Node

_LAYER = "layer0"


def _of_layer(graph: Graph) -> tuple[str, ...]:
    """The outputs of the layer's collectives."""
    return tuple(n.name for n in graph.nodes if collective_axes(n) and within(n.meta.scope, _LAYER))


def _explain(picture: Picture, graph: Graph) -> Picture:
    """A note beside each collective: where it stands, who takes part, what it costs."""
    naming = Naming(graph, View(local=True))
    made = {node.name: node for node in graph.nodes}
    notes, order = [], []
    for edge in picture.edges:
        if picture.node(edge.source).kind == "collective":
            node = made[edge.source]
            notes.append(
                PictureNode(f"note {node.name}", tuple(_notes(node, graph, naming)), "note", phase=node.meta.phase)
            )
            order.append((edge.target, f"note {node.name}"))
    return replace(picture, nodes=(*picture.nodes, *notes), order=tuple(order))


def _notes(node: Node, graph: Graph, naming: Naming) -> list[Label]:
    producer = naming.producer(node.inputs[0])
    readers = dict.fromkeys(reader.operator.symbol for reader, _ in graph.uses[node.outputs[0]])
    place = f"{node.meta.scope.rpartition('/')[2].upper()}, {node.meta.phase}"
    between = f"after {producer.operator.symbol if producer else 'an input'}, before {', '.join(readers) or 'the end'}"
    groups = graph.mesh.groups(collective_axes(node))
    who = "; ".join(", ".join(rank_name(graph.mesh, rank) for rank in group) for group in groups)
    naive, ring = (collective_cost(node, graph.mesh, algorithm) for algorithm in ("naive", "ring"))
    return [
        (Run(f"{place}: ", "bold"), Run(between)),
        (Run(f"among {who}"),),
        formula_label(f"naive: {naive.group} through the root"),
        formula_label(f"ring: {ring.each} from each"),
    ]


FIGURES = (
    Figure(
        "tp-communication", "Tensor parallelism: what a layer communicates", "A 2.6",
        "Every collective of a layer, forward and backward: two and two. A partial value is a term of a sum that lies "
        "spread over the GPUs. Bytes as formulas, from the types of the graph.",
        lambda config: graphs.sharded(config, ("tp",)),
        lambda config: View(
            "Tensor parallelism: what a layer communicates", only=_of_layer(graphs.sharded(config, ("tp",))),
            local=True, direction="LR",
        ),
        finish=_explain,
    ),
)  # fmt: skip
