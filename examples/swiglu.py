"""A block of one's own, a gated MLP: Y = (SiLU(X • W_gate) ⊙ (X • W_up)) • W_down.

graphir check examples/swiglu.py:swiglu --tp 2
graphir draw examples/swiglu.py:swiglu --tp 2 -o swiglu.svg
"""

import graphir as gi


def swiglu(kind: str = "silu") -> gi.Graph:
    B, S, D, F = gi.dims("B S D D_ff")
    block = gi.Builder("swiglu")
    X = block.input("X", (B, S, D))
    Z_gate = gi.matmul(X, block.parameter("W_gate", (D, F)), name="Z_gate")
    Z_up = gi.matmul(X, block.parameter("W_up", (D, F)), name="Z_up")
    H = gi.multiply(gi.activation(Z_gate, kind=kind, name="A_gate"), Z_up, name="H")
    return block.build(gi.matmul(H, block.parameter("W_down", (F, D)), name="Y"))


if __name__ == "__main__":
    graph = swiglu()
    print(graph)
    print(gi.check(graph, gi.Mesh(tp=2)))
