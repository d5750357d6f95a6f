"""A profile as a picture: the step as a bar beside its floor, then a bar for each block and phase.

Bars are stacked by kind of work, in one order and with one scale for all blocks. Blocks that a model repeats are one
bar: `layer*/mha` is the attention of all layers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphir.drawing.style import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, SKY, VERMILLION
from graphir.errors import ConfigError, MissingDependencyError
from graphir.extras import install

if TYPE_CHECKING:
    from graphir.backends.numpy.profile import Profile

FORMATS = ("png", "svg", "pdf")

#: Of each kind the colour, and the hatching that tells it apart in grey.
_STYLES: Mapping[str, tuple[str, str]] = {
    "product": (BLUE, ""),
    "attention product": (SKY, ""),
    "attention": (GREEN, "////"),
    "elementwise": (ORANGE, ""),
    "update": (VERMILLION, "\\\\\\\\"),
    "collective": (PURPLE, "xxxx"),
    "waiting": ("#D9D9D9", ""),
    "overhead": ("#A6A6A6", "...."),
    "binding": ("#7A7A7A", ""),
}
_WORDS: Mapping[str, str] = {
    "product": "products",
    "attention product": "products of attention",
    "attention": "attention: mask, softmax, dropout",
    "elementwise": "elementwise, sums, norms, loss",
    "update": "optimizer",
    "collective": "collectives",
    "waiting": "waiting for another thread",
    "overhead": "Python between calls",
    "binding": "Python around a run",
}
#: Type as in the figures.
_FONT: dict[Any, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "svg.fonttype": "path",
    "hatch.linewidth": 0.5,
}
_AROUND = ("around a run", "")
#: Inches: a bar with its gap, what is drawn beside the bars, and a picture's width.
_BAR, _BESIDE, _WIDTH = 0.27, 2.5, 9.0
#: How far apart two phases are, in bars.
_GAP = 0.9


def format_of(file: str) -> str:
    """The format that the suffix of `file` names, known to be one that can be drawn here.

    Errors: ConfigError for another suffix, MissingDependencyError without matplotlib.
    """
    format = file.rpartition(".")[2].lower() if "." in file else ""
    if format not in FORMATS:
        raise ConfigError(f"cannot draw a profile to {file!r}: its suffix must be .{', .'.join(FORMATS)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingDependencyError(f"{file} needs matplotlib: {install('viz')}") from None
    return format


def draw_profile(profile: Profile, format: str, title: str) -> bytes:
    """The picture as a file of `format`, one of `FORMATS`; matplotlib has to be installed."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    blocks = fold_blocks(profile)
    file = io.BytesIO()
    with matplotlib.rc_context(_FONT):
        height = _BAR * (_places(list(blocks))[-1] + 1)
        figure = Figure(figsize=(_WIDTH, height + _BESIDE), layout="constrained")
        above, below = figure.subplots(2, height_ratios=(1, max(height / 0.75, 1)))
        _draw_step(above, profile)
        _draw_blocks(below, blocks, profile)
        figure.suptitle(_typeset(title), x=0.01, ha="left", fontsize=13, color=INK)
        present = [kind for kind in _STYLES if kind in profile.by("kind")]
        handles = [Patch(**_look(kind), label=_WORDS[kind]) for kind in present]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
        figure.savefig(file, format=format, dpi=160)
    return file.getvalue()


def fold_blocks(profile: Profile) -> dict[tuple[str, str], dict[str, float]]:
    """Seconds by kind of each (block, phase), in order of execution; repeated blocks are one, with a * for the number.

    What belongs to no block comes last.
    """
    phases = ("forward", "backward", "update", "")
    found: dict[tuple[str, str], dict[str, float]] = {}
    repeated = _repeated({row.scope for row in profile.rows})
    for row in profile.rows:
        key = (repeated.get(row.scope, row.scope) or row.operator, row.phase) if row.phase else _AROUND
        kinds = found.setdefault(key, {})
        kinds[row.kind] = kinds.get(row.kind, 0.0) + row.mean
    return dict(sorted(found.items(), key=lambda item: phases.index(item[0][1])))


def _repeated(scopes: set[str]) -> dict[str, str]:
    """For each scope that differs from another in a number alone, what they have in common."""
    alike: dict[str, list[str]] = {}
    for scope in scopes:
        alike.setdefault(re.sub(r"\d+(?=/|$)", "*", scope), []).append(scope)
    return {scope: common for common, members in alike.items() if len(members) > 1 for scope in members}


# -- parts of the picture ---------------------------------------------------------------------------------


def _look(kind: str) -> dict[str, Any]:
    color, hatch = _STYLES[kind]
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.6}


def _stack(axes: Any, y: float, kinds: Mapping[str, float], height: float) -> float:
    """A bar at `y`, in milliseconds; returns where it ends."""
    left = 0.0
    for kind in _STYLES:
        width = 1e3 * kinds.get(kind, 0.0)
        if width:
            axes.barh(y, width, height, left=left, **_look(kind))
            left += width
    return left


def _draw_step(axes: Any, profile: Profile) -> None:
    """The whole step, and a line where its products alone would end."""
    kinds = {kind: measure.mean for kind, measure in profile.by("kind").items()}
    end = _stack(axes, 0, kinds, 0.8)
    axes.text(end * 1.01, 0, f"{end:.1f} ms", va="center", fontsize=10.5, color=INK)
    if profile.ratio is not None:
        floor = 1e3 * profile.floor
        axes.plot([floor, floor], [-0.4, 0.62], color=INK, linewidth=1.4, clip_on=False)
        told = f"floor {floor:.1f} ms: the step takes {profile.ratio:.2f} times as long"
        # The words stand on the side of the line where there is room.
        side = ("right", -4) if floor > end / 2 else ("left", 4)
        axes.annotate(
            told, (floor, 0.62), (side[1], -1), textcoords="offset points", ha=side[0], fontsize=10, color=INK
        )
    # The blocks below have another scale, so this one shows its own.
    axes.set(xlim=(0, end * 1.12), ylim=(-0.5, 1.0), yticks=[0], yticklabels=["step"])
    _plain(axes)


def _draw_blocks(axes: Any, blocks: Mapping[tuple[str, str], Mapping[str, float]], profile: Profile) -> None:
    keys, places = list(blocks), _places(list(blocks))
    longest = 1e3 * max(sum(kinds.values()) for kinds in blocks.values())
    for key, y in zip(keys, places, strict=True):
        end = _stack(axes, y, blocks[key], 0.78)
        told = f"{end:.{0 if end >= 10 else 1 if end >= 1 else 2}f} ms"
        axes.text(end + longest * 0.008, y, f"{told}  {1e-3 * end / profile.step:.1%}", va="center", fontsize=9.5)
    for (_, phase), y in _first_of_phase(keys, places):
        axes.text(0, y - 0.78, phase, ha="left", va="center", fontsize=10.5, color=QUIET, style="italic")
    axes.set(
        xlim=(0, longest * 1.12), ylim=(places[-1] + 0.6, -1.2), xlabel="milliseconds of a step, mean of the threads"
    )
    axes.set_yticks(places, [block for block, _ in keys])
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    _plain(axes)


def _places(keys: Sequence[tuple[str, str]]) -> list[float]:
    """Where each bar stands: one below the other, with a gap between phases."""
    places, y = [], 0.0
    for index, (_, phase) in enumerate(keys):
        y += 0.0 if index == 0 else 1.0 if phase == keys[index - 1][1] else 1.0 + _GAP
        places.append(y)
    return places


def _first_of_phase(keys: Sequence[tuple[str, str]], places: Sequence[float]) -> list[tuple[tuple[str, str], float]]:
    pairs = list(zip(keys, places, strict=True))
    return [pair for i, pair in enumerate(pairs) if pair[0][1] and (i == 0 or pairs[i - 1][0][1] != pair[0][1])]


def _typeset(text: str) -> str:
    """N_H with its subscript, as in the documents."""
    return re.sub(r"\b([A-Z])_(\w+)", r"$\\mathrm{\1_{\2}}$", text)


def _plain(axes: Any) -> None:
    """Without a frame; names as in the figures."""
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=10.5, labelcolor=INK)
    axes.tick_params(axis="x", length=0, labelsize=9, labelcolor=QUIET)
