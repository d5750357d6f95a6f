"""The interactive page: what it holds, that nothing in it can do harm, and how it behaves in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.drawing import figure
from graphir.drawing.inline import script_json
from graphir.drawing.page import figure_page, model_page, model_states
from graphir.drawing.picture import Details, Picture, PictureEdge, PictureNode, Run
from graphir.errors import ConfigError
from graphir.passes import autodiff, find_plan, shard

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'&]]>-->"


@lru_cache
def model(layers):
    return autodiff(gi.models.transformer(layers=layers), loss="L")


@lru_cache
def pages(name):
    if name == "mha-backward":
        return figure_page(figure("mha-backward"))
    return model_page(model(int(name)), f"A Transformer of {name} layers")


def data(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def hostile_picture(text):
    nodes = (
        PictureNode("a", ((Run(text, "bold"),),), "operator", details=Details((text,), text, text, text)),
        PictureNode("b", ((Run(text),),), "block", scope=text),
    )
    return Picture("hostile", text, text, nodes=nodes, edges=(PictureEdge("a", "b", text, "forward", shape=text),))


# -- what the page holds ----------------------------------------------------------------------------------


def test_the_page_is_self_contained():
    page = pages("mha-backward")
    assert not re.search(r"""(?:src|href)\s*=\s*["']""", page)
    assert "@import" not in page
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert set(re.findall(r"url\((.{5})", outside)) <= {"data:"}, "the fonts, which the page brings along"


def test_the_policy_admits_the_page_s_own_scripts_and_no_others():
    page = pages("mha-backward")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == digests
    assert len(digests) == 2


def test_the_licence_of_the_library_stands_in_the_page():
    assert "Andrea Leofreddi" in pages("mha-backward")
    assert "Redistributions of source code must retain" in pages("mha-backward")


def test_every_node_and_edge_of_the_picture_is_in_data_and_drawing():
    picture, page = figure("mha-backward"), pages("mha-backward")
    (state,) = data(page)
    assert [node["id"] for node in state["nodes"]] == [node.id for node in picture.nodes]
    assert [edge["tensor"] for edge in state["edges"]] == [edge.tensor for edge in picture.edges]
    for place in range(len(picture.nodes)):
        assert f'id="s0-n{place}"' in page
    for place in range(len(picture.edges)):
        assert f'id="s0-e{place}"' in page


def test_a_model_folds_and_unfolds_layer_by_layer():
    states = {state.id: state for state in model_states(model(2), "two layers")}
    assert {"folded", "layer0", "layer0:mha", "layer0:mlp", "layer0:mha:mlp", "layer1:mha"} <= set(states)
    assert states["folded"].opens["layer1/mlp"] == "layer1:mlp"
    assert states["layer0:mha"].opens == {"layer0/mlp": "layer0:mha:mlp"}
    assert states["layer0:mha"].closes == {"Fold mha": "layer0", "Whole model": "folded"}
    opened = {node.name for node in model(2).nodes if node.meta.scope == "layer0/mha"}
    drawn = {node.id for node in states["layer0:mha"].picture.nodes}
    assert "layer0/mha/A" in opened & drawn
    assert "layer0/mha/A" not in {node.id for node in states["layer0:mlp"].picture.nodes}


def test_a_sharded_model_has_its_ranks_side_by_side():
    local = shard(model(2), gi.Mesh(tp=3), find_plan("megatron"))
    states = {state.id: state for state in model_states(local, "sharded")}
    ranks = {rank for node in states["ranks"].picture.nodes for rank in node.ranks}
    assert ranks == {0, 1, 2}


def test_layers_that_are_alike_are_laid_out_once():
    page = pages("12")
    assert page.count("<template") < 24
    states = data(page)
    alike = next(state for state in states if state["id"] == "layer7:mha")
    assert (alike["like"], alike["stem"], alike["shift"]) == ("layer1:mha", "layer", 6)


def test_a_large_model_unfolds_its_ends_and_what_is_asked_for():
    states = {state.id for state in model_states(model(30), "thirty", expand=(17,))}
    assert {"layer0:mha", "layer29:mha", "layer17:mha"} <= states
    assert "layer5:mha" not in states
    with pytest.raises(ConfigError, match=re.escape("cannot unfold layer 30: the model has layers 0 to 29")):
        model_states(model(30), "thirty", expand=(30,))


# -- harmless ---------------------------------------------------------------------------------------------


@given(st.text(max_size=40) | st.just(HOSTILE))
@settings(max_examples=25, deadline=None)
def test_json_in_a_script_cannot_close_it(text):
    written = script_json({"text": text})
    assert "<" not in written
    assert json.loads(written) == {"text": text}


@pytest.mark.parametrize("text", [HOSTILE, "a\\N<b>&amp;", 'quote " and \n newline', "<!--", "\u2028 ℒ Σ"])
def test_hostile_texts_stay_texts(text):
    page = figure_page(hostile_picture(text))
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "<img" not in outside
    assert page.count("<script") == figure_page(hostile_picture("harmless")).count("<script")
    assert data(page)[0]["edges"][0]["tensor"] == text


# -- in a browser -----------------------------------------------------------------------------------------


@lru_cache
def browser():
    """Node, Chromium and where playwright-core lies, or the reason why there is no browser to test with."""
    node = shutil.which("node")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not node or not chromium:
        return None, f"no {'node' if not node else 'chromium'} found: the page is unverified"
    found = subprocess.run([node, "-p", "require.resolve('playwright-core')"], capture_output=True, text=True)
    if found.returncode:
        return None, "node finds no playwright-core (npm install playwright-core, NODE_PATH): the page is unverified"
    return (node, chromium, found.stdout.strip()), ""


def browse(tmp_path, page, *steps):
    programs, reason = browser()
    if programs is None:
        pytest.skip(reason)
    node, chromium, library = programs
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    order = {"page": file.as_uri(), "browser": chromium, "steps": steps}
    done = subprocess.run(
        [node, str(Path(__file__).with_name("browse.mjs"))],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PLAYWRIGHT_CORE": library},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["errors"] == []
    assert seen["requests"] == []
    return seen["values"]


def place(picture, id):
    return [node.id for node in picture.nodes].index(id)


SHOWN = "document.body.dataset.shown"
PANEL = "document.getElementById('about').innerText"
LIT = "[...document.querySelectorAll('#stage .lit')].map((each) => each.id)"
SCALE = "document.querySelector('.svg-pan-zoom_viewport').getCTM().a"
AT = "document.querySelector('.svg-pan-zoom_viewport').getCTM().e"
VISIBLE = "[...document.querySelectorAll('#stage .node:not(.off)')].map((each) => each.id)"


@pytest.mark.slow
def test_pan_zoom_hover_and_light_on_a_figure(tmp_path):
    graph = autodiff(gi.models.transformer(layers=1), loss="L")
    (state,) = [each for each in model_states(graph, "one layer") if each.id == "layer0:mha"]
    picture = replace(state.picture, title="Attention, forward and backward")
    softmax, d_softmax = place(picture, "layer0/mha/AS"), place(picture, "layer0/mha/dZ")
    values = browse(
        tmp_path,
        figure_page(picture),
        ["eval", SCALE],
        ["wheel", -400],
        ["eval", SCALE],
        ["eval", AT],
        ["drag", 60, 40],
        ["eval", AT],
        ["click", "#whole"],
        ["hover", f"#s0-n{softmax}"],
        ["eval", PANEL],
        ["click", f"#s0-n{softmax}"],
        ["eval", LIT],
        ["eval", PANEL],
        ["press", "body", "Escape"],
        ["eval", LIT],
        ["click", "[data-mode=forward]"],
        ["eval", VISIBLE],
        ["click", "[data-mode=backward]"],
        ["eval", VISIBLE],
    )
    before, after, left, moved, hovered, lit, told, cleared, forward, backward = values
    assert after > 1.2 * before
    assert moved != left
    assert "layer0/mha/AS float32[B, N_H, S, S]" in hovered
    assert "P = exp(Z − max Z) / Σ exp(Z − max Z)" in hovered
    assert "graphir/models/parts/" in hovered
    cached = [f"s0-e{at}" for at, e in enumerate(picture.edges) if e.role == "cached" and e.target == "layer0/mha/dZ"]
    assert cached
    assert {f"s0-n{softmax}", f"s0-n{d_softmax}", *cached} <= set(lit)
    assert len(lit) < 8
    assert "layer0/mha/AS [B, N_H, S, S]" in told
    assert cleared == []
    assert f"s0-n{softmax}" in forward
    assert f"s0-n{d_softmax}" not in forward
    assert f"s0-n{d_softmax}" in backward
    assert f"s0-n{softmax}" not in backward


@pytest.mark.slow
def test_a_whole_model_is_unfolded_searched_and_folded_again(tmp_path):
    folded = model_states(model(12), "twelve")[0].picture
    block = next(n for n in folded.nodes if n.kind == "block" and n.scope == "layer0/mha" and n.phase == "forward")
    values = browse(
        tmp_path,
        pages("12"),
        ["eval", SHOWN],
        ["click", f"#s0-n{place(folded, block.id)}"],
        ["click", "#about button"],
        ["eval", SHOWN],
        ["eval", PANEL],
        ["click", "#about button"],
        ["eval", SHOWN],
        ["fill", "#search", "layer7/mha/dZ"],
        ["press", "#search", "Enter"],
        ["eval", SHOWN],
        ["eval", PANEL],
        ["eval", "document.querySelector('#stage .flash').getBoundingClientRect().toJSON()"],
        ["select", "#states", "layer11:mlp"],
        ["eval", SHOWN],
        ["click", "[data-state=folded]"],
        ["eval", SHOWN],
        ["fill", "#search", "no such tensor"],
        ["eval", "document.getElementById('found').innerText"],
    )
    start, opened, panel, closed, searched, told, box, selected, again, nothing = values
    assert (start, opened, closed) == ("folded", "layer0:mha", "layer0")
    assert "Fold mha" in panel
    assert searched == "layer7:mha"
    assert "layer7/mha/dZ" in told
    assert 0 < box["x"] < 1500
    assert 0 < box["y"] < 950
    assert (selected, again) == ("layer11:mlp", "folded")
    assert nothing == "no tensor of that name is drawn"


@pytest.mark.slow
def test_hostile_texts_run_nothing(tmp_path):
    page = figure_page(hostile_picture(HOSTILE))
    values = browse(
        tmp_path, page, ["click", "#s0-n0"], ["fill", "#search", "script"], ["eval", "typeof window.hacked"]
    )
    assert values == ["undefined"]
