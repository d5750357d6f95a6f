"""Small changes of a graph's text: by its grammar, so that many are graphs still, and by its characters.

    by grammar   a dim, a number, an operand, an operator, a dtype, a row, an attribute or a string is another one; a
                 row becomes a fused node that holds it; the graph gets ranks, outputs, definitions, notes
    by bytes     characters are cut out, put in, turned, repeated, or exchanged for some of another text

All of it follows from a generator of random numbers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from graphir.ir.types import DTYPES
from tests.support.dictionary import dictionary

#: From a text, another one, and a generator: a text.
Change: TypeAlias = Callable[[str, str, random.Random], str]

_WORD = re.compile(r"[A-Za-z_][\w.]*")
_NUMBER = re.compile(r"(?<![\w.\"])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w\"])")
_TYPE = re.compile(r"\[[^\]\n\"]*\]")
_ROW = re.compile(r"^(?P<indent> +)(?P<made>[^\n=~]+?)  *= (?P<call>[\w.]+\([^\n]*)$", re.MULTILINE)
_CALL = re.compile(r"= (?P<key>[\w.]+)\((?P<operands>[^()\n]*)\)")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_NAMES = re.compile(r"/?[^\W\d][\w.]*(?:/[^\W\d][\w.]*)*")

_NUMBERS = (
    *("0", "1", "2", "3", "7", "64", "-1", "-0.0", "0.5", "1.5", "0.99", "1e-8", "1e-45", "1e30", "1e300", "1e999"),
    *("100", "65536", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616"),
    *("inf", "-inf", "nan", "true", "false", "B", "2*B", "1" * 64, "1" * 90, "0.1", "1000000"),
)
_DIMS = ("1", "2", "3", "4", "B", "S", "D", "2*B", "B/2", "B*S", "B*D/D", "D/N_H", "6", "12/2", "9999999999", "B*B*B")
_STRINGS = (
    *('""', '"none"', '"padding"', '"given"', '"gelu"', '"relu"', '"float32"', '"float16"', '"bfloat16"', '"int64"'),
    *('"bool"', '"text"', '"sum"', '"max"', '"mean"', '"dp"', '"a b -> (a b)"', '"(a b) -> a b"', '"a b c -> a (b c)"'),
    *(
        '"a -> a"',
        '" -> "',
        '"a0|dp"',
        '"dX"',
        '"cosine"',
        '"bytes"',
        '"/etc/passwd"',
        '"\\u0000"',
        '"\\ud800"',
        '"(("',
    ),
    *('"a! b -> b a!"', '"*b d -> *b d"', '"a a -> a a"', '"x[y]->"', '"a b->a b, c"'),
)
_PIECES = (
    *("[", "]", "(", ")", "{", "}", ",", "=", "~", "@", ":", "|", "*", "/", "+", "-", ".", "#", '"', "\\", " ", "\n"),
    *("\t", "\r", "\0", "\x85", "\u2028", "\ud800", "γ", "𝔛", "0", "9", "1e", "true", "inf", "where\n", "outputs\n"),
    *(
        "\n/\n",
        "  ",
        "fused",
        "over dp=2",
        "pending sum(dp)",
        "[]",
        "()",
        "{}",
        "only",
        "split",
        "of",
        "why",
        "/",
        "//",
    ),
)


# -- by grammar -------------------------------------------------------------------------------------------


def _replace(text: str, found: re.Match[str], by: str, group: str | int = 0) -> str:
    return text[: found.start(group)] + by + text[found.end(group) :]


def _pick(pattern: re.Pattern[str], text: str, rng: random.Random) -> re.Match[str] | None:
    found = list(pattern.finditer(text))
    return rng.choice(found) if found else None


def _everywhere(text: str, was: str, now: str) -> str:
    return re.sub(rf"(?<![\w.\"/]){re.escape(was)}(?![\w.\"])", lambda _: now, text)


def _another_dim(text: str, other: str, rng: random.Random) -> str:
    """A dim of some type, everywhere or there alone, is another one."""
    found = _pick(_TYPE, text, rng)
    words = _WORD.findall(found[0]) if found else []
    if found is None or not words:
        return text
    was, now = rng.choice(words), rng.choice(_DIMS)
    return _everywhere(text, was, now) if rng.random() < 0.8 else _replace(text, found, found[0].replace(was, now))


def _another_number(text: str, other: str, rng: random.Random) -> str:
    found = _pick(_NUMBER, text, rng)
    return text if found is None else _replace(text, found, rng.choice(_NUMBERS))


def _another_operand(text: str, other: str, rng: random.Random) -> str:
    """An operand is another value, more often than not one that is declared with the same type."""
    found = _pick(_CALL, text, rng)
    if found is None or not found["operands"]:
        return text
    operands = found["operands"].split(", ")
    types = dict(re.findall(r"^ +([^\W\d][\w./]*) +(\[[^\]\n]*\][^=~\n,@]*)", text, re.MULTILINE))
    mine = types.get(operands[position := rng.randrange(len(operands))].rpartition("/")[2], "").strip()
    alike = [name for name, type_ in types.items() if type_.strip() == mine]
    if not types:
        return text
    operands[position] = rng.choice(alike if alike and rng.random() < 0.8 else list(types))
    if rng.random() < 0.1:
        operands.append(rng.choice(list(types)))
    return _replace(text, found, ", ".join(operands), "operands")


def _another_operator(text: str, other: str, rng: random.Random) -> str:
    """An operator is another, or a sibling of its family, which has the same operands and results."""
    found = _pick(_CALL, text, rng)
    if found is None:
        return text
    keys = [each.key for each in dictionary()]
    siblings = ("exp", "GL", "scale", "zeros", "identity", "S", "cast", "add", "square_sum", "LSE", "row_max", "ARG")
    key = rng.choice(siblings) if found["operands"].count(",") == 0 and rng.random() < 0.7 else rng.choice(keys)
    return _replace(text, found, key, "key")


def _another_dtype(text: str, other: str, rng: random.Random) -> str:
    """A dtype, that of the whole graph more often than not, is another one."""
    pattern = re.compile(rf"\b(?:{'|'.join(DTYPES)})\b")
    found = pattern.search(text) if rng.random() < 0.7 else _pick(pattern, text, rng)
    return text if found is None else _replace(text, found, rng.choice(list(DTYPES)))


def _another_string(text: str, other: str, rng: random.Random) -> str:
    found = _pick(_STRING, text, rng)
    return text if found is None else _replace(text, found, rng.choice(_STRINGS))


def _another_row(text: str, other: str, rng: random.Random) -> str:
    """A row is left out, doubled, exchanged with the next, or taken from another text."""
    lines = text.split("\n")
    position, kind = rng.randrange(len(lines)), rng.randrange(4)
    if kind == 0:
        del lines[position]
    elif kind == 1:
        lines.insert(position, re.sub(r"^( +)([^\W\d])", r"\1\2x", lines[position], count=1))
    elif kind == 2:
        lines[position : position + 2] = reversed(lines[position : position + 2])
    else:
        lines.insert(position, rng.choice(other.split("\n")))
    return "\n".join(lines)


def _another_attribute(text: str, other: str, rng: random.Random) -> str:
    """An attribute is left out, or there is one more."""
    found = _pick(re.compile(r"\{[^{}\n]*\}"), text, rng)
    if found is None:
        return text
    inside = found[0][1:-1]
    if rng.random() < 0.5:
        items = re.split(r", (?=\w+=)", inside)
        items.pop(rng.randrange(len(items)))
        return _replace(text, found, f"{{{', '.join(items)}}}")
    more = rng.choice(('only=("dX",)', 'only=("Y",)', 'split=("a0|dp",)', "split=()", "p=0.5", "key=3", "axes=(0,)"))
    return _replace(text, found, f"{{{inside}, {more}}}")


def _inside_of_a_fused_node(text: str, other: str, rng: random.Random) -> str:
    """A row becomes a fused node that holds it, a few times over."""
    rows = [row for row in _ROW.finditer(text) if "fused(" not in row["call"]]
    if not rows:
        return text
    row = rng.choice(rows)
    call = _CALL.search(f"= {row['call']}")
    if call is None:
        return text
    operands = ", ".join(dict.fromkeys(each for each in call["operands"].split(", ") if each))
    depth = rng.choice((1, 1, 1, 2, 3, 9))
    lines = [f"{row['indent']}{'  ' * i}{row['made']}  = fused({operands})" for i in range(depth)]
    lines.append(f"{row['indent']}{'  ' * depth}{row['made']}  = {row['call']}")
    return _replace(text, row, "\n".join(lines))


def _over_ranks(text: str, other: str, rng: random.Random) -> str:
    """The graph is for several ranks, or for others; some dim is split, some value pending."""
    head, newline, rest = text.partition("\n")
    if " over " not in head:
        head += rng.choice((" over dp=2", " over dp=1", " over tp=2, dp=2", " over dp=3", " over dp=100000"))
    text = head + newline + rest
    for _ in range(rng.choice((0, 1, 1, 2))):
        found = _pick(_TYPE, text, rng)
        if found is not None:
            axis = rng.choice(("dp", "tp", "cp"))
            split = re.sub(r"(?<=\w)(?=[,\]])", f"|{axis}", found[0], count=1)
            text = _replace(text, found, rng.choice((split, split, f"{found[0]} pending sum({axis})")))
    return text


def _other_outputs(text: str, other: str, rng: random.Random) -> str:
    """One more value is an output."""
    names = re.findall(r"^ +([^\W\d][\w./]*) +\[", text, re.MULTILINE)
    if not names:
        return text
    return text.replace("\noutputs\n", f"\noutputs\n  {rng.choice(names)}\n", 1)


def _other_start(text: str, other: str, rng: random.Random) -> str:
    """A parameter starts otherwise."""
    found = _pick(re.compile(r"~ ([^\n]*)"), text, rng)
    starts = (
        "zeros",
        "ones",
        "full(3)",
        "full(1e30)",
        "full(1 1)",
        "full(1e999)",
        "normal(0)",
        "normal(1e38)",
        "normal",
    )
    return text if found is None else _replace(text, found, f"~ {rng.choice(starts)}")


def _definition(text: str, other: str, rng: random.Random) -> str:
    """A dim is defined by others, and used in place of one; or by itself, twice over and again."""
    chain = rng.choice((1, 1, 2, 3, 40))
    names = [f"A{i}" for i in range(chain)]
    by = rng.choice(("{0}*{0}", "2*{0}", "{0}", "{0}/2"))
    start = rng.choice(("B", "D", "2", "4*B"))
    lines = [f"  {name} = {by.format(before)}" for before, name in zip([start, *names], names, strict=False)]
    where = "\n".join(lines)
    text = text.replace("\nwhere\n", f"\nwhere\n{where}\n", 1) if "\nwhere\n" in text else _after_head(text, where)
    found = _pick(_TYPE, text, rng)
    words = _WORD.findall(found[0]) if found else []
    return _everywhere(text, rng.choice(words), names[-1]) if words and rng.random() < 0.5 else text


def _after_head(text: str, where: str) -> str:
    head, newline, rest = text.partition("\n")
    return f"{head}{newline}\nwhere\n{where}\n{rest}"


def _another_name(text: str, other: str, rng: random.Random) -> str:
    """A name is another one everywhere: of another value, of a section, a word of notes, or a long one."""
    words = [word for word in _NAMES.findall(text) if len(word) < 40]
    now = rng.choice((*words[:20], "where", "outputs", "of", "why", "over", "fused", "body", "X" * 2000, "a/b/c", "Σ"))
    return _everywhere(text, rng.choice(words), now) if words else text


def _repeated(text: str, other: str, rng: random.Random) -> str:
    """A piece, of a line more often than not, stands there many times over."""
    lines = text.split("\n")
    position = rng.randrange(len(lines))
    line = lines[position]
    if not line:
        return text
    start = rng.randrange(len(line))
    piece = line[start : start + rng.choice((1, 2, 5, 20))]
    lines[position] = line[:start] + piece * rng.choice((2, 3, 40, 400)) + line[start + len(piece) :]
    return "\n".join(lines)


BY_GRAMMAR: Sequence[tuple[Change, int]] = (
    (_another_dim, 6),
    (_another_number, 6),
    (_another_operand, 6),
    (_another_operator, 5),
    (_another_dtype, 3),
    (_another_string, 3),
    (_another_row, 4),
    (_another_attribute, 2),
    (_inside_of_a_fused_node, 4),
    (_over_ranks, 2),
    (_other_outputs, 3),
    (_other_start, 2),
    (_definition, 2),
    (_another_name, 2),
    (_repeated, 1),
)


# -- by bytes ---------------------------------------------------------------------------------------------


def _cut(text: str, other: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.choice((1, 1, 2, 5, 40)) :]


def _put_in(text: str, other: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + rng.choice(_PIECES) + text[start:]


def _turn(text: str, other: str, rng: random.Random) -> str:
    """A bit of a character is turned."""
    if not text:
        return text
    start = rng.randrange(len(text))
    return text[:start] + chr(ord(text[start]) ^ (1 << rng.randrange(7))) + text[start + 1 :]


def _splice(text: str, other: str, rng: random.Random) -> str:
    start, from_ = rng.randrange(len(text) + 1), rng.randrange(len(other) + 1)
    piece = other[from_ : from_ + rng.choice((3, 10, 80, 400))]
    return text[:start] + piece + text[start + rng.choice((0, len(piece))) :]


BY_BYTES: Sequence[tuple[Change, int]] = ((_cut, 3), (_put_in, 4), (_turn, 3), (_splice, 2), (_repeated, 1))


# -- both -------------------------------------------------------------------------------------------------


def mutate(text: str, other: str, rng: random.Random) -> tuple[str, str]:
    """`text` with a few changes, of some with pieces of `other`, and of which kind they are."""
    kind, pool, count = rng.choices(_KINDS, _WEIGHTS)[0]
    changes, weights = zip(*pool, strict=True)
    for change in rng.choices(changes, weights, k=rng.choice(count)):
        text = change(text, other, rng)
    return text, kind


_KINDS = (
    ("as it is", BY_GRAMMAR, (0,)),
    ("by grammar", BY_GRAMMAR, (1, 1, 1, 2, 2, 3)),
    ("by bytes", BY_BYTES, (1, 1, 2, 3)),
    ("by both", (*BY_GRAMMAR, *BY_BYTES), (2, 3)),
)
_WEIGHTS = (1, 14, 6, 2)
