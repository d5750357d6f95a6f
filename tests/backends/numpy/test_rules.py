"""Generic tests over the rules of the compiled NumPy executor: each does on any tile what the reference kernel does.

A rule records calls; here they are recorded into fresh arrays and run at once. Every buffer that is written is filled
with NaN first, so that what a rule forgets to write shows.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from graphir.backends.compiled.emission import Array
from graphir.backends.numpy import rules as _rules  # noqa: F401  declares them
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.formulas import rule_of
from graphir.backends.plan import plan
from graphir.formula.trace import Formula, find_formula
from graphir.ir.attributes import exact
from graphir.ir.operator import Operator, Place
from graphir.ir.signature import Signature, expand
from graphir.operators.attention import scale_mask
from graphir.operators.dropout import dropout_mask, keep_mask
from graphir.operators.elementwise import activation, d_activation
from graphir.operators.embedding import d_lookup
from graphir.operators.special import MASKED
from graphir.testing import Case, cases, same_bits
from graphir.testing.cases import draw_case
from tests.support.dictionary import dictionary
from tests.support.formulas import FORMULATED

#: What has a rule of its own, and what has a formula.
OWN = [each for each in dictionary() if rules.find(each) is not None and each.examples]
RULED = [*OWN, *(each for each in FORMULATED if each not in OWN)]


def _key(item: object) -> str:
    return item.key if isinstance(item, Operator) else str(getattr(item, "__name__", item))


# -- recording and running --------------------------------------------------------------------------------


class Recorder:
    """Calls into fresh arrays, run one after the other; what is prepared is made first."""

    #: Shared by all rules and tiles, as a program shares them.
    constants: ClassVar[dict[tuple[Any, ...], Array]] = {}

    def __init__(self) -> None:
        self.first: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.calls.append((function, arguments))

    def prepared(self, shape: Sequence[int], dtype: Any, function: Callable[..., Any], *arguments: Any) -> Array:
        buffer = self.scratch(shape, dtype)
        self.first.append((function, (*arguments, buffer)))
        return buffer

    def scratch(self, shape: Sequence[int], dtype: Any) -> Array:
        return _poison(np.empty(shape, dtype))

    def constant(self, make: Callable[..., Array], *arguments: Any) -> Array:
        made, key = make(*arguments), (make, exact(arguments))
        made.flags.writeable = False
        # What is made must follow from the arguments alone, or one rule would read another's constant.
        assert same_bits(self.constants.setdefault(key, made), made)
        return self.constants[key]

    def anew(self, record: Callable[..., None], place: Place, attributes: Mapping[str, Any], *arguments: Any) -> None:
        record(self, place, attributes, *arguments)

    def run(self) -> None:
        # As a program's threads have it: exp may be infinite where what it is for is 0.
        with np.errstate(all="ignore"):
            for function, arguments in (*self.first, *self.calls):
                function(*arguments)


def _poison(array: Array) -> Array:
    array[...] = np.nan if array.dtype.kind == "f" else 77
    return array


@dataclasses.dataclass
class Tile:
    """A node's work on a part of its operands: what the kernel makes of it, and what the rule is given."""

    operator: Operator
    rule: Signature
    sizes: dict[str, int]
    dtype: str
    operands: dict[str, Any]
    keywords: dict[str, Any]
    expected: dict[str, Array]

    def run(self, outputs: Mapping[str, Array], **changed: Any) -> bool:
        """Whether the rule can do it; the results are in `outputs` then."""
        names = dict.fromkeys(("X",) if self.operator.variadic else self.operator.operands)
        given: dict[str, Any] = {**names, **self.operands, **changed}
        if self.operator.variadic:
            given = {"X": tuple(given[f"X{i}"] for i in range(len(self.operands)))}
        attributes = {name: self.keywords[name] for name in self.operator.attributes}
        at = {"at": self.keywords["at"]} if "at" in self.keywords else {}
        full = self.operator.signatures(self.operator.normalize(attributes))[0].outputs
        named = {o.name: outputs.get(o.name) for o in full}
        if rules.find(self.operator) is not None and _run(self.operator, named, **given, **attributes, **at):
            return True
        return _run_formula(self, {**self.operands, **changed}, outputs)


def _run(operator: Operator, outputs: Mapping[str, Array | None], **given: Any) -> bool:
    """Whether the rule of `operator` can do it; the results are in `outputs` then."""
    rule, recorder = rules.find(operator), Recorder()
    assert rule is not None
    if rule.emit(recorder, **given, **outputs) is False:
        return False
    recorder.run()
    return True


def _whole(operator: Operator, operands: dict[str, Any], attributes: dict[str, Any]) -> Tile:
    """The work of an operator of float32 on whole operands."""
    (signature,) = operator.signatures(attributes)
    rule = expand(signature, tuple(array.ndim for array in operands.values()))
    assert rule is not None
    return Tile(operator, rule, {}, "float32", operands, attributes, {})


def _run_formula(tile: Tile, operands: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> bool:
    """Whether what the operator's formula is can be done; the results are in `outputs` then."""
    attributes = {name: value for name, value in tile.keywords.items() if name in tile.operator.attributes}
    formula, recorder = find_formula(tile.operator, tile.rule, attributes, tile.dtype), Recorder()
    if not isinstance(formula, Formula):
        return False
    place = tile.keywords.get("at") or Place(tile.rule, {}, tile.sizes)
    if not rule_of(formula).emit(recorder, operands, outputs, place, attributes):
        return False
    recorder.run()
    return True


def _tile(case: Case, cut: Mapping[str, tuple[int, int]] | None = None) -> Tile:
    """The work of a case on the ranges `cut` of its factors, all of them without it."""
    operator, rule, cut = case.operator, case.rule, cut or {}
    (step,) = plan(case.graph, case.sizes).steps
    sizes = {factor: dim.size(case.sizes) for factor, dim in case.node.inference.factors.items()}

    def part(operand: Any) -> tuple[slice, ...]:
        return tuple(slice(*cut[axis.factors[0]]) if axis.factors[0] in cut else slice(None) for axis in operand.axes)

    floats = [value.dtype for value in (*case.node.inputs, *case.node.outputs) if value.type.is_float]
    dtype = floats[0] if floats else "float32"
    operands = {o.name: np.ascontiguousarray(case.arrays[o.name][part(o)]) for o in rule.inputs if o.axes}
    operands |= {o.name: case.arrays[o.name] for o in rule.inputs if not o.axes}
    keywords = dict(step.keywords)
    if step.places is not None:
        keywords["at"] = Place(rule, {factor: low for factor, (low, _) in cut.items()}, sizes)
    if "shape" in keywords:
        whole = step.keywords["shape"]
        ranges = (s.indices(size) for s, size in zip(part(rule.outputs[0]), whole, strict=True))
        keywords["shape"] = tuple(high - low for low, high, _ in ranges)
    names = [o.name for o in rule.inputs] if operator.variadic else operator.operands
    made = operator.kernel(np, *(operands.get(name) for name in names), **keywords)
    made = made if isinstance(made, tuple) else (made,)
    expected = {o.name: np.asarray(made[at]) for o, at in zip(rule.outputs, step.results, strict=True)}
    return Tile(operator, rule, sizes, dtype, operands, keywords, expected)


def _larger(case: Case, seed: int) -> Case:
    """The same node with dims up to 70 wide, for rows longer than a vector register; up to 12 where dims are many."""
    rng, widths = np.random.default_rng(seed), [3, 8, 20, 64, 70] if len(case.sizes) < 4 else [2, 3, 8, 12]
    large = dataclasses.replace(case, sizes={name: int(rng.choice(widths)) for name in case.sizes})
    arrays = {o.name: large.redraw(o.name, seed) for o in case.rule.inputs}
    return dataclasses.replace(large, arrays=arrays)


def _cases(operator: Operator, dtype: str) -> Iterator[Case]:
    """The declared examples, small and larger."""
    for index, case in enumerate(cases(operator, dtype, count=2)):
        yield case
        yield _larger(case, index)


def _alone(operator: Operator, dtype: str) -> Iterator[Case]:
    """The declared examples with each output wanted alone, of an operator whose kernel can leave out others."""
    for example in operator.examples if "only" in operator.keywords else ():
        for output in operator.signatures(operator.normalize(example))[0].outputs:
            attributes = {**example, "only": (output.name,)}
            for form in range(len(operator.signatures(operator.normalize(attributes)))):
                yield draw_case(operator, attributes, form, dtype, np.random.default_rng(form))


# -- comparing --------------------------------------------------------------------------------------------


def _check(tile: Tile, outputs: Mapping[str, Array], what: str) -> None:
    for name, expected in tile.expected.items():
        _check_close(outputs[name], expected, f"{tile.operator.key} {what}: {name}")


def _check_close(found: Array, expected: Array, what: str) -> None:
    assert found.dtype == expected.dtype, what
    assert found.shape == expected.shape, what
    if expected.dtype.kind != "f":
        assert np.array_equal(found, expected), what
        return
    masked = expected == expected.dtype.type(MASKED)
    assert np.array_equal(found == expected.dtype.type(MASKED), masked), f"{what} is masked elsewhere"
    found, expected = found[~masked], expected[~masked]
    if expected.size:
        # Sums of up to 5000 terms in another order, of numbers near 1.
        bound = 30 * np.finfo(expected.dtype).eps * (1 + np.abs(expected).max())
        error = np.abs(found - expected).max()
        assert error <= bound, f"{what} is off by {error}, more than {bound}"


def _fresh(tile: Tile) -> dict[str, Array]:
    return {name: _poison(np.empty(array.shape, array.dtype)) for name, array in tile.expected.items()}


# -- memory layouts ---------------------------------------------------------------------------------------


def _padded(array: Array) -> Array:
    """The same numbers as columns of a wider array, as a tile of keys is."""
    if array.ndim == 0:
        return array.copy()
    wide = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    wide[..., :-3] = array
    return wide[..., :-3]


def _transposed(array: Array) -> Array:
    """The same numbers with the first dim innermost, as a transposed operand has them."""
    return np.copy(array, order="F")


def _every_second(array: Array) -> Array:
    """The same numbers with a hole after each."""
    spaced = np.zeros((*array.shape, 2), array.dtype)
    spaced[..., 0] = array
    return spaced[..., 0]


LAYOUTS = (_padded, _transposed, _every_second)


# -- the tests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", OWN, ids=_key)
def test_a_rule_takes_what_the_operator_declares(operator: Operator) -> None:
    rule = rules.find(operator)
    assert rule is not None
    parameters = inspect.signature(rule.emit).parameters
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for example in operator.examples:
        normal = operator.normalize(example)
        outputs = {o.name for o in operator.signatures(normal)[0].outputs}
        operands = {"X"} if operator.variadic else set(operator.operands)
        keywords = set(operator.attributes) | ({"at"} & operator.keywords)
        named = {name for name, each in parameters.items() if each.kind is not inspect.Parameter.VAR_KEYWORD}
        assert named - {"call"} == operands | keywords | (set() if open_ended else outputs)
        assert set(rule.inplace) <= outputs


@pytest.mark.parametrize("operator", RULED, ids=_key)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rule_makes_what_the_kernel_makes(operator: Operator, dtype: str) -> None:
    done = 0
    for case in (*_cases(operator, dtype), *_alone(operator, dtype)):
        tile = _tile(case)
        before = {name: np.copy(array) for name, array in tile.operands.items()}
        outputs = _fresh(tile)
        if tile.run(outputs):
            done += 1
            _check(tile, outputs, str(case))
        assert all(same_bits(tile.operands[name], array) for name, array in before.items())
    # Exact gelu in float64 is left to the kernel; every other rule does something in both.
    assert done or operator.key == "size"


@pytest.mark.parametrize("operator", RULED, ids=_key)
def test_a_rule_leaves_out_what_is_not_wanted(operator: Operator) -> None:
    for case in _cases(operator, "float32"):
        tile = _tile(case)
        for name in tile.expected if len(tile.expected) > 1 else ():
            outputs = {name: _fresh(tile)[name]}
            if tile.run(outputs):
                _check_close(outputs[name], tile.expected[name], f"{case}: {name} alone")


@pytest.mark.parametrize("operator", RULED, ids=_key)
@pytest.mark.parametrize("layout", LAYOUTS, ids=_key)
def test_a_rule_reads_and_writes_views(operator: Operator, layout: Callable[[Array], Array]) -> None:
    for case in _cases(operator, "float32"):
        tile = _tile(case)
        operands = {name: layout(array) for name, array in tile.operands.items()}
        for changed, laid_out in itertools.product(({}, operands), (_fresh, None)):
            outputs = _fresh(tile) if laid_out else {name: layout(array) for name, array in _fresh(tile).items()}
            if tile.run(outputs, **changed):
                _check(tile, outputs, f"{case} with {layout.__name__} arrays")


@pytest.mark.parametrize("operator", RULED, ids=_key)
def test_a_rule_reads_what_is_broadcast(operator: Operator) -> None:
    for case in _cases(operator, "float32"):
        for name, array in case.arrays.items():
            # A row of one number repeated has no variance: what LN makes of it is rounding alone.
            if array.ndim > 1 or (array.ndim and operator.elementwise):
                repeated = np.broadcast_to(array[:1], array.shape)
                tile = _tile(dataclasses.replace(case, arrays={**case.arrays, name: repeated.copy()}))
                outputs = _fresh(tile)
                if tile.run(outputs, **{name: repeated}):
                    _check(tile, outputs, f"{case} with {name} repeated")


@pytest.mark.parametrize("operator", RULED, ids=_key)
def test_a_rule_may_write_over_its_operands(operator: Operator) -> None:
    rule = rules.find(operator)
    for case in _cases(operator, "float32"):
        tile = _tile(case)
        # What follows from a formula is right wherever its results lie.
        allowed = dict.fromkeys(tile.expected, tuple(tile.operands)) if rule is None else rule.inplace
        choices = [
            [(output, None), *((output, name) for name in names if _alike(tile, output, name))]
            for output, names in allowed.items()
            if output in tile.expected
        ]
        for choice in itertools.product(*choices):
            taken = [name for _, name in choice if name is not None]
            if len(set(taken)) < len(taken):
                continue
            operands = {name: array.copy() for name, array in tile.operands.items()}
            outputs = _fresh(tile) | {output: operands[name] for output, name in choice if name is not None}
            if tile.run(outputs, **operands):
                _check(tile, outputs, f"{case} with {choice} in place")


def _alike(tile: Tile, output: str, operand: str) -> bool:
    """Whether an operand's array may be an output's."""
    if operand not in tile.operands:
        return False
    one, other = tile.expected[output], tile.operands[operand]
    return one.shape == other.shape and one.dtype == other.dtype


@pytest.mark.parametrize("operator", RULED, ids=_key)
@pytest.mark.parametrize("seed", range(3))
def test_a_rule_works_on_a_part_as_the_kernel_does(operator: Operator, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in _cases(operator, "float32"):
        rule = case.rule
        axes = [axis for operand in (*rule.inputs, *rule.outputs) for axis in operand.axes]
        fixed = {*rule.whole_factors, *rule.minor_factors}
        fixed |= {factor for axis in axes if len(axis.factors) > 1 for factor in axis.factors}
        cut = {}
        for factor in {axis.factors[0] for axis in axes} - fixed:
            size = case.node.inference.factors[factor].size(case.sizes)
            low = int(rng.integers(0, size))
            cut[factor] = (low, int(rng.integers(low + 1, size + 1)))
        tile = _tile(case, cut)
        outputs = _fresh(tile)
        if tile.run(outputs):
            _check(tile, outputs, f"{case} at {cut}")


# -- activations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "silu"])
@pytest.mark.parametrize("reach", [1e-3, 1.0, 8.0, 100.0, 1e4])
def test_activations_in_float32_are_as_close_as_the_kernels(kind: str, reach: float) -> None:
    X = np.linspace(-reach, reach, 20001, dtype="float32")
    Y, dX, ones = np.empty_like(X), np.empty_like(X), np.ones_like(X)
    assert _whole(activation, {"X": X}, {"kind": kind}).run({"Y": Y})
    assert _whole(d_activation, {"X": X, "dY": ones}, {"kind": kind}).run({"dX": dX})
    wide, eps = X.astype("float64"), np.finfo("float32").eps
    # What is multiplied by X has an error in proportion; Φ itself is known to two units in the last place of 1.
    assert np.all(np.abs(Y - activation.kernel(np, wide, kind=kind)) <= 2 * eps * np.abs(wide))
    exact = d_activation.kernel(np, wide, np.ones_like(wide), kind=kind)
    assert np.abs(dX - exact).max() <= max(1.05 * _worst_slope(kind), 6 * eps)


def _worst_slope(kind: str) -> float:
    """How far off the kernel's own slopes are in float32, of numbers close enough to meet the worst."""
    X = np.linspace(-30, 30, 20001, dtype="float32")
    wide = X.astype("float64")
    exact = d_activation.kernel(np, wide, np.ones_like(wide), kind=kind)
    return float(np.abs(d_activation.kernel(np, X, np.ones_like(X), kind=kind) - exact).max())


# -- masks ------------------------------------------------------------------------------------------------

_PAGE = 1 << 33


@pytest.mark.parametrize(
    ("starts", "sizes", "shape"),
    [
        ((0,), (16384,), (16384,)),
        ((0,), (7,), (7,)),
        ((3, 0), (8, 64), (5, 64)),
        ((128, 0), (1024, 768), (64, 768)),
        ((5, 0), (9, 30), (3, 30)),
        ((0, 2, 0), (4, 6, 10), (4, 3, 10)),
        ((1, 4, 64, 0), (2, 8, 128, 128), (1, 3, 32, 96)),
        ((1, 4, 64, 32), (2, 8, 128, 128), (1, 3, 32, 32)),
        ((4, 0), (6, 15), (2, 15)),
        ((4, 0), (7, 15), (3, 15)),
        ((2, 6), (5, 20), (3, 7)),
        ((2, 7), (5, 20), (3, 8)),
        ((1, 2, 0), (3, 5, 5), (2, 3, 3)),
        ((), (), ()),
        ((_PAGE - 4096,), (_PAGE,), (4096,)),
        ((1000,), (9000,), (5001,)),
        ((1001,), (9000,), (5000,)),
        ((1, 1024), (8, 3072), (3, 1024)),
        ((1, 0, 512), (4, 2, 4608), (2, 2, 2560)),
        ((_PAGE // 6144 - 3, 2048), (_PAGE // 6144, 6144), (3, 4096)),
    ],
)
def test_masks_are_those_of_the_kernel_bit_for_bit(
    starts: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    expected = keep_mask(np, starts, sizes, shape, 5, 3, 11, 0.3)
    found = np.zeros(shape, bool)
    assert _draw(found, starts, sizes)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("start", [0, _PAGE - 2048, 3 * _PAGE])
def test_a_mask_beyond_what_32_bits_count_is_left_to_the_kernel(start: int) -> None:
    assert not _draw(np.zeros((4096,), bool), (start,), (4 * _PAGE,))


def _draw(m: Array, starts: Sequence[int], sizes: Sequence[int]) -> bool:
    names = [f"a{i}" for i in range(m.ndim)]
    (signature,) = dropout_mask.signatures({"p": 0.3, "dims": tuple(m.shape)})
    rule = expand(signature, ()) or signature
    at = Place(rule, dict(zip(names, starts, strict=True)), dict(zip(names, sizes, strict=True)))
    tile = Tile(dropout_mask, rule, dict(at.sizes), "float32", {}, {"p": 0.3, "key": 11, "dims": m.shape, "at": at}, {})
    return _run_formula(tile, {"seed": np.array(5), "step": np.array(3)}, {"m": m})


# -- the embedding's gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3])
def test_rows_of_equal_ids_are_added_however_often_they_occur(first: int) -> None:
    rng = np.random.default_rng(0)
    T = rng.permutation(np.repeat(np.arange(13), np.arange(13)))
    dX, dE = rng.standard_normal((len(T), 5)), np.full((8, 5), np.nan)
    (signature,) = d_lookup.signatures({})
    at = Place(signature, {"v": first}, {"v": 13})
    assert _run(d_lookup, {"dE": dE}, T=T, dX=dX, v=13, at=at)
    for row, gradient in enumerate(dE):
        assert np.allclose(gradient, dX[first + row == T].sum(axis=0), rtol=1e-13, atol=1e-13)


# -- what a causal tile is spared -------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "masked"), [(400, 7), (40, 40)])
def test_only_the_columns_that_a_query_does_not_see_are_masked(keys: int, masked: int) -> None:
    """Unless rows are so short that whole ones, which are one loop, take less time."""
    attributes = {**scale_mask.normalize({"width": 4, "causal": True}), "width": 4}
    (signature,) = scale_mask.signatures(attributes)
    rule = expand(signature, (4,))
    assert rule is not None
    A, Z = np.ones((1, 2, 8, keys), "float32"), np.empty((1, 2, 8, keys), "float32")
    recorder, at = Recorder(), Place(rule, {"q": keys - 8}, {"q": 512, "k": 512})
    formula = find_formula(scale_mask, rule, attributes)
    assert isinstance(formula, Formula)
    assert rule_of(formula).emit(recorder, {"A": A}, {"Z": Z}, at, attributes)
    _, (_, (block, bound, _)) = recorder.calls
    assert block.shape == (1, 2, 8, masked)
    assert bound.shape == (1, 1, 8, masked)
