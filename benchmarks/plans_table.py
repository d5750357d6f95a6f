"""Writes passes/sharding/PLANS.md: plan × mesh -> the collectives of a layer, forward, backward and in the update.

    python -m benchmarks.plans_table

Counted on the sharded graph itself, a Transformer's whole training step with AdamW and clipping. A test holds that
the file is what this writes; others hold the counts against predictions written by hand.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import graphir as gi
from graphir.ir.dims import shape_text
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph, Node
from graphir.ir.layout import Mesh, local_shape
from graphir.passes import Optimizer, autodiff, find_plan, optimize, shard

PATH = Path(__file__).parents[1] / "passes" / "sharding" / "PLANS.md"

#: Each plan with a mesh to show it on, and what it does in plain words.
PLANS = {
    "data": ("dp=2", "Each replica takes its part of the batch; gradients are summed before the update."),
    "megatron": ("tp=2", "W_Q, W_K, W_V and W_up by columns, W_O and W_down by rows; a sum after each pair."),
    "column": ("tp=2", "As megatron, but W_O by columns, too: its operand and its result are gathered."),
    "vocabulary": ("tp=2", "The rows of E and the columns of W_lm split; cross-entropy without gathering logits."),
    "sequence": ("tp=2", "As megatron, with S split between the blocks: scatters and gathers in place of sums."),
    "zero1": ("dp=2", "As data; each replica keeps and updates a part of the optimizer's state, then all gather."),
    "zero2": ("dp=2", "As zero1, and gradients are scattered to their owners instead of summed everywhere."),
    "zero3": ("dp=2", "As zero2, and parameters are stored in parts, gathered where they are read."),
    "context": ("cp=2", "The sequence split everywhere; keys and values are gathered, and their gradients scattered."),
    "data+megatron": ("dp=2, tp=2", "Both, each over its own axis."),
    "data+sequence+zero1": ("dp=2, tp=2", "All three; the state is split over dp on top of tp."),
    "data+sequence+zero3": ("dp=2, tp=2", "All three; the weights, split over tp, are stored in parts over dp."),
    "data+context+megatron": ("dp=2, cp=2, tp=2", "All three: batch, sequence and heads are split."),
}

#: Plans with the meshes on which grouped heads are shown.
GROUPED = (("megatron", "tp=2"), ("megatron", "tp=4"), ("sequence", "tp=4"), ("data+megatron+zero3", "dp=2, tp=4"))


def mesh_of(text: str) -> Mesh:
    """`dp=2, tp=2` as a mesh."""
    return Mesh((axis, int(size)) for axis, size in (part.split("=") for part in text.split(", ")))


def spelled(node: Node) -> str:
    """`AR tp [B, S, D]`: the collective, its axes, one rank's block of its operand."""
    attributes, (X,) = node.attributes, node.inputs
    axes = attributes["axes"] if "axes" in attributes else (attributes["axis"],)
    kind = f" {attributes['reduce']}" if attributes.get("reduce", "sum") != "sum" else ""
    return f"{node.operator.key}{kind} {','.join(axes)} {shape_text(local_shape(X.shape, X.type.layout))}"


def counted(graph: Graph, phase: str, layer: bool) -> Counter[str]:
    """Collectives of a phase, of the layer or of all else; slices send nothing and are left out."""
    return Counter(
        spelled(node)
        for node in graph.nodes
        if node.operator.relayout is not None
        and node.operator.key != "SLICE"
        and node.meta.phase == phase
        and node.meta.scope.startswith("layer0") == layer
    )


def cell(found: Counter[str]) -> str:
    """`2 AR tp [B, S, D]`, one a line; many of a kind, of unlike shapes, together."""
    kinds: dict[str, list[tuple[str, int]]] = {}
    for each, count in found.items():
        head, _, shape = each.partition(" [")
        kinds.setdefault(head, []).append((f"[{shape}", count))
    lines = []
    for head, shapes in kinds.items():
        total = sum(count for _, count in shapes)
        lines.append(f"{total} {head} {shapes[0][0] if len(shapes) == 1 else f'of {len(shapes)} shapes'}")
    return "<br>".join(lines).replace("|", "\\|") or "–"


def table() -> str:
    """The whole file."""
    step = optimize(autodiff(gi.models.transformer(1, decode=None)), Optimizer(clip=1.0))
    parameters = sum(value.scope.startswith("layer0") for value in step.parameters)
    lines = [
        "# What each plan communicates",
        "",
        "Written by `python -m benchmarks.plans_table` from sharded graphs of a whole training step: AdamW, gradients",
        f"clipped by their global norm, tied embeddings. A layer has {parameters} parameters.",
        "",
        "`2 AR tp [B, S, D]`: two all-reduces over tp, each of a block of that shape, as one rank holds it before.",
        "AG gathers, RS reduces and scatters. Local slices send nothing and are not shown. `of 5 shapes`: one for",
        "each parameter, or for each that the pass reads.",
        "",
    ]
    lines += [f"- **{plan}** ({', '.join(find_plan(plan).axes)}): {words}" for plan, (_, words) in PLANS.items()]
    for title, layer in (("A layer", True), ("Beside the layers: embedding, output, loss, norm", False)):
        lines += ["", f"## {title}", "", "| plan | mesh | forward | backward | update |", "|---|---|---|---|---|"]
        for plan, (mesh, _) in PLANS.items():
            local = shard(step, mesh_of(mesh), plan)
            cells = [cell(counted(local, phase, layer)) for phase in (FORWARD, BACKWARD, UPDATE)]
            lines.append(f"| {plan} | {mesh} | {' | '.join(cells)} |")
    lines += [
        "",
        "## A layer with grouped heads",
        "",
        "Llama's, with two heads of queries for each of two of keys and values. Where tp has more ranks than these it",
        "is taken apart: `tp.N_KV` over heads of keys, `tp.per_N_KV` over the queries of each.",
        "",
        "| plan | mesh | forward | backward | update |",
        "|---|---|---|---|---|",
    ]
    llama = gi.models.blueprint("llama", layers=1)
    grouped = optimize(autodiff(llama.graph()), Optimizer(clip=1.0))
    sizes = dict.fromkeys(("B", "S", "D", "D_h", "D_ff", "V"), 16) | {"N_KV": 2, "G": 2}
    for plan, mesh in GROUPED:
        local = shard(grouped, mesh_of(mesh), plan, sizes)
        cells = [cell(counted(local, phase, layer=True)) for phase in (FORWARD, BACKWARD, UPDATE)]
        lines.append(f"| {plan} | {local.mesh} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(table(), encoding="utf-8")
    print(f"wrote {PATH}")
