"""The view "Cost and accuracy" in a real Chromium, strictly offline."""

from __future__ import annotations

import csv
import re

import curve_file
import page_server
import pytest
from browsing import PATIENCE, press
from playwright.sync_api import Page, expect

from visipruner.evaluation.tradeoff_picture import label
from visipruner.ui import curve, curve_words, text

pytest_plugins = ["browsing"]
FINISHED = ".vp-verdict.same, .vp-verdict.different"
PLOT = "#vp-curve-plot .js-plotly-plot"


@pytest.fixture(scope="module")
def address(mini_path, tmp_path_factory):
    """A page of its own, with an invented curve."""
    from visipruner.ui.layout import build, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "OTHERS", {})
        patch.setattr(curve, "RECORDED", curve_file.written(tmp_path_factory.mktemp("curve")))
        page = build(page_server.models(mini_path))
    launch(page, "127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield page.local_url
    page.close()


@pytest.fixture
def visit(visit):
    """(**context settings) -> the opened view."""

    def open_view(**settings) -> Page:
        page = visit("?view=curve", **{"viewport": {"width": 1280, "height": 900}, **settings})
        expect(page.locator(PLOT)).to_be_visible(timeout=PATIENCE)
        return page

    return open_view


def lines(page: Page) -> list[str]:
    """The names of the lines in the plot."""
    return page.locator(PLOT).evaluate("(plot) => plot.data.map((line) => line.name)")


def click_point(page: Page, line: str, number: int):
    """Click the middle of a mark with the mouse, as a visitor does."""
    page.locator(PLOT).scroll_into_view_if_needed()
    place = page.locator(PLOT).evaluate(
        """(plot, [name, number]) => {
            const line = plot.data.findIndex((one) => one.name === name);
            const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
            return [
                box.x + xaxis._offset + xaxis.l2p(plot.data[line].x[number]),
                box.y + yaxis._offset + yaxis.l2p(plot.data[line].y[number]),
            ];
        }""",
        [line, number],
    )
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place)
    expect(page.locator(".hoverlayer .hovertext")).to_be_visible()
    page.mouse.click(*place)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_click_on_a_point_runs_it(visit, scheme):
    """Also in the dark, and after the plot was drawn again."""
    page = visit(color_scheme=scheme)
    press_all = page.get_by_role("radio", name="all", exact=True)
    press_all.check()
    series = {label(point) for point in curve_file.body()["points"]}
    expect(page.locator(PLOT + " .trace.scatter")).to_have_count(len(series))
    click_point(page, "FastV", 0)
    expect(page.locator("#vp-view-compare")).to_be_visible()
    expect(page.locator(FINISHED)).to_be_visible(timeout=PATIENCE)
    card = page.locator(".vp-side").nth(1)
    expect(card).to_contain_text("FastV")
    card.locator("summary", has_text="FastV").click()
    point = next(p for p in curve_file.body()["points"] if p["point"] == "fastv@288")
    expect(card).to_contain_text(str(point["settings"]["keep"]))
    expect(page.get_by_label(text.MODEL, exact=True)).to_have_value(re.compile("tiny-llava"))


def test_the_keyboard_runs_a_point_from_the_table(visit):
    page = visit()
    page.locator(".vp-points summary").press("Enter")
    button = page.get_by_role("button", name=re.compile("^Try it: VisionZip, then VisiPruner"))
    button.press("Enter")
    expect(page.locator(FINISHED)).to_be_visible(timeout=PATIENCE)
    methods = page.locator(".vp-side").nth(1).locator(".vp-method h4")
    expect(methods).to_have_text(["VisionZip", "VisiPruner"])
    page.get_by_role("tab", name=re.compile("Cost")).click()
    expect(page.locator(".vp-picks")).to_contain_text("VisionZip, then VisiPruner")


def test_groups_skills_and_the_followed_line_change_the_plot(visit):
    page = visit()
    assert "FastV" in lines(page) and len(lines(page)) < 8
    page.get_by_role("radio", name="stacks", exact=True).check()
    expect(page.locator(PLOT + " .trace.scatter")).to_have_count(3)  # and the followed one
    page.get_by_label(curve_words.SKILL, exact=True).click()
    page.get_by_role("option", name="count", exact=True).click()
    expect(page.locator(PLOT + " .gtitle")).to_contain_text("count")
    expect(page.locator(".vp-told", has_text="count").first).to_be_visible()


def test_measuring_streams_and_stops_and_keeps_what_it_has(visit):
    page = visit()
    page.locator("#vp-recompute").click()
    table = page.locator("#vp-recomputed")
    expect(table).to_contain_text(re.compile(r"now: [1-9]\d* of 26 answers"), timeout=PATIENCE)
    press(page, curve_words.STOP)
    ended = table.get_by_text(curve_words.ENDED)
    expect(ended).to_be_visible(timeout=PATIENCE)
    expect(table.locator("progress")).to_be_hidden()
    expect(table.locator("tbody tr").first).to_contain_text(re.compile(r"[1-9]\d* of 13"))
    star = page.locator(PLOT + " .legend", has_text="measured here, now")
    expect(star).to_be_visible(timeout=PATIENCE)
    page.locator("#vp-recompute").click()  # the next measurement begins clean and ends whole
    expect(table).to_contain_text(curve_words.MEASURED.format(questions=13), timeout=PATIENCE)
    expect(ended).to_be_hidden()
    expect(table.locator("tbody")).to_contain_text("13 of 13")


def test_nothing_chosen_is_said_in_a_sentence(visit):
    page = visit()
    page.get_by_role("button", name=re.compile("Clear", re.I)).last.click()
    page.locator("#vp-recompute").click()
    sentence = curve_words.NO_PICKS.format(most=curve.MOST_PICKS)
    expect(page.locator(".toast-body")).to_contain_text(sentence, timeout=PATIENCE)


def test_files_come_on_click(visit, tmp_path):
    page = visit()
    for name, start in (
        (curve_words.SAVE_PNG, b"\x89PNG"),
        (curve_words.SAVE_JSON, b"{"),
        (curve_words.SAVE_HTML, b"<!doctype"),
        (curve_words.SAVE_CSV, b"measured,"),
    ):
        with page.expect_download() as caught:
            press(page, name)
        path = tmp_path / caught.value.suggested_filename
        caught.value.save_as(path)
        assert path.read_bytes().startswith(start)
    from PIL import Image

    drawn = Image.open(tmp_path / "visipruner-curve.png").convert("RGB")
    assert drawn.width == 1800 and len(drawn.getcolors(1_000_000)) > 20
    rows = list(csv.DictReader((tmp_path / "visipruner-curve.csv").open()))
    assert len(rows) == len(curve_file.WISHES) + 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_needs_no_sideways_scrolling(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(color_scheme=scheme)
    page.locator(".vp-points summary").click()
    found = {
        fault["id"]: [node["html"][:160] for node in fault["nodes"]][:4]
        for fault in Axe().run(page).response["violations"]
    }
    assert not found
    page.set_viewport_size({"width": 390, "height": 844})
    # Plotly fits its chart a moment later.
    page.wait_for_function("document.documentElement.scrollWidth <= 390")
