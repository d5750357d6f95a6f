"""Writes benchmarks/results/partitioner.md: each ready-made plan beside what XLA's own partitioner makes of it.

    python -m benchmarks.partitioner [--plans megatron,zero3]

XLA gets the unsharded training step, and is told how the arguments and results of our sharded graph lie; which
collectives come between is its own choice. Both programs are compiled by the same XLA, for virtual CPUs, and have to
compute the numbers of one device. What is not measured here, the reasons, is in `benchmarks/verdicts.py`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import graphir as gi
from benchmarks.hlo import collectives
from benchmarks.plans_table import PLANS, mesh_of
from benchmarks.verdicts import HEAD, VERDICTS
from graphir.backends.xla import XlaExecutable
from graphir.backends.xla.library import load_jax, own_settings
from graphir.backends.xla.memory import XlaMemory
from graphir.backends.xla.program import Program
from graphir.checking import Setting
from graphir.cost.communication import collective_cost, mesh_sizes
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph
from graphir.passes import find_plan
from graphir.passes.sharding.given import read_plan

PATH = Path(__file__).parent / "results" / "partitioner.md"
SIZES = {"B": 8, "S": 32, "D": 64, "N_H": 8, "D_ff": 256, "V": 128}
LAYERS = 2
#: How far apart, relative to a tensor's largest number, what is computed may be.
CLOSE = 1e-12
PHASES = (FORWARD, BACKWARD, UPDATE)
#: XLA's kinds of collectives, as the graph calls them.
SHORT = {
    "all-reduce": "AR",
    "all-gather": "AG",
    "reduce-scatter": "RS",
    "all-to-all": "A2A",
    "collective-permute": "CP",
}
#: Who says so: our graph; it, compiled; XLA; XLA that is also told how the plan wants activations, if it does.
GRAPH, OURS, XLA, TOLD = "graph", "ours", "XLA", "XLA, told more"


class DisagreementError(Exception):
    """A program does not compute what one device does, so that what it sends means nothing."""


@dataclass
class Sent:
    """What a program sends: collectives by kind, and bytes of a rank in a ring, by phase, and of the last layer.

    spared  what would not be sent, were all-reduces of whose results slices alone are read scattered instead
    """

    kinds: Counter[str] = field(default_factory=Counter)
    phases: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(PHASES, Fraction(0)))
    layer: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(PHASES, Fraction(0)))

    spared: Fraction = Fraction(0)

    def add(self, kind: str, amount: Fraction, phase: str, in_layer: bool, sliced: bool = False) -> None:
        """One collective more."""
        self.kinds[kind] += 1
        self.spared += amount / 2 if sliced and kind == "AR" else 0
        self.phases[phase] += amount
        if in_layer:
            self.layer[phase] += amount

    @property
    def bytes(self) -> Fraction:
        """All of them."""
        return sum(self.phases.values(), Fraction(0))


@dataclass(frozen=True)
class Partitioned:
    """A compiled program: what it sends, and of one device the FLOPs and the bytes that it stores between."""

    sent: Sent
    flops: float
    temporaries: int


@dataclass(frozen=True)
class Comparison:
    """A plan: what its graph says that it sends, and the programs, by who partitioned. `single`: FLOPs undivided."""

    plan: str
    mesh: str
    stated: Sent
    programs: Mapping[str, Partitioned]
    single: float


class Judge:
    """One plan on one mesh."""

    def __init__(self, plan: str, mesh: str, sizes: Mapping[str, int] = SIZES, layers: int = LAYERS) -> None:
        self.plan, self.mesh, self.last = plan, mesh, f"layer{layers - 1}"
        setting = Setting(
            mesh=mesh_of(mesh), plan=plan, sizes=sizes, layers=layers, dropout=0.0, dtype="float64", qkv_bias=False
        )
        self.single = setting.single()
        self.local = setting.parallel(self.single)
        self.sizes, self.given = setting.complete_sizes(), setting.arguments(self.single)
        self.ours, self.one = self._executable(self.local), self._executable(self.single)

    def compare(self) -> Comparison:
        """Everything about the plan. DisagreementError where a program computes something else."""
        programs = {OURS: self._measured(OURS, self.ours.compiled, self.local)}
        programs[XLA] = self._measured(XLA, self.partitioned({}), self.single)
        if activations := self._activations():
            programs[TOLD] = self._measured(TOLD, self.partitioned(activations), self.single)
        return Comparison(self.plan, self.mesh, self._stated(), programs, _flops(self.one.compiled))

    def partitioned(self, activations: Mapping[str, Any]) -> Any:
        """The unsharded step, compiled for the mesh: arguments and results lie as ours, values by name as told."""
        jax, plan = load_jax(), self.one.optimised
        lies = {value.name: self.ours._sharding(value) for value in self.ours.arguments}
        program = _Constrained(plan, plan.graph.outputs, activations)

        def run(_: Mapping[str, Any], blocks: Mapping[str, Any]) -> tuple[Any, ...]:
            return program(blocks)

        with own_settings():
            shapes = {
                value.name: jax.ShapeDtypeStruct(plan.shapes[value], value.dtype, sharding=lies[value.name])
                for value in plan.graph.arguments
            }
            results = tuple(map(self.ours._sharding, self.ours.optimised.graph.outputs))
            jitted = jax.jit(run, in_shardings=({}, lies), out_shardings=results, keep_unused=True)
            return jitted.lower({}, shapes).compile()

    def _executable(self, graph: Graph) -> XlaExecutable:
        """The loss and what is updated, in the order of the single graph."""
        new = {old.name: new.name for old, new in graph.updates.items()}
        fetch = ["output/L", *(new[old.name] for old in self.single.updates)]
        found = gi.compile(graph, self.sizes, backend="xla", fetch=fetch)
        assert isinstance(found, XlaExecutable)
        return found

    def _activations(self) -> dict[str, Any]:
        """Where the plan wants activations, as JAX is told it; dims of which it does not speak are left to XLA."""
        spec, plan, found = load_jax().sharding.PartitionSpec, find_plan(self.plan), {}
        if not (plan.entries("activations") or plan.entries("residual")):
            return {}
        given = read_plan(self.single, self.single.nodes, self.ours.mesh, plan, self.sizes)
        for value, pin in given.pinned.items():
            if value not in self.single.updates.values():
                axes = {position: names for position, names in pin.splits if names}
                # That a value is not split over one axis can only be said of all: that it is whole.
                other = spec.UNCONSTRAINED if axes else None
                parts = (axes.get(position, other) for position in range(len(value.shape)))
                found[value.name] = load_jax().sharding.NamedSharding(self.ours._jax_mesh, spec(*parts))
        return found

    # -- what is measured ---------------------------------------------------------------------------------

    def _measured(self, who: str, compiled: Any, graph: Graph) -> Partitioned:
        self._require_close(who, compiled)
        sent, nodes = Sent(), {node.name: node for node in graph.nodes}
        for each in collectives(compiled.as_text()):
            # What brings results to where they shall lie is named after what was updated, or not at all.
            node = nodes.get(node_name(each.name, nodes))
            phase, scope = (node.meta.phase, node.name) if node else (UPDATE, "")
            sent.add(SHORT[each.kind], each.bytes, phase, scope.startswith(self.last), each.sliced)
        memory = XlaMemory.of(compiled)
        return Partitioned(sent, _flops(compiled), memory.temporaries if memory else 0)

    def _stated(self) -> Sent:
        """What the sharded graph says that it sends."""
        sent, sizes = Sent(), mesh_sizes(self.local, self.sizes)
        for node in self.local.nodes:
            if node.operator.collective is not None and (kind := node.operator.collective.replace("_", "-")) in SHORT:
                amount = collective_cost(node, self.local.mesh).each.number(sizes)
                sent.add(SHORT[kind], amount, node.meta.phase, node.name.startswith(self.last))
        return sent

    @cached_property
    def _expected(self) -> list[Any]:
        return [np.asarray(each) for each in self._run(self.one.compiled, self.one)]

    def _run(self, compiled: Any, like: XlaExecutable) -> Sequence[Any]:
        """The results of a program whose arguments lie as those of `like`."""
        put = load_jax().device_put
        with own_settings():
            whole = {value: np.asarray(self.given[value.name], value.dtype) for value in like.arguments}
            placed = {value.name: put(array, like._sharding(value)) for value, array in whole.items()}
            found: Sequence[Any] = compiled({}, placed)
            return found

    def _require_close(self, who: str, compiled: Any) -> None:
        found, outputs = self._run(compiled, self.ours), self.one.optimised.graph.outputs
        # Behind what is fetched an executable may return indices that it looks at.
        for value, right, made in zip(outputs, self._expected, found, strict=False):
            apart = np.abs(np.asarray(made) - right).max() / (np.abs(right).max() or 1.0)
            if not apart <= CLOSE:
                raise DisagreementError(f"{self.plan} by {who}: {value.name} is {apart:.1e} off")


class _Constrained(Program):
    """A graph's function, with values that XLA is told how to lay out, by name."""

    def __init__(self, plan: Any, wanted: Any, lies: Mapping[str, Any]) -> None:
        super().__init__(plan, wanted)
        self._lies = lies

    def _carried_out(self, step: Any, operands: Sequence[Any]) -> tuple[Any, ...]:
        made = list(super()._carried_out(step, operands))
        for position, value in zip(step.results, step.node.outputs, strict=True):
            if value.name in self._lies:
                made[position] = load_jax().lax.with_sharding_constraint(made[position], self._lies[value.name])
        return tuple(made)


def node_name(name: str, known: Mapping[str, Any]) -> str:
    """The longest part of an `op_name` that is a node's: `layer0/mha/dH` of `jit(run)/layer0/mha/dH/dot_general`."""
    parts = name.split("/")
    runs = ("/".join(parts[i:j]) for i in range(len(parts)) for j in range(len(parts), i, -1))
    return next((run for run in runs if run in known), "")


def _flops(compiled: Any) -> float:
    return float(compiled.cost_analysis()["flops"])


# -- the table --------------------------------------------------------------------------------------------


def rows(found: Comparison) -> list[str]:
    """The graph's line, and each program's."""
    lines = [_row(f"**{found.plan}** {found.mesh}", GRAPH, found.stated, found.stated, ["", "", ""])]
    for who, each in found.programs.items():
        share = each.flops * mesh_of(found.mesh).size / found.single
        costs = [f"{each.flops / 1e6:.1f}", f"{share:.2f}", f"{each.temporaries / 1e6:.2f}"]
        lines.append(_row("", who, each.sent, found.stated, costs))
    return lines


def _row(plan: str, who: str, sent: Sent, stated: Sent, costs: Sequence[str]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(sent.kinds.items()))
    phases = [_kilobytes(sent.phases[phase]) for phase in PHASES]
    layer = " + ".join(_kilobytes(sent.layer[phase]) for phase in PHASES)
    ratio = f"{float(sent.bytes / stated.bytes):.2f}"
    scattered = _kilobytes(sent.bytes - sent.spared)
    cells = [plan, who, kinds, *phases, layer, _kilobytes(sent.bytes), ratio, scattered, *costs]
    return f"| {' | '.join(cells)} |"


def _kilobytes(amount: Fraction) -> str:
    return f"{float(amount) / 1e3:.1f}"


def report(found: Sequence[Comparison], versions: str) -> str:
    """The whole file."""
    sizes = " ".join(f"{name}={size}" for name, size in SIZES.items())
    heads = ["plan", "by", "collectives", "forward", "backward", "update", "a layer", "together", "÷ graph"]
    heads += ["scattered", "MFLOP", "× ranks ÷ one", "stored MB"]
    lines = [HEAD.format(layers=LAYERS, sizes=sizes, versions=versions, close=f"{CLOSE:g}"), ""]
    lines += [f"| {' | '.join(heads)} |", f"|---|---|---|{'---:|' * (len(heads) - 3)}"]
    lines += [line for each in found for line in rows(each)]
    lines += ["", "## Why", ""]
    lines += [f"- **{each.plan}**: {VERDICTS[each.plan]}" for each in found if each.plan in VERDICTS]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", help="some of them, which are printed instead of written")
    given = parser.parse_args(arguments)
    jax = load_jax()
    # Before anything uses JAX: as many devices as the largest mesh has ranks.
    jax.config.update("jax_num_cpu_devices", max(mesh_of(mesh).size for mesh, _ in PLANS.values()))
    chosen = given.plans.split(",") if given.plans else list(PLANS)
    text = report([Judge(plan, PLANS[plan][0]).compare() for plan in chosen], f"JAX {jax.__version__}")
    if given.plans:
        print(text)
    else:
        PATH.write_text(text, encoding="utf-8")
        print(f"wrote {PATH}")


if __name__ == "__main__":
    main()
