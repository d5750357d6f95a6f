"""From the names that other programs give tensors to the values of a graph.

A *rule* is a pattern, what it becomes, and whether the tensor is transposed on the way (PyTorch keeps a linear map's
weight as [out, in], the documents as [in, out]). A `*` in a pattern stands for some letters, and the same `*` in the
target for the same letters again. A target of null says that the tensor is none of the graph's and is to be left out.

    {"rules": [{"from": "blocks.*.attn.proj.weight", "to": "layer*/mha/W_O", "transpose": true},
               {"from": "*.rotary.inv_freq", "to": null}]}

A name is looked up in this order: the user's rules, the first that fits; the graph's own names and aliases; the
defaults below, which know dots for slashes and the names of Megatron's modules. A name that ends in `.grad` is the
gradient of what stands before it, transposed alike. It is what a framework leaves there: reduced over all ranks that
hold a term of it, even where this graph keeps the terms apart for longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphir.errors import DataError, meant
from graphir.ir.graph import Graph
from graphir.ir.value import Value, gradient_name
from graphir.reading import read_json


@dataclass(frozen=True)
class Rule:
    """`source` with stars, `target` with as many or fewer, or None to leave out."""

    source: str
    target: str | None
    transpose: bool = False

    def apply(self, name: str) -> str | None:
        """What `name` becomes; None if the rule does not fit it or leaves it out."""
        pattern = "(.+?)".join(map(re.escape, self.source.split("*")))
        match = re.fullmatch(pattern, name)
        if match is None or self.target is None:
            return None
        parts = self.target.split("*")
        return "".join(part + letters for part, letters in zip(parts, (*match.groups(), ""), strict=False))

    def fits(self, name: str) -> bool:
        """Whether the rule speaks of `name`."""
        return re.fullmatch(".+?".join(map(re.escape, self.source.split("*"))), name) is not None


#: Megatron's modules in a layer, Q, K and V taken apart: theirs, ours, whether transposed.
_MODULES = (
    ("input_layernorm.weight", "mha/gamma", False),
    ("input_layernorm.bias", "mha/beta", False),
    ("self_attention.linear_q.weight", "mha/W_Q", True),
    ("self_attention.linear_k.weight", "mha/W_K", True),
    ("self_attention.linear_v.weight", "mha/W_V", True),
    ("self_attention.linear_q.bias", "mha/b_Q", False),
    ("self_attention.linear_k.bias", "mha/b_K", False),
    ("self_attention.linear_v.bias", "mha/b_V", False),
    ("self_attention.linear_proj.weight", "mha/W_O", True),
    ("self_attention.linear_proj.bias", "mha/b_O", False),
    ("pre_mlp_layernorm.weight", "mlp/gamma", False),
    ("pre_mlp_layernorm.bias", "mlp/beta", False),
    ("mlp.linear_fc1.weight", "mlp/W_up", True),
    ("mlp.linear_fc1.bias", "mlp/b_up", False),
    ("mlp.linear_fc2.weight", "mlp/W_down", True),
    ("mlp.linear_fc2.bias", "mlp/b_down", False),
)
DEFAULTS: tuple[Rule, ...] = (
    *(Rule(f"decoder.layers.*.{theirs}", f"layer*/{ours}", turned) for theirs, ours, turned in _MODULES),
    Rule("embedding.word_embeddings.weight", "embedding/E"),
    Rule("embedding.position_embeddings.weight", "embedding/P_theta"),
    Rule("decoder.final_layernorm.weight", "output/gamma"),
    Rule("decoder.final_layernorm.bias", "output/beta"),
    Rule("output_layer.weight", "output/W_lm", True),
)


@dataclass(frozen=True)
class Match:
    """The value that a name stands for; None: left out on purpose.

    transpose   whether the tensor is transposed
    settled     whether it is what the value becomes once what is pending has been reduced, on every rank
    """

    value: Value | None
    transpose: bool = False
    settled: bool = False


class NameMap:
    """Looks names up in a graph, by a user's rules and the defaults."""

    def __init__(self, graph: Graph, rules: Sequence[Rule] = ()) -> None:
        self.graph, self.rules = graph, tuple(rules)
        self._dotted = {known.replace("/", "."): known for known in (*graph.aliases, *graph.values)}
        self._settled = {graph.origin(value): value for value in graph.outputs}

    def find(self, name: str) -> Match:
        """The match of `name`; DataError, with what is similar, if there is none."""
        found = self._find(name)
        if found is None:
            known = [*self.graph.values, *self.graph.aliases]
            near = meant(name.replace(".", "/"), known)
            hint = f"; {near}" if near else ""
            raise DataError(
                f"{name!r} names no value of graph {self.graph.name}{hint or ';'} map it by a rule "
                f'{{"from": "{name}", "to": "…"}}, or to null to leave it out'
            )
        return found

    def _find(self, name: str) -> Match | None:
        for rule in self.rules:
            if rule.fits(name):
                target = rule.apply(name)
                if target is None:
                    return Match(None)
                value = self.graph.find(target)
                if value is None:
                    raise DataError(
                        f"the map makes {target!r} of {name!r} (from {rule.source!r}), but graph {self.graph.name} "
                        f"has no such value"
                    )
                return Match(value, rule.transpose)
        value = self.graph.find(self._dotted.get(name, name))
        if value is not None:
            return Match(value)
        for rule in DEFAULTS:
            target = rule.apply(name)
            value = None if target is None else self.graph.find(target)
            if value is not None:
                return Match(value, rule.transpose)
        return self._find_gradient(name)

    def _find_gradient(self, name: str) -> Match | None:
        if not name.endswith(".grad"):
            return None
        primal = self._find(name.removesuffix(".grad"))
        if primal is None or primal.value is None:
            return primal
        origin = self.graph.origin(primal.value)
        gradient = self.graph.find(gradient_name(origin.name))
        if gradient is None:
            return None
        found = self._settled.get(self.graph.origin(gradient), gradient)
        return Match(found, primal.transpose, settled=True)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a JSON map; DataError if the file is not one."""
    try:
        data = read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the map {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"the map {path} is not JSON: {error}") from None
    entries = data.get("rules") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise DataError(f'the map {path} must be {{"rules": [{{"from": …, "to": …}}, …]}}')
    return tuple(_read_rule(path, position, entry) for position, entry in enumerate(entries))


def _read_rule(path: Path, position: int, entry: object) -> Rule:
    where = f"rule {position} of the map {path}"
    if not isinstance(entry, dict) or not {"from", "to"} <= set(entry) <= {"from", "to", "transpose"}:
        raise DataError(f"{where} must have from and to, and may have transpose; it is {json.dumps(entry)}")
    source, target, transpose = entry["from"], entry["to"], entry.get("transpose", False)
    if not isinstance(source, str) or not isinstance(target, str | None) or not isinstance(transpose, bool):
        raise DataError(f"{where} must map a text to a text or null, transposed or not; it is {json.dumps(entry)}")
    if target is not None and target.count("*") > source.count("*"):
        raise DataError(f"{where}: {target!r} has more stars than {source!r} has letters for")
    return Rule(source, target, transpose)
