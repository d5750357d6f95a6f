"""A vocabulary of V tokens in V_pad rows: the same numbers, rows that stay zero, and a mask that costs no pass."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.registry import BACKENDS
from graphir.errors import ConfigError
from graphir.ir.graph import Graph
from graphir.ir.value import gradient_name
from graphir.operators import add, broadcast, cross_entropy, mask_padding, matmul, reduce_sum
from graphir.passes import Optimizer, autodiff, dce, mixed_precision, optimize, run_pipeline
from graphir.training import Report, load_checkpoint, train
from graphir.training.metrics import read_metrics
from graphir.training.parallel import Parallel
from graphir.training.vocabulary import Vocabulary
from tests.cuda import emulator, standin
from tests.cuda.harness import to_numpy
from tests.cuda.sources import step as training_step
from tests.cuda.sources import texts_of
from tests.support import small_run
from tests.support.sampled import sampled

#: Bytes are 256 tokens; of 96 they make 288 rows.
MULTIPLE, ROWS = 96, 288
CONFIG = replace(small_run.CONFIG, validate_every=3)
PADDED = replace(CONFIG, vocabulary_multiple=MULTIPLE)

on_the_stand_in = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))


class Told(Report):
    """What a run says of itself before it starts."""

    def begin(self, config: Any, corpus: Any, sizes: Any, parameters: int, step: int) -> None:
        self.sizes, self.parameters = dict(sizes), parameters


def curve(folder: Path) -> list[tuple[float, ...]]:
    """Loss and norm of each step, and the validation's loss of each third."""
    return [
        (record["loss"], record["norm"], record.get("val_loss", 0.0))
        for record in read_metrics(folder / "metrics.jsonl")
    ]


# -- how many rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "tokens", "backend", "rows"),
    [
        ({}, 50257, "numpy", 50257),
        ({}, 50257, "reference", 50257),
        ({}, 50257, "cupy", 50304),
        ({"vocabulary_multiple": 1}, 50257, "cupy", 50257),
        ({"vocabulary_multiple": 128}, 50257, "numpy", 50304),
        ({}, 50304, "cupy", 50304),
        # Where ranks share the rows, each has a multiple.
        ({"tp": 3, "plan": "vocabulary"}, 256, "numpy", 258),
        ({"tp": 2, "plan": "vocabulary"}, 256, "numpy", 256),
        ({"tp": 3}, 256, "numpy", 256),
        ({"tp": 2, "plan": "vocabulary"}, 50257, "cupy", 50304),
        ({"tp": 8, "plan": "vocabulary"}, 50257, "cupy", 50688),
    ],
)
def test_rows_are_the_next_multiple(changes: dict[str, Any], tokens: int, backend: str, rows: int) -> None:
    found = Parallel.of(replace(CONFIG, **changes), tokens, backend).vocabulary
    assert (found.tokens, found.rows) == (tokens, rows)
    assert found.padded is (rows > tokens)
    assert found.sizes == ({"V_pad": rows} if rows > tokens else {})


def test_a_multiple_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--vocabulary-multiple must be at least 1, not 0"):
        train(replace(CONFIG, vocabulary_multiple=0), tmp_path / "run")


# -- the same run -----------------------------------------------------------------------------------------


def assert_same_run(found: Path, expected: Path, rtol: float = 1e-9) -> None:
    """Curves and last checkpoints agree, to rounding."""
    assert np.allclose(curve(found), curve(expected), rtol=rtol, atol=0)
    one, two = (load_checkpoint(max(folder.glob("step-*"))).arrays for folder in (found, expected))
    assert one.keys() == two.keys()
    for name, array in two.items():
        assert one[name].shape == array.shape, name
        # Adam makes steps of the rounding errors of a gradient that is zero analytically.
        assert np.allclose(one[name], array, rtol=1e-7, atol=1e-9), name


VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "three ranks": {"tied": False, "tp": 3, "plan": "vocabulary"},
    # W_lm [D, V_pad] has its padding in columns, and is drawn row by row.
    "untied": {"tied": False},
    "zero3": {"dp": 2, "plan": "zero3"},
}


Plain = Callable[[bool], tuple[Path, Told]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """The run without padding, tied or not: its folder, and what it says of itself."""

    @cache
    def run(tied: bool) -> tuple[Path, Told]:
        folder, told = tmp_path_factory.mktemp("plain"), Told()
        train(replace(CONFIG, tied=tied), folder, report=told)
        return folder, told

    return run


@pytest.mark.slow
@sampled(2, variant=list(VARIANTS))
def test_a_padded_run_is_the_run(tmp_path: Path, plain: Plain, variant: str) -> None:
    changes, told = VARIANTS[variant], Told()
    folder, usual = plain(changes.get("tied", True))
    train(replace(PADDED, **changes), tmp_path, report=told)
    assert_same_run(tmp_path, folder)
    assert usual.sizes == {"B": 4, "S": 12, "D": 24, "N_H": 6, "D_ff": 96, "V": 256}
    assert told.sizes == {**usual.sizes, "V_pad": ROWS}
    # Rows of padding are not trained.
    assert told.parameters == usual.parameters


@pytest.mark.slow
@sampled(1, order=[(MULTIPLE, 1), (1, MULTIPLE), (MULTIPLE, None), (None, 100)])
def test_a_run_goes_on_with_another_multiple(
    tmp_path: Path, plain: Plain, order: tuple[int | None, int | None]
) -> None:
    for steps, multiple in zip((3, 6), order, strict=True):
        config = replace(CONFIG, steps=steps, vocabulary_multiple=multiple)
        train(config, tmp_path, resume=steps == 6)
    assert_same_run(tmp_path, plain(True)[0])


@pytest.mark.slow
@on_the_stand_in
def test_a_gpu_pads_by_itself_and_the_processor_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 256 is a multiple of 64.
    monkeypatch.setitem(BACKENDS, "cupy", replace(BACKENDS["cupy"], row_multiple=MULTIPLE))
    whole = replace(CONFIG, dtype="float32", steps=4, schedule_steps=4, validate_every=2)
    small = replace(whole, steps=2)
    train(whole, tmp_path / "whole")
    with standin.installed():
        train(small, tmp_path / "halves", backend="cupy", report=(told := Told()))
    assert told.sizes["V_pad"] == ROWS
    train(whole, tmp_path / "halves", resume=True, report=told)
    assert "V_pad" not in told.sizes
    assert np.allclose(curve(tmp_path / "halves"), curve(tmp_path / "whole"), rtol=1e-4, atol=0)


# -- rows that are zero ------------------------------------------------------------------------------------


def step_of(optimizer: str, precision: str, tied: bool) -> Graph:
    model = gi.models.transformer(1, padded=True, decode=None, dropout=0.1, tied=tied)
    scaling: dict[str, Any] = {"loss_scale": 1024.0} if precision == "float16" else {}
    return optimize(
        autodiff(mixed_precision(model, precision), **scaling), Optimizer(optimizer, weight_decay=0.3, clip=1.0)
    )


SIZES = {"B": 2, "S": 8, "D": 16, "N_H": 2, "D_ff": 32, "V": 50, "V_pad": 64}


def padding_of(graph: Graph, arrays: Any) -> dict[str, Any]:
    """The part of each array that lies behind the last token."""
    found = {}
    for value in (*graph.parameters, *graph.state):
        axes = [axis for axis, dim in enumerate(value.shape) if str(dim) == "V_pad"]
        if axes:
            array = np.moveaxis(to_numpy(arrays[value.name]), axes[0], 0)
            assert array.shape[0] == SIZES["V_pad"]
            found[value.name] = array[SIZES["V"] :]
    return found


@sampled(
    backend=["reference", "numpy", "cupy"],
    step=["adamw float32", "adam float32", "sgd float32", "adamw bfloat16", "adamw float16"],
    tied=[True, False],
)
def test_padding_has_no_gradient_and_stays_zero(backend: str, step: str, tied: bool) -> None:
    if backend == "cupy" and emulator.MISSING is not None:
        pytest.skip(emulator.MISSING)
    optimizer, precision = step.split()
    graph = step_of(optimizer, precision, tied)
    vocabulary = Vocabulary(SIZES["V"], SIZES["V_pad"])
    T, Y = np.random.default_rng(0).integers(0, SIZES["V"], (2, SIZES["B"], SIZES["S"]))
    held: Any = vocabulary.initialize(graph, SIZES, seed=0)
    assert not any(part.any() for part in padding_of(graph, held).values())
    names = [name for name in padding_of(graph, held) if name in {value.name for value in graph.parameters}]
    assert len(names) == (2 if tied else 3)
    updated = [value.name for value in graph.updates.values()]
    with standin.installed() if backend == "cupy" else pytest.MonkeyPatch.context():
        fetch = [*updated, *map(gradient_name, names)]
        run = gi.compile(graph, SIZES, fetch=fetch, backend=backend)
        for step in range(3):
            result = run(held, {"T": T, "Y": Y, "seed": 0, "step": step})
            for name in names:
                gradient = to_numpy(result[gradient_name(name)])
                rows = np.moveaxis(gradient, gradient.shape.index(SIZES["V_pad"]), 0)
                assert rows[: SIZES["V"]].any(), name
                assert not rows[SIZES["V"] :].any(), name
            held = result.updated()
        assert not any(part.any() for part in padding_of(graph, held).values())


# -- a mask that costs no pass -----------------------------------------------------------------------------

B, S, D, V, V_PAD = gi.dims("B S D V V_pad")


def loss_of(padded: bool) -> Graph:
    """The loss of logits with a bias, and its gradients, products in 16 bits."""
    block = gi.Builder()
    width = V_PAD if padded else V
    X, Y = block.input("X", (B, S, D)), block.input("Y", (B, S), "int64")
    W, b = block.parameter("W", (D, width)), block.parameter("b", (width,), init="zeros")
    Z = add(matmul(X, W, name="Z_lin"), broadcast(b, (B, S)), name="Z")
    if padded:
        Z = mask_padding(Z, valid=V, name="Z_valid")
    return autodiff(mixed_precision(block.build(reduce_sum(cross_entropy(Z, Y, name="L_tok"), name="L")), "bfloat16"))


ODD, EVEN, PADDING = {"V": 2001}, {"V": 2048}, {"V": 2001, "V_pad": 2048}


def passes_over_logits(padded: bool, sizes: dict[str, int]) -> tuple[int, list[dict[str, Any]]]:
    """How many kernels there are, and of CE's and dCE's, which take exponentials, what they move and in which packs."""
    texts = texts_of(loss_of(padded), {"B": 2, "S": 4, "D": 8, **sizes})
    bodies = [text[text.index("typedef float T;") :] for text in texts]
    return len(texts), [
        {
            "loads": len(re.findall(r"load<VECTOR>", body)),
            "stores": len(re.findall(r"store<VECTOR>", body)),
            "pack": re.findall(r"VECTOR = (\d+)", body),
        }
        for body in bodies
        if re.search(r"\bexp\(", body)
    ]


def test_on_a_gpu_the_mask_is_a_comparison_in_the_kernels_of_the_loss() -> None:
    """As many kernels, which read and write as much in packs as wide, as for a vocabulary that needs no padding."""
    padded, even, odd = (passes_over_logits(*each) for each in ((True, PADDING), (False, EVEN), (False, ODD)))
    assert padded == even
    assert [kernel["pack"] for kernel in padded[1]] == [["4"], ["4"]]
    # What it is for: rows that start anywhere are read and written one number at a time.
    assert [kernel["pack"] for kernel in odd[1]] == [["1"], ["1"]]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fused_the_mask_makes_no_value_of_its_own(precision: str) -> None:
    """What nodes hand on is as many arrays over the vocabulary as without it."""
    found = []
    for padded in (False, True):
        graph = run_pipeline(dce(training_step(precision, padded=padded)))
        shapes = (" ".join(map(str, value.shape)) for node in graph.nodes for value in node.outputs)
        found.append(sorted(shape.replace("V_pad", "V") for shape in shapes if "V" in shape))
    assert found[0] == found[1]
    assert found[0].count("B S V") in (3, 4)


# -- the command line --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_shows_its_rows(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    model = ["--layers=1", "--width=16", "--heads=2", "--sequence=8", "--batch=2", "--sample=5", "--steps=2"]
    code, out, _ = call("train", *model, f"--vocabulary-multiple={MULTIPLE}", f"--out={tmp_path / 'run'}")
    assert code == 0
    assert f"V=256  V_pad={ROWS}\n" in out
    # Of a sample, the model has V rows.
    assert "the model continues 'The '" in out
    code, _, err = call("train", *model, "--vocabulary-multiple=0", f"--out={tmp_path / 'none'}")
    assert (code, err) == (2, "error: --vocabulary-multiple must be at least 1, not 0\n")


def test_cost_says_what_padding_costs(call: Callable[..., tuple[int, str, str]]) -> None:
    model = ["--layers=1", "--width=32", "--sequence=16", "--batch=2", "--vocabulary=50"]
    plain, padded = (
        json.loads(call("cost", *model, *more, "--json")[1]) for more in ([], ["--vocabulary-multiple=64"])
    )
    assert plain["padding of the vocabulary"] == {}
    assert "V_pad" not in plain["sizes"]
    assert padded["sizes"]["V_pad"] == 64
    extra = padded["padding of the vocabulary"]
    # 14 rows of E and entries of b_lm; AdamW's two moments of each.
    assert extra["parameters"] == 14 * 33 == padded["parameters"]["number"] - plain["parameters"]["number"]
    assert extra["optimizer state"] == 2 * 14 * 33
    # B S rows of logits: their product, 2 D a column, bias, mask and CE.
    assert extra["FLOPs, forward"] == 2 * 16 * 14 * (2 * 32 + 1 + 1 + 5)
    table = call("cost", *model, "--vocabulary-multiple=64")[1]
    assert "V_pad = 64 adds" in table
    assert f"adds {14 * 33} (" in table
    assert "adds" not in call("cost", *model)[1]


def test_a_profile_is_that_of_the_padded_model(call: Callable[..., tuple[int, str, str]]) -> None:
    model = ["--layers=1", "--width=16", "--heads=2", "--sequence=8", "--batch=2", "--vocabulary=50", "--what=train"]
    code, out, _ = call("profile", *model, "--vocabulary-multiple=64", "--repetitions=1", "--json")
    assert code == 0
    assert json.loads(out)["sizes"]["V_pad"] == 64
