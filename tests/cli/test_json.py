"""What `--json` prints has keys that programs rely on: one more may come, none may go or change its meaning."""

from __future__ import annotations

import json

import pytest

from tests.support.paths import ROOT

BLOCK = f"{ROOT}/examples/swiglu.py:swiglu"
SIZES = ("--size", "B=4", "--size", "S=4", "--size", "D=8", "--size", "D_ff=8")
KEYS = {
    "ir": {"graph", "mesh", "dims", "inputs", "parameters", "state", "nodes", "outputs", "aliases"},
    "check": {"ok", "reports", "skipped"},
    "why": {"title", "algorithm", "sizes", "collectives", "blocks", "total", "left"},
    "cost": {
        "mesh",
        "sizes",
        "parameters",
        "optimizer state",
        "FLOPs, forward",
        "FLOPs, backward",
        "FLOPs, update",
        "FLOPs by operator",
        "FLOPs beyond the causal diagonal",
        "padding of the vocabulary",
        "recompute",
        "bytes sent",
        "memory",
    },
    "profile": {
        "what",
        "sizes",
        "step",
        "floor",
        "step / floor",
        "plain step",
        "tokens per second",
        "slowdown",
        "by",
        "node",
        "profile",
    },
}
INSIDE = {
    "ir": (
        lambda data: data["nodes"][0],
        {"name", "operator", "attributes", "operands", "results", "scope", "phase", "at", "of", "why", "body"},
    ),
    "check": (
        lambda data: data["reports"][0],
        {"title", "ok", "executor", "parting", "mesh", "sizes", "notes", "unread", "first", "values"},
    ),
    "why": (
        lambda data: data["collectives"][0],
        {
            "name",
            "operator",
            "axes",
            "scope",
            "phase",
            "moves",
            "cause",
            "need",
            "partner",
            "each",
            "total",
            "at",
            "why",
        },
    ),
    "cost": (lambda data: data["memory"], {"bytes", "at", "by category", "largest"}),
    "profile": (
        lambda data: next(iter(data["node"].values())),
        {"seconds", "of step", "calls", "FLOPs", "bytes"},
    ),
}


@pytest.mark.parametrize("command", KEYS)
def test_keys_are_there(call, command):
    more = ("--repetitions", 1) if command == "profile" else ()
    code, out, err = call(command, BLOCK, *SIZES, "--tp", 2, "--json", *more)
    assert code == 0, err
    data = json.loads(out)
    assert KEYS[command] <= data.keys()
    inner, keys = INSIDE[command]
    assert keys <= inner(data).keys()


def test_a_graph_as_json_goes_into_a_file(call, tmp_path):
    code, out, err = call("ir", BLOCK, "--json", "-o", tmp_path / "swiglu.json")
    assert (code, out) == (0, ""), err
    data = json.loads((tmp_path / "swiglu.json").read_text())
    node = data["nodes"][0]
    assert (node["operator"], node["operands"]) == ("matmul", ["X", "W_gate"])
    assert node["at"].rpartition("/")[2].startswith("swiglu.py:")


def test_usage_names_every_key():
    """What programs rely on is written down."""
    told = (ROOT / "USAGE.md").read_text().partition("## As JSON")[2].partition("\n## ")[0]
    for command, keys in KEYS.items():
        assert f"`{command}`" in told
        for key in keys | INSIDE[command][1]:
            assert f"`{key}`" in told, f"{command}: {key}"
