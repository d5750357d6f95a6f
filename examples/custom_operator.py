"""An operator of one's own, in one declaration: unit norm, typed, checked, differentiated and trained like any other.

    python examples/custom_operator.py

The task: Target = X / ‖X‖ • M for a hidden matrix M, where the rows of X differ in length by orders of
magnitude. A linear map cannot learn that; one behind a unit norm can.
"""

from __future__ import annotations

import numpy as np

import graphir as gi
from graphir.backends import initialize
from graphir.passes import Optimizer, autodiff, optimize
from graphir.testing import check_operator

# -- the declaration: types and costs by the signature, the formula by the kernel, the gradient beside it --


@gi.operator("UNIT", "X[*b d!], gamma[d!] -> H[*b d!], r[*b]", auxiliary="r", flops=4)
def unit_norm(xp: gi.Xp, X: gi.Array, gamma: gi.Array, *, epsilon: float = 1e-6) -> tuple[gi.Array, gi.Array]:
    """H [*b, D] = γ ⊙ X r with r = 1/√(Σ X² + ε), the sum over the last dim.

    r [*b] is a result too, cached for dUNIT.
    """
    r = 1 / xp.sqrt((X * X).sum(axis=-1) + X.dtype.type(epsilon))
    return X * r[..., None] * gamma, r


@unit_norm.backward(
    "dUNIT",
    "X[*b d!], gamma[d!], r[*b], dH[*b d!] -> dX[*b d!], dgamma[d!]",
    depends={"dgamma": "X r dH"},
    linear="dH",
    flops=8,
)
def d_unit_norm(
    xp: gi.Xp, X: gi.Array, gamma: gi.Array | None, r: gi.Array, dH: gi.Array, *, only: tuple[str, ...]
) -> tuple[gi.Array | None, gi.Array | None]:
    """With X̂ = X r and g = γ ⊙ dH:  dX = r (g − X̂ Σ(g ⊙ X̂)), the sum over D;  dγ = Σ dH ⊙ X̂ over *b."""
    normal = X * r[..., None]
    dX = dgamma = None
    if "dX" in only:
        g = dH * gamma
        dX = r[..., None] * (g - normal * (g * normal).sum(axis=-1)[..., None])
    if "dgamma" in only:
        dgamma = (dH * normal).sum(axis=tuple(range(dH.ndim - 1)))
    return dX, dgamma


# -- is it what it says? -----------------------------------------------------------------------------------


def check() -> None:
    """Types, gradient, traits, blocks on several ranks: AssertionError if the kernels do not keep a promise."""
    for each in (unit_norm, d_unit_norm):
        check_operator(each)


# -- a model that uses it ----------------------------------------------------------------------------------


def model(normalized: bool = True) -> gi.Graph:
    """Y [B, D_out] = UNIT(X) • W, or X • W, and its mean squared error L against Target."""
    B, D, D_out = gi.dims("B D D_out")
    block = gi.Builder("unit")
    X, target = block.input("X", (B, D)), block.input("Target", (B, D_out))
    H = unit_norm(X, block.parameter("gamma", (D,), init="ones"), name="H") if normalized else X
    Y = gi.matmul(H, block.parameter("W", (D, D_out)), name="Y")
    error = gi.add(Y, gi.scale(target, by=-1.0), name="error")
    total = gi.reduce_sum(gi.multiply(error, error), name="total")
    return block.build(gi.divide_by_count(total, gi.count_elements(target), name="L"))


def train(graph: gi.Graph, steps: int) -> list[float]:
    """The loss at each of `steps` steps of Adam on fresh batches."""
    sizes = {"B": 32, "D": 8, "D_out": 3}
    step = optimize(autodiff(graph), Optimizer(kind="adam", learning_rate=0.02))
    run, state = gi.compile(step, sizes), initialize(step, sizes, seed=0)
    random = np.random.default_rng(0)
    M = random.standard_normal((8, 3))
    losses = []
    for number in range(steps):
        X = random.standard_normal((32, 8)) * 10.0 ** random.uniform(-2, 2, (32, 1))
        target = X / np.sqrt((X * X).sum(axis=-1, keepdims=True)) @ M
        out = run(state, {"X": X.astype("float32"), "Target": target.astype("float32"), "step": number})
        state = out.updated()
        losses.append(float(out["L"]))
    return losses


def main(steps: int = 400) -> None:
    """Checks the operator; prints the differentiated graph, and how the loss falls with the unit norm and without."""
    check()
    print(gi.to_text(autodiff(model())))
    curves = {"X • W": train(model(normalized=False), steps), "UNIT(X) • W": train(model(), steps)}
    print(f"\n{'step':>6}{''.join(f'{name:>14}' for name in curves)}")
    for number in sorted({*range(0, steps, max(1, steps // 8)), steps - 1}):
        print(f"{number:>6}{''.join(f'{losses[number]:>14.6f}' for losses in curves.values())}")


if __name__ == "__main__":
    main()
