"""What to check when nobody hands anything in: the documents' Transformer, sharded, at a point in general position.

Parameters that start at zero or one hide faults (a bias that is zero may be added on every rank, a gain of one be cut
anywhere), and so does Adam's first step, which depends on a gradient's sign alone. So every parameter is drawn, the
optimizer has a past, dropout is on, and some labels are padding, more of them on the first replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np

from graphir.backends import initialize
from graphir.checking.options import SettingOptions
from graphir.ir.dims import resolve_sizes
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.verify import verify
from graphir.models import transformer
from graphir.operators.loss import IGNORE
from graphir.passes import (
    PLANS,
    Optimizer,
    Plan,
    autodiff,
    complete_plan,
    dce,
    mixed_precision,
    optimize,
    recompute,
    shard,
)

ALL = "all"
#: Gradients of so small a model are far above float16's least with it, and far below its largest.
_LOSS_SCALE = 1024.0


@dataclass(frozen=True)
class Setting(SettingOptions):
    """A model, its sizes, a mesh and a plan.

    A plan's name is that of a ready-made one, a sum of several, or `all`; the usual one is added for axes that it
    leaves out, but for a `Plan`, which is taken as it is.
    `sizes` that are not given follow: small ones that every axis divides. `precision` is what products read, as in
    `passes.mixed_precision`; in float16 the loss is scaled.
    """

    mesh: Mesh = Mesh(dp=2, tp=3)  # noqa: RUF009 - immutable
    _: KW_ONLY
    sizes: Mapping[str, int] | None = None

    @property
    def title(self) -> str:
        """`data+megatron on dp=2, tp=3`."""
        return f"{self.complete_plan().name} on {self.mesh}"

    def complete_plan(self) -> Plan:
        """The plan that is meant; LayoutError for one that is unknown."""
        return self.plan if isinstance(self.plan, Plan) else complete_plan(self.plan, self.mesh)

    def complete_sizes(self) -> dict[str, int]:
        """Numbers of B, S, D, N_H, D_ff, V; those that are given, and defaults that every axis divides."""
        ranks = self.mesh.sizes
        whole = math.lcm(*ranks.values(), 1)
        heads = 2 * whole
        defaults = {"B": 2 * whole, "S": 2 * whole, "D": 4 * heads, "N_H": heads, "D_ff": 8 * heads, "V": 8 * whole}
        return {**defaults, **(self.sizes or {})}

    def single(self) -> Graph:
        """The training step on one rank: forward, backward, clipping, update."""
        model = transformer(**self.model_options(), decode=None)
        model = mixed_precision(model, self.precision)
        scaling: dict[str, Any] = {}
        if self.precision == "float16":
            # Without an optimizer nobody moves a scale.
            scaling = {"loss_scale": _LOSS_SCALE, "dynamic": self.optimizer != "none"}
        step = autodiff(model, loss="L", **scaling)
        if self.optimizer != "none":
            step = optimize(step, Optimizer(self.optimizer, clip=1.0))
        return recompute(dce(step))

    def parallel(self, single: Graph) -> Graph:
        """`single` sharded as the plan says, and verified.

        LayoutError or DimError if plan, mesh and sizes do not fit each other.
        """
        return verify(dce(shard(single, self.mesh, self.complete_plan(), self.complete_sizes())))

    def arguments(self, single: Graph) -> dict[str, Any]:
        """Parameters, state and inputs at a point in general position."""
        sizes = resolve_sizes([single.dims], self.complete_sizes())
        found: dict[str, Any] = dict(initialize(single, sizes, self.seed))
        draw = np.random.default_rng(self.seed)
        for value in single.parameters:
            drawn = found[value.name] + 0.1 * draw.standard_normal(found[value.name].shape)
            found[value.name] = drawn.astype(value.dtype)
        for value in single.state:
            if not value.shape:
                continue  # the loss scale and its count, which start where they are meant to
            shape, second = found[value.name].shape, value.local_name.endswith(".v")
            noise = 1e-2 * draw.standard_normal(shape)
            found[value.name] = (noise**2 if second else noise).astype(value.dtype)
        shape = tuple(each.size(sizes) for each in single["T"].shape)
        found["T"], labels = draw.integers(0, sizes["V"], shape), draw.integers(0, sizes["V"], shape)
        labels[0, : shape[1] // 2] = IGNORE  # padding, all of it on one replica: the mean is still the global one
        found["Y"] = labels
        return {**found, "seed": self.seed + 1, "step": 3}


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
