"""What the tests of sharding share: Transformers to shard, random meshes and plans, and how far two runs are apart.

Deviations are relative, in the norm of a whole tensor: ‖parallel − single‖ / ‖single‖. A tensor that is zero but for
rounding (the gradient of b_K, to which softmax is blind) has no size of its own to compare with; it is held against
the largest of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

import graphir as gi
from graphir.backends.initialize import initialize
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes import Optimizer, Plan, autodiff, optimize, shard

#: What rounding may leave of a tensor that is zero: this much of the largest tensor of its kind.
ZERO = 1e-12
STEPS = 3


# -- how far apart -----------------------------------------------------------------------------------------


def norm(array: Any) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64).ravel()))


def kind(name: str) -> str:
    """Tensors of one kind are of comparable size: gradients, parameters, each moment, and scalars by themselves."""
    local = name.rsplit("/", 1)[-1].removesuffix(".new")
    for suffix in (".m", ".v", ".u"):
        if local.endswith(suffix):
            return suffix
    if local in ("L", "lr", "norm"):
        return local
    return "gradient" if local.startswith("d") else "parameter"


def deviations(parallel: Mapping[str, Any], single: Mapping[str, Any], zero: float = ZERO) -> dict[str, float]:
    """By name, ‖parallel − single‖ / ‖single‖; of a tensor that is all rounding, over the largest of its kind.

    All rounding is what is smaller than `zero` times the largest.
    """
    assert set(parallel) == set(single), set(parallel) ^ set(single)
    largest: dict[str, float] = {}
    for name, array in single.items():
        largest[kind(name)] = max(largest.get(kind(name), 0.0), norm(array))
    found = {}
    for name, array in single.items():
        assert parallel[name].shape == np.shape(array), name
        scale, most = norm(array), largest[kind(name)]
        difference = norm(np.asarray(parallel[name], np.float64) - np.asarray(array, np.float64))
        found[name] = difference / (scale if scale > zero * most else most or 1.0)
    return found


# -- the Transformer ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A plan on a mesh, and the Transformer that it is tried on."""

    plan: str
    mesh: tuple[tuple[str, int], ...]
    tied: bool = True
    dropout: float = 0.1
    positions: str = "learned"
    qkv_bias: bool = False
    mean: str = "tokens"
    padded: bool = False
    layers: int = 1
    dtype: str = "float64"

    def __str__(self) -> str:
        mesh = "·".join(f"{axis}{size}" for axis, size in self.mesh)
        words = [self.plan, mesh, "tied" if self.tied else "untied", "dropout" if self.dropout else "no dropout"]
        words += [self.positions, *(["qkv_bias"] if self.qkv_bias else []), *(["padded"] if self.padded else [])]
        return " ".join([*words, *(["mean of means"] if self.mean == "replicas" else [])])

    @property
    def sizes(self) -> dict[str, int]:
        """Small sizes that every axis divides where a plan splits it by name; dp divides D and V by chance only."""
        ranks = dict(self.mesh)
        dp, tp, cp = (ranks.get(axis, 1) for axis in ("dp", "tp", "cp"))
        heads = tp if tp > 1 else 2
        return {
            "B": dp if dp > 1 else 2,
            "S": max(2 * cp * tp, 4),
            "D": 2 * heads,
            "N_H": heads,
            "D_ff": 3 * heads,
            **({"V": 6 * tp - 5, "V_pad": 6 * tp} if self.padded else {"V": 6 * tp}),
            **({"N_DP": dp} if self.mean == "replicas" else {}),
        }

    @property
    def options(self) -> dict[str, object]:
        """What the Transformer is built with."""
        names = ("layers", "tied", "dropout", "positions", "qkv_bias", "mean", "padded", "dtype")
        return {name: getattr(self, name) for name in names}

    @property
    def alone(self) -> Case:
        """The same on one rank, in sizes that are still those of the mesh."""
        return replace(self, plan="single")


@lru_cache(maxsize=64)
def _training_step(**options: object) -> Graph:
    """A Transformer's whole step: loss, gradients, clipping (which bites), AdamW.

    ε is large beside the gradients' rounding: where a gradient is zero but for rounding, Adam would make of each
    bit of it a step of size lr, in one run one way, in another the other.
    """
    model = gi.models.transformer(decode=None, **options)
    return optimize(autodiff(model), Optimizer("adamw", learning_rate=1e-2, epsilon=1e-3, clip=0.1))


def step_of(case: Case) -> Graph:
    """The unsharded training step of a case."""
    return _training_step(**case.options)


def sharded_step_of(case: Case) -> Graph:
    return gi.verify(shard(step_of(case), Mesh(case.mesh), case.plan, case.sizes))


def batch(sizes: Mapping[str, int], step: int) -> dict[str, Any]:
    """Token ids, and labels of which the first rows lack more than the last: padding, spread unevenly over dp."""
    rng = np.random.default_rng(1000 + step)
    B, S, V = (sizes[name] for name in ("B", "S", "V"))
    ids, labels = rng.integers(0, V, (2, B, S))
    for row in range(B):
        labels[row, max(1, (row + 1) * S // B) :] = -100
    return {"T": ids, "Y": labels, "seed": 7, "step": step}


@lru_cache(maxsize=32)
def start(graph: Graph, sizes: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    """Parameters and state to start from; zeros are stirred, so that every parameter matters."""
    rng = np.random.default_rng(3)
    found = dict(initialize(graph, dict(sizes), seed=0))
    for value in graph.parameters:
        noise = rng.standard_normal(found[value.name].shape)
        found[value.name] = (found[value.name] + 0.2 * noise).astype(value.dtype)
    return found


def train(graph: Graph, case: Case, *, algorithm: str = "ring", origin: Graph | None = None) -> list[dict[str, Any]]:
    """What each of STEPS steps returned; the next starts from the parameters and state of the last."""
    from graphir.backends import Executable

    executable = Executable(gi.compile(graph, case.sizes).plan, algorithm)
    held = start(origin or graph, tuple(case.sizes.items()))
    results = []
    for step in range(STEPS):
        run = executable(held, batch(case.sizes, step))
        held = run.updated()
        results.append(dict(run))
    return results


@lru_cache(maxsize=64)
def single(case: Case) -> list[dict[str, Any]]:
    """The steps on one rank."""
    return train(step_of(case), case)


def worst(case: Case, *, algorithm: str = "ring") -> tuple[float, str]:
    """The largest deviation of any tensor in any step of the parallel run of `case`, and which tensor it is."""
    steps = train(sharded_step_of(case), case, algorithm=algorithm, origin=step_of(case))
    reference = single(case.alone)
    found = (
        (deviation, f"{name} in step {i}")
        for i, (mine, theirs) in enumerate(zip(steps, reference, strict=True))
        for name, deviation in deviations(mine, theirs).items()
    )
    return max(found)


# -- random meshes and plans -------------------------------------------------------------------------------

MESHES = ((2,), (3,), (4,), (2, 2), (1, 2), (2, 3), (2, 1, 2), (2, 2, 2))


@st.composite
def meshes(draw: st.DrawFn, sizes: Sequence[tuple[int, ...]] = MESHES) -> Mesh:
    """Up to three axes, in any order."""
    counts = draw(st.sampled_from(sizes))
    names = draw(st.permutations(("dp", "tp", "cp")))
    return Mesh(dict(zip(names, counts, strict=False)))


def splits(value: Value, mesh: Mesh) -> st.SearchStrategy[str]:
    """A split by position: each axis goes to some dim of `value`, or to none."""

    def write(homes: Sequence[int], order: Sequence[str]) -> str:
        dims = [["_"] for _ in value.shape]
        for axis in order:
            home = homes[mesh.names.index(axis)]
            if home < len(dims):
                dims[home].append(axis)
        return f"[{', '.join('|'.join(each) for each in dims)}]"

    homes = st.tuples(*(st.integers(0, value.type.rank) for _ in mesh.names))
    return st.builds(write, homes, st.permutations(mesh.names))


@st.composite
def plans(draw: st.DrawFn, graph: Graph, mesh: Mesh) -> Plan:
    """A plan that says something of about half of the arguments and of some of the other values."""

    def some(values: Iterable[Value], one_in: int) -> list[Value]:
        return [value for value in values if value.type.rank and draw(st.integers(1, one_in)) == 1]

    def entries(values: Iterable[Value], one_in: int = 2) -> dict[str, str]:
        return {value.name: draw(splits(value, mesh)) for value in some(values, one_in)}

    parameters = entries(graph.parameters)
    used: dict[str, str] = {}
    for name in parameters:
        if draw(st.integers(0, 2)) == 0:
            dropped = st.sampled_from(mesh.names).map(lambda axis: f"-{axis}")
            used[name] = draw(st.one_of(dropped, splits(graph[name], mesh)))
    made = [value for node in graph.nodes for value in node.outputs]
    pinned, inputs = entries(made, one_in=6), entries(graph.inputs)
    names = sorted({str(dim) for value in graph.arguments for dim in value.shape if str(dim).isidentifier()})
    dims: dict[str, str] = {}
    for axis in mesh.names if names else ():
        if draw(st.booleans()):
            dims[axis] = ", ".join(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)))
    return Plan("drawn", dims, inputs, parameters, used, activations=pinned)
