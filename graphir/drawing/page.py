"""The interactive page: one HTML file that holds every state of a drawing, laid out beforehand, and needs nothing else.

A *state* is a picture: the model all folded, or one block of it unfolded, or its ranks side by side. The page shows
one at a time and lets the reader pan, zoom, search a tensor, hover over nodes, light up a node's partner in the other
pass with what it caches, and switch between forward, backward and both.

Nothing in the page comes from elsewhere: the script that pans and zooms (svg-pan-zoom, BSD licence) stands inside, and
a content security policy admits only the scripts of the page itself. Pictures are sanitized SVG, data is JSON in which
no `<` stands, all else is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import combinations
from typing import Any

from graphir.drawing.dot import dot
from graphir.drawing.fonts import font_faces
from graphir.drawing.inline import asset, policy, script_json
from graphir.drawing.labels import plain
from graphir.drawing.paint import paint
from graphir.drawing.picture import Details, Picture, PictureEdge, PictureNode
from graphir.drawing.ranks import side_by_side
from graphir.drawing.scene import draw
from graphir.drawing.svg import inline_svg, parse_svg
from graphir.drawing.view import Fold, View
from graphir.drawing.views import find_view, require_layers
from graphir.ir.graph import Graph

#: Layers that can be unfolded one by one; of a larger model the first, the last and those asked for.
MOST_LAYERS = 24
#: Ranks that are drawn side by side; more would be a wall, not a picture.
MOST_RANKS = 12
_FOLDED, _RANKS = "folded", "ranks"
#: What only keys dropout masks is no part of the documents' figures.
_KEYS = ("seed", "step")
_LAYER = re.compile(r"\D*(\d+)\Z")


@dataclass(frozen=True)
class State:
    """One state of the page: its picture; which state a click unfolds each block to; which states fold it again."""

    id: str
    title: str
    picture: Picture
    group: str = ""
    opens: Mapping[str, str] = field(default_factory=dict)
    closes: Mapping[str, str] = field(default_factory=dict)


def figure_page(picture: Picture) -> str:
    """The page of one picture."""
    return page([State("figure", picture.title, picture)], picture.title)


def model_page(graph: Graph, title: str, expand: Sequence[int] = ()) -> str:
    """The page of a whole model at any stage: folded at first, each layer and block to be unfolded.

    `expand` are layers that can be unfolded even where the model has more than `MOST_LAYERS`.
    """
    return page(model_states(graph, title, expand), title)


# -- the states of a model --------------------------------------------------------------------------------


def model_states(graph: Graph, title: str, expand: Sequence[int] = ()) -> list[State]:
    """All folded; the ranks of a sharded graph side by side; each layer by itself, in every way to fold it."""
    blocks = _blocks(graph)
    groups: dict[str, list[str]] = {}
    for block in blocks:
        groups.setdefault(block.partition("/")[0], []).append(block)
    require_layers(graph, expand)
    chosen, layers = _unfoldable(groups, expand), _layers(groups)
    opens = {block: _id(group, (block,)) for group in chosen for block in groups[group]}
    overall = replace(find_view(graph, "overall"), title=title)
    states = [State(_FOLDED, "All folded", draw(graph, overall, "model"), opens=opens)]
    if 1 < graph.mesh.size <= MOST_RANKS:
        view = replace(overall, title=f"{title}, rank by rank", side_by_side=graph.mesh.names)
        closes = {"Fold the ranks": _FOLDED}
        ranks = side_by_side(draw(graph, view, "ranks"), graph.mesh)
        states.append(State(_RANKS, "Ranks side by side", ranks, opens=opens, closes=closes))
    for group in chosen:
        for count in range(len(groups[group]) + 1):
            for opened in combinations(groups[group], count):
                if opened or group not in blocks:
                    states.append(_state(graph, group, groups[group], opened, layers))
    return states


def _state(graph: Graph, group: str, blocks: Sequence[str], opened: tuple[str, ...], layers: tuple[int, ...]) -> State:
    """A layer, or a block that lies in none, by itself; `opened` are those of its blocks that are unfolded."""
    closed = [block for block in blocks if block not in opened]
    names = " and ".join(map(_name, opened))
    title = group if not opened or opened == (group,) else f"{group}, {names} unfolded"
    view = View(
        title,
        scopes=(group,),
        folds=tuple(map(_fold, closed)),
        # Each layer stands for itself here, so that its neighbours bear their own names.
        expand=layers,
        local=graph.mesh.size > 1,
        hide=_KEYS,
        mirror=True,
        cached="ports",
    )
    opens = {block: _id(group, tuple(each for each in blocks if each in (*opened, block))) for block in closed}
    closes = {
        f"Fold {_name(block)}": _id(group, tuple(each for each in opened if each != block))
        for block in opened
        if block != group
    }
    picture = draw(graph, view, "layer")
    return State(_id(group, opened), title, picture, group, opens, {**closes, "Whole model": _FOLDED})


def _id(group: str, opened: Sequence[str]) -> str:
    return ":".join((group, *map(_name, opened)))


def _name(block: str) -> str:
    return block.rpartition("/")[2]


def _blocks(graph: Graph) -> list[str]:
    """The scopes that are drawn as blocks: those that have nodes and no scope inside."""
    scopes = list(dict.fromkeys(node.meta.scope for node in graph.nodes if node.meta.scope))
    return [scope for scope in scopes if not any(other.startswith(f"{scope}/") for other in scopes)]


def _fold(scope: str) -> Fold:
    name = _name(scope)
    return Fold(scope, name.upper() if len(name) <= 3 else name.capitalize())


def _layer(scope: str) -> int | None:
    found = _LAYER.match(scope.partition("/")[0])
    return int(found[1]) if found else None


def _layers(groups: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({layer for each in groups if (layer := _layer(each)) is not None}))


def _unfoldable(groups: Mapping[str, Sequence[str]], expand: Sequence[int]) -> list[str]:
    """The layers, and the blocks in none, that the page can unfold."""
    layers = _layers(groups)
    if len(layers) > MOST_LAYERS:
        layers = (layers[0], layers[-1], *expand)
    return [each for each in groups if _layer(each) is None or _layer(each) in layers]


# -- HTML -------------------------------------------------------------------------------------------------


def page(states: Sequence[State], title: str) -> str:
    """The whole page; its first state is what the reader sees first."""
    templates, data = _laid_out(states)
    library, program = _asset("svg-pan-zoom.min.js"), _asset("page.js")
    licence = _asset("svg-pan-zoom.LICENSE").replace("-->", "")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy((library, program))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{font_faces(templates + escape(title))}
{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{_tools(states)}
</header>
<main id="stage" aria-label="The drawing"></main>
<aside><div id="about" aria-live="polite"></div>
<footer>Drawn from the graph that runs. Pan and zoom by svg-pan-zoom, whose licence stands in this file.</footer>
</aside>
{templates}
<script type="application/json" id="data">{script_json(data)}</script>
<!-- svg-pan-zoom
{licence}-->
<script>{library}</script>
<script>{program}</script>
</body>
</html>
"""


def _laid_out(states: Sequence[State]) -> tuple[str, list[dict[str, Any]]]:
    """The drawings, and what the page's program knows of each state.

    Layers that are alike are laid out once: of the others the page keeps only which one to show under which name.
    """
    known = {each.id for each in states}
    data: list[dict[str, Any]] = []
    templates: list[str] = []
    firsts: dict[str, State] = {}
    for index, state in enumerate(states):
        # The page's panel says what the title and tooltips would.
        plain_nodes = tuple(replace(node, details=Details()) for node in state.picture.nodes)
        picture = replace(state.picture, nodes=plain_nodes, title="")
        first = firsts.setdefault(_anonymous(dot(picture), state.group), state)
        if first is state:
            templates.append(_template(index, picture))
            data.append(_data(index, state, known))
        else:
            data.append(_like(state, first))
    return "".join(templates), data


def _asset(name: str) -> str:
    return asset("graphir.drawing", f"assets/{name}")


def _tools(states: Sequence[State]) -> str:
    modes = "".join(
        f'<button data-mode="{mode}" aria-pressed="false">{mode}</button>' for mode in ("forward", "both", "backward")
    )
    search = (
        '<span class="search"><input id="search" type="search" placeholder="search a tensor (/)" autocomplete="off" '
        'aria-label="Search a tensor"><ul id="found"></ul></span>'
    )
    return (
        f'<span class="tools">{search}</span><span class="group tools">{modes}</span>'
        f'{_states(states)}<button id="whole" class="tools">whole</button>'
    )


def _states(states: Sequence[State]) -> str:
    """The ways to fold: a button for each of the first, a menu for the blocks."""
    if len(states) == 1:
        return ""
    wholes = [state for state in states if state.id in (_FOLDED, _RANKS)]
    buttons = "".join(f'<button data-state="{escape(s.id)}">{escape(s.title)}</button>' for s in wholes)
    groups: dict[str, list[str]] = {}
    for state in states:
        groups.setdefault(state.group, []).append(f'<option value="{escape(state.id)}">{escape(state.title)}</option>')
    menu = "".join(
        f'<optgroup label="{escape(group)}">{"".join(options)}</optgroup>' if group else "".join(options)
        for group, options in groups.items()
    )
    select = f'<select id="states" aria-label="What is unfolded">{menu}</select>'
    return f'<span class="group tools">{buttons}</span><label class="tools">unfold {select}</label>'


def _anonymous(source: str, group: str) -> str:
    """The DOT of a layer with all layers' numbers counted from its own: the same for layers that are alike."""
    own = _layer(group)
    return f"{group}\n{source}" if own is None else _shift(source, group, -own)


def _shift(text: str, group: str, shift: int) -> str:
    """The text with the numbers of all layers changed by `shift`; `group` is one of them."""
    stem = _stem(group)
    return re.sub(rf"{re.escape(stem)}(\d+)", lambda found: f"{stem}{int(found[1]) + shift}", text)


def _stem(group: str) -> str:
    return group.rstrip("0123456789")


def _template(index: int, picture: Picture) -> str:
    drawing = inline_svg(parse_svg(paint(picture)), f"s{index}", titles=False)
    return f'<template id="state-{index}">{drawing}</template>\n'


# -- data -------------------------------------------------------------------------------------------------


def _data(index: int, state: State, known: set[str]) -> dict[str, Any]:
    picture = state.picture
    return {
        "id": state.id,
        "index": index,
        "prefix": f"s{index}",
        "title": state.title,
        "caption": picture.caption,
        "closes": [[label, target] for label, target in state.closes.items() if target in known],
        "nodes": [_node(node, state.opens, known) for node in picture.nodes],
        "edges": [_edge(edge) for edge in picture.edges],
    }


def _like(state: State, first: State) -> dict[str, Any]:
    """A state that looks like `first`: how its names follow from the other's, and the reasons that do not follow."""
    shift = (_layer(state.group) or 0) - (_layer(first.group) or 0)
    whys = [
        [place, ours.details.why]
        for place, (ours, theirs) in enumerate(zip(state.picture.nodes, first.picture.nodes, strict=True))
        if ours.details.why != _shift(theirs.details.why, first.group, shift)
    ]
    return {
        "id": state.id,
        "title": state.title,
        "like": first.id,
        "stem": _stem(state.group),
        "shift": shift,
        "whys": whys,
    }


def _node(node: PictureNode, opens: Mapping[str, str], known: set[str]) -> dict[str, Any]:
    details = node.details
    target = opens.get(node.scope, "") if node.kind == "block" else ""
    made = {
        "id": node.id,
        "label": " ".join(plain(line) for line in node.lines),
        "kind": node.kind,
        "phase": node.phase,
        "scope": node.scope,
        "partner": node.partner,
        "types": list(details.types),
        "makes": [text.partition(" ")[0] for text in details.types],
        "formula": details.formula,
        "of": details.of,
        "at": details.at,
        "why": details.why,
        "opens": target if target in known else "",
    }
    return {key: value for key, value in made.items() if value or key in ("id", "kind", "phase")}


def _edge(edge: PictureEdge) -> dict[str, str]:
    made = {
        "source": edge.source,
        "target": edge.target,
        "tensor": edge.tensor,
        "shape": edge.shape,
        "role": edge.role,
        "bytes": edge.bytes,
    }
    return {key: value for key, value in made.items() if value or key in ("tensor", "shape", "role")}
