"""From graphs to text: a table a block, as the documents have one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from textwrap import wrap
from typing import TypeAlias

from graphir.errors import GraphError
from graphir.ir.dims import Dim
from graphir.ir.graph import FORWARD, Graph, Node
from graphir.ir.value import Value
from graphir.text.lexer import PATH
from graphir.text.literals import BODY, attributes_text, dims_in, name_text, string_text, type_text

Row: TypeAlias = Sequence[str]


class _Lines(tuple[str, ...]):
    """What stands between rows as it is: a fused node's body, below its node."""


#: Scope and phase.
Block: TypeAlias = tuple[str, str]

SECTIONS = ("where", "inputs", "parameters", "state", "outputs", "aliases")
_NAME = re.compile(PATH)
_LINE = re.compile(r"(?P<file>.*):(?P<line>0|[1-9][0-9]{0,8})", re.DOTALL)
#: A cell wider than its column's limit stands out rather than push all others to the right.
_LIMITS = (26, 40, 62)
#: Longer lists of operands are broken into lines of about this length.
_OPERANDS = 88


def to_text(graph: Graph, *, meta: bool = True) -> str:
    """`graph` as text, which `parse` reads back; `meta=False` leaves out phases, lines, reasons.

    Errors: GraphError if two dims of one name are defined differently, a scope has no name that can be written, or
    a fused node's body has other names than the node for what enters and leaves it.
    """
    return "\n".join(_Printer(graph, meta).lines()) + "\n"


class _Printer:
    def __init__(self, graph: Graph, meta: bool) -> None:
        self.graph, self.meta = graph, meta
        floats = Counter(value.dtype for value in graph.values.values() if value.type.is_float)
        self.dtype = floats.most_common(1)[0][0] if floats else "float32"

    def lines(self) -> list[str]:
        graph = self.graph
        sections: list[tuple[str, Sequence[Row]]] = [
            ("where", [(name, f"= {definition}") for name, definition in definitions(graph).items()]),
            ("inputs", [(value.name, self._type(value)) for value in graph.inputs]),
            ("parameters", [(value.name, self._type(value), f"~ {value.init}") for value in graph.parameters]),
            ("state", [(value.name, self._type(value), f"~ {value.init}") for value in graph.state]),
            *self._blocks(),
            ("outputs", [(value.name,) for value in graph.outputs]),
            ("aliases", [(name, f"= {value.name}") for name, value in graph.aliases.items()]),
        ]
        mesh = f" over {graph.mesh}" if graph.mesh.axes else ""
        lines = [f"graph {graph.name} {self.dtype}{mesh}"]
        for header, rows in sections:
            if rows:
                lines.extend(["", header, *_table(rows)])
        return lines

    def _type(self, value: Value) -> str:
        return type_text(value.type, self.dtype)

    def _blocks(self) -> Iterable[tuple[str, list[Row]]]:
        """A block is a run of nodes of one scope and phase; its header names the file that most lines are of."""
        for block, nodes in self._runs(self.graph):
            file = self._file(nodes)
            yield self._header(block, file), [row for node in nodes for row in self._rows(node, block, file)]

    def _runs(self, graph: Graph) -> Iterable[tuple[Block, list[Node]]]:
        for block, group in groupby(graph.nodes, key=self._block):
            yield block, list(group)

    def _file(self, nodes: Sequence[Node]) -> str | None:
        files = Counter(match["file"] for node in nodes if (match := _LINE.fullmatch(node.meta.at or "")))
        return files.most_common(1)[0][0] if files and self.meta else None

    def _header(self, block: Block, file: str | None) -> str:
        scope, phase = block
        header = _scope_text(scope)
        if phase != FORWARD:
            header += f" {_word(phase)}"
        return header if file is None else f"{header}  @ {_word(file)}"

    def _block(self, node: Node) -> Block:
        return node.meta.scope, node.meta.phase if self.meta else FORWARD

    def _rows(self, node: Node, block: Block, file: str | None) -> Iterable[Row]:
        """A row for each output; the last one says how they are made. A body follows."""
        scope, _ = block
        *others, last = node.outputs
        for value in others:
            yield name_text(value.name, scope), f"{self._type(value)},"
        operands = ", ".join(name_text(value.name, scope) for value in node.inputs)
        if len(operands) > _OPERANDS:
            # Names hold no blanks, so lines break after commas, where a row may go on.
            operands = "\n".join(wrap(operands, _OPERANDS, break_long_words=False, break_on_hyphens=False))
        made = f"= {_word(node.operator.key)}({operands}){attributes_text(node)}"
        row = (name_text(last.name, scope), self._type(last), made)
        note = _note(node, scope, file) if self.meta else ""
        yield (*row, note) if note else row
        body = node.body
        if body is not None:
            _check_body(node, body)
            yield _Lines(self._body(body, block, file))

    def _body(self, body: Graph, block: Block, file: str | None) -> Iterable[str]:
        """Rows below their node; those of the node's own block need no header where they come first."""
        for position, (inner, nodes) in enumerate(self._runs(body)):
            margin, place = "  ", file
            if position or inner != block:
                margin, place = "    ", self._file(nodes)
                yield margin + self._header(inner, place)
            for line in _table([row for node in nodes for row in self._rows(node, inner, place)]):
                yield margin + line


def _check_body(node: Node, body: Graph) -> None:
    """In text, what enters and leaves a body has the names that it has outside; a body has nothing else."""
    if body.parameters or body.state or body.aliases or body.name != BODY:
        raise GraphError(f"{node.name} cannot be written: its body is called {BODY}, and has inputs and outputs alone")
    for inside, outside in zip((*body.inputs, *body.outputs), (*node.inputs, *node.outputs), strict=True):
        if inside.name != outside.name:
            raise GraphError(f"{node.name} cannot be written: its body calls {outside.name} {inside.name}")


def _note(node: Node, scope: str, file: str | None) -> str:
    """`@181 of A why "several uses"`: the line, in the block's file if no other is said, and what the rest is."""
    parts = []
    if node.meta.at is not None:
        match = _LINE.fullmatch(node.meta.at)
        if match is None:
            parts.append(string_text(node.meta.at))
        else:
            parts.append(match["line"] if match["file"] == file else f"{_word(match['file'])}:{match['line']}")
    if node.meta.of is not None:
        of = node.meta.of
        bare = _NAME.fullmatch(of) and not of.startswith("/")
        parts.append(f"of {name_text(of, scope) if bare else string_text(of)}")
    if node.meta.why is not None:
        parts.append(f"why {string_text(node.meta.why)}")
    return f"@{' '.join(parts)}" if parts else ""


def _word(text: str) -> str:
    """`text` bare if it reads as one name and not as a word of the notes, else quoted."""
    return text if _NAME.fullmatch(text) and text not in ("of", "why") else string_text(text)


def _scope_text(scope: str) -> str:
    """The scope's full name; with the slash that says so at the top, and where a section has that name."""
    if scope and (not _NAME.fullmatch(scope) or scope.startswith("/")):
        raise GraphError(f"{scope!r} cannot be written as a scope: letters, digits, _ and . between slashes")
    return f"/{scope}" if not scope or scope in SECTIONS else scope


def definitions(graph: Graph) -> dict[str, Dim]:
    """What the names of the graph's dims are defined as, each after those it is made of."""
    found: dict[str, Dim | None] = {}

    def visit(each: Dim) -> None:
        for name, _ in each.powers:
            definition = each.definitions.get(name)
            if name not in found:
                if definition is not None:
                    visit(definition)
                found[name] = definition
            elif found[name] is not definition and found[name] != definition:
                raise GraphError(
                    f"graph {graph.name} cannot be written: its dim {name} is both {found[name] or 'undefined'} "
                    f"and {definition or 'undefined'}; give one of them another name"
                )

    for each in dims_in(graph):
        visit(each)
    return {name: definition for name, definition in found.items() if definition is not None}


def _table(rows: Sequence[Row]) -> list[str]:
    """Rows of cells, indented, as lines with aligned columns; the last cell of a row is as long as it is."""
    widths = [
        max((len(row[i]) for row in rows if _has_column(row, i) and len(row[i]) <= limit), default=0)
        for i, limit in enumerate(_LIMITS)
    ]
    lines: list[str] = []
    for row in rows:
        if isinstance(row, _Lines):
            lines.extend(row)
            continue
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        first, *rest = ("  " + "  ".join([*cells, row[-1]])).split("\n")
        margin = first.find("(", first.find("= ")) + 1
        lines.extend([first, *(" " * margin + each for each in rest)])
    return lines


def _has_column(row: Row, index: int) -> bool:
    """Whether the row's cell there is one of a column, and not its last, which is as long as it is."""
    return not isinstance(row, _Lines) and len(row) > index + 1
