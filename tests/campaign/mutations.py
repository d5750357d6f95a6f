"""Mechanical mutants of a module: one small change each, by its syntax tree, never on disk.

integer      a number one larger or smaller, a slice's bound one further or nearer
comparison   turned: < and <=, == and !=, in and not in, and so on
deleted      a call that stands as a statement left out
swapped      two statements that stand one after the other exchanged
exchanged    min and max, any and all, and and or, + and −
"""

from __future__ import annotations

import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType

_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_EXCHANGED = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
#: Statements whose order may be another without a name being missing where the module is read.
_MOVABLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.If, ast.For, ast.While, ast.Delete)


@dataclass(frozen=True)
class Mutant:
    """One change of a module: of which kind, in which line, and what the lines around were and are."""

    module: str
    path: str
    kind: str
    line: int
    number: int
    was: str = ""
    now: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.kind}: {self.was!r} is now {self.now!r}"


def find_path(module: str) -> Path:
    """Where a module's source is; ModuleNotFoundError if there is none.

    Nothing is imported for it: a package's own file may import the module that is to be changed.
    """
    names, inside = module.split("."), None
    spec: importlib.machinery.ModuleSpec | None = None
    for i in range(len(names)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(names[: i + 1]), inside)
        if spec is None:
            break
        inside = spec.submodule_search_locations
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{module} has no source to change; name modules such as graphir.passes.cse")
    return Path(spec.origin)


def mutants(module: str, source: str, path: str = "") -> list[Mutant]:
    """All mutants of a module, in the order of the walk over its tree, not yet described."""
    changes = enumerate(_changes(ast.parse(source)))
    return [Mutant(module, path or module, change.kind, change.line, number) for number, change in changes]


def described(mutant: Mutant, source: str) -> Mutant:
    """With the lines that were and those that are now; which takes a while, so that only those to be run are."""
    before, after = (
        ast.unparse(tree).splitlines() for tree in (ast.parse(source), changed_tree(source, mutant.number))
    )
    was, now = _different(before, after)
    return replace(mutant, was=was, now=now)


def changed_tree(source: str, number: int) -> ast.Module:
    """The module's tree with the change of that number."""
    tree = ast.parse(source)
    return ast.fix_missing_locations(list(_changes(tree))[number].applied(tree))


def sample(found: Sequence[Mutant], count: int, seed: int = 0) -> list[Mutant]:
    """So many of them, spread over kinds and lines, drawn by a seed."""
    rng = random.Random(seed)
    kinds = sorted({mutant.kind for mutant in found})
    pools = {kind: rng.sample(some, len(some)) for kind in kinds if (some := [m for m in found if m.kind == kind])}
    chosen: list[Mutant] = []
    while len(chosen) < min(count, len(found)):
        for pool in pools.values():
            if pool and len(chosen) < count:
                chosen.append(pool.pop())
    return sorted(chosen, key=lambda mutant: (mutant.module, mutant.number))


def _different(before: Sequence[str], after: Sequence[str]) -> tuple[str, str]:
    """The lines that a change took away and those that it brought, each on one line."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    was, now = (lines[start : len(lines) - end] for lines in (before, after))
    return "; ".join(line.strip() for line in was), "; ".join(line.strip() for line in now)


# -- changes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """An edit of the node that is so many in the walk over a tree."""

    kind: str
    line: int
    position: int
    edit: _Edit

    def applied(self, tree: ast.Module) -> ast.Module:
        """A copy of the tree with the edit made."""
        mine = copy.deepcopy(tree)
        self.edit(next(each for i, each in enumerate(ast.walk(mine)) if i == self.position))
        return mine


def _changes(tree: ast.Module) -> Iterator[_Change]:
    spared = _spared(tree)
    for position, node in enumerate(ast.walk(tree)):
        if id(node) not in spared:
            for kind, line, edit in _edits(node):
                yield _Change(kind, line, position, edit)


def _spared(tree: ast.Module) -> set[int]:
    """What is annotation, default of a class, or text: changing it changes nothing that runs."""
    found: set[int] = set()
    for node in ast.walk(tree):
        spoken: list[ast.AST | None] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            spoken.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            spoken.append(node.returns)
        elif isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert):
            spoken.append(node)
        for each in spoken:
            if each is not None:
                found.update(id(inner) for inner in ast.walk(each))
    return found


class _Edit:
    """What is done to a node of a copied tree."""

    def __init__(self, attribute: str, value: object, index: int | None = None) -> None:
        self.attribute, self.value, self.index = attribute, value, index

    def __call__(self, node: ast.AST) -> None:
        value = copy.deepcopy(self.value)
        if self.index is None:
            setattr(node, self.attribute, value)
        else:
            getattr(node, self.attribute)[self.index] = value


class _Swap(_Edit):
    """Two statements exchanged."""

    def __call__(self, node: ast.AST) -> None:
        assert self.index is not None
        body = getattr(node, self.attribute)
        body[self.index], body[self.index + 1] = body[self.index + 1], body[self.index]


def _edits(node: ast.AST) -> Iterator[tuple[str, int, _Edit]]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for value in (node.value + 1, node.value - 1):
            yield "integer", line, _Edit("value", value)
    elif isinstance(node, ast.Slice):
        for name in ("lower", "upper"):
            bound = getattr(node, name)
            if bound is not None and not isinstance(bound, ast.Constant):
                for way in (ast.Add(), ast.Sub()):
                    yield "integer", bound.lineno, _Edit(name, ast.BinOp(bound, way, ast.Constant(1)))
    elif isinstance(node, ast.Compare):
        for index, each in enumerate(node.ops):
            yield "comparison", line, _Edit("ops", _TURNED[type(each)](), index)
    elif isinstance(node, ast.BoolOp):
        yield "exchanged", line, _Edit("op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield "exchanged", line, _Edit("op", _OPERATORS[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "comparison", line, _Edit("operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _EXCHANGED:
        yield "exchanged", line, _Edit("func", ast.Name(_EXCHANGED[node.func.id], ast.Load()))
    yield from _of_body(node)


def _of_body(node: ast.AST) -> Iterator[tuple[str, int, _Edit]]:
    """Calls left out and neighbours exchanged, in each list of statements inside a function."""
    if isinstance(node, ast.Module | ast.ClassDef):
        return
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if not isinstance(body, list):
            continue
        for index, each in enumerate(body):
            if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call | ast.Yield | ast.YieldFrom):
                yield "deleted", each.lineno, _Edit(name, ast.Pass(), index)
            if index + 1 < len(body) and _depend(each, body[index + 1]):
                yield "swapped", each.lineno, _Swap(name, None, index)


def _depend(one: ast.stmt, other: ast.stmt) -> bool:
    """Whether exchanging two statements may matter: one stores a name that the other has, or both call."""
    if not isinstance(one, _MOVABLE) or not isinstance(other, _MOVABLE):
        return False
    if all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) for each in (one, other)):
        return True
    (stored, named), (stored_after, named_after) = _names(one), _names(other)
    return not (stored.isdisjoint(named_after) and stored_after.isdisjoint(named))


def _names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """What a statement stores, by name or attribute, and all that it names."""
    stored, named = set(), set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else f".{node.attr}"
            named.add(name)
            if isinstance(node.ctx, ast.Store):
                stored.add(name)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            stored.update(each.id for each in ast.walk(node.value) if isinstance(each, ast.Name))
    return stored, named


# -- running one ------------------------------------------------------------------------------------------


class Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """An import hook: the module of that name comes from its changed tree, everything else as ever."""

    def __init__(self, module: str, number: int) -> None:
        self.module, self.number = module, number
        self.path = find_path(module)

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_source(self, name: str) -> str:
        return self.path.read_text(encoding="utf-8")

    def get_code(self, name: str) -> CodeType:
        code: CodeType = compile(changed_tree(self.get_source(name), self.number), str(self.path), "exec")
        return code

    def install(self) -> None:
        """From now on; the module must not have been imported yet."""
        if self.module in sys.modules:
            raise ImportError(f"{self.module} has been imported already, as it is; change it in a process of its own")
        sys.meta_path.insert(0, self)
