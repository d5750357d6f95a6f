"""Common subexpressions are computed once; what must stay apart stays."""

from __future__ import annotations

import numpy as np

import graphir as gi
from graphir.passes import autodiff, cse, lower, optimize

B, D = gi.dims("B D")


def keys(graph: gi.Graph) -> list[str]:
    return [node.operator.key for node in graph.nodes]


def test_what_is_computed_twice_is_computed_once():
    block = gi.Builder("twice")
    X = block.input("X", (B, D))
    first, second = gi.softmax(X, name="P"), gi.softmax(X, name="P_again")
    graph = block.build(gi.add(gi.activation(first, kind="relu"), gi.activation(second, kind="relu"), name="Y"))
    shared = gi.verify(cse(graph))
    assert keys(shared) == ["S", "GL", "add"]
    given = {"X": np.ones((2, 3), "float32")}
    sizes = {"B": 2, "D": 3}
    assert np.array_equal(gi.compile(shared, sizes)(given)["Y"], gi.compile(graph, sizes)(given)["Y"])


def test_other_attributes_are_another_computation():
    block = gi.Builder("masks")
    X, seed, step = block.input("X", (D,)), block.input("seed", (), "int64"), block.input("step", (), "int64")
    graph = block.build(gi.add(gi.dropout(X, seed, step, p=0.5), gi.dropout(X, seed, step, p=0.5)))
    assert keys(cse(graph)) == ["DO", "DO", "add"]  # each node has a key of its own


def test_outputs_and_updates_keep_their_own():
    block = gi.Builder("outputs")
    X = block.input("X", (D,))
    graph = block.build(gi.exponential(X, name="Y"), gi.exponential(X, name="Z"))
    assert [value.name for value in cse(graph).outputs] == ["Y", "Z"]
    step = optimize(autodiff(gi.models.transformer(layers=1)))
    assert len(cse(step).updates) == len(step.updates)


def test_the_loss_and_decoding_share_their_probabilities():
    graph = lower(gi.models.transformer(layers=1))
    assert keys(graph).count("S") == 3
    shared = cse(graph)
    assert keys(shared).count("S") == 2
    assert {node.operator.key for node, _ in shared.uses[shared["output/P"]]} == {"ARG", "CEP"}
    sizes = {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 8, "V": 5}
    model = gi.models.transformer(layers=1)
    ids = np.arange(8).reshape(2, 4) % 5
    given = {"T": ids, "Y": ids, "seed": 0, "step": 0}
    parameters = gi.initialize(model, sizes)
    losses = [float(gi.compile(each, sizes)(parameters, given)["L"]) for each in (model, shared)]
    assert abs(losses[0] - losses[1]) < 1e-6 * losses[0]
