"""Pieces of CUDA text: types, operations, the device functions that every module begins with, sums of terms.

What kernels call lies in `cuda/*.cuh`, and becomes part of each module's text: nothing is included that a compiler
would have to find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from graphir.backends.rows.expressions import Expression

#: The type of an array's elements.
TYPES = {
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "bool": "bool",
}
#: Operations that formulas and expressions have alike, by their name.
OPERATIONS = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "power": "pow({}, {})",
    "remainder": "{0} - floor({0} / {1}) * {1}",
    "absolute": "fabs({})",
    "tanh": "tanh({})",
    "sin": "sin({})",
    "cos": "cos({})",
    "erf": "erf({})",
    "exp": "exp({})",
    "log": "log({})",
    "sqrt": "sqrt({})",
    "maximum": "({0} >= {1} || {0} != {0}) ? {0} : {1}",
    "minimum": "({0} <= {1} || {0} != {0}) ? {0} : {1}",
    "less": "{} < {}",
}
_TEXT = {
    **OPERATIONS,
    "divide": "{} / {}",
    "minus": "(long long)({}) - (long long)({})",
    "minus long": "(long long)((unsigned long long)({}) - (unsigned long long)({}))",
    "narrow": "(long long)(int)({})",
    "plus": "{} + {}",
    "times": "{} * {}",
    "quotient": "{} / {}",
    "rest": "{} % {}",
    "and": "{} && {}",
    "or": "{} || {}",
    "not": "!{}",
    "real": "T({})",
    "same": "{} == {}",
    "other": "{} != {}",
    "sigmoid": "sigmoid({})",
    "normal": "normal({})",
    "choose": "{0} ? {1} : {2}",
    "at most": "{} <= {}",
    "zero": "{} == T(0)",
    "finite": "bool(isfinite({}))",
}
_COMPARED = ("compare", "compare long")
_CONDITIONS = ("and", "or", "not", "same", "other", *_COMPARED, "at most", "less", "zero", "finite", "keep")
_INTEGERS = ("integer", "narrow", "minus", "minus long", "plus", "times", "quotient", "rest", "ramp", "column", "count")
_INCLUDED = ("conversions", "packs", "reductions", "hash", "functions", "partials")


@cache
def included(name: str) -> str:
    """The text of one of the files of device functions."""
    return (Path(__file__).parent / "cuda" / f"{name}.cuh").read_text(encoding="utf-8")


def module_text(dtype: str, body: str) -> str:
    """A module: the device functions, with T, and a kernel."""
    return "\n".join([*map(included, _INCLUDED), f"typedef {TYPES[dtype]} T;", "", body])


def type_of(value: Expression, dtype_of: Callable[[Expression], str]) -> str:
    """The type of an element of `value`."""
    if value.operation in ("load", "repeat"):
        dtype = dtype_of(value)
        return TYPES[dtype] if dtype in ("bool", "int32", "int64") else "T"
    if value.operation == "choose":
        return type_of(value.operands[1], dtype_of)
    if value.operation == "gather":
        return type_of(value.operands[0], dtype_of)
    if value.operation in _CONDITIONS:
        return "bool"
    return "long long" if value.operation in _INTEGERS else "T"


def apply(value: Expression, operands: Sequence[str]) -> str:
    """The text of an operation on operands that have names."""
    if value.operation in _COMPARED:
        return f" {value.detail} ".join(operands)
    if value.operation == "round":
        return f"number(convert<{TYPES[value.detail]}>({operands[0]}))"
    return _TEXT[value.operation].format(*operands)


def indented(lines: Sequence[str]) -> list[str]:
    """Lines of a block; pragmas stay where they are."""
    return [line if line.startswith("#") else "    " + line for line in lines]


def sum_text(dtype: str, stored: str, loops: int) -> str:
    """The kernel that adds the terms of blocks up: out[i0, i1, …] = Σ terms[b, i0, i1, …] over b."""
    parameters = ["const T* __restrict__ terms", f"{TYPES[stored]}* __restrict__ out", "const long long count"]
    parameters += ["const long long width", *(f"const long long n{j}" for j in range(loops))]
    parameters += [f"const long long g{j}" for j in range(loops)]
    places = []
    for j in reversed(range(1, loops)):
        places += [f"const long long i{j} = rest % n{j};", f"rest /= n{j};"]
    at = " + ".join([*(f"i{j} * g{j}" for j in range(1, loops)), "rest * g0"])
    lines = [
        "for (long long first = blockIdx.x * 32ll; first < width; first += gridDim.x * 32ll) {",
        "    const T total = add_terms(terms, count, width, first);",
        "    long long rest = first + threadIdx.x;",
        "    if (threadIdx.x < 32 && rest < width) {",
        *("        " + each for each in places),
        f"        out[{at}] = convert<{TYPES[stored]}>(total);",
        "    }",
        "}",
    ]
    head = 'extern "C" __global__ void __launch_bounds__(256) run('
    parts = [head, ",\n".join("    " + each for each in parameters), ") {", *indented(lines), "}", ""]
    return module_text(dtype, "\n".join(parts))
