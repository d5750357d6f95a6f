"""The graphs that figures are views of: the Transformer at each stage, and the small graphs of B 3 and 4."""

from __future__ import annotations

from functools import lru_cache

from graphir.drawing.figures.config import FigureConfig
from graphir.ir.builder import Builder
from graphir.ir.dims import dims
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.models import transformer
from graphir.operators import activation, layer_norm, matmul, reduce_sum

B, S, D, D_IN, D_OUT = dims("B S D D_in D_out")


@lru_cache(maxsize=16)
def forward(config: FigureConfig) -> Graph:
    """The model's forward pass, decoding branch included."""
    if config.model is not None:
        return config.model.but(layers=config.layers).graph()
    return transformer(config.layers, **dict(config.options))


@lru_cache(maxsize=16)
def trained_apart(config: FigureConfig) -> Graph:
    """Forward and backward pass with CE as S → P → CE, and lse for dCE; loss and decoding share their P."""
    from graphir.passes import cse, lower

    return cse(lower(_joint(config)))


@lru_cache(maxsize=16)
def trained(config: FigureConfig) -> Graph:
    """Forward and backward pass on one node; products taken apart if the configuration asks for it."""
    from graphir.passes import autodiff, lower

    joint = autodiff(forward(config))
    return lower(joint) if config.lowered else joint


@lru_cache(maxsize=16)
def sharded(config: FigureConfig, axes: tuple[str, ...], plan: str | None = None) -> Graph:
    """What each rank of a mesh with these axes runs."""
    from graphir.passes import complete_plan, lower, shard

    mesh = Mesh({axis: getattr(config, axis) for axis in axes})
    split = shard(_joint(config), mesh, complete_plan(plan, mesh))
    return lower(split) if config.lowered else split


def _joint(config: FigureConfig) -> Graph:
    from graphir.passes import autodiff

    return autodiff(forward(config))


# -- the small graphs of B 3 ------------------------------------------------------------------------------


def _differentiated(block: Builder, y: Value, wrt: list[str]) -> Graph:
    """The graph with its backward pass; the loss, Σ y, stands in a scope of its own, which no figure shows."""
    from graphir.passes import autodiff

    with block.scope("loss"):
        L = reduce_sum(y, name="L")
    return autodiff(block.build(L), wrt=wrt)


def single_node() -> Graph:
    """y = f(x), and its gradient (B 3.2)."""
    block = Builder("node")
    x = block.input("x", (B, D))
    return _differentiated(block, activation(x, name="y"), ["x"])


def product() -> Graph:
    """Y = X • W, and its gradients (B 3.3)."""
    block = Builder("matmul")
    X = block.input("X", (B, S, D_IN))
    W = block.parameter("W", (D_IN, D_OUT))
    return _differentiated(block, matmul(X, W, name="Y"), ["X", "W"])


def trained_product() -> Graph:
    """Y = X • W with its gradients and an SGD step on W (B 3.5)."""
    from graphir.passes import Optimizer, optimize

    return optimize(product(), Optimizer("sgd", momentum=0.0, weight_decay=0.0))


def chain(length: int = 3) -> Graph:
    """X_ℓ = f_ℓ(X_{ℓ−1}), and the gradients back to X_0 (B 3.4)."""
    block = Builder("chain")
    X = block.input("X_0", (B, S, D))
    for i in range(1, length + 1):
        X = activation(X, name=f"X_{i}")
    return _differentiated(block, X, ["X_0"])


def several_inputs() -> Graph:
    """A node with three inputs: H = LN(X, γ, β), and its gradients (B 4.3)."""
    block = Builder("reading")
    X = block.input("X", (B, S, D))
    gamma, beta = block.parameter("gamma", (D,), init="ones"), block.parameter("beta", (D,), init="zeros")
    return _differentiated(block, layer_norm(X, gamma, beta, name="H"), ["X", "gamma", "beta"])
