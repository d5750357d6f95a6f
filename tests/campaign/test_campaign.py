"""The campaign itself: a seeded sample of it, and that it would find what is wrong, says so, and shrinks it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled import arena
from graphir.backends.compiled.arena import Arena
from graphir.backends.compiled.memory import MemoryPlan
from graphir.backends.numpy import NumpyExecutable
from graphir.backends.numpy.engine import NumpyEngine
from graphir.operators import elementwise
from graphir.passes import PIPELINE
from tests.campaign.__main__ import main
from tests.campaign.case import KINDS, Case, read_text
from tests.campaign.draw import FEATURES, draw, draw_with_features
from tests.campaign.reached import Branch, listed, told
from tests.campaign.run import Campaign, differences, replay, written
from tests.campaign.shrink import Found, shrink
from tests.campaign.trial import Departure, Reference, UnfitError, attempt, refer
from tests.campaign.ways import Way, draw_tiling, draw_ways, read_way
from tests.support.paths import ROOT

#: A sample: `python -m tests.campaign` draws thousands.
GRAPHS = 60
B, S, D = gi.dims("B S D")


@pytest.mark.slow
def test_a_seeded_sample() -> None:
    campaign = Campaign(seed=0, shrinks=3)
    campaign.run(GRAPHS)
    assert not campaign.found, "\n".join(map(written, campaign.found[:3]))
    assert all(campaign.tally.counts[kind]["graphs"] for kind in KINDS)


# -- what is drawn ----------------------------------------------------------------------------------------


def test_every_feature_occurs() -> None:
    missing, seed = set(FEATURES), 0
    while missing and seed < 1000:
        missing -= draw_with_features(seed)[1]
        seed += 1
    assert not missing


def test_a_fifth_of_the_graphs_is_not_all_float64() -> None:
    dtypes = [
        {value.dtype for value in draw(seed).program.values.values() if value.type.is_float} for seed in range(200)
    ]
    narrow = sum(each != {"float64"} for each in dtypes)
    assert 20 <= narrow <= 60
    assert {"float16", "bfloat16"} <= set().union(*dtypes)


def test_masks_have_rows_in_which_no_key_is_seen() -> None:
    seen = 0
    for seed in range(200):
        case = draw(seed)
        masks = [v.name for v in case.graph.inputs if v.dtype == "bool"]
        arrays = case.arrays() if masks else {}
        seen += any(not arrays[name].any(axis=-1).all() for name in masks)
    assert seen >= 5


def test_sizes_are_tiny_and_often_one() -> None:
    sizes = [size for seed in range(100) for size in draw(seed).bound.values()]
    assert max(sizes) <= 9
    assert sizes.count(1) > len(sizes) / 10


@pytest.mark.slow
def test_what_is_drawn_follows_from_the_seed_in_every_process() -> None:
    script = (
        "from tests.campaign.draw import draw; from tests.campaign.ways import draw_ways; import random\n"
        "print([(c.to_text(), [w.as_dict() for w in draw_ways(random.Random(s), c)])\n"
        "       for s in range(12) for c in [draw(s)]])"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": salt},
            cwd=ROOT,
        ).stdout
        for salt in ("1", "2")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_a_case_is_had_again_from_its_text(seed: int) -> None:
    case = draw(seed)
    way = draw_ways(random.Random(seed), case)[0]
    text = case.to_text(way=way.as_dict())
    assert gi.parse(text) == case.graph
    again, said = read_text(text)
    assert read_way(said["way"]) == way
    assert again.program == case.program
    arrays, same = case.arrays(), again.arrays()
    assert all(np.array_equal(arrays[name], same[name]) for name in arrays)


def test_tilings_reach_from_single_elements_to_everything_whole() -> None:
    rng = random.Random(0)
    tilings = [draw_tiling(rng) for _ in range(300)]
    assert {1, 1 << 22} <= {tiling.bytes for tiling in tilings}
    assert any(tiling.small == 0 for tiling in tilings)
    assert any(tiling.causal == (1, 1) for tiling in tilings)


# -- what departs -----------------------------------------------------------------------------------------


def _case(**more: Any) -> Case:
    """Y = X ⊙ W • V, small, and right."""
    block = gi.Builder("small", dtype="float64")
    X, W = (block.input(name, (B, S)) for name in "XW")
    product = gi.multiply(X, W, name="product")
    Y = gi.matmul(product, block.parameter("V", (S, D)), name="Y")
    return Case(**{"kind": "forward", "graph": block.build(Y), "sizes": {"B": 3, "S": 4, "D": 5}, "seed": 1, **more})


def test_what_is_right_does_not_depart() -> None:
    outcome = attempt(_case(), Way(threads=2, tiling=draw_tiling(random.Random(1))))
    assert outcome.departure is None
    assert outcome.comparisons == 2


def _handing_out(change: Any) -> Any:
    """An executor whose results are changed on their way out."""
    right = NumpyExecutable._hand_out

    def hand_out(self: NumpyExecutable, value: gi.Value, given: Any) -> Any:
        return change(self, right(self, value, given))

    return patch.object(NumpyExecutable, "_hand_out", hand_out)


def test_other_numbers_depart() -> None:
    with _handing_out(lambda run, array: array * (1 + 1e-10)):
        departure = attempt(_case(), Way()).departure
    assert departure is not None
    assert (departure.fault, departure.where) == ("other numbers", "Y")


def test_rounding_does_not() -> None:
    with _handing_out(lambda run, array: array * (1 + 1e-15)):
        assert attempt(_case(), Way()).departure is None


def test_not_a_number_departs() -> None:
    with _handing_out(lambda run, array: array * np.nan):
        departure = attempt(_case(), Way()).departure
    assert departure is not None
    assert departure.fault == "other numbers"


def test_another_dtype_departs() -> None:
    with _handing_out(lambda run, array: array.astype("float32")):
        departure = attempt(_case(), Way()).departure
    assert departure is not None
    assert departure.fault == "another type"


def test_other_bits_in_the_second_run_depart() -> None:
    count = iter(range(100))
    with _handing_out(lambda run, array: array * (1 + 1e-15 * next(count))):
        departure = attempt(_case(), Way()).departure
    assert departure == Departure("other bits in the second run", "Y")


def test_a_result_that_a_later_run_changes_departs() -> None:
    buffer = np.empty((3, 5))

    def in_one_buffer(run: NumpyExecutable, array: Any) -> Any:
        buffer[...] = array
        return buffer

    with _handing_out(in_one_buffer):
        departure = attempt(_case(), Way()).departure
    assert departure == Departure("an earlier result changed", "Y")


def test_an_error_departs() -> None:
    with patch.object(NumpyExecutable, "_hand_out", side_effect=RuntimeError("broken")):
        assert attempt(_case(), Way()).departure == Departure("raised RuntimeError", "broken")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (patch.object(Arena, "fullest", lambda self: 0), "the fullest moment"),
        (patch.object(arena, "_place", lambda blocks, alignment: blocks), "places"),
        (patch.object(MemoryPlan, "bytes", 0), "all"),
        (patch.object(MemoryPlan, "__str__", lambda self: ""), "text"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_memory_plan_that_says_what_is_not_so_departs(change: Any, wrong: str) -> None:
    block = gi.Builder("chain", dtype="float64")
    X, W = block.input("X", (B, S)), block.parameter("W", (S, S))
    one, other = gi.matmul(X, W), gi.matmul(gi.matmul(X, W), W)
    case = _case(graph=block.build(gi.matmul(gi.add(one, other), W, name="Y")))
    way = Way(without=PIPELINE)
    assert attempt(case, way).departure is None
    with change:
        assert attempt(case, way).departure == Departure("a false memory plan", wrong)


def test_a_run_that_is_watched_is_compared_node_by_node() -> None:
    case = _case()
    assert attempt(case, Way(watch=True)).comparisons == 1 + len(case.program.nodes)

    def wrong(xp: Any, *X: Any) -> Any:
        return 2 * X[0] * X[1]

    known = refer(case)
    known.values(1)
    with patch.dict(vars(elementwise.multiply), kernel=wrong):
        departure = attempt(case, Way(watch=True), known).departure
    assert departure is not None
    assert departure.fault == "other numbers"


def test_gradients_that_overflow_leave_everything_as_it_is() -> None:
    """What the guard is for: the step is not taken, and that is compared, though the gradients say nothing."""
    block = gi.Builder("overflowing", dtype="float64")
    product = gi.matmul(block.input("X", (B, S)), block.parameter("V", (S, D)))
    graph = block.build(gi.reduce_sum(gi.multiply(product, product), name="L"))
    plain = {"loss": "L", "wrt": ("V",), "optimizer": {"kind": "adam"}, "dynamic": True}
    case = _case(graph=graph, scale=1e308, **plain)
    assert case.overflows
    known = refer(case)
    values, _ = known.values()
    assert np.array_equal(values["V.new"], values["V"])
    outcome = attempt(case, Way(check=True), known)
    assert outcome.departure is None
    assert outcome.comparisons >= 8
    with pytest.raises(UnfitError):
        refer(_case(graph=graph, scale=1e30, **plain))


def test_what_is_no_number_in_the_interpreter_says_nothing() -> None:
    block = gi.Builder("large", dtype="float64")
    graph = block.build(gi.exponential(gi.scale(block.input("X", (B,)), by=1e4)))
    with pytest.raises(UnfitError):
        Reference(_case(graph=graph, sizes={"B": 9})).values()


def test_a_wrong_gradient_departs_from_finite_differences() -> None:
    block = gi.Builder("square", dtype="float64")
    X = block.parameter("X", (B, S))
    graph = block.build(gi.reduce_sum(gi.multiply(X, gi.activation(X)), name="L"))
    case = _case(graph=graph, sizes={"B": 2, "S": 3}, loss="L", wrt=("X",))
    assert differences(case) is None

    def wrong(xp: Any, X: Any, dY: Any, *, kind: str = "gelu") -> Any:
        return dY * 1.001 * X

    with patch.dict(vars(elementwise.d_activation), kernel=wrong):
        departure = differences(case)
    assert departure is not None
    assert departure.fault == "another slope"


# -- how it is shrunk -------------------------------------------------------------------------------------


def _broken(case: Case, way: Way) -> Departure | None:
    """An executor that goes wrong where two threads share a product of equal operands with a row or more each."""
    for node in case.program.nodes:
        if node.operator is elementwise.multiply and way.threads >= 2:
            X, W = node.inputs
            if X is W and X.type.rank and X.shape[0].size(case.bound) >= 2:
                return Departure("other numbers", node.name)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_what_departs_is_shrunk_to_what_it_takes(kind: str) -> None:
    seed = next(
        seed
        for seed in range(1000)
        for case in [draw(seed, kind)]
        if _broken(case, Way(threads=5)) and len(case.program.nodes) > 8
    )
    case = draw(seed, kind)
    way = replace(draw_ways(random.Random(seed), case)[0], threads=5)
    found = Found(case, way, Departure("other numbers", "Y"))
    smallest = shrink(found, _broken)
    (node,) = smallest.case.graph.nodes
    assert node.operator is elementwise.multiply
    assert smallest.way == Way(threads=2)
    assert not smallest.case.mesh
    assert smallest.case.loss is None
    assert smallest.case.optimizer is None
    size = node.inputs[0].shape[0].size(smallest.case.bound)
    assert 2 <= size <= 4  # the least that a product of names can be
    assert shrink(found, _broken) == smallest


def test_an_executor_broken_on_purpose_is_found_and_shrunk(tmp_path: Path) -> None:
    """Sums of two tiles lose their second term; the campaign finds it, and what it writes shows it again."""
    with patch.object(NumpyEngine, "add", lambda X, Y, out: None):
        campaign = Campaign(seed=0, numba=False, xla=False, shrinks=1, out=tmp_path)
        for seed in range(100):
            found = next(iter(campaign.try_seed(seed)), None)
            if found is not None:
                break
        assert found is not None
        (path,) = tmp_path.glob("*.txt")
        text = path.read_text(encoding="utf-8")
        assert replay(text).departure is not None
    assert len(found.case.program.nodes) <= 6
    gi.parse(text)


# -- what is reached --------------------------------------------------------------------------------------


def test_what_is_listed_as_never_reached_is_there() -> None:
    for branch, reason in listed().items():
        lines = [line.strip() for line in (ROOT / branch.file).read_text(encoding="utf-8").splitlines()]
        assert branch.start in lines, branch
        assert not branch.to or branch.to in lines, branch
        assert len(reason.split()) > 2, branch


def test_each_branch_that_is_missed_is_told_with_its_reason() -> None:
    file = "tests/campaign/views.py"
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines, 1) if line.strip().startswith("if coefficient != 1"))
    summary = {"covered_branches": 1, "num_branches": 3}
    report = {
        "files": {file: {"summary": summary, "missing_branches": [[start, start + 1], [start, -1]]}},
        "totals": summary,
    }
    reasons = {
        Branch(file, lines[start - 1].strip(), "return []"): "a reason",
        Branch(file, "there", "here"): "another",
    }
    assert told(report, reasons).splitlines() == [
        f"{file}: 1 of 3 branches",
        f"    {start} to {start + 1}: a reason",
        f"    {start} to the end: not listed",
        f"listed, but reached: {file}: there to here",
        "1 of 3 branches, 33.3 %; the goal is 95 %",
    ]


# -- the command ------------------------------------------------------------------------------------------


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "results" / "campaign.md"
    status = main(
        ["--graphs", "3", "--seed", "7", "--only", "forward", "--no-numba", "--no-xla", "--markdown", str(page)]
    )
    out = capsys.readouterr().out
    assert "forward" in out
    text = page.read_text(encoding="utf-8")
    assert "| forward | 3 |" in text
    assert ("\n0 departures" in text) == (status == 0)
