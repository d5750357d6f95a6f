"""What `--json` prints has keys that programs rely on: one more may come, none may go or change its meaning."""

from __future__ import annotations

import json

import pytest

from tests.support.paths import ROOT

BLOCK = f"{ROOT}/examples/swiglu.py:swiglu"
SIZES = ("--size", "B=4", "--size", "S=4", "--size", "D=8", "--size", "D_ff=8")
KEYS = {
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
