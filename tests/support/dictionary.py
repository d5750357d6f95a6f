"""The operators that every process has, whatever else tests have declared in this one."""

from __future__ import annotations

import graphir as gi
from graphir.ir.operator import Operator


def dictionary() -> list[Operator]:
    """Those of `graphir.operators`, and of examples that ran by then, in one order."""
    found = [each for each in gi.operators() if not each.kernel.__module__.startswith("tests.")]
    return sorted(found, key=lambda each: each.key)
