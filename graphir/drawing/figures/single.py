"""The figures of one node: B 3 to 5, A 1."""

from __future__ import annotations

from dataclasses import replace

from graphir.drawing.figures import graphs
from graphir.drawing.figures.config import Figure, FigureConfig
from graphir.drawing.view import Fold, View
from graphir.ir.graph import BACKWARD, FORWARD

#: The blocks of overall figures; the two LN of a layer stand on their own (A 1.1).
BLOCKS = (
    Fold("embedding", "Embedding"),
    Fold("layer*/mha", "MHA"),
    Fold("layer*/mlp", "MLP"),
    Fold("output", "Decoding", ("P", "ids")),
    Fold("output", "Loss", ("L*", "n", "n.*", "Y_parts", "dL")),
    Fold("output", "Output projection"),
)
APART = ("X_norm", "H")


def small(title: str, **settings: object) -> View:
    """A view of one of B 3's graphs: its scope, forward above, backward below."""
    return View(title, hide=("loss/*",), only=(), direction="LR", mirror=True, **settings)  # type: ignore[arg-type]


def block(title: str, scope: str, phase: str, config: FigureConfig, **settings: object) -> View:
    """A detailed view of a block in one phase."""
    return View(title, scopes=(scope,), phases=(phase,), full=config.full, **settings)  # type: ignore[arg-type]


def overall(title: str, config: FigureConfig, **settings: object) -> View:
    """The whole model in blocks."""
    return replace(
        View(title, folds=BLOCKS, apart=APART, expand=config.expand, detailed=False, cached="no"),
        **settings,  # type: ignore[arg-type]
    )


SMALL = (
    Figure(
        "node-single", "A node and its backward operator", "B 3.2",
        "The forward node f maps x to y; the backward node df maps the upstream gradient dy, with the cached x, to dx.",
        lambda config: graphs.single_node(),
        lambda config: small("A node and its backward operator", scopes=("",), abstract=True),
    ),
    Figure(
        "node-matmul", "Matrix multiplication and its backward node", "B 3.3",
        "dMatmul is one node with two results: dX = dY • Wᵀ and dW = Xᵀ • dY.",
        lambda config: graphs.product(),
        lambda config: small("Matrix multiplication and its backward node", scopes=("",), cached="ports"),
    ),
    Figure(
        "chain", "A chain of nodes, forward and backward", "B 3.4",
        "Each backward node needs the input of its forward node. Since f_ℓ maps X_{ℓ−1} to X_ℓ, what df_ℓ caches is "
        "X_{ℓ−1}.",
        lambda config: graphs.chain(),
        lambda config: small("A chain of nodes, forward and backward", scopes=("",), abstract=True),
    ),
    Figure(
        "parameter-gradients", "Activation gradients flow on, parameter gradients leave", "B 3.5",
        "dX goes on to the node before; dW goes to the optimizer, which makes the new W of it.",
        lambda config: graphs.trained_product(),
        lambda config: View(
            "Activation gradients flow on, parameter gradients leave", phases=(FORWARD, BACKWARD, "update"),
            hide=("loss/*", "optimizer/*", "W.u", "step", "lr"), scopes=("",), cached="ports",
        ),
    ),
    Figure(
        "reading-nodes", "How to read a node with several inputs", "B 4.3",
        "Any forward node y = f(x₁, …, x_k), here LN, beside its backward node, which reads the upstream gradient and "
        "what the forward pass cached for it, and makes a gradient for each input.",
        lambda config: graphs.several_inputs(),
        lambda config: View("How to read a node with several inputs", scopes=("",), hide=("loss/*",), cached="ports"),
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        "transformer-overall", "The Transformer, forward and backward", "A 1.1, B 5.1",
        "Forward solid, backward dashed; every d-block stands beside its block. Equal layers are drawn once.",
        graphs.trained,
        lambda config: overall("The Transformer, forward and backward", config, parameters="no", mirror=True),
    ),
    Figure(
        "embedding-forward", "Input embedding, forward", "A 1.2, B 5.2",
        "Token ids look up rows of E; positions are added for every sequence of the batch. P [S, D] "
        "has S already, so only B is new: BC_B(P).",
        graphs.forward,
        lambda config: block("Input embedding, forward", "embedding", FORWARD, config),
    ),
    Figure(
        "embedding-backward", "Input embedding, backward", "A 1.2, B 5.2",
        "Down to the gradients of E and P. With a tied output projection dE has a second part, from there.",
        graphs.trained,
        lambda config: block("Input embedding, backward", "embedding", BACKWARD, config),
    ),
    Figure(
        "mha-forward", "Multi-head attention, forward", "A 1.3.1, B 5.3.1",
        "A are the raw scores and Z the scaled and masked ones. Before C stands a T, since C joins heads "
        "that lie side by side.",
        graphs.forward,
        lambda config: block("Multi-head attention, forward", "layer0/mha", FORWARD, config),
    ),
    Figure(
        "mha-backward", "Multi-head attention, backward", "A 1.3.2, B 5.3.2",
        "From dA_out back to dX; double arrows carry what the forward pass cached.",
        graphs.trained,
        lambda config: block("Multi-head attention, backward", "layer0/mha", BACKWARD, config),
    ),
    Figure(
        "mlp-forward", "Feed-forward network, forward", "A 1.4.1, B 5.4.1",
        "Z_down is the product alone; A_out has the bias.",
        graphs.forward,
        lambda config: block("Feed-forward network, forward", "layer0/mlp", FORWARD, config),
    ),
    Figure(
        "mlp-backward", "Feed-forward network, backward", "A 1.4.2, B 5.4.2",
        "dH_inter is called dU_in, too. dZ_down equals dA_out: + hands its gradient on.",
        graphs.trained,
        lambda config: block("Feed-forward network, backward", "layer0/mlp", BACKWARD, config),
    ),
    Figure(
        "loss-forward", "Logits, loss and decoding", "A 1.5.1, B 5.5.1",
        "W_lm is Eᵀ if tied. S makes P of the logits, for the loss (CE) and for decoding alike. The loss is the mean "
        "over the valid tokens. CE is drawn taken apart; what trains is −log P[Y] = lse − Z[Y], without P. lse is kept "
        "for the backward pass, which makes P of it again.",
        graphs.trained_apart,
        lambda config: block("Logits, loss and decoding", "output", FORWARD, config),
    ),
    Figure(
        "loss-backward", "Logits and loss, backward", "A 1.5.2, B 5.5.2",
        "dCE is P − onehot(Y), with P = exp(Z_bias − lse), scaled by each token's part in the mean; dAddB hands "
        "dZ_bias to the product and to Σ.",
        graphs.trained,
        lambda config: block("Logits and loss, backward", "output", BACKWARD, config, forks=True),
    ),
)  # fmt: skip
