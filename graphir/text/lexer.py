"""From characters to tokens, and a cursor that walks them.

A token's `kind` is `name`, `number`, `string`, `newline` or `end`, or the mark itself: `[`, `=`, `@`, ….
A name is a path, `layer0/mha/W_Q`, and a leading slash belongs to it. `#` starts a comment. Blank lines
count for nothing, and a line that ends in a comma goes on in the next. Lines and columns count from 1.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, NoReturn

from graphir.errors import ParseError, meant

#: A path in full or from its scope. Its parts are what `Builder` takes for names.
PATH = r"/?[^\W\d][\w.]*(?:/[^\W\d][\w.]*)*"
_TOKEN = re.compile(
    rf"""
    [ \t\r]* (?:
        (?P<comment> \#[^\n]* )
      | (?P<newline> \n )
      | (?P<name>    {PATH} )
      | (?P<number>  (?: [0-9]+ (?: \.[0-9]* )? | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? )
      | (?P<string>  "(?: [^"\\\n] | \\. )*" )
      | (?P<mark>    [][(){{}},=~@:|*/+-] )
      | (?P<end>     \Z )
      | (?P<other>   . )
    )
    """,
    re.VERBOSE,
)
#: No size, key or constant is longer, and Python itself refuses to read integers that are very long.
_LONGEST_NUMBER = 100
#: Characters of an error's text; characters and number of the names among which one is looked for that is meant, which
#: takes time in the product of the two.
_LONGEST_MESSAGE, _LONGEST_HINT, _MOST_HINTS = 2000, 60, 300


class Token(NamedTuple):
    """A piece of text, what it is, and where it starts."""

    kind: str
    text: str
    line: int
    column: int

    def __str__(self) -> str:
        if self.kind == "newline":
            return "the end of the line"
        return "the end of the text" if self.kind == "end" else repr(shortened(self.text))


def tokenize(text: str) -> Iterator[Token]:
    """The tokens of `text`, `end` the last; ParseError at a character that starts none."""
    line, line_start = 1, 0
    previous = "newline"
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "comment":
            continue
        found = match[kind]
        column = match.end() - len(found) - line_start + 1
        if kind == "end":
            break
        if kind == "newline":
            if previous not in ("newline", ","):
                yield Token(kind, found, line, column)
                previous = kind
            line, line_start = line + 1, match.end()
            continue
        if kind == "other":
            raise ParseError(_unreadable(found), line, column)
        if kind == "number" and len(found) > _LONGEST_NUMBER:
            raise ParseError(f"a number of {len(found)} characters; write it shorter", line, column)
        previous = found if kind == "mark" else kind
        yield Token(previous, found, line, column)
    column = len(text) - line_start + 1
    if previous != "newline":
        yield Token("newline", "\n", line, column)
    yield Token("end", "", line, column)


def _unreadable(character: str) -> str:
    if character == '"':
        return 'a string starts here and does not end on this line; close it with ", and write a line break as \\n'
    return f"{character!r} means nothing here; outside strings there are names, numbers and [](){{}},=~@:|*/+-"


class Cursor:
    """A place in a text, moving forward."""

    def __init__(self, text: str) -> None:
        self._tokens = tokenize(text)
        #: What has been looked at beyond the current token.
        self._looked_at = deque[Token]()
        self.token = next(self._tokens)

    def advance(self) -> Token:
        """The current token; the next one becomes current. At the end, it stays."""
        token = self.token
        if token.kind != "end":
            self.token = self._looked_at.popleft() if self._looked_at else next(self._tokens)
        return token

    def ahead(self, count: int) -> Token:
        """The token `count` places further on, or the last."""
        self._looked_at.extend(islice(self._tokens, max(count - len(self._looked_at), 0)))
        return [self.token, *self._looked_at][: count + 1][-1]

    def accept(self, kind: str) -> bool:
        """Whether the current token is of `kind`; if so, it is passed."""
        if self.token.kind != kind:
            return False
        self.advance()
        return True

    def accept_word(self, word: str) -> bool:
        """Whether the current token is the name `word`; if so, it is passed."""
        if self.token.kind != "name" or self.token.text != word:
            return False
        self.advance()
        return True

    def expect(self, kind: str, what: str) -> Token:
        """The current token, passed, if it is of `kind`; else ParseError: `what` was expected."""
        if self.token.kind != kind:
            self.fail(f"expected {what}, found {self.token}")
        return self.advance()

    def fail(self, message: str, token: Token | None = None) -> NoReturn:
        """Raises ParseError at `token`, or at the current one."""
        token = token or self.token
        raise ParseError(shortened(message, _LONGEST_MESSAGE), token.line, token.column) from None


def shortened(text: str, most: int = 80) -> str:
    """`text`, or, of one that is longer, its beginning and its end."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-(most // 2) :]}"


def hint(name: str, known: Iterable[str]) -> str:
    """`; did you mean W_Q or W_K?`, or nothing if no known name is close; of very many the last ones are looked at."""
    if len(name) > _LONGEST_HINT:
        return ""
    near = deque((each for each in known if len(each) <= _LONGEST_HINT), maxlen=_MOST_HINTS)
    found = meant(name, near, cutoff=0.6)
    return f"; {found}" if found else ""
