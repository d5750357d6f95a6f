"""The measured proof below each parallel figure: a small model, run on one rank and on many, compared number by number.

Both runs happen when the guide is made, in double precision, with dropout on and some labels left out. What is compared
are the blocks' results, the loss and the gradient of every parameter, whole arrays in both cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from html import escape

import numpy as np

from graphir.checking.position import general_position, small_sizes
from graphir.compiler import compile
from graphir.guide.config import GuideConfig
from graphir.ir.dims import dim_names
from graphir.ir.layout import Mesh
from graphir.passes import autodiff, find_plan, shard

#: Deviations above this, relative to the largest entry, are no rounding of doubles.
ROUNDING = 1e-11


#: What of a block's forward pass is compared, beside the loss.
_RESULTS = ("embedding/X", "layer*/mha/A_out", "layer*/mlp/Y", "output/Z_*", "output/L")


@dataclass(frozen=True)
class Proof:
    """What was run and how far it was off: per tensor, the largest |parallel − single| / max |single|."""

    plan: str
    mesh: Mesh
    deviations: Mapping[str, float]

    @property
    def tensor(self) -> str:
        """The tensor that is farthest off."""
        return max(self.deviations, key=lambda name: self.deviations[name])

    @property
    def deviation(self) -> float:
        """How far it is off."""
        return self.deviations[self.tensor]

    @property
    def holds(self) -> bool:
        """Whether the two runs are equal up to rounding."""
        return self.deviation <= ROUNDING

    def of(self, pattern: str) -> Proof:
        """The part of it that speaks of tensors whose names fit `pattern`."""
        return replace(self, deviations={n: d for n, d in self.deviations.items() if fnmatchcase(n, pattern)})


def prove(config: GuideConfig, plan: str, layers: int = 2) -> Proof:
    """Runs the model's structure at small sizes, on one rank and under `plan` on the guide's mesh.

    Compared are the results of each block, the loss, and the gradient of every parameter.
    """
    found = find_plan(plan)
    mesh = Mesh({name: size for name, size in (("dp", config.dp), ("tp", config.tp)) if name in found.axes})
    single = autodiff(config.graph(layers, dtype="float64"), loss="L")
    ranks = config.dp * config.tp
    small = {"B": 2 * config.dp, "S": 2 * config.tp, "D": 4 * ranks, "N_H": config.tp, "D_ff": 8 * ranks, "V": 11}
    if config.model is not None:
        groups = {"G": config.model.groups} if config.model.groups > 1 else {}
        small = small_sizes(single, Mesh(dp=config.dp, tp=config.tp), groups)
    sizes = {name: size for name, size in small.items() if name in dim_names([single.dims])}
    arguments = general_position(single, sizes, seed=0)
    names = [name for name in single.values if any(fnmatchcase(name, pattern) for pattern in _RESULTS)]
    names += [value.name for value in single.outputs if value.name not in names]
    one, many = (compile(graph, sizes, fetch=names)(arguments) for graph in (single, shard(single, mesh, found, sizes)))
    return Proof(plan, mesh, {name: _deviation(one[name], many[name]) for name in names})


def proof_html(proof: Proof) -> str:
    """The proof as a line of HTML."""
    verdict = "equal up to rounding" if proof.holds else "NOT equal"
    kind = "proof" if proof.holds else "proof failed"
    ranks = f"{proof.mesh.size} ranks ({proof.mesh})" if proof.mesh.size > 1 else "one rank"
    return (
        f'<p class="{kind}"><strong>Measured.</strong> A small model under the plan <code>{escape(proof.plan)}</code> '
        f"on {escape(ranks)} against the same on one, in double precision: results and gradients, "
        f"{len(proof.deviations)} tensors, are {verdict}. The largest deviation, relative to the tensor’s largest "
        f"entry, is <strong>{proof.deviation:.1e}</strong>, in <code>{escape(proof.tensor)}</code>.</p>"
    )


def _deviation(single: object, parallel: object) -> float:
    ours, theirs = np.asarray(single), np.asarray(parallel)
    scale = float(np.max(np.abs(ours))) or 1.0
    return float(np.max(np.abs(ours - theirs))) / scale
