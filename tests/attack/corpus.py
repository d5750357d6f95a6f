"""Texts of graphs that are right, to be made wrong.

They are of examples, of models at every stage, of what campaigns draw, and of graphs that grow node by node, by
whatever operators take what there is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from runpy import run_path

import graphir as gi
from examples import custom_operator
from graphir.errors import GraphirError
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.passes import autodiff, dce, fuse, lower, optimize, run_pipeline, shard
from tests.campaign.draw import draw
from tests.support.dictionary import dictionary
from tests.support.paths import ROOT

#: So many graphs of the campaign are among the texts.
_DRAWN = 120
_EXAMPLES = ROOT / "examples"


@cache
def corpus() -> tuple[str, ...]:
    """The texts, the shortest first, in the same order in every process."""
    texts = {gi.to_text(graph) for graph in (*_examples(), *_models(), *_drawn())}
    return tuple(sorted(texts, key=lambda text: (len(text), text)))


def choose(rng: random.Random) -> str:
    """A text of the corpus, short ones more often than long ones: four times as long, a sixteenth as often."""
    texts, weights = corpus(), _weights()
    return rng.choices(texts, weights)[0]


@cache
def _weights() -> tuple[float, ...]:
    return tuple(1 / (100 + len(text)) ** 2 for text in corpus())


def _examples() -> list[Graph]:
    block = run_path(str(_EXAMPLES / "mlp_block.py"))["build"]()
    checked = run_path(str(_EXAMPLES / "check_pytorch.py"))["block"]()
    own = custom_operator.model()
    return [block, autodiff(block), checked, own, autodiff(own)]


def _models() -> list[Graph]:
    mlp, model = gi.models.mlp(layers=1), gi.models.transformer(layers=1)
    found = [mlp, autodiff(mlp), lower(autodiff(mlp)), model, optimize(autodiff(model))]
    found += [gi.models.transformer(layers=1, mask="padding", decode="top-k", k=3, text=True)]
    found += [shard(autodiff(model), gi.Mesh(tp=2), "megatron"), shard(autodiff(mlp), gi.Mesh(dp=2), "data")]
    return [*found, *(run_pipeline(dce(graph)) for graph in found)]


def _drawn() -> list[Graph]:
    found: list[Graph] = []
    for seed in range(_DRAWN):
        case = draw(seed)
        makers: tuple[Callable[[], Graph], ...] = (
            lambda case=case: case.program,
            lambda case=case: case.sharded,
            lambda case=case: fuse(case.program),
        )
        for make in makers if case.mesh else (makers[0], makers[2]):
            try:
                found.append(make())
            except GraphirError:  # what cannot be sharded as it was drawn
                continue
    return found


# -- graphs that grow -------------------------------------------------------------------------------------

_SHAPES = (("B",), ("B", "D"), ("B", "S", "D"), (), ("D", "D"), ("B", "N_H", "S", "S"), ("S",), ("B", 1), (2, 3))


def grow(rng: random.Random) -> str:
    """A small graph of a few arguments, and nodes of operators drawn at random, as far as they take what there is."""
    builder = gi.Builder("grown", rng.choice(("float32", "float32", "float64", "float16")))
    values: list[Value] = []
    for i in range(rng.choice((1, 2, 3))):
        shape = tuple(gi.dim(each) if isinstance(each, str) else each for each in rng.choice(_SHAPES))
        dtype = rng.choice((None, None, None, "int64", "bool"))
        values.append(builder.input(f"X{i}", shape, dtype))
        if rng.random() < 0.5:
            values.append(builder.parameter(f"W{i}", shape))
    values += [builder.input("seed", (), "int64"), builder.input("step", (), "int64")]
    corpus()  # whose examples declare operators of their own
    operators = [each for each in dictionary() if each.relayout is None and each.examples]
    made: list[Value] = []
    for _ in range(rng.choice((4, 8, 16, 24))):
        operator = rng.choice(operators)
        count = rng.choice((1, 2, 3)) if operator.variadic else len(operator.operands)
        attributes = _attributes(rng.choice(operator.examples), rng)
        for _ in range(4):
            # What was made lately is read more often, so that graphs are deep.
            operands = [rng.choice(values[-4:] if rng.random() < 0.5 else values) for _ in range(count)]
            try:
                made = list(operator.all(*operands, builder=builder, **attributes))
            except GraphirError:
                continue
            values += made
            break
    outputs = rng.sample(values, min(len(values), rng.choice((1, 2, 3))))
    return gi.to_text(builder.build(*dict.fromkeys([*outputs, *made])))


def _attributes(example: object, rng: random.Random) -> dict[str, object]:
    """An example's attributes; of a random operator another key now and then."""
    found = dict(example)  # type: ignore[call-overload]
    if "key" in found:
        found["key"] = rng.randrange(1, 5)
    return found
