"""Names, dims, types and attributes as text, in both directions. A type is printed and read here and nowhere else.

    dim          D    N_H*D_h    D/N_T    4*D    3
    type         [B, S, D]    [B, S] int64    [B|dp, S, D] pending sum(tp)
    attributes   {p=0.1, causal=true, kind="gelu", width=D_h, perm=(1, 0), only=("dW",)}

A type without a dtype has the graph's. What follows `|` are the axes of the graph's mesh that split a dim, what
follows `pending` the reductions that are due (`graphir.ir.layout`). A dim is read as it is spelled: `N_H*D_h` stays
that, though it equals D.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from graphir.errors import DimError, GraphirError
from graphir.ir.dims import MOST_FACTORS, Dim, dim
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import Layout, Mesh
from graphir.ir.operator import Operator
from graphir.ir.types import DTYPES, TensorType
from graphir.text.lexer import Cursor, Token, hint, shortened

#: What the graph that a fused node holds is called.
BODY = "body"
_CONSTANTS = {"true": True, "false": False, "inf": float("inf"), "nan": float("nan")}
#: Attributes that no operator declares and every one may have, with an example of each.
_ANY_OPERATOR = {"only": '("dW",)', "split": '("a0|dp",)'}
_DIGITS = re.compile(r"[0-9]+\Z")


# -- printing ---------------------------------------------------------------------------------------------


def type_text(type: TensorType, dtype: str) -> str:
    """`[B, S] int64`; the dtype is left out where it is the graph's, `dtype`."""
    shape = type.text.removeprefix(type.dtype)
    return shape if type.dtype == dtype else f"{shape} {type.dtype}"


def name_text(name: str, scope: str) -> str:
    """`W_Q` of layer0/mha/W_Q in layer0/mha; elsewhere the full name with a leading slash. `join` reads it."""
    if not scope:
        return name
    return name.removeprefix(f"{scope}/") if name.startswith(f"{scope}/") else f"/{name}"


def string_text(text: str) -> str:
    """`text` quoted, with JSON's escapes for quotes, backslashes and what cannot be seen."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def attributes_text(node: Node) -> str:
    """` {p=0.1, key=3}`: those that differ from what their operator declares; nothing if none does.

    A graph among them, a fused node's body, is no literal: it has lines of its own.
    """
    items = []
    for name, value in node.attributes.items():
        if isinstance(value, Graph):
            continue
        declared = node.operator.attributes.get(name)
        if declared is None or declared.required or declared.convert(declared.default) != value:
            items.append(f"{name}={_value_text(value)}")
    return f" {{{', '.join(items)}}}" if items else ""


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return string_text(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_value_text, value))}{',' if len(value) == 1 else ''})"
    return str(value)


def dims_in(graph: Graph) -> Iterator[Dim]:
    """The dims that the text of `graph` shows, each object once: equal ones may be spelled differently."""
    seen = set[int]()
    for each in _all_dims(graph):
        if isinstance(each, Dim) and id(each) not in seen:
            seen.add(id(each))
            yield each


def _all_dims(graph: Graph) -> Iterator[Any]:
    for value in graph.values.values():
        yield from value.shape
    for node in graph.nodes:
        for attribute in node.attributes.values():
            if isinstance(attribute, Graph):
                yield from _all_dims(attribute)
            else:
                yield from attribute if isinstance(attribute, tuple) else (attribute,)


# -- reading ----------------------------------------------------------------------------------------------


class Literals(Cursor):
    """Reads dims, types and attributes, with the dims' definitions that the text gives."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.dtype = "float32"
        self.mesh = Mesh()
        self.definitions: dict[str, Dim] = {}
        self.definition_tokens: dict[str, Token] = {}
        self.dim_names: set[str] = set()
        self._dims: dict[str, Dim] = {}

    # -- dims -----------------------------------------------------------------------------------------

    def define_dim(self) -> None:
        """Reads `D_h = D/N_H`; from here on, D_h is that."""
        token = self.expect("name", "the name of a dim")
        name = token.text
        if name in self.definitions:
            self.fail(f"dim {name} is defined already: {name} = {self.definitions[name]}", token)
        if name in self.dim_names:
            self.fail(f"dim {name} is used above; define it before its first use", token)
        self.expect("=", f"= and what dim {name} is")
        definition = self.read_dim()
        try:
            self.definitions[name] = dim(name, definition).definitions[name]
        except DimError as error:
            self.fail(str(error), token)
        self.definition_tokens[name] = token

    def read_dim(self) -> Dim:
        """Reads a product or quotient of names and numbers."""
        start = self.token
        if start.kind not in ("name", "number"):
            self.fail(f"expected a dim, such as B, 2*D or D/N_T, found {start}")
        pieces = [self.advance().text]
        # `D/N_T` is one token, a path, `2/N_T` are two, and `D / 2` are three.
        while _goes_on(self.token):
            mark = self.advance()
            pieces.append(mark.text)
            if mark.kind != "name":
                if self.token.kind not in ("name", "number"):
                    self.fail(f"expected a dim's name or a number after {mark}, found {self.token}")
                pieces.append(self.advance().text)
        text = "".join(pieces)
        if text not in self._dims:
            self._dims[text] = self._make_dim(text, start)
        return self._dims[text]

    def _make_dim(self, text: str, at: Token) -> Dim:
        """The dim of that spelling, exactly: nothing is filled in, nothing cancelled but a name by itself."""
        above, below = 1, 1
        powers: dict[str, int] = {}
        definitions: dict[str, Dim] = {}
        sign = 1
        parts = re.split(r"([*/])", text)
        if len(parts) > 2 * MOST_FACTORS:
            self.fail(f"a dim of {len(parts) // 2 + 1} factors; at most {MOST_FACTORS} may be", at)
        for part in parts:
            if part in ("*", "/"):
                sign = 1 if part == "*" else -1
            elif _DIGITS.match(part):
                above, below = (above * int(part), below) if sign > 0 else (above, below * int(part))
            else:
                try:
                    dim(part)
                except DimError as error:
                    self.fail(f"{shortened(text)!r} is no dim: {error}", at)
                powers[part] = powers.get(part, 0) + sign
                self.dim_names.add(part)
                if part in self.definitions:
                    definition = self.definitions[part]
                    definitions |= {**definition.definitions, part: definition}
        if not above or not below:
            self.fail(f"{shortened(text)!r} is no dim: a size is positive", at)
        try:
            return Dim(powers.items(), Fraction(above, below), definitions)
        except DimError as error:
            self.fail(f"{shortened(text)!r} is no dim: {error}", at)

    # -- types ----------------------------------------------------------------------------------------

    def read_type(self) -> TensorType:
        """Reads `[B, S] int64`, the dtype the graph's unless it is written."""
        start = self.expect("[", "a type, such as [B, S, D]")
        shape: list[Dim] = []
        splits: list[list[str]] = []
        while self.token.kind != "]":
            shape.append(self.read_dim())
            splits.append([])
            while self.accept("|"):
                splits[-1].append(self._read_axis("the mesh axis that splits the dim").text)
            if not self.accept(","):
                break
        self.expect("]", "a comma or ] after a dim")
        pending = self._read_pending() if self.accept_word("pending") else {}
        dtype = self.dtype
        if self.token.kind == "name":
            dtype = self.read_dtype()
        try:
            return TensorType(dtype, shape, Layout(splits, pending))
        except GraphirError as error:
            self.fail(str(error), start)

    def _read_pending(self) -> dict[str, str]:
        """Reads `sum(tp), max(dp)`; a comma followed by anything else is not its own."""
        pending: dict[str, str] = {}
        while True:
            reduction = self.expect("name", "a reduction, such as sum(tp)").text
            self.expect("(", f"( and the mesh axis of {reduction}")
            axis = self._read_axis("the mesh axis of the reduction")
            if axis.text in pending:
                self.fail(f"two reductions are pending over {axis.text}", axis)
            pending[axis.text] = reduction
            self.expect(")", f") after {axis.text}")
            if self.token.kind != "," or self.ahead(2).kind != "(":
                return pending
            self.advance()

    def _read_axis(self, what: str) -> Token:
        """Reads the name of an axis of the mesh."""
        token = self.expect("name", what)
        if token.text not in self.mesh.sizes:
            where = f"is over {self.mesh}" if self.mesh.axes else "is over no mesh"
            self.fail(f"no mesh axis is called {token.text}: the graph {where}; its first line says so", token)
        return token

    def read_dtype(self) -> str:
        """Reads a dtype."""
        token = self.expect("name", f"a dtype: {', '.join(DTYPES)}")
        if token.text not in DTYPES:
            self.fail(f"{token.text!r} is no dtype; choose from {', '.join(DTYPES)}", token)
        return token.text

    # -- attributes -----------------------------------------------------------------------------------

    def read_attributes(self, operator: Operator) -> dict[str, Any]:
        """Reads `{p=0.1, key=3}` if it is there; names are checked here, types by `Operator.normalize`."""
        found: dict[str, Any] = {}
        if not self.accept("{"):
            return found
        while self.token.kind != "}":
            token = self.expect("name", f"the name of an attribute of {operator.key}")
            name = token.text
            if name not in operator.attributes and name not in _ANY_OPERATOR:
                known = ", ".join(operator.attributes) or "none"
                close = hint(name, operator.attributes)
                self.fail(f"{operator.key} has no attribute {name}; it has {known}{close}", token)
            if name in found:
                self.fail(f"attribute {name} is given twice", token)
            self.expect("=", f"= after {name}")
            start = self.token
            found[name] = self._read_value()
            strings = isinstance(found[name], tuple) and {str}.issuperset(map(type, found[name]))
            if name in _ANY_OPERATOR and not strings:
                self.fail(f"{name} must be a tuple of strings, such as {_ANY_OPERATOR[name]}", start)
            if not self.accept(","):
                break
        self.expect("}", "a comma or } after an attribute")
        return found

    def _read_value(self) -> Any:
        """Reads a tuple of scalars, or a scalar."""
        if not self.accept("("):
            return self._read_scalar()
        items = []
        while self.token.kind != ")":
            items.append(self._read_scalar())
            if not self.accept(","):
                if len(items) == 1:
                    self.expect(",", "a comma: a tuple of one is written (h,)")
                break
        self.expect(")", "a comma or ) in a tuple")
        return tuple(items)

    def _read_scalar(self) -> Any:
        """Reads a string, a truth value, a number or a dim."""
        token = self.token
        if token.kind == "string":
            return self.read_string("a string")
        negative = self.accept("-")
        if self.token.kind == "name" and self.token.text in _CONSTANTS:
            value = _CONSTANTS[self.advance().text]
            if negative and isinstance(value, bool):
                self.fail(f"{str(value).lower()} has no negative", token)
            return -value if negative else value
        if self.token.kind == "number" and not _goes_on(self.ahead(1)):
            text = self.advance().text
            number = int(text) if _DIGITS.match(text) else float(text)
            return -number if negative else number
        if negative or self.token.kind not in ("name", "number"):
            what = "a number after -" if negative else "a number, a dim, a quoted string, true, false or a tuple"
            self.fail(f"expected {what}, found {self.token}")
        return self.read_dim()

    def read_string(self, what: str) -> str:
        """Reads a quoted string."""
        token = self.expect("string", what)
        try:
            return str(json.loads(token.text))
        except json.JSONDecodeError as error:
            self.fail(f"{token.text} is no string: {error.msg}", token)


def _goes_on(token: Token) -> bool:
    """Whether a dim that has begun goes on with `token`."""
    return token.kind in ("*", "/") or (token.kind == "name" and token.text.startswith("/"))
