"""An operator that a user declares is whole: it passes every check of the built-in ones, and trains."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

import graphir as gi
from examples import custom_operator as example
from graphir.ir import operator as language
from graphir.passes import autodiff, lower, optimize, run_passes
from graphir.testing import check_operator
from tests.support.paths import ROOT

SOURCE = ROOT / "examples" / "custom_operator.py"


@pytest.mark.parametrize("key", ["UNIT", "dUNIT"])
def test_a_users_operator_passes_the_checks_of_the_dictionary(key):
    check_operator(gi.find_operator(key), count=10)


def test_the_example_checks_itself_by_one_call():
    assert example.check() is None


#: What a user may get wrong in the two kernels, and what is said of it.
SLIPS = {
    "the length's own gradient forgotten": (
        "dX = r[..., None] * (g - normal * (g * normal).sum(axis=-1)[..., None])",
        "dX = r[..., None] * g",
        r"UNIT\(X, gamma\) .*, a loss of H: the gradient along .* finite differences are off by",
    ),
    "a dtype that grows": (
        "X.dtype.type(epsilon)",
        "np.float64(epsilon)",
        "the kernel of UNIT made float64.*, which its signature makes float32",
    ),
    "a dim that must be whole is not declared so": (
        '"X[*b d!], gamma[d!] -> H[*b d!], r[*b]"',
        '"X[*b d], gamma[d] -> H[*b d], r[*b]"',
        "d split over . ranks: H is not what one rank makes",
    ),
    "an operand overwritten": (
        "return X * r[..., None] * gamma, r",
        "X *= r[..., None]\n    return X * gamma, r",
        "the kernel of UNIT writes into an operand",
    ),
    "a result that is no longer a mere statistic": (
        'auxiliary="r"',
        'auxiliary=""',
        r"a loss of H and r: .* finite differences are off by",
    ),
    "a trait that does not hold": ("flops=4", 'flops=4, linear="X"', "H is not linear in X: off by"),
    "a dependence denied": (
        '{"dgamma": "X r dH"}',
        '{"dgamma": "X dH"}',
        r"dUNIT0 .* = dUNIT\(X, dH\) with .*'only': .'dgamma',.*: a kernel failed, TypeError",
    ),
    "a dependence forgotten": (
        '{"dgamma": "X r dH"}',
        '{"dX": "X r dH", "dgamma": "X r dH"}',
        "dUNIT: by its depends no output depends on gamma; ",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_in_the_operators_own_names(monkeypatch, slip):
    right, wrong, complaint = SLIPS[slip]
    program = SOURCE.read_text(encoding="utf-8")
    assert program.count(right) == 1
    monkeypatch.setattr(language, "_REGISTRY", dict(language._REGISTRY))
    for key in ("UNIT", "dUNIT"):
        language._REGISTRY.pop(key, None)
    module = ModuleType("slip")
    monkeypatch.setitem(sys.modules, "slip", module)
    exec(compile(program.replace(right, wrong), str(SOURCE), "exec"), module.__dict__)
    with pytest.raises(AssertionError, match=complaint):
        module.check()


def test_all_passes_and_the_text_take_it():
    graph = run_passes(example.model(), [autodiff, lower, optimize])
    assert {"UNIT", "dUNIT"} <= {node.operator.key for node in graph.nodes}
    assert gi.parse(gi.to_text(graph)) == graph


def test_it_computes_what_it_says():
    X, gamma = np.asarray([[3.0, 4.0], [0.0, 0.0]]), np.asarray([1.0, 2.0])
    block = gi.Builder("unit", dtype="float64")
    H = example.unit_norm(block.input("X", (2, 2)), block.input("gamma", (2,)), epsilon=0.5, name="H")
    out = gi.compile(block.build(H), {})({"X": X, "gamma": gamma})
    # Σ X² + ε is 25.5 in the first row.
    np.testing.assert_allclose(out["H"], [[3 / 25.5**0.5, 8 / 25.5**0.5], [0, 0]], rtol=1e-15)


def test_a_model_trains_with_it_and_not_without():
    with_norm, without = (example.train(example.model(normalized), 150) for normalized in (True, False))
    assert with_norm[-1] < 1e-3 * with_norm[0]
    assert without[-1] > 0.1 * without[0]


def test_it_prints_the_graph_and_both_curves(capsys):
    example.main(steps=9)
    printed = capsys.readouterr().out
    assert "dUNIT(X, H.r, dH)" in printed
    assert [line.split()[0] for line in printed.splitlines()[-10:]] == ["step", *map(str, range(9))]
