"""What is no graph: each mistake is named, with line and column, and nothing but a ParseError gets out."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import ParseError
from graphir.passes import Optimizer, autodiff, optimize
from tests.support.random_graphs import graphs

#: A text with all of the format in it, whose parts the mistakes below replace.
TEXT = """\
graph head float32 over dp=2

where
  D_h = D/N_H

inputs
  X     [B, S, D]
  ids   [B, S] int64
  seed  [] int64
  step  [] int64

parameters
  W  [D, D]  ~ normal(0.02)

state
  W.m  [D, D]  ~ zeros

head  @ examples/head.py
  Q_lin    [B, S, D]         = matmul(/X, /W)  @12
  Q_split  [B, S, N_H, D_h]  = R(Q_lin) {pattern="b s (h d) -> b s h d", factors=("h",), sizes=(N_H,)}  @13
  Q        [B, N_H, S, D_h]  = T(Q_split) {perm=(0, 2, 1, 3)}  @13 why "heads first"
  Q_drop   [B, N_H, S, D_h],
  Q_drop.m [B, N_H, S, D_h] bool  = DO(Q, /seed, /step) {p=0.1, key=1}

head backward
  dQ  [B, N_H, S, D_h] = dDO(Q_drop.m, Q) {p=0.1}  @lib.py:7 of Q_drop

outputs
  head/Q

aliases
  head/X = X
"""

#: (what is replaced, by what, the line and the column of the error, its message)
MISTAKES = [
    # the beginning
    (
        "graph head",
        "grph head",
        1,
        1,
        "a text begins with its graph's name and dtype, such as graph mlp float32; found 'grph'",
    ),
    ("graph head float32 over dp=2", "graph", 1, 6, "expected the graph's name, found the end of the line"),
    ("graph head", "graph a/b", 1, 7, "'a/b' cannot name a graph: letters, digits, _ and . only"),
    ("head float32", "head float31", 1, 12, "'float31' is no dtype; choose from float16, bfloat16, float32, "),
    ("over dp=2", "over", 1, 24, "expected the name of a mesh axis, found the end of the line"),
    ("over dp=2", "over dp=2.5", 1, 28, "'2.5' is no whole number; ranks are counted"),
    ("over dp=2", "over dp=0", 1, 25, "mesh axis dp has 0 ranks; it needs a positive number"),
    ("over dp=2", "over dp=2, dp=2", 1, 25, "a mesh names each axis once: dp, dp"),
    ("over dp=2", "over sum=2", 1, 25, "'sum' cannot name a mesh axis; use a word such as dp or tp"),
    # dims
    ("D_h = D/N_H", "D_h = D_h/2", 4, 3, "dim D_h cannot be defined by itself: D_h = D_h/2"),
    ("D_h = D/N_H", "D_h = D/0", 4, 9, "'D/0' is no dim: a size is positive"),
    ("D_h = D/N_H", "D_h = D/", 4, 11, "expected a dim's name or a number after '/', found the end of the line"),
    ("D_h = D/N_H", "D_h D/N_H", 4, 7, "expected = and what dim D_h is, found 'D/N_H'"),
    ("D_h = D/N_H", "D_h = D/N_H\n  D_h = D", 5, 3, "dim D_h is defined already: D_h = D/N_H"),
    ("D_h = D/N_H", "D_h = D/N_H\n  N_H = 4", 5, 3, "dim N_H is used above; define it before its first use"),
    (
        "D_h = D/N_H",
        "D_h = D/N_H\n  D_v = D",
        5,
        3,
        "dim D_v is defined, but no type or attribute has it; drop the definition",
    ),
    ("D_h = D/N_H", "D_γ = D/N_H", 4, 3, "'D_γ' cannot name a dim: a letter, then letters, digits and _"),
    ("[B, S, D]\n", "[B, 2.5*S, D]\n", 7, 13, "'2.5*S' is no dim: '2.5' cannot name a dim"),
    ("[B, S, D]\n", "[B, true, D]\n", 7, 13, "'true' is no dim: 'true' cannot name a dim"),
    ("[B, S, D]\n", "[B, S D]\n", 7, 15, "expected a comma or ] after a dim, found 'D'"),
    ("[B, S, D]\n", "[B, *S]\n", 7, 13, "expected a dim, such as B, 2*D or D/N_T, found '*'"),
    # types and arguments
    ("[B, S, D]\n", "B, S\n", 7, 9, "expected a type, such as [B, S, D], found 'B'"),
    ("[B, S] int64", "[B, S] int63", 8, 16, "'int63' is no dtype; choose from float16"),
    ("[B, S, D]\n", "[B|dp, S|dp, D]\n", 7, 9, "mesh axis dp occurs twice"),
    (
        "[B, S, D]\n",
        "[B|tp, S, D]\n",
        7,
        12,
        "no mesh axis is called tp: the graph is over dp=2; its first line says so",
    ),
    ("[B, S, D]\n", "[B, S, D] pending sum(tp)\n", 7, 31, "no mesh axis is called tp: the graph is over dp=2"),
    (
        "[B, S, D]\n",
        "[B, S, D] pending total(dp)\n",
        7,
        9,
        "'total' over dp is no reduction; choose from sum, max, mean",
    ),
    ("[B, S, D]\n", "[B, S, D] pending sum(dp), max(dp)\n", 7, 40, "two reductions are pending over dp"),
    (
        "~ normal(0.02)",
        "",
        13,
        14,
        "expected ~ and how the tensor starts: zeros, ones, full(x) or normal(σ), found the end of the line",
    ),
    ("~ normal(0.02)", "~ uniform(0.02)", 13, 16, "W: init 'uniform(0.02)' is not zeros, ones, full(x) or normal(σ)"),
    ("~ normal(0.02)", "~ normal(0.02", 13, 27, "expected ) after 0.02, found the end of the line"),
    ("~ normal(0.02)", "~ full(1 1)", 13, 23, "expected ) after 1, found '1'"),
    ("~ normal(0.02)", "~ full()", 13, 21, "expected a number, as in normal(0.02), found ')'"),
    ("step  []", "seed  []", 10, 3, "seed is defined in line 9 already; give this one another name"),
    # headers and rows
    ("state\n", "stat e f\n", 15, 8, "expected the end of the line, found 'f'"),
    ("state\n", "inputs\n", 15, 1, "a second section inputs; the first is in line 6"),
    (
        "state\n",
        "state 3\n",
        15,
        7,
        "expected the end of the line after the section's name; a block of that name is written /state, found '3'",
    ),
    (
        "state\n",
        "[state]\n",
        15,
        1,
        "expected a section (where, inputs, parameters, state, outputs, aliases) or a block's scope, found '['",
    ),
    ("where\n", "  where\n", 3, 3, "'where' is indented, but no header stands above it"),
    ("  head/Q\n", "  head/Q head/X\n", 29, 10, "expected the end of the line, found 'head/X'"),
    # names
    ("matmul(/X, /W)", "matmul(/X, W)", 19, 43, "no value W in head is defined above; did you mean /W?"),
    ("matmul(/X, /W)", "matmul(/X, /W2)", 19, 43, "no value /W2 in head is defined above"),
    ("= T(Q_split)", "= T(Q_splt)", 21, 34, "no value Q_splt in head is defined above; did you mean Q_split"),
    ("  Q_split  [", "  Q_lin    [", 20, 3, "head/Q_lin is defined in line 19 already; give this one another name"),
    ("  head/Q\n", "  head/Q\n  head/Q\n", 30, 3, "head/Q is an output already"),
    ("head/X = X", "head/Q = X", 32, 3, "head/Q is defined in line 21 already; give this one another name"),
    ("head/X = X", "head/X = Y", 32, 12, "no value Y is defined above"),
    ("head/X = X", "head/X X", 32, 10, "expected = and what head/X is another name of, found 'X'"),
    # operators and their types
    ("= matmul(/X", "= matmull(/X", 19, 32, "no operator is called 'matmull'; did you mean matmul"),
    ("= matmul(/X", "= qqq(/X", 19, 32, "no operator is called 'qqq'; gi.operators() lists all"),
    ("= matmul(/X, /W)", "= matmul /X", 19, 39, "expected ( and the operands of matmul, found '/X'"),
    ("= matmul(/X, /W)", "= matmul(/X /W)", 19, 42, "expected a comma or ) after an operand, found '/W'"),
    (
        "Q_lin    [B, S, D]",
        "Q_lin    [B, D, S]",
        19,
        12,
        "head/Q_lin is declared float32[B, D, S], but "
        "matmul(X float32[B, S, D], W float32[D, D]) makes float32[B, S, D]",
    ),
    ("Q_lin    [B, S, D] ", "Q_lin    [B, S, D] float64", 19, 12, "head/Q_lin is declared float64[B, S, D], but"),
    (
        "matmul(/X, /W)",
        "matmul(/W, /X)",
        19,
        32,
        "matmul(W float32[D, D], X float32[B, S, D]): [D, D], [B, S, D] does not fit",
    ),
    (
        "  Q_drop   [B, N_H, S, D_h],\n",
        "",
        22,
        37,
        "DO makes 2 values here (Y float32[B, N_H, S, D_h], m bool[B, N_H, S, D_h]), but the row declares 1",
    ),
    # attributes
    ("{p=0.1, key=1}", "{q=0.1, key=1}", 23, 58, "DO has no attribute q; it has p, key"),
    ("{p=0.1, key=1}", "{p=0.1, kez=1}", 23, 65, "DO has no attribute kez; it has p, key; did you mean key?"),
    ("{p=0.1, key=1}", "{p=0.1, p=0.1}", 23, 65, "attribute p is given twice"),
    (
        "{p=0.1, key=1}",
        "{p=0.1}",
        23,
        37,
        "DO(head/Q float32[B, N_H, S, D_h], seed int64[], step int64[]): attribute key is missing",
    ),
    ("{p=0.1, key=1}", "{p=1.5, key=1}", 23, 37, "p=1.5 is no dropout rate; it lies between 0 and 0.99"),
    ("{p=0.1, key=1}", '{p="0.1", key=1}', 23, 37, "attribute p must be float, not '0.1'"),
    ("{p=0.1, key=1}", "{p=0.1 key=1}", 23, 64, "expected a comma or } after an attribute, found 'key'"),
    (
        "{p=0.1, key=1}",
        "{p=, key=1}",
        23,
        60,
        "expected a number, a dim, a quoted string, true, false or a tuple, found ','",
    ),
    ("{p=0.1, key=1}", "{p=-true, key=1}", 23, 60, "true has no negative"),
    ("{p=0.1, key=1}", "{p=-B, key=1}", 23, 61, "expected a number after -, found 'B'"),
    ("{p=0.1, key=1}", "{p=0.1, key=1, only=3}", 23, 77, 'only must be a tuple of strings, such as ("dW",)'),
    ('("h",)', '("h")', 20, 86, "expected a comma: a tuple of one is written (h,), found ')'"),
    ('("h",)', '("h", "d")', 20, 32, "factors and sizes go in pairs, but there are 2 and 1"),
    ('("h",)', '(("h",),)', 20, 83, "expected a number, a dim, a quoted string, true, false or a tuple"),
    ("perm=(0, 2, 1, 3)", "perm=(0, 2, 1, 1)", 21, 32, "perm=(0, 2, 1, 1) is no permutation of (0, 1, 2, 3)"),
    # notes
    ("@12", "@", 19, 49, "expected a line, of or why after @, found the end of the line"),
    ("@12", "@1.5", 19, 49, "'1.5' is no whole number; lines are counted"),
    ("@12", "@a.py", 19, 53, "expected : and a line of a.py, found the end of the line"),
    (
        "head  @ examples/head.py",
        "head",
        19,
        49,
        "line 12 of which file? Name it in the block's header, or write file:12",
    ),
    ('why "heads first"', "why heads", 21, 72, "expected the reason, quoted, found 'heads'"),
    # characters
    ("@12", "@12 $", 19, 52, "'$' means nothing here; outside strings there are names, numbers and"),
    ('"heads first"', '"heads first', 21, 72, 'a string starts here and does not end on this line; close it with "'),
    ('"heads first"', '"heads \\q"', 21, 72, '"heads \\q" is no string: Invalid \\escape'),
    ("key=1}", f"key={'1' * 101}}}", 23, 69, "a number of 101 characters; write it shorter"),
]


def test_the_text_without_mistakes_is_a_graph() -> None:
    gi.verify(gi.parse(TEXT))


@pytest.mark.parametrize(("right", "wrong", "line", "column", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_named_where_it_is(right: str, wrong: str, line: int, column: int, message: str) -> None:
    assert TEXT.count(right) >= 1
    with pytest.raises(ParseError) as caught:
        gi.parse(TEXT.replace(right, wrong, 1))
    place, _, said = str(caught.value).partition(": ")
    assert place == f"line {line}, column {column}"
    assert message in said
    assert not said.startswith("line ") or message.startswith("line ")
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_nothing_is_no_graph(text: str) -> None:
    with pytest.raises(ParseError, match=r"a text begins with its graph's name .* found the end of the text"):
        gi.parse(text)


# -- anything else ----------------------------------------------------------------------------------------

_TEXTS = (TEXT, gi.to_text(optimize(autodiff(gi.models.transformer(layers=1)), Optimizer(clip=1.0))))
_PIECES = (*'[](){},=~@:|*/+-.#"\\ \n\t0179xγ', "true", "inf", "D_h", "dY", "only", "where", "/", '""', "( ", "matmul")


@st.composite
def _mutated(draw: st.DrawFn, text: str) -> str:
    """`text` with a few pieces cut out, put in, or exchanged."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from((0, 1, 1, 2, 5, 40)))
        put = draw(st.sampled_from(("piece", "none", "own", "any")))
        if put == "piece":
            piece = draw(st.sampled_from(_PIECES))
        elif put == "own":
            other = draw(st.integers(0, len(text)))
            piece = text[other : other + draw(st.integers(1, 30))]
        else:
            piece = draw(st.text(max_size=3)) if put == "any" else ""
        text = text[:start] + piece + text[end:]
    return text


def _parse_or_refuse(text: str) -> None:
    try:
        graph = gi.parse(text)
    except ParseError as error:
        place = error.line, error.column
    else:
        assert gi.parse(gi.to_text(graph)) == graph
        return
    lines = text.split("\n")
    assert 1 <= place[0] <= len(lines)
    assert 1 <= place[1] <= len(lines[place[0] - 1]) + 1


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(text=_mutated(TEXT))
def test_a_mutated_text_is_parsed_or_refused(text: str) -> None:
    _parse_or_refuse(text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(text=_mutated(_TEXTS[1]))
def test_a_mutated_training_step_is_parsed_or_refused(text: str) -> None:
    _parse_or_refuse(text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(text=graphs(casts=True).map(gi.to_text).flatmap(_mutated))
def test_a_mutated_random_graph_is_parsed_or_refused(text: str) -> None:
    _parse_or_refuse(text)


@settings(max_examples=200)
@given(text=st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    _parse_or_refuse(text)
