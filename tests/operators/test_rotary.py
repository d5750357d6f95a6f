"""Rotary positions: angles as transformers has them, planes turned by them, and what follows of turning."""

from __future__ import annotations

import json

import numpy as np
import pytest

import graphir as gi
from graphir.errors import DimError, TypeCheckError
from tests.fixtures.record_rotary import CASES, PLANES, RECORDED
from tests.support.evaluate import evaluate

RANDOM = np.random.default_rng(0)


def angles(positions: object, length: int | None = None, **options: object) -> tuple[np.ndarray, np.ndarray]:
    given = [np.asarray(positions), *([] if length is None else [np.asarray(length)])]
    return evaluate(lambda *each: gi.rotary_angles.all(*each, dtype="float64", **options), *given)


@pytest.mark.parametrize("case", CASES)
def test_frequencies_are_those_of_transformers(case: str) -> None:
    """Which has them in float32: of a turn of one position, seven digits."""
    options, length = CASES[case]
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[case]
    cos, sin = angles([[1]], length if options.get("scaling") == "dynamic" else None, planes=PLANES, **options)
    np.testing.assert_allclose(np.arctan2(sin[0, 0], cos[0, 0]), recorded["frequencies"], rtol=5e-7)
    np.testing.assert_allclose(np.hypot(sin, cos), recorded["size"], rtol=1e-12)


@pytest.mark.parametrize("rotated", [(1, 1), (1, 2), (3, 4), (1, 4)])
def test_planes_are_turned_and_the_rest_stays(rotated: tuple[int, int]) -> None:
    width, b, h, s = 24, 2, 3, 5
    turned = width * rotated[0] // rotated[1]
    X, at = RANDOM.standard_normal((b, h, s, width)), RANDOM.integers(0, 50, (b, s))
    cos, sin = angles(at, planes=turned // 2)
    Y = evaluate(lambda *each: gi.rope(*each, rotated=rotated), X, cos, sin)
    plane = X[..., : turned // 2] + 1j * X[..., turned // 2 : turned]
    angle = at[:, None, :, None] * 10000.0 ** (-np.arange(turned // 2) / (turned // 2))
    expected = plane * np.exp(1j * angle)
    np.testing.assert_allclose(Y[..., :turned], np.concatenate((expected.real, expected.imag), -1), atol=1e-12)
    assert np.array_equal(Y[..., turned:], X[..., turned:])


def test_scores_follow_from_distances_alone() -> None:
    Q, K = RANDOM.standard_normal((1, 1, 4, 16)), RANDOM.standard_normal((1, 1, 4, 16))
    scores = []
    for first in (0, 1000):
        cos, sin = angles(first + np.arange(4)[None], planes=8)
        q, k = (evaluate(gi.rope, X, cos, sin) for X in (Q, K))
        scores.append(q @ k.swapaxes(-1, -2))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-11)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"scaling": "longer"}, "scaling='longer' of rotary positions is none of default, linear, dynamic"),
        ({"scaling": "yarn", "fast": 32.0}, "scaling='yarn' needs original="),
        ({"scaling": "llama3", "original": 64, "slow": 4.0, "fast": 1.0}, "need 0 < slow < fast"),
        ({"base": 0.5}, "need base > 1"),
    ],
)
def test_what_makes_no_angles_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(TypeCheckError, match=complaint):
        angles([[0]], planes=4, **options)


def test_a_share_that_is_none_is_refused() -> None:
    X, cos = np.zeros((1, 2, 3, 8)), np.zeros((1, 3, 2))
    for rotated in ((2, 4), (3, 2), (1,)):
        with pytest.raises(TypeCheckError, match=r"is no share \(p, q\) of D_h"):
            evaluate(lambda *each, rotated=rotated: gi.rope(*each, rotated=rotated), X, cos, cos)
    with pytest.raises(DimError, match="at least two planes"):
        angles([[0]], 3, planes=1, scaling="dynamic", original=8)
