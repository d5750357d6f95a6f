"""How fast the page of a whole model opens, and how smoothly it moves, in Debian's Chromium.

    python benchmarks/page.py [LAYERS DP TP]

Columns: what is shown; the elements in the document; frames a second while the window is moved for three seconds, by a
hand that draws circles of 300 pixels (900 pixels a second), and the longest frame in milliseconds. 60 is all that a
screen shows. Chromium paints here without a GPU, on the processors that the line above the table counts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import graphir as gi
from graphir.drawing.explore import model_page
from graphir.passes import Optimizer, autodiff, complete_plan, optimize, shard

#: What moves the window, and counts frames meanwhile.
MOVE = """() => new Promise((done) => {
  const stage = document.getElementById("stage"), box = stage.getBoundingClientRect();
  const x = box.left + box.width / 2, y = box.top + box.height / 2, start = performance.now();
  let frames = 0, longest = 0, last = start;
  const send = (type, dx, dy) => stage.dispatchEvent(
    new PointerEvent(type, { pointerId: 1, clientX: x + dx, clientY: y + dy, bubbles: true }));
  stage.setPointerCapture = () => {};
  send("pointerdown", 0, 0);
  requestAnimationFrame(function step(now) {
    frames += 1;
    longest = Math.max(longest, now - last);
    last = now;
    const angle = (3 * (now - start)) / 1000;
    send("pointermove", 300 * Math.sin(angle), 300 - 300 * Math.cos(angle));
    if (now - start < 3000) requestAnimationFrame(step);
    else { send("pointerup", 0, 0); done([(1000 * frames) / (now - start), longest]); }
  });
})"""
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
        print(f"{'shown':<27} {'elements':>8} {'frames/s':>8} {'longest':>8}")
        for shown, actions in SHOWN.items():
            for action in actions:
                do(page, action)
            page.wait_for_timeout(500)
            elements = page.evaluate("document.querySelectorAll('#stage *').length")
            frames, longest = page.evaluate(MOVE)
            print(f"{shown:<27} {elements:8} {frames:8.0f} {longest:8.0f}")


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:]) if len(sys.argv) == 4 else (96, 8, 8)))
