"""An operator that a user declares is whole: it passes every check of the built-in ones, and trains."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.ir import operator as language
from graphir.passes import autodiff, lower, optimize, run_passes
from graphir.testing import check_operator

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "custom_operator.py"


@pytest.fixture(scope="module")
def example():
    """The example's names; what it declares is out of the registry when this module's tests are done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_REGISTRY", dict(language._REGISTRY))
        yield runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize("key", ["RMS", "dRMS"])
def test_a_users_operator_passes_the_checks_of_the_dictionary(example, key):
    check_operator(gi.find_operator(key), count=10)


def test_all_passes_and_the_text_take_it(example):
    graph = run_passes(example["model"](), [autodiff, lower, optimize])
    assert {"RMS", "dRMS"} <= {node.operator.key for node in graph.nodes}
    assert gi.parse(gi.to_text(graph)) == graph


def test_it_computes_what_it_says(example):
    X, gamma = np.asarray([[3.0, 4.0], [0.0, 0.0]]), np.asarray([1.0, 2.0])
    block = gi.Builder("rms", dtype="float64")
    H = example["rms_norm"](block.input("X", (2, 2)), block.input("gamma", (2,)), epsilon=0.5, name="H")
    out = gi.compile(block.build(H), {})({"X": X, "gamma": gamma})
    # mean X² + ε is 13 in the first row.
    np.testing.assert_allclose(out["H"], [[3 / 13**0.5, 8 / 13**0.5], [0, 0]], rtol=1e-15)


def test_a_model_trains_with_it_and_not_without(example):
    with_norm, without = (example["train"](example["model"](normalized), 150) for normalized in (True, False))
    assert with_norm[-1] < 1e-3 * with_norm[0]
    assert without[-1] > 0.1 * without[0]


def test_it_prints_the_graph_and_both_curves(example, capsys):
    example["main"](steps=9)
    printed = capsys.readouterr().out
    assert "dRMS(X, H.r, dH)" in printed
    assert [line.split()[0] for line in printed.splitlines()[-10:]] == ["step", *map(str, range(9))]
