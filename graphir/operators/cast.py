"""Cast: a value in another float dtype, the seam between what is narrow and what is wide.

Narrow is what products read, 16 bits an element, wide what they return and all else computes in, float32. A cast to
fewer bits rounds to the nearest number there is, ties to even; one to more bits changes nothing. float16 has 10 bits
behind the point and ends at 65504; bfloat16 has 7, and the range of float32.

A gradient may be wider than its value: that of a narrow operand is added up wide by the product that makes it. What
comes back to a cast in its operand's dtype already is the operand's gradient as it stands, and no node.
"""

from __future__ import annotations

from graphir.errors import TypeCheckError
from graphir.ir.operator import Array, GradientContext, Xp, operator
from graphir.ir.types import FLOATS
from graphir.ir.value import Value


def _cast_signature(to: str) -> str:
    if to not in FLOATS:
        raise TypeCheckError(f"cast goes to a float dtype ({', '.join(sorted(FLOATS))}), not {to!r}")
    return "X[*b] float -> Y[*b] to"


@operator(
    "cast",
    _cast_signature,
    elementwise=True,
    linear="X",
    retypes=True,
    examples=({"to": "float64"},),
)
def cast(xp: Xp, X: Array, *, to: str) -> Array:
    """Y: X in the dtype `to`, each element rounded to the nearest. Backward: dY in the dtype of X."""
    return X.astype(to)


@cast.gradient
def _d_cast(context: GradientContext) -> list[Value]:
    dY, (X,) = context.gradient, context.inputs
    return [dY if dY.dtype == X.dtype else cast(dY, to=X.dtype, name=context.names[0])]


def cast_to(X: Value, dtype: str) -> Value:
    """X itself if it is of that dtype, else its cast, named after both: `dZ.bfloat16`."""
    if X.dtype == dtype:
        return X
    return cast(X, to=dtype, name=f"/{X.owner.free_name(f'{X.name}.{dtype}')}")
