"""A model with a cache: the prompt at once, then token by token, as two executables over one state.

Keys and values of every layer lie in a cache [B, N_KV, S_k, D_h] of the graph's state, which runs write into in place.
Positions are inputs, and a row of the cache that is not written yet is given one that no query has reached. So prompts
of unequal length stand in one batch: each text has its own next row, and what fills up a shorter prompt is written
where the text's next tokens will be.

A cache grows in steps: where the next token has no row, one of twice as many takes its place, with executables for it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends import Executable
from graphir.compiler import compile
from graphir.errors import ConfigError, DataError
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.models import Blueprint
from graphir.models.parts.positions import Rotary
from graphir.passes import complete_plan, shard

Array = NDArray[Any]

#: The rows that a cache has at least, and by how many tokens a prompt is read at once, at least and at most.
FEWEST_ROWS, SHORTEST, LONGEST = 128, 16, 512
#: The position of a row that is not written yet.
_UNREACHED = 1 << 40


def cached_graph(blueprint: Blueprint) -> Graph:
    """What a decoder runs: the model with its caches, up to its logits."""
    return blueprint.graph(cached=True, loss=False, decode=None)


class Decoder:
    """Texts in a batch of B, and the logits of what follows them.

    `arrays` are the parameters of the blueprint, or of `graph`, where that is its `cached_graph` in another form;
    `mesh` and `plan` are how they are split over ranks (by itself as usual), `options` those of `gi.compile`. Errors:
    ConfigError for a model that has no use for a cache (an encoder), and for a plan that does not fit texts.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        arrays: Mapping[str, Array],
        batch: int = 1,
        *,
        graph: Graph | None = None,
        mesh: Mesh | None = None,
        plan: str | None = None,
        **options: Any,
    ) -> None:
        self.blueprint, self.batch, self.longest = blueprint, batch, blueprint.sizes["S_max"]
        self.answer = blueprint.composition.answer
        self._options = options
        self._whole = graph or cached_graph(blueprint)
        self._mesh = mesh
        self._plan = None if mesh is None else complete_plan(plan, mesh).within(mesh)
        if self._plan is not None and self._plan.splits("S"):
            raise ConfigError(
                f"plan {self._plan.name} splits S, but a text goes on by one token at a time; choose one that leaves S "
                "whole, as megatron does"
            )
        replicas = mesh.sizes.get("dp", 1) if mesh is not None else 1
        if batch % replicas:
            raise ConfigError(f"{batch} prompts cannot be shared out evenly over dp={replicas}; give a multiple of it")
        self._executables: dict[int, Executable] = {}
        self._arrays: dict[str, Any] = dict(arrays)
        positions = blueprint.composition.positions
        #: Where a text becomes a long one, whose angles are others from its first token on; None: nowhere.
        self._turn = positions.scaling.turn if isinstance(positions, Rotary) else None
        #: The tokens of each text, to be read anew there, and those of the longest that is known to come.
        self._texts: list[list[int]] = []
        self._reach = 0
        self.rows = 0
        #: Seconds that were spent on compiling.
        self.compiling = 0.0
        #: How many tokens each text has whose keys and values lie in the cache.
        self.lengths = np.zeros(batch, np.int64)
        self._positions: Array = np.zeros((batch, 0), np.int64)

    def begin(self, prompts: Sequence[Sequence[int]], room: int = 0) -> Array:
        """The logits [B, V] of what follows each prompt; a cache for `room` tokens more, or for the first of them.

        Errors: DataError for a prompt of no token, or of more than the model was made for.
        """
        if len(prompts) != self.batch:
            raise ConfigError(f"{len(prompts)} prompts for a batch of {self.batch}")
        counts = [len(prompt) for prompt in prompts]
        if not min(counts):
            raise DataError("a prompt has no token; give at least one")
        if max(counts) > self.longest:
            raise DataError(
                f"a prompt has {max(counts)} tokens, and the model was made for S_max = {self.longest} positions"
            )
        self._texts, self._reach = [list(prompt[:-1]) for prompt in prompts], max(counts)
        # What a text's last token says is read by `step`, so that a prompt's other logits are never computed.
        before = self._texts
        width = _power(min(max(map(len, before)), LONGEST), SHORTEST)
        self.lengths[:] = 0
        self.rows = 0
        self._make_room(min(max(counts) + min(room, LONGEST), self.longest) + width)
        for start in range(0, max(map(len, before)), width):
            parts = [prompt[start : start + width] for prompt in before]
            T = np.zeros((self.batch, width), np.int64)
            for row, part in zip(T, parts, strict=True):
                row[: len(part)] = part
            self._run(T, [len(part) for part in parts])
        return self.step([prompt[-1] for prompt in prompts])

    def step(self, ids: Sequence[int], going: Collection[int] | None = None) -> Array:
        """The logits [B, V] of what follows, after one more token of each text, or of those that are `going` on."""
        counts = [int(going is None or text in going) for text in range(self.batch)]
        self._texts = [[*seen, id][: len(seen) + more] for seen, id, more in zip(self._texts, ids, counts, strict=True)]
        longest = max(map(len, self._texts))
        if self._turn is not None and self._reach <= self._turn < longest:
            return self.begin(self._texts)
        self._reach = max(self._reach, longest)
        self._make_room(longest)
        logits: Array = self._run(np.asarray(ids, np.int64)[:, None], counts).gather(self.answer)
        return logits[:, -1]

    def _run(self, T: Array, counts: Sequence[int]) -> Any:
        """One run over ids T [B, S], of which each text has so many; the state is the new one then."""
        width = T.shape[1]
        places = self.lengths[:, None] + np.arange(width)
        for text, count in enumerate(counts):
            start = self.lengths[text]
            self._positions[text, start : start + count] = places[text, :count]
        executable = self._executable(width)
        known = {
            "T": T,
            "positions": np.minimum(places, self.longest - 1),
            "start": self.lengths.copy(),
            "key_positions": self._positions,
            "length": self._reach,
        }
        inputs = {value.name: known[value.name] for value in self._whole.inputs}
        asked = {value.name for value in executable.graph.arguments}
        run = executable({name: array for name, array in (self._arrays | inputs).items() if name in asked})
        self._arrays |= run.updated()
        self.lengths += counts
        return run

    def _make_room(self, tokens: int) -> None:
        """A cache of at least so many rows, with what the old one holds."""
        if tokens <= self.rows:
            return
        old, self.rows = self.rows, _power(tokens, FEWEST_ROWS)
        self._executables.clear()
        sizes = self.blueprint.bind(self._whole, B=self.batch, S=1, S_k=self.rows)
        for value in self._whole.state:
            if old:  # of one rank of several, its block
                held = self._arrays[value.name]
                cache = np.zeros((*held.shape[:-2], self.rows, held.shape[-1]), held.dtype)
                cache[..., :old, :] = held
            else:
                cache = np.zeros([dim.size(sizes) for dim in value.shape], value.dtype)
            self._arrays[value.name] = cache
        grown = np.full((self.batch, self.rows), _UNREACHED, np.int64)
        grown[:, :old] = self._positions[:, :old]
        self._positions = grown

    def _executable(self, width: int) -> Executable:
        """What runs `width` tokens of each text at once; of several, the caches alone are asked for."""
        if width not in self._executables:
            begun = time.perf_counter()
            sizes = self.blueprint.bind(self._whole, B=self.batch, S=width, S_k=self.rows)
            graph = self._whole
            if self._mesh is not None and self._plan is not None:
                graph = shard(graph, self._mesh, self._plan, sizes)
            caches = [new.name for new in graph.updates.values()]
            fetch = caches if width > 1 else [self.answer, *caches]
            self._executables[width] = compile(graph, sizes, fetch=fetch, donate=True, **self._options)
            self.compiling += time.perf_counter() - begun
        return self._executables[width]


def _power(number: int, least: int) -> int:
    """The next power of two that is at least `number`, and `least`."""
    return max(1 << max(number - 1, 0).bit_length(), least)
