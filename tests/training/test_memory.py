"""A training that does not fit into memory is refused before it allocates, with what would fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphir.errors import ConfigError
from graphir.training import TrainConfig, loop, train
from graphir.training.budget import Budget, Need
from graphir.training.programs import Needs

MB = 10**6
#: Half of what `SMALL` needs.
LITTLE = 30 * MB
#: Nearly all of what it needs are activations.
SMALL = TrainConfig(layers=3, width=64, heads=4, batch=64, sequence=64, steps=1, validate_batches=1)


@pytest.fixture(autouse=True)
def _planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be proved, a program has to be written, and for that memory to be there; here is much that is only planned."""
    monkeypatch.setattr("graphir.compiler.CHECK", False)


# -- what is needed ---------------------------------------------------------------------------------------


def test_tensors_are_counted_by_hand() -> None:
    """One layer, untied, no biases of Q, K and V: 12 D² + 9 D a layer, E and W_lm, P_theta, b_lm, the last LN; m, v."""
    config = TrainConfig(layers=1, width=16, heads=2, sequence=8, tied=False, final_norm=True)
    D, V, S = 16, 100, 8
    parameters = 12 * D * D + 10 * D + 2 * V * D + S * D + V + 2 * D
    assert abs(Needs(V).tensors(config) - 3 * 4 * parameters) <= 3 * 4 * D


def test_every_simulated_rank_has_an_arena_of_its_own() -> None:
    one, two = (Needs(256).need(TrainConfig(layers=1, dp=dp), None) for dp in (1, 2))
    alone = Needs(256).need(TrainConfig(layers=1, dp=2), None, alone=True)
    assert one.tensors == two.tensors
    assert two.step > 1.5 * alone.step
    assert two.step > one.step


# -- refusing ---------------------------------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Says how many bytes are free."""
    return lambda count: monkeypatch.setattr(loop, "free_memory", lambda: count)


@pytest.fixture
def allocating(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has begun to allocate."""
    begun: list[str] = []
    monkeypatch.setattr("graphir.training.vocabulary.initialize", lambda *_: begun.append("initial values"))
    monkeypatch.setattr(
        "graphir.backends.compiled.executable.CompiledExecutable._allocate", lambda *_: begun.append("an arena")
    )
    return begun


@pytest.mark.slow
def test_it_is_refused_before_anything_is_allocated(
    free: Callable[[int | None], None], allocating: list[str], tmp_path: Path
) -> None:
    free(LITTLE)
    with pytest.raises(ConfigError) as refused:
        train(SMALL, tmp_path / "run")
    text = str(refused.value)
    assert re.match(r"training needs [\d.,]+ MB: tensors [\d.]+ MB, step .*; 30\.0 MB of memory are free", text), text
    assert "the arena is fullest at" in text
    assert "--ignore-memory goes on nevertheless" in text
    assert allocating == []
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_is_said_to_fit_fits(free: Callable[[int | None], None], allocating: list[str], tmp_path: Path) -> None:
    """Each suggestion is taken, and its plan asked for."""
    free(LITTLE)
    with pytest.raises(ConfigError) as refused:
        train(SMALL, tmp_path / "run")
    found = re.findall(r"^  (--\S+ \d+|--recompute \w+)(?: --recompute (\w+))?(, its ranks)?", str(refused.value), re.M)
    assert found
    for words, level, alone in found:
        name, value = words.removeprefix("--").split()
        options: dict[str, Any] = {} if name == "recompute" else {name: int(value)}
        need = Needs(256).need(
            TrainConfig(**{**SMALL.as_dict(), **options}),
            value if name == "recompute" else level or None,
            alone=bool(alone),
        )
        assert need.bytes <= LITTLE, words


def test_who_insists_trains(free: Callable[[int | None], None], tmp_path: Path) -> None:
    free(1)
    tiny = TrainConfig(layers=1, width=8, heads=2, batch=2, sequence=4, steps=1, validate_batches=1, sample=0)
    assert train(tiny, tmp_path / "run", ignore_memory=True).step == 1


def test_what_is_not_known_is_no_limit(free: Callable[[int | None], None], tmp_path: Path) -> None:
    free(None)
    tiny = TrainConfig(layers=1, width=8, heads=2, batch=2, sequence=4, steps=1, validate_batches=1, sample=0)
    assert train(tiny, tmp_path / "run").step == 1


@pytest.mark.slow
def test_a_model_whose_tensors_alone_are_too_many_is_not_planned(
    free: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planned: list[int] = []
    need = Needs.need

    def counted(self: Needs, config: TrainConfig, *others: Any, **named: Any) -> Need:
        planned.append(config.layers)
        return need(self, config, *others, **named)

    monkeypatch.setattr(Needs, "need", counted)
    free(24_000 * MB)
    with pytest.raises(ConfigError, match=r"training needs at least 1,449\.9 GB: tensors 483\.3 GB"):
        train(TrainConfig(layers=200, width=4096), tmp_path / "run")
    assert max(planned) <= 3


def test_the_command_refuses_with_exit_code_2(
    free: Callable[[int | None], None], call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    free(1000)
    code, _, err = call("train", "--layers", 1, "--steps", 1, "--out", tmp_path / "run")
    assert code == 2
    assert "training needs" in err
    assert "choose a smaller --width" in err


@pytest.mark.slow
def test_a_level_of_recomputation_is_what_training_compiles(tmp_path: Path) -> None:
    plain, again = (Needs(256).need(SMALL, level) for level in (None, "full"))
    assert again.step < plain.step / 2
    tiny = TrainConfig(layers=1, width=8, heads=2, batch=2, sequence=4, steps=1, validate_batches=1, sample=0)
    assert train(tiny, tmp_path / "run", recompute="full").step == 1


def test_many_layers_are_the_plans_of_few_carried_on() -> None:
    """What is carried on from 2 and 3 layers is what the plan of 6 says, but for what is not alike."""
    config = TrainConfig(**{**SMALL.as_dict(), "layers": 6})
    carried = Budget(config, None, Needs(256), None)._need(config, None)
    whole = Needs(256).need(config, None)
    assert carried.tensors == whole.tensors
    assert carried.bytes == pytest.approx(whole.bytes, rel=0.05)
