"""From a seed to a case."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import graphir as gi
from graphir.ir.dims import dim_names
from graphir.ir.value import Value
from tests.campaign import attention, moves, own
from tests.campaign.case import KINDS, OVERFLOW, Case
from tests.campaign.writer import Writer, draw_sizes

#: All that has to occur.
FEATURES = (*moves.FEATURES, *attention.FEATURES, *own.FEATURES, "a Transformer")
MESHES = ({"tp": 2}, {"dp": 2}, {"cp": 2}, {"tp": 3}, {"dp": 4}, {"dp": 2, "tp": 2}, {"tp": 2, "cp": 2})
_OPTIMIZERS = (
    {"kind": "sgd", "momentum": 0.0},
    {"kind": "sgd", "momentum": 0.9},
    {"kind": "adam"},
    {"kind": "adamw"},
)


def draw(seed: int, only: str | None = None) -> Case:
    """The case of that seed; of that kind, if it is to be of one."""
    return draw_with_features(seed, only)[0]


def draw_with_features(seed: int, only: str | None = None) -> tuple[Case, set[str]]:
    """The case of that seed, and which of `FEATURES` it has."""
    # A string as the seed, as Python hashes it the same in every process.
    rng = random.Random(f"{seed} {only}")
    kind = only or rng.choice(KINDS)
    mesh = rng.choice(MESHES) if kind == "sharded" else {}
    ranks = 1
    for count in mesh.values():
        ranks *= count
    dtype, casts, precision = _draw_precision(rng)
    if kind in ("gradient", "training") and rng.random() < 0.06:
        return _draw_transformer(rng, seed, kind, dtype, precision), {"a Transformer"}
    w = Writer(rng, draw_sizes(rng, ranks), dtype, casts)
    for _ in range(rng.choice((1, 2, 2, 3))):
        w.made(w.argument(w.shape()), 1)
    steps: list[tuple[moves.Move, int]] = [*moves.MOVES, (attention.attention, 8), (own.own, 8)]
    if casts:
        steps.append((moves.CAST, 6))
    for _ in range(rng.choice((1, 2, 3, 3, 4, 5, 6, 8, 10))):
        move = rng.choices([each for each, _ in steps], [weight for _, weight in steps])[0]
        move(w)
    differentiated = kind in ("gradient", "training") or (kind == "sharded" and rng.random() < 0.7)
    loss = _loss(w) if differentiated else None
    graph = w.builder.build(*_results(w, loss))
    w.features.update(_seen(graph))
    case = Case(kind, graph, w.sizes, seed, precision=precision, mesh=mesh)
    floats = [] if loss is None else _arguments_of(graph, loss)
    if loss is not None and floats:
        wrt = tuple(v.name for v in floats if v.init is not None or rng.random() < 0.6) or (floats[0].name,)
        case = replace(case, loss=loss.name, wrt=wrt)
        trains = kind == "training" or (kind == "sharded" and rng.random() < 0.4)
        if trains and any(value.name in wrt for value in graph.parameters):
            case = _trained(rng, case, dtype)
    if mesh:
        case = replace(case, plan=_draw_plan(rng, case))
    return case, w.features


def _trained(rng: random.Random, case: Case, dtype: str) -> Case:
    """The case with an optimizer, and now and then a guard and a loss scale, with which gradients may overflow."""
    # ε is large beside rounding: Adam would make a step of any size out of a gradient that is zero but for it.
    chosen = {"learning_rate": 0.01, "epsilon": 0.01, **rng.choice(_OPTIMIZERS)}
    case = replace(case, optimizer={**chosen, "clip": rng.choice((None, None, 0.1))}, guarded=rng.random() < 0.3)
    if rng.random() < 0.25:
        case = replace(case, scale=rng.choice((0.5, 8.0)), dynamic=rng.random() < 0.6)
    if (case.guarded or case.dynamic) and rng.random() < 0.3:
        case = replace(case, scale=1e308 if dtype == "float64" else OVERFLOW)
    return case


def _draw_transformer(rng: random.Random, seed: int, kind: str, dtype: str, precision: str) -> Case:
    """The documents' Transformer, tiny."""
    choices: dict[str, tuple[object, ...]] = {
        "dropout": (0.0, 0.1),
        "mask": ("none", "padding", "given"),
        "causal": (True, True, True, False),
        "positions": ("learned", "sinusoidal"),
        "tied": (True, False),
        "qkv_bias": (True, False),
        "padded": (True, False),
    }
    options = {name: rng.choice(values) for name, values in choices.items()}
    graph = gi.models.transformer(1, decode=None, dtype=dtype, **options)
    heads, tokens = rng.choice((1, 2, 3)), rng.choice((1, 2, 5))
    sizes = {"B": rng.choice((1, 2)), "S": rng.randint(1, 9), "N_H": heads, "D": heads * rng.choice((1, 2, 3))}
    sizes |= {"D_ff": rng.randint(1, 5), "V": tokens, "V_pad": tokens + rng.choice((0, 1, 3))}
    sizes = {name: size for name, size in sizes.items() if name in dim_names([graph.dims])}
    wrt = tuple(value.name for value in graph.parameters)
    case = Case(kind, graph, sizes, seed, loss="L", wrt=wrt, precision=precision)
    return _trained(rng, case, dtype) if kind == "training" else case


def _arguments_of(graph: gi.Graph, loss: Value) -> list[Value]:
    """The arguments that a value depends on through floats."""
    needed = {loss}
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs) and not node.operator.no_gradient:
            needed.update(value for value in node.inputs if value.type.is_float)
    return [value for value in graph.arguments if value in needed]


def _draw_precision(rng: random.Random) -> tuple[str, bool, str]:
    """A graph's dtype, whether values are cast within it, and what its products read: a fifth is not all float64."""
    if rng.random() < 0.8:
        return "float64", False, "float32"
    return rng.choice(
        (
            ("float32", False, "float32"),
            ("float32", True, "float32"),
            ("float64", True, "float32"),
            ("float32", False, "bfloat16"),
            ("float32", False, "float16"),
        )
    )


# -- where a graph ends -----------------------------------------------------------------------------------


def _loss(w: Writer) -> Value:
    """A scalar of all that nothing reads, by means, sums of squares or the like."""
    terms = []
    for value in list(w.unread):
        term = value
        if value.type.rank:
            if w.can_multiply(value, value) and w.chance(0.3):
                term = gi.multiply(value, value)
            labels = w.input("label", value.shape, "int64")
            if w.chance(0.5):
                term = gi.reduce_sum(term)
            else:
                term = gi.divide_by_count(gi.reduce_sum(term), gi.count_valid(labels, dtype=value.dtype))
        terms.append(term if term.dtype == w.dtype else gi.cast(term, to=w.dtype))
    if not terms:
        last = next(reversed(w.degrees))
        terms = [gi.reduce_sum(last) if last.type.rank else last]
        terms = [term if term.dtype == w.dtype else gi.cast(term, to=w.dtype) for term in terms]
    return gi.add(*terms, name="L")


def _results(w: Writer, loss: Value | None) -> Iterable[Value]:
    """What a run returns: the loss or what nothing reads, and beside it anything at all, arguments included."""
    found = dict(w.shown)
    if loss is not None:
        found[loss] = None
    if loss is None or w.chance(0.3):
        found.update(dict.fromkeys(value for value in w.unread if value not in w.arguments))
    made = [value for node in w.builder.nodes for value in node.outputs if value.type.is_float]
    if made and w.chance(0.5):
        found.update(dict.fromkeys(w.rng.sample(made, min(len(made), w.rng.choice((1, 1, 2, 4))))))
    views = [node for node in w.builder.nodes if node.operator.view]
    if views and w.chance(0.4):
        node = w.rng.choice(views)
        found[node.outputs[0]] = None
        if w.chance(0.3):
            found[node.inputs[0]] = None
    if w.arguments and w.chance(0.15):
        found[w.rng.choice(sorted(w.arguments, key=lambda value: value.name))] = None
    return _shuffled(w.rng, list(found) or [w.rng.choice(made or sorted(w.arguments, key=lambda v: v.name))])


def _shuffled(rng: random.Random, values: list[Value]) -> list[Value]:
    rng.shuffle(values)
    return values


def _seen(graph: gi.Graph) -> set[str]:
    """Which features the results have."""
    found, roots = set(), dict[Value, int]()
    for value in graph.outputs:
        node, path = graph.producers.get(value), 0
        if node is None:
            found.add("an argument as a result")
        while node is not None and node.operator.view:
            value, path = node.inputs[0], path + 1
            node = graph.producers.get(value)
        if path:
            found.add("a result that is a view")
            if len(graph.uses[value]) == 1 and value not in graph.outputs:
                found.add("a view of what nobody else sees as a result")
        roots[value] = roots.get(value, 0) + 1
    if max(roots.values(), default=0) > 1:
        found.add("two views of one value as results")
    return found


# -- plans ------------------------------------------------------------------------------------------------


def _draw_plan(rng: random.Random, case: Case) -> dict[str, dict[str, str]]:
    """Where some of the arguments lie on the mesh, and some of the other values."""
    program, axes = case.program, list(case.mesh)

    def splits(value: Value) -> str:
        dims = [["_"] for _ in value.shape]
        for axis in rng.sample(axes, len(axes)):
            home = rng.randint(0, value.type.rank)
            if home < len(dims):
                dims[home].append(axis)
        return f"[{', '.join('|'.join(each) for each in dims)}]"

    def entries(values: Sequence[Value], one_in: int) -> dict[str, str]:
        return {v.name: splits(v) for v in values if v.type.rank and rng.randrange(one_in) == 0}

    parameters = entries(program.parameters, 2)
    used = {name: rng.choice([f"-{rng.choice(axes)}", splits(program[name])]) for name in parameters}
    return {
        "inputs": entries(program.inputs, 2),
        "parameters": parameters,
        "used": {name: split for name, split in used.items() if rng.random() < 0.4},
        "activations": entries([value for node in program.nodes for value in node.outputs], 6),
    }
