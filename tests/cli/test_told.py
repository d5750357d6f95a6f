"""What `graphir why` tells of a deep model by two shallow ones is what it tells of the model itself."""

from __future__ import annotations

import pytest

from graphir.checking import Setting
from graphir.cli import told
from graphir.cli.told import tell, tell_of_layers
from graphir.ir.layout import Mesh
from graphir.models import blueprint


def setting(family: str, mesh: dict[str, int], plan: str | None, layers: int) -> Setting:
    model = blueprint(family, layers=layers)
    graph = model.graph(decode=None)
    return Setting(mesh=Mesh(mesh), plan=plan, graph=graph, sizes=model.bind(graph, B=4, S=64))


@pytest.mark.parametrize(
    ("family", "period", "layers", "mesh", "plan"),
    [
        ("llama", 1, 11, {"tp": 2}, "sequence"),
        pytest.param("gemma2", 2, 13, {"tp": 2, "dp": 2}, "zero3+megatron", marks=pytest.mark.slow),
        pytest.param("gpt2", 1, 12, {"dp": 2, "cp": 2}, "zero2", marks=pytest.mark.slow),
        pytest.param("qwen3", 1, 11, {"tp": 2}, "column+vocabulary", marks=pytest.mark.slow),
    ],
)
def test_a_deep_model_is_told_by_two_shallow_ones(
    family: str, period: int, layers: int, mesh: dict[str, int], plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []

    def of_layers(depth: int) -> Setting:
        built.append(depth)
        return setting(family, mesh, plan, depth)

    assert tell_of_layers(of_layers, layers, period, "ring") == tell(setting(family, mesh, plan, layers), "ring")
    assert max(built) < layers


def test_what_does_not_go_on_evenly_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stories = {4: ("a 1", "b"), 5: ("a 2", "c"), 9: ("a 9", "d")}
    monkeypatch.setattr(told, "tell", lambda depth, algorithm: stories[depth])
    assert tell_of_layers(lambda depth: depth, 9, 1, "ring") == ("a 9", "d")  # type: ignore[arg-type,return-value]
    stories[5] = ("a 2", "b")
    assert tell_of_layers(lambda depth: depth, 9, 1, "ring") == ("a 6", "b")  # type: ignore[arg-type,return-value]
