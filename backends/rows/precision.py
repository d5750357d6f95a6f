"""The snippet of a cast: the element as its result's dtype would hold it.

Kernels compute in float or double and convert what they load and store, so what is only stored as 16 bits would need
no word here. But who reads the cast in the same kernel has to see it rounded, too. Kernels that cannot round decline.
"""

from __future__ import annotations

from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.snippets import Made, snippet
from graphir.operators.cast import cast


@snippet(cast)
def _cast(row: Row, X: Expression, *, to: str) -> Made:
    return {"Y": row.apply("round", X, detail=to)}
