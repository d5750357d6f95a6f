"""The XLA backend's executable: one jitted function, lowered when it is made, compiled when it first runs.

Arguments may lie in NumPy's memory or be JAX's; results are JAX's, laid out on the devices as the graph says, and what
`run.updated()` returns is handed in again as it is. Donated arguments, of which XLA writes the new over the old, are
gone after the run. Nothing waits for a result but who looks at it: `float(run["L"])`, `run.numpy("logits")`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np

from graphir.backends.communicator import Communicator
from graphir.backends.executable import Executable, Watch
from graphir.backends.indices import check_indices
from graphir.backends.plan import ExecutionPlan, Indexed
from graphir.backends.run import Run
from graphir.backends.xla.library import devices_of, first_line, load_jax, own_settings, require_untraced
from graphir.backends.xla.memory import XlaMemory
from graphir.backends.xla.program import Program
from graphir.errors import DeviceError, InputError
from graphir.ir.graph import Graph
from graphir.ir.layout import Layout
from graphir.ir.value import Value


class XlaExecutable(Executable):
    """Runs `optimised` on the devices of its mesh, one a rank. With `watch`, NumPy's kernels run, node by node.

    Errors: MissingDependencyError without JAX, DeviceError without a device for each rank, OperatorError for a node
    that cannot be traced.
    """

    no_child = "JAX does not go along; start processes by 'spawn', and compile there"

    def __init__(
        self,
        reference: ExecutionPlan,
        optimised: ExecutionPlan,
        source: Graph | None = None,
        communicator: Communicator | None = None,
        donate: bool = False,
    ) -> None:
        super().__init__(reference, source=source, communicator=communicator)
        self.optimised = optimised
        updated = {old for old, (_, title) in self.fetched.successors.items() if title is not None}
        #: The arguments that a run may write over, by name.
        self.donated = frozenset(updated) if donate else frozenset[str]()
        self._jax, self._devices = load_jax(), devices_of(self.mesh)
        require_untraced()
        with own_settings(), self._alone():
            wanted = [*optimised.graph.outputs, *(each.value for each in self._indices_made)]
            self._program = Program(optimised, wanted)
            self.lowered = self._jitted.lower(*self._kinds)

    def _alone(self) -> AbstractContextManager[Any]:
        """Inside, no mesh is set but the graph's own."""
        jax = self._jax
        found: AbstractContextManager[Any] = (
            nullcontext() if jax.sharding.get_abstract_mesh().empty else jax.set_mesh(self._jax_mesh)
        )
        return found

    # -- the function -----------------------------------------------------------------------------------

    @cached_property
    def _jax_mesh(self) -> Any:
        shape = [count for _, count in self.mesh.axes]
        return self._jax.sharding.Mesh(np.array(self._devices).reshape(shape), self.mesh.names)

    @cached_property
    def _jitted(self) -> Any:
        def run(donated: Mapping[str, Any], kept: Mapping[str, Any]) -> tuple[Any, ...]:
            made: tuple[Any, ...] = self._whole({**donated, **kept})
            return made

        run.__name__ = _word(self.graph.name)
        return self._jax.jit(run, donate_argnums=0, keep_unused=True)

    @cached_property
    def _whole(self) -> Any:
        """The function of whole arrays: every device runs the program on its blocks."""
        if not self.mesh.names:
            return self._program
        layouts = [value.type.layout for value in self.results]

        def of_rank(blocks: Mapping[str, Any]) -> tuple[Any, ...]:
            made = self._program(blocks)
            # What is pending differs from rank to rank: along dims of its own the terms stay apart.
            return tuple(
                block.reshape((1,) * len(layout.pending) + block.shape)
                for block, layout in zip(made, layouts, strict=True)
            )

        mapped = self._jax.shard_map(
            of_rank,
            mesh=self._jax_mesh,
            in_specs=({value.name: self._spec(value.type.layout) for value in self.arguments},),
            out_specs=tuple(map(self._spec, layouts)),
            check_vma=False,
        )

        def whole(arguments: Mapping[str, Any]) -> tuple[Any, ...]:
            terms = zip(mapped(dict(arguments)), layouts, strict=True)
            return tuple(self._settled(each, layout) for each, layout in terms)

        return whole

    def _settled(self, terms: Any, layout: Layout) -> Any:
        for _, kind in layout.pending:
            made = terms.any(axis=0) if terms.dtype == bool else getattr(terms, kind)(axis=0)
            terms = made.astype(terms.dtype)
        return terms

    def _spec(self, layout: Layout) -> Any:
        """A layout, as JAX has it; what is pending, as the leading dims."""
        pending = [axis for axis, _ in layout.pending]
        return self._jax.sharding.PartitionSpec(*pending, *(axes or None for axes in layout.splits))

    @cached_property
    def arguments(self) -> tuple[Value, ...]:
        """In the function's order: the donated ones, then the others, each by name."""
        by_name = sorted(self.optimised.graph.arguments, key=lambda value: value.name)
        return tuple(sorted(by_name, key=lambda value: value.name not in self.donated))

    @property
    def results(self) -> tuple[Value, ...]:
        """In the function's order: what is fetched, then indices that are looked at."""
        return self._program.wanted

    @cached_property
    def _kinds(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What comes in, donated and kept: shapes, dtypes, and where they lie."""
        kinds: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for value in self.arguments:
            shape = tuple(dim.size(self.optimised.sizes) for dim in value.shape)
            dtype = self._jax.numpy.dtype(value.dtype)
            kind = self._jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharding(value))
            kinds[value.name not in self.donated][value.name] = kind
        return kinds

    def _sharding(self, value: Value) -> Any:
        if self.mesh.names:
            return self._jax.sharding.NamedSharding(self._jax_mesh, self._spec(value.type.layout))
        return self._jax.sharding.SingleDeviceSharding(self._devices[0])

    @cached_property
    def compiled(self) -> Any:
        """The function, compiled by XLA when it is first needed."""
        return self.lowered.compile()

    @cached_property
    def memory(self) -> XlaMemory | None:
        """What one device needs, as XLA has planned it."""
        return XlaMemory.of(self.compiled)

    def working_bytes(self, alone: bool = False) -> int:
        """As `Executable.working_bytes`, of devices that share this machine's memory; others have their own."""
        if self._devices[0].platform != "cpu" or self.memory is None:
            return 0
        copied = self.memory.arguments if self.mesh.size > 1 else 0
        return (1 if alone else self.mesh.size) * (copied + self.memory.results + self.memory.temporaries)

    # -- running ----------------------------------------------------------------------------------------

    def __call__(self, *arguments: Mapping[str, Any], watch: Watch | None = None) -> Run:
        """As `Executable.__call__`."""
        if watch is not None:
            at_home = ({name: _at_home(array) for name, array in each.items()} for each in arguments)
            return super().__call__(*at_home, watch=watch)
        given = self._check(arguments)
        return self.local.turn.take(self._run, arguments, given)

    def _run(self, arguments: Sequence[Mapping[str, Any]], given: Mapping[Value, Any]) -> Run:
        self._check_given_indices(given)
        self._check_donated(given)
        with own_settings(), self._jax.ensure_compile_time_eval():
            placed = {value.name: self._placed(value, array) for value, array in given.items()}
            donated, kept = ({name: placed[name] for name in kinds} for kinds in self._kinds)
            try:
                made = self.compiled(donated, kept)
            except self._jax.errors.JaxRuntimeError as error:
                raise DeviceError(f"XLA could not run {self.graph.name}: {first_line(error)}") from error
        outputs = self.graph.outputs
        for (node, position, _, end, exempt), found in zip(self._indices_made, made[len(outputs) :], strict=True):
            check_indices(node, position, found, end, exempt)
        results = {self.fetched.titles[value]: (value, array) for value, array in zip(outputs, made, strict=False)}
        return self._ran(results, {}, arguments)

    @cached_property
    def _indices_made(self) -> list[Indexed]:
        """What nodes make that has bounds as integers: it is returned, to be looked at after the run."""
        return self.optimised.indexed(value for node in self.optimised.graph.nodes for value in node.outputs)

    # -- what comes in ------------------------------------------------------------------------------------

    def _check_array(self, value: Value, array: Any) -> Any:
        jax = self._jax
        if not isinstance(array, jax.Array):
            return super()._check_array(value, array)
        if isinstance(array, jax.core.Tracer):
            raise InputError(
                f"{value.name} is what JAX traces a function with, and has no content yet: call this outside of what "
                f"jit, grad or vmap transform"
            )
        if array.is_deleted():
            raise InputError(
                f"the array that is given for {value.name} is no more: an earlier run with donate=True wrote over it; "
                f"go on from run.updated() of the latest run"
            )
        if array.shape != self._shapes[value]:
            wanted, found = f"{value.dtype}{list(self._shapes[value])}", f"{array.dtype}{list(array.shape)}"
            raise InputError(f"{value.name} must be {wanted}, {value.type}, not {found}")
        return array if array.dtype == value.dtype else super()._check_array(value, np.asarray(array))

    def _check_donated(self, given: Mapping[Value, Any]) -> None:
        """InputError if an array that a run writes over is given under another name, too."""
        first: dict[int, Value] = {}
        for value, array in given.items():
            other = first.setdefault(id(array), value)
            if isinstance(array, self._jax.Array) and other is not value and {other.name, value.name} & self.donated:
                raise InputError(
                    f"{other.name} and {value.name} are given one array, and with donate=True the new content of "
                    f"{other.name if other.name in self.donated else value.name} is written over it; hand in a copy"
                )

    def _placed(self, value: Value, array: Any) -> Any:
        there = self._lies[value.name]
        if not isinstance(array, self._jax.Array):
            # The caller may write into it as soon as the run has returned, while XLA still reads what it was given.
            array = np.array(array)
        elif array.sharding == there:
            return array  # JAX would find so, too, but more slowly than it runs a small graph
        return self._jax.device_put(array, there)

    @cached_property
    def _lies(self) -> Mapping[str, Any]:
        """Where each argument lies, by name."""
        return {value.name: self._sharding(value) for value in self.arguments}


def _at_home(array: Any) -> Any:
    """An array in NumPy's memory; what is no array of JAX's as it is."""
    return np.asarray(array) if isinstance(array, load_jax().Array) else array


def _word(name: str) -> str:
    """A name that XLA prints as it is."""
    return "".join(each if each.isalnum() else "_" for each in name) or "run"


__all__ = ["XlaExecutable"]
