"""The figures of several nodes: tensor parallelism (A 2, B 6), data parallelism (A 3, B 7), both (B 8)."""

from __future__ import annotations

from graphir.cost import collective_cost
from graphir.drawing.figures import graphs
from graphir.drawing.figures.config import Costs, Figure, FigureConfig
from graphir.drawing.figures.single import block, overall
from graphir.drawing.naming import collective_axes
from graphir.drawing.view import View
from graphir.ir.graph import BACKWARD, FORWARD, Graph, Node


def _tensor(config: FigureConfig) -> Graph:
    return graphs.sharded(config, ("tp",))


def _data(config: FigureConfig) -> Graph:
    return graphs.sharded(config, ("dp",))


def _both(config: FigureConfig) -> Graph:
    return graphs.sharded(config, ("dp", "tp"))


def collectives(graph: Graph, scope: str, phase: str) -> list[Node]:
    """The nodes of a scope and phase in which ranks meet, in order."""
    return [n for n in graph.nodes if collective_axes(n) and n.meta.phase == phase and n.meta.scope == scope]


def _cost(scope: str, phase: str, *, weights_only: bool = False) -> Costs:
    """A sentence on what the collectives of a scope cost, by the naive and the ring algorithm, from the graph."""

    def sentence(graph: Graph, config: FigureConfig) -> str:
        alike: dict[tuple[str, str, str], list[str]] = {}
        for node in collectives(graph, scope, phase):
            if weights_only and node.inputs[0].type.rank < 2:
                continue
            naive, ring = (collective_cost(node, graph.mesh, algorithm) for algorithm in ("naive", "ring"))
            key = (node.operator.key, str(naive.group), str(ring.each))
            alike.setdefault(key, []).append(graph.origin(node.outputs[0]).local_name)
        parts = [
            f"{operator} of {', '.join(names)}{' (each)' if len(names) > 1 else ''}: naive {naive} in all, "
            f"ring {ring} from every node"
            for (operator, naive, ring), names in alike.items()
        ]
        return "; ".join(parts) + "."

    return sentence


def _node(title: str, scope: str, phase: str, config: FigureConfig) -> View:
    return block(title, scope, phase, config, local=True)


def _replicas(title: str, config: FigureConfig, *axes: str) -> View:
    """All ranks of a mesh, whose parameters' gradients meet."""
    return overall(title, config, parameters="gradients", apart=(), side_by_side=axes)


def _tp(id: str, title: str, where: str, caption: str, scope: str, phase: str, plan: str | None = None) -> Figure:
    return Figure(
        id, title, where, caption,
        lambda config: graphs.sharded(config, ("tp",), plan),
        lambda config: _node(title, scope, phase, config),
        _cost(scope, phase),
    )  # fmt: skip


def _dp(id: str, title: str, where: str, caption: str, scope: str, phase: str) -> Figure:
    return Figure(
        id, title, where, caption, _data,
        lambda config: _node(title, scope, phase, config),
        _cost(scope, phase, weights_only=True) if phase == BACKWARD else None,
    )  # fmt: skip


_HEADS = "Each GPU has N_HN = N_H/N_T heads. "
_ALL_REDUCE = "Naive counts what passes the root of a reduce-then-broadcast, ring what each node sends."

TENSOR = (
    Figure(
        "tp-overall", "Tensor parallelism: the Transformer on several GPUs", "A 2.1, B 6.1",
        "Every GPU holds a shard of each block's weights and the whole residual stream. Forward, an all-reduce follows "
        "the row-parallel product of each block; backward, the column-parallel ones.",
        _tensor,
        lambda config: overall(
            "Tensor parallelism: the Transformer on several GPUs", config, parameters="no", side_by_side=("tp",)
        ),
    ),
    _tp(
        "tp-mha-forward", "Multi-head attention, forward (node i)", "A 2.2, B 6.2.1",
        _HEADS + "W_Q, W_K, W_V are split by columns, W_O by rows: each node then holds a term of AO_lin, and AR "
        "sums them. With W_O by columns, too, heads are gathered: see tp-mha-forward-column. " + _ALL_REDUCE,
        "layer0/mha", FORWARD,
    ),
    _tp(
        "tp-mha-forward-column", "Multi-head attention, forward (node i), all weights by columns", "A 2.2",
        _HEADS + "All four weights are split by columns: AG collects the heads before W_O, and the columns of "
        "AO_lin after it.",
        "layer0/mha", FORWARD, "column",
    ),
    _tp(
        "tp-mha-backward", "Multi-head attention, backward (node i)", "A 2.3, B 6.2.2",
        _HEADS + "The three parts of dX_norm are terms of a sum over nodes; they are added where they are and meet in "
        "one AR. " + _ALL_REDUCE,
        "layer0/mha", BACKWARD,
    ),
    _tp(
        "tp-mlp-forward", "Feed-forward network, forward (node i)", "A 2.4, B 6.3.1",
        "W_up is split by columns, W_down by rows; GL and DO need nothing from other nodes. The all-reduce of "
        "[B, S, D] costs, naive, 2 (N_T − 1) times as much in all, and in a ring 2 (N_T − 1)/N_T times from each node.",
        "layer0/mlp", FORWARD,
    ),
    _tp(
        "tp-mlp-backward", "Feed-forward network, backward (node i)", "A 2.5, B 6.3.2",
        "dH is a sum over nodes, since W_up is split by columns. Weight gradients stay where their weights are.",
        "layer0/mlp", BACKWARD,
    ),
)  # fmt: skip

DATA = (
    Figure(
        "dp-overall", "Data parallelism: replicas of the Transformer", "A 3.1, B 7.1",
        "Each replica has all weights and its part of the batch; only the gradients of parameters, dθ, meet. "
        "Each is a sum over the batch, so the all-reduce is a sum, too.",
        _data,
        lambda config: _replicas("Data parallelism: replicas of the Transformer", config, "dp"),
    ),
    _dp(
        "dp-mha-forward", "Multi-head attention, forward (one replica)", "A 3.2",
        "The replica's own part of the batch, B/N_DP; no communication.", "layer0/mha", FORWARD,
    ),
    _dp(
        "dp-mha-backward", "Multi-head attention, backward (one replica)", "A 3.3, B 7.2",
        "Gradients of parameters, in red, pass an AR before the optimizer.", "layer0/mha", BACKWARD,
    ),
    _dp(
        "dp-mlp-forward", "Feed-forward network, forward (one replica)", "A 3.4",
        "The replica's own part of the batch, B/N_DP; no communication.", "layer0/mlp", FORWARD,
    ),
    _dp(
        "dp-mlp-backward", "Feed-forward network, backward (one replica)", "A 3.5, B 7.3",
        "Gradients of parameters, in red, pass an AR before the optimizer. W_up and W_down have 2DD_ff elements "
        "together. In a direct exchange a node sends (N_DP − 1) · 2DD_ff; through the root of a reduce-then-broadcast "
        "pass 2 (N_DP − 1) · 2DD_ff; in a ring a node sends 2 (N_DP − 1)/N_DP · 2DD_ff.",
        "layer0/mlp", BACKWARD,
    ),
    Figure(
        "dp-tp-overall", "Data and tensor parallelism together", "B 8.1",
        "Activations and their gradients meet inside a replica's group of GPUs (over tp), gradients of parameters "
        "across groups (over dp): every GPU with the one that holds the same shard.",
        _both,
        lambda config: _replicas("Data and tensor parallelism together", config, "dp", "tp"),
    ),
)  # fmt: skip
