"""A model that can be built and given numbers: a composition, and the sizes of its dims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphir.errors import ConfigError
from graphir.ir.dims import dim_names
from graphir.ir.graph import Graph
from graphir.models.composition import Composition
from graphir.models.usage import Usage

#: Places that a query sees where a model is tried on short texts.
_SMALL_WINDOW = 3
#: What a width that follows from another is a multiple of, so that ranks can share it.
_EIGHT = 8


@dataclass(frozen=True)
class Blueprint:
    """A composition with the sizes of its dims: D, N_H, N_KV, D_h, D_ff, V, S_max, N_types.

    S_max is how many positions the model was made for, even where no table of positions says so in the graph.
    Errors: ConfigError where N_KV does not divide N_H.
    """

    composition: Composition
    sizes: Mapping[str, int] = field(hash=False)

    def __post_init__(self) -> None:
        """As many heads of keys as of queries are plain heads; D_h is D/N_H where nothing else is said."""
        sizes = dict(self.sizes)
        sizes.setdefault("N_KV", sizes["N_H"])
        if "D_h" not in sizes:
            sizes["D_h"] = _quotient("D_h", sizes, "D", "N_H")
        _quotient("G", sizes, "N_H", "N_KV")
        layout = "plain" if sizes["N_KV"] == sizes["N_H"] else "grouped"
        attention = replace(self.composition.attention, layout=layout)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "composition", replace(self.composition, attention=attention))

    @property
    def groups(self) -> int:
        """G: how many heads of queries read one head of keys and values."""
        return _quotient("G", self.sizes, "N_H", "N_KV")

    def but(self, *, layers: int | None = None, dtype: str | None = None, **sizes: int) -> Blueprint:
        """The same model with so many layers, of these floats, or of other sizes; what is None stays.

        Where N_H is another, so is N_KV: G stays. Where D is another, so is D_ff: its share of D stays, rounded up to a
        multiple of 8. Where D_h was D/N_H, it is that of the new sizes. Errors: ConfigError for what is no size of the
        model, for no positive number, and for sizes that make no model.
        """
        unknown = sorted(sizes.keys() - self.sizes)
        if unknown:
            has = ", ".join(self.sizes)
            raise ConfigError(f"{self.composition.name} has no size {', '.join(unknown)}; it has {has}")
        for name, number in (("layers", layers), *sizes.items()):
            if number is not None and number < 1:
                raise ConfigError(f"{name} must be at least 1, not {number}")
        old = dict(self.sizes)
        new = {**old, **sizes}
        if "N_KV" not in sizes and "N_H" in sizes:
            new["N_KV"] = _quotient("N_KV", {**new, "G": self.groups}, "N_H", "G")
        if "D_ff" not in sizes and new["D"] != old["D"]:
            new["D_ff"] = -(-old["D_ff"] * new["D"] // (old["D"] * _EIGHT)) * _EIGHT
        if "D_h" not in sizes and old["D_h"] * old["N_H"] == old["D"]:
            new["D_h"] = _quotient("D_h", new, "D", "N_H")
        parts = self.composition
        return Blueprint(replace(parts, layers=layers or parts.layers, dtype=dtype or parts.dtype), new)

    def small(self) -> Composition:
        """The same parts in few layers, one of each kind, with a window that a short text is longer than."""
        parts, attention = self.composition, self.composition.attention
        if not attention.window:
            return replace(parts, layers=2)
        return replace(
            parts, layers=max(2, len(attention.windowed)), attention=replace(attention, window=_SMALL_WINDOW)
        )

    def graph(self, **usage: Any) -> Graph:
        """The model's graph, as `Usage` has it."""
        return self.composition.build(Usage(**usage))

    def bind(self, graph: Graph, **more: int) -> dict[str, int]:
        """The sizes of the dims that a graph of this model has, with `more`, such as B and S."""
        known = {**self.sizes, "G": self.groups, **more}
        return {name: known[name] for name in sorted(dim_names([graph.dims]) & known.keys())}


def _quotient(name: str, sizes: Mapping[str, int], above: str, below: str) -> int:
    """The size `name` = above/below; ConfigError, with all three, if that is no whole number."""
    found, rest = divmod(sizes[above], sizes[below])
    if rest:
        raise ConfigError(
            f"{name} = {above}/{below} is no whole number of {above}={sizes[above]} and {below}={sizes[below]}; choose "
            f"sizes that divide, or give {name}, too"
        )
    return found
