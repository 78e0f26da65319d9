"""Hints in a real Chromium: why a layer has no colours, where the form scrolls, a phone's chart."""

from __future__ import annotations

import re

from browsing import PATIENCE, PHONE, press
from playwright.sync_api import Page, expect

from visipruner import PruningMethod
from visipruner.render.report import report_html
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.ui import text

pytest_plugins = ["browsing"]
LOW = {"viewport": {"width": 1280, "height": 720}}


def run(page: Page):
    press(page, text.RUN)
    expect(page.locator(".vp-verdict.same, .vp-verdict.different")).to_be_visible(timeout=PATIENCE)


def test_h_says_why_a_layer_has_no_colours(visit):
    page = visit("?seed=8", **LOW)
    run(page)
    canvas, said = page.locator(".pv-canvas"), page.locator(".pv-plain")
    canvas.focus()
    for _ in range(8):
        page.keyboard.press("[")
    expect(said).to_be_hidden()
    page.keyboard.press("h")
    words = "This run, layer 0: not tested (shallow: single patches are not read yet). Influence"
    expect(said).to_contain_text(words)
    expect(said).to_have_text(re.compile(r"was tested in layers? 2( to |, | and |\.)"))
    box, frame = said.bounding_box(), canvas.bounding_box()
    assert frame["y"] <= box["y"] and box["y"] + box["height"] < frame["y"] + frame["height"]
    for _ in range(2):
        page.keyboard.press("]")
    expect(said).to_be_hidden()  # this layer has colours
    expect(page.locator(".pv-scale")).to_be_visible()
    for _ in range(5):
        page.keyboard.press("]")
    page.keyboard.press("[")
    page.keyboard.press("h")  # the full model, which was tested in every layer
    expect(page.locator(".pv-modes input[value=probe]")).to_be_checked()
    expect(said).to_be_hidden()
    page.keyboard.press("h")
    expect(page.locator(".pv-modes input[value=picture]")).to_be_checked()
    expect(said).to_be_hidden()


def test_h_says_that_nothing_was_tested(browser, mini, picture, tmp_path):
    prompt = mini.prepare(picture, "what?")
    options = Options(max_new_tokens=2, probe=False, clock_rounds=0)
    found = last_event(compare(mini, prompt, [PruningMethod()], options)).comparison
    (tmp_path / "report.html").write_text(report_html(found, {}))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    said = page.locator(".pv-plain")
    page.locator(".pv-canvas").focus()
    page.keyboard.press("h")
    expect(said).to_contain_text("No influence was tested in this run")
    page.keyboard.press("]")
    expect(said).to_be_hidden()
    page.close()


def edge(page: Page, side: str) -> dict:
    """What is drawn at the form's lower or upper edge."""
    return page.evaluate(
        """(side) => {
            const style = getComputedStyle(document.querySelector(".vp-inputs"), side);
            return { content: style.content, place: style.position };
        }""",
        side,
    )


def test_the_form_says_where_it_can_be_scrolled(visit):
    page = visit("?seed=8", **LOW)
    column = page.locator(".vp-inputs")
    expect(column).to_have_attribute("data-below", "")
    expect(column).not_to_have_attribute("data-above", "")
    assert "more below" in edge(page, "::after")["content"]
    run_button = page.get_by_role("button", name=text.RUN, exact=True).bounding_box()
    assert run_button["y"] + run_button["height"] <= 720
    column.evaluate("(form) => form.scrollTo(0, form.scrollHeight)")
    expect(column).not_to_have_attribute("data-below", "")
    expect(column).to_have_attribute("data-above", "")
    assert edge(page, "::before")["place"] == "sticky"
    assert edge(page, "::after")["content"] == "none"


def test_the_keyboard_reaches_what_the_form_hides(visit):
    """Every control that has the focus is seen, and not below Run."""
    page = visit("?seed=8", **LOW)
    page.get_by_role("button", name=text.RUN, exact=True).focus()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const one = document.activeElement, box = one.getBoundingClientRect();
                if (!one.closest(".vp-inputs")) return null;
                const top = document.elementFromPoint(box.left + box.width / 2,
                    box.top + box.height / 2);
                return one.contains(top) || top.contains(one) || one.parentElement.contains(top);
            }"""
        )
        if found is None:
            break
        reached.append(found)
    assert len(reached) > 3 and all(reached)
    assert page.locator(".vp-inputs").evaluate("(form) => form.scrollTop") > 0


def test_a_phone_shows_all_words_of_every_chart(visit):
    page = visit("?seed=8", **PHONE)
    run(page)
    page.locator("#vp-fold").click()
    charts = page.locator(".vp-charts .js-plotly-plot")
    expect(charts).to_have_count(3)
    expect(charts.nth(2)).to_contain_text("stays: L2 from", timeout=PATIENCE)
    for chart in charts.all():
        chart.scroll_into_view_if_needed()
        assert chart.evaluate(COLLIDE) == []
    panels = charts.nth(2).evaluate(
        """(chart) => [...chart.querySelectorAll(".bglayer rect, .plot")]
            .map((panel) => panel.getBoundingClientRect().height)"""
    )
    assert max(panels) >= 80  # high enough to read


# Words that lie on other words, or reach beyond the chart.
COLLIDE = """(chart) => {
    const edge = chart.getBoundingClientRect();
    // Of 10 to a power plotly draws invisible letters, too.
    const plain = (text) => text.textContent.replace(/\\u200b/g, "").trim();
    const names = [...chart.querySelectorAll(".infolayer text, .xtick text, .x2tick text")];
    const boxes = names.filter(plain).map((text) => [plain(text), text.getBoundingClientRect()])
        .filter(([, box]) => box.width);
    const found = boxes.filter(([, box]) => box.left < edge.left - 1 || box.right > edge.right + 1
        || box.bottom > edge.bottom + 1).map(([words]) => words);
    boxes.forEach(([words, a], i) => boxes.slice(i + 1).forEach(([others, b]) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 3) found.push(`${words} / ${others}`);
    }));
    return found;
}"""
