"""Every tensor of A's tables is in the model, in its block, under its name, with its shape.

The lists are typed from the tables "Data Tensors" of A 1.2.2, 1.3.3, 1.4.3 and 1.5.3, in their order, names
and shapes as written there (without the bold face and the tilde over weights).
"""

from __future__ import annotations

import pytest

import graphir as gi
from graphir.passes import autodiff, lower

EMBEDDING = [  # A 1.2.2
    ("text", "[B]"),  # the table gives no shape: one string for each row of the batch
    ("T", "[B, S]"),
    ("E", "[V, D]"),
    ("X_tok", "[B, S, D]"),
    ("P", "[S, D]"),
    ("X_emb", "[B, S, D]"),
    ("X", "[B, S, D]"),
    ("P_θ", "[S, D]"),  # "matches P"
]

MHA = [  # A 1.3.3
    ("X", "[B, S, D]"),
    ("X_norm", "[B, S, D]"),
    ("Q", "[B, N_H, S, D_h]"),
    ("K", "[B, N_H, S, D_h]"),
    ("V", "[B, N_H, S, D_h]"),
    ("W_Q", "[D, D]"),
    ("W_K", "[D, D]"),
    ("W_V", "[D, D]"),
    ("W_O", "[D, D]"),
    ("b_O", "[D]"),
    ("A", "[B, N_H, S, S]"),
    ("AS", "[B, N_H, S, S]"),
    ("AO_heads", "[B, N_H, S, D_h]"),
    ("AO_cat", "[B, S, D]"),
    ("AO_lin", "[B, S, D]"),
    ("AO_bias", "[B, S, D]"),
    ("A_out", "[B, S, D]"),
    ("dA_out", "[B, S, D]"),
    ("dQ", "[B, N_H, S, D_h]"),
    ("dK", "[B, N_H, S, D_h]"),
    ("dV", "[B, N_H, S, D_h]"),
    ("dK^T", "[B, N_H, D_h, S]"),
    ("dAO_heads", "[B, N_H, S, D_h]"),
    ("dX_norm,Q", "[B, S, D]"),
    ("dX_norm,K", "[B, S, D]"),
    ("dX_norm,V", "[B, S, D]"),
    ("dX_norm", "[B, S, D]"),
    ("dX", "[B, S, D]"),
    ("dW_Q", "[D, D]"),
    ("dW_K", "[D, D]"),
]

MLP = [  # A 1.4.3
    ("X", "[B, S, D]"),
    ("H", "[B, S, D]"),
    ("W_up", "[D, D_ff]"),
    ("b_up", "[D_ff]"),
    ("Z_up", "[B, S, D_ff]"),
    ("A_up", "[B, S, D_ff]"),
    ("H_inter", "[B, S, D_ff]"),
    ("W_down", "[D_ff, D]"),
    ("b_down", "[D]"),
    ("Z_down", "[B, S, D]"),
    ("A_out", "[B, S, D]"),
    ("Y", "[B, S, D]"),
    ("dY", "[B, S, D]"),
    ("dZ_down", "[B, S, D]"),
    ("dU_in", "[B, S, D_ff]"),
    ("dZ_up", "[B, S, D_ff]"),
    ("dH", "[B, S, D]"),
    ("dX", "[B, S, D]"),
    ("dW_up", "[D, D_ff]"),
    ("dW_down", "[D_ff, D]"),
    ("db_up", "[D_ff]"),
    ("db_down", "[D]"),
]

OUTPUT = [  # A 1.5.3
    ("A_out", "[B, S, D]"),
    ("W_lm", "[D, V]"),
    ("b_lm", "[V]"),
    ("Z_lin", "[B, S, V]"),
    ("Z_bias", "[B, S, V]"),
    ("P", "[B, S, V]"),
    ("Y", "[B, S]"),
    ("ℒ", "[]"),  # "scalar or [B, S]": the mean, and L_tok per token below
    ("L_tok", "[B, S]"),
    ("dℒ", "[]"),
    ("dZ_bias", "[B, S, V]"),
    ("dZ_lin", "[B, S, V]"),
    ("dW_lm", "[D, V]"),
    ("db_lm", "[V]"),
    ("dA_out", "[B, S, D]"),
]

TABLES = {"embedding": EMBEDDING, "layer0/mha": MHA, "layer1/mha": MHA, "layer0/mlp": MLP, "layer1/mlp": MLP}
TABLES["output"] = OUTPUT

MODELS = {
    "tied": {},
    "untied": {"tied": False},
    "text": {"text": True},
    "without final norm": {"final_norm": False},
    "biases on Q, K, V": {"qkv_bias": True},
    "sinusoidal": {"positions": "sinusoidal"},
}


@pytest.fixture(scope="module", params=list(MODELS))
def joint(request: pytest.FixtureRequest) -> gi.Graph:
    return autodiff(gi.models.transformer(2, **MODELS[request.param]))


def missing(graph: gi.Graph, except_for: set[str]) -> list[str]:
    """What the tables list and `graph` lacks, or has with another shape."""
    wrong = []
    for scope, table in TABLES.items():
        for name, shape in table:
            full = f"{scope}/{name}"
            if full in except_for:
                continue
            value = graph.find(full)
            found = f"[{', '.join(map(str, value.shape))}]" if value is not None else "nothing"
            dims = {letter: gi.dim(letter) for letter in ("B", "S", "D", "D_ff", "N_H", "V")}
            dims["D_h"] = gi.dim("D_h", dims["D"] / dims["N_H"])
            expected = tuple(dims[each] for each in shape[1:-1].split(", ") if each)
            if value is None or value.shape != expected:
                wrong.append(f"{full} should be {shape}, is {found}")
    return wrong


def absent(graph: gi.Graph) -> set[str]:
    """What a variant of the model has no room for: raw text in a model that starts from ids, P_θ in one without."""
    without = set()
    if "text" not in graph:
        without.add("embedding/text")
    if all(value.name != "embedding/P_theta" for value in graph.parameters):
        without.add("embedding/P_θ")
    return without


def test_every_tensor_of_the_tables_is_there(joint: gi.Graph) -> None:
    assert missing(joint, absent(joint)) == []


def test_lowering_keeps_every_tensor(joint: gi.Graph) -> None:
    assert missing(lower(joint), absent(joint)) == []


def test_nothing_is_left_out_in_the_documents_own_model() -> None:
    assert missing(autodiff(gi.models.transformer(2, text=True)), set()) == []


def test_a_tensor_that_is_missing_is_noticed() -> None:
    wrong = missing(gi.models.transformer(2), set())
    assert "embedding/text should be [B], is nothing" in wrong
    assert "layer1/mlp/dU_in should be [B, S, D_ff], is nothing" in wrong
    assert not any(line.startswith("layer1/mlp/H_inter") for line in wrong)


@pytest.mark.parametrize(
    ("documents", "ours"),
    [
        ("layer0/mlp/dU_in", "layer0/mlp/dH_inter"),
        ("layer1/mha/dX_norm,K", "layer1/mha/dX_norm.K_lin"),
        ("layer0/mha/dK^T", "layer0/mha/dK_T"),
        ("output/ℒ", "output/L"),
        ("L", "output/L"),
    ],
)
def test_the_documents_other_names_mean_the_same_value(documents: str, ours: str) -> None:
    joint = autodiff(gi.models.transformer(2))
    assert joint[documents] is joint[ours]


def test_the_documents_formulas_hold_in_the_graph() -> None:
    """dZ_bias = P − onehot(Y) over the number of tokens; dX_norm is the sum of its three parts (A 1.3.3, 1.5.3)."""
    import numpy as np

    from graphir.backends import initialize

    sizes = {"B": 2, "S": 3, "D": 4, "D_ff": 6, "N_H": 2, "V": 5}
    joint = autodiff(gi.models.transformer(1, dtype="float64"))
    parts = [f"layer0/mha/dX_norm,{which}" for which in "QKV"]
    names = ["output/P", "output/dZ_bias", "output/dZ_lin", "output/db_lm", "layer0/mha/dX_norm", *parts]
    rng = np.random.default_rng(1)
    Y = rng.integers(0, 5, (2, 3))
    batch = {"T": rng.integers(0, 5, (2, 3)), "Y": Y, "seed": 1, "step": 0}
    run = gi.compile(joint, sizes, fetch=names)(initialize(joint, sizes, seed=2), batch)
    expected = (run["output/P"] - np.eye(5)[Y]) / 6
    assert np.allclose(run["output/dZ_bias"], expected, rtol=0, atol=1e-15)
    assert np.array_equal(run["output/dZ_lin"], run["output/dZ_bias"])
    assert np.allclose(run["output/db_lm"], expected.sum((0, 1)), rtol=0, atol=1e-15)
    assert np.allclose(run["layer0/mha/dX_norm"], sum(run[name] for name in parts), rtol=1e-13, atol=1e-18)
