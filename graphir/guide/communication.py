"""What ranks say to each other: every collective of a sharded model, its bytes as a formula and for one model's sizes.

Found in the sharded graph, costed by `graphir.cost`, with the reason that the sharding pass left on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from html import escape

from graphir.cost import collective_cost, mesh_sizes
from graphir.drawing.labels import shape_label, to_html, typeset
from graphir.guide.config import GuideConfig
from graphir.guide.markup import scrolled
from graphir.guide.tables import set_names, table
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Mesh, local_shape
from graphir.ir.traits import LOCAL_SLICE
from graphir.passes import autodiff, find_plan, shard

_COLUMNS = (
    "Pass",
    "Tensor",
    "One rank's block",
    "Collective",
    "Each rank sends, in a ring",
    "Ring",
    "Naive, at the root",
)
_PREFIXES = ("", "k", "M", "G", "T", "P")


def communication(config: GuideConfig, plan: str) -> str:
    """A table of the collectives of one layer under `plan`, and sums for the whole model; HTML.

    Errors: DimError if a dim of the model does not divide over the mesh; it names the dim.
    """
    graph = sharded(config, plan)
    sizes = mesh_sizes(graph, config.numbers)
    found = [node for node in graph.nodes if node.operator.collective not in (None, LOCAL_SLICE)]
    layer = [node for node in found if node.meta.scope.startswith("layer0")]
    around = [node for node in found if node not in layer]
    rows = [_row(node, graph.mesh, sizes) for node in layer]
    each, rest = (_sent(nodes, graph.mesh, sizes) for nodes in (layer, around))
    total = config.layers * each + rest
    summary = (
        f"Under the plan <code>{escape(plan)}</code> on {escape(str(graph.mesh))}, a rank sends {_amount(each)} for "
        f"one layer and {_amount(rest)} outside of the layers; for a step of all {config.layers}, "
        f"<strong>{_amount(total)}</strong>, as rings."
    )
    model = ", ".join(f"{name} = {size}" for name, size in config.numbers.items())
    caption = f"<p class='caption'>Every collective of one layer. {summary} The model: {escape(model)}, in float32.</p>"
    return f"{scrolled(table(_COLUMNS, rows, 'communication'), 'what each rank sends')}{caption}"


def communication_table(graph: Graph, sizes: Mapping[str, int]) -> str:
    """A table of all collectives of a sharded graph, with what a rank sends in all; HTML."""
    complete = mesh_sizes(graph, sizes)
    found = [node for node in graph.nodes if node.operator.collective not in (None, LOCAL_SLICE)]
    rows = [_row(node, graph.mesh, complete) for node in found]
    total = _amount(_sent(found, graph.mesh, complete))
    caption = f"<p class='caption'>Every collective. A rank sends <strong>{total}</strong> in a step, as rings.</p>"
    return f"{scrolled(table(_COLUMNS, rows, 'communication'), 'what each rank sends')}{caption}"


def sharded(config: GuideConfig, plan: str) -> Graph:
    """One layer of the model with its gradients, as each rank of the mesh runs it."""
    sizes = None if config.model is None else dict(config.numbers)
    used = {name: size for name, size in (("dp", config.dp), ("tp", config.tp)) if name in find_plan(plan).axes}
    return shard(autodiff(config.graph(1), loss="L"), Mesh(used), find_plan(plan), sizes)


def _row(node: Node, mesh: Mesh, sizes: Mapping[str, int]) -> tuple[str, ...]:
    value = node.inputs[0]
    ring, naive = (collective_cost(node, mesh, algorithm) for algorithm in ("ring", "naive"))
    name = value.local_name
    gradient = node.meta.phase == "backward" and name.startswith("d")
    block = value.scope.rpartition("/")[2]
    kind = f"{node.operator.symbol} over {', '.join(ring.axes)}"
    reason = f' title="{escape(node.meta.why)}"' if node.meta.why else ""
    return (
        node.meta.phase,
        f"{to_html(typeset(name.split('.')[0], gradient=gradient))} <small>{escape(block)}</small>",
        to_html(shape_label(local_shape(value.shape, value.type.layout))),
        f'<span class="operator"{reason}>{escape(kind)}</span>',
        set_names(str(ring.each)),
        _amount(ring.each.number(sizes)),
        _amount(naive.each.number(sizes)),
    )


def _sent(nodes: Iterable[Node], mesh: Mesh, sizes: Mapping[str, int]) -> Fraction:
    """Bytes that one rank sends for all of `nodes`, in rings."""
    return sum((collective_cost(node, mesh).each.number(sizes) for node in nodes), Fraction(0))


def _amount(count: Fraction) -> str:
    """`12.6 MB`, in powers of a thousand; three digits."""
    value, step = float(count), 0
    while value >= 999.5 and step + 1 < len(_PREFIXES):
        value, step = value / 1000, step + 1
    return f"{value:.3g}\u202f{_PREFIXES[step]}B"
