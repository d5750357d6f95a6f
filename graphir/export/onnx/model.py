"""From a graph to an ONNX model: which nodes, what goes in, what comes out, and what is said of it all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphir.errors import ExportError, InputError
from graphir.export.onnx import operators  # noqa: F401  declares the rules
from graphir.export.onnx.attention import Core, Masks, find_cores, write_core
from graphir.export.onnx.dims import OPEN, Dims
from graphir.export.onnx.package import element_type, onnx
from graphir.export.onnx.refusals import require_forward, require_inference, told, with_open_size, without_formula
from graphir.export.onnx.rules import find_rule
from graphir.export.onnx.terms import write_formula
from graphir.export.onnx.writer import LackingError, Tensor, Writer
from graphir.files import write_atomically
from graphir.formula.trace import Formula, NoFormula, formula_of
from graphir.ir.dims import Dim, Sizes, dim_names
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes import dce, unfuse
from graphir.text import fingerprint
from graphir.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

#: What a file of protobuf's holds.
_MOST_BYTES = (1 << 31) - (1 << 20)
#: What stands for a size, to see whether a kernel has a formula once it is known.
_SOME_SIZE = 2


def to_onnx(
    graph: Graph,
    sizes: Sizes | None = None,
    *,
    fetch: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    opset: int | None = None,
    open: Collection[str] = OPEN,
) -> ModelProto:
    """The graph as an ONNX model that returns its outputs, or the values in `fetch`, and has what these need.

    sizes       of the graph's dims, but for those in `open` that shall be whatever the inputs of a run have
    parameters  arrays of all parameters, as `gi.initialize` makes them or a checkpoint has them: the model has them in
                it. Without, they are its inputs. One along a dim of `open` is as long as the longest run, and every
                run takes its beginning. State that has no array among them, as a cache, is an input
    opset       the version of ONNX's operators; the newest that the package has unless told

    Errors: ExportError for what is no forward graph of one rank, what draws random numbers, an operator that ONNX has
    no way to say, and an opset that is too old, with the least that will do; DimError for a size that is missing or
    wrong; InputError for an array that does not fit; GraphError for an unknown name; MissingDependencyError.
    """
    kept = dce(unfuse(graph), fetch)
    if not kept.outputs:
        raise ExportError(f"graph {graph.name} returns nothing; name values to return, by fetch=[…]")
    require_forward(kept)
    dims = Dims(kept, sizes or {}, open, dim_names([graph.dims]))
    arrays = None if parameters is None else _arrays(kept, dims, parameters)
    # What is asked of the package comes last: nobody is to install it for a graph that cannot be exported.
    newest = onnx().defs.onnx_opset_version()
    chosen = newest if opset is None else opset
    if not 1 <= chosen <= newest:
        raise ExportError(f"opset {opset} is unknown to onnx {onnx().__version__}, which has 1 to {newest}")
    try:
        return _Export(kept, dims, arrays, chosen).model(fingerprint(graph))
    except LackingError as error:
        least = next((each for each in range(chosen + 1, newest + 1) if _works(kept, dims, each)), None)
        raise ExportError(
            f"opset {chosen} {error}, which {error.needed_by} needs; "
            + ("no other that this onnx knows has it" if least is None else f"the least that will do is {least}")
        ) from None


def save(
    graph: Graph,
    path: str | Path,
    sizes: Sizes | None = None,
    *,
    fetch: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    opset: int | None = None,
    open: Collection[str] = OPEN,
) -> None:
    """Writes the graph's ONNX model to `path`, whole or not at all.

    Errors: as `to_onnx`; ConfigError where the file cannot be written.
    """
    model = to_onnx(graph, sizes, fetch=fetch, parameters=parameters, opset=opset, open=open)
    content = model.SerializeToString()
    write_atomically(Path(path), lambda file: file.write(content))


def _works(graph: Graph, dims: Dims, opset: int) -> bool:
    """Whether the graph can be written in that opset."""
    try:
        _Export(graph, dims, None, opset).model("")
    except LackingError:
        return False
    return True


def _arrays(graph: Graph, dims: Dims, parameters: Mapping[str, Any]) -> dict[Value, Any]:
    """The array of each parameter; InputError for one that is missing or does not fit."""
    found = {}
    for value in _kept(graph):
        array = parameters.get(value.name)
        if array is None and value in graph.state:
            continue
        if array is None:
            raise InputError(f"parameters lacks {value.name} {value.type}")
        if not _fits(value, array, dims):
            shape = [dims.shown(each) for each in value.shape]
            raise InputError(f"{value.name} is {array.dtype}{list(array.shape)}, not {value.type} = {shape}")
        found[value] = array[tuple(slice(dims.fixed(each)) for each in value.shape)]
    total = sum(array.nbytes for array in found.values())
    if total > _MOST_BYTES:
        raise ExportError(
            f"the parameters are {total / 1e9:.1f} GB, and one ONNX file holds 2 GiB; export without them, "
            "so that they are the model's inputs"
        )
    return found


def _fits(value: Value, array: Any, dims: Dims) -> bool:
    """Whether an array is the parameter's, or, along dims that may be open, at least as long."""
    if len(array.shape) != len(value.shape) or array.dtype.name != value.dtype:
        return False
    pairs = [(each, dims.fixed(each), length) for each, length in zip(value.shape, array.shape, strict=True)]
    return all(size in (None, got) or (each.names & dims.may_open and size < got) for each, size, got in pairs)


def _kept(graph: Graph) -> list[Value]:
    """What is kept from run to run, parameters and state, as far as it is read or returned."""
    return [value for value in (*graph.parameters, *graph.state) if graph.uses[value] or value in graph.outputs]


class _Export:
    def __init__(self, graph: Graph, dims: Dims, arrays: Mapping[Value, Any] | None, opset: int) -> None:
        self.graph, self.dims, self.arrays = graph, dims, arrays or {}
        self.arguments = (*graph.inputs, *(value for value in _kept(graph) if value not in self.arrays))
        self.write = Writer(dims, opset, graph.values)

    # -- the model ------------------------------------------------------------------------------------

    def model(self, digest: str) -> ModelProto:
        """The model; `digest` is the fingerprint of the graph that it is of."""
        helper, graph, write = onnx().helper, self.graph, self.write
        self.write_nodes()
        read = {name for node in write.nodes for name in node.input} | {value.name for value in graph.outputs}
        lengths, inputs = write.finish([value for value in self.arguments if value.name in read], self.arguments)
        written = {name for node in write.nodes for name in node.output}
        inner = [each for node in graph.nodes for each in node.outputs if self._is_inner(each) and each.name in written]
        made = helper.make_graph(
            [*lengths, *write.nodes],
            graph.name,
            [self._typed(value, self._noted(value)) for value in inputs],
            [self._typed(value) for value in dict.fromkeys(graph.outputs)],
            [
                each
                for each in write.initializers
                if each.name in read | {name for node in lengths for name in node.input}
            ],
            doc_string=f"The graph {graph.name} of graphir {__version__}: names, dims and scopes are its own.",
            value_info=[self._typed(value) for value in inner],
        )
        opsets = [helper.make_opsetid("", write.opset)]
        model: ModelProto = helper.make_model(
            made, opset_imports=opsets, producer_name="graphir", producer_version=__version__
        )
        model.ir_version = helper.find_min_ir_version_for(opsets)
        helper.set_model_props(model, {"graphir.graph": graph.name, "graphir.fingerprint": digest})
        return model

    def _is_inner(self, value: Value) -> bool:
        return bool(self.graph.uses[value]) and value not in self.graph.outputs

    def _typed(self, value: Value, noted: str = "") -> Any:
        """A value's name and type, its dims by their names or numbers."""
        shape = [self.dims.shown(each) for each in value.shape]
        return onnx().helper.make_tensor_value_info(value.name, element_type(value.dtype), shape, doc_string=noted)

    def _noted(self, value: Value) -> str:
        """What is to be known of an input: its type, and of ids their range, which ONNX does not check."""
        for node, position in self.graph.uses[value]:
            factor = node.inference.rule.inputs[position].indexes
            if factor is not None:
                return f"{value.type}, ids from 0 to {self.dims.shown(node.inference.factors[factor])} - 1"
        return str(value.type)

    # -- nodes ----------------------------------------------------------------------------------------

    def write_nodes(self) -> None:
        """Writes parameters that have arrays, and every node."""
        for value, array in self.arrays.items():
            self._write_array(value, array)
        cores = find_cores(self.graph, self.dims) if self.write.has("Attention") else {}
        inner, masks = {each for core in cores.values() for each in core.inner}, Masks(self.write)
        for node in self.graph.nodes:
            if node in inner:
                continue
            core = cores.get(node)
            mask = None if core is None else masks.of(core, _said(core.masked))
            self.write.begin(node.name, _said(node) if core is None else _said_of(core, node))
            try:
                made = self._written(node) if core is None else [write_core(self.write, node, core, mask)]
            except LackingError as error:
                error.needed_by = told(node)
                raise
            results = zip(node.outputs, made, strict=True)
            self.write.end([(value, X) for value, X in results if X is not None and self._is_wanted(value)])

    def _write_array(self, value: Value, array: Any) -> None:
        """A parameter that is in the model; of one with an open dim the part that a run is long."""
        asked = [axis for axis, each in enumerate(value.shape) if self.dims.fixed(each) is None]
        if not asked:
            self.write.array(value.name, array)
            return
        self.write.begin(value.name, f"{value.type}: the beginning of what the longest run has")
        whole = Tensor(self.write.free(f"{value.name}.whole"), value.dtype)
        self.write.array(whole.name, array)
        ends = self.write.shape([value.shape[axis] for axis in asked])
        starts, axes = self.write.integers([0] * len(asked)), self.write.integers(asked)
        self.write.end([(value, self.write("Slice", whole, starts, ends, axes))])

    def _is_wanted(self, value: Value) -> bool:
        return bool(self.graph.uses[value]) or value in self.graph.outputs

    def _written(self, node: Node) -> Sequence[Tensor | None]:
        """The results of a node, in order; None in place of some that nobody wants."""
        operator, rule = node.operator, node.inference.rule
        names, wanted = [each.name for each in rule.outputs], list(map(self._is_wanted, node.outputs))
        same = operator.identity(node.attributes) if operator.identity else {}
        if all(name in same for name, is_wanted in zip(names, wanted, strict=True) if is_wanted):
            # As dropout at rate 0: what else it is handed is not read.
            inputs = {each.name: _tensor(value) for each, value in zip(rule.inputs, node.inputs, strict=True)}
            return [inputs[same[name]] if name in same else None for name in names]
        operands, write = [_tensor(value) for value in node.inputs], find_rule(operator)
        made = None if write is None else write(self.write, node, *operands)
        if made is not None:
            results = [made] if isinstance(made, Tensor) else list(made)
            every = operator.signatures({**node.attributes, "only": None})[0].outputs
            kept = [results[i] for i, each in enumerate(every) if each.name in names]
            if all(each is not None for each, is_wanted in zip(kept, wanted, strict=True) if is_wanted):
                return kept
        require_inference(node)
        formula = self._formula(node, _Open())
        if isinstance(formula, NoFormula):
            if isinstance(self._formula(node, _SOME_SIZE), Formula):
                raise with_open_size(node, self.dims)
            raise without_formula(node, formula)
        return write_formula(self.write, node, formula, operands, wanted)

    def _formula(self, node: Node, open: object) -> Formula | NoFormula:
        """The node's formula, with `open` in place of attributes that are sizes which only a run knows."""

        def number(attribute: object) -> object:
            if isinstance(attribute, tuple):
                return tuple(map(number, attribute))
            if not isinstance(attribute, Dim):
                return attribute
            size = self.dims.fixed(attribute)
            return open if size is None else size

        return formula_of(node, {name: number(each) for name, each in node.attributes.items()})


@dataclass(frozen=True)
class _Open:
    """Stands for a size that only a run knows: a kernel that computes with it has no formula."""


def _tensor(value: Value) -> Tensor:
    return Tensor(value.name, value.dtype)


def _said(node: Node) -> str:
    """What is told of a node: what its operator computes, where it belongs, and the line that made it."""
    first = node.operator.doc.partition("\n")[0]
    places = f"operator {node.operator.key}", node.meta.scope and f"scope {node.meta.scope}", node.meta.at
    return "\n".join([first, *filter(None, places)])


def _said_of(core: Core, last: Node) -> str:
    """The same of attention's core: what each of its nodes computes."""
    nodes = sorted((*core.inner, last), key=lambda node: node is last)
    return "\n".join(
        ["Attention's core: P = S(SM(Q • Kᵀ)), O = P • V", *(f"{each.name}: {_said(each)}" for each in nodes)]
    )
