"""Graphs much deeper or wider than anybody's: no stage recurses into them, and both executors compute the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import graphir as gi
from tests.support.sampled import sampled

#: Beyond what Python recurses into.
MANY = 1100


def _text(rows: list[str], last: str, head: str = "deep") -> str:
    body = "\n".join(f"  {row}" for row in rows)
    return f"graph {head}\n\ninputs\n  X  [B, B]\n\n/\n{body}\n\noutputs\n  {last}\n"


def _chain(call: str) -> str:
    rows = [f"V{i}  [B, B]  = {call.format(x=f'V{i - 1}' if i else 'X')}" for i in range(MANY)]
    return _text(rows, f"V{MANY - 1}")


def _casts() -> str:
    rows = []
    for i in range(MANY):
        dtype = ("float64", "float32")[i % 2]
        rows.append(f'V{i}  [B, B] {dtype}  = cast({f"V{i - 1}" if i else "X"}) {{to="{dtype}"}}')
    return _text(rows, f"V{MANY - 1}")


def _collectives() -> str:
    rows = []
    for i in range(MANY):
        split, key = (("|dp", "SLICE"), ("", "AG"))[i % 2]
        rows.append(f'V{i}  [B, B{split}]  = {key}({f"V{i - 1}" if i else "X"}) {{dim=1, axis="dp"}}')
    return _text(rows, f"V{MANY - 1}", "deep float32 over dp=2")


def _views_that_others_read() -> str:
    rows = [f"V{i}  [B, B]  = T({f'V{i - 1}' if i else 'X'}) {{perm=(1, 0)}}" for i in range(MANY)]
    rows += [f"E{i}  [B, B]  = GL(V{i})" for i in range(0, MANY, 100)]
    rows.append(f"Y  [B, B]  = add({', '.join(f'E{i}' for i in range(0, MANY, 100))})")
    return _text(rows, "Y")


def _terms() -> str:
    rows = [f"V{i}  [B, B]  = scale(X) {{by={i}.0}}" for i in range(MANY)]
    return _text([*rows, f"Y  [B, B]  = add({', '.join(f'V{i}' for i in range(MANY))})"], "Y")


def _backward() -> str:
    rows = [f"V{i}  [B, B]  = GL({f'V{i - 1}' if i else 'X'})" for i in range(MANY)]
    back = [f"D{i}  [B, B]  = dGL(V{i}, {f'D{i + 1}' if i < MANY - 1 else f'V{i}'})" for i in reversed(range(MANY))]
    return _text([*rows, "", *back], "D0").replace("\n  \n", "\n\n/ backward\n")


SHAPES: dict[str, Callable[[], str]] = {
    "elementwise": lambda: _chain("GL({x})"),
    "rows": lambda: _chain("S({x})"),
    "products": lambda: _chain("matmul({x}, X)"),
    "squares": lambda: _chain("mul({x}, {x})"),
    "views": lambda: _chain("T({x}) {{perm=(1, 0)}}"),
    "reshapes": lambda: _chain('R({x}) {{pattern="a b -> a b"}}'),
    "views that others read": _views_that_others_read,
    "casts": _casts,
    "collectives": _collectives,
    "terms": _terms,
    "backward": _backward,
}


@sampled(4, shape=list(SHAPES))
def test_what_is_deep_is_parsed_verified_compiled_and_run(shape: str) -> None:
    graph = gi.verify(gi.parse(SHAPES[shape]()))
    assert gi.parse(gi.to_text(graph)) == graph
    given = {"X": np.array([[0.5, 0.25], [0.125, 0.0625]], np.float32)}
    made = [
        gi.compile(graph, {"B": 2}, **options)(given)  # type: ignore[arg-type]
        for options in ({"backend": "reference"}, {"threads": 1, "check": False})
    ]
    for name, array in made[0].items():
        np.testing.assert_allclose(made[1][name], array, rtol=1e-4, atol=1e-30)
