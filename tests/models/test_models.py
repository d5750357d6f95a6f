"""The ready-made models: what their options may be, in whose words they refuse, and how their tensors start."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.errors import ConfigError
from graphir.models.transformer import Options
from graphir.options import options_of

SIZES = {"B": 2, "S": 4, "D": 32, "N_H": 4, "D_ff": 64, "V": 16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "2"}, "layers must be int, not '2'"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"layers": True}, "layers must be int, not True"),
        ({"layers": 1.5}, "layers must be int, not 1.5"),
        ({"positions": "rotary"}, "positions 'rotary' is none of learned, sinusoidal"),
        ({"tied": "no"}, "tied must be bool, not 'no'"),
        ({"qkv_bias": 1}, "qkv_bias must be bool, not 1"),
        ({"final_norm": None}, "final_norm must be bool, not None"),
        ({"causal": 0}, "causal must be bool, not 0"),
        ({"padded": "yes"}, "padded must be bool, not 'yes'"),
        ({"text": "a text"}, "text must be bool, not 'a text'"),
        ({"activation": "foo"}, "activation 'foo' is none of gelu, gelu_tanh, relu, silu"),
        ({"activation": ["relu"]}, "activation ['relu'] is none of gelu, gelu_tanh, relu, silu"),
        ({"dropout": 1.5}, "dropout must be at most 0.99, not 1.5"),
        ({"dropout": 0.995}, "dropout must be at most 0.99, not 0.995"),
        ({"dropout": -0.1}, "dropout must be at least 0, not -0.1"),
        ({"dropout": float("nan")}, "dropout must be a finite number, not nan"),
        ({"dropout": "0.1"}, "dropout must be float, not '0.1'"),
        ({"mask": "future"}, "mask 'future' is none of none, padding, given"),
        ({"mean": "batch"}, "mean 'batch' is none of tokens, replicas"),
        ({"decode": "beam"}, "decode 'beam' is none of argmax, top-k, None"),
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"k": 2.0}, "k must be int, not 2.0"),
        ({"temperature": -1.0}, "temperature must be at least 0, not -1.0"),
        ({"temperature": float("inf")}, "temperature must be a finite number, not inf"),
        ({"temperature": None}, "temperature must be float, not None"),
        ({"tokenizer": None}, "tokenizer must be str, not None"),
        ({"dtype": "int64"}, "dtype 'int64' is none of float32, float64"),
        ({"wings": 2}, f"unknown option wings; a Transformer has {', '.join(options_of(Options))}"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, message):
    with pytest.raises(ConfigError) as caught:
        gi.models.transformer(**options)
    assert str(caught.value) == message


def test_the_limits_themselves_are_taken():
    graph = gi.models.transformer(np.int64(1), dropout=0.99, decode="top-k", k=np.int64(1), temperature=0.0)
    assert graph == gi.models.transformer(1, dropout=0.99, decode="top-k", k=1, temperature=0.0)
    gi.verify(graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"layers": "2"}, "layers must be int, not '2'"),
        ({"layers": 3, "widths": (4, 5)}, "widths=(4, 5) are 2 dims, but layers=3 needs 4: D_in, D_1, D_2, D_out"),
        ({"layers": 1, "widths": (4, 5, 6)}, "widths=(4, 5, 6) are 3 dims, but layers=1 needs 2: D_in, D_out"),
        ({"activation": "tanh"}, "activation 'tanh' is none of gelu, gelu_tanh, relu, silu"),
        ({"dtype": "int64"}, "dtype 'int64' is none of bfloat16, float16, float32, float64"),
        ({"tied": True}, "unknown option tied; an MLP has layers, activation, dtype"),
    ],
)
def test_an_mlps_option_that_cannot_be_is_named(options, message):
    with pytest.raises(ConfigError) as caught:
        gi.models.mlp(**options)
    assert str(caught.value) == message


def test_an_mlp_takes_its_activation_and_widths():
    graph = gi.models.mlp(3, activation="silu", widths=(4, gi.dim("H"), 5, 6))
    assert [node.attributes["kind"] for node in graph.nodes if node.operator.key == "GL"] == ["silu", "silu"]
    assert [str(graph[f"layer{i}/W"].type) for i in range(3)] == ["float32[4, H]", "float32[H, 5]", "float32[5, 6]"]


# -- how tensors start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_what_ends_on_the_residual_stream_starts_narrower(layers):
    """W_O and W_down start with a deviation of 0.02/√(2L): 2L such terms add up to what one alone would be."""
    graph = gi.models.transformer(layers, tied=False, qkv_bias=True)
    narrow = f"normal({0.02 / (2 * layers) ** 0.5:.6g})"
    for value in graph.parameters:
        expected = {"gamma": "ones", "beta": "zeros", "W_O": narrow, "W_down": narrow}
        usual = "zeros" if value.local_name.startswith("b_") else "normal(0.02)"
        assert value.init == expected.get(value.local_name, usual), value.name
    arrays = gi.initialize(graph, SIZES, seed=1)
    for name in ("mha/W_O", "mlp/W_down"):
        assert np.std(arrays[f"layer0/{name}"]) == pytest.approx(0.02 / np.sqrt(2 * layers), rel=0.1)
    assert np.std(arrays["layer0/mlp/W_up"]) == pytest.approx(0.02, rel=0.1)
