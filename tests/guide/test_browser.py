"""The guide on a phone and on a desk, in a real browser: nothing is wider than the screen, the contents follow."""

from __future__ import annotations

import pytest

from graphir.drawing.render import renderers
from graphir.guide import GuideConfig, guide
from tests.support.browser import chromium, needs_browser, opened

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("svg" not in renderers(), reason="nothing on this machine draws SVG"),
]
#: What reaches beyond the right edge of the window and lies in nothing that scrolls by itself.
WIDE = """[...document.querySelectorAll('main *')].filter((each) =>
  each.getBoundingClientRect().right > innerWidth + 1 && !each.closest('.drawing, .wide, .formula')).length"""
#: The smallest type of the figures, as it is shown.
SMALLEST = """Math.min(...[...document.querySelectorAll('figure svg text')].map((each) =>
  parseFloat(getComputedStyle(each).fontSize) * each.getScreenCTM().a))"""


@pytest.fixture(scope="module")
def browser():
    needs_browser()
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    needs_browser()
    path = tmp_path_factory.mktemp("guide") / "guide.html"
    path.write_text(guide(GuideConfig()), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_nothing_is_wider_than_the_screen_but_what_scrolls(browser, file, width):
    with opened(browser, file, width, 900) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(WIDE) == 0
        if width == 390:
            assert page.evaluate(SMALLEST) > 4.5


def test_the_contents_follow_the_reader(browser, file):
    current = "document.querySelector('nav [aria-current]').textContent"
    with opened(browser, file) as page:
        page.evaluate("document.getElementById('section-5-3').scrollIntoView({ behavior: 'instant' })")
        page.wait_for_timeout(200)
        assert page.evaluate(current).startswith("5.3")
    with opened(browser, file, 390, 844) as page:
        assert page.evaluate("document.querySelector('nav details').open") is False
        page.tap("nav summary")
        page.tap("nav a[href='#section-6']")
        page.wait_for_timeout(1500)
        assert page.evaluate("document.querySelector('nav details').open") is False
        assert page.inner_text("nav summary span").startswith("6")


def test_by_night_ink_is_light_and_paper_dark(browser, file):
    light = "getComputedStyle(document.body).color.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    with opened(browser, file, color_scheme="dark") as page:
        assert page.evaluate(light) > 600
        page.emulate_media(media="print")
        assert page.evaluate(light) < 200
