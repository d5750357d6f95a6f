"""Texts that ask for more than they are worth: each is refused where it does. With what they ask for none would end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphir as gi
from graphir.errors import DimError, GraphError, LayoutError, ParseError, TypeCheckError
from graphir.ir.builder import LONGEST_NAME
from graphir.ir.dims import MOST_DEFINITIONS, MOST_DIGITS, MOST_FACTORS, dim
from graphir.ir.fused import DEEPEST, fused
from graphir.ir.layout import MOST_AXES, MOST_RANKS, Layout, Mesh
from graphir.ir.types import HIGHEST_RANK, TensorType
from graphir.text import Budget


def _text(inputs: str = "X  [B, D]", rows: str = "  Y  [B, D]  = exp(X)", where: str = "", head: str = "g") -> str:
    defined = f"where\n{where}\n\n" if where else ""
    return f"graph {head}\n\n{defined}inputs\n  {inputs}\n\n/\n{rows}\n\noutputs\n  X\n"


def _chain(names: int, by: str) -> str:
    return "\n".join(f"  A{i} = {by.format('D' if i == 0 else f'A{i - 1}')}" for i in range(names))


def _nested(depth: int) -> str:
    rows = [f"{'  ' * (i + 1)}Y  [B, D]  = fused(X)" for i in range(depth)]
    return "\n".join([*rows, f"{'  ' * (depth + 1)}Y  [B, D]  = exp(X)"])


#: (a text, the line of the error, its message)
EXPLOSIVE: dict[str, tuple[Callable[[], str], int, str]] = {
    "a dim that doubles with every line": (
        lambda: _text("X  [A28]", where=_chain(29, "{0}*{0}")),
        11,
        f"'A6*A6' is no dim: a dim of 256 factors, definitions filled in; at most {MOST_FACTORS} may be",
    ),
    "a number that squares with every line": (
        lambda: _text("X  [A28]", where="  A = 10\n" + _chain(29, "{0}*{0}").replace("D*D", "A*A")),
        10,
        f"a dim whose number has more than {MOST_DIGITS} digits; no size is as large",
    ),
    "definitions upon definitions": (
        lambda: _text("X  [A99]", where=_chain(100, "2*{0}")),
        68,
        "is the last of 65 definitions that build on each other; at most 64 may",
    ),
    "definitions side by side": (
        lambda: _text(
            f"X  [{'*'.join(f'A{i}' for i in range(80))}]", where="\n".join(f"  A{i} = D{i}" for i in range(80))
        ),
        86,
        f"a dim that rests on 80 definitions; at most {MOST_DEFINITIONS} may be, near or far",
    ),
    "a sum's gradient of 10^18 terms": (
        lambda: _text(rows="  Y  [B, D]  = dAddB(X) {count=1000000000000000000}"),
        7,
        "count=1000000000000000000 gradients of a sum; there are 1 to 16,384: add up in groups",
    ),
    "a sum's gradient of more terms than are declared": (
        lambda: _text(rows="  Y  [B, D]  = dAddB(X) {count=16000}"),
        7,
        "dAddB makes 16000 values here",
    ),
    "fused nodes in fused nodes": (lambda: _text(rows=_nested(300)), 7 + DEEPEST, "a fused node inside of 8 others"),
    "a dim of 20,000 factors": (
        lambda: _text(f"X  [{'*'.join(['9' * 100] * 20_000)}]"),
        4,
        f"a dim of 20000 factors; at most {MOST_FACTORS} may be",
    ),
    "a dim of digits": (
        lambda: _text(f"X  [{'9' * 65}]"),
        4,
        f"a dim whose number has more than {MOST_DIGITS} digits; no size is as large",
    ),
    "a dim that is one path": (lambda: _text(f"X  [{'/'.join('D' * 100_000)}]"), 4, "a dim of 100000 factors"),
    "a type of a thousand dims": (
        lambda: _text(f"X  [{', '.join(['1'] * 1000)}]"),
        4,
        f"a value of rank 1000 has no array; ranks are 0 to {HIGHEST_RANK}",
    ),
    "a count by 10^18 dims": (
        lambda: _text("X  [B] int64", "  n  [] = count(X) {by=1000000000000000000}"),
        7,
        "a value of rank 1000000000000000000 has no array",
    ),
    "an integer of 90 digits": (
        lambda: _text(rows=f"  Y  [B, D]  = mask(X, X) {{p=0.5, key={'9' * 90}, dims=(B,)}}"),
        7,
        "attribute key is an integer beyond 64 bits, which no kernel takes",
    ),
    "ranks beyond all machines": (lambda: _text(head="g over dp=9999999"), 1, "a mesh has at most 16 axes and"),
    "a mesh of many axes": (
        lambda: _text(head=f"g over {', '.join(f'a{i}=1' for i in range(5000))}"),
        1,
        f"a mesh has at most {MOST_AXES} axes and {MOST_RANKS:,} ranks; this one would have more",
    ),
    "an axis many times over": (
        lambda: _text(f"X  [B{'|dp' * 100_000}]", head="g over dp=2"),
        4,
        "mesh axis dp occurs twice in the layout",
    ),
    "a name of a million characters": (
        lambda: _text(f"{'X' * 1_000_000}  [B]"),
        4,
        f"is 1000000 characters long; names have at most {LONGEST_NAME}",
    ),
    "a scope that every name would be written with": (
        lambda: _text().replace("\n/\n", f"\n{'a' * 100_000}\n" + "  Z  [B, D]  = exp(/X)\n" * 100 + "\n/\n"),
        6,
        f"a name of 100000 characters; at most {LONGEST_NAME} may be",
    ),
    "a name that is like thousands": (
        lambda: _text("\n  ".join(f"{'X' * 50}{i}  [B]" for i in range(5000)), f"  Y  [B]  = exp({'X' * 49}Z)"),
        5006,
        "is defined above",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLOSIVE)
def test_what_explodes_is_refused_where_it_would(name: str) -> None:
    make, line, message = EXPLOSIVE[name]
    text = make()
    with pytest.raises(ParseError) as caught:
        gi.parse(text)
    assert message in str(caught.value)
    assert caught.value.line == line
    assert len(str(caught.value)) < 3000


def test_a_budget_says_how_much_a_text_may_ask_for() -> None:
    text = _text(rows="  Y  [B, D]  = exp(X)\n  Z  [B, D]  = exp(Y)")
    gi.parse(text, budget=Budget(characters=len(text), nodes=2))
    with pytest.raises(ParseError, match=r"^line 3, column 7: a text of \d+ characters; at most 10 may be, unless"):
        gi.parse("a\nb\n" + text, budget=Budget(characters=10))
    with pytest.raises(
        ParseError, match=r"^line 8, column 3: more than 1 nodes; no more may be, unless a Budget allows"
    ):
        gi.parse(text, budget=Budget(nodes=1))
    with pytest.raises(ParseError, match=r"a fused node inside of 1 others; no more may be nested"):
        gi.parse(_text(rows=_nested(2)), budget=Budget(nesting=1))
    gi.parse(_text(rows=_nested(DEEPEST)))


def test_only_text_is_parsed() -> None:
    with pytest.raises(ParseError, match="a graph is parsed from text, a str, not from bytes"):
        gi.parse(b"graph g")  # type: ignore[arg-type]


# -- the same by hand ------------------------------------------------------------------------------------------


def test_dims_stay_moderate_however_they_are_made() -> None:
    D = gi.dim("D")
    product = D
    for _ in range(MOST_FACTORS - 1):
        product = product * D
    assert str(product).count("D") == MOST_FACTORS
    with pytest.raises(DimError, match=f"a dim of {MOST_FACTORS + 1} factors"):
        product * D
    with pytest.raises(DimError, match="a dim whose number has more than 64 digits"):
        10**40 * D * 10**40
    assert D != 10**80
    defined = [dim(f"A{i}", gi.dim(f"D{i}")) for i in range(MOST_DEFINITIONS + 1)]
    with pytest.raises(DimError, match="a dim that rests on 65 definitions"):
        np.prod(np.array(defined, object))


def test_what_a_graph_cannot_have_is_refused_by_its_builder() -> None:
    block = gi.Builder()
    X = block.input("X", (2,))
    with pytest.raises(GraphError, match=f"is 1025 characters long; names have at most {LONGEST_NAME}"):
        gi.exponential(X, name="Y" * 1025)
    with pytest.raises(TypeCheckError, match="ranks are 0 to 32"):
        TensorType("float32", (1,) * 33)
    with pytest.raises(LayoutError, match="at most 16 axes"):
        Mesh((f"a{i}", 1) for i in range(17))
    with pytest.raises(LayoutError, match="mesh axis dp occurs twice"):
        Layout((("dp", "dp"),))


def test_fused_nodes_lie_inside_of_each_other_only_so_deep() -> None:
    inner = gi.Builder("body")
    body = inner.build(gi.exponential(inner.input("X", (2,)), name="Y"))
    for _ in range(DEEPEST):
        outer = gi.Builder("body")
        body = outer.build(outer.emit(fused, [outer.input("X", (2,))], {"body": body}, ["Y"])[0])
    assert body.nesting == DEEPEST
    block = gi.Builder()
    with pytest.raises(TypeCheckError, match="its body has 8 fused nodes inside of each other; at most 8 are"):
        block.emit(fused, [block.input("X", (2,))], {"body": body}, ["Y"])
