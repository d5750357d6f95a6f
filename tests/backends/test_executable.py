"""Running a plan: what comes in is checked and never changed, what is dead is freed, what goes wrong is named."""

from __future__ import annotations

import inspect
import weakref
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.backends import initialize
from graphir.cost import peak_memory
from graphir.errors import ConfigError, DimError, GraphError, InputError, NonFiniteError
from graphir.passes import Optimizer, autodiff, optimize

SIZES = {"B": 2, "S": 3, "D": 4, "N_H": 2, "D_ff": 8, "V": 7}
B, S, D, V = gi.dims("B S D V")


def a_model(**options):
    return gi.models.transformer(**{"layers": 1, "dropout": 0.5, **options})


def a_batch():
    random = np.random.default_rng(0)
    T, Y = random.integers(0, SIZES["V"], (2, SIZES["B"], SIZES["S"]))
    return {"T": T, "Y": Y, "seed": 1, "step": 2}


@pytest.fixture(scope="module")
def forward():
    """The forward pass, its parameters and a batch."""
    model = a_model()
    return gi.compile(model, SIZES), initialize(model, SIZES), a_batch()


def refusal(run, *arguments):
    with pytest.raises(InputError) as caught:
        run(*arguments)
    return str(caught.value)


# -- what comes in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("T", np.zeros((2, 4), "int64"), "T must be [B, S] = [2, 3], not [2, 4]"),
        ("T", np.zeros((3, 2), "int64"), "T must be [B, S] = [2, 3], not [3, 2]"),
        ("seed", np.zeros((1,), "int64"), "seed must be [] = [], not [1]"),
        ("T", np.zeros((2, 3)), "T must be int64, not float64; convert it on purpose"),
        ("T", [["a", "b", "c"]] * 2, "T must be int64, not <U1; convert it on purpose"),
        ("T", [[None] * 3] * 2, "T must be int64, not object; convert it on purpose"),
        (
            "layer0/mha/W_Q",
            np.zeros((4, 4)),
            "layer0/mha/W_Q must be float32, not float64; convert it on purpose",
        ),
        ("embedding/E", np.zeros((4, 7), "float32"), "embedding/E must be [V, D] = [7, 4], not [4, 7]"),
    ],
)
def test_misshapen_and_mistyped_arguments(forward, name, array, message):
    run, parameters, batch = forward
    assert refusal(run, {**parameters, **batch, name: array}) == message


def test_missing_arguments(forward):
    run, parameters, batch = forward
    batch = {name: array for name, array in batch.items() if name != "Y"}
    assert refusal(run, parameters, batch) == "graph transformer is not given Y int64[B, S]"
    assert refusal(run, batch) == (
        "graph transformer is not given Y int64[B, S], embedding/E float32[V, D], embedding/P_theta float32[S, D], "
        "layer0/mha/gamma float32[D], layer0/mha/beta float32[D], layer0/mha/W_Q float32[D, D] and 13 more"
    )


def test_unknown_and_repeated_arguments(forward):
    run, parameters, batch = forward
    assert refusal(run, parameters, batch, {"Z": 1}).startswith(
        "graph transformer takes no 'Z'; it takes T, Y, seed, step, embedding/E, embedding/P_theta, "
    )
    assert refusal(run, parameters, batch, {"layer0/X_mid": 1}).startswith("graph transformer takes no 'layer0/X_mid'")
    assert refusal(run, parameters, batch, {"T": batch["T"]}) == "T is given twice"
    assert refusal(run, parameters, batch, {"embedding/T": batch["T"]}) == "T is given twice"


@pytest.mark.parametrize("wrong", [-1, 7, 2**40])
def test_an_id_out_of_range_is_located(forward, wrong):
    run, parameters, batch = forward
    T = batch["T"].copy()
    T[1, 2] = wrong
    assert refusal(run, parameters, batch | {"T": T}) == (
        f"T[1, 2] = {wrong} is out of range: embedding/X_tok = lookup(…) needs ids from 0 to 6 (V = 7)"
    )


def test_an_id_that_the_graph_makes_is_looked_at_too():
    W = gi.dim("W")
    block = gi.Builder("made", dtype="float64")
    ids = gi.argmax(block.input("P", (B, W)), name="T")
    run = gi.compile(block.build(gi.lookup(block.input("E", (V, D)), ids, name="X")), {"B": 3, "V": 5, "D": 2, "W": 7})
    E = np.arange(10.0).reshape(5, 2)
    assert np.array_equal(run({"P": np.eye(3, 7, 2), "E": E})["X"], E[2:])
    assert refusal(run, {"P": np.eye(3, 7, 3), "E": E}) == (
        "T[2] = 5 is out of range: X = lookup(…) needs ids from 0 to 4 (V = 5)"
    )


def test_a_label_out_of_range_is_located_and_the_ignored_one_is_none(forward):
    run, parameters, batch = forward
    Y = batch["Y"].copy()
    Y[0, 1] = gi.IGNORE
    assert np.isfinite(run(parameters, {**batch, "Y": Y})["L"])
    Y[1, 0] = 7
    assert refusal(run, parameters, {**batch, "Y": Y}) == (
        "Y[1, 0] = 7 is out of range: output/L_tok = CE(…) needs ids from 0 to 6 (V = 7), or -100 to be ignored"
    )


def test_what_loses_nothing_is_converted(forward):
    run, parameters, batch = forward
    expected = run(parameters, batch)["L"]
    narrow = {name: np.asarray(array, "int32") for name, array in batch.items()}
    lists = {name: np.asarray(array).tolist() for name, array in batch.items()}
    assert run(parameters, narrow)["L"] == expected
    assert run(parameters, lists)["L"] == expected


def test_aliases_and_the_documents_names_are_arguments_too(forward):
    run, parameters, batch = forward
    renamed = {name.replace("P_theta", "P"): array for name, array in parameters.items()}
    moved = {("embedding/T" if name == "T" else name): array for name, array in batch.items()}
    assert run(renamed, moved)["L"] == run(parameters, batch)["L"]


def test_arguments_are_never_changed():
    step = optimize(autodiff(a_model()), Optimizer(clip=1.0))
    arguments = {name: array + np.asarray(0.01, array.dtype) for name, array in initialize(step, SIZES).items()}
    arguments |= {name: np.asarray(array) for name, array in a_batch().items()}
    for array in arguments.values():
        array.flags.writeable = False
    before = {name: array.copy() for name, array in arguments.items()}
    run = gi.compile(step, SIZES)
    first, second = run(arguments), run(arguments)
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


# -- what comes out ---------------------------------------------------------------------------------------


def test_any_values_may_be_fetched():
    model = a_model()
    run = gi.compile(model, SIZES, fetch=["layer0/mha/AS", "embedding/X"])
    out = run(initialize(model, SIZES), a_batch())
    assert list(out) == ["layer0/mha/AS", "embedding/X"]
    assert len(out) == 2
    assert out["layer0/mha/AS"].shape == (2, 2, 3, 3)
    assert out["layer0/mha/X"] is out["embedding/X"]  # an alias
    with pytest.raises(InputError, match=r"^layer0/mha/Q was not fetched; compile with fetch=\[…, 'layer0/mha/Q'\]$"):
        out["layer0/mha/Q"]
    with pytest.raises(GraphError, match="has no value called 'nix'"):
        out["nix"]


def test_only_what_is_fetched_is_computed():
    model = a_model()
    seen = []
    run = gi.compile(model, SIZES, fetch=["layer0/mha/A"])
    run(initialize(model, SIZES), a_batch(), watch=lambda node, rank, results: seen.append(node.meta.scope))
    assert set(seen) == {"embedding", "layer0/mha"}
    assert len(seen) < len(model.nodes) / 2


def test_updated_is_what_the_next_step_starts_from():
    step = optimize(autodiff(a_model(dropout=0.0)), Optimizer(kind="sgd", learning_rate=0.5, weight_decay=0.0))
    arguments = initialize(step, SIZES)
    out = gi.compile(step, SIZES)(arguments, a_batch())
    updated = out.updated()
    assert set(updated) == set(arguments)
    W, dW = arguments["layer0/mlp/W_up"], out["layer0/mlp/dW_up"]
    np.testing.assert_allclose(updated["layer0/mlp/W_up"], W - 0.5 * dW, rtol=1e-6)
    np.testing.assert_array_equal(updated["layer0/mlp/W_up.u"], dW)


def test_results_have_the_declared_types_and_sizes():
    step = optimize(autodiff(a_model()), Optimizer(clip=1.0))
    run = gi.compile(step, SIZES, fetch=list(step.values), recompute="nothing")
    out = run(initialize(step, SIZES), a_batch())
    for name, array in out.items():
        value = step[name]
        assert (name, np.asarray(array).dtype) == (name, value.dtype)
        assert (name, np.shape(array)) == (name, tuple(dim.size({**SIZES, "D_h": 2}) for dim in value.shape))


# -- memory -----------------------------------------------------------------------------------------------


def chain(length):
    block = gi.Builder("chain")
    value = block.input("X", (B, S))
    for i in range(length):
        value = gi.scale(value, by=2.0, name=f"A{i}")
    return block.build(value)


def test_buffers_are_freed_when_dead():
    run = gi.compile(chain(6), {"B": 2, "S": 3})
    made, alive = [], []

    def look(node, rank, results):
        made.append(weakref.ref(results[0]))
        alive.append([i for i, each in enumerate(made) if each() is not None])

    out = run({"X": np.ones((2, 3), "float32")}, watch=look)
    # While node i has just run, its operand is the only other buffer there.
    assert alive == [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    assert [i for i, each in enumerate(made) if each() is not None] == [5]
    assert out["A5"][0, 0] == 64


def test_what_is_read_again_lives_until_then():
    block = gi.Builder("residual")
    X = block.input("X", (B, S))
    A = gi.scale(X, by=2.0, name="A")
    P = gi.softmax(A, name="P")
    Z = gi.softmax(P, name="Z")
    made, alive = {}, {}

    def look(node, rank, results):
        made[node.name] = weakref.ref(results[0])
        alive[node.name] = {name for name, each in made.items() if each() is not None}

    graph = block.build(gi.softmax(gi.add(A, Z, name="Y"), name="Q"))
    gi.compile(graph, {"B": 2, "S": 3})({"X": np.ones((2, 3), "float32")}, watch=look)
    assert alive == {"A": {"A"}, "P": {"A", "P"}, "Z": {"A", "P", "Z"}, "Y": {"A", "Z", "Y"}, "Q": {"Y", "Q"}}


def test_an_output_that_nobody_reads_dies_at_once():
    block = gi.Builder("norm")
    X, gamma = block.input("X", (B, D)), block.input("gamma", (D,))
    graph = block.build(gi.softmax(gi.layer_norm(X, gamma, gamma, name="H"), name="P"))
    statistics = []

    def look(node, rank, results):
        statistics.extend(weakref.ref(each) for each in results[1:])
        if node.name == "P":
            statistics.append([each() is not None for each in statistics])

    run = gi.compile(graph, {"B": 2, "D": 4})
    run({"X": np.ones((2, 4), "float32"), "gamma": np.ones(4, "float32")}, watch=look)
    assert statistics[-1] == [False, False]


def test_the_peak_is_the_arguments_and_two_links_of_the_chain():
    assert [peak_memory(chain(n), {"B": 2, "S": 3}).bytes for n in (1, 2, 9)] == [2 * 24, 3 * 24, 3 * 24]


def test_recomputed_masks_are_not_held_from_forward_to_backward():
    joint = autodiff(a_model(layers=3))
    arguments = initialize(joint, SIZES)
    held = {}
    for store in (True, False):
        run = gi.compile(joint, SIZES, backend="reference", recompute="nothing" if store else "masks")
        held[store] = peak_memory(run.graph, SIZES).bytes
        run(arguments, a_batch())
    masks = sum(
        np.prod([dim.size({**SIZES, "D_h": 2}) for dim in value.shape])
        for value in joint.values.values()
        if value.dtype == "bool"
    )
    # With a mask goes the result that was masked, where its operand is held anyway: 4 bytes beside each 1.
    assert 0 < held[True] - held[False] <= 5 * masks


# -- NaN --------------------------------------------------------------------------------------------------


def overflowing():
    block = gi.Builder("hot")
    X = block.input("X", (B, S))
    with block.scope("layer0"):
        E, line = gi.exponential(X, name="E"), inspect.currentframe().f_lineno
    path = Path(__file__).resolve()
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return block.build(gi.softmax(E, name="P")), f"{path.as_posix()}:{line}"


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_the_first_node_that_makes_infinity_is_named():
    graph, at = overflowing()
    run = gi.compile(graph, {"B": 1, "S": 2})
    with pytest.raises(NonFiniteError) as caught:
        run.find_non_finite({"X": np.asarray([[0.0, 100.0]], "float32")})
    assert str(caught.value) == (
        f"layer0/E float32[B, S] is the first value to hold infinity: exp(X float32[B, S]), written at {at}"
    )


def test_an_argument_that_holds_nan_is_named():
    run = gi.compile(overflowing()[0], {"B": 1, "S": 2})
    with pytest.raises(NonFiniteError, match=r"^X float32\[B, S\] holds NaN before the run starts$"):
        run.find_non_finite({"X": np.asarray([[0.0, np.nan]], "float32")})


def test_finite_runs_have_nothing_to_report():
    run = gi.compile(overflowing()[0], {"B": 1, "S": 2})
    run.find_non_finite({"X": np.asarray([[0.0, 1.0]], "float32")})


# -- planning and first content ---------------------------------------------------------------------------


def test_sizes_and_backends_that_cannot_be():
    model = a_model()
    with pytest.raises(
        DimError, match=r"^no dim of this graph is called D_model; its dims are B, D, D_ff, D_h, N_H, S, V$"
    ):
        gi.compile(model, {**SIZES, "D_model": 4})
    with pytest.raises(DimError, match=r"^dim \w+ has no size: V is not given; add V=… to the sizes$"):
        gi.compile(model, {name: size for name, size in SIZES.items() if name != "V"})
    with pytest.raises(ConfigError, match=r"^backend 'abacus' is unknown; choose from numpy"):
        gi.compile(model, SIZES, backend="abacus")


def test_initial_content_follows_the_graph():
    model = a_model(layers=2)
    arrays = initialize(model, {**SIZES, "D_ff": 4096, "V": 4096}, seed=3)
    assert list(arrays) == [value.name for value in (*model.parameters, *model.state)]
    assert (arrays["layer0/mha/gamma"] == 1).all()
    assert not arrays["layer0/mha/beta"].any()
    # σ of n draws has a standard error of σ/√(2n): five of them either way, and the mean likewise σ/√n.
    for name, sigma in (("embedding/E", 0.02), ("layer1/mlp/W_down", 0.01)):
        n = arrays[name].size
        assert abs(arrays[name].std() - sigma) < 5 * sigma / (2 * n) ** 0.5
        assert abs(arrays[name].mean()) < 5 * sigma / n**0.5


def test_initial_content_is_keyed_by_seed_and_name():
    one, three = (initialize(a_model(layers=layers, dropout=0.1), SIZES, seed=1) for layers in (1, 3))
    np.testing.assert_array_equal(one["layer0/mha/W_Q"], three["layer0/mha/W_Q"])
    assert (one["layer0/mha/W_Q"] != one["layer0/mha/W_K"]).all()
    assert (one["layer0/mha/W_Q"] != initialize(a_model(), SIZES, seed=2)["layer0/mha/W_Q"]).all()


def test_what_was_needed_to_prove_a_program_is_let_go_of():
    """Steps hold on to buffers that calls had before they were bound to a caller's."""
    run = gi.compile(a_model(), SIZES, check=True)
    assert run.proofs
    assert not any(steps for program in run.programs for segment in program.segments for steps in segment.steps)
