"""Attention's core as ONNX's Attention: found by what nodes are and read, whatever their names.

    A = Q • Kᵀ,  Z = SM(A),  P = S(Z),  O = P • V         plain heads, or groups of heads of queries that share one of
                                                          keys and values; A scaled and held within ±cap, perhaps

where nobody reads what lies between. Who sees whom is what the formula of SM says: Z = where(seen, A · scale, masked).
So positions, windows, padding and documents are a mask of their own nodes, written once for all layers that have the
same; what is causal and nothing else is said by `is_causal`.

A row that sees no key is 0 in both. One that sees keys whose scores are all below −1e30 is 0 here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphir.export.onnx.dims import Dims
from graphir.export.onnx.terms import write_term
from graphir.export.onnx.writer import Tensor, Writer
from graphir.formula.terms import Term, walk
from graphir.formula.trace import Formula, NoFormula, formula_of
from graphir.ir.dims import Dim, product
from graphir.ir.graph import Graph, Node
from graphir.ir.traits import MASKED_SCORES, PRODUCT, SCALED_BY_ROOT, SOFT_CAP, SOFTMAX, Causal, Computes, Sees
from graphir.ir.value import Value

#: In what scale and cap are told, so that no other dtype has all of its digits.
DTYPE = "float32"


@dataclass(frozen=True)
class Core:
    """The core that a product O ends.

    inner   the nodes that it takes the place of, O's own aside
    masked  the one that masks scores; `formula` is what that computes, and `seen` of it which scores count, None: all
    scale   what products of queries and keys are multiplied by, before they are held within ±cap; 0: they are not
    """

    inner: tuple[Node, ...]
    Q: Value
    K: Value
    V: Value
    masked: Node
    formula: Formula
    seen: Term | None
    scale: float
    cap: float

    def is_causal(self) -> bool:
        """Whether a query sees the keys up to its own place, and nothing else is said of what it sees."""
        causal = self.masked.operator.trait(Causal)
        *_, q, k = self.masked.outputs[0].shape
        return causal is not None and causal.when(self.masked.attributes) and len(self.masked.inputs) == 1 and q == k


def find_cores(graph: Graph, dims: Dims) -> dict[Node, Core]:
    """The cores of a graph, by the node of the product that ends each."""
    found = {node: _found(graph, node, dims) for node in graph.nodes if _computes(node, PRODUCT)}
    return {node: core for node, core in found.items() if core is not None}


def _found(graph: Graph, last: Node, dims: Dims) -> Core | None:
    P, V = last.inputs
    inner: list[Node] = []

    def made(value: Value) -> Node | None:
        """The node that makes a value for one other alone; of one that hands its operand on, who makes that."""
        node = graph.producers.get(value)
        if node is None or len(graph.uses[value]) != 1 or value in graph.outputs:
            return None
        inner.append(node)
        handed = _handed_on(node, value)
        return node if handed is None else made(handed)

    rows = made(P)
    masked = made(rows.inputs[0]) if rows is not None and _computes(rows, SOFTMAX) else None
    if masked is None or not (_computes(masked, MASKED_SCORES) or masked.operator.trait(Sees)):
        return None
    formula = formula_of(masked, _numbers(masked, dims))
    said = None if isinstance(formula, NoFormula) else _said(formula)
    if isinstance(formula, NoFormula) or said is None:
        return None
    seen, scale = said
    node, cap = made(masked.inputs[0]), 0.0
    if node is not None and _computes(node, SOFT_CAP) and scale == 1:
        cap = node.attributes["cap"]
        node = made(node.inputs[0])
    if node is not None and _computes(node, SCALED_BY_ROOT):
        width = dims.fixed(node.attributes["width"])
        if width is None:
            return None
        scale *= width ** (-0.5 if node.attributes["divide"] else 0.5)
        node = made(node.inputs[0])
    swapped = made(node.inputs[1]) if node is not None and _computes(node, PRODUCT) else None
    if node is None or swapped is None or not _swaps(swapped):
        return None
    Q, K = node.inputs[0], swapped.inputs[0]
    of_one_dtype = {value.dtype for value in (Q, K, V, *last.outputs)} == {DTYPE}
    if not of_one_dtype or not (K.type.rank == V.type.rank == 4 and Q.type.rank in (4, 5)):
        return None
    return Core(tuple(inner), Q, K, V, masked, formula, seen, scale, cap)


def _computes(node: Node, part: str) -> bool:
    trait = node.operator.trait(Computes)
    return trait is not None and trait.part == part


def _handed_on(node: Node, value: Value) -> Value | None:
    """The operand that a node's result is, as dropout's at rate 0."""
    identity, rule = node.operator.identity, node.inference.rule
    same = identity(node.attributes) if identity else {}
    name = same.get(rule.outputs[node.outputs.index(value)].name)
    return next((X for X, each in zip(node.inputs, rule.inputs, strict=True) if each.name == name), None)


def _swaps(node: Node) -> bool:
    """Whether it is a view of its operand with the last two axes swapped."""
    (X, *_), (Y, *_) = node.inference.rule.inputs, node.inference.rule.outputs
    *rest, s, d = X.axes
    return node.operator.view and list(Y.axes) == [*rest, d, s]


def _numbers(node: Node, dims: Dims) -> dict[str, object]:
    """Attributes with dims in numbers, as far as they are known."""
    return {
        name: each if not isinstance(each, Dim) or (size := dims.fixed(each)) is None else size
        for name, each in node.attributes.items()
    }


def _said(formula: Formula) -> tuple[Term | None, float] | None:
    """What is seen, None: all, and what scores are multiplied by; None of a formula that says something else."""
    (root,) = formula.results.values()
    seen = None
    if root.operation == "where":
        seen, root, _ = root.operands
    if root.operation != "multiply" or {each.operation for each in root.operands} != {"operand", "number"}:
        return None
    if seen is not None and not _is_of_all_heads(seen, formula):
        return None
    (scale,) = (each.detail for each in root.operands if each.operation == "number")
    return seen, float(scale)


def _is_of_all_heads(seen: Term, formula: Formula) -> bool:
    """Whether no score says what is seen, and all heads see the same."""
    b, *_, q, k = formula.rule.outputs[0].factors
    return seen.factors <= {b, q, k} and not any(each.kind == "float" for each in _read(seen))


def _read(term: Term) -> Iterator[Term]:
    """The operands that a term is made of."""
    return (each for each in walk([term]) if each.operation == "operand")


# -- writing ----------------------------------------------------------------------------------------------


class Masks:
    """Masks that are written, each once: [B or 1, 1, S or 1, S_k or 1], or less."""

    def __init__(self, write: Writer) -> None:
        self.write = write
        self._known: dict[tuple[object, ...], Tensor] = {}

    def of(self, core: Core, said: str) -> Tensor | None:
        """The mask of a core, written if it is the first of its kind; None where all is seen."""
        if core.seen is None or core.is_causal():
            return None
        node = core.masked
        key = (node.operator, node.attributes, *node.inputs[1:], node.outputs[0].shape)
        if key not in self._known:
            self.write.begin(node.name, said)
            self._known[key] = self._written(core, core.seen)
            self.write.end([], kept=[self._known[key]])
        return self._known[key]

    def _written(self, core: Core, seen: Term) -> Tensor:
        node = core.masked
        names = {each.name: value for each, value in zip(core.formula.rule.inputs, node.inputs, strict=True)}
        operands = {each.detail: Tensor(names[each.detail].name, names[each.detail].dtype) for each in _read(seen)}
        mask = write_term(self.write, node, core.formula, seen, operands)
        # Heads are in one axis there, whether or not they are in groups.
        groups = core.Q.type.rank - 4
        return self.write.squeeze(mask.tensor, range(1, 1 + groups)) if mask.rank == core.Q.type.rank else mask.tensor


def write_core(write: Writer, last: Node, core: Core, mask: Tensor | None) -> Tensor:
    """Writes Attention in place of a core, and returns the result of its last product."""
    Q, K, V = (Tensor(each.name, each.dtype) for each in (core.Q, core.K, core.V))
    options: Mapping[str, float] = {"softcap": core.cap} if core.cap else {}
    causal: Mapping[str, int] = {"is_causal": 1} if core.is_causal() else {}
    together = _together(core.Q.shape)
    operands = [write.reshape(Q, core.Q.shape, together), K, V, *([] if mask is None else [mask])]
    made = write("Attention", *operands, scale=core.scale, **options, **causal)
    result = last.outputs[0].shape
    return write.reshape(made, _together(result), result)


def _together(shape: tuple[Dim, ...]) -> list[Dim]:
    """[B, N_KV, G, S, D_h] with its heads in one axis."""
    return [shape[0], product(shape[1:-2]), *shape[-2:]]
