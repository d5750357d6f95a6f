"""How the time to parse a text, verify its graph, and print it again grows with the text.

    python -m benchmarks.parse [--nodes 2000] [--doublings 3] [--rounds 5] [--json FILE]

Texts of several shapes are doubled, and doubled again. Times are milliseconds of processor time, the least of several
rounds, all within one run; what is looked at is their ratio from each length to the next. Of whatever grows in
proportion to the text it is 2, of whatever compares all pairs 4.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import graphir as gi
from graphir.passes import autodiff, dce, optimize, run_pipeline, shard

#: The most that a ratio may be: half-way, by factors, between what is linear and what is quadratic.
LIMIT = 2.83


def _graph(rows: list[str], inputs: list[str], outputs: list[str], where: str = "") -> str:
    parts = [f"where\n{where}"] if where else []
    parts += ["\n".join(("inputs", *(f"  {each}" for each in inputs))), "\n".join(("/", *(f"  {row}" for row in rows)))]
    parts.append("\n".join(("outputs", *(f"  {name}" for name in outputs))))
    return "graph grown\n\n" + "\n\n".join(parts) + "\n"


def chain(nodes: int) -> str:
    """Each node reads the one before."""
    rows = [f"V{i}  [B, D]  = exp({f'V{i - 1}' if i else 'X'})" for i in range(nodes)]
    return _graph(rows, ["X  [B, D]"], [f"V{nodes - 1}"])


def wide(nodes: int) -> str:
    """All nodes read one value, and all are outputs."""
    rows = [f"V{i}  [B, D]  = scale(X) {{by={i}.5}}" for i in range(nodes)]
    return _graph(rows, ["X  [B, D]"], [f"V{i}" for i in range(nodes)])


def terms(nodes: int) -> str:
    """One sum of as many terms, and one node with as many results."""
    count = min(nodes, 1 << 14)
    made = ",\n  ".join(f"g{i}  [B, D]" for i in range(count))
    rows = [f"Y  [B, D]  = add({', '.join(f'X{i}' for i in range(nodes))})", f"{made}  = dAddB(Y) {{count={count}}}"]
    return _graph(rows, [f"X{i}  [B, D]" for i in range(nodes)], ["g0"])


def dims(nodes: int) -> str:
    """Every type has dims of its own, of many factors, and of a definition that rests on others."""
    where = "\n".join(f"  A{i} = 2*{f'A{i - 1}' if i else 'D'}" for i in range(20))
    names = [f"B{i}*{'*'.join(f'C{i}x{j}' for j in range(20))}*A19" for i in range(nodes // 10)]
    return _graph(["Y  [B]  = exp(X)"], ["X  [B]", *(f"X{i}  [{name}]" for i, name in enumerate(names))], ["Y"], where)


def held(nodes: int) -> str:
    """Fused nodes, each with a body."""
    rows = []
    for i in range(nodes // 3):
        before = f"V{i - 1}" if i else "X"
        rows += [f"V{i}  [B, D]  = fused({before})", f"  E  [B, D]  = exp({before})", f"  V{i}  [B, D]  = exp(E)"]
    return _graph(rows, ["X  [B, D]"], ["V0"])


def model(nodes: int) -> str:
    """A training step over six ranks, fused, of as many layers as make about so many nodes."""
    step = optimize(autodiff(gi.models.transformer(layers=max(nodes // 250, 1))))
    return gi.to_text(run_pipeline(dce(shard(step, gi.Mesh(dp=2, tp=3), "data+megatron"))))


def refused(nodes: int) -> str:
    """A chain whose last operand is not there."""
    return chain(nodes).replace(f"exp(V{nodes - 2})", "exp(nobody)")


SHAPES: Mapping[str, Callable[[int], str]] = {
    each.__name__: each for each in (chain, wide, terms, dims, held, model, refused)
}


def milliseconds(text: str, rounds: int) -> float:
    """Of processor time for all three, the least of several rounds; of a text that is no graph, until that is said."""
    found = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        with suppress(gi.GraphirError):
            gi.to_text(gi.verify(gi.parse(text)))
        found.append(1e3 * (time.process_time() - began))
    return min(found)


def measure(nodes: int, doublings: int, rounds: int) -> dict[str, list[tuple[int, float]]]:
    """By shape: the length of each text, and its time."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, make in SHAPES.items():
        texts = [make(nodes << i) for i in range(doublings + 1)]
        found[name] = [(len(text), milliseconds(text, rounds)) for text in texts]
    return found


def ratios(row: list[tuple[int, float]]) -> list[float]:
    """By how much time grows where a text is twice as long, from each text to the next."""
    pairs = pairwise(row)
    return [(after / before) ** (1 / max(longer / length - 1, 0.5)) for (length, before), (longer, after) in pairs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2000, help="of the smallest texts (default 2000)")
    parser.add_argument("--doublings", type=int, default=3, help="how often they are doubled (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the least of (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the times to FILE")
    given = parser.parse_args()
    found = measure(given.nodes, given.doublings, given.rounds)
    print(f"{'text':<10}{'kB':>10}{'ms':>10}{'µs a character':>16}{'ratios':>8}")
    for name, row in found.items():
        length, took = row[-1]
        each = "  ".join(f"{ratio:.2f}" for ratio in ratios(row))
        print(f"{name:<10}{length / 1e3:>10.0f}{took:>10.0f}{1e3 * took / length:>16.2f}  {each}")
    worst = max(max(ratios(row)) for row in found.values())
    print(f"the largest ratio is {worst:.2f}; linear is 2, quadratic 4, the limit {LIMIT}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(worst > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
