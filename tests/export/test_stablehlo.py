"""Exported StableHLO, executed by XLA's own client: the same numbers, and no collective that could be left out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.backends.blocks import join_blocks, split_blocks
from graphir.checking import Setting
from graphir.errors import ConfigError
from graphir.export import stablehlo
from graphir.passes import shard
from tests.support import xla_client
from tests.support.xla import distance, jax

pytestmark = pytest.mark.slow


class Exported:
    """A setting's step, exported, and what its ranks are given."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.single = setting.single()
        self.graph = setting.parallel(self.single)
        self.sizes, self.given = setting.complete_sizes(), setting.arguments(self.single)
        self.path = folder / "step.mlir"
        stablehlo.save(self.graph, self.path, self.sizes)
        self.description = json.loads(self.path.with_suffix(".json").read_text())

    def blocks(self) -> list[list[NDArray[Any]]]:
        """Each rank's arguments, in the program's order."""
        rows: list[list[NDArray[Any]]] = [[] for _ in range(self.graph.mesh.size)]
        for told in self.description["arguments"]:
            value = self.graph[told["name"]]
            array = np.asarray(self.given[told["name"]], value.dtype)
            for row, block in zip(rows, split_blocks(array, value.type.layout, self.graph.mesh), strict=True):
                assert list(block.shape) == told["shape"]
                row.append(np.ascontiguousarray(block))
        return rows

    def whole(self, results: list[list[NDArray[Any]]]) -> dict[str, Any]:
        """The results of all ranks together, by name."""
        found = {}
        for told, blocks in zip(self.description["results"], zip(*results, strict=True), strict=True):
            layout = self.graph[told["name"]].type.layout
            found[told["name"]] = join_blocks(blocks, layout, self.graph.mesh)
        return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    setting = Setting(
        mesh=gi.Mesh(dp=2, tp=2), plan="data+sequence", layers=1, dtype="float64", optimizer="none", qkv_bias=False
    )
    return Exported(setting, tmp_path_factory.mktemp("program"))


@pytest.mark.parametrize("mesh", [gi.Mesh(), gi.Mesh(dp=2, tp=2)], ids=str)
def test_a_rank_of_it_runs_where_graphir_is_not(mesh: gi.Mesh, tmp_path: Path) -> None:
    step = Exported(Setting(mesh=mesh, layers=1, dropout=0.1, dtype="float64", optimizer="none"), tmp_path)
    expected = gi.compile(step.single, step.sizes)(step.given)
    given, made = tmp_path / "given.npz", tmp_path / "made.npz"
    rows = step.blocks()
    np.savez(given, **{f"{rank}/{i}": array for rank, row in enumerate(rows) for i, array in enumerate(row)})
    program = step.path.with_suffix(".mlirbc")
    command = [sys.executable, "-I", xla_client.__file__, program, given, made, len(rows)]
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path)
    held = np.load(made)
    count = len(step.description["results"])
    results = step.whole([[held[f"{rank}/{i}"] for i in range(count)] for rank in range(len(rows))])
    for name, array in expected.items():
        found = results[step.graph.result(name).name]
        if not name.endswith("db_K"):  # 0 but for rounding
            assert distance(found, array) <= 1e-12, name


def test_every_sixth_collective_of_a_layer_that_keeps_its_shape_is_missed(exported: Exported) -> None:
    ir = jax.interpreters.mlir
    text, rows = exported.path.read_text(), exported.blocks()
    with jax.enable_x64(True):
        right = exported.whole(xla_client.execute(text, rows))
        expected = gi.compile(exported.single, exported.sizes)(exported.given)
        assert all(
            distance(right[exported.graph.result(n).name], a) <= 1e-9 for n, a in expected.items() if "db_K" not in n
        )
        total, caught = 0, 0
        while True:
            module = ir.ir.Module.parse(text, context=ir.make_ir_context())
            found = list(_collectives(module))
            if total == len(found):
                break
            op = found[total]
            total += 1
            if op.results[0].type != op.operands[0].type or total % 6:
                caught += 1  # what takes its place would have another shape: no program; or XLA has others to compile
                continue
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()
            left = exported.whole(xla_client.execute(module.operation.get_asm(), rows))
            caught += max(distance(left[name], array) for name, array in right.items()) > 1e-6
    assert total > 10
    assert caught == total


def _collectives(module: Any) -> list[Any]:
    kinds = {f"stablehlo.{each}" for each in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")}
    main = next(op for op in module.body.operations if op.attributes["sym_name"].value == "main")
    return [op.operation for op in main.regions[0].blocks[0].operations if op.operation.name in kinds]


def test_arguments_and_results_say_which_values_they_are(exported: Exported) -> None:
    text = exported.path.read_text()
    assert '{graphir.name = "layer0/mha/W_Q", graphir.type = "float64[D, D|tp]"} loc("layer0/mha/W_Q")' in text
    assert "mhlo.num_replicas = 4" in text
    assert "layer0/mha/AS/" in text, "locations name the nodes"
    assert "custom_call" not in text
    assert ".py" not in text, "nothing is told of files on the machine that wrote it"
    names = [told["name"] for told in exported.description["arguments"]]
    assert sorted(names) == names == sorted(value.name for value in exported.graph.arguments)


def test_a_file_of_another_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is to be named ….mlir"):
        stablehlo.save(gi.models.mlp(1), tmp_path / "step.txt", {"B": 2, "D_in": 2, "D_out": 2})
    with pytest.raises(ConfigError, match="cannot write"):
        stablehlo.save(gi.models.mlp(1), tmp_path / "no" / "step.mlir", {"B": 2, "D_in": 2, "D_out": 2})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mesh", [None, gi.Mesh(dp=1, tp=1), gi.Mesh(dp=1, tp=2)], ids=str)
def test_no_other_dialect_is_needed(mesh: gi.Mesh | None) -> None:
    graph = gi.models.transformer(layers=1, decode=None, dropout=0.1)
    if mesh is not None:
        graph = shard(graph, mesh, "megatron")
    program = stablehlo.to_stablehlo(graph, {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 8, "V": 16})
    assert "sdy" not in program.text
    assert f"mhlo.num_replicas = {mesh.size if mesh else 1} " in program.text


def test_of_three_files_none_is_written_where_one_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "step.json").mkdir()
    with pytest.raises(ConfigError, match=r"cannot write .*step\.json: it is a folder"):
        stablehlo.save(gi.models.mlp(1), str(tmp_path / "step.mlir"), {"B": 2, "D_in": 2, "D_out": 2})
    assert [each.name for each in tmp_path.iterdir()] == ["step.json"]
