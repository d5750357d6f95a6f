"""What a model that is checked may vary in, beside its sizes and its mesh."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from graphir.models.transformer import Architecture
from graphir.options import option, varied

if TYPE_CHECKING:
    from graphir.passes import Plan


@dataclass(frozen=True)
class SettingOptions(Architecture):
    """The model's options, how it is trained, and how it is shared by ranks."""

    # What is checked shall have every kind of bias.
    qkv_bias: bool = varied(Architecture, "qkv_bias", default=True)
    plan: str | Plan | None = option(  # noqa: RUF009 - a field
        None,
        "A plan, a sum such as data+megatron, or dims over an axis, tp:D_ff,N_H; the usual one for axes left out.",
        kind=str,
        group="Parallel",
    )
    _: KW_ONLY
    precision: str = option(
        "float32",
        "What products read; float32: the floats of --dtype.",
        choices=("float32", "bfloat16", "float16"),
    )
    optimizer: str = option(
        "adamw",
        "The update; none: forward and backward only.",
        choices=("none", "sgd", "adam", "adamw"),
    )
    seed: int = option(0, "Keys parameters, batch and masks.", least=0)
