"""How folders say rotary positions, and which layers see a window only, in the words of several years."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from graphir.errors import ModelFileError
from graphir.hub.keys import Changes, Config
from graphir.models.blueprint import Blueprint
from graphir.models.parts.positions import Rotary, Scaling

_ORIGINAL = "original_max_position_embeddings"
#: What longrope slows each plane by, and what it is called, at first by the name of its model.
_SHORT, _LONG = "short_factor", "long_factor"
_LONGROPE = ("longrope", "su")
_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Rotation:
    """Angles of rotary positions: `rope_parameters`, or the `rope_theta` and `rope_scaling` of older folders.

    base       where nothing says it
    windowed   the base of layers with a window, of families where they have one of their own (`rope_local_base_freq`)
    """

    base: float = 10000.0
    windowed: float | None = None

    def read(self, config: Config) -> Changes:
        """See `Key`."""
        base = config.get("rope_theta", float, self.base)
        windowed = None if self.windowed is None else config.get("rope_local_base_freq", float, self.windowed)
        share = config.get("partial_rotary_factor", float, 1.0)
        longest = config.get("max_position_embeddings", int)
        # Older folders of Phi-3 say it beside, not within.
        original = config.get(_ORIGINAL, int, None)
        said = config.part("rope_parameters") or config.part("rope_scaling")
        scaling = Scaling()
        if said is not None and self.windowed is not None and said.has(_FULL):
            narrow, said = said.part(_SLIDING), said.part(_FULL)
            if narrow is not None:
                windowed = narrow.get("rope_theta", float, windowed)
                narrow.asked |= {"rope_type", "type"}
                if narrow.get("rope_type", str, "default") != "default":
                    raise ModelFileError(f"{narrow.where}: only angles that are not scaled are supported here")
                narrow.refuse_rest()
        if said is not None:
            base = said.get("rope_theta", float, base)
            share = said.get("partial_rotary_factor", float, share)
            scaling = _scaling(said, longest, original)
        part = Fraction(share).limit_denominator(1024)
        if not 0 < part <= 1 or not 1 < base < math.inf:
            raise ModelFileError(f"{config.where}: a share {share} of each head turned with base {base} is impossible")
        if scaling.short:
            _require_each_plane(config, scaling, part)
        rotary = Rotary(base, scaling=scaling, share=(part.numerator, part.denominator), windowed_base=windowed)
        return {"positions": rotary}

    def write(self, model: Blueprint) -> Mapping[str, Any]:
        """See `Key`."""
        rotary = model.composition.positions
        assert isinstance(rotary, Rotary)
        scaling, share = rotary.scaling, rotary.share[0] / rotary.share[1]
        said: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": rotary.base}
        if share != 1:
            said["partial_rotary_factor"] = share
        if scaling.kind != "default":
            said["factor"] = scaling.factor
        if scaling.kind in ("llama3", "yarn"):
            low, high = _TURNS[scaling.kind]
            said |= {low: scaling.slow, high: scaling.fast, _ORIGINAL: scaling.original}
        if scaling.kind == "longrope":
            said |= {_SHORT: [*scaling.short], _LONG: [*scaling.long], _ORIGINAL: scaling.original}
        if scaling.gain:
            said["attention_factor"] = scaling.gain
        if self.windowed is not None:
            narrow = {"rope_type": "default", "rope_theta": rotary.windowed_base}
            said = {_FULL: said, _SLIDING: narrow}
        return {"rope_parameters": said}


#: What the turns at which planes are slowed wholly, and not at all, are called, by the kind of scaling.
_TURNS = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": ("beta_slow", "beta_fast")}
_YARN_TURNS = 1.0, 32.0


def _scaling(said: Config, longest: int, original: int | None) -> Scaling:
    """The scaling that these fields say, of a model of so many positions; ModelFileError for one that is not built."""
    kind = said.get("rope_type", str, None) or said.get("type", str, "default")
    said.asked |= {"type", "rope_type"}
    if kind == "default":
        said.asked.add(_ORIGINAL)  # which some say of models that are not scaled, too
        found = Scaling()
    elif kind == "linear":
        found = Scaling("linear", factor=said.get("factor", float))
    elif kind == "dynamic":
        found = Scaling("dynamic", factor=said.get("factor", float), original=longest)
    elif kind in _TURNS:
        low, high = _TURNS[kind]
        found = Scaling(
            kind,
            factor=said.get("factor", float),
            original=said.get(_ORIGINAL, int, original or longest),
            slow=said.get(low, float, *(_YARN_TURNS[:1] if kind == "yarn" else ())),
            fast=said.get(high, float, *(_YARN_TURNS[1:] if kind == "yarn" else ())),
            gain=_gain(said) if kind == "yarn" else 0.0,
        )
    elif kind in _LONGROPE:
        # What stands beside goes before what stands within, as transformers has it.
        within = said.get(_ORIGINAL, int, longest)
        trained = original or within
        found = Scaling(
            "longrope",
            factor=said.get("factor", float, longest / max(trained, 1)),
            original=trained,
            gain=said.get("attention_factor", float, 0.0),
            short=_numbers(said, _SHORT),
            long=_numbers(said, _LONG),
        )
    else:
        known = ", ".join(("default", "linear", "dynamic", *_TURNS, "longrope"))
        raise ModelFileError(f"{said.where}: rope_type {kind!r} is not built; {known} are")
    said.refuse_rest()
    return found


def _numbers(said: Config, name: str) -> tuple[float, ...]:
    """A field that is a list of numbers."""
    numbers = said.get(name, list)
    if not all(
        isinstance(each, int | float) and not isinstance(each, bool) and 0 < each < math.inf for each in numbers
    ):
        raise ModelFileError(f"{said.where}: {name} has to be a list of numbers above 0")
    return tuple(map(float, numbers))


def _require_each_plane(config: Config, scaling: Scaling, part: Fraction) -> None:
    """ModelFileError unless each plane of a head has its factors."""
    width = config.get("head_dim", int, None)
    if width is None:
        width = config.get("hidden_size", int) // max(config.get("num_attention_heads", int), 1)
    planes = part * width / 2
    if not len(scaling.short) == len(scaling.long) == planes:
        raise ModelFileError(
            f"{config.where}: {len(scaling.short)} numbers of {_SHORT} and {len(scaling.long)} of {_LONG} for {planes} "
            "planes of a head"
        )


def _gain(said: Config) -> float:
    """What cos and sin of YaRN are multiplied by, where it is said, or follows from what is; else 0."""
    gain = said.get("attention_factor", float, 0.0)
    one, other = (said.get(name, float, 0.0) for name in ("mscale", "mscale_all_dim"))
    if said.get("truncate", bool, True) is False:
        raise ModelFileError(f"{said.where}: truncate = false is not supported")
    if gain or not (one and other):
        return float(gain)
    log = math.log(max(said.get("factor", float), 1.0))
    return float((0.1 * one * log + 1.0) / (0.1 * other * log + 1.0))


@dataclass(frozen=True)
class Windows:
    """Which layers see a window only: `sliding_window`, with `layer_types` or what older folders have for it.

    every      without `layer_types` all layers but each such one have the window; 0: all have it; 1: as `behind` says
    switch     a field that has to be true for there to be a window at all
    behind     a field: only the layers from that number on have the window
    default    the window where nothing says it
    """

    every: int = 0
    switch: str | None = None
    behind: str | None = None
    default: int | None = None

    def read(self, config: Config) -> Changes:
        """See `Key`."""
        window = config.get("sliding_window", int, self.default) or 0
        on = config.get(self.switch, bool, False) if self.switch else True
        layers = config.get("num_hidden_layers", int)
        behind = config.get(self.behind, int, 0) if self.behind else 0
        every = config.get("sliding_window_pattern", int, config.get("_sliding_window_pattern", int, self.every))
        types = config.get("layer_types", list, None)
        if types is None:
            windowed = tuple(layer >= behind and not (every and (layer + 1) % every == 0) for layer in range(layers))
        else:
            if len(types) != layers or not all(each in (_SLIDING, _FULL) for each in types):
                raise ModelFileError(
                    f"{config.where}: layer_types has to say {_SLIDING} or {_FULL} of each of {layers} layers"
                )
            windowed = tuple(each == _SLIDING for each in types)
        if not (on and window and any(windowed)):
            return {"attention.window": 0, "attention.windowed": (True,)}
        return {"attention.window": window, "attention.windowed": (True,) if all(windowed) else windowed}

    def write(self, model: Blueprint) -> Mapping[str, Any]:
        """See `Key`."""
        attention, layers = model.composition.attention, model.composition.layers
        types = [_SLIDING if attention.has_window(layer) else _FULL for layer in range(layers)]
        said: dict[str, Any] = {"sliding_window": attention.window or None}
        if self.every or self.behind:
            said["layer_types"] = types
        if self.switch:
            said[self.switch] = attention.window > 0
        return said
