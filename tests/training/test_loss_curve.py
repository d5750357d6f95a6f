"""The curve of the losses: a smoothing that does not lag, steps and tokens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from graphir.training.metrics import draw_loss, smoothed


def test_a_line_is_its_own_smoothing() -> None:
    assert smoothed([]) == []
    assert smoothed([3.0]) == [3.0]
    line = [5.0 - 0.01 * i for i in range(300)]
    assert smoothed(line) == pytest.approx(line)


def test_a_falling_loss_is_followed_at_once_and_its_noise_left_out() -> None:
    falling = [1.1 + 1.9 * math.exp(-i / 12) + 1.4 * math.exp(-i / 90) + math.exp(-i / 700) for i in range(2400)]
    for steps in (161, 2400):
        assert np.abs(np.subtract(smoothed(falling[:steps]), falling[:steps])).max() < 0.02, steps
    noise = np.random.default_rng(0).standard_normal(2000)
    smooth = np.asarray(smoothed(list(noise)))
    assert smooth[100:-100].std() < 0.12
    assert abs(smooth[-1]) < 0.5


@pytest.mark.parametrize("at", [60, 400, 1000])
def test_a_jump_stays_where_it_is(at: int) -> None:
    jump = np.where(np.arange(1200) < at, 3.0, 1.0)
    smooth = np.asarray(smoothed(list(jump)))
    passed = int(np.argmax(smooth < 2.0))
    assert abs(passed - at) <= 2
    assert smooth[: at // 2] == pytest.approx(3.0)


def test_the_picture_has_steps_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    labels: list[str] = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, file, **_: labels.extend(_labels(self)))
    draw_loss([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "val_loss": 1.5}], tmp_path / "loss.png", "", 1024)
    assert labels == ["step", "tokens seen"]


def _labels(figure: object) -> list[str]:
    (axes,) = figure.axes  # type: ignore[attr-defined]
    return [axes.get_xlabel(), *(each.get_xlabel() for each in axes.child_axes)]
