"""The profile of a compiled graph: whose time each stretch is, what is counted, and how it is shown."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time

import numpy as np
import pytest

import graphir as gi
from graphir.backends.numpy import profiler
from graphir.backends.numpy.profile import COLLECTIVE, GROUPINGS, IDLE, KINDS, Profile, Row
from graphir.backends.numpy.profiler import handed_bytes
from graphir.cli import main
from graphir.cli import profile as command
from graphir.cost import mesh_sizes, node_flops
from graphir.drawing import profile as drawing
from graphir.drawing.profile import draw_profile, fold_blocks, format_of
from graphir.errors import ConfigError, InputError, MissingDependencyError
from graphir.extras import install
from graphir.passes import autodiff, complete_plan, dce, shard, unfuse

SIZES = {"B": 2, "S": 16, "D": 32, "N_H": 4, "D_ff": 64, "V": 48}
MODEL = ["--layers=1", "--sequence=16", "--width=32", "--heads=4", "--batch=4", "--repetitions=2", "--threads=2"]
NAP = 0.02


def compiled(threads=2, sizes=SIZES, mesh=None, layers=2):
    graph = autodiff(gi.models.transformer(layers=layers, dropout=0.1, decode=None))
    if mesh is not None:
        graph = shard(dce(graph), mesh, complete_plan(None, mesh), sizes)
    return gi.compile(graph, sizes, threads=threads)


def arguments(run):
    sizes = run.plan.sizes
    T, Y = np.random.default_rng(0).integers(0, sizes["V"], (2, sizes["B"], sizes["S"]))
    return gi.initialize(run.graph, sizes), {"T": T, "Y": Y, "seed": 0, "step": 0}


def profiled(run, repetitions=1):
    return run.profile(*arguments(run), repetitions=repetitions)


@pytest.fixture(scope="module")
def run():
    return compiled()


@pytest.fixture(scope="module")
def profile(run):
    return profiled(run, repetitions=3)


def working(profile):
    return [row for row in profile.rows if row.kind not in IDLE]


def nodes(run):
    """The nodes that do work, fused ones unfolded."""
    return [node for node in unfuse(run.optimised).nodes if not node.operator.view]


# -- time -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock for the profiler that a test moves on: how fast, or how busy, the machine is does not show in it."""

    class Clock:
        now, tick, looks = 0.0, 0.0, itertools.count()

        def perf_counter(self):
            return self.now + self.tick * next(self.looks)

    made = Clock()
    monkeypatch.setattr(profiler, "time", made)
    return made


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_rows_of_each_thread_add_up_to_the_step(threads, clock, monkeypatch):
    # No stretch between two looks is shorter than a look, which would be taken for one of no length.
    clock.tick = 1.0
    monkeypatch.setattr(profiler, "look_seconds", lambda: 0.5)
    run = compiled(threads)
    found = profiled(run)
    segments = [segment for program in run.programs for segment in program.segments]
    for thread in range(threads):
        looks = sum(2 * len(segment.calls[thread]) + 1 for segment in segments)
        spent = sum(row.seconds[thread] for row in found.rows)
        assert spent == pytest.approx(found.profiled - looks * found.look)
    assert found.step == pytest.approx(sum(sum(row.seconds) for row in found.rows) / threads)


def slowed(run, name, clock):
    """Makes the first call of a node, by the first of two threads, take `NAP` on the clock, while the other waits."""
    ((arrived, _),) = run._team.barrier._queues
    for calls, members in zip(run.programs[0].segments[0].calls, run.programs[0].segments[0].nodes, strict=True):
        for index, node in enumerate(members):
            if node is not None and node.name == name:
                function, operands = calls[index]

                def slow(*given, function=function):
                    while arrived.empty():
                        time.sleep(0.001)
                    clock.now += NAP
                    function(*given)

                calls[index] = slow, operands
                return
    raise AssertionError(f"no call belongs to {name}")


def test_time_belongs_to_the_node_that_takes_it_and_others_wait_for_it(clock):
    run = compiled(2)
    slowed(run, "layer1/mlp/H", clock)
    found = profiled(run, repetitions=3)
    (slow,) = [row for row in found.rows if row.node == "layer1/mlp/H"]
    assert slow.seconds == pytest.approx((NAP, 0))
    assert found.by("node")["layer1/mlp/H"].seconds == slow.seconds
    assert found.by("kind")["waiting"].seconds == pytest.approx((0, NAP))
    assert found.plain == pytest.approx(NAP)


def test_one_thread_waits_for_nobody():
    assert "waiting" not in profiled(compiled(1)).by("kind")


def test_the_floor_is_the_time_of_the_products_alone(profile):
    kinds = profile.by("kind")
    assert profile.floor == pytest.approx(kinds["product"].mean + kinds["attention product"].mean)
    assert profile.ratio == pytest.approx(profile.step / profile.floor)
    assert profile.ratio > 1


def test_a_graph_without_products_has_no_floor():
    block = gi.Builder()
    graph = block.build(gi.scale(block.input("X", (gi.dims("B")[0],)), by=2.0, name="Y"))
    found = gi.compile(graph, {"B": 8}, threads=1).profile({"X": np.ones(8, np.float32)}, repetitions=1)
    assert (found.floor, found.ratio) == (0, None)
    assert [row.node for row in working(found)] == ["Y"]


def test_a_profiled_run_leaves_the_executable_as_it_was(run, profile):
    given = arguments(run)
    before = {name: np.array(array) for name, array in run(*given).items()}
    run.profile(*given, repetitions=1)
    after = run(*given)
    assert all(np.array_equal(before[name], after[name]) for name in before)


# -- counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh", [None, gi.Mesh(dp=2, tp=2)], ids=["one rank", "sharded"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_node_that_does_work_is_there_with_the_flops_that_its_formula_gives(threads, mesh):
    run = compiled(threads, mesh=mesh, layers=1)
    found = profiled(run)
    sizes = mesh_sizes(unfuse(run.optimised), run.plan.sizes)
    expected = {node.name: int(node_flops(node).number(sizes)) for node in nodes(run)}
    exchanges = {node.name for node in nodes(run) if node.operator.relayout is not None}
    assert {row.node for row in found.rows if row.kind == COLLECTIVE} == exchanges
    assert {row.rank for row in found.rows if row.kind == COLLECTIVE} <= {None}
    assert all(row.task for row in found.rows if row.kind in ("waiting", "overhead"))
    for rank in range(run.mesh.size):
        mine = {row.node: row.flops for row in working(found) if row.rank == rank and "added" not in row.node}
        assert mine == {name: flops for name, flops in expected.items() if name not in exchanges}


def test_of_a_causal_stream_the_flops_that_are_done():
    run = compiled(2, {**SIZES, "B": 1, "S": 256}, layers=1)
    found = profiled(run)
    rows = {row.node: row for row in working(found)}
    products = [node for node in nodes(run) if rows[node.name].kind == "attention product"]
    assert len(products) == 6
    for node in products:
        whole = node_flops(node).number(mesh_sizes(unfuse(run.optimised), run.plan.sizes))
        assert 0.5 < rows[node.name].flops / whole < 0.7, node
    added = [row for row in rows.values() if row.node.endswith(", terms added")]
    assert [row.node for row in added] == ["layer0/mha/dV, terms added", "layer0/mha/dK_T, terms added"]
    assert all(row.flops == 0 and row.kind == "attention" and row.calls for row in added)


def test_calls_are_those_of_the_programs(run, profile):
    calls = sum(node is not None for s in run.programs[0].segments for members in s.nodes for node in members)
    assert sum(row.calls for row in profile.rows) == calls


def test_bytes_are_those_of_the_arrays_as_often_as_they_are_handed_over():
    X = np.zeros((4, 8), np.float32)
    assert handed_bytes((X, X, X)) == 3 * 128
    assert handed_bytes((X, (X, 1.0, None), "clip")) == 2 * 128
    assert handed_bytes((np.broadcast_to(X[0], (4, 8)), X[:, :2])) == 32 + 32
    assert handed_bytes((np.zeros((0, 4)), np.float64(1))) == 0


def test_rates_are_those_of_the_threads_that_take_part():
    row = Row((0.5, 0.5), 2, 100, 200, "Y", "matmul", "", "forward", "Y", "product", 0)
    alone = Row((0.5, 0.0), 1, 100, 200, "Z", "add", "", "forward", "Z", "elementwise", 0)
    assert (row.mean, row.flop_rate, row.byte_rate) == (0.5, 200, 400)
    assert (alone.mean, alone.flop_rate) == (0.25, 200)


# -- groups and JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_groups_add_up_to_the_step_the_longest_first(profile, grouping):
    means = [measure.mean for measure in profile.by(grouping).values()]
    assert sum(means) == pytest.approx(profile.step)
    assert means == sorted(means, reverse=True)


def test_groups_are_called_after_what_they_have_in_common(profile):
    assert {"matmul", "dMatmul", "LN", "waiting", "binding"} <= set(profile.by("operator"))
    assert set(profile.by("phase")) == {"forward", "backward", *IDLE}
    assert {"embedding", "layer0/mha", "layer1/mlp", "output"} <= set(profile.by("scope"))
    assert set(profile.by("kind")) <= set(KINDS)
    with pytest.raises(ConfigError, match=f"no groups by 'colour'; choose from {', '.join(GROUPINGS)}"):
        profile.by("colour")


def test_a_profile_goes_through_json_and_back(profile):
    assert Profile.from_dict(json.loads(json.dumps(profile.as_dict()))) == profile


def test_what_cannot_be_profiled_is_refused(run):
    with pytest.raises(ConfigError, match="at least one repetition, not 0"):
        run.profile(*arguments(run), repetitions=0)
    with pytest.raises(InputError, match="is not given T"):
        run.profile(arguments(run)[0])


# -- the picture ------------------------------------------------------------------------------------------


def test_repeated_blocks_are_one_bar(profile):
    blocks = fold_blocks(profile)
    assert ("layer*/mha", "forward") in blocks
    assert not any(block.startswith("layer0") for block, _ in blocks)
    assert list(dict.fromkeys(phase for _, phase in blocks)) == ["forward", "backward", ""]
    assert sum(sum(kinds.values()) for kinds in blocks.values()) == pytest.approx(profile.step)


def test_a_block_that_is_not_repeated_keeps_its_name():
    found = profiled(compiled(1, layers=1))
    assert ("layer0/mha", "backward") in fold_blocks(found)


def test_every_kind_has_a_look_of_its_own_and_a_word():
    assert list(drawing._STYLES) == list(drawing._WORDS) == list(KINDS)
    assert len(set(drawing._STYLES.values())) == len(KINDS)


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_picture_is_a_file_of_its_format(profile, format, start):
    pytest.importorskip("matplotlib", reason="the extra `viz` is not installed")
    made = draw_profile(profile, format_of(f"time.{format.upper()}"), "N_H=4")
    assert made.startswith(start)


def test_a_picture_that_cannot_be_is_refused(monkeypatch):
    for file in ("time.gif", "time", "folder.png/time"):
        with pytest.raises(ConfigError, match=r"its suffix must be \.png, \.svg, \.pdf"):
            format_of(file)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=re.escape(f"time.png needs matplotlib: {install('viz')}")):
        format_of("time.png")


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def call(capfd):
    """Runs the command in this process: exit code, stdout, stderr."""

    def run(*given):
        with pytest.raises(SystemExit) as exit:
            main(["profile", *map(str, given)])
        return exit.value.code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("what", ["forward", "step", "train"])
def test_the_command_prints_the_longest_rows_and_the_totals(call, what):
    code, out, err = call(*MODEL, "--what", what, "--top", 3)
    assert (code, err) == (0, "")
    above, table = out.split("\n\n", 1)
    heading, *rows = table.splitlines()
    assert " ".join(above.split()).endswith("of 1 layers, B=4 S=16 D=32 N_H=4 D_ff=128 V=256, on 2 threads")
    assert heading.split() == ["node", "ms", "of", "step", "×", "floor", "calls", "GFLOP/s", "GB/s"]
    assert rows[3].split()[1] == "more"
    said = " ".join(out.split())  # lines are folded where they would go over
    assert " tokens/s; profiling slows by " in said
    assert " × floor (" in said
    assert "medians of 2 steps" in said
    step, floor = (float(each) for each in re.findall(r"([\d.]+) ms(?: =|\))", said))
    assert float(re.findall(r"= ([\d.]+) × floor", said)[0]) == pytest.approx(step / floor, rel=0.05)


@pytest.mark.parametrize("by", GROUPINGS)
def test_the_command_knows_every_grouping(call, by):
    code, out, _ = call(*MODEL, "--what", "forward", "--by", by)
    assert code == 0
    assert out.splitlines()[2].split()[0] == by


def test_layers_that_are_alike_are_one_row(call):
    _, out, _ = call(*MODEL, "--layers", 3, "--what", "forward", "--top", 0)
    rows = [line.partition("  ")[0] for line in out.splitlines()]
    assert any(row.startswith("layer*/mlp/") and row.endswith(" × 3") for row in rows)
    assert not any(row.startswith("layer0/m") for row in rows)
    assert max(map(len, out.splitlines()[1:])) <= 100


def test_the_commands_groupings_are_the_profiles():
    assert command._GROUPINGS == GROUPINGS


def test_json_holds_the_whole_profile(call, tmp_path):
    code, out, err = call(*MODEL, "--dp", 2, "--json", "--draw", tmp_path / "time.svg")
    assert (code, err) == (0, f"{tmp_path / 'time.svg'}\n")
    found = json.loads(out)
    whole = Profile.from_dict(found["profile"])
    assert found["step / floor"] == whole.ratio == found["step"] / found["floor"]
    assert list(found["node"])[:1] == list(whole.by("node"))[:1]
    assert found["tokens per second"] == pytest.approx(4 * 16 / whole.plain)
    assert {row.rank for row in working(whole)} == {None, 0, 1}
    assert (tmp_path / "time.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--threads", 0], "--threads must be at least 1, not 0"),
        (["--repetitions", 0], "--repetitions must be at least 1, not 0"),
        (["--top", -1], "--top must be at least 0, not -1"),
        (["--vocabulary", 0], "--vocabulary must be at least 1, not 0"),
        (["--layers", 0], "--layers must be at least 1, not 0"),
        (["--heads", 3], "these sizes make no model: "),
        (["--draw", "time.gif"], "its suffix must be .png, .svg, .pdf"),
    ],
)
def test_what_makes_no_profile_is_refused(call, given, message):
    code, out, err = call(*MODEL, *given)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
