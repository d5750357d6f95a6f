"""The guide's tables, generated: operators from their declarations, tensors from the graph that the figures show.

A block's tables have the columns of A 1.2.2, 1.3.3, 1.4.3 and 1.5.3: symbol, name, shape, note. A tensor's note is the
expression that makes it, read off its node; a bias is shown inside its BC, and a tensor that a d-node caches is marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from graphir.drawing.labels import broadcast_label, shape_label, to_html, typeset
from graphir.drawing.picture import Label, Run
from graphir.ir.dims import Dim
from graphir.ir.graph import BACKWARD, Graph, Node
from graphir.ir.operator import Operator, operators
from graphir.ir.traits import Infix
from graphir.ir.value import Value

#: What a reader calls the tensors, by local name; what is not here is called after the operator that makes it.
NAMES: Mapping[str, str] = {
    "text": "Raw text",
    "T": "Token ids",
    "E": "Embedding matrix",
    "P_theta": "Learned positions",
    "P": "Positions",
    "X_tok": "Token embeddings",
    "X_emb": "Tokens and positions",
    "X_norm": "Normalized input",
    "Q": "Queries",
    "K": "Keys",
    "V": "Values",
    "W_Q": "Query weights",
    "W_K": "Key weights",
    "W_V": "Value weights",
    "W_O": "Output weights",
    "b_O": "Output bias",
    "gamma": "Scale of LN",
    "beta": "Shift of LN",
    "K_T": "Keys, transposed",
    "A": "Raw scores",
    "Z": "Scaled and masked scores",
    "AS": "Attention weights",
    "AS_drop": "Attention weights after dropout",
    "AO_heads": "What each head found",
    "AO_cat": "Heads side by side",
    "AO_lin": "Heads mixed",
    "AO_bias": "With bias",
    "H": "Normalized input",
    "W_up": "Weights up",
    "b_up": "Bias up",
    "Z_up": "Before the activation",
    "A_up": "Activated",
    "H_inter": "After dropout",
    "W_down": "Weights down",
    "b_down": "Bias down",
    "Z_down": "Back at width D",
    "W_lm": "Output projection",
    "b_lm": "Output bias",
    "Z_lin": "Logits before the bias",
    "Z_bias": "Logits",
    "L_tok": "Loss of each token",
    "L_sum": "Sum of losses",
    "n": "Number of valid tokens",
    "L": "Loss",
    "ids": "Chosen tokens",
}
#: The same in one block only, where a name means something else than elsewhere.
_BLOCK_NAMES: Mapping[tuple[str, str], str] = {
    ("embedding", "X"): "Start of the residual stream",
    ("mha", "X"): "Residual stream, coming in",
    ("mha", "A_out"): "Result of the block",
    ("mlp", "X"): "Residual stream, coming in",
    ("mlp", "A_out"): "With bias",
    ("mlp", "Y"): "Result of the block",
    ("output", "X"): "Residual stream at its end",
    ("output", "A_out"): "Normalized, ready to be read out",
    ("output", "Y"): "Targets",
    ("output", "P"): "Probabilities",
}
_OPERATOR_NAMES: Mapping[str, str] = {
    "LN": "Layer normalization",
    "RMS": "RMS normalization",
    "SM": "Scale and mask",
    "SMP": "Scale and mask by position",
    "ROPE": "Rotary positions",
    "angles": "Angles of rotary positions",
    "add": "Addition",
    "matmul": "Matrix multiplication",
    "sum": "Sum",
    "GL": "Activation",
    "GLU": "Gated activation",
    "CAP": "Soft cap",
    "CACHE": "Rows of a cache",
    "count": "Count of valid tokens",
}
#: The blocks that these are names in; elsewhere, in graphs of others, they may mean anything.
_BLOCKS = frozenset({"embedding", "mha", "mlp", "output"})
#: Statistics and masks, by the name that their operator's signature gives them.
_STATISTICS: Mapping[str, str] = {"m": "Mask", "mean": "Mean", "rstd": "Inverse deviation", "lse": "Log-sum-exp"}
#: A name with a subscript, or a dim of one letter.
_NAME = re.compile(r"\b(d?[A-Z]{1,2}|d?f)_(?:([A-Za-z]+|ℓ)\b|\{([^{}]+)\})|\b([BSDVN])\b")
_CODE = re.compile(r"`([^`]+)`")


# -- HTML -------------------------------------------------------------------------------------------------


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """A table; cells are HTML already."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'


def set_names(text: str) -> str:
    """Plain text as HTML, with the dims and tensors in it set: N_T with a subscript, single capitals italic."""
    return _NAME.sub(_set_name, escape(text, quote=False).replace("*", "\u2009"))


def _set_name(found: re.Match[str]) -> str:
    letters, word, formula, dim = found.groups()
    return f"<i>{dim}</i>" if dim else f"<i>{letters}</i><sub>{word or formula}</sub>"


# -- operators --------------------------------------------------------------------------------------------


def operations(graphs: Iterable[Graph], scope: str) -> str:
    """A table of the operators that nodes in `scope` apply, over all of `graphs`: symbol, name, note."""
    found: dict[str, Operator] = {}
    for graph in graphs:
        for node in graph.nodes:
            if node.meta.scope == scope:
                found.setdefault(node.operator.key, node.operator)
    forward = [each for each in found.values() if each.d_operator_of is None]
    backward = [each for each in found.values() if each.d_operator_of is not None]
    rows = [(_symbol(each), escape(operator_name(each)), _note(each)) for each in (*forward, *backward)]
    return table(("Symbol", "Name", "What it computes"), rows, "operations")


def dictionary() -> str:
    """Every operator of the registry that has a d-operator, beside it: symbols, signatures, formulas."""
    rows = []
    for each in operators():
        if each.d_operator is None:
            continue
        backward = each.d_operator
        rows.append((_symbol(each), _note(each), _symbol(backward), _note(backward)))
    return table(("Forward", "Computes", "Backward", "Computes"), rows, "dictionary")


def operator_name(operator: Operator) -> str:
    """`Layer norm` of LN, `Layer norm, backward` of dLN."""
    owner = operator.d_operator_of or operator
    name = _OPERATOR_NAMES.get(owner.key) or owner.kernel.__name__.removesuffix("_op").replace("_", " ").capitalize()
    return f"{name}, backward" if operator.d_operator_of is not None else name


def _symbol(operator: Operator) -> str:
    return f'<span class="operator">{escape(operator.symbol)}</span>'


def _note(operator: Operator) -> str:
    """The operator's own first sentences, up to an empty line, as HTML."""
    text = " ".join(operator.doc.partition("\n\n")[0].split())
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))


# -- tensors ----------------------------------------------------------------------------------------------


def tensors(graph: Graph, scope: str) -> str:
    """A table of every tensor of a block, forward and backward: symbol, name, shape, note. In order of computation."""
    block = scope.rpartition("/")[2]
    rows = [_row(graph, local, value, block) for local, value in block_tensors(graph, scope)]
    return table(("Symbol", "Name", "Shape", "Note"), rows, "tensors")


def block_tensors(graph: Graph, scope: str) -> Iterator[tuple[str, Value]]:
    """(local name, value) of all that lies in `scope`: aliases, parameters, results forward, then backward.

    What BC makes is left out, as it is shown inside the sum that takes it.
    """
    prefix = f"{scope}/"
    aliases = [(name.removeprefix(prefix), value) for name, value in graph.aliases.items() if name.startswith(prefix)]
    names = {local for local, _ in aliases}
    own = [(value.local_name, value) for value in graph.values.values() if value.scope == scope]
    shown = [(name, value) for name, value in own if name not in names and not _is_broadcast(graph, value)]
    gradients = {name: value for name, value in (*aliases, *shown) if is_gradient(graph, name, value)}
    yield from ((name, value) for name, value in (*aliases, *shown) if name not in gradients)
    yield from gradients.items()


def is_gradient(graph: Graph, local: str, value: Value) -> bool:
    """Whether a value is a gradient: its node is one of the backward pass, and it is called d…"""
    node = graph.producers.get(value)
    return node is not None and node.meta.phase == BACKWARD and local.startswith("d")


def _row(graph: Graph, local: str, value: Value, block: str) -> tuple[str, str, str, str]:
    return (
        to_html(_label(graph, local, value)),
        to_html(_name(graph, local, value, block)),
        to_html(shape_label(value.shape)) if value.shape else "scalar",
        to_html(_expression(graph, value)),
    )


def _name(graph: Graph, local: str, value: Value, block: str) -> Label:
    """What a reader calls the tensor `local` of `block`."""
    if is_gradient(graph, local, value):
        whole, through, use = local[1:].partition(".")
        made = (Run("Gradient of "), *_primal_label(graph, whole, value))
        return (*made, Run(", through "), *typeset(use)) if through else made
    known = _STATISTICS.get(local.partition(".")[2])
    if block in _BLOCKS:
        known = _BLOCK_NAMES.get((block, local)) or NAMES.get(local) or known
    if known is None:
        node = graph.producers.get(value)
        if node is None and local.startswith("d") and f"{value.scope}/{local[1:]}".lstrip("/") in graph.values:
            return (Run("Gradient of "), *typeset(local[1:]))
        kind = "Parameter" if value in graph.parameters else "Input"
        known = kind if node is None else f"Result of {operator_name(node.operator).lower()}"
    return (Run(known),)


def _label(graph: Graph, local: str, value: Value) -> Label:
    if not is_gradient(graph, local, value):
        return typeset(local, parameter=value in graph.parameters)
    primal, through, _ = local[1:].partition(".")
    found = graph.find(f"{value.scope}/{primal}")
    if not through and found is not None and _is_broadcast(graph, found):
        return (Run("d"), *_primal_label(graph, primal, value))
    return typeset(local, gradient=True, parameter=found is not None and found in graph.parameters)


def _primal_label(graph: Graph, primal: str, gradient: Value) -> Label:
    found = graph.find(f"{gradient.scope}/{primal}")
    return typeset(primal) if found is None else _operand(graph, found, primal)


def _expression(graph: Graph, value: Value) -> Label:
    """How the value is made, `Q • K^T`; for an argument, that it comes from outside."""
    node = graph.producers.get(value)
    if node is None:
        kind = "trained" if value in graph.parameters else "handed in"
        cached = _cached_for(graph, value)
        return (Run(f"{kind}{cached}"),)
    operands = [_operand(graph, each) for each in node.inputs if not _is_key(each)]
    if node.operator.trait(Infix) and len(operands) > 1:
        made = _join(operands, f" {node.operator.symbol} ")
    else:
        made = (Run(f"{node.operator.symbol}("), *_join(operands, ", "), Run(")"))
    return (*made, Run(_cached_for(graph, value)))


def _operand(graph: Graph, value: Value, local: str | None = None) -> Label:
    node = graph.producers.get(value)
    if node is not None and _is_broadcast(graph, value):
        return broadcast_label(_new_dims(node), _operand(graph, node.inputs[0]))
    return _label(graph, local or value.local_name, value)


def _cached_for(graph: Graph, value: Value) -> str:
    made_by = graph.producers.get(value)
    if made_by is not None and made_by.meta.phase == BACKWARD:
        return ""
    users = [n.operator.symbol for n, _ in graph.uses.get(value, ()) if n.meta.phase == BACKWARD]
    return f"; cached for {', '.join(dict.fromkeys(users))}" if users else ""


def _is_broadcast(graph: Graph, value: Value) -> bool:
    node = graph.producers.get(value)
    return node is not None and value.local_name.startswith("BC_") and node.meta.phase != BACKWARD


def _new_dims(node: Node) -> tuple[Dim, ...]:
    return tuple(each for each in node.outputs[0].shape if each not in node.inputs[0].shape)


def _is_key(value: Value) -> bool:
    # Seed and step key the dropout masks; no formula of the documents writes them.
    return value.type.rank == 0 and not value.type.is_float


def _join(labels: Iterable[Label], between: str) -> Label:
    made: list[Run] = []
    for label in labels:
        if made:
            made.append(Run(between))
        made.extend(label)
    return tuple(made)
