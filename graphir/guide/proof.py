"""The measured proof below each parallel figure: a small model, run on one rank and on many, compared number by number.

Both runs happen when the guide is made, in double precision, with dropout on and some labels left out. What is compared
is the loss and the gradient of every parameter, whole arrays in both cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

from graphir.compiler import compile, initialize
from graphir.guide.config import GuideConfig
from graphir.ir.layout import Mesh
from graphir.models import transformer
from graphir.operators.loss import IGNORE
from graphir.passes import autodiff, find_plan, shard

#: Deviations above this, relative to the largest entry, are no rounding of doubles.
ROUNDING = 1e-11


@dataclass(frozen=True)
class Proof:
    """What was run and how far it was off: `deviation`, the largest |parallel − single| / max |single|, of `tensor`."""

    plan: str
    mesh: Mesh
    tensors: int
    deviation: float
    tensor: str

    @property
    def holds(self) -> bool:
        """Whether the two runs are equal up to rounding."""
        return self.deviation <= ROUNDING


def prove(config: GuideConfig, plan: str, layers: int = 2) -> Proof:
    """Runs the model's structure at small sizes, on one rank and under `plan` on the guide's mesh."""
    found = find_plan(plan)
    mesh = Mesh({name: size for name, size in (("dp", config.dp), ("tp", config.tp)) if name in found.axes})
    single = autodiff(transformer(layers=layers, dtype="float64"), loss="L")
    ranks = config.dp * config.tp
    sizes = {"B": 2 * config.dp, "S": 2 * config.tp, "D": 4 * ranks, "N_H": config.tp, "D_ff": 8 * ranks, "V": 11}
    generator = np.random.default_rng(0)
    shape = (sizes["B"], sizes["S"])
    labels = generator.integers(0, sizes["V"], shape)
    labels[0, : sizes["S"] // 2] = IGNORE  # unevenly, so that a mean of means would be found out
    data = {"T": generator.integers(0, sizes["V"], shape), "Y": labels, "seed": 1, "step": 2}
    parameters = {name: generator.normal(scale=0.3, size=a.shape) for name, a in initialize(single, sizes).items()}
    names = [value.name for value in single.outputs]
    runs = [
        compile(graph, sizes, fetch=names)(parameters, data) for graph in (single, shard(single, mesh, found, sizes))
    ]
    worst = max(((_deviation(runs[0][name], runs[1][name]), name) for name in names), key=lambda pair: pair[0])
    return Proof(plan, mesh, len(names), *worst)


def proof_html(proof: Proof) -> str:
    """The proof as a line of HTML."""
    verdict = "equal up to rounding" if proof.holds else "NOT equal"
    kind = "proof" if proof.holds else "proof failed"
    return (
        f'<p class="{kind}"><strong>Measured.</strong> Plan <code>{escape(proof.plan)}</code> on '
        f"{escape(str(proof.mesh))} ({proof.mesh.size} ranks) and one rank, the same small model in double precision: "
        f"loss and gradients, {proof.tensors} tensors, are {verdict}. The largest deviation, relative to the tensor's "
        f"largest entry, is <strong>{proof.deviation:.1e}</strong>, in <code>{escape(proof.tensor)}</code>.</p>"
    )


def _deviation(single: object, parallel: object) -> float:
    ours, theirs = np.asarray(single), np.asarray(parallel)
    scale = float(np.max(np.abs(ours))) or 1.0
    return float(np.max(np.abs(ours - theirs))) / scale
