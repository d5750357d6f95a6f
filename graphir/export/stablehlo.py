"""StableHLO: a graph as the program that XLA's compilers take, as text and as portable bytecode.

Of a graph on a mesh it is the program of one rank, as every device runs it: on its own blocks, with collectives over
groups of ranks by their numbers, in the order of the mesh, the first axis the slowest. It is to be compiled for as many
replicas as there are ranks (`mhlo.num_replicas`), whose number a rank asks for where it has to know its place.

Arguments are in the order of their names, and with results say which values they are: `graphir.name`, and
`graphir.type`, as `float32[B|dp, S, D]`. Locations name the nodes. The JSON file beside it says the same to programs
that read no MLIR. What is pending has a dim of size 1 in front for each axis that it is pending over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from graphir.backends.entries import XLA
from graphir.backends.xla import XlaExecutable
from graphir.backends.xla.library import load_jax
from graphir.errors import ConfigError
from graphir.files import write_atomically
from graphir.ir.graph import Graph
from graphir.ir.value import Value

__all__ = ["StableHlo", "save", "to_stablehlo"]

_NAME, _TYPE = "graphir.name", "graphir.type"
#: The operation that holds what every device of a mesh does.
_SHARED = "sdy.manual_computation"
#: A location that has a name, as MLIR prints it.
_NAMED = re.compile(r'loc\("(?:jit\(\w*\)/)*([^"]*)"[()]')


@dataclass(frozen=True)
class StableHlo:
    """A graph's program.

    text         as people read it, with the names of nodes as locations
    bytecode     the portable artifact, for every later version of StableHLO
    description  the arguments and results in their order, and the mesh
    """

    text: str
    bytecode: bytes
    description: Mapping[str, Any]


def to_stablehlo(graph: Graph, sizes: Mapping[str, int], fetch: Sequence[str] | None = None) -> StableHlo:
    """The program of a graph for these sizes; it returns `fetch`, or the graph's outputs.

    Errors: as `gi.compile(…, backend="xla")`.
    """
    from graphir.compiler import compile

    executable = compile(graph, sizes, backend=XLA.name, fetch=fetch)
    assert isinstance(executable, XlaExecutable)
    jax = load_jax()
    ir, extended = jax.interpreters.mlir.ir, import_module("jax.extend.mlir")
    lowered = executable.lowered.compiler_ir("stablehlo").operation
    module = ir.Module.parse(lowered.get_asm(enable_debug_info=True), context=lowered.context)
    with module.context, ir.Location.unknown():
        program = RankProgram(ir, module)
        if executable.mesh.size > 1:
            program.keep_rank(executable.mesh.size)
        program.forget_devices()
        program.forget_sources()
        program.describe(executable.arguments, executable.results)
    if not module.operation.verify():
        raise AssertionError(f"the program of {graph.name} is no StableHLO")
    version = import_module("jaxlib.mlir.dialects.stablehlo").get_current_version()
    return StableHlo(
        module.operation.get_asm(enable_debug_info=True),
        extended.serialize_portable_artifact(module, version),
        {
            "graph": graph.name,
            "stablehlo": version,
            "mesh": dict(executable.mesh.axes),
            "arguments": [_told(value, executable) for value in executable.arguments],
            "results": [_told(value, executable) for value in executable.results],
        },
    )


def save(
    graph: Graph,
    path: str | Path,
    sizes: Mapping[str, int],
    fetch: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes the program as text into `path`, named `….mlir`, and beside it the bytecode, `….mlirbc`, and `….json`.

    Returns these files. Errors: ConfigError for another name, for arrays of parameters, which a program is given when
    it runs, or where it cannot be written; as `to_stablehlo`.
    """
    if parameters is not None:
        raise ConfigError("a program of StableHLO is given its parameters when it runs: export it without a checkpoint")
    path = Path(path)
    if path.suffix != ".mlir":
        raise ConfigError(f"{path} is to be named ….mlir; its bytecode is written beside it, as {path.stem}.mlirbc")
    program = to_stablehlo(graph, sizes, fetch)
    described = json.dumps(program.description, ensure_ascii=False, indent=1)
    content = {
        path: program.text.encode(),
        path.with_suffix(".mlirbc"): program.bytecode,
        path.with_suffix(".json"): described.encode(),
    }
    for file in content:
        if file.is_dir():
            raise ConfigError(f"cannot write {file}: it is a folder")
    _write(list(content.items()))
    return list(content)


def _write(files: Sequence[tuple[Path, bytes]]) -> None:
    """Writes files that belong together: the content of all is there before the first of them takes its place."""
    if files:
        (path, data), *others = files

        def fill(file: BinaryIO) -> None:
            file.write(data)
            _write(others)

        write_atomically(path, fill)


def _told(value: Value, executable: XlaExecutable) -> dict[str, Any]:
    """A value for who reads no MLIR: as a rank has it, and as all ranks together do."""
    plan = executable.optimised
    return {
        "name": value.name,
        "dtype": value.dtype,
        "dims": [str(dim) for dim in value.shape],
        "shape": list(plan.shapes[value]),
        "whole": [dim.size(plan.sizes) for dim in value.shape],
        "split": [list(axes) for axes in value.type.layout.splits],
        "pending": dict(value.type.layout.pending),
    }


class RankProgram:
    """A module whose function `main` is a graph's; `ir` is MLIR's Python module."""

    def __init__(self, ir: Any, module: Any) -> None:
        self.ir, self.module = ir, module

    @property
    def main(self) -> Any:
        """The function."""
        return next(op for op in self.module.body.operations if _symbol(op) == "main")

    def keep_rank(self, count: int) -> None:
        """Leaves of a program for all devices what each of them does, one of `count` replicas of it."""
        ir, whole = self.ir, self.main
        (shared,) = (op for op in whole.regions[0].blocks[0].operations if op.operation.name == _SHARED)
        body = shared.regions[0].blocks[0]
        ends = list(body.operations)[-1]
        kind = ir.FunctionType.get([each.type for each in body.arguments], [each.type for each in ends.operands])
        ir.Operation.create("func.return", operands=list(ends.operands), ip=ir.InsertionPoint(ends))
        ends.erase()
        rank = ir.Operation.create(
            "func.func",
            attributes={"sym_name": ir.StringAttr.get("rank"), "function_type": ir.TypeAttr.get(kind)},
            regions=1,
            ip=ir.InsertionPoint(whole),
        )
        body.append_to(rank.regions[0])
        whole.erase()
        rank.attributes["sym_name"] = ir.StringAttr.get("main")
        for op in list(self._within(self.module.operation)):
            if op.name == "stablehlo.partition_id":
                number = ir.Operation.create(
                    "stablehlo.replica_id", results=[op.results[0].type], ip=ir.InsertionPoint(op)
                )
                op.results[0].replace_all_uses_with(number.results[0])
                op.erase()
        kind = ir.IntegerType.get_signless(32)
        for name, value in (("mhlo.num_partitions", 1), ("mhlo.num_replicas", count)):
            self.module.operation.attributes[name] = ir.IntegerAttr.get(kind, value)

    def forget_devices(self) -> None:
        """Leaves out which devices JAX had, and with it the one dialect that is not StableHLO's."""
        for op in list(self.module.body.operations):
            if op.operation.name == "sdy.mesh":
                op.operation.erase()

    def describe(self, arguments: Sequence[Value], results: Sequence[Value]) -> None:
        """Says of each argument and result which value of the graph it is."""
        for attribute, values in (("arg_attrs", arguments), ("res_attrs", results)):
            told = [self.ir.DictAttr.get(self._told(value)) for value in values]
            self.main.attributes[attribute] = self.ir.ArrayAttr.get(told)
        for value, argument in zip(arguments, self.main.regions[0].blocks[0].arguments, strict=True):
            argument.set_location(self.ir.Location.name(value.name))

    def forget_sources(self) -> None:
        """Leaves the names of nodes as locations, and nothing of files on the machine that wrote the program."""
        location = self.ir.Location
        for op in self._within(self.module.operation):
            named = _NAMED.match(str(op.location))
            op.location = location.name(named[1]) if named else location.unknown()
            for block in (block for region in op.regions for block in region.blocks):
                for argument in block.arguments:
                    argument.set_location(location.unknown())

    def _told(self, value: Value) -> dict[str, Any]:
        text = self.ir.StringAttr.get
        return {_NAME: text(value.name), _TYPE: text(str(value.type))}

    def _within(self, op: Any) -> Iterator[Any]:
        """All operations inside of one."""
        for region in op.regions:
            for block in region.blocks:
                for inner in block.operations:
                    yield inner.operation
                    yield from self._within(inner.operation)


def _symbol(op: Any) -> str:
    return str(op.attributes["sym_name"].value) if "sym_name" in op.attributes else ""
