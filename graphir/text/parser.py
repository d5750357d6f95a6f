"""From text to graphs, by recursive descent; every node is type-checked where it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from graphir.errors import GraphirError, ParseError
from graphir.ir.builder import LONGEST_NAME, Builder
from graphir.ir.fused import fused
from graphir.ir.graph import FORWARD, Graph, Meta
from graphir.ir.layout import Mesh
from graphir.ir.operator import Attributes, Operator, find_operator, operators
from graphir.ir.types import TensorType
from graphir.ir.value import Value, join
from graphir.text.budget import Budget
from graphir.text.lexer import Token, hint
from graphir.text.literals import BODY, Literals, name_text


def parse(text: str, *, budget: Budget | None = None) -> Graph:
    """The graph that `text` writes (`graphir.text` has the grammar); `to_text(parse(text))` says the same.

    Takes time and memory in proportion to the text, whatever stands in it. `budget` says how much a text may ask for;
    the usual one is far beyond what people's models need.
    Errors: ParseError, with line and column, for all that is no graph: an unexpected character or word, an
    unknown operator, value, attribute or dtype, a type that is not what the operator makes, a name given twice; and
    for a text beyond its budget.
    """
    if not isinstance(text, str):
        raise ParseError(f"a graph is parsed from text, a str, not from {type(text).__name__}", 1, 1)
    budget = budget or Budget()
    if len(text) > budget.characters:
        line, start = text.count("\n", 0, budget.characters) + 1, text.rfind("\n", 0, budget.characters)
        limit = f"at most {budget.characters:,} may be, unless a Budget allows more"
        raise ParseError(f"a text of {len(text):,} characters; {limit}", line, budget.characters - start)
    return _Parser(text, budget).read_graph()


@dataclass(frozen=True, slots=True)
class _Block:
    """What a header says of the nodes below it."""

    scope: str = ""
    phase: str = FORWARD
    file: str | None = None


@dataclass(frozen=True, slots=True)
class _Declared:
    """A value as its row declares it."""

    name: str
    type: TensorType
    token: Token
    type_token: Token


class _Parser(Literals):
    def __init__(self, text: str, budget: Budget) -> None:
        super().__init__(text)
        self.budget = budget
        #: How many nodes have been read, and how many fused nodes those that are being read lie in.
        self.nodes = self.nesting = 0
        self.values: dict[str, Value] = {}
        #: The line that each name, of a value or an alias, is given in.
        self.lines: dict[str, int] = {}
        self.outputs = set[Value]()
        self.sections: dict[str, Callable[[], None]] = {
            "where": self.define_dim,
            "inputs": self._input,
            "parameters": lambda: self._initialized(self.builder.parameter),
            "state": lambda: self._initialized(self.builder.state),
            "outputs": self._output,
            "aliases": self._alias,
        }

    # -- the whole ------------------------------------------------------------------------------------

    def read_graph(self) -> Graph:
        if not self.accept_word("graph"):
            self.fail(f"a text begins with its graph's name and dtype, such as graph mlp float32; found {self.token}")
        name = self.expect("name", "the graph's name")
        if self.token.kind == "name" and self.token.text != "over":
            self.dtype = self.read_dtype()
        if self.accept_word("over"):
            self.mesh = self._mesh()
        with self._located(name):
            self.builder = Builder(name.text, self.dtype, self.mesh)
        self._end_line()
        seen: dict[str, int] = {}
        while self.token.kind != "end":
            self._read_part(seen)
        self._check_definitions()
        return self.builder.build()

    def _mesh(self) -> Mesh:
        """`dp=2, tp=3`"""
        start, axes = self.token, list[tuple[str, int]]()
        while True:
            name = self.expect("name", "the name of a mesh axis").text
            self.expect("=", f"= and the number of ranks along {name}")
            axes.append((name, int(self._whole_number("ranks are counted").text)))
            if not self.accept(","):
                break
        if len(dict(axes)) < len(axes):
            self.fail(f"a mesh names each axis once: {', '.join(axis for axis, _ in axes)}", start)
        with self._located(start):
            return Mesh(axes)

    def _read_part(self, seen: dict[str, int]) -> None:
        """A section or a block: a header at the margin, and indented rows."""
        header = self.token
        if header.column > 1:
            self.fail(f"{header} is indented, but no header stands above it")
        if header.kind == "name" and header.text in self.sections:
            if header.text in seen:
                self.fail(f"a second section {header.text}; the first is in line {seen[header.text]}")
            seen[header.text] = header.line
            read_row = self.sections[self.advance().text]
            self._end_line(f"after the section's name; a block of that name is written /{header.text}")
            while self._is_indented(1):
                read_row()
                self._end_line()
        else:
            self._nodes(self._header(), 1)

    def _is_indented(self, column: int) -> bool:
        """Whether the current line stands further in than `column`."""
        return self.token.kind != "end" and self.token.column > column

    def _nodes(self, block: _Block, column: int) -> None:
        """The rows of a block that stand further in than its header."""
        while self._is_indented(column):
            self._node(block)

    def _header(self) -> _Block:
        """`layer0/mha backward @ model.py`: a scope, a phase if it is not forward, the file of the lines."""
        token = self.token
        if token.kind not in ("name", "/"):
            self.fail(f"expected a section ({', '.join(self.sections)}) or a block's scope, found {token}")
        scope = self.advance().text.removeprefix("/")
        phase, file = FORWARD, None
        if self.token.kind in ("name", "string"):
            phase = self._word("a phase")
        if self.accept("@"):
            file = self._word("the file of this block's lines")
        for word in (scope, phase, file or ""):
            if len(word) > LONGEST_NAME:
                self.fail(f"a name of {len(word)} characters; at most {LONGEST_NAME} may be", token)
        self._end_line()
        return _Block(scope, phase, file)

    def _check_definitions(self) -> None:
        for name, token in self.definition_tokens.items():
            if name not in self.dim_names:
                self.fail(f"dim {name} is defined, but no type or attribute has it; drop the definition", token)

    def _end_line(self, where: str = "") -> None:
        self.expect("newline", f"the end of the line {where}".rstrip())

    # -- sections -------------------------------------------------------------------------------------

    def _input(self) -> None:
        """`T  [B, S] int64`"""
        row = self._declared()
        with self._located(row.token):
            self.values[row.name] = self.builder.input(f"/{row.name}", row.type.shape, row.type.dtype, row.type.layout)

    def _initialized(self, declare: Callable[..., Value]) -> None:
        """`embedding/E  [V, D]  ~ normal(0.02)`"""
        row = self._declared()
        self.expect("~", "~ and how the tensor starts: zeros, ones, full(x) or normal(σ)")
        start = self.token
        init = self.expect("name", "zeros, ones, full(x) or normal(σ)").text
        if self.accept("("):
            sigma = self.expect("number", "a number, as in normal(0.02)").text
            self.expect(")", f") after {sigma}")
            init = f"{init}({sigma})"
        with self._located(start):
            self.values[row.name] = declare(f"/{row.name}", row.type.shape, row.type.dtype, init, row.type.layout)

    def _output(self) -> None:
        """`output/L`"""
        token, value = self._value()
        if value in self.outputs:
            self.fail(f"{value.name} is an output already", token)
        self.outputs.add(value)
        self.builder.output(value)

    def _alias(self) -> None:
        """`layer0/mha/X = embedding/X`"""
        token, name = self._new_name()
        self.expect("=", f"= and what {name} is another name of")
        _, value = self._value()
        with self._located(token):
            self.builder.alias(f"/{name}", value)

    # -- nodes ----------------------------------------------------------------------------------------

    def _node(self, block: _Block) -> None:
        """`dQ [..], dK_T [..] = dMatmul(Q, K_T, dA) {shared=false}  @178 of A`"""
        self.nodes += 1
        if self.nodes > self.budget.nodes:
            self.fail(f"more than {self.budget.nodes:,} nodes; no more may be, unless a Budget allows it")
        rows = [self._declared(block.scope)]
        while self.accept(","):
            rows.append(self._declared(block.scope))
        self.expect("=", "= and the operator that makes it")
        token, operator = self._operator()
        inputs = self._operands(operator, block.scope)
        written = self.read_attributes(operator)
        meta = self._note(block) if self.accept("@") else Meta(block.scope, block.phase)
        self._end_line()
        if operator is fused:
            written[BODY] = self._body(rows, inputs, block)
        try:
            attributes = operator.normalize(written)
            made = operator.infer(tuple([value.type for value in inputs]), attributes).types
        except GraphirError as error:
            operands = ", ".join(f"{value.name} {value.type}" for value in inputs)
            self.fail(f"{operator.key}({operands}): {error}", token)
        self._check_types(rows, made, operator, inputs, attributes, token)
        with self._located(rows[0].token):
            node = self.builder.declare(operator, inputs, attributes, [(row.name, row.type) for row in rows], meta)
        for value in node.outputs:
            self.values[value.name] = value

    def _body(self, rows: Sequence[_Declared], inputs: Sequence[Value], block: _Block) -> Graph:
        """What stands further in below a fused node: its nodes, in the node's own block or under headers.

        They know the node's operands and each other, nothing else; what the node makes is what its body makes of that
        name.
        """
        start = rows[0].token
        self.nesting += 1
        if self.nesting > self.budget.nesting:
            self.fail(f"a fused node inside of {self.budget.nesting} others; no more may be nested", start)
        outside = self.builder, self.values, self.lines
        self.builder = Builder(BODY, self.dtype, self.mesh)
        self.values, self.lines = {}, {}
        for value in inputs:
            with self._located(start):
                type_ = value.type
                self.values[value.name] = self.builder.input(f"/{value.name}", type_.shape, type_.dtype, type_.layout)
            self.lines[value.name] = start.line
        while self._is_indented(start.column):
            column = self.token.column
            if self.ahead(1).kind == "[":
                self._node(block)
            else:
                self._nodes(self._header(), column)
        for row in rows:
            if row.name not in self.values:
                self.fail(f"{row.name} is made by {fused.key}, but no row of its body makes it", row.token)
        graph = self.builder.build(*(self.values[row.name] for row in rows))
        self.builder, self.values, self.lines = outside
        self.nesting -= 1
        return graph

    def _operator(self) -> tuple[Token, Operator]:
        token = self.token
        key = self._word("the key of an operator")
        if key == fused.key:
            return token, fused
        try:
            return token, find_operator(key)
        except GraphirError:
            close = hint(key, (each.key for each in operators()))
            self.fail(f"no operator is called {key!r}{close or '; gi.operators() lists all'}", token)

    def _operands(self, operator: Operator, scope: str) -> list[Value]:
        self.expect("(", f"( and the operands of {operator.key}")
        inputs: list[Value] = []
        while self.token.kind != ")":
            inputs.append(self._value(scope)[1])
            if not self.accept(","):
                break
        self.expect(")", "a comma or ) after an operand")
        return inputs

    def _check_types(
        self,
        rows: Sequence[_Declared],
        made: Sequence[TensorType],
        operator: Operator,
        inputs: Sequence[Value],
        attributes: Attributes,
        token: Token,
    ) -> None:
        """The declared types must be the inferred ones, all of them."""
        if len(rows) != len(made):
            rule = operator.infer(tuple(value.type for value in inputs), attributes).rule
            names = ", ".join(f"{o.name} {each}" for o, each in zip(rule.outputs, made, strict=True))
            count = "1 value" if len(made) == 1 else f"{len(made)} values"
            self.fail(f"{operator.key} makes {count} here ({names}), but the row declares {len(rows)}", token)
        for row, type_ in zip(rows, made, strict=True):
            if row.type != type_:
                operands = ", ".join(f"{value.name} {value.type}" for value in inputs)
                self.fail(
                    f"{row.name} is declared {row.type}, but {operator.key}({operands}) makes {type_}",
                    row.type_token,
                )

    def _note(self, block: _Block) -> Meta:
        """`181 of A why "several uses"`, after the @."""
        at = self._place(block)
        of = why = None
        if self.accept_word("of"):
            quoted = self.token.kind == "string"
            word = self._word("the name of a forward value")
            of = word if quoted else join(block.scope, word)
        if self.accept_word("why"):
            why = self.read_string("the reason, quoted")
        if at is None and of is None and why is None:
            self.fail(f"expected a line, of or why after @, found {self.token}")
        return Meta(block.scope, block.phase, at, of, why)

    def _place(self, block: _Block) -> str | None:
        """`181`, a line of the block's file; `examples/mlp.py:12`; or any quoted text."""
        token = self.token
        if token.kind == "number":
            if block.file is None:
                self.fail(f"line {token.text} of which file? Name it in the block's header, or write file:{token.text}")
            return f"{block.file}:{self._whole_number('lines are counted').text}"
        if token.kind not in ("name", "string") or token.text in ("of", "why"):
            return None
        file = self._word("a file")
        if token.kind == "string" and self.token.kind != ":":
            return file
        self.expect(":", f": and a line of {file}")
        return f"{file}:{self._whole_number('lines are counted').text}"

    def _whole_number(self, why: str) -> Token:
        token = self.expect("number", "a number")
        if not token.text.isdigit():
            self.fail(f"{token} is no whole number; {why}", token)
        return token

    # -- names ----------------------------------------------------------------------------------------

    def _word(self, what: str) -> str:
        """A name, or a string where it is quoted."""
        return self.read_string(what) if self.token.kind == "string" else self.expect("name", what).text

    def _new_name(self, scope: str = "") -> tuple[Token, str]:
        """A name that is given here, and nowhere before."""
        token = self.expect("name", "a name")
        name = join(scope, token.text)
        if name in self.lines:
            self.fail(f"{name} is defined in line {self.lines[name]} already; give this one another name", token)
        self.lines[name] = token.line
        return token, name

    def _value(self, scope: str = "") -> tuple[Token, Value]:
        """A value that is defined above."""
        token = self.expect("name", "the name of a value")
        value = self.values.get(join(scope, token.text))
        if value is None:
            known = [name_text(name, scope) for name in self.values]
            same = [name for name in known if name.rpartition("/")[2] == token.text.rpartition("/")[2]]
            close = f"; did you mean {' or '.join(same[:3])}?" if same else hint(token.text, known)
            where = f" in {scope}" if scope else ""
            self.fail(f"no value {token.text}{where} is defined above{close}", token)
        return token, value

    def _declared(self, scope: str = "") -> _Declared:
        token, name = self._new_name(scope)
        type_token = self.token
        return _Declared(name, self.read_type(), token, type_token)

    @contextmanager
    def _located(self, token: Token) -> Iterator[None]:
        """What the builder refuses inside becomes a ParseError at `token`."""
        try:
            yield
        except GraphirError as error:
            self.fail(str(error), token)
