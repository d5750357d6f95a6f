"""Every pass by an example: a graph as text, and what the pass makes of it.

What they do in general the tests beside this one say. Where an example has to change, run it: what was made is printed.
"""

from __future__ import annotations

import inspect

import graphir as gi
from graphir import passes
from graphir.passes import (
    Optimizer,
    as_stored,
    autodiff,
    cse,
    dce,
    fuse,
    keep_slopes,
    keep_softmax_statistics,
    lora,
    lower,
    mixed_precision,
    optimize,
    overlap,
    recompute,
    round_products,
    separate_products,
    shard,
    simplify,
    unfuse,
    with_gradients,
)
from graphir.passes.rename import rename
from tests.support.rewrites import check_rewrite

#: Y = X • W and its sum, of which most that follows is made.
LINEAR = """
graph linear float32

inputs
  X  [B, D]

parameters
  W  [D, F]  ~ normal(0.02)

/
  Y  [B, F]  = matmul(X, W)
  L  []      = sum(Y) {axes=(0, 1), rank=2}

outputs
  L
"""


def test_autodiff() -> None:
    """Each node's d-node, from the last to the first."""
    check_rewrite(
        LINEAR,
        autodiff,
        """
        graph linear float32

        inputs
          X  [B, D]

        parameters
          W  [D, F]  ~ normal(0.02)

        /
          Y  [B, F]  = matmul(X, W)
          L  []      = sum(Y) {axes=(0, 1), rank=2}

        / backward
          dL  []      = one()
          dY  [B, F]  = BC(dL) {dims=(B, F), axes=(0, 1), rank=2}   @of L
          dW  [D, F]  = dMatmul(X, dY) {shared=true, only=("dW",)}  @of Y

        outputs
          L
          dW
        """,
    )


def test_with_gradients() -> None:
    """A block without a loss: the gradients of its results come in, those of its inputs go out."""
    check_rewrite(
        """
        graph block float32

        inputs
          X  [B, D]

        parameters
          W  [D, F]  ~ normal(0.02)

        /
          Y  [B, F]  = matmul(X, W)

        outputs
          Y
        """,
        with_gradients,
        """
        graph block float32

        inputs
          X   [B, D]
          dY  [B, F]

        parameters
          W  [D, F]  ~ normal(0.02)

        /
          Y  [B, F]  = matmul(X, W)

        / backward
          dX  [B, D],
          dW  [D, F]  = dMatmul(X, W, dY) {shared=true}  @of Y

        outputs
          Y
          dX
          dW
        """,
    )


def test_optimize() -> None:
    """An update of each parameter, with its state and the learning rate."""
    check_rewrite(
        """
        graph linear float32

        inputs
          X   [B, D]
          dY  [B, F]

        parameters
          W  [D, F]  ~ normal(0.02)

        / backward
          dW  [D, F]  = dMatmul(X, dY) {shared=true, only=("dW",)}

        outputs
          dW
        """,
        lambda graph: optimize(graph, Optimizer("sgd", learning_rate=0.1)),
        """
        graph linear float32

        inputs
          X     [B, D]
          dY    [B, F]
          step  [] int64

        parameters
          W  [D, F]  ~ normal(0.02)

        state
          W.u  [D, F]  ~ zeros

        / backward
          dW  [D, F]  = dMatmul(X, dY) {shared=true, only=("dW",)}

        optimizer update
          lr  [] float64  = schedule(/step) {peak=0.1}

        / update
          W.new    [D, F],
          W.u.new  [D, F]  = SGD(W, dW, W.u, optimizer/lr) {momentum=0.9, weight_decay=0.01}  @of W why "update of W"

        outputs
          dW
          optimizer/lr
          W.new
          W.u.new
        """,
    )


def test_mixed_precision() -> None:
    """What a product reads is cast, once a value; what it returns is not."""
    check_rewrite(
        LINEAR,
        lambda graph: mixed_precision(graph, "bfloat16"),
        """
        graph linear float32

        inputs
          X  [B, D]

        parameters
          W  [D, F]  ~ normal(0.02)

        /
          X.bfloat16  [B, D] bfloat16  = cast(X) {to="bfloat16"}  @why "Y = matmul(…) reads bfloat16"
          W.bfloat16  [D, F] bfloat16  = cast(W) {to="bfloat16"}  @why "Y = matmul(…) reads bfloat16"
          Y           [B, F]           = matmul(X.bfloat16, W.bfloat16) {dtype="float32"}
          L           []               = sum(Y) {axes=(0, 1), rank=2}

        outputs
          L
        """,
    )


def test_shard() -> None:
    """Values are split as the plan has it, and what is a sum over ranks is formed where it is wanted."""
    check_rewrite(
        LINEAR,
        lambda graph: shard(graph, gi.Mesh(dp=2), "data"),
        """
        graph linear float32 over dp=2

        inputs
          X  [B|dp, D]

        parameters
          W  [D, F]  ~ normal(0.02)

        /
          Y     [B|dp, F]           = matmul(X, W)
          L     [] pending sum(dp)  = sum(Y) {axes=(0, 1), rank=2}
          L.AR  []  = AR(L) {axes=("dp",)}  @why "L is a pending sum over dp; it is an output of the graph"

        outputs
          L.AR
        """,
    )


def test_dce() -> None:
    """What no output needs is left out; arguments stay."""
    check_rewrite(
        """
        graph branches float32

        inputs
          X     [B, D]
          idle  [B]

        /
          A   [B, D]  = exp(X)
          B1  [B, D]  = exp(A)
          Y   [B, D]  = scale(X) {by=2.0}

        outputs
          Y
        """,
        dce,
        """
        graph branches float32

        inputs
          X     [B, D]
          idle  [B]

        /
          Y  [B, D]  = scale(X) {by=2.0}

        outputs
          Y
        """,
    )


def test_simplify() -> None:
    """Dropout at rate 0 returns its operand, and its d-node what arrives."""
    check_rewrite(
        """
        graph dropout float32

        inputs
          X     [B, D]
          dY    [B, D]
          seed  [] int64
          step  [] int64

        /
          Y    [B, D],
          Y.m  [B, D] bool  = DO(X, seed, step) {p=0.0, key=1}
          Z    [B, D]       = exp(Y)

        / backward
          dX  [B, D]  = dDO(Y.m, dY) {p=0.0}  @of Y
          dH  [B, D]  = dExp(Z, dX)

        outputs
          Z
          dH
        """,
        simplify,
        """
        graph dropout float32

        inputs
          X     [B, D]
          dY    [B, D]
          seed  [] int64
          step  [] int64

        /
          Z  [B, D]  = exp(X)

        / backward
          dH  [B, D]  = dExp(Z, dY)

        outputs
          Z
          dH
        """,
    )


def test_recompute() -> None:
    """A mask that a counter gives again is not held for the backward pass."""
    check_rewrite(
        """
        graph dropout float32

        inputs
          X     [B, D]
          dY    [B, D]
          seed  [] int64
          step  [] int64

        /
          Y    [B, D],
          Y.m  [B, D] bool  = DO(X, seed, step) {p=0.5, key=1}

        / backward
          dX  [B, D]  = dDO(Y.m, dY) {p=0.5}  @of Y

        outputs
          Y
          dX
        """,
        lambda graph: recompute(graph, "masks"),
        """
        graph dropout float32

        inputs
          X     [B, D]
          dY    [B, D]
          seed  [] int64
          step  [] int64

        /
          Y    [B, D],
          Y.m  [B, D] bool  = DO(X, seed, step) {p=0.5, key=1}

        / backward
          Y.m.again  [B, D] bool  = mask(seed, step) {p=0.5, key=1,
            dims=(B, D)}  @of Y why "recomputed, so that Y.m need not be stored"
          dX         [B, D]       = dDO(Y.m.again, dY) {p=0.5}                    @of Y

        outputs
          Y
          dX
        """,
    )


def test_keep_slopes() -> None:
    """The d-node of an activation becomes a product with what the activation has kept for it."""
    check_rewrite(
        """
        graph activation float32

        inputs
          Z   [B, D]
          dA  [B, D]

        /
          A  [B, D]  = GL(Z)

        / backward
          dZ  [B, D]  = dGL(Z, dA)  @of A

        outputs
          A
          dZ
        """,
        keep_slopes,
        """
        graph activation float32

        inputs
          Z   [B, D]
          dA  [B, D]

        /
          A        [B, D],
          A.slope  [B, D]  = GLs(Z)

        / backward
          dZ  [B, D]  = mul(A.slope, dA)  @of A

        outputs
          A
          dZ
        """,
    )


def test_separate_products() -> None:
    """Each gradient of a product is made by a node of its own, of what it needs."""
    check_rewrite(
        """
        graph linear float32

        inputs
          X   [B, D]
          dY  [B, F]

        parameters
          W  [D, F]  ~ normal(0.02)

        / backward
          dX  [B, D],
          dW  [D, F]  = dMatmul(X, W, dY) {shared=true}

        outputs
          dX
          dW
        """,
        separate_products,
        """
        graph linear float32

        inputs
          X   [B, D]
          dY  [B, F]

        parameters
          W  [D, F]  ~ normal(0.02)

        / backward
          dX  [B, D]  = dMatmul(W, dY) {shared=true, only=("dX",)}
          dW  [D, F]  = dMatmul(X, dY) {shared=true, only=("dW",)}

        outputs
          dX
          dW
        """,
    )


def test_cse() -> None:
    """What is computed twice is computed once."""
    check_rewrite(
        """
        graph twice float32

        inputs
          Z  [B, D]

        /
          P  [B, D]  = S(Z)
          Q  [B, D]  = S(Z)
          Y  [B, D]  = mul(P, Q)

        outputs
          Y
        """,
        cse,
        """
        graph twice float32

        inputs
          Z  [B, D]

        /
          P  [B, D]  = S(Z)
          Y  [B, D]  = mul(P, P)

        outputs
          Y
        """,
    )


def test_keep_softmax_statistics() -> None:
    """Σ P ⊙ dP of each row is had of O and dO, which are shorter."""
    check_rewrite(
        """
        graph attention float32

        inputs
          Z   [B, S, S_k]
          V   [B, S_k, D]
          dO  [B, S, D]
          dY  [B, S, F]

        /
          P  [B, S, S_k]  = S(Z)
          O  [B, S, D]    = matmul(P, V)

        / backward
          dW  [D, F]       = dMatmul(O, dY) {shared=true, only=("dW",)}
          dP  [B, S, S_k]  = dMatmul(V, dO) {shared=false, only=("dX",)}  @of O
          dZ  [B, S, S_k]  = dS(P, dP)                                    @of P

        outputs
          dW
          dZ
        """,
        keep_softmax_statistics,
        """
        graph attention float32

        inputs
          Z   [B, S, S_k]
          V   [B, S_k, D]
          dO  [B, S, D]
          dY  [B, S, F]

        /
          P  [B, S, S_k]  = S(Z)
          O  [B, S, D]    = matmul(P, V)

        / backward
          dW      [D, F]       = dMatmul(O, dY) {shared=true, only=("dW",)}
          dP      [B, S, S_k]  = dMatmul(V, dO) {shared=false, only=("dX",)}  @of O
          dZ.dot  [B, S]       = row_dot(O, dO)  @of P why "its rows' inner product is that of O and its gradient"
          dZ      [B, S, S_k]  = center(P, dP, dZ.dot)                        @of P

        outputs
          dW
          dZ
        """,
    )


def test_round_products() -> None:
    """A product that is only read in 16 bits, by way of views or not, is stored in 16 bits."""
    check_rewrite(
        """
        graph product bfloat16

        inputs
          X  [M, K]
          W  [K, N]

        /
          Y    [M, N] float32  = matmul(X, W) {dtype="float32"}
          Y.T  [N, M] float32  = T(Y) {perm=(1, 0)}
          Z    [N, M]          = cast(Y.T) {to="bfloat16"}
          A    [N, M]          = exp(Z)

        outputs
          A
        """,
        round_products,
        """
        graph product bfloat16

        inputs
          X  [M, K]
          W  [K, N]

        /
          Y    [M, N]  = matmul(X, W) {dtype="bfloat16"}
          Y.T  [N, M]  = T(Y) {perm=(1, 0)}
          A    [N, M]  = exp(Y.T)

        outputs
          A
        """,
    )


def test_fuse() -> None:
    """What lies between two batched products is one node, what shares rows another."""
    check_rewrite(
        """
        graph attention float32

        inputs
          Q  [B, S, D]
          K  [B, S, D]
          V  [B, S, D]

        /
          K.T  [B, D, S]  = T(K) {perm=(0, 2, 1)}
          Z    [B, S, S]  = matmul(Q, K.T)
          P    [B, S, S]  = S(Z)
          O    [B, S, D]  = matmul(P, V)
          H    [B, S, D]  = exp(O)
          A    [B, S, D]  = GL(H)

        outputs
          A
        """,
        fuse,
        """
        graph attention float32

        inputs
          Q  [B, S, D]
          K  [B, S, D]
          V  [B, S, D]

        /
          O  [B, S, D]  = fused(K, Q, V) {anchor="Z", rows=2}  @why "fused: •, S"
            K.T  [B, D, S]  = T(K) {perm=(0, 2, 1)}
            Z    [B, S, S]  = matmul(Q, K.T)
            P    [B, S, S]  = S(Z)
            O    [B, S, D]  = matmul(P, V)
          A  [B, S, D]  = fused(O) {anchor="O", rows=3}        @why "fused: exp, GL"
            H  [B, S, D]  = exp(O)
            A  [B, S, D]  = GL(H)

        outputs
          A
        """,
    )


def test_unfuse() -> None:
    """The nodes that fused nodes hold come back under their own names."""
    check_rewrite(
        """
        graph attention float32

        inputs
          Q  [B, S, D]
          K  [B, S, D]
          V  [B, S, D]

        /
          O  [B, S, D]  = fused(K, Q, V) {anchor="Z", rows=2}  @why "fused: •, S"
            K.T  [B, D, S]  = T(K) {perm=(0, 2, 1)}
            Z    [B, S, S]  = matmul(Q, K.T)
            P    [B, S, S]  = S(Z)
            O    [B, S, D]  = matmul(P, V)
          A  [B, S, D]  = fused(O) {anchor="O", rows=3}        @why "fused: exp, GL"
            H  [B, S, D]  = exp(O)
            A  [B, S, D]  = GL(H)

        outputs
          A
        """,
        unfuse,
        """
        graph attention float32

        inputs
          Q  [B, S, D]
          K  [B, S, D]
          V  [B, S, D]

        /
          K.T  [B, D, S]  = T(K) {perm=(0, 2, 1)}
          Z    [B, S, S]  = matmul(Q, K.T)
          P    [B, S, S]  = S(Z)
          O    [B, S, D]  = matmul(P, V)
          H    [B, S, D]  = exp(O)
          A    [B, S, D]  = GL(H)

        outputs
          A
        """,
    )


def test_overlap() -> None:
    """A reduction starts right after what makes its operand."""
    check_rewrite(
        """
        graph linear float32 over dp=2

        inputs
          X   [B|dp, D]
          dY  [B|dp, F]

        parameters
          W  [D, F]  ~ normal(0.02)

        / backward
          dW     [D, F] pending sum(dp)  = dMatmul(X, dY) {shared=true, only=("dW",)}
          dX     [B|dp, D]               = dMatmul(W, dY) {shared=true, only=("dX",)}
          dW.AR  [D, F]                  = AR(dW) {axes=("dp",)}

        outputs
          dX
          dW.AR
        """,
        overlap,
        """
        graph linear float32 over dp=2

        inputs
          X   [B|dp, D]
          dY  [B|dp, F]

        parameters
          W  [D, F]  ~ normal(0.02)

        / backward
          dW     [D, F] pending sum(dp)  = dMatmul(X, dY) {shared=true, only=("dW",)}
          dW.AR  [D, F]                  = AR(dW) {axes=("dp",)}
          dX     [B|dp, D]               = dMatmul(W, dY) {shared=true, only=("dX",)}

        outputs
          dX
          dW.AR
        """,
    )


def test_lower() -> None:
    """A composite node becomes the simple ones that the documents draw."""
    check_rewrite(
        """
        graph linear float32

        inputs
          X   [B, D]
          dY  [B, F]

        / backward
          dW  [D, F]  = dMatmul(X, dY) {shared=true, only=("dW",)}

        outputs
          dW
        """,
        lower,
        """
        graph linear float32

        inputs
          X   [B, D]
          dY  [B, F]

        / backward
          T0  [D, B]  = T(X) {perm=(1, 0)}  @why "dMatmul taken apart"
          dW  [D, F]  = matmul(T0, dY)      @why "dMatmul taken apart"

        outputs
          dW
        """,
    )


def test_lora() -> None:
    """Beside a product stands one of small matrices, which is nothing at first."""
    check_rewrite(
        LINEAR,
        lambda graph: lora(graph, by=2.0),
        """
        graph linear float32

        inputs
          X  [B, D]

        parameters
          W    [D, F]  ~ normal(0.02)
          W.A  [D, r]  ~ normal(0.02)
          W.B  [r, F]  ~ zeros

        /
          Y.base  [B, F]  = matmul(X, W)
          Y.low   [B, r]  = matmul(X, W.A)         @why "A•B is added to W"
          Y.raw   [B, F]  = matmul(Y.low, W.B)     @why "A•B is added to W"
          Y.more  [B, F]  = scale(Y.raw) {by=2.0}  @why "A•B is added to W"
          Y       [B, F]  = add(Y.base, Y.more)    @why "A•B is added to W"
          L       []      = sum(Y) {axes=(0, 1), rank=2}

        outputs
          L
        """,
    )


def test_as_stored() -> None:
    """A weight that is read is the transpose of a cast of what is stored."""
    check_rewrite(
        LINEAR,
        lambda graph: as_stored(graph, {"W": ("bfloat16", True)}),
        """
        graph linear float32

        inputs
          X  [B, D]

        parameters
          W.stored  [F, D] bfloat16  ~ normal(0.02)

        /
          W.stored.float32  [F, D]  = cast(W.stored) {to="float32"}     @why "W is held as it is stored"
          W                 [D, F]  = T(W.stored.float32) {perm=(1, 0)}  @why "W is held as it is stored"
          Y                 [B, F]  = matmul(X, W)
          L                 []      = sum(Y) {axes=(0, 1), rank=2}

        outputs
          L
        """,
    )


def test_rename() -> None:
    """A value has another name, and what is said of it follows."""
    check_rewrite(
        """
        graph linear float32

        inputs
          X  [B, D]

        /
          Y  [B, D]  = exp(X)
          Z  [B, D]  = exp(Y)

        / backward
          dY  [B, D]  = dExp(Z, Z)  @of Y

        outputs
          dY

        aliases
          H  = Y
        """,
        lambda graph: rename(graph, {"Y": "H"}),
        """
        graph linear float32

        inputs
          X  [B, D]

        /
          H  [B, D]  = exp(X)
          Z  [B, D]  = exp(H)

        / backward
          dY  [B, D]  = dExp(Z, Z)  @of H

        outputs
          dY
        """,
    )


def test_no_pass_lacks_an_example() -> None:
    several = {"run_pipeline", "run_passes"}
    found = {name for name in passes.__all__ if inspect.isfunction(getattr(passes, name))} - several
    makes_graphs = {name for name in found if inspect.signature(getattr(passes, name)).return_annotation == "Graph"}
    assert len(makes_graphs) > 15
    assert {f"test_{name}" for name in makes_graphs} <= globals().keys()
