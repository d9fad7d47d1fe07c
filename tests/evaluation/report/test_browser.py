"""A report in a real browser: nothing is requested, nothing fails, and its controls work with mouse and keyboard.

Needs Chromium (``apt-get install chromium``, or its path in the environment variable CHROMIUM) and playwright.
"""

import os
import shutil

import numpy as np
import pytest

from sr_train.evaluation.report.gallery import mixtures
from sr_train.evaluation.report.page import render
from sr_train.evaluation.report.run_data import run_data

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """A function that opens a page's text and returns the tab; at the end, no request and no error may have happened."""
    problems, tabs = [], []

    def open_text(text, width=1400, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(text)
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tabs.append(tab)
        tab.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: problems.append(request.url) if not allowed(request.url, path) else None)
        tab.goto(path.as_uri())
        tab.locator("html[data-ready]").wait_for(state="attached")
        return tab

    yield open_text
    for tab in tabs:
        tab.close()
    assert not problems


def allowed(url, path):
    return url.startswith(("data:", "blob:")) or url == path.as_uri()


def colors(tab, selector):
    """Number of different pixels of a canvas."""
    script = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    return tab.eval_on_selector(selector, script)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_the_page_of_a_run_works(open_page, example_run, width, scheme):
    tab = open_page(render("Report", runs=[run_data(example_run)]), width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
    assert [h.text_content() for h in tab.query_selector_all("h2")] == ["Overview", "Curves", "Pictures", "Details"]
    charts = tab.query_selector_all(".chart .uplot canvas")
    assert len(charts) == 10
    assert colors(tab, ".chart .uplot canvas") > 3, "curves are drawn"
    assert "'name=it'\\''s'" in tab.inner_text("pre"), "the command can be typed again"

    loss = tab.locator(".chart", has_text="psnr: Losses").first
    loss.get_by_role("button", name="log").click()
    assert loss.get_by_role("button", name="log").get_attribute("aria-pressed") == "true"
    tab.get_by_label("Smoothing of curves").press("End")

    picture = tab.locator(".picture").first
    tab.locator(".gallery > div").first.scroll_into_view_if_needed()
    picture.locator("canvas").first.wait_for()
    border = picture.get_by_label("Border between the pictures")
    before = picture.locator(".compare canvas").nth(1).get_attribute("style")
    for _ in range(10):
        border.press("ArrowRight")
    assert picture.locator(".compare canvas").nth(1).get_attribute("style") != before
    step = picture.get_by_label("step of SR")
    assert picture.locator("output").inner_text() == "40"
    step.press("ArrowLeft")
    sync_api.expect(picture.locator("output")).to_have_text("20")
    view = picture.locator(".view").first
    whole = view.locator("canvas").evaluate("c => c.toDataURL()")
    view.hover()
    assert view.locator("canvas").evaluate("c => c.toDataURL()") != whole, "the place under the pointer is enlarged"


def test_columns_are_sorted_by_number(open_page):
    table = {"title": "Scores", "names": ["image", "PSNR"], "rows": [["b", 9.5], ["a", 10.25], ["c", None]]}
    tab = open_page(render("Scores", tables=[table]))

    def first():
        return [row.inner_text().split("\t")[0] for row in tab.query_selector_all("tbody tr")]

    tab.get_by_role("button", name="PSNR").click()
    assert first() == ["b", "a", "c"]
    tab.get_by_role("button", name="PSNR").press("Enter")
    assert first() == ["a", "b", "c"], "a missing value is last in both directions"
    assert tab.locator("th").nth(1).get_attribute("aria-sort") == "descending"


def test_alpha_moves_through_the_mixtures(open_page):
    crops = [np.full((32, 32, 3), 60 * i, np.uint8) for i in range(5)]
    chart = {
        "title": "psnr",
        "label": "alpha",
        "curves": [{"label": "psnr", "steps": [0, 0.5, 1], "values": [1.0, 3.0, 2.0]}],
    }
    tab = open_page(render("Mixtures", charts=[chart], galleries=[mixtures({"a": crops}, [0, 0.5, 1])]))
    tab.locator(".gallery > div").first.scroll_into_view_if_needed()
    slider = tab.get_by_label("alpha of SR")
    slider.press("Home")
    sync_api.expect(tab.locator(".picture output")).to_have_text("0")
    slider.press("ArrowRight")
    sync_api.expect(tab.locator(".picture output")).to_have_text("0.5")
