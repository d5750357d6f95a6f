"""What measures: `graphir bench`, the core that the command line picks, and the benchmark of a training step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.contestants import CONTESTANTS, DEFAULT, FLOORS, floor, graphs, rounds
from benchmarks.contestants.problem import SIZES, WORK, Problem
from benchmarks.contestants.rounds import Contestant, Rounds, UnableError, run_rounds
from graphir.backends.blas import find_blas
from graphir.cli import core, main
from graphir.cli.core import pick_core, wanted_core
from graphir.cost import node_flops
from graphir.ir.dims import resolve_sizes
from graphir.passes import dce
from graphir.processor import AVX512, has_avx512, processor_features
from tests.support.paths import ROOT

FOUND = find_blas()
LINUX = "Linux x86_64"

needs_cores = pytest.mark.skipif(
    FOUND is None or FOUND.name != "openblas" or not (sys.platform == "linux" and os.uname().machine == "x86_64"),
    reason="NumPy runs no OpenBLAS here, or it has no such cores",
)


# -- the core ---------------------------------------------------------------------------------------------


def test_the_avx512_core_is_wanted_where_the_processor_has_it():
    assert wanted_core({}, AVX512 | {"avx2"}, LINUX) == "SkylakeX"
    assert wanted_core({"OPENBLAS_NUM_THREADS": "2"}, AVX512, LINUX) == "SkylakeX"


@pytest.mark.parametrize("lacking", sorted(AVX512))
def test_a_processor_that_lacks_a_part_of_avx512_keeps_its_own_core(lacking):
    assert wanted_core({}, AVX512 - {lacking}, LINUX) is None


@pytest.mark.parametrize(
    ("environment", "features", "system"),
    [
        ({"OPENBLAS_CORETYPE": "Haswell"}, AVX512, LINUX),
        ({"OPENBLAS_CORETYPE": ""}, AVX512, LINUX),
        ({"OPENBLAS_VERBOSE": "2"}, AVX512, LINUX),
        ({}, None, LINUX),
        ({}, AVX512, "Darwin x86_64"),
        ({}, AVX512, "Linux aarch64"),
    ],
)
def test_whatever_else_is_known_leaves_the_choice_to_openblas(environment, features, system):
    assert wanted_core(environment, features, system) is None


def test_nothing_is_picked_once_numpy_is_there(monkeypatch):
    monkeypatch.setattr(os, "environ", {})  # what is picked must not reach the programs that other tests start
    monkeypatch.setattr(core, "wanted_core", lambda *_: "SkylakeX")
    assert "numpy" in sys.modules
    pick_core()
    assert core.VARIABLE not in os.environ
    monkeypatch.delitem(sys.modules, "numpy")
    pick_core()
    assert os.environ[core.VARIABLE] == "SkylakeX"


def core_after(statements, **environment):
    """The core that OpenBLAS runs on in a fresh interpreter after `statements`."""
    program = f"{statements}\nfrom graphir.backends.blas import find_blas\nprint(find_blas().core)"
    clean = {name: value for name, value in os.environ.items() if "OPENBLAS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


COMMAND = "from graphir.cli import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n    pass"
#: As if the processor had AVX-512, with a core in place of SkylakeX that every processor here can run.
FAKED = (
    "from graphir.cli import core\n"
    "core.CORE, core.processor_features, core.has_avx512 = 'Nehalem', lambda: frozenset(), lambda features: True\n"
)


@pytest.mark.slow
@needs_cores
def test_the_command_line_picks_before_numpy_is_loaded():
    assert core_after(FAKED + COMMAND) == "Nehalem"
    assert core_after(FAKED + COMMAND, OPENBLAS_CORETYPE="Sandybridge") == "Sandybridge"
    assert core_after("import numpy\n" + FAKED + COMMAND) == core_after("")


@pytest.mark.slow
@needs_cores
def test_the_core_of_this_machine():
    own = core_after("")
    assert core_after(COMMAND) == ("SkylakeX" if has_avx512(processor_features()) else own)
    assert core_after("import graphir") == own


# -- graphir bench ----------------------------------------------------------------------------------------


@pytest.fixture
def bench(monkeypatch, capfd):
    """Runs `graphir bench` with rates that cost no time; stdout."""

    def run(*arguments):
        monkeypatch.setattr("graphir.backends.blas.gemm_rate", lambda dtype, single=False: 70.4 if single else 140.6)
        monkeypatch.setattr("graphir.backends.blas.elementwise_rate", lambda name: 1.25)
        with pytest.raises(SystemExit) as exit:
            main(["bench", *arguments])
        assert exit.value.code == 0
        out, err = capfd.readouterr()
        assert err == ""
        return out

    return run


def test_bench_as_json(bench):
    found = json.loads(bench("--json"))
    assert list(found) == ["processor", "cores", "avx512", "blas", "GFLOP/s", "Gelem/s", "advice", "gpu"]
    assert found["GFLOP/s"]["float64"] == {"one thread": 70.4, "all threads": 140.6}
    assert found["Gelem/s"] == dict.fromkeys(("add", "multiply", "exp", "tanh"), 1.25)
    assert found["avx512"] == has_avx512(processor_features())
    assert found["blas"] == (None if FOUND is None else vars(FOUND))
    told = found["gpu"]
    assert told["device"] or told["none because"].startswith("none: ")


def test_bench_as_tables(bench):
    said = bench()
    text = " ".join(said.split())  # lines are folded where they would go over
    assert max(map(len, said.splitlines())) <= 80
    assert said.startswith("processor  ")
    if FOUND is not None:
        assert f" BLAS {FOUND.name} {FOUND.version}" in text
        assert f", threads: {FOUND.threads}" in text
    assert "\nGPU        " in said
    assert ["float32", "70", "141"] in [line.split() for line in said.splitlines()]
    assert "elementwise, Gelem/s of float32 on one thread: add 1.2, multiply 1.2, exp 1.2, tanh 1.2" in text
    assert said.splitlines()[-1].startswith("to set: ")


def test_bench_says_what_is_unknown_and_what_to_set(bench, monkeypatch):
    monkeypatch.setattr("graphir.backends.blas.find_blas", lambda: None)
    monkeypatch.setattr("graphir.processor.processor_features", lambda: None)
    out = bench()
    assert "with or without AVX-512: unknown" in out
    assert "BLAS       unknown: NumPy's is none that can be asked" in out
    assert "to set: nothing" in out
    monkeypatch.setattr("graphir.backends.blas.advice", lambda blas, features: "set OPENBLAS_CORETYPE=SkylakeX")
    assert "to set: set OPENBLAS_CORETYPE=SkylakeX" in bench()


@pytest.mark.slow
def test_bench_measures():
    done = subprocess.run(
        [sys.executable, "-m", "graphir", "bench", "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rates = json.loads(done.stdout)["GFLOP/s"]
    assert all(rate > 0 for each in rates.values() for rate in each.values())


# -- the floor's products ---------------------------------------------------------------------------------


def products_flops(graph, sizes, operators=("matmul", "dMatmul")):
    """What the cost model counts for the graph's matrix products."""
    complete = resolve_sizes([graph.dims], sizes)
    return sum(node_flops(node).number(complete) for node in graph.nodes if node.operator.key in operators)


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("parts", [1, 3])
def test_the_floor_multiplies_all_that_the_graph_does(what, parts, monkeypatch):
    problem = Problem("tiny", what)
    monkeypatch.setattr(floor, "BLOCK", 1 << 20)  # a single block skips nothing
    products = floor.Products(dce(problem.graph()), problem.sizes, parts)
    assert products.flops == products_flops(dce(problem.graph()), problem.sizes)
    assert len(products.calls) == parts


@pytest.mark.parametrize("blocks", [2, 4])
def test_of_attention_the_floor_multiplies_the_causal_half(blocks, monkeypatch):
    problem = Problem("tiny")
    graph, sizes = dce(problem.graph()), problem.sizes
    monkeypatch.setattr(floor, "BLOCK", sizes["S"] // blocks)
    found = floor.Products(graph, sizes, 2).flops
    # Two products of S × S scores a layer, each of them forward and twice backward.
    attention = 2 * 3 * problem.layers * 2 * sizes["B"] * sizes["S"] ** 2 * sizes["D"]
    assert products_flops(graph, sizes) - found == attention * (1 - (1 + 1 / blocks) / 2)


def test_the_floors_blocks_cover_the_triangle_in_small_tiles(monkeypatch):
    problem = Problem("tiny")
    graph, sizes = dce(problem.graph()), problem.sizes
    expected = floor.Products(graph, sizes, 2).flops
    monkeypatch.setattr(floor, "TILE", 4 * floor.BLOCK * sizes["S"])
    tiled = floor.Products(graph, sizes, 2)
    assert tiled.flops == expected
    for left, right, out in (call for part in tiled.calls for call in part):
        assert left.shape[:-1] == out.shape[:-1]
        assert right.shape[-2:] == (left.shape[-1], out.shape[-1])


@pytest.mark.parametrize("own_threads", [True, False])
def test_the_floor_runs_and_leaves_blas_as_it_was(own_threads):
    run, check = floor.prepare(Problem("tiny"), {}, {}, own_threads=own_threads)
    run()
    assert check() == {}
    assert find_blas() == FOUND


# -- contestants agree ------------------------------------------------------------------------------------


def numbers(module, problem, **options):
    return module.prepare(problem, problem.parameters(), problem.batch(), **options)[1]()


def agree(problem, *others):
    mine = numbers(graphs, problem, backend="reference")
    step.require_agreement(problem, {"reference": mine, **dict(others)})
    return mine


@pytest.mark.parametrize("what", WORK)
def test_the_compiled_step_agrees_with_the_interpreter(what):
    problem = Problem("tiny", what)
    found = agree(problem, ("graphir", numbers(graphs, problem, backend="numpy")))
    assert set(found) == {"loss"} | {"gradients": {"norm"}, "optimizer": {"next loss"}}.get(what, set())


@pytest.mark.torch
@pytest.mark.parametrize("what", WORK)
def test_pytorch_agrees(what):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks.contestants import pytorch

    problem = Problem("tiny", what)
    agree(problem, ("pytorch", numbers(pytorch, problem)))


@pytest.mark.slow
@pytest.mark.parametrize("what", WORK)
def test_jax_agrees(what):
    pytest.importorskip("jax", reason="JAX is not installed")
    from benchmarks.contestants import xla, xla_graphs

    problem = Problem("tiny", what)
    agree(problem, ("jax", numbers(xla, problem)), ("graphir-xla", numbers(xla_graphs, problem)))


def test_an_update_changes_the_loss():
    found = numbers(graphs, Problem("tiny", "optimizer"), backend="reference")
    assert found["next loss"] < found["loss"]


def test_a_gradient_scaled_wrongly_is_a_disagreement():
    right, wrong = {"loss": 5.0, "norm": 2.0}, {"loss": 5.0, "norm": 2.001}
    step.require_agreement(Problem(), {"a": right, "b": right, "floor": {}})
    with pytest.raises(step.DisagreementError) as error:
        step.require_agreement(Problem(), {"a": right, "b": wrong})
    assert str(error.value) == (
        "small (L4 B8 S128 D256 N_H8 D_ff1024 V1024), gradients, dropout 0: the contestants do not give the same norm: "
        "a 2, b 2.001"
    )


def test_not_a_number_is_a_disagreement():
    with pytest.raises(step.DisagreementError, match="the same loss: a nan, b 5"):
        step.require_agreement(Problem(), {"a": {"loss": float("nan")}, "b": {"loss": 5.0}})
    with pytest.raises(step.DisagreementError, match="the same loss: b 5, a nan"):
        step.require_agreement(Problem(), {"b": {"loss": 5.0}, "a": {"loss": float("nan")}})


def test_under_dropout_losses_are_alike_and_norms_are_not_compared():
    problem = Problem(dropout=0.1)
    step.require_agreement(problem, {"a": {"loss": 5.0, "norm": 1.0}, "b": {"loss": 5.1, "norm": 2.0}})
    with pytest.raises(step.DisagreementError, match="the same loss: a 5, b 6"):
        step.require_agreement(problem, {"a": {"loss": 5.0}, "b": {"loss": 6.0}})
    with pytest.raises(step.DisagreementError, match="the same loss"):
        step.require_agreement(Problem(what="forward", dropout=0.1), {"a": {"loss": 5.0}, "b": {"loss": 5.1}})


# -- rounds -----------------------------------------------------------------------------------------------


class Scripted:
    """A contestant whose turns are given."""

    def __init__(self, name, turns):
        self.name, self.turns = name, iter(turns)

    def turn(self):
        return next(self.turns)


def test_rounds_in_which_others_ran_are_dropped():
    told = []
    a = Scripted("a", [(1.0, True), (9.0, False), (3.0, True), (2.0, True)])
    b = Scripted("b", [(2.0, True), (2.0, True), (2.0, False), (2.0, True)])
    found = run_rounds([a, b], 2, told.append)
    assert found == Rounds({"a": [1.0, 2.0], "b": [2.0, 2.0]}, kept=2, dropped=2)
    assert told == ["round 1 of 2", "round 2 of 2", "round 2 of 2, 1 dropped", "round 2 of 2, 2 dropped"]


def test_a_machine_that_is_never_quiet_is_said_to_be_so():
    found = run_rounds([Scripted("a", [(1.0, False)] * 100)], 2, lambda text: None)
    assert found == Rounds({"a": [1.0] * 6}, kept=0, dropped=2 * rounds.PATIENCE, disturbed=True)


def test_ratios_are_taken_within_a_round():
    found = Rounds({"a": [1.0, 20.0, 3.0, 4.0, 5.0], "b": [1.0, 10.0, 1.0, 1.0, 1.0]})
    assert found.ratio("a", "b") == (2.0, 3.0, 4.0)
    assert found.median("a") == 4.0
    assert Rounds({"a": [3.0], "b": [2.0]}).ratio("a", "b") == (1.5, 1.5, 1.5)


@pytest.mark.slow
def test_a_contestant_answers_or_says_why_it_cannot():
    contestant = Contestant("floor")
    try:
        with pytest.raises(UnableError, match=r"^KeyError: 'huge'$"):
            contestant.ask("prepare", problem={"size": "huge"})
        assert contestant.prepare(Problem("tiny")) == {}
        assert contestant.steps > 1
        seconds, _ = contestant.turn()
        assert 0 < seconds < rounds.TURN
        memory = contestant.ask("memory")
        parameters = sum(array.nbytes for array in Problem("tiny").parameters().values())
        assert memory is None or memory > parameters
        contestant._process.kill()
        with pytest.raises(UnableError, match=r"^its process ended with exit code -9$"):
            contestant.ask("rate")
    finally:
        contestant.close()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells what its processors do")
def test_processor_time_is_seen():
    before, own = rounds.busy_time(), rounds._process_time(os.getpid())
    while rounds._process_time(os.getpid()) - own < 0.1:
        sum(range(10_000))
    assert rounds.busy_time() - before >= 0.05


# -- the whole --------------------------------------------------------------------------------------------


def test_the_names_that_the_benchmark_speaks_of():
    assert set(FLOORS) | set(step.RIVALS) | set(DEFAULT) <= set(CONTESTANTS)
    for module, _ in CONTESTANTS.values():
        assert (ROOT / "benchmarks" / "contestants" / f"{module}.py").exists()


@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_are_those_of_a_transformer(size):
    sizes = SIZES[size]
    assert sizes["D_ff"] == 4 * sizes["D"]
    problem = Problem(size)
    complete = resolve_sizes([problem.graph().dims], problem.sizes)  # DimError for one too many or too few
    assert complete["D_h"] * sizes["N_H"] == sizes["D"]


def test_problems():
    assert step.problems(["tiny"], "forward", [0.0, 0.1]) == [Problem("tiny", "forward")]
    assert [each.dropout for each in step.problems(["tiny"], "gradients", [0.0, 0.1])] == [0.0, 0.1]


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        step.main(["--sizes", "small,huge"])
    assert "--sizes: huge: none of tiny, small, medium, large, gpt2" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_of_a_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rounds, "TOLERANCE", 1.0)  # whatever else runs here, this is about what is written
    path = tmp_path / "step.json"
    chosen = ["--contestants", "reference,floor,floor-blas", "--rounds", "2", "--dropout", "0.1"]
    step.main(["--sizes", "tiny", *chosen, "--json", str(path)])
    (found,) = json.loads(path.read_text())["results"]
    assert found["problem"] == {
        "size": "tiny",
        "what": "gradients",
        "dropout": 0.1,
        "precision": "float32",
        "sizes": SIZES["tiny"],
    }
    assert found["rounds"] == {"kept": 2, "dropped": 0, "disturbed": False}
    assert found["floor"] in FLOORS
    mine = found["contestants"]["reference"]
    assert len(mine["seconds"]) == 2
    assert mine["ratios"]["floor"][1] > 1
    assert found["contestants"][found["floor"]]["ratios"]["floor"] == [1.0, 1.0, 1.0]
    lines = capsys.readouterr().out.splitlines()
    assert "tiny (L2 B2 S32 D64 N_H4 D_ff256 V256), gradients, dropout 0.1" in [line.strip() for line in lines]
    assert any(line.startswith("reference ") for line in lines)
