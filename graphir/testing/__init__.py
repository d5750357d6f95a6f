"""Is an operator what its declaration says? One call measures all that graphir believes of it without looking.

    from graphir.testing import check_operator

    def test_rms_norm():
        check_operator(rms_norm)
        check_operator(rms_norm.d_operator)

`check_operator` draws small graphs of one node (`cases`) and holds the kernel against its declaration: types,
the gradient by finite differences, each trait, blocks on several ranks, operands left as they were. The operators
of the dictionary pass the same checks. NumPy alone is needed, and any test runner will do: what does not hold is
an AssertionError that names the node, its sizes and what was found; a declaration that contradicts itself is the
GraphirError that it is anywhere else.
"""

from graphir.testing.blocks import check_blocks
from graphir.testing.cases import Case, Draw, cases, distance, positive, same_bits
from graphir.testing.checks import (
    CHECKS,
    check_associative,
    check_declaration,
    check_depends,
    check_elementwise,
    check_inputs_unchanged,
    check_linear,
    check_only,
    check_operator,
    check_same_again,
    check_selects,
    check_shape_only,
    check_types,
    check_updates,
    check_variants,
)
from graphir.testing.gradients import carries_gradient, check_directional, check_gradient

__all__ = [
    "CHECKS",
    "Case",
    "Draw",
    "carries_gradient",
    "cases",
    "check_associative",
    "check_blocks",
    "check_declaration",
    "check_depends",
    "check_directional",
    "check_elementwise",
    "check_gradient",
    "check_inputs_unchanged",
    "check_linear",
    "check_only",
    "check_operator",
    "check_same_again",
    "check_selects",
    "check_shape_only",
    "check_types",
    "check_updates",
    "check_variants",
    "distance",
    "positive",
    "same_bits",
]
