"""Time to draw against the number of nodes, with every renderer that is here.

    python benchmarks/draw.py [LAYERS ...]

Two views of a Transformer with its gradients: every node drawn (each layer on its own), and folded as the overall
figure, where repeated layers are drawn once. Columns: nodes of the graph; nodes drawn; milliseconds to choose them
(`picture`), to write DOT (`dot`), to draw them as SVG and as PNG, layout included; the best of three, and one for the
last two.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from graphir import models
from graphir.drawing import Picture, dot, draw, find_view
from graphir.drawing.render import render, renderers
from graphir.errors import ConfigError
from graphir.passes import autodiff

LAYERS = (1, 2, 4, 12, 96)


def milliseconds(action: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(times):
        start = time.perf_counter()
        result = action()
        best = min(best, time.perf_counter() - start)
    return 1000 * best, result


def rendered(picture: Picture, format: str) -> str:
    if format not in renderers():
        return f"{'—':>9}"
    try:
        return f"{milliseconds(lambda: render(picture, format), 1)[0]:9.0f}"
    except ConfigError:
        return f"{'failed':>9}"


def main(layers: list[int]) -> None:
    for format, program in renderers().items():
        print(f"{format}: {program}")
    print(f"{'layers':>6} {'view':>8} {'nodes':>7} {'drawn':>7} {'picture':>9} {'dot':>9} {'svg':>9} {'png':>9}")
    for count in layers:
        graph = autodiff(models.transformer(layers=count), loss="L")
        for name in ("overall", "full"):
            view = find_view(graph, name)
            pictured, picture = milliseconds(lambda graph=graph, view=view: draw(graph, view, "benchmark"))
            written, _ = milliseconds(lambda picture=picture: dot(picture))
            times = " ".join(rendered(picture, format) for format in ("svg", "png"))
            counts = f"{count:6} {name:>8} {len(graph.nodes):7} {len(picture.nodes):7}"
            print(f"{counts} {pictured:9.1f} {written:9.1f} {times}", flush=True)


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or list(LAYERS))
