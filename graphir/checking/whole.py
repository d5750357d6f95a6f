"""Any graph on one rank and sharded, in one call: what `gi.check` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphir.checking.parity import check
from graphir.checking.report import Report
from graphir.checking.setting import ALL, Setting
from graphir.errors import ConfigError
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import Plan


def check_graph(
    graph: Graph,
    mesh: Mesh,
    plan: str | Plan | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    optimizer: str = "none",
    precision: str = "float32",
    seed: int = 0,
    **options: Any,
) -> Report:
    """Compares every tensor of `graph` sharded over `mesh` by `plan` with the run on one rank.

    A graph without a backward pass gets one, and an update where an `optimizer` is named. `options` are those of
    `check`. Errors: LayoutError or DimError if graph, plan, mesh and sizes do not fit; ConfigError for the plan `all`.
    """
    if plan == ALL:
        raise ConfigError("one call checks one plan; name it, or ask the command line: graphir check --plan all")
    setting = Setting(
        graph=graph, mesh=mesh, plan=plan, sizes=sizes, optimizer=optimizer, precision=precision, seed=seed
    )
    single = setting.single()
    parallel = setting.parallel(single)
    arguments = setting.arguments(single)
    return check(single, parallel, setting.complete_sizes(), arguments, title=setting.title, **options)
