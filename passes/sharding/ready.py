"""The ready-made plans: named dims over axes, and what is an exception to that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphir.errors import LayoutError, meant
from graphir.ir.layout import Mesh
from graphir.passes.sharding.plans import Plan

#: What is inside of a layer's blocks: the width of an MLP, or the hidden widths of a plain one; heads, those of keys
#: first, with the queries' heads that share each of them.
_INNER = "D_ff, D_[1-9]*, (N_KV G), N_H"
#: What leads from heads back to the stream.
_HEADS_OUT = ("N_H -> D", "N_KV -> D")

PLANS: Mapping[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("single"),
        # Each replica takes its part of the batch; gradients are summed before the update.
        Plan("data", {"dp": "B"}),
        # Columns into heads and D_ff, rows back (Shoeybi et al., 2019).
        Plan("megatron", {"tp": _INNER}),
        # W_O by columns as well, its output gathered.
        Plan(
            "column",
            {"tp": _INNER},
            parameters=dict.fromkeys(_HEADS_OUT, "D|tp"),
            activations=dict.fromkeys(_HEADS_OUT, "-tp"),
        ),
        # Embedding, output projection and cross-entropy with the vocabulary split.
        Plan("vocabulary", {"tp": "V"}),
        # Megatron's sequence parallelism: outside of the blocks' inner parts, S is split over tp (Korthikanti, 2022).
        Plan("sequence", {"tp": _INNER}, residual={"*": "S|tp"}),
        # ZeRO (Rajbhandari et al., 2020): state, then gradients, then parameters split over dp.
        Plan("zero1", {"dp": "B"}, state={"*": "?|dp"}, gradients={"*": "="}),
        Plan("zero2", {"dp": "B"}, state={"*": "?|dp"}),
        Plan("zero3", {"dp": "B"}, parameters={"*": "?|dp"}, used={"*": "-dp"}),
        # Context parallelism: the sequence split everywhere, keys and values gathered. What says which keys are seen
        # is read whole, and so are tables of positions.
        Plan("context", {"cp": "S"}, inputs={"keep*": "-cp"}, parameters={"*": "-cp"}),
    )
}

#: The plan that uses an axis where none is named.
DEFAULTS: Mapping[str, str] = {"dp": "data", "cp": "context", "tp": "megatron"}


def find_plan(name: str) -> Plan:
    """The ready-made plan of that name, or the sum of several: `data+sequence+zero1`.

    A part may also say itself which dims lie over an axis, `tp: D_ff, N_H`: `data+tp:D_ff,N_H`.
    """
    result = None
    for part in name.split("+"):
        axis, colon, dims = part.partition(":")
        if not colon and part not in PLANS:
            near = meant(part, PLANS, most=1)
            hint = f"{near} There are" if near else "there are"
            raise LayoutError(
                f"no plan is called {part!r}; {hint} {', '.join(PLANS)}, sums such as data+megatron, and dims "
                "over an axis of your own such as tp:D_ff,N_H"
            )
        plan = Plan(part, {axis.strip(): dims}) if colon else PLANS[part]
        result = plan if result is None else result + plan
    assert result is not None
    return replace(result, name=name)


def complete_plan(name: str | None, mesh: Mesh) -> Plan:
    """The plan called `name`, with the usual one added for each axis of the mesh that it does not use.

    `complete_plan("sequence", Mesh(dp=2, tp=3))` is data+sequence. LayoutError for an axis that nothing uses.
    """
    used = find_plan(name).axes if name else ()
    unused = [axis for axis in mesh.names if axis not in used]
    for axis in unused:
        if axis not in DEFAULTS:
            raise LayoutError(f"no plan uses the mesh axis {axis}; write one, or use {', '.join(DEFAULTS)}")
    names = [*(DEFAULTS[axis] for axis in unused), *([name] if name else [])]
    return find_plan("+".join(names) or "single")
