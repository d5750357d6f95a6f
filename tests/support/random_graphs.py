"""Random programs: valid graphs of many operators, drawn by hypothesis, that end in a scalar loss.

    @given(programs())
    def test_something(program):
        sizes, arrays = program.sizes, program.arrays(seed=0)
        run = gi.compile(autodiff(program.graph), sizes)(arrays)

Every float value is differentiable and reaches the loss L: what a step makes and no later step reads is averaged,
and the averages are added up. (A few values off that path, argmax ids and the like, may hang beside it.) Values
stay of moderate size: a product of k factors has degree k, a program's degree is bounded, and softmax, LN and
the like start again at 1.

Dims are names (B, S, D, …), products (B*S, 2*F), quotients (D/N_H), and D_h, which is defined as D/N_H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import graphir as gi
from graphir.ir.dims import product
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.operators import IGNORE

B, S, D, F, N_H, V = gi.dims("B S D F N_H V")
D_h = gi.dim("D_h", D / N_H)
#: The dims that shapes are drawn from. `D` is `N_H` times something, in every draw of sizes.
DIMS = (B, S, D, F, N_H, D_h, D / N_H, 2 * F, B * S, gi.dim("K", F))
SCOPES = ("", "layer0", "layer0/mha", "layer1", "outputs", "Δ.2/where")
LOCAL_NAMES = ("X", "Z_up", "dX_norm.Q_lin", "A_out", "γ", "of", "graph")
_LARGEST_DEGREE = 3
_LARGEST_RANK = 4


@dataclass(frozen=True)
class Program:
    """A graph, numbers for its dims, and what it can be run on."""

    graph: Graph
    sizes: dict[str, int]

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Content for every argument: floats from a normal distribution, indices within their range."""
        rng = np.random.default_rng(seed)
        limits = index_limits(self.graph, self.sizes)
        return {value.name: _array(rng, value, self.sizes, limits) for value in self.graph.arguments}


def index_limits(graph: Graph, sizes: dict[str, int]) -> dict[str, int]:
    """By name, how many rows the values that index something may choose from: the fewest of all their uses."""
    limits: dict[str, int] = {}
    for node in graph.nodes:
        rule, factors, _ = node.inference
        for operand, value in zip(rule.inputs, node.inputs, strict=True):
            if operand.indexes is not None:
                count = factors[operand.indexes].size(sizes)
                limits[value.name] = min(count, limits.get(value.name, count))
    return limits


def _array(rng: np.random.Generator, value: Value, sizes: dict[str, int], limits: dict[str, int]) -> Any:
    shape = tuple(each.size(sizes) for each in value.shape)
    if value.dtype == "bool":
        return rng.random(shape) < 0.7
    if not value.type.is_float:
        ids = rng.integers(0, limits.get(value.name, 100), shape)
        # Labels of which some do not count.
        return np.where(rng.random(shape) < 0.2, IGNORE, ids) if value.local_name.startswith("label") else ids
    return (0.5 * rng.standard_normal(shape)).astype(value.dtype)


@st.composite
def programs(
    draw: st.DrawFn,
    *,
    steps: int = 10,
    dtype: str = "float64",
    multiple: int = 1,
    largest: int = 3,
    casts: bool = False,
    random: bool = True,
    moves: Sequence[str] | None = None,
) -> Program:
    """A program of at most `steps` steps, each one or a few nodes, and sizes for it.

    `multiple`: what every base dim's size is a multiple of (so that ranks can share it); `largest`: at most how
    many times. `casts`: whether values of other float dtypes occur. `random`: whether dropout does.
    `moves`: the names of the steps to draw from; all of `MOVES` without it.
    """
    names = sorted(MOVES if moves is None else moves)
    names = [name for name in names if (casts or name != "cast") and (random or name != "dropout")]
    writer = _Writer(draw, dtype)
    writer.start()
    for _ in range(draw(st.integers(min(2, steps), steps))):
        with writer.scope():
            MOVES[draw(st.sampled_from(names))](writer)
    graph = writer.finish()
    return Program(graph, draw(sizes_of(graph, multiple=multiple, largest=largest)))


def graphs(**options: Any) -> st.SearchStrategy[Graph]:
    """Only the graphs of `programs`, which takes the options."""
    return programs(**options).map(lambda program: program.graph)


@st.composite
def sizes_of(draw: st.DrawFn, graph: Graph, *, multiple: int = 1, largest: int = 3) -> dict[str, int]:
    """Sizes under which every dim of a drawn graph is whole."""
    names = sorted(frozenset().union(*(each.names for each in graph.dims)))
    sizes = {name: multiple * draw(st.integers(1, largest), label=name) for name in names}
    if "D" in sizes and "N_H" in sizes:
        sizes["D"] = sizes["N_H"] * multiple * draw(st.integers(1, largest), label="D/N_H")
    return sizes


class _Writer:
    """A program in the making: a builder, its float values, and how many factors each is a product of."""

    def __init__(self, draw: st.DrawFn, dtype: str) -> None:
        self.draw = draw
        self.builder = gi.Builder(draw(st.sampled_from(("random", "g.1"))), dtype=dtype)
        self.degrees: dict[Value, int] = {}
        self.unread: dict[Value, None] = {}
        self.inputs: dict[tuple[object, ...], Value] = {}
        self.count = 0

    # -- choices --------------------------------------------------------------------------------------

    def dim(self) -> gi.Dim:
        return self.draw(st.sampled_from(DIMS))

    def name(self, base: str | None = None) -> str | None:
        """A new name, or none, so that the builder chooses."""
        self.count += 1
        if base is None and self.draw(st.booleans()):
            return None
        return f"{base or self.draw(st.sampled_from(LOCAL_NAMES))}{self.count}"

    def scope(self) -> Any:
        scope = self.draw(st.sampled_from(SCOPES))
        return self.builder.context(scope=scope)

    def pick(self, wanted: Callable[[Value], bool] = lambda value: True) -> Value | None:
        """A float value that `wanted` admits, the newest more often; None if there is none."""
        found = [value for value in self.degrees if wanted(value)]
        if not found:
            return None
        value = self.draw(st.sampled_from([*found, *found[-2:]]))
        self.unread.pop(value, None)
        return value

    # -- what goes in and what comes of it ------------------------------------------------------------

    def start(self) -> None:
        shape = self.draw(st.lists(st.sampled_from(DIMS), min_size=2, max_size=3))
        kind = self.draw(st.sampled_from((self.builder.input, self.builder.parameter)))
        self.made(kind(self.name("X0") or "X0", shape), 1)
        self.made(self.parameter(shape[-1:]), 1)

    def parameter(self, shape: Sequence[gi.Dim], dtype: str | None = None) -> Value:
        init = self.draw(st.sampled_from(("normal(0.02)", "normal(1e-3)", "zeros", "ones")))
        return self.builder.parameter(self.name("W") or "W", shape, dtype, init)

    def input(self, name: str, shape: Sequence[gi.Dim], dtype: str) -> Value:
        """An input that is no float; one for all uses of that name, shape and dtype."""
        key = (name, tuple(shape), dtype)
        if key not in self.inputs:
            self.count += 1
            full = f"/{name}" if name in ("seed", "step") else f"{name}{self.count}"
            self.inputs[key] = self.builder.input(full, shape, dtype)
        return self.inputs[key]

    def made(self, value: Value, degree: int) -> Value:
        self.degrees[value] = degree
        self.unread[value] = None
        if self.draw(st.integers(0, 7)) == 0:
            self.count += 1
            self.builder.alias(f"alias{self.count}", value)
        return value

    def finish(self) -> Graph:
        """Averages all that nothing reads, adds the averages up, and builds."""
        means = []
        with self.builder.context(scope="loss"):
            for value in self.unread:
                mean = value
                if value.type.rank:
                    labels = self.input("label", value.shape, "int64")
                    mean = gi.divide_by_count(gi.reduce_sum(value), gi.count_valid(labels, dtype=value.dtype))
                means.append(mean if mean.dtype == self.builder.dtype else gi.cast(mean, to=self.builder.dtype))
            L = gi.add(*means, name="L")
        return self.builder.build(L)


# -- steps: each adds a node or a few, or nothing where nothing fits -----------------------------------------


def _matmul(w: _Writer) -> None:
    X = w.pick(lambda X: X.type.rank >= 2 and w.degrees[X] < _LARGEST_DEGREE)
    if X is not None:
        W = w.parameter((X.shape[-1], w.dim()), X.dtype)
        w.made(gi.matmul(X, W, name=w.name()), w.degrees[X] + 1)


def _scores(w: _Writer) -> None:
    """S(SM(X • Xᵀ)), masked or not."""
    X = w.pick(lambda X: X.type.rank >= 3)
    if X is None:
        return
    A = gi.matmul(X, gi.transpose(X), name=w.name())
    mask = w.draw(st.sampled_from(("none", "given", "padding")))
    keep = {"none": (), "given": A.shape[-2:], "padding": (A.shape[0], A.shape[-1])}[mask]
    masks = [w.input("keep", keep, "bool")] if keep else []
    Z = gi.scale_mask(A, *masks, width=X.shape[-1], causal=w.draw(st.booleans()), mask=mask, name=w.name())
    w.made(gi.softmax(Z, name=w.name()), 1)


def _add(w: _Writer) -> None:
    X = w.pick()
    assert X is not None
    others = [Y for Y in w.degrees if Y.type == X.type]
    Y = w.draw(st.sampled_from(others))
    w.unread.pop(Y, None)
    extra = [X] if w.draw(st.booleans()) else []
    w.made(gi.add(X, Y, *extra, name=w.name()), max(w.degrees[X], w.degrees[Y]))


def _bias(w: _Writer) -> None:
    X = w.pick(lambda X: X.type.rank >= 1)
    assert X is not None
    b = w.parameter(X.shape[-1:], X.dtype)
    wide = gi.broadcast(b, X.shape[:-1]) if X.type.rank > 1 else b
    w.made(gi.add(X, wide, name=w.name()), w.degrees[X])


def _multiply(w: _Writer) -> None:
    X = w.pick(lambda X: 2 * w.degrees[X] <= _LARGEST_DEGREE)
    if X is not None:
        W = X if w.draw(st.booleans()) else w.parameter(X.shape, X.dtype)
        w.made(gi.multiply(X, W, name=w.name()), w.degrees[X] + (w.degrees[X] if W is X else 1))


def _unary(make: Callable[[_Writer, Value], Value], resets: bool = False, rank: int = 0) -> Callable[[_Writer], None]:
    def move(w: _Writer) -> None:
        X = w.pick(lambda X: X.type.rank >= rank)
        if X is not None:
            w.made(make(w, X), 1 if resets else w.degrees[X])

    return move


def _activation(w: _Writer, X: Value) -> Value:
    kind = w.draw(st.sampled_from(("gelu", "gelu_tanh", "silu")))
    return gi.activation(X, kind=kind, name=w.name())


def _scale(w: _Writer, X: Value) -> Value:
    return gi.scale(X, by=w.draw(st.floats(-1, 1, allow_nan=False, width=32)), name=w.name())


def _exp(w: _Writer, X: Value) -> Value:
    return gi.exponential(gi.softmax(X), name=w.name())


def _layer_norm(w: _Writer, X: Value) -> Value:
    gamma, beta = (w.parameter(X.shape[-1:], X.dtype) for _ in range(2))
    # A generous ε: second differences across a near-constant row would be all noise.
    return gi.layer_norm(X, gamma, beta, epsilon=w.draw(st.sampled_from((0.1, 0.5))), name=w.name())


def _softmax(w: _Writer, X: Value) -> Value:
    return gi.softmax(X, name=w.name())


def _dropout(w: _Writer, X: Value) -> Value:
    seed, step = (w.input(name, (), "int64") for name in ("seed", "step"))
    return gi.dropout(X, seed, step, p=w.draw(st.sampled_from((0.0, 0.1, 0.5))), name=w.name())


def _transpose(w: _Writer, X: Value) -> Value:
    return gi.transpose(X, w.draw(st.permutations(range(X.type.rank))), name=w.name())


def _reshape(w: _Writer, X: Value) -> Value:
    """A D split into heads where there is one; else the first two dims merged."""
    letters = [f"a{i}" for i in range(X.type.rank)]
    split = [i for i, each in enumerate(X.shape) if each == D]
    if split and X.type.rank < _LARGEST_RANK:
        i = split[0]
        right = [*letters[:i], "h", "d", *letters[i + 1 :]]
        letters[i] = "(h d)"
        sizes = {"h": N_H} if w.draw(st.booleans()) else {"d": D_h}
        return gi.reshape(X, f"{' '.join(letters)} -> {' '.join(right)}", name=w.name(), **sizes)
    return gi.reshape(X, f"{' '.join(letters)} -> ({' '.join(letters[:2])}) {' '.join(letters[2:])}", name=w.name())


def _concatenate(w: _Writer, X: Value) -> Value:
    return gi.concatenate(X, name=w.name())


def _broadcast(w: _Writer) -> None:
    X = w.pick(lambda X: X.type.rank < _LARGEST_RANK)
    if X is not None:
        axis = w.draw(st.integers(0, X.type.rank))
        w.made(gi.broadcast(X, (w.dim(),), axes=(axis,), name=w.name()), w.degrees[X])


def _sum(w: _Writer, X: Value) -> Value:
    axes = w.draw(st.sets(st.integers(0, X.type.rank - 1), min_size=1))
    return gi.reduce_sum(X, sorted(axes), name=w.name())


def _cast(w: _Writer, X: Value) -> Value:
    return gi.cast(X, to=w.draw(st.sampled_from(("float32", "float64"))), name=w.name())


def _lookup(w: _Writer) -> None:
    shape = w.draw(st.lists(st.sampled_from(DIMS), min_size=0, max_size=2))
    E = w.parameter((V, w.dim()))
    w.made(gi.lookup(E, w.input("ids", shape, "int64"), name=w.name()), 1)


def _positions(w: _Writer) -> None:
    P = gi.sinusoidal_positions(s=w.dim(), d=w.dim(), dtype=w.builder.dtype, builder=w.builder, name=w.name())
    w.made(gi.multiply(P, w.parameter(P.shape), name=w.name()), 1)


def _cross_entropy(w: _Writer, Z: Value) -> Value:
    labels = w.input("label", Z.shape[:-1], "int64")
    if w.draw(st.booleans()):
        gi.count_valid(labels, dtype=Z.dtype, name=w.name())
    return gi.cross_entropy(Z, labels, name=w.name())


def _choice(w: _Writer) -> None:
    """ids beside the path to the loss."""
    X = w.pick(lambda X: X.type.rank >= 1)
    assert X is not None
    w.unread[X] = None
    gi.argmax(X, name=w.name())


MOVES: dict[str, Callable[[_Writer], None]] = {
    "matmul": _matmul,
    "scores": _scores,
    "add": _add,
    "bias": _bias,
    "multiply": _multiply,
    "activation": _unary(_activation),
    "scale": _unary(_scale),
    "exp": _unary(_exp, resets=True, rank=1),
    "layer_norm": _unary(_layer_norm, resets=True, rank=1),
    "softmax": _unary(_softmax, resets=True, rank=1),
    "dropout": _unary(_dropout),
    "transpose": _unary(_transpose, rank=2),
    "reshape": _unary(_reshape, rank=2),
    "concatenate": _unary(_concatenate, rank=2),
    "broadcast": _broadcast,
    "sum": _unary(_sum, rank=1),
    "cast": _unary(_cast),
    "lookup": _lookup,
    "positions": _positions,
    "cross_entropy": _unary(_cross_entropy, rank=1),
    "choice": _choice,
}


def elements(program: Program) -> int:
    """The number of elements of the program's largest value."""
    return max(product(value.shape).size(program.sizes) for value in program.graph.values.values())
