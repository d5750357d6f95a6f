"""`graphir bench`: which BLAS NumPy runs on, how fast it is here, what would make it faster, and which GPU there is."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.tables import console, say, wrapped

if TYPE_CHECKING:
    from graphir.backends.blas import Blas

_DTYPES = ("float32", "float64")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def bench(as_json: bool) -> int:
    """Show how fast NumPy's BLAS multiplies here, and what to set.

    Matrix products are most of a training step, so their rate is the measure of everything else. Close other
    programs first: they halve what two threads reach. Of a GPU it tells which one there is; what a step takes on it
    is measured by `python -m benchmarks.gpu`.
    """
    from graphir.backends.blas import ELEMENTWISE, advice, elementwise_rate, find_blas, gemm_rate
    from graphir.processor import has_avx512, processor_features, processor_name

    blas, features = find_blas(), processor_features()
    found: dict[str, Any] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "avx512": has_avx512(features),
        "blas": None if blas is None else vars(blas),
        "GFLOP/s": {
            dtype: {"one thread": gemm_rate(dtype, single=True), "all threads": gemm_rate(dtype)} for dtype in _DTYPES
        },
        "Gelem/s": {name: elementwise_rate(name) for name in ELEMENTWISE},
        "advice": advice(blas, features),
        "gpu": _gpu(),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found, blas)
    return 0


def _gpu() -> dict[str, str | None]:
    """The GPU that CuPy finds, or why there is none for it."""
    from graphir.backends.device import device_properties
    from graphir.errors import DeviceError, MissingDependencyError

    try:
        return {"device": str(device_properties()), "none because": None}
    except (DeviceError, MissingDependencyError) as error:
        return {"device": None, "none because": f"none: {error}"}


def _print(found: dict[str, Any], blas: Blas | None) -> None:
    from rich.table import Table

    avx512 = {True: "with AVX-512", False: "without AVX-512", None: "with or without AVX-512: unknown"}[found["avx512"]]
    say(wrapped(f"{found['processor']}, {found['cores']} cores, {avx512}", "processor  "))
    say(wrapped(_described(blas), "BLAS       "))
    say(wrapped(found["gpu"]["device"] or found["gpu"]["none because"], "GPU        "))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("matrix products, GFLOP/s")
    for heading in ("one thread", "all threads"):
        table.add_column(heading, justify="right")
    for dtype, rates in found["GFLOP/s"].items():
        table.add_row(dtype, *(f"{rate:.0f}" for rate in rates.values()))
    console().print("", table, sep="\n")
    listed = ", ".join(f"{name} {rate:.2g}" for name, rate in found["Gelem/s"].items())
    say("\n" + wrapped(f"elementwise, Gelem/s of float32 on one thread: {listed}"))
    say("\n" + wrapped(f"to set: {found['advice'] or 'nothing'}"))


def _described(blas: Blas | None) -> str:
    if blas is None:
        return "unknown: NumPy's is none that can be asked"
    core = f", {blas.core} core" if blas.core else ""
    by = f" ({blas.threading})" if blas.threading else ""
    return f"{blas.name} {blas.version or 'of unknown version'}{core}, threads: {blas.threads}{by}"
