"""The interactive page in a real browser: what it shows, computes and does, by mouse, keys and touch."""

from __future__ import annotations

from functools import lru_cache

import pytest

import graphir as gi
from graphir.cost import count_flops, peak_memory
from graphir.drawing import figure, figure_graph
from graphir.drawing.explore import Deeper, figure_page, model_page
from graphir.drawing.render import renderers
from graphir.models import Usage, blueprint
from graphir.passes import Optimizer, autodiff, complete_plan, optimize, shard
from graphir.why import explain
from tests.drawing.test_explore import HOSTILE, hostile_picture
from tests.support.browser import chromium, needs_browser, opened

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("svg" not in renderers(), reason="nothing here draws SVG: the page is unverified"),
]
SIZES = {"B": 8, "S": 32, "D": 48, "N_H": 4, "D_ff": 96, "V": 64}
#: The program's own view of the data: its classes are there for any script of the page.
MODEL = "new Model(JSON.parse(document.getElementById('data').textContent))"
RIGHT = "(all) => all.map((each) => each.getBoundingClientRect().right)"
#: Two fingers, 40 apart, that move to 200 apart.
PINCH = """() => {
  const stage = document.getElementById("stage"), box = stage.getBoundingClientRect();
  const send = (type, pointerId, clientX) => stage.dispatchEvent(
    new PointerEvent(type, { pointerId, clientX, clientY: box.top + box.height / 2, bubbles: true }));
  send("pointerdown", 1, 180); send("pointerdown", 2, 220);
  send("pointermove", 2, 300); send("pointermove", 1, 100);
  send("pointerup", 1, 100); send("pointerup", 2, 300);
}"""
#: Steps of a window's third each, as fast as frames come; how often all was painted anew meanwhile, and at rest.
FLICK = """async () => {
  const stage = document.getElementById("stage");
  let painted = 0;
  new MutationObserver(() => { painted += 1; }).observe(stage.querySelector(".sheet-of-all"), { childList: true });
  for (let step = 0; step < 12; step += 1) {
    await new Promise(requestAnimationFrame);
    stage.dispatchEvent(new WheelEvent("wheel", { deltaY: stage.clientHeight / 3, bubbles: true, cancelable: true }));
  }
  return painted;
}"""
#: All that the page says of its model with so many layers, in words that no other page's tables matter to.
SAID = """(layers) => {
  const model = new Model(JSON.parse(document.getElementById("data").textContent));
  if (layers) model.deepen(layers);
  const { data } = model, type = (at) => data.types[at].text, formula = (at) => data.formulas[at];
  const node = ({ name }, each) => ({
    ...each, op: data.operators[each.op], at: data.lines[each.at], flops: formula(each.flops),
    made: each.made.map(([made, of, ...rest]) => [name(made), type(of), ...rest]),
    reads: (each.reads || []).map(([read, of]) => [name(read), type(of)]),
    frees: (each.frees || []).map(([of, what]) => [type(of), what]),
    of: each.of && name(each.of), why: each.why && name(each.why),
    told: each.told && { ...each.told, sent: formula(each.told.sent), each: 0,
      ...Object.fromEntries(["cause", "need", "partner"].map((text) => [text, name(each.told[text])])) },
  });
  const drawn = ({ name }, { at, nodes, edges }) => [
    document.getElementById(`drawing-${at}`).innerHTML, nodes.map((each) => each.map(name)),
    edges.map((each) => each.map(name))];
  return {
    blocks: model.blocks.map((block) => [
      block.path, block.number, block.kind.nodes.map((each) => node(block, each)),
      block.kind.arguments.map(([made, of, what]) => [block.name(made), type(of), what]),
      Object.entries(block.kind.drawings).map(([pass, each]) => [pass, drawn(block, each)]),
      ["forward", "backward", "update"].map((pass) => model.total(block.kind, pass))]),
    order: data.runs, outputs: data.outputs, links: model.links,
    handed: data.arguments.map(([name, of, what]) => [name, type(of), what]),
    memory: [...model.memory().all], peak: model.memory().peak,
  };
}"""
ABOUT = "document.getElementById('about').innerText"


@pytest.fixture(scope="module")
def browser():
    needs_browser()
    with chromium() as found:
        yield found


@lru_cache
def sharded(layers=3, dp=2, tp=2):
    mesh = gi.Mesh(dp=dp, tp=tp)
    return shard(autodiff(gi.models.transformer(layers=layers), loss="L"), mesh, complete_plan("data+megatron", mesh))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "model.html"
    path.write_text(model_page(sharded(), "Three layers", SIZES), encoding="utf-8")
    return path


def ready(page):
    page.wait_for_selector("body[data-ready=true]")
    page.wait_for_selector("#stage .content")


def go(page, name):
    page.fill("#search", name)
    page.press("#search", "Enter")
    page.wait_for_selector("#stage .lit")
    page.wait_for_timeout(300)


def test_what_the_page_computes_is_what_graphir_computes(browser, file):
    graph = sharded()
    with opened(browser, file) as page:
        ready(page)
        peak = page.evaluate(f"(({{ all, peak }}) => all[peak])({MODEL}.memory())")
        model = f"const model = {MODEL}; const passes = ['forward', 'backward']"
        flops = page.evaluate(
            f"{model}; passes.map((pass) => model.blocks.reduce((sum, b) => sum + model.total(b.kind, pass).flops, 0))"
        )
        sent = page.evaluate(
            f"{model}; passes.map((pass) => model.blocks.reduce((sum, b) => sum + model.total(b.kind, pass).sent, 0))"
        )
    sizes = {**SIZES, "N_T": 2, "N_DP": 2}
    assert peak == peak_memory(graph, SIZES).bytes
    assert flops == [float(count_flops(graph, phase).number(sizes)) for phase in ("forward", "backward")]
    told = explain(graph, SIZES)
    assert sent == [
        float(sum(each.each for each in told if each.node.meta.phase == phase)) for phase in ("forward", "backward")
    ]


def test_folds_search_and_light(browser, file):
    with opened(browser, file) as page:
        ready(page)
        assert page.locator("#stage svg[data-block]").count() == 0
        go(page, "layer1/mha/dZ")
        assert "layer1/mha/dZ" in page.evaluate(ABOUT)
        box = page.locator("#stage .lit").first.bounding_box()
        assert 0 < box["x"] < 1100
        assert 0 < box["y"] < 900
        # The d-node of softmax, its forward node and what it caches; the line between the two passes.
        page.locator("#about .link-to", has_text="layer1/mha/dZ = dS").first.click()
        lit = page.evaluate(
            "[...document.querySelectorAll('#stage .lit[data-n]')].map((each) => each.textContent.trim())"
        )
        assert {"S", "dS"} <= set(lit)
        assert page.locator("#stage .tie").count() == 1
        assert "cached for the backward pass" in page.evaluate(ABOUT)
        page.keyboard.press("Escape")
        assert page.locator("#stage .lit").count() == 0
        page.click("[data-do=fold]")
        page.wait_for_timeout(300)
        assert page.locator("#stage svg[data-block]").count() == 0


def test_a_collective_tells_its_reason_partner_and_formula(browser, file):
    with opened(browser, file) as page:
        ready(page)
        go(page, "layer1/mlp/Z_down.AR")
        page.locator("#about .link-to", has_text="layer1/mlp/Z_down.AR = AR").first.click()
        told = page.evaluate(ABOUT)
        for text in ("sums over D_ff, split over tp", "identity on layer1/mlp/dZ_down", "GPU 0", "GPU 1"):
            assert text in told
        # 2 (N − 1)/N · B S D/N_DP · 4 bytes
        assert f"{8 * 32 * 48 / 2 * 4 * 2 / 2 / 1000:.3g}\u202fkB" in told


def test_sliders_change_numbers_widths_and_ranks_and_say_what_cannot_run(browser, file):
    with opened(browser, file) as page:
        ready(page)
        go(page, "layer1/mha/X_norm")
        before = page.evaluate(ABOUT)
        page.click("[data-tab=sizes]")
        page.fill("#size-S", "64")
        page.press("#size-S", "Enter")
        after = page.evaluate("document.getElementById('about').textContent")
        assert "24.6\u202fkB" in before
        assert "49.2\u202fkB" in after
        page.fill("#size-N_T", "3")
        page.press("#size-N_T", "Enter")
        assert "N_H/N_T = 1.3333" in page.inner_text(".broken")
        page.fill("#size-N_T", "4")
        page.press("#size-N_T", "Enter")
        assert page.inner_text(".broken") == ""
        page.click("[data-do=fold]")
        page.click("[data-do=ranks]")
        page.click("[data-do=home]")
        page.wait_for_timeout(300)
        assert page.locator(".ranks > div > div").count() == 8
        page.click("text=As at first")
        page.wait_for_timeout(300)
        assert page.locator(".ranks > div > div").count() == 4


def said(browser, file, text, *layers):
    file.write_text(text, encoding="utf-8")
    with opened(browser, file) as page:
        ready(page)
        return [page.evaluate(f"({SAID})({count})") for count in layers or (0,)]


@lru_cache
def trained(layers, plan):
    graph = optimize(autodiff(gi.models.transformer(layers=layers), loss="L"), Optimizer("adamw", clip=1.0))
    mesh = gi.Mesh(dp=2, tp=2) if plan == "data+megatron" else gi.Mesh(dp=2)
    return shard(graph, mesh, complete_plan(plan, mesh))


@lru_cache
def family(layers, name):
    return autodiff(blueprint(name, layers=layers).composition.build(Usage(decode=None)), loss="L")


@pytest.mark.parametrize(("build", "what", "period", "at", "layers"), [
    (trained, "data+megatron", 1, 8, (2,)),
    (trained, "zero3", 1, 2, (3, 8)),
    (family, "gemma3", 6, 8, (14,)),
])  # fmt: skip
def test_a_page_of_other_layers_says_what_their_own_page_says(browser, tmp_path, build, what, period, at, layers):
    file, of_all = tmp_path / "page.html", Deeper(lambda count: build(count, what), period)
    first, *others = said(browser, file, model_page(build(at, what), deeper=of_all), 0, *layers)
    for count, told in zip((at, *layers), (first, *others), strict=True):
        (own,) = said(browser, file, model_page(build(count, what)))
        assert told == own


def test_the_slider_of_layers_changes_what_is_drawn_and_told(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(model_page(trained(4, "zero3"), sizes=SIZES), encoding="utf-8")
    with opened(browser, file) as page:
        ready(page)
        nodes = lambda: page.inner_text("#about p").split(" nodes")[0]  # noqa: E731
        shown = lambda: page.locator(".rows button", has_text="layer").all_inner_texts()  # noqa: E731
        assert nodes() == f"{len(trained(4, 'zero3').nodes):,}"
        assert shown() == ["▸ layer 0 … 3"]
        page.click("[data-tab=sizes]")
        page.fill("#size-layers", "7")
        page.press("#size-layers", "Enter")
        page.wait_for_timeout(300)
        page.click("[data-tab=about]")
        assert nodes() == f"{len(trained(7, 'zero3').nodes):,}"
        assert shown() == ["▸ layer 0 … 6"]
        go(page, "layer6/mha/Z")
        page.click("[data-tab=sizes]")
        page.fill("#size-layers", "2")
        page.press("#size-layers", "Enter")
        page.wait_for_timeout(300)
        assert shown() == ["▾ layer 0 … 1", "▸ layer0", "▸ layer1"], "what was unfolded is gone with its layer"
        page.fill("#size-layers", "1")
        page.press("#size-layers", "Enter")
        assert page.input_value("#size-layers") == "2", "the first and the last differ"
        page.click("text=As at first")
        assert page.input_value("#size-layers") == "4"


def test_overlays_and_memory_over_the_pass(browser, file):
    with opened(browser, file) as page:
        ready(page)
        go(page, "layer1/mlp/Z_down")
        page.select_option("#overlay", "sharding")
        page.wait_for_timeout(300)
        fills = page.evaluate(
            "[...document.querySelectorAll('#stage [data-n] *')].map((e) => e.style.fill).filter(Boolean)"
        )
        assert any("hatch-1" in fill for fill in fills), "the product makes a pending sum over tp"
        page.select_option("#overlay", "bytes")
        page.wait_for_timeout(300)
        widths = page.evaluate(
            "new Set([...document.querySelectorAll('#stage [data-e] path')].map((e) => e.style.strokeWidth)).size"
        )
        assert widths > 2
        page.select_option("#overlay", "memory")
        assert page.locator("#memory svg polygon").count() == 6
        page.locator("#memory svg").click(position={"x": 500, "y": 30})
        assert "block and pass" in page.evaluate(ABOUT)


def test_by_keys_alone(browser, file):
    with opened(browser, file) as page:
        ready(page)
        page.click("[data-tab=outlines]")
        page.locator("#outline [role=treeitem]").first.focus()
        shown = lambda: page.evaluate("document.activeElement.textContent + ' ' + document.activeElement.ariaExpanded")  # noqa: E731
        for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        assert shown() == "▸MHA false"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        assert shown().startswith("X_norm = LN")
        page.keyboard.press("Enter")
        assert "layer0/mha/X_norm" in page.evaluate("document.getElementById('about').textContent")
        before = page.evaluate("document.querySelector('.sheet-of-all').style.transform")
        page.focus("#stage")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.querySelector('.sheet-of-all').style.transform") != before


def test_on_a_phone_all_is_within_the_screen_and_pinch_zooms(browser, file):
    with opened(browser, file, 390, 844) as page:
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        right = page.locator("main, aside, h1, [role=tablist]").evaluate_all(RIGHT)
        assert max(right) <= 390
        boxes = page.locator("#stage .box").first.bounding_box()
        page.touchscreen.tap(boxes["x"] + 20, boxes["y"] + 10)
        assert "embedding" in page.evaluate(ABOUT)
        width = "document.querySelector('#stage .box').getBoundingClientRect().width"
        before = page.evaluate(width)
        page.evaluate(PINCH)
        page.wait_for_timeout(400)
        assert page.evaluate(width) > 1.8 * before


def test_what_is_printed_is_a_figure_without_controls(browser, file):
    with opened(browser, file) as page:
        ready(page)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.locator("#print svg .box").count() > 0
        assert page.locator("header").is_visible() is False
        assert page.locator("aside").is_visible() is False
        assert "B = 8" in page.inner_text("#print figcaption")


def test_a_figure_s_page(browser, tmp_path):
    file = tmp_path / "figure.html"
    file.write_text(figure_page(figure("mha-backward"), figure_graph("mha-backward")), encoding="utf-8")
    with opened(browser, file) as page:
        ready(page)
        page.locator("#stage [data-n]", has_text="dS").first.click()
        assert "layer0/mha/dZ" in page.evaluate(ABOUT)


def test_hostile_texts_run_nothing(browser, tmp_path):
    file = tmp_path / "hostile.html"
    file.write_text(figure_page(hostile_picture(HOSTILE), figure_graph("node-matmul")), encoding="utf-8")
    with opened(browser, file) as page:
        ready(page)
        page.locator("#stage [data-n]").first.click()
        page.fill("#search", "script")
        assert page.evaluate("typeof window.hacked") == "undefined"


def test_96_layers_on_64_ranks_hold_in_the_document_only_what_is_seen(browser, tmp_path):
    file = tmp_path / "large.html"
    mesh = gi.Mesh(dp=8, tp=8)
    graph = optimize(autodiff(gi.models.transformer(layers=96), loss="L"), Optimizer("adamw"))
    graph = shard(graph, mesh, complete_plan("data+megatron", mesh))
    file.write_text(model_page(graph, "96 layers"), encoding="utf-8")
    assert file.stat().st_size < 5e6
    count = "document.querySelectorAll('#stage *').length"
    with opened(browser, file) as page:
        ready(page)
        page.click("[data-do=ranks]")
        page.click("[data-do=unfold]")
        page.wait_for_timeout(500)
        assert page.evaluate(count) < 6000
        go(page, "layer77/mha/dZ")
        assert "layer77/mha/dZ" in page.evaluate(ABOUT)
        assert page.evaluate(count) < 9000
        page.click("[data-do=home]")
        page.wait_for_timeout(500)
        assert page.evaluate(count) < 500


def test_a_flick_moves_what_is_painted_and_is_painted_where_it_rests(browser, file):
    with opened(browser, file) as page:
        ready(page)
        page.click("[data-do=unfold]")
        page.wait_for_timeout(300)
        assert page.evaluate(FLICK) <= 1
        page.wait_for_function("document.querySelector('.backdrop').width > 1")
        page.wait_for_timeout(1500)
        frame = page.locator("#stage").bounding_box()
        boxes = page.locator("#stage .content .box").evaluate_all(
            "(all) => all.map((e) => e.getBoundingClientRect().top)"
        )
        assert any(frame["y"] < top < frame["y"] + frame["height"] for top in boxes)


def test_at_nightfall_the_picture_from_afar_is_painted_anew(browser, file):
    ink = """() => {
      const seen = document.querySelector(".backdrop");
      return [...seen.getContext("2d").getImageData(0, 0, seen.width, seen.height).data].join();
    }"""
    with opened(browser, file) as page:
        ready(page)
        page.wait_for_function("document.querySelector('.backdrop').width > 1")
        by_day = page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(800)
        assert page.evaluate(ink) != by_day
