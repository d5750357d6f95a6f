"""The compiled executor against the interpreter: random graphs, the Transformer's variants, all plans, all levels.

Values are compared node by node, with every value fetched, and again with the results alone, when most values live in
scratch memory and nothing outside sees them.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import ConfigError, InputError
from graphir.ir.graph import Graph
from graphir.passes import LEVELS, PIPELINE, autodiff
from tests.support.random_graphs import Program, programs
from tests.support.sampled import sampled
from tests.support.sharding_cases import Case, batch, deviations, sharded_step_of, start, step_of

_options = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIZES = {"B": 3, "S": 6, "D": 8, "N_H": 2, "D_ff": 12, "V": 11}
#: Large enough for several tiles a thread, and for queries in blocks.
LARGE = {"B": 2, "S": 200, "D": 48, "N_H": 3, "D_ff": 192, "V": 130}


def arguments(graph: Graph, sizes: dict[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    ids, labels = (rng.integers(0, sizes["V"], (sizes["B"], sizes["S"])) for _ in "TY")
    labels[0, : sizes["S"] // 2] = -100
    return gi.initialize(graph, sizes, seed=1), {"T": ids, "Y": labels, "seed": 5, "step": 3}


def agree(made: Any, wanted: Any, tolerance: float) -> None:
    found = deviations({k: np.asarray(v) for k, v in made.items()}, dict(wanted))
    name = max(found, key=found.__getitem__)
    assert found[name] <= tolerance, (name, found[name])


# -- random graphs ----------------------------------------------------------------------------------------


@_options
@given(program=programs(casts=False), threads=st.sampled_from([1, 2, 3]), everything=st.booleans())
def test_random_graphs(program: Program, threads: int, everything: bool) -> None:
    graph = autodiff(program.graph)
    arrays = program.arrays()
    fetch = [n for n, value in graph.values.items() if value.type.is_float] if everything else None
    wanted = gi.compile(graph, program.sizes, backend="reference", fetch=fetch)(arrays)
    run = gi.compile(graph, program.sizes, fetch=fetch, threads=threads)
    # A gradient through a softmax that is summed up is zero but for rounding: tensors are held against the largest.
    largest = max(float(np.abs(array).max(initial=1)) for array in wanted.values())
    single = any(value.dtype == "float32" for value in graph.values.values())
    for _ in range(2):
        made = run(arrays)
        for name, array in wanted.items():
            np.testing.assert_allclose(
                made[name], array, rtol=0, atol=largest * (2e-4 if single else 1e-11), err_msg=name
            )


# -- the Transformer --------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tied": False, "qkv_bias": True, "activation": "gelu", "final_norm": False},
    "no dropout": {"dropout": 0.0, "activation": "relu", "positions": "sinusoidal"},
    "bidirectional": {"causal": False, "activation": "silu"},
}


@sampled(variant=list(VARIANTS), level=LEVELS)
def test_every_node_of_the_transformer(variant: str, level: str) -> None:
    hold_every_node(variant, level, SIZES)


# Small, they are there with every level; what large tiles have of their own lies in neither.
@pytest.mark.parametrize(
    ("variant", "level"),
    [
        pytest.param(variant, level, marks=pytest.mark.slow if i else ())
        for i, (variant, level) in enumerate(
            zip(["untied", "bidirectional", "plain", "no dropout", "untied"], LEVELS, strict=True)
        )
    ],
)
def test_every_node_of_a_large_transformer(variant: str, level: str) -> None:
    hold_every_node(variant, level, LARGE)


def hold_every_node(variant: str, level: str, sizes: dict[str, int]) -> None:
    """Fetched all together, and its results alone at a level of recomputation."""
    options = {"dropout": 0.2, "activation": "gelu_tanh", "dtype": "float64", "decode": None, **VARIANTS[variant]}
    graph = autodiff(gi.models.transformer(2, **options))
    given = arguments(graph, sizes)
    everything = [name for name, value in graph.values.items() if value.type.is_float]
    wanted = gi.compile(graph, sizes, backend="reference", fetch=everything)(*given)
    agree(gi.compile(graph, sizes, fetch=everything)(*given), wanted, 1e-11)
    results = {value.name: wanted[value.name] for value in graph.outputs}
    agree(gi.compile(graph, sizes, recompute=level)(*given), results, 1e-11)


@pytest.mark.parametrize("left_out", PIPELINE)
def test_each_optimising_pass_can_be_left_out(left_out: str) -> None:
    graph = autodiff(gi.models.transformer(1, dropout=0.2, dtype="float64"))
    given = arguments(graph, SIZES)
    wanted = gi.compile(graph, SIZES, backend="reference")(*given)
    agree(gi.compile(graph, SIZES, without=[left_out])(*given), wanted, 1e-12)


PLANS = [
    Case("data", (("dp", 2),)),
    Case("megatron", (("tp", 3),), padded=True),
    Case("data+megatron", (("dp", 2), ("tp", 2)), mean="replicas"),
    Case("vocabulary", (("tp", 2),), tied=False),
    Case("sequence", (("tp", 2),), qkv_bias=True),
    Case("context", (("cp", 2),)),
    Case("data+zero1", (("dp", 2),)),
    Case("data+zero3", (("dp", 2),)),
    Case("data+sequence+vocabulary+zero3", (("dp", 2), ("tp", 2))),
]


@sampled(4, case=PLANS[::-1])
def test_every_plan(case: Case) -> None:
    graph = sharded_step_of(case)
    given = start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0)
    wanted = gi.compile(graph, case.sizes, backend="reference")(*given)
    made = gi.compile(graph, case.sizes)(*given)
    agree(made, wanted, 1e-9)
    assert made.traffic.keys() == wanted.traffic.keys()


@sampled(3, case=PLANS)
def test_replicas_may_share_what_they_would_all_compute(case: Case) -> None:
    graph = sharded_step_of(case)
    given = start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0)
    alone, shared = (gi.compile(graph, case.sizes, share_replicas=share) for share in (False, True))
    wanted = alone(*given)
    for _ in range(2):
        made = shared(*given)
        assert all(made[name].tobytes() == wanted[name].tobytes() for name in wanted)


@pytest.mark.slow
def test_sharing_saves_the_calls_of_all_ranks_but_one() -> None:
    case = Case("megatron", (("tp", 3),))
    graph = sharded_step_of(case)
    given = start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0)
    counts = []
    for share in (False, True):
        run = gi.compile(graph, case.sizes, share_replicas=share, threads=1)
        run(*given)
        counts.append([sum(len(s.calls[0]) for s in program.segments) for program in run.programs])
    assert counts[1][0] == counts[0][0]
    assert counts[1][1] < 0.85 * counts[0][1]


# -- what a user relies on --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_number_of_threads_gives_the_same_bits() -> None:
    graph = autodiff(gi.models.transformer(2, dropout=0.2))
    given = arguments(graph, LARGE)
    for threads in (1, 2, 3):
        runs = [gi.compile(graph, LARGE, threads=threads) for _ in range(2)]
        first, *others = [dict(run(*given)) for run in runs for _ in range(3)]
        for other in others:
            assert all(first[name].tobytes() == other[name].tobytes() for name in first)


def test_results_are_the_callers_and_a_later_run_leaves_them_alone() -> None:
    graph = autodiff(gi.models.transformer(1, dropout=0.0))
    parameters, inputs = arguments(graph, LARGE)
    run = gi.compile(graph, LARGE)
    first = dict(run(parameters, inputs))
    kept = {name: array.copy() for name, array in first.items()}
    for shift in (1, 2, 3):
        run({name: array + np.float32(shift) for name, array in parameters.items()}, inputs)
    assert all(np.array_equal(first[name], kept[name]) for name in kept)


def test_an_array_that_is_changed_or_replaced_between_runs_is_read_anew() -> None:
    graph = gi.models.transformer(1, dropout=0.0, decode=None)
    parameters, inputs = arguments(graph, LARGE)
    run, reference = (gi.compile(graph, LARGE, backend=each) for each in ("numpy", "reference"))
    for change in range(3):
        if change == 1:
            parameters["embedding/E"] *= 2
        elif change == 2:
            parameters = {name: np.asfortranarray(array * np.float32(1.5)) for name, array in parameters.items()}
            inputs["T"] = inputs["T"][:, ::-1]
        assert float(run(parameters, inputs)["L"]) == pytest.approx(float(reference(parameters, inputs)["L"]), rel=1e-5)


def test_donated_parameters_are_updated_where_they_are() -> None:
    graph = step_of(Case("single", ()))
    sizes = Case("single", ()).sizes
    given = dict(start(graph, tuple(sizes.items())))
    inputs = batch(sizes, 0)
    wanted = gi.compile(graph, sizes, backend="reference")(given, inputs).updated()
    mine = {name: array.copy() for name, array in given.items()}
    after = gi.compile(graph, sizes, donate=True)(mine, inputs).updated()
    for name, array in wanted.items():
        assert after[name] is mine[name] or after[name].base is mine[name], name
        np.testing.assert_allclose(mine[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


def test_replicas_that_are_donated_one_array_update_it_once() -> None:
    case = Case("data", (("dp", 2),))
    # Large enough to be read where they are.
    sizes = {**case.sizes, "D": 96, "V": 192, "D_ff": 192}
    graph, inputs = sharded_step_of(case), batch(case.sizes, 0)
    given = gi.initialize(step_of(case), sizes)
    wanted = gi.compile(graph, sizes, backend="reference")(given, inputs).updated()
    after = gi.compile(graph, sizes, donate=True)({name: array.copy() for name, array in given.items()}, inputs)
    for name, array in wanted.items():
        np.testing.assert_allclose(after.updated()[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


def test_what_is_donated_must_be_writable() -> None:
    graph = step_of(Case("single", ()))
    sizes = Case("single", ()).sizes
    given = {name: array.copy() for name, array in start(graph, tuple(sizes.items())).items()}
    given["embedding/E"].flags.writeable = False
    with pytest.raises(InputError, match="embedding/E is updated in place, but the array is read-only"):
        gi.compile(graph, sizes, donate=True)(given, batch(sizes, 0))


def test_arguments_are_never_changed() -> None:
    graph = step_of(Case("single", ()))
    sizes = Case("single", ()).sizes
    given = start(graph, tuple(sizes.items()))
    before = {name: array.copy() for name, array in given.items()}
    gi.compile(graph, sizes)(given, batch(sizes, 0))
    assert all(np.array_equal(given[name], before[name]) for name in before)


def test_a_kernel_that_fails_in_a_thread_fails_the_run_and_the_next_one_works() -> None:
    graph = gi.models.transformer(1, dropout=0.0, decode=None)
    parameters, inputs = arguments(graph, LARGE)
    run = gi.compile(graph, LARGE, threads=2)
    wanted = float(run(parameters, inputs)["L"])
    calls = run.programs[0].segments[0].calls[1]
    kept, calls[5] = calls[5], (_fail, ())
    with pytest.raises(ArithmeticError, match="on purpose"):
        run(parameters, inputs)
    calls[5] = kept
    assert float(run(parameters, inputs)["L"]) == wanted


def _fail() -> None:
    raise ArithmeticError("on purpose")


# -- memory -----------------------------------------------------------------------------------------------


def test_the_plan_says_what_is_allocated() -> None:
    graph = autodiff(gi.models.transformer(2, dropout=0.1))
    run = gi.compile(graph, LARGE)
    run(*arguments(graph, LARGE))
    arrays = {id(a.base if a.base is not None else a): a for a in run.programs[0].rank.arrays.values()}
    assert run.memory.arena == run.prepared.arena.size
    scratch = sum(chunk.nbytes for each in run._scratch for chunk in each.chunks)
    assert run.memory.scratch <= scratch
    assert arrays
    assert str(run.memory).startswith("planned peak ")


@pytest.mark.slow
def test_more_recomputation_needs_less_memory() -> None:
    graph = autodiff(gi.models.transformer(4, dropout=0.1))
    sizes = {**LARGE, "S": 96}
    arenas = [gi.compile(graph, sizes, recompute=level).memory.arena for level in LEVELS]
    assert arenas == sorted(arenas, reverse=True)
    assert arenas[-1] < 0.6 * arenas[0]


@pytest.mark.slow
def test_a_budget_chooses_the_level_that_fits() -> None:
    graph = autodiff(gi.models.transformer(2, dropout=0.1))
    plans = {level: gi.compile(graph, LARGE, recompute=level).memory.bytes for level in ("masks", "attention", "full")}
    assert gi.compile(graph, LARGE, memory=plans["masks"]).memory.bytes == plans["masks"]
    assert gi.compile(graph, LARGE, memory=plans["attention"]).memory.bytes <= plans["attention"]
    with pytest.raises(ConfigError, match=r"does not fit into 0\.1 MB:\nplanned peak .* MB"):
        gi.compile(graph, LARGE, memory=1e5)


def test_no_scores_are_stored_whole() -> None:
    graph = autodiff(gi.models.transformer(1, dropout=0.1))
    sizes = {**LARGE, "S": 512}
    run = gi.compile(graph, sizes)
    scores = 4 * sizes["B"] * sizes["N_H"] * sizes["S"] ** 2
    largest = {block.value.name: block.size for block in run.prepared.arena.blocks}
    assert largest["layer0/mha/AS"] < 0.7 * scores
    attention = gi.compile(graph, sizes, recompute="attention")
    assert max(block.size for block in attention.prepared.arena.blocks) < 0.5 * scores


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 1.5}, "threads must be int, not 1.5"),
        ({"threads": "2"}, "threads must be int, not '2'"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"threads": True}, "threads must be int, not True"),
        ({"memory": -1}, "memory=-1 is no number of bytes"),
        ({"tiling": "x"}, "tiling must be Tiling, not 'x'"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        gi.compile(gi.models.mlp(1), {"B": 2, "S": 2, "D": 2, "D_ff": 2}, **options)


def test_a_masked_array_is_refused() -> None:
    block = gi.Builder("masked")
    graph = block.build(gi.scale(block.input("X", (gi.dim("B"),)), by=2.0))
    with pytest.raises(
        InputError, match=r"X is a masked array, whose mask nothing here obeys; hand in its \.filled\(\)"
    ):
        gi.compile(graph, {"B": 2})({"X": np.ma.masked_array(np.ones(2, np.float32), [True, False])})
