"""How a Transformer tells places apart: by rows added to its tokens' vectors, or by turning queries and keys.

`given` positions are an input [B, S], so that rows may hold several documents, begin anywhere, or go on from a cache;
`added` are those of which tokens' vectors are made others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

from graphir.ir.dims import Dim
from graphir.ir.value import Value
from graphir.models.dims import S_MAX, B, D, S
from graphir.models.parts.frame import Frame
from graphir.operators import add, broadcast, lookup, rope, rotary_angles, sinusoidal_positions
from graphir.operators.rotary import OF_TEXTS
from graphir.options import require_choice

#: What `Rows` may be.
KINDS = ("learned", "sinusoidal")


@dataclass(frozen=True)
class Rows:
    """A row of P [S, D] for each place of a sequence, added to its token's: learned, or sines (A 1.2)."""

    kind: str = "learned"
    given: ClassVar[bool] = False
    added: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_choice("positions", self.kind, KINDS)

    def embed(self, frame: Frame, X_tok: Value, name: str) -> Value:
        """X_emb [B, S, D] = X_tok + BC_B(P), called `name`."""
        block = frame.block
        if self.kind == "learned":
            P = block.alias("P", block.parameter("P_theta", (S, D)))
        else:
            P = sinusoidal_positions(s=S, d=D, dtype=block.dtype, name="P", builder=block)
        return add(X_tok, broadcast(P, (B,), name="BC_P"), name=name)

    def angles(self, frame: Frame, head: Dim) -> None:
        """None: queries and keys are not turned."""


@dataclass(frozen=True)
class Table:
    """A learned row of P_theta [S_max, D] for each position, looked up and added to its token's (GPT-2, BERT)."""

    given: ClassVar[bool] = True
    added: ClassVar[bool] = True

    def embed(self, frame: Frame, X_tok: Value, name: str) -> Value:
        """X_emb [B, S, D] = X_tok + P_theta[positions], called `name`."""
        P_theta = frame.block.parameter("P_theta", (S_MAX, D))
        return add(X_tok, lookup(P_theta, frame.inputs["positions"], name="P"), name=name)

    def angles(self, frame: Frame, head: Dim) -> None:
        """None: queries and keys are not turned."""


@dataclass(frozen=True)
class Scaling:
    """How angles are slowed for texts longer than a model was trained on: see `rotary_angles`, whose words these are.

    factor          by how much at most
    original        the positions that the model was trained on
    slow, fast      the turns over them at which planes are slowed wholly, and not at all
    gain            what cos and sin are multiplied by; 0: what the kind says
    short, long     of longrope: what each plane is slowed by, in texts of at most `original` tokens and in longer ones
    """

    kind: str = "default"
    _: KW_ONLY
    factor: float = 1.0
    original: int = 0
    slow: float = 1.0
    fast: float = 4.0
    gain: float = 0.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    @property
    def of_texts(self) -> bool:
        """Whether the angles are others in long texts: the graph is told how long they are."""
        return self.kind in OF_TEXTS

    @property
    def turn(self) -> int | None:
        """The most tokens of a short text, where those of longer ones are turned by other angles; else None."""
        return self.original if self.kind == "longrope" else None

    def attributes(self) -> Mapping[str, Any]:
        """The attributes of `rotary_angles`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"scaling": values.pop("kind"), **values}


@dataclass(frozen=True)
class Angles:
    """cos and sin [B, S, planes] of every position, and the same for layers with a window where these have others."""

    whole: tuple[Value, Value]
    windowed: tuple[Value, Value]
    share: tuple[int, int]

    def turn(self, X: Value, name: str, windowed: bool) -> Value:
        """X [B, …, S, D_h], queries or keys, turned by the angles of their positions."""
        cos, sin = self.windowed if windowed else self.whole
        return rope(X, cos, sin, rotated=self.share, name=name)


@dataclass(frozen=True)
class Rotary:
    """Queries and keys are turned by angles in proportion to their positions (Su et al., 2021).

    base             plane j of D_h/2 turns by base^(−2j/D_h) a position
    scaling          how angles are slowed for longer texts
    share            p/q of a head's width that is turned, as (p, q) in lowest terms
    windowed_base    the base in layers with a window, whose angles are not slowed; None: as in all layers (Gemma 3)
    """

    base: float = 10000.0
    _: KW_ONLY
    scaling: Scaling = field(default_factory=Scaling)
    share: tuple[int, int] = (1, 1)
    windowed_base: float | None = None
    given: ClassVar[bool] = True
    added: ClassVar[bool] = False

    def embed(self, frame: Frame, X_tok: Value, name: str) -> Value:
        """X_tok itself: nothing is added."""
        return X_tok

    def angles(self, frame: Frame, head: Dim) -> Angles:
        """The angles of all positions, for heads [head] wide."""
        whole = self._angles(frame, head, "", self.base, self.scaling)
        windowed = whole
        if self.windowed_base is not None:
            windowed = self._angles(frame, head, "_window", self.windowed_base, Scaling())
        return Angles(whole, windowed, self.share)

    def _angles(self, frame: Frame, head: Dim, of: str, base: float, scaling: Scaling) -> tuple[Value, Value]:
        turned, of_equal = self.share
        operands = [frame.inputs["positions"], *([frame.inputs["length"]] if scaling.of_texts else [])]
        cos, sin = rotary_angles.all(
            *operands,
            planes=head * turned / (2 * of_equal),
            base=base,
            dtype=frame.block.dtype,
            names=(f"cos{of}", f"sin{of}"),
            **scaling.attributes(),
        )
        return cos, sin


Positions: TypeAlias = Rows | Table | Rotary
