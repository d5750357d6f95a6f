"""How fast the page of a whole model opens, and how smoothly it moves, in Debian's Chromium.

    python benchmarks/page.py [LAYERS DP TP]

A mouse drags the window, by the browser's own input events, 125 a second: *slowly*, in circles of 300 pixels (900
pixels a second), and *quickly*, in strokes over most of the window, one after the other in the same direction (about
4,000). Columns, for each: frames a second, as the browser's own clock tells frames apart; the longest; and the share of
the time in frames that took over 33 ms, 30 a second. 60 is all that a screen shows. Before that: what is shown, and the
elements in the document. Chromium paints here without a GPU, on the processors that the line above the table counts.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import graphir as gi
from graphir.drawing.explore import model_page
from graphir.passes import Optimizer, autodiff, complete_plan, optimize, shard

#: Notes when each frame begins, until it is told to stop.
RECORD = """() => {
  window.frames = [];
  const note = (now) => { window.frames.push(now); window.noting = requestAnimationFrame(note); };
  window.noting = requestAnimationFrame(note);
}"""
STOP = "() => { cancelAnimationFrame(window.noting); return window.frames; }"
SECONDS, PACE, SLOWEST = 3.0, 1 / 125, 1000 / 30
#: From where to where quick strokes go, by turns, in shares of the window.
STROKES = ((0.5, 0.9, 0.5, 0.1), (0.8, 0.5, 0.2, 0.5))
STROKE_SECONDS = 0.15
NEARER = """document.getElementById("stage").dispatchEvent(
  new WheelEvent("wheel", { deltaY: -300, ctrlKey: true, clientX: 500, clientY: 300, cancelable: true }))"""
#: What is shown, and how one comes there from what was shown before.
SHOWN = {
    "all folded": (),
    "every layer and rank, near": ("click [data-do=ranks]", "click [data-do=unfold]"),
    "a block unfolded": ("search layer50/mha/Z",),
    "the whole": ("click [data-do=fold]", "click [data-do=unfold]", "click [data-do=home]"),
    "between the two": (NEARER,),
}


def sharded(layers: int, dp: int, tp: int) -> gi.Graph:
    mesh = gi.Mesh(dp=dp, tp=tp)
    graph = optimize(autodiff(gi.models.transformer(layers=layers), loss="L"), Optimizer("adamw"))
    return shard(graph, mesh, complete_plan("data+megatron", mesh))


def do(page: Any, action: str) -> None:
    kind, _, rest = action.partition(" ")
    if kind == "click":
        page.click(rest)
    elif kind == "search":
        page.fill("#search", rest)
        page.press("#search", "Enter")
    else:
        page.evaluate(action)


def slowly(page: Any, box: Any) -> None:
    """A drag in circles."""
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for now in paced(SECONDS):
        angle = 3 * now
        page.mouse.move(x + 300 * math.sin(angle), y + 300 - 300 * math.cos(angle))
    page.mouse.up()


def quickly(page: Any, box: Any) -> None:
    """Strokes that each begin where the one before did."""
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        for from_x, from_y, to_x, to_y in STROKES:
            page.mouse.move(box["x"] + from_x * box["width"], box["y"] + from_y * box["height"])
            page.mouse.down()
            for now in paced(STROKE_SECONDS):
                share = now / STROKE_SECONDS
                x, y = from_x + share * (to_x - from_x), from_y + share * (to_y - from_y)
                page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            page.mouse.up()


def paced(seconds: float) -> Iterator[float]:
    """The time that has passed, so many times a second."""
    start = time.perf_counter()
    for step in range(1, round(seconds / PACE) + 1):
        late = start + step * PACE - time.perf_counter()
        if late > 0:
            time.sleep(late)
        if (now := time.perf_counter() - start) > seconds:
            return
        yield now


def measured(page: Any, move: Callable[[Any, Any], None]) -> str:
    """Frames a second while `move` moves the window, the longest frame, and the share of time in slow ones."""
    box = page.locator("#stage").bounding_box()
    page.evaluate(RECORD)
    move(page, box)
    frames = page.evaluate(STOP)
    lengths = [after - before for before, after in pairwise(frames)]
    slow = sum(length for length in lengths if length > SLOWEST) / sum(lengths)
    return f"{1000 * len(lengths) / sum(lengths):8.0f} {max(lengths):8.0f} {100 * slow:5.0f} %"


def main(layers: int, dp: int, tp: int) -> None:
    from tests.support.browser import chromium

    start = time.perf_counter()
    text = model_page(sharded(layers, dp, tp))
    made = time.perf_counter() - start
    busy = os.getloadavg()[0]
    print(f"{layers} layers on {dp} x {tp} ranks: {len(text.encode()) / 1e6:.2f} MB, made in {made:.1f} s")
    print(f"{os.cpu_count()} processors, of which others wanted {busy:.1f} meanwhile")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        file = Path(folder) / "page.html"
        file.write_text(text, encoding="utf-8")
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_selector("#stage .content")
        print(f"Chromium {browser.version}; opened after {page.evaluate('performance.now()') / 1000:.2f} s\n")
        print(f"{'':<27} {'':>8} {'slowly':^24}  {'quickly':^24}")
        print(f"{'shown':<27} {'elements':>8}" + 2 * f" {'frames/s':>8} {'longest':>8} {'slow':>7}")
        for shown, actions in SHOWN.items():
            for action in actions:
                do(page, action)
            page.wait_for_timeout(500)
            elements = page.evaluate("document.querySelectorAll('#stage *').length")
            print(f"{shown:<27} {elements:8}", *(measured(page, move) for move in (slowly, quickly)), flush=True)


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:]) if len(sys.argv) == 4 else (96, 8, 8)))
