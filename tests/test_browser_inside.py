"""Look inside in a real Chromium: maps on one slider, the keyboard, a phone, Stop, axe's rules."""

from __future__ import annotations

import re

import page_server
import pytest
from browsing import PATIENCE, PHONE, fits, press, question
from playwright.sync_api import Page, expect

from visipruner.analyses import ANALYSES
from visipruner.ui import inside, inside_words, text

pytest_plugins = ["browsing"]
LAPTOP = {"viewport": {"width": 1280, "height": 720}}
VIEW = "#vp-view-inside"


def look(page: Page):
    # An old "Done" stands for a second when a run follows a Stop.
    old = page.locator(f"{VIEW} .vp-status")
    old.evaluate_all("all => all.forEach((one) => { one.textContent = ''; })")
    press(page, inside_words.RUN)
    expect(page.locator(f"{VIEW} .vp-status")).to_contain_text("Done", timeout=PATIENCE)


def test_maps_share_one_slider_and_a_patch(visit):
    page = visit("?seed=8&view=inside", **LAPTOP)
    look(page)
    maps = page.locator(".in-map")
    expect(maps).to_have_count(2)
    before = maps.locator("img").evaluate_all("all => all.map((one) => one.src)")
    slider = page.locator(".in-slide input")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".in-layer")).to_have_text("3 of 0–7")
    after = maps.locator("img").evaluate_all("all => all.map((one) => one.src)")
    assert all(a != b for a, b in zip(before, after, strict=True))
    maps.locator(".in-picture").first.focus()
    page.keyboard.press("ArrowDown")
    told = maps.locator(".in-told")
    expect(told.first).to_contain_text(re.compile(r"Patch \d+, layer 3: "))
    first = told.first.inner_text()
    page.keyboard.press("ArrowRight")
    expect(told.first).not_to_have_text(first)
    assert told.nth(0).inner_text().split(":")[0] == told.nth(1).inner_text().split(":")[0]
    box = maps.locator(".in-picture").nth(1).bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    expect(told.first).to_contain_text("Patch 0, layer 3")
    figures = page.locator(".in-figure svg")
    assert figures.count() >= 4
    for figure in figures.all():
        assert len(figure.get_attribute("aria-label")) > 20


def test_settings_follow_what_is_chosen_and_refusals_are_sentences(visit):
    page = visit("?seed=8&view=inside", **LAPTOP)
    page.get_by_role("button", name=re.compile(inside_words.SETTINGS)).click()
    head = page.get_by_label("Head; none is the mean")
    expect(head).to_be_visible()
    head.fill("99")
    press(page, inside_words.RUN)
    expect(page.locator(f"{VIEW} .vp-status")).to_contain_text("head must be", timeout=PATIENCE)
    head.fill("<s>9</s>&lt;")
    press(page, inside_words.RUN)
    # As typed, but for invisible letters: gradio draws this line as HTML.
    expect(page.locator(".toast-body")).to_contain_text("<\u2060s>9<\u2060/s>&\u2060lt;")
    head.fill("")
    page.get_by_label(ANALYSES["attention"].title, exact=True).uncheck()
    expect(head).to_be_hidden()
    look(page)
    for name in inside.FIRST:
        page.get_by_label(ANALYSES[name].title, exact=True).set_checked(False)
    press(page, inside_words.RUN)
    expect(page.locator(f"{VIEW} .vp-status")).to_contain_text(
        inside_words.NOTHING, timeout=PATIENCE
    )


def test_a_phone_scrolls_figures_and_not_the_page(visit):
    page = visit("?seed=8&view=inside", **PHONE)
    look(page)
    fits(page, 390)
    picture = page.locator(".in-picture").first
    picture.scroll_into_view_if_needed()
    picture.tap(position={"x": 5, "y": 5})
    expect(page.locator(".in-told").first).to_contain_text("Patch 0")


def test_stop_ends_a_wait_and_enter_runs_the_first_view(visit, mini_path):
    page = visit("?seed=8&view=inside", **LAPTOP)
    look(page)
    lock = page_server.models(mini_path).get(page_server.models(mini_path).default).lock
    with lock:  # another visitor's long answer
        press(page, inside_words.RUN)
        status = page.locator(f"{VIEW} .vp-status")
        expect(status).to_contain_text(text.WAITING, timeout=PATIENCE)
        page.locator("#vp-inside-stop").click()
        expect(status).to_contain_text(text.STOPPED, timeout=PATIENCE)
    look(page)
    for _ in range(2):  # at once: gradio still cancels what Stop left
        press(page, inside_words.RUN)
        page.locator("#vp-inside-stop").click()
    look(page)
    page.locator("#vp-inside-stop").click()  # nothing runs
    expect(page.locator(f"{VIEW} .vp-status")).to_contain_text("Done")
    question(page).press("Enter")  # runs the first view, which then is shown
    expect(page.locator("#vp-view-compare")).to_be_visible()
    expect(page.locator(".vp-verdict.same, .vp-verdict.different")).to_be_visible(timeout=PATIENCE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_look_inside(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit("?seed=8&view=inside", color_scheme=scheme, **LAPTOP)
    page.get_by_label(ANALYSES["tokens"].title, exact=True).check()
    page.get_by_role("button", name=re.compile(inside_words.SETTINGS)).click()
    look(page)
    page.locator(".in-picture").first.click()
    page.wait_for_timeout(300)  # colours fade
    faults = Axe().run(page).response["violations"]
    assert not {one["id"]: [node["html"][:160] for node in one["nodes"]][:4] for one in faults}


def test_figures_of_a_layer_follow_the_slider(visit):
    page = visit("?seed=8&view=inside", **LAPTOP)
    page.get_by_label(ANALYSES["tokens"].title, exact=True).check()
    look(page)
    figure = page.locator(".in-figure", has_text=ANALYSES["tokens"].question)
    expect(figure).to_have_count(1)
    expect(figure.locator("svg")).to_contain_text("layer 2")
    page.locator(".in-slide input").focus()
    page.keyboard.press("ArrowRight")
    expect(figure.locator("svg")).to_contain_text("layer 3")
