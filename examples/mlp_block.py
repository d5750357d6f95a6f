"""The MLP block of a Transformer, written by hand: printed, differentiated, run.

    Z_up = X • W_up + BC(b_up)      A_up = GELU(Z_up)      Y = A_up • W_down + BC(b_down)

Below it stands what a mistake looks like.
"""

import numpy as np

import graphir as gi
from graphir.backends import initialize
from graphir.passes import autodiff


def build() -> gi.Graph:
    B, S, D, F = gi.dims("B S D D_ff")
    block = gi.Builder("mlp")
    X = block.input("X", (B, S, D))
    W_up, b_up = block.parameter("W_up", (D, F)), block.parameter("b_up", (F,), init="zeros")
    W_down, b_down = block.parameter("W_down", (F, D)), block.parameter("b_down", (D,), init="zeros")
    Z_up = gi.add(gi.matmul(X, W_up), gi.broadcast(b_up, (B, S)), name="Z_up")
    A_up = gi.activation(Z_up, kind="gelu", name="A_up")
    Y = gi.add(gi.matmul(A_up, W_down), gi.broadcast(b_down, (B, S)), name="Y")
    # Something to differentiate: half the sum of all squares, so that dY = Y.
    L = gi.scale(gi.reduce_sum(gi.multiply(Y, Y)), by=0.5, name="L")
    return block.build(L)


def main() -> None:
    forward = build()
    print(gi.to_text(forward))

    joint = autodiff(forward)
    print(gi.to_text(joint))

    sizes = {"B": 2, "S": 3, "D": 8, "D_ff": 32}
    run = gi.compile(joint, sizes)
    parameters = initialize(forward, sizes, seed=0)
    X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype("float32")
    result = run(parameters, {"X": X})
    print(f"L = {float(result['L']):.6f}")
    for name in ("dW_up", "db_up", "dW_down", "db_down"):
        print(f"{name} {joint[name].type} = {list(result[name].shape)}, norm {np.linalg.norm(result[name]):.6f}")

    # A step against the gradient makes L smaller.
    updated = {name: array - 0.1 * result[f"d{name}"] for name, array in parameters.items()}
    print(f"L = {float(run(updated, {'X': X})['L']):.6f} after a step")

    # What does not fit is refused on the line that says so.
    try:
        broken = gi.Builder("broken")
        B, D, F = gi.dims("B D D_ff")
        gi.matmul(broken.input("X", (B, D)), broken.parameter("W", (F, D)))
    except gi.GraphirError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
