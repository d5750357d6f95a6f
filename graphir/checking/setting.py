"""What is checked: a graph, by itself the documents' Transformer with dropout on, its mesh, its plan and its sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np

from graphir.checking.options import SettingOptions
from graphir.checking.position import general_position, small_sizes
from graphir.ir.graph import UPDATE, Graph
from graphir.ir.layout import Mesh
from graphir.ir.verify import verify
from graphir.models import transformer
from graphir.passes import (
    PLANS,
    Left,
    Optimizer,
    Plan,
    complete_plan,
    dce,
    left_whole,
    mixed_precision,
    optimize,
    recompute,
    shard,
    with_gradients,
)

ALL = "all"
#: Gradients of so small a model are far above float16's least with it, and far below its largest.
_LOSS_SCALE = 1024.0


@dataclass(frozen=True)
class Setting(SettingOptions):
    """A graph, its sizes, a mesh and a plan.

    Without a `graph`, the options build the documents' Transformer.

    A plan's name is that of a ready-made one, a sum of several, or `all`; the usual one is added for axes that it
    leaves out, but for a `Plan`, which is taken as it is.
    `weights` are parameters by name, where they are not to be drawn.
    `sizes` that are not given follow: small ones that every axis divides. `precision` is what products read, as in
    `passes.mixed_precision`; in float16 the loss is scaled.
    """

    mesh: Mesh = Mesh(dp=2, tp=3)  # noqa: RUF009 - immutable
    _: KW_ONLY
    sizes: Mapping[str, int] | None = None
    graph: Graph | None = None
    weights: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """`data+megatron on dp=2, tp=3`."""
        return f"{self.complete_plan().name} on {self.mesh}"

    def complete_plan(self) -> Plan:
        """The plan that is meant; LayoutError for one that is unknown."""
        return self.plan if isinstance(self.plan, Plan) else complete_plan(self.plan, self.mesh)

    def model(self) -> Graph:
        """What is checked, as it was built."""
        return transformer(**self.model_options(), decode=None) if self.graph is None else self.graph

    def complete_sizes(self) -> dict[str, int]:
        """Numbers of all dims; those that are given, and defaults that every axis divides."""
        return small_sizes(self.model(), self.mesh, self.sizes or {})

    def single(self) -> Graph:
        """The training step on one rank: forward, backward, clipping, update, as far as there is what they need."""
        model = mixed_precision(self.model(), self.precision)
        scaling: dict[str, Any] = {}
        if self.precision == "float16":
            # Without an optimizer nobody moves a scale.
            scaling = {"loss_scale": _LOSS_SCALE, "dynamic": self.optimizer != "none"}
        step = with_gradients(model, **scaling)
        if self.optimizer != "none" and step.parameters and all(node.meta.phase != UPDATE for node in step.nodes):
            step = optimize(step, Optimizer(self.optimizer, clip=1.0))
        return recompute(dce(step))

    def parallel(self, single: Graph) -> Graph:
        """`single` sharded as the plan says, and verified.

        LayoutError or DimError if plan, mesh and sizes do not fit each other.
        """
        return verify(dce(shard(single, self.mesh, self.complete_plan(), self.complete_sizes())))

    def left(self, single: Graph) -> tuple[Left, ...]:
        """What of the arguments of `single` the plan leaves whole, and why."""
        return left_whole(single, self.mesh, self.complete_plan(), self.complete_sizes())

    def arguments(self, single: Graph) -> dict[str, Any]:
        """Parameters, state and inputs at a point in general position."""
        drawn = general_position(single, self.complete_sizes(), self.seed)
        own = self.weights or {}
        return drawn | {name: np.asarray(own[name], drawn[name].dtype) for name in drawn if name in own}


def settings(setting: Setting) -> Iterator[Setting]:
    """The setting itself, or, for the plan `all`, one for each ready-made plan whose axes the mesh has.

    Each is taken as it is, so that it stands alone, and with the usual plans for axes that it leaves out.
    """
    if setting.plan != ALL:
        yield setting
        return
    seen: set[frozenset[str]] = set()
    for name, plan in PLANS.items():
        if set(plan.axes) <= set(setting.mesh.names):
            for each in (plan, complete_plan(name, setting.mesh)) if plan.axes else (plan,):
                parts = frozenset(each.name.split("+")) - {"single"}
                if parts not in seen:
                    seen.add(parts)
                    yield replace(setting, plan=each)
