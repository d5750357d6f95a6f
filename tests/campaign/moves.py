"""What a graph is made of: each move adds a node or a few, or nothing where nothing fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import graphir as gi
from graphir.ir.value import Value
from tests.campaign import sums
from tests.campaign.views import divisors, merge, split
from tests.campaign.writer import MOST_DIMS, Writer

Move: TypeAlias = Callable[[Writer], None]

#: What the moves are there for; each has to occur. Those of attention are in `attention`.
FEATURES = (
    "X + Xᵀ", "X ⊙ Xᵀ", "X • X", "X • Xᵀ", "Xᵀ • X", "a square", "a product of two that were made",
    "a transpose beside its operand", "a split", "a merge", "a merge split otherwise", "a dim moved over",
    "repeated dims", "a view of a view",
    "a sum over several axes", "a sum read plainly", "a sum read as a broadcast", "a sum read as a reshape",
    "a square sum", "a count", "dropout", "layer norm", "activation", "exp", "scale", "softmax", "lookup",
    "statistics of rows", "cross entropy", "ignored labels", "concatenation", "cast", "positions", "average",
    "padded vocabulary",
    "an argument as a result", "a result that is a view", "two views of one value as results",
    "a view of what nobody else sees as a result",
)  # fmt: skip


# -- products ---------------------------------------------------------------------------------------------


def _linear(w: Writer) -> None:
    """X • W, W a parameter or any matrix that has been made."""
    X = w.pick(lambda X: X.type.rank >= 2 and w.can_multiply(X, X))
    if X is None:
        return
    fitting = [
        Y
        for Y in w.degrees
        if Y.type.rank == 2 and Y.shape[0] == X.shape[-1] and Y.dtype == X.dtype and w.can_multiply(X, Y)
    ]
    if fitting and w.chance(0.5):
        W = w.read(w.rng.choice(fitting))
        w.features.add("a product of two that were made")
        degree = w.degrees[X] + w.degrees[W]
    else:
        N = w.dim()
        if not w.fits((*X.shape[:-1], N)) or not w.fits((X.shape[-1], N)):
            return
        W, degree = w.argument((X.shape[-1], N), X.dtype), w.degrees[X] + 1
    w.made(gi.matmul(X, W), degree)


def _self_product(w: Writer) -> None:
    """X • Xᵀ, Xᵀ • X, or X • X where X is square: one value in two roles of a product."""
    X = w.pick(lambda X: X.type.rank >= 2 and w.can_multiply(X, X))
    if X is None:
        return
    *lead, m, k = X.shape
    way = w.rng.choice(("X • Xᵀ", "Xᵀ • X", "X • X"))
    if way == "X • X" and m != k:
        return
    if not w.fits((*lead, m, m)) or not w.fits((*lead, k, k)):
        return
    T = gi.transpose(X) if way != "X • X" else X
    operands = {"X • Xᵀ": (X, T), "Xᵀ • X": (T, X), "X • X": (X, X)}[way]
    w.features.add(way)
    if T is not X and w.chance(0.3):
        w.made(T, w.degrees[X])
    w.made(gi.matmul(*operands), 2 * w.degrees[X])


def _symmetric(w: Writer) -> None:
    """X + Xᵀ or X ⊙ Xᵀ, over any order of dims that leaves the type what it is."""
    X = w.pick(lambda X: len(set(X.shape)) < X.type.rank)
    if X is None:
        return
    rank = X.type.rank
    orders = [order for order in _orders(w, rank) if tuple(X.shape[i] for i in order) == X.shape]
    if not orders:
        return
    T = gi.transpose(X, w.rng.choice(orders))
    if w.chance(0.6) or not w.can_multiply(X, X):
        terms = [X, T] if w.chance(0.5) else [T, X]
        if w.chance(0.3):
            terms.append(w.rng.choice(terms))
        w.made(gi.add(*terms), w.degrees[X])
        w.features.add("X + Xᵀ")
    else:
        w.made(gi.multiply(X, T), 2 * w.degrees[X])
        w.features.add("X ⊙ Xᵀ")


def _orders(w: Writer, rank: int) -> list[tuple[int, ...]]:
    """A few orders of the dims other than the first."""
    found = set()
    for _ in range(8):
        order = list(range(rank))
        w.rng.shuffle(order)
        found.add(tuple(order))
    return sorted(found - {tuple(range(rank))})


# -- elementwise ------------------------------------------------------------------------------------------


def _add(w: Writer) -> None:
    X = w.pick()
    assert X is not None
    others = [Y for Y in w.degrees if Y.type == X.type]
    terms = [X, *(w.read(w.rng.choice(others)) for _ in range(w.rng.choice((1, 1, 2, 3))))]
    w.made(gi.add(*terms), max(w.degrees[Y] for Y in terms))


def _multiply(w: Writer) -> None:
    X = w.pick(lambda X: w.can_multiply(X, X))
    if X is None:
        return
    others = [Y for Y in w.degrees if Y.type == X.type and w.can_multiply(X, Y)]
    Y = X if w.chance(0.4) else w.read(w.rng.choice(others))
    if Y is X:
        w.features.add("a square")
    w.made(gi.multiply(X, Y), w.degrees[X] + w.degrees[Y])


def _bias(w: Writer) -> None:
    X = w.pick(lambda X: X.type.rank >= 2)
    if X is not None:
        axis = w.rng.randrange(X.type.rank)
        b = w.argument((X.shape[axis],), X.dtype)
        others = [i for i in range(X.type.rank) if i != axis]
        w.made(gi.add(X, gi.broadcast(b, [X.shape[i] for i in others], axes=others)), w.degrees[X])


def _unary(make: Callable[[Writer, Value], Value], feature: str, resets: bool = False, rank: int = 0) -> Move:
    def move(w: Writer) -> None:
        X = w.pick(lambda X: X.type.rank >= rank)
        if X is not None:
            w.made(make(w, X), 1 if resets else w.degrees[X])
            w.features.add(feature)

    return move


def _activation(w: Writer, X: Value) -> Value:
    # relu has a kink: of what may be zero but for rounding, its slope is anybody's.
    kinds = ["gelu", "gelu_tanh", "silu", *(["relu"] if X in w.arguments else [])]
    return gi.activation(X, kind=w.rng.choice(kinds))


def _scale(w: Writer, X: Value) -> Value:
    return gi.scale(X, by=w.rng.choice((-1.0, 0.5, -0.25, 0.125, 1.0, 0.0)))


def _exp(w: Writer, X: Value) -> Value:
    return gi.exponential(gi.softmax(X) if w.degrees[X] > 1 else X)


def _layer_norm(w: Writer, X: Value) -> Value:
    gamma, beta = (w.argument(X.shape[-1:], X.dtype) for _ in range(2))
    if w.chance(0.2):
        beta = gamma
    # A generous ε: in a near-constant row a small one makes much of rounding.
    return gi.layer_norm(X, gamma, beta, epsilon=w.rng.choice((0.1, 0.5)))


def _softmax(w: Writer, X: Value) -> Value:
    return gi.softmax(X)


def _dropout(w: Writer, X: Value) -> Value:
    seed, step = (w.input(name, (), "int64") for name in ("seed", "step"))
    return gi.dropout(X, seed, step, p=w.rng.choice((0.0, 0.1, 0.5)))


def _cast(w: Writer, X: Value) -> Value:
    other = "float32" if X.dtype == "float64" else "float64"
    return gi.cast(gi.cast(X, to=other), to=X.dtype) if w.chance(0.5) else gi.cast(X, to=other)


# -- views ------------------------------------------------------------------------------------------------


def _transpose(w: Writer) -> None:
    X = w.pick(lambda X: X.type.rank >= 2)
    if X is not None:
        orders = _orders(w, X.type.rank)
        w.made(gi.transpose(X, w.rng.choice(orders) if orders else None), w.degrees[X])
        _viewed(w, X)
        if len(w.builder.nodes) > 1 and w.chance(0.5):
            # Its operand is read plainly, too.
            w.made(gi.scale(X, by=0.5), w.degrees[X])
            w.features.add("a transpose beside its operand")


def _viewed(w: Writer, X: Value) -> None:
    makers = {value: node for node in w.builder.nodes for value in node.outputs}
    if X in makers and makers[X].operator.view:
        w.features.add("a view of a view")


def _split(w: Writer) -> None:
    X = w.pick(lambda X: X.type.rank < MOST_DIMS and any(divisors(dim) for dim in X.shape))
    if X is not None:
        axis = w.rng.choice([i for i, dim in enumerate(X.shape) if divisors(dim)])
        w.made(split(X, axis, w.rng.choice(divisors(X.shape[axis]))), w.degrees[X])
        w.features.add("a split")
        _viewed(w, X)


def _merge(w: Writer) -> None:
    """Dims merged, and now and then split otherwise: [E, D] to (E D) to [D, E]."""
    X = w.pick(lambda X: X.type.rank >= 2)
    if X is None:
        return
    count = w.rng.randint(2, X.type.rank) if w.chance(0.3) else 2
    axis = w.rng.randrange(X.type.rank - count + 1)
    Y = merge(X, axis, count)
    w.features.add("a merge")
    _viewed(w, X)
    if w.chance(0.5):
        w.made(Y, w.degrees[X])
    major = [dim for dim in divisors(Y.shape[axis]) if dim != X.shape[axis]]
    if major and w.chance(0.6):
        w.made(split(Y, axis, w.rng.choice(major)), w.degrees[X])
        w.features.add("a merge split otherwise")
    elif Y not in w.degrees:
        w.made(Y, w.degrees[X])


def _move_over(w: Writer) -> None:
    """[a, (b c)] to [(a b), c]: a merge and a split in one."""
    X = w.pick(lambda X: any(divisors(dim) for dim in X.shape[1:]))
    if X is None:
        return
    axis = w.rng.choice([i for i, dim in enumerate(X.shape) if i and divisors(dim)])
    letters = [f"a{i}" for i in range(X.type.rank)]
    left, right = list(letters), list(letters)
    left[axis] = "(x y)"
    right[axis - 1 : axis + 1] = [f"({letters[axis - 1]} x)", "y"]
    pattern = f"{' '.join(left)} -> {' '.join(right)}"
    w.made(gi.reshape(X, pattern, x=w.rng.choice(divisors(X.shape[axis]))), w.degrees[X])
    w.features.add("a dim moved over")


def _broadcast(w: Writer) -> None:
    X = w.pick(lambda X: X.type.rank < MOST_DIMS)
    if X is None:
        return
    count = w.rng.randint(1, min(2, MOST_DIMS - X.type.rank))
    dims = [w.dim() for _ in range(count)]
    if w.fits((*X.shape, *dims)):
        axes = w.rng.sample(range(X.type.rank + count), count)
        w.made(gi.broadcast(X, dims, axes=axes), w.degrees[X])


def _concatenate(w: Writer, X: Value) -> Value:
    return gi.concatenate(X)


#: How often each is made, beside one another.
MOVES: Sequence[tuple[Move, int]] = (
    (_linear, 4),
    (_self_product, 5),
    (_symmetric, 5),
    (_add, 4),
    (_multiply, 4),
    (_bias, 2),
    (_unary(_activation, "activation"), 2),
    (_unary(_scale, "scale"), 2),
    (_unary(_exp, "exp", resets=True, rank=1), 2),
    (_unary(_layer_norm, "layer norm", resets=True, rank=1), 2),
    (_unary(_softmax, "softmax", resets=True, rank=1), 2),
    (_unary(_dropout, "dropout"), 2),
    (_transpose, 4),
    (_split, 3),
    (_merge, 4),
    (_move_over, 2),
    (_unary(_concatenate, "concatenation", rank=2), 1),
    (_broadcast, 2),
    (sums.sum_over_axes, 6),
    (sums.square_sum, 1),
    (sums.count, 1),
    (sums.average, 1),
    (sums.statistics, 1),
    (sums.lookup, 2),
    (sums.cross_entropy, 2),
    (sums.positions, 1),
)
CAST = _unary(_cast, "cast")
