"""The CuPy backend over the stand-in for CuPy: the real executable, its captures, memory and checks, on a CPU.

What kernels compute is tested with them; here whole graphs are held to the interpreter, and the executable to what it
promises: everything captured, nothing allocated or waited for in a capture, results that are the caller's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir import compiler
from graphir.backends import Executable, plan
from graphir.backends.arrays import is_on_device, to_numpy
from graphir.backends.compiled.writer import run_reference
from graphir.backends.cupy.capture import Recording, not_captured
from graphir.backends.device import device_properties
from graphir.errors import ConfigError, DeviceError, InputError, MissingDependencyError, NonFiniteError
from graphir.extras import install
from graphir.passes import LEVELS, autodiff
from tests.backends.compiled.test_compiled import LARGE, PLANS, SIZES, agree, arguments
from tests.cuda import emulator, standin
from tests.cuda.runtime import STATE
from tests.support.paths import ROOT
from tests.support.sampled import sampled
from tests.support.sharding_cases import Case, batch, sharded_step_of, start, step_of

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

SINGLE = Case("single", ())


@pytest.fixture
def cupy() -> Iterator[Any]:
    with standin.installed() as module:
        yield module


def home(run: Any) -> dict[str, Any]:
    """A run's results in NumPy's memory."""
    return {name: run.numpy(name) for name in run}


def step(**options: Any) -> tuple[Any, Any]:
    """An AdamW step of the documents' Transformer on a GPU, and the same by the interpreter."""
    graph = step_of(SINGLE)
    return (
        gi.compile(graph, SINGLE.sizes, backend="cupy", **options),
        gi.compile(graph, SINGLE.sizes, backend="reference"),
    )


def beginning() -> dict[str, Any]:
    return dict(start(step_of(SINGLE), tuple(SINGLE.sizes.items())))


# -- what is computed -------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tied": False, "qkv_bias": True, "activation": "gelu", "final_norm": False},
    "no dropout": {"dropout": 0.0, "activation": "relu", "positions": "sinusoidal"},
    "bidirectional": {"causal": False, "activation": "silu"},
}


@sampled(1, variant=list(VARIANTS))
def test_every_node_of_the_transformer(cupy: Any, variant: str) -> None:
    options = {"dropout": 0.2, "activation": "gelu_tanh", "dtype": "float64", "decode": None, **VARIANTS[variant]}
    graph = autodiff(gi.models.transformer(2, **options))
    given = arguments(graph, SIZES)
    everything = [name for name, value in graph.values.items() if value.type.is_float]
    wanted = gi.compile(graph, SIZES, backend="reference", fetch=everything)(*given)
    agree(home(gi.compile(graph, SIZES, backend="cupy", fetch=everything)(*given)), wanted, 1e-11)


@sampled(1, level=("attention", *(level for level in LEVELS if level != "attention")))
def test_attention_in_several_tiles_of_queries(cupy: Any, level: str) -> None:
    sizes = {**SIZES, "S": 200}
    graph = autodiff(gi.models.transformer(1, dropout=0.2, dtype="float64", decode=None))
    given = arguments(graph, sizes)
    wanted = gi.compile(graph, sizes, backend="reference")(*given)
    run = gi.compile(graph, sizes, backend="cupy", recompute=level)
    causal = [task for task in run.prepared.tasks if task.causal is not None]
    assert causal
    # What a kernel carries out without its scores is not cut.
    assert any(task.in_registers for task in causal) == (level not in ("nothing", "masks"))
    assert all(len(list(task.tiles[0])) == (1 if task.in_registers else 4) for task in causal)
    for _ in range(2):
        agree(home(run(*given)), wanted, 1e-10)


def test_masks_are_those_of_numpy_bit_for_bit(cupy: Any) -> None:
    graph = gi.models.transformer(1, dropout=0.3, decode=None)
    masks = [name for name, value in graph.values.items() if value.dtype == "bool"]
    assert masks
    given = arguments(graph, LARGE)
    on_cpu, on_gpu = (gi.compile(graph, LARGE, backend=each, fetch=masks) for each in ("numpy", "cupy"))
    for number in range(3):
        given[1]["step"] = number
        first, second = on_cpu(*given), on_gpu(*given)
        for name in masks:
            assert np.array_equal(first[name], second.numpy(name)), name


def test_steps_of_training_follow_the_interpreter(cupy: Any) -> None:
    run, reference = step()
    mine, its = beginning(), beginning()
    for number in range(4):
        made, wanted = run(mine, batch(SINGLE.sizes, number)), reference(its, batch(SINGLE.sizes, number))
        agree(home(made), wanted, 1e-9)
        mine, its = made.updated(), wanted.updated()
        assert all(is_on_device(array) for array in mine.values())


@pytest.mark.parametrize(
    ("case", "share"),
    [pytest.param(case, bool(i % 2), marks=pytest.mark.slow if i != 5 else ()) for i, case in enumerate(PLANS)],
    ids=str,
)
def test_every_plan_on_simulated_ranks(cupy: Any, case: Case, share: bool) -> None:
    graph = sharded_step_of(case)
    given = start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0)
    wanted = gi.compile(graph, case.sizes, backend="reference")(*given)
    run = gi.compile(graph, case.sizes, backend="cupy", share_replicas=share)
    for _ in range(3):
        made = run(*given)
        agree(home(made), wanted, 1e-9)
        assert {name: sent.bytes for name, sent in made.traffic.items()} == {
            name: sent.bytes for name, sent in wanted.traffic.items()
        }


def test_the_interpreter_runs_on_a_gpu_too(cupy: Any) -> None:
    for case in (SINGLE, PLANS[0]):
        graph = sharded_step_of(case) if case.mesh else step_of(case)
        given = start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0)
        made = Executable(plan(graph, case.sizes), xp=cupy)(*given)
        assert all(is_on_device(made[name]) for name in made)
        agree(home(made), Executable(plan(graph, case.sizes))(*given), 1e-12)


# -- captures ---------------------------------------------------------------------------------------------


def test_a_step_is_one_graph_from_the_second_run_on(cupy: Any) -> None:
    run, _ = step()
    given = beginning(), batch(SINGLE.sizes, 0)
    first = home(run(*given))
    assert not STATE.graphs
    others = [home(run(*given)) for _ in range(3)]
    (recording,) = run.recordings[0]
    assert (recording.graphs, recording.outside, recording.refused) == (1, [], [])
    assert recording.captured == len(run.programs[0].segments[0].calls[0]) > 50
    assert [graph.launches for graph in STATE.graphs] == [3]
    assert all(first[name].tobytes() == other[name].tobytes() for other in others for name in first)


def test_between_exchanges_there_is_a_graph_for_each_rank(cupy: Any) -> None:
    case = Case("data", (("dp", 2),))
    run = gi.compile(sharded_step_of(case), case.sizes, backend="cupy")
    for _ in range(2):
        run(start(step_of(case), tuple(case.sizes.items())), batch(case.sizes, 0))
    for recordings in run.recordings:
        assert not any(each.refused for each in recordings)
        assert not any(call[0] is run_reference for each in recordings for call in each.outside)
        assert sum(each.captured for each in recordings) > 50


def test_what_a_captured_step_reads_may_change_between_runs(cupy: Any) -> None:
    run, reference = step(donate=True)
    parameters = beginning()
    for number in range(4):
        given = {name: array * (1 + number / 4) for name, array in parameters.items()}
        inputs = batch(SINGLE.sizes, number)
        # From NumPy's memory, from the device's, and from where it does not lie side by side.
        for place in (np.asarray, cupy.asarray, np.asfortranarray):
            held = {name: place(array) for name, array in given.items()}
            agree(home(run(held, inputs)), reference(given, inputs), 1e-9)


def test_nobody_waits_for_the_device_but_who_looks_at_a_result(cupy: Any) -> None:
    run, _ = step(donate=True)
    state = run(beginning(), batch(SINGLE.sizes, 0)).updated()
    for number in range(1, 4):
        before = len(STATE.waits)
        made = run(state, batch(SINGLE.sizes, number))
        # What the run before was handed in by has been read: the one thing that a run makes sure of.
        assert STATE.waits[before:] == ["Event.synchronize"]
        state = made.updated()
    before = len(STATE.waits)
    float(made["L"])
    assert STATE.waits[before:] == ["get"]


def test_reference_kernels_run_between_graphs(cupy: Any) -> None:
    calls: list[int] = []

    @not_captured
    def look(number: int) -> None:
        calls.append(number)

    target = cupy.zeros((3,), "float32")
    written = [(cupy.add, (target, 1, target)), (cupy.multiply, (target, 2, target))]
    stream = cupy.cuda.Stream()
    recording = Recording(cupy, stream, [*written, (look, (1,)), *written, *written])
    with stream:
        for _ in range(3):
            recording.run()
    assert calls == [1, 1, 1]
    assert (recording.graphs, recording.captured, recording.outside) == (2, 6, [(look, (1,))])
    expected = 0.0
    for _ in range(9):
        expected = (expected + 1) * 2
    assert target.get().tolist() == [expected] * 3


def test_a_call_that_the_device_does_not_capture_is_left_out_of_the_graph(cupy: Any) -> None:
    target = cupy.zeros((), "float32")
    add = (cupy.add, (target, 1, target))
    read: list[float] = []
    stream = cupy.cuda.Stream()
    recording = Recording(cupy, stream, [add, add, (lambda: read.append(float(target)), ()), add, add])
    with stream:
        for _ in range(3):
            recording.run()
    assert read == [2, 6, 10]
    assert float(target) == 12
    assert (recording.graphs, recording.captured, len(recording.outside)) == (2, 4, 1)
    ((_, error),) = recording.refused
    assert str(error) == "the current stream is capturing, so D2H transfers are disallowed"


def test_memory_that_is_somebody_elses_later_is_no_part_of_a_graph(cupy: Any) -> None:
    target, source = cupy.zeros((3,), "float32"), cupy.ones((3,), "float32")
    add = (cupy.add, (target, source, target))

    def add_twice() -> None:
        # What CuPy makes of operands that overlap a result, too: a copy that is gone when it returns.
        cupy.add(target, source + source, target)

    stream = cupy.cuda.Stream()
    recording = Recording(cupy, stream, [add, add, (add_twice, ()), add, add])
    with stream:
        for _ in range(3):
            recording.run()
    assert target.get().tolist() == [18] * 3
    assert (recording.graphs, recording.captured, recording.outside) == (2, 4, [(add_twice, ())])
    ((_, error),) = recording.refused
    assert str(error) == "12 bytes are allocated while a stream is captured"


def test_a_graph_that_cannot_be_made_is_carried_out_call_by_call(cupy: Any) -> None:
    target = cupy.zeros((), "float32")
    stream = cupy.cuda.Stream()

    def spoil() -> None:
        # As a library that says nothing of what it did to the capture.
        if stream.is_capturing():
            stream.capture.is_broken = True

    recording = Recording(cupy, stream, [(cupy.add, (target, 1, target)), (spoil, ())])
    with stream:
        for _ in range(3):
            recording.run()
    assert float(target) == 3
    assert (recording.graphs, len(recording.outside), len(recording.refused)) == (0, 2, 2)


def test_an_error_of_a_call_is_raised_and_the_next_run_works(cupy: Any) -> None:
    graph = autodiff(gi.models.transformer(1, dropout=0.0))
    run = gi.compile(graph, SIZES, backend="cupy")
    given = arguments(graph, SIZES)
    wanted = home(run(*given))
    calls = run.recordings[0][0]._calls
    kept = calls[3]

    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("on purpose")

    calls[3] = (fail, kept[1])
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run(*given)
    assert STATE.stream.null, "the caller's stream is current again"
    run.__dict__.pop("recordings")
    calls[3] = kept
    for _ in range(3):
        assert all(wanted[name].tobytes() == array.tobytes() for name, array in home(run(*given)).items())


# -- arguments and results --------------------------------------------------------------------------------


def test_results_are_the_callers_and_a_later_run_leaves_them_alone(cupy: Any) -> None:
    run, _ = step()
    results = [run(beginning(), batch(SINGLE.sizes, number)) for number in range(3)]
    again = [home(run(beginning(), batch(SINGLE.sizes, number))) for number in range(3)]
    for one, other in zip(results, again, strict=True):
        assert all(one.numpy(name).tobytes() == other[name].tobytes() for name in other)


def test_donated_state_stays_where_it_is(cupy: Any) -> None:
    run, _ = step(donate=True)
    given = beginning()
    kept = {name: array.copy() for name, array in given.items()}
    state = run(given, batch(SINGLE.sizes, 0)).updated()
    # The caller's own arrays are NumPy's, which no device writes to.
    assert all(np.array_equal(given[name], kept[name]) for name in kept)
    places = {name: array.data.ptr for name, array in state.items()}
    for number in range(1, 3):
        state = run(state, batch(SINGLE.sizes, number)).updated()
        assert {name: array.data.ptr for name, array in state.items()} == places


def test_donated_state_is_not_copied(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = step(donate=True)
    state = run(beginning(), batch(SINGLE.sizes, 0)).updated()
    run(state, batch(SINGLE.sizes, 1))
    copied: list[Any] = []
    monkeypatch.setattr(run.engine, "copy", lambda target, source: copied.append(target))
    run(state, batch(SINGLE.sizes, 2))
    assert copied == []


def test_simulated_ranks_update_replicas_once_each(cupy: Any) -> None:
    case = Case("data", (("dp", 2),))
    graph, given = sharded_step_of(case), dict(start(step_of(case), tuple(case.sizes.items())))
    reference = gi.compile(graph, case.sizes, backend="reference")
    run = gi.compile(graph, case.sizes, backend="cupy", donate=True)
    mine, its = given, given
    for number in range(3):
        mine = run(mine, batch(case.sizes, number)).updated()
        its = reference(its, batch(case.sizes, number)).updated()
    for name, array in its.items():
        np.testing.assert_allclose(to_numpy(mine[name]), array, rtol=1e-9, atol=1e-11, err_msg=name)


def test_everything_lies_in_one_arena_as_planned(cupy: Any) -> None:
    run, _ = step()
    run(beginning(), batch(SINGLE.sizes, 0))
    arrays = run.programs[0].rank.arrays
    inside = run.prepared.arena.offsets
    lowest = min(arrays[value].data.ptr - offset for value, offset in inside.items())
    assert all(arrays[value].data.ptr == lowest + offset for value, offset in inside.items())
    assert lowest % run.engine.alignment == 0
    assert run.memory.arena == run.prepared.arena.size > 0


def test_a_run_is_watched_by_the_interpreter_on_the_device(cupy: Any) -> None:
    run, reference = step()
    seen: dict[str, Any] = {}

    def look(node: Any, rank: int, results: tuple[Any, ...]) -> None:
        assert all(is_on_device(array) for array in results)
        seen.update(zip((value.name for value in node.outputs), results, strict=True))

    given = beginning(), batch(SINGLE.sizes, 0)
    run(*given, watch=look)
    wanted = reference(*given)
    assert all(np.allclose(to_numpy(seen[name]), wanted[name], rtol=1e-9) for name in wanted if name in seen)


def test_the_first_node_that_is_not_finite_is_named(cupy: Any) -> None:
    graph = gi.models.transformer(1, dropout=0.0, decode=None)
    parameters, inputs = arguments(graph, SIZES)
    parameters["layer0/mlp/W_up"] = np.full_like(parameters["layer0/mlp/W_up"], 3e38)
    run = gi.compile(graph, SIZES, backend="cupy")
    on_device = {name: cupy.asarray(array) for name, array in parameters.items()}
    with pytest.raises(NonFiniteError, match=r"^layer0/mlp/\S+ float32\[B, S, D_ff\] is the first value to hold"):
        run.find_non_finite(on_device, inputs)


@pytest.mark.parametrize("place", ["host", "device"])
def test_ids_out_of_range_are_found_wherever_they_are(cupy: Any, place: str) -> None:
    graph = gi.models.transformer(1, dropout=0.0, decode=None)
    parameters, inputs = arguments(graph, SIZES)
    inputs["T"] = inputs["T"].copy()
    inputs["T"][1, 2] = SIZES["V"]
    if place == "device":
        inputs["T"] = cupy.asarray(inputs["T"])
    with pytest.raises(InputError, match=rf"^T\[1, 2\] = {SIZES['V']} is out of range: "):
        gi.compile(graph, SIZES, backend="cupy")(parameters, inputs)


def test_an_array_of_a_gpu_is_refused_by_other_backends(cupy: Any) -> None:
    graph = gi.models.transformer(1, dropout=0.0, decode=None)
    parameters, inputs = arguments(graph, SIZES)
    inputs["T"] = cupy.asarray(inputs["T"])
    with pytest.raises(InputError, match=r"T int64\[B, S\] lies on a GPU: hand in its \.get\(\), or compile with"):
        gi.compile(graph, SIZES)(parameters, inputs)


def test_text_stays_on_the_host(cupy: Any) -> None:
    block = gi.Builder()
    B, S = gi.dims("B S")
    graph = block.build(gi.tokenize(block.input("text", (B,), "text"), s=S, name="T"))
    run = gi.compile(graph, {"B": 2, "S": 4}, backend="cupy")
    for _ in range(3):
        assert run({"text": ["ab", "xyz"]}).numpy("T").tolist() == [[97, 98, 0, 0], [120, 121, 122, 0]]


# -- what is refused --------------------------------------------------------------------------------------

OPTIONS = "precision, algorithm, share_replicas, bucket, tiling"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 2}, f"threads is no option of backend 'cupy', which has {OPTIONS}; it is one of 'numpy'"),
        ({"kernels": "numpy"}, f"kernels is no option of backend 'cupy', which has {OPTIONS}; it is one of 'numpy'"),
        ({"bucket": 0}, "bucket=0 is for gradients that travel between processes, ranks='nccl', not 'simulated'"),
        ({"precision": "fp8"}, "precision 'fp8' is none of float32, tf32"),
    ],
)
def test_options_that_make_no_sense_on_a_gpu(options: dict[str, Any], message: str) -> None:
    graph = gi.models.transformer(1, decode=None)
    with pytest.raises(ConfigError) as caught:
        gi.compile(graph, SIZES, backend="cupy", **options)
    assert str(caught.value) == message


def test_tf32_is_for_tensor_cores_and_16_bits_are_for_a_pass() -> None:
    graph = gi.models.transformer(1, decode=None)
    with pytest.raises(ConfigError, match=r"^precision is no option of backend 'numpy', .*; it is one of 'cupy'$"):
        gi.compile(graph, SIZES, precision="tf32")
    with pytest.raises(ConfigError, match=r"property of the graph, .* passes.mixed_precision\(graph, 'float16'\)"):
        gi.compile(graph, SIZES, precision="float16")


def test_tf32_rounds_factors_alone(cupy: Any) -> None:
    graph = gi.models.transformer(1, dropout=0.0, decode=None)
    given = arguments(graph, LARGE)
    exact, rounded = (gi.compile(graph, LARGE, backend="cupy", precision=each) for each in ("float32", "tf32"))
    gap = abs(float(exact(*given)["L"]) - float(rounded(*given)["L"]))
    assert 0 < gap < 1e-3


def test_without_a_gpu_there_is_one_sentence(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "devices", 0)
    with pytest.raises(DeviceError) as caught:
        gi.compile(gi.models.transformer(1, decode=None), SIZES, backend="cupy")
    assert str(caught.value) == (
        'backend="cupy" needs an NVIDIA GPU and its driver, and CUDA says cudaErrorNoDevice: no CUDA-capable device is '
        'detected; use backend="numpy" to run without'
    )


def test_without_cupy_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    told = f"CuPy .*: {re.escape(install('cuda12'))}, .*{re.escape(install('cuda13'))}"
    with pytest.raises(MissingDependencyError, match=told):
        gi.compile(gi.models.transformer(1, decode=None), SIZES, backend="cupy")


def test_a_cupy_that_is_too_old_is_told_apart(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy, "__version__", "13.6.0")
    with pytest.raises(MissingDependencyError, match=r"CuPy 13\.6\.0 is older than 14: pip install "):
        gi.compile(gi.models.transformer(1, decode=None), SIZES, backend="cupy")


def test_a_graph_that_does_not_fit_says_what_it_needs(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Unless a proof is asked for, nothing is allocated before the first run.
    monkeypatch.setattr(compiler, "CHECK", False)
    monkeypatch.setattr(STATE, "memory", 1 << 10)
    run, _ = step()
    with pytest.raises(
        DeviceError, match=r"transformer needs \d+\.\d kB, and the device has 1\.0 kB left; compile with memory="
    ):
        run(beginning(), batch(SINGLE.sizes, 0))


def test_the_device_is_described(cupy: Any) -> None:
    assert str(device_properties()) == (
        "stand-in, sm_90, 4 multiprocessors, 8 GiB, CUDA 13.0, driver for 13.0, CuPy 14.2.0"
    )


def test_declaring_the_rules_loads_no_cupy() -> None:
    program = "import graphir.backends.cupy, sys; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=300)
