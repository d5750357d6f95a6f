"""Gradients as a framework leaves them, `H.grad` after all reductions, where this graph keeps the ranks' terms apart.

The other program is NumPy, written out by hand: an MLP under dp=2, tp=2, whose ranks reduce the gradient of what they
share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.checking import Report, assign, check_dump, infer_sizes, read_dump
from graphir.checking.names import NameMap
from graphir.ir.layout import Mesh
from graphir.passes import Plan, autodiff, shard

MESH = Mesh(dp=2, tp=2)
PLAN = Plan("mlp", parameters={"W_up": "[_, _|tp]", "W_down": "[_|tp, _]"}, inputs={"X": "B|dp", "Target": "B|dp"})
Arrays = dict[str, NDArray[Any]]


def _model() -> gi.Graph:
    """H = X • W_0, L = Σ (relu(H • W_up) • W_down) ⊙ Target, differentiated."""
    B, D, F = gi.dims("B D D_ff")
    block = gi.Builder("mlp")
    X, target = block.input("X", (B, D)), block.input("Target", (B, D))
    H = gi.matmul(X, block.parameter("W_0", (D, D)), name="H")
    A = gi.activation(gi.matmul(H, block.parameter("W_up", (D, F)), name="Z_up"), kind="relu", name="A_up")
    Z = gi.matmul(A, block.parameter("W_down", (F, D)), name="Z_down")
    return autodiff(block.build(gi.reduce_sum(gi.multiply(Z, target, name="weighted"), name="L")))


def _ranks(reduced: bool = True) -> list[Arrays]:
    """What each rank of the other program dumps; where it is not `reduced`, its own term of H.grad."""
    rng = np.random.default_rng(5)
    X, target = rng.standard_normal((2, 4, 6))
    W_0, W_up, W_down = (rng.standard_normal(shape) for shape in ((6, 6), (6, 8), (8, 6)))
    H = X @ W_0
    Z_up = H @ W_up
    dZ_up = (target @ W_down.T) * (Z_up > 0)
    loss = ((np.maximum(Z_up, 0) @ W_down) * target).sum()
    ranks = []
    for dp in range(2):
        rows = slice(2 * dp, 2 * dp + 2)
        for tp in range(2):
            columns = slice(4 * tp, 4 * tp + 4)
            own = columns if not reduced else slice(None)
            made = {
                "X": X[rows], "Target": target[rows], "W_0": W_0, "W_up": W_up[:, columns], "W_down": W_down[columns],
                "H": H[rows], "H.grad": dZ_up[rows, own] @ W_up[:, own].T, "W_0.grad": X.T @ (dZ_up @ W_up.T),
                "W_up.grad": H.T @ dZ_up[:, columns], "L.AR": loss,
            }  # fmt: skip
            ranks.append({name: np.asarray(array, np.float32) for name, array in made.items()})
    return ranks


def _examine(folder: Path, ranks: list[Arrays]) -> Report:
    single = _model()
    parallel = shard(single, MESH, PLAN)
    assert dict(parallel["dH"].type.layout.pending) == {"tp": "sum"}
    for rank, arrays in enumerate(ranks):
        np.savez(folder / f"rank{rank}.npz", **arrays)  # type: ignore[arg-type]
    found = assign(read_dump(folder, MESH), parallel)
    return check_dump(single, parallel, infer_sizes(found, parallel, {}), found)


def test_a_gradient_that_every_rank_has_whole_is_right_where_the_graph_has_terms_of_it(tmp_path: Path) -> None:
    report = _examine(tmp_path, _ranks())
    assert report.ok, report.text()
    found = {each.name: each for each in report.comparisons}
    assert found["dH"].type == "float32[B|dp, D]"


def test_a_term_where_the_gradient_should_be_departs_on_every_rank(tmp_path: Path) -> None:
    report = _examine(tmp_path, _ranks(reduced=False))
    assert [each.name for each in report.departing] == ["dH"]
    assert report.departing[0].ranks == (0, 1, 2, 3)


def test_the_terms_are_right_under_the_graphs_own_name(tmp_path: Path) -> None:
    ranks = [{name.replace("H.grad", "dH"): array for name, array in held.items()} for held in _ranks(reduced=False)]
    assert _examine(tmp_path, ranks).ok


def test_replicas_of_such_a_gradient_are_held_to_each_other(tmp_path: Path) -> None:
    ranks = _ranks()
    ranks[3]["H.grad"] = ranks[3]["H.grad"] * np.float32(1.01)
    report = _examine(tmp_path, ranks)
    assert report.departing[0].ranks == (3,)
    assert not report.departing[0].replicas


@pytest.mark.parametrize(("name", "settled"), [("H.grad", True), ("dH", False), ("H", False), ("W_up.grad", True)])
def test_only_what_ends_in_grad_is_meant_after_all_reductions(name: str, settled: bool) -> None:
    assert NameMap(shard(_model(), MESH, PLAN)).find(name).settled is settled


@pytest.mark.torch
def test_pytorchs_own_gradients_are_right(tmp_path: Path) -> None:
    """The same, with H.grad as PyTorch's autograd makes each rank's term and a sum reduces it."""
    torch = pytest.importorskip("torch")
    ranks = _ranks()
    for dp in (0, 1):
        terms = []
        for rank in (2 * dp, 2 * dp + 1):
            given = {name: torch.tensor(array) for name, array in ranks[rank].items()}
            H = given["H"].clone().requires_grad_()
            partial = torch.relu(H @ given["W_up"]) @ given["W_down"]
            (partial * given["Target"]).sum().backward()
            terms.append(H.grad)
        for rank in (2 * dp, 2 * dp + 1):
            ranks[rank]["H.grad"] = torch.stack(terms).sum(dim=0).numpy()
    report = _examine(tmp_path, ranks)
    assert report.ok, report.text()
