"""No room asks which operator a node has: it asks for a trait, or the declaration says what it wants to know.

A question is a comparison (`is`, `==`, `in`, and their negations) with an operator that is imported from the
dictionary, or of an operator's key or symbol with words that are written there; so is a table that is looked up by a
key. Rules registered for an operator, `@rules.emits(matmul)`, and nodes that are made of one, ask nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphir as gi
from graphir.ir.operator import Operator
from tests.support.paths import ROOT

FOLDERS = ("graphir", "passes", "backends")
#: Where operators are declared.
DECLARATIONS = ("graphir/operators/",)


def _sources() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            # `graphir/passes` and `graphir/backends` are links to the folders themselves.
            if not any(parent.is_symlink() for parent in path.parents):
                yield path


def _imported_operators(tree: ast.AST) -> set[str]:
    """The names under which a module imports operators of the dictionary."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("graphir.operators"):
            module = __import__(node.module or "", fromlist=["*"])
            for each in node.names:
                if isinstance(getattr(module, each.name, None), Operator):
                    found.add(each.asname or each.name)
    return found


def _names_an_operator(node: ast.expr, operators: set[str]) -> bool:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return any(
        (isinstance(part, ast.Name) and part.id in operators)
        or (isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "gi"
            and isinstance(getattr(gi, part.attr, None), Operator))
        for part in parts
    )  # fmt: skip


def _is_key_of_operator(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in ("key", "symbol")
        and (
            (isinstance(node.value, ast.Attribute) and node.value.attr in ("operator", "d_operator", "d_operator_of"))
            or (isinstance(node.value, ast.Name) and node.value.id in ("operator", "each"))
        )
    )


def _is_written_out(node: ast.expr) -> bool:
    """Whether it is words, or a constant by its name."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return all(map(_is_written_out, node.elts))
    if isinstance(node, ast.Name):
        return node.id.lstrip("_").isupper()
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def questions(source: str) -> list[int]:
    """The lines of a module that ask which operator there is."""
    tree = ast.parse(source)
    operators, found = _imported_operators(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            by_key = any(map(_is_key_of_operator, sides)) and any(map(_is_written_out, sides))
            if by_key or any(_names_an_operator(side, operators) for side in sides):
                found.append(node.lineno)
        elif (isinstance(node, ast.Subscript) and _is_key_of_operator(node.slice) and _is_written_out(node.value)) or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
            and _is_key_of_operator(node.args[0])
            and _is_written_out(node.func.value)
        ):
            found.append(node.lineno)
    return sorted(found)


@pytest.mark.parametrize(
    "source",
    [
        "from graphir.operators import matmul\nnode.operator is matmul",
        "from graphir.operators.linear import matmul as product\nnode.operator in (product, other)",
        "node.operator.key == 'matmul'",
        "operator.symbol not in ('•', '+')",
        "node.operator.symbol in _INFIX",
        "_AMOUNTS[node.operator.key]",
        "_NAMES.get(operator.key)",
        "node.operator != gi.add",
    ],
)
def test_a_question_is_seen(source: str) -> None:
    assert questions(source)


@pytest.mark.parametrize(
    "source",
    [
        "from graphir.operators import matmul\n@rules.emits(matmul)\ndef rule(): matmul(X, W)",
        "node.operator.trait(Causal) is not None",
        "f'{node.operator.key}(…)'",
        "node.operator is other.operator",
        "reader.operator.key != reading.key",
        "copies[node.operator.key]",
    ],
)
def test_what_is_no_question_is_not(source: str) -> None:
    assert not questions(source)


def test_nobody_asks_which_operator_a_node_has() -> None:
    found = {}
    for path in _sources():
        name = path.relative_to(ROOT).as_posix()
        lines = [] if name.startswith(DECLARATIONS) else questions(path.read_text(encoding="utf-8"))
        if lines:
            found[name] = lines
    assert found == {}
