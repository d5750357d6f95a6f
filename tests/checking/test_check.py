"""`graphir check`: clean runs stay within the derived tolerance, small faults do not, and the report says where."""

import json
from functools import cache
from itertools import islice

import numpy as np
import pytest

import graphir as gi
from graphir.backends import Executable, plan
from graphir.checking import Setting, check, settings
from graphir.checking.compare import block_text, compare
from graphir.checking.reference import ROUNDOFF, SAFETY, make_reference, on_one_rank, record
from graphir.cli import main
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
from graphir.passes import shard
from tests.support.sampled import sampled


@cache
def case(setting):
    """The graphs, sizes, arguments and reference of a setting."""
    single = setting.single()
    parallel, sizes, arguments = setting.parallel(single), setting.complete_sizes(), setting.arguments(single)
    return single, parallel, sizes, arguments, make_reference(single, parallel, sizes, arguments)


def run_check(setting, runner=Executable):
    single, parallel, sizes, arguments, reference = case(setting)
    return check(single, parallel, sizes, arguments, runner=runner, reference=reference)


SMALL = Setting(layers=1)


class Scaled(Executable):
    """Multiplies what one node makes on some ranks by a factor."""

    def __init__(self, plan, name, ranks, factor):
        super().__init__(plan)
        self.name, self.wrong, self.factor = name, ranks, factor

    def apply(self, step, operands, rank):
        results = super().apply(step, operands, rank)
        if step.node.name == self.name and rank in self.wrong:
            return tuple(np.asarray(each * each.dtype.type(self.factor)) for each in results)
        return results


def scaled(name, ranks, factor=1.001):
    return lambda plan: Scaled(plan, name, ranks, factor)


# -- the tolerance ----------------------------------------------------------------------------------------

LATTICE = [
    ("data", {"dp": 2}),
    ("data", {"dp": 4}),
    ("megatron", {"tp": 3}),
    ("column", {"tp": 2}),
    ("vocabulary", {"tp": 4}),
    ("data+sequence", {"tp": 3, "dp": 2}),
    ("zero1", {"dp": 3, "tp": 2}),
    ("data+sequence+zero3", {"dp": 2, "tp": 2}),
    ("context", {"dp": 2, "cp": 2, "tp": 2}),
]


@sampled(4, place=LATTICE)
def test_a_clean_run_stays_far_within_the_tolerance(place):
    name, axes = place
    dtype = ("float32", "float64")[len(axes) % 2]
    report = run_check(Setting(1, name, Mesh(axes), dtype=dtype))
    assert report.ok, report.text()
    assert report.worst.excess < 1 / 3, report.summary()
    assert all(each.replicas for each in report.comparisons)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "seed"), [("float32", 1), ("float64", 2)])
def test_clean_runs_stay_far_within_the_tolerance_whatever_the_seed(dtype, seed):
    # One dtype has every other plan, and the other one those between.
    for each in islice(settings(Setting(1, "all", Mesh(dp=2, tp=2), dtype=dtype, seed=seed)), seed - 1, None, 2):
        single = each.single()
        report = check(single, each.parallel(single), each.complete_sizes(), each.arguments(single))
        assert report.worst.excess < 1 / 3, (each.title, seed, report.summary())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "none"])
def test_every_optimizer_and_an_untied_model_are_clean(optimizer):
    mesh = Mesh(dp=2, tp=2)
    report = run_check(Setting(1, "data+sequence", mesh, optimizer=optimizer, tied=False, activation="silu"))
    assert report.ok, report.text()


def test_the_tolerance_scales_with_the_dtype():
    reference = case(SMALL)[-1]
    single, double = (np.array(reference.tolerance("layer0/mha/dW_Q", each)) for each in ("float32", "float64"))
    np.testing.assert_allclose(double / single, ROUNDOFF["float64"] / ROUNDOFF["float32"])
    assert reference.tolerance("T", "int64") == (0, 0)


def test_the_tolerance_is_far_below_a_thousandth_and_above_a_rounding():
    """Of whatever is not zero but for rounding: so a fault of 1e-3 in float32 shows."""
    _, parallel, _, _, reference = case(SMALL)
    for value in parallel.values.values():
        norm = float(np.linalg.norm(reference.exact[value.name]))
        limit = reference.tolerance(value.name, "float32")[0]
        if value.type.is_float and norm > limit:
            assert SAFETY * ROUNDOFF["float32"] <= limit / norm < 2e-4, value.name


def test_the_single_runs_own_error_is_within_the_tolerance_of_each_value():
    """The tolerance bounds the error of float32 as such, not only of the parallel run."""
    _, parallel, sizes, arguments, reference = case(SMALL)
    alone = record(Executable(plan(on_one_rank(parallel), sizes)), arguments)
    errors = []
    for name, array in alone.items():
        if array.dtype.kind == "f":
            error = np.linalg.norm(array.astype(np.float64) - reference.exact[name])
            limit = reference.tolerance(name, "float32")[0]
            assert error <= limit, name
            errors.append(error / limit)
    assert max(errors) > 1e-3  # nor is it so wide as to mean nothing


def test_what_cancels_is_measured_by_what_it_cancels_from():
    """A bias on K has no gradient: all of it is rounding, and its tolerance is more than its norm."""
    _, _, _, _, reference = case(SMALL)
    exact = reference.exact["layer0/mha/db_K"]
    gradient = np.linalg.norm(reference.exact["layer0/mha/dK"])
    norm, _ = reference.tolerance("layer0/mha/db_K", "float32")
    assert np.linalg.norm(exact) < 1e-3 * norm
    assert norm < 1e-4 * gradient


# -- small faults -----------------------------------------------------------------------------------------


def faulty_nodes():
    """Every thirteenth node that makes floats which are not zero but for rounding."""
    _, parallel, _, _, reference = case(SMALL)
    nodes = [
        node
        for node in parallel.nodes
        if node.operator.relayout is None
        and node.outputs[0].type.is_float
        and np.linalg.norm(reference.exact[node.name]) > 10 * reference.tolerance(node.name, "float32")[0]
    ]
    return nodes[::13]


@pytest.mark.slow
def test_a_thousandth_on_one_rank_is_found_where_it_is():
    nodes = faulty_nodes()
    assert len(nodes) > 8
    for node in nodes:
        report = run_check(SMALL, scaled(node.name, {4}))
        first = report.first
        assert first is not None, node.name
        assert first.found.name == node.name
        layout = node.outputs[0].type.layout
        groups = report.graph.mesh.groups(layout.pending_axes)
        holders = next(set(group) for group in groups if 4 in group)  # of a term, all that hold the others
        assert set(first.found.ranks) == holders, node.name
        assert all(found is None or not found.departs for _, found in first.operands)


def test_every_rank_that_is_wrong_is_named():
    report = run_check(SMALL, scaled("layer0/mlp/A_up", {1, 2, 5}))
    assert report.first.found.ranks == (1, 2, 5)


def test_a_fault_in_float64_of_a_billionth_is_found():
    report = run_check(Setting(1, dtype="float64"), scaled("layer0/mlp/A_up", {0}, 1 + 1e-9))
    assert report.first.found.name == "layer0/mlp/A_up"


def test_replicas_that_differ_by_a_rounding_are_told_and_forgiven():
    report = run_check(SMALL, scaled("layer0/mha/X_norm", {1}, 1 + 2e-7))
    assert report.ok
    assert not next(each for each in report.comparisons if each.name == "layer0/mha/X_norm").replicas
    assert "differ between replicas in their bits" in report.summary()


def test_nan_departs():
    assert run_check(SMALL, scaled("layer0/mlp/A_up", {3}, np.nan)).first.found.ranks == (3,)


# -- the report -------------------------------------------------------------------------------------------


def test_the_report_tells_all_there_is_to_know_of_the_first_departure():
    report = run_check(SMALL, scaled("layer0/mha/AO_lin", {4}, 1.01))
    text = report.text()
    for part in (
        "first departure: layer0/mha/AO_lin float32[B|dp, S, D] pending sum(tp) = matmul(",
        "rank 4 (dp=1, tp=1), block [B 6:12, S, D], a term of the sum over tp",
        "split      B over dp, a pending sum over tp",
        "in         layer0/mha, forward",
        "rule       matmul  X[",
        "written    graphir/models/parts/",
        "operand    layer0/mha/AO_cat float32[B|dp, S, D|tp]: right, ",
        "operand    layer0/mha/W_O float32[D|tp, D]: as given",
    ):
        assert part in text, text
    assert "layer0/mha/AO_lin" in report.departing[0].name
    assert len(report.departing) > 50  # all that follows is wrong, too, and only the first is told


def test_the_reason_of_a_collective_is_told():
    name = "layer0/mlp/Z_down.AR"

    class Deaf(Executable):
        def exchange(self, step, blocks):
            made, traffic = super().exchange(step, blocks)
            return (list(blocks) if step.node.name == name else made), traffic

    first = run_check(SMALL, Deaf).first
    assert first.found.name == name
    assert first.found.ranks == tuple(range(6))
    assert "layer0/mlp/Z_down is a pending sum over tp" in first.why


def test_a_report_is_plain_data():
    data = json.loads(json.dumps(run_check(SMALL, scaled("layer0/mlp/A_up", {3}, np.inf)).as_dict(), allow_nan=False))
    assert not data["ok"]
    assert data["mesh"] == {"dp": 2, "tp": 3}
    assert data["sizes"]["D_ff"] == 24
    assert data["first"]["name"] == "layer0/mlp/A_up"
    assert data["first"]["deviation"] is None
    assert data["first"]["blocks"] == [{"rank": 3, "where": "rank 3 (dp=1, tp=0), block [B 6:12, S, D_ff 0:8]"}]
    assert {each["name"]: each["origin"] for each in data["values"]}["layer0/mlp/Z_down.AR"] == "layer0/mlp/Z_down"


def test_values_of_the_parallel_graph_alone_are_checked_too():
    """Parts of a sum, pieces of a cross-entropy over a split vocabulary: the graph on one rank says what they are."""
    setting = Setting(1, "vocabulary", Mesh(tp=2), optimizer="none")
    assert {"output/L_tok.top", "output/L_tok.sum.AR"} <= {each.name for each in run_check(setting).comparisons}
    report = run_check(setting, scaled("output/L_tok.sum", {1}))
    assert report.first.found.name == "output/L_tok.sum"
    assert report.first.found.origin is None


def test_a_graph_written_by_hand_is_checked():
    """Collectives of a user's own (B 4.4.7), no pass involved."""
    B, D = gi.dims("B D")

    def build(mesh):
        block = gi.Builder("hand", mesh=mesh)
        split = None if mesh is None else gi.ir.layout.Layout([["dp"], []])
        X = block.input("X", (B, D), layout=split)
        total = gi.reduce_sum(gi.multiply(X, X, name="squares"), name="total")
        if mesh is not None:
            total = gi.all_reduce(total, axes=("dp",), name="everywhere")
        return block.build(gi.scale(total, by=0.5, name="half"))

    X = np.random.default_rng(0).standard_normal((4, 3)).astype("float32")
    report = check(build(None), build(Mesh(dp=2)), {"B": 4, "D": 3}, {"X": X})
    assert report.ok
    assert [each.name for each in report.comparisons] == ["squares", "total", "everywhere", "half"]
    assert [each.origin for each in report.comparisons] == ["squares", "total", "total", "half"]


def test_graphs_that_share_nothing_are_refused():
    other = gi.Builder("other")
    value = gi.scale(other.input("X", gi.dims("B D")), by=2.0, name="Y")
    block = gi.Builder("one")
    same = gi.scale(block.input("X", gi.dims("B D")), by=2.0, name="Z")
    sharded = shard(other.build(value), Mesh(dp=2), gi.passes.Plan("rows", inputs={"X": "B|dp"}))
    with pytest.raises(ConfigError, match="graph other makes nothing that graph one makes"):
        check(block.build(same), sharded, {"B": 2, "D": 2}, {"X": np.ones((2, 2), "float32")})


def test_blocks_of_another_shape_depart():
    _, parallel, _, _, reference = case(SMALL)
    value = parallel["layer0/mlp/A_up"]
    right = reference.exact[value.name]
    assert compare(value, [right] * 6, parallel.mesh, reference).ranks == tuple(range(6))


def test_a_block_is_told_by_its_ranges():
    _, parallel, sizes, _, _ = case(SMALL)
    value = parallel["layer0/mha/W_Q"]
    assert block_text(value, parallel.mesh, 5, sizes) == f"[D, D {2 * sizes['D'] // 3}:{sizes['D']}]"


# -- the setting ------------------------------------------------------------------------------------------


def test_the_point_is_in_general_position():
    single, _, _, arguments, _ = case(SMALL)
    for value in (*single.parameters, *single.state):
        assert np.ptp(arguments[value.name]) > 0, value.name
    assert all(np.all(arguments[value.name] >= 0) for value in single.state if value.name.endswith(".v"))
    valid = (arguments["Y"] >= 0).reshape(2, -1).sum(axis=1)
    assert valid[0] != valid[1]  # spread unevenly over replicas, so that a mean of means is another mean


def test_all_plans_are_those_whose_axes_the_mesh_has():
    names = {each.complete_plan().name for each in settings(Setting(1, "all", Mesh(tp=2)))}
    assert {"megatron", "column", "vocabulary", "sequence"} <= names
    assert not any("data" in name or "zero" in name for name in names)


# -- the command ------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a call of the command line."""
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    captured = capsys.readouterr()
    return exit.value.code, captured.out, captured.err


def test_the_command_is_green(capsys):
    code, out, _ = call(capsys, "check", "--layers", "1", "--dp", "2", "--tp", "2", "--plan", "data+megatron")
    assert code == 0
    assert "data+megatron on dp=2, tp=2: " in out
    assert "; the interpreter); the worst, " in " ".join(out.split())
    assert "layer0/mha  backward" in out


@pytest.mark.slow
def test_the_command_checks_all_plans_and_prints_json(capsys):
    code, out, _ = call(capsys, "check", "--layers", "1", "--tp", "2", "--plan", "all", "--dtype", "float64", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["ok"]
    assert [each["title"] for each in data["reports"]][:2] == ["single on tp=2", "megatron on tp=2"]
    assert all(each["values"] for each in data["reports"])


@pytest.mark.slow
def test_a_departure_ends_with_1(capsys, monkeypatch):
    monkeypatch.setattr("graphir.checking.parity.Executable.exchange", lambda self, step, blocks: (list(blocks), None))
    code, out, _ = call(capsys, "check", "--layers", "1", "--tp", "2", "--optimizer", "none")
    assert code == 1
    assert "first departure: layer0/mha/AO_lin.AR" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "nothing"], "no plan is called 'nothing'"),
        (["--tp", "3", "--heads", "4", "--width", "24"], "N_H = 4"),
        (["--dp", "2", "--batch", "3"], "B = 3"),
        (["--plan", "sequence", "--dp", "2"], "tp"),
        (["--inject", "--dump", "."], "--inject"),
        (["--map", "map.json"], "--dump"),
        (["--dump", "nowhere"], "nowhere is no folder"),
    ],
)
def test_bad_input_ends_with_2(capsys, arguments, message):
    code, _, err = call(capsys, "check", "--layers", "1", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
