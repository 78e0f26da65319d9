"""A saved run in a real Chromium: saved by one visitor, opened by another; beside what runs."""

from __future__ import annotations

import re
from pathlib import Path

import page_server
from browsing import PATIENCE, PHONE, colours_of, fits, press
from playwright.sync_api import Page, expect

from visipruner.ui import opening_words, text

pytest_plugins = ["browsing"]
OLD = Path(__file__).parent / "saved" / "run_before_dates.json"
LABEL = "#vp-view-compare .vp-recorded"


def open_file(page: Page, path):
    """Give a file to the button; the accordion is opened if it is closed."""
    button = page.get_by_role("button", name=opening_words.CHOOSE)
    if not button.is_visible():
        page.get_by_role("button", name=re.compile(opening_words.TITLE)).click()
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(path)


def run(page: Page):
    press(page, text.RUN)
    expect(page.locator(".vp-verdict.same, .vp-verdict.different")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(LABEL)).to_have_count(0)
    expect(page.get_by_role("button", name=text.MEASURE)).to_be_enabled(timeout=PATIENCE)


def shown(page: Page) -> list[str]:
    """The words of cards, counters and picture's story."""
    parts = ".vp-side, .vp-counters tbody, .patch-viewer .pv-why"
    return page.locator(f":is(#vp-view-compare) :is({parts})").all_text_contents()


def test_what_one_visitor_saves_another_opens(visit, tmp_path):
    first, second = visit("?seed=8"), visit("?seed=3", **PHONE)
    run(first)
    with first.expect_download() as saved:
        press(first, text.SAVE_JSON)
    file = tmp_path / "saved.json"
    saved.value.save_as(file)
    open_file(second, file)
    said = second.locator("#vp-opened")
    expect(said).to_contain_text("is open above", timeout=PATIENCE)
    expect(second.locator(LABEL)).to_contain_text("Recorded 20", timeout=PATIENCE)
    assert shown(second) == shown(first) and len(shown(first)) > 2
    assert colours_of(second.locator(".patch-viewer canvas").first) > 50
    expect(second.get_by_role("button", name=text.MEASURE)).to_be_disabled()
    expect(second.locator("#vp-medians")).to_contain_text("Measure again” is off")
    fits(second, 390)
    with second.expect_download() as report:
        press(second, text.SAVE_HTML)
    assert "Recorded" in Path(report.value.path()).read_text()
    # A damaged file leaves all this as it is.
    file.write_text('{"question": "", "answers": "<img src=x onerror=alert(1)>"}')
    open_file(second, file)
    expect(said).to_contain_text('not "<img src=x', timeout=PATIENCE)
    expect(second.locator('img[src="x"]')).to_have_count(0)
    expect(second.locator(LABEL)).to_contain_text("Recorded 20")
    run(second)  # and a run of one's own follows
    expect(first.locator(LABEL)).to_have_count(0)


def test_opening_stops_a_run_that_waits(visit, mini_path):
    page = visit("?seed=8")
    models = page_server.models(mini_path)
    with models.get(models.default).lock:  # another visitor's long answer
        press(page, text.RUN)
        status = page.locator("#vp-view-compare .vp-status").first
        expect(status).to_contain_text(text.WAITING, timeout=PATIENCE)
        open_file(page, OLD)
        expect(page.locator(LABEL)).to_contain_text("date was not saved", timeout=PATIENCE)
        expect(page.locator("#vp-view-compare .vp-notes")).to_contain_text("without it")
    page.wait_for_timeout(500)  # what was stopped does not come back
    expect(page.locator(LABEL)).to_contain_text("date was not saved")
    expect(status).to_contain_text("saved run is open")
    page.locator("#vp-stop").click()  # nothing runs
    expect(status).to_contain_text("saved run is open")
    run(page)
