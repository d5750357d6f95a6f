"""Nodes of an ONNX model as they are written: names, types, constants, lengths at run time.

Which types a result has, and whether the chosen opset has an operator at all, for these types, is read off ONNX's own
schemas; so that what an opset lacks is found where it is written, with the node that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from graphir.export.onnx.dims import Dims
from graphir.export.onnx.package import element_type, onnx
from graphir.ir.dims import Dim, shape_text
from graphir.ir.value import Value

_TYPES = {"float": "float32", "double": "float64"}


class Tensor(NamedTuple):
    """A value of the ONNX model: its name, and its type in graphir's words."""

    name: str
    dtype: str


class LackingError(Exception):
    """What an opset does not have, and who needs it; `to_onnx` looks for one that does."""

    needed_by = "the model"


class Writer:
    """Writes nodes, for an opset; `taken` are the names that values have already."""

    def __init__(self, dims: Dims, opset: int, taken: Iterable[str]) -> None:
        self.dims, self.opset = dims, opset
        self.onnx = onnx()
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        #: What is computed of sizes, before all else; and the sizes that a run's inputs are asked for.
        self._lengths: list[Any] = []
        self._open: dict[str, Tensor] = {}
        self._taken = set(taken)
        #: Constants and lengths, by what they are: each is there once.
        self._known: dict[str, Tensor] = {}
        #: Where what is written goes, after what it is called, and what is told of it.
        self._site: tuple[list[Any], str, str] = (self.nodes, "", "")

    # -- nodes ----------------------------------------------------------------------------------------

    def __call__(self, kind: str, *operands: Tensor | None, **attributes: Any) -> Tensor:
        """Writes a node, and returns its first result."""
        return self.all(kind, *operands, **attributes)[0]

    def all(self, kind: str, *operands: Tensor | None, results: int = 1, **attributes: Any) -> list[Tensor]:
        """Writes a node, and returns its first `results`."""
        dtypes = self._result_types(kind, operands, results, attributes)
        written, base, said = self._site
        names = [self.free(f"{base}.{kind}") for _ in range(results)]
        read = [each.name if each else "" for each in operands]
        made = self.onnx.helper.make_node(kind, read, names, name=names[0], doc_string=said, **attributes)
        written.append(made)
        return [Tensor(*each) for each in zip(names, dtypes, strict=True)]

    def begin(self, name: str, said: str) -> None:
        """What is written from now on is the graph's node of that name, of which `said` is to be told."""
        self._site = [], name, said

    def end(self, results: Iterable[tuple[Value, Tensor]], kept: Iterable[Tensor] = ()) -> None:
        """Ends the graph's node: its results take their names in the graph; what is `kept` others read, too."""
        written, _, _ = self._site
        results = list(results)
        self._prune(written, {tensor.name for tensor in (*(tensor for _, tensor in results), *kept)})
        makers = {name: node for node in written for name in node.output}
        for value, tensor in results:
            maker = makers.pop(tensor.name, None)
            if maker is None:
                # An operand, a constant, or what has its name from another result already.
                (tensor, maker) = self("Identity", tensor), written[-1]
            maker.name = value.name
            _rename(written, tensor.name, value.name)
        self.nodes += written

    def _prune(self, written: list[Any], wanted: set[str]) -> None:
        """Drops nodes that nobody reads, and results that may be left out: statistics that are for a gradient."""
        for node in reversed(list(written)):
            if wanted.isdisjoint(node.output):
                written.remove(node)
                continue
            wanted.update(node.input)
            fewest = self.onnx.defs.get_schema(node.op_type, self.opset, "").min_output
            while len(node.output) > fewest and node.output[-1] not in wanted:
                del node.output[-1]

    def free(self, base: str) -> str:
        """A name that nothing has yet."""
        found, count = base, 1
        while found in self._taken:
            count += 1
            found = f"{base}.{count}"
        self._taken.add(found)
        return found

    def has(self, kind: str) -> bool:
        """Whether the opset has an operator."""
        return bool(self.onnx.defs.has(kind, self.opset, ""))

    # -- what schemas say -----------------------------------------------------------------------------

    def _result_types(
        self, kind: str, operands: Sequence[Tensor | None], results: int, attributes: dict[str, Any]
    ) -> list[str]:
        """The dtypes of the results; LackingError where the opset does not have the operator so."""
        try:
            schema = self.onnx.defs.get_schema(kind, self.opset, "")
        except self.onnx.defs.SchemaError:
            raise LackingError(f"has no {kind}") from None
        if len(operands) > schema.max_input or not attributes.keys() <= schema.attributes.keys():
            raise LackingError(f"has no {kind} of {len(operands)} operands with {', '.join(attributes)}")
        bound = {}
        for i, operand in enumerate(operands):
            formal = schema.inputs[min(i, len(schema.inputs) - 1)]
            if operand is not None:
                if _spelled(operand.dtype) not in formal.types:
                    raise LackingError(f"has no {kind} of {operand.dtype}")
                bound[formal.type_str] = operand.dtype
        made = []
        for formal in schema.outputs[:results]:
            (only, *others) = formal.types
            made.append(bound.get(formal.type_str) or ("" if others else _type_of(only)))
        if "to" in attributes:
            made[0] = self._type_names()[attributes["to"]]
        # Statistics of a LayerNormalization, which are float32 unless told otherwise.
        return [each or "float32" for each in made]

    def _type_names(self) -> dict[int, str]:
        dtypes = ("float16", "bfloat16", "float32", "float64", "int32", "int64", "bool")
        return {element_type(each): each for each in dtypes}

    # -- constants ------------------------------------------------------------------------------------

    def number(self, value: float | int | bool, dtype: str) -> Tensor:
        """A single number, of no dim."""
        return self._constant(f"{dtype} {value!r}", dtype, (), [value])

    def integers(self, values: Sequence[int]) -> Tensor:
        """Integers in a row: axes, or a shape."""
        return self._constant(f"int64 {list(values)}", "int64", (len(values),), values)

    def _constant(self, name: str, dtype: str, shape: tuple[int, ...], values: Sequence[Any]) -> Tensor:
        if name not in self._known:
            self._known[name] = Tensor(self.free(name), dtype)
            made = self.onnx.helper.make_tensor(self._known[name].name, element_type(dtype), shape, values)
            self.initializers.append(made)
        return self._known[name]

    def array(self, name: str, array: Any) -> None:
        """An array, as the value of that name."""
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))

    # -- lengths --------------------------------------------------------------------------------------

    def length(self, each: Dim) -> Tensor:
        """A dim's number, int64[1]."""
        size = self.dims.fixed(each)
        return self.integers([size]) if size is not None else self._once(str(each), lambda: self._computed(each))

    def size(self, each: Dim) -> Tensor:
        """A dim's number, of no dim."""
        size = self.dims.fixed(each)
        if size is not None:
            return self.number(size, "int64")
        return self._once(f"{each} alone", lambda: self.squeeze(self.length(each), [0]))

    def range(self, each: Dim) -> Tensor:
        """0, 1, … as many as a dim has."""
        first, step = self.number(0, "int64"), self.number(1, "int64")
        return self._once(f"0 to {each}", lambda: self("Range", first, self.size(each), step))

    def shape(self, dims: Sequence[Dim]) -> Tensor:
        """The numbers of dims, int64[len(dims)]."""
        fixed = self.dims.fixed_shape(dims)
        if fixed is not None:
            return self.integers(fixed)
        if len(dims) == 1:
            return self.length(dims[0])
        return self._once(shape_text(dims), lambda: self("Concat", *map(self.length, dims), axis=0))

    def _once(self, what: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` writes before all nodes of the graph, once."""
        if what not in self._known:
            site, self._site = self._site, (self._lengths, what, f"{what} of this run")
            self._known[what] = make()
            self._site = site
        return self._known[what]

    def _computed(self, each: Dim) -> Tensor:
        coefficient, powers = self.dims.parts(each)
        one = above = below = self.integers([1])
        for name, power in powers:
            if name not in self._open:
                self._open[name] = Tensor(self.free(name), "int64")
            for _ in range(abs(power)):
                if power > 0:
                    above = self._times(above, self._open[name])
                else:
                    below = self._times(below, self._open[name])
        above = self._times(self.integers([coefficient.numerator]), above)
        below = self._times(self.integers([coefficient.denominator]), below)
        return above if below == one else self("Div", above, below)

    def _times(self, X: Tensor, Y: Tensor) -> Tensor:
        one = self.integers([1])
        return Y if one == X else X if one == Y else self("Mul", X, Y)

    def finish(self, read: Sequence[Value], arguments: Sequence[Value]) -> tuple[list[Any], list[Value]]:
        """What comes before the graph's nodes, and the arguments that are the model's inputs.

        These are those that are `read`, in which sizes are looked for first, and any in which one has to be.
        """
        computed, asked = self._lengths, set(read)
        self._lengths = []
        for name, wanted in self._open.items():
            value, axis, coefficient = self.dims.find(name, [*read, *arguments])
            asked.add(value)
            self._site = self._lengths, name, f"{name} of this run"
            found = self("Shape", Tensor(value.name, value.dtype), start=axis, end=axis + 1)
            found = self._times(self.integers([coefficient.denominator]), found)
            if coefficient.numerator != 1:
                found = self("Div", found, self.integers([coefficient.numerator]))
            _rename([*self._lengths, *computed], found.name, wanted.name)
        return [*self._lengths, *computed], [value for value in arguments if value in asked]

    # -- what is written often --------------------------------------------------------------------------

    def cast(self, X: Tensor, dtype: str) -> Tensor:
        """X itself if it is of that dtype, else its Cast."""
        return X if X.dtype == dtype else self("Cast", X, to=element_type(dtype))

    def reshape(self, X: Tensor, old: Sequence[Dim], new: Sequence[Dim]) -> Tensor:
        """X [old] as [new], which has as many elements."""
        if list(old) == list(new):
            return X
        # 0 is as it was at this place, -1 what is left: a shape that need not be computed where that is enough.
        lengths = [
            size if (size := self.dims.fixed(each)) is not None else 0 if i < len(old) and old[i] == each else -1
            for i, each in enumerate(new)
        ]
        return self("Reshape", X, self.integers(lengths) if lengths.count(-1) <= 1 else self.shape(new))

    def squeeze(self, X: Tensor, axes: Sequence[int]) -> Tensor:
        """X without axes that have the length 1."""
        return self("Squeeze", X, self.integers(axes)) if axes else X

    def unsqueeze(self, X: Tensor, axes: Sequence[int]) -> Tensor:
        """X with further axes, of length 1, at these places of the result."""
        return self("Unsqueeze", X, self.integers(axes)) if axes else X

    def transpose(self, X: Tensor, order: Sequence[int]) -> Tensor:
        """X with its axes in this order."""
        return X if list(order) == sorted(order) else self("Transpose", X, perm=list(order))


def _rename(nodes: Iterable[Any], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def _spelled(dtype: str) -> str:
    names = {ours: theirs for theirs, ours in _TYPES.items()}
    return f"tensor({names.get(dtype, dtype)})"


def _type_of(spelled: str) -> str:
    inside = spelled.removeprefix("tensor(").removesuffix(")")
    return _TYPES.get(inside, inside)
