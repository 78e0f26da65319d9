"""The arena in a real Chromium: four methods, all of them, a phone, Stop, and the tabs."""

from __future__ import annotations

import itertools
import re
import threading

import pytest
from browsing import (
    PATIENCE,
    PHONE,
    SEEN,
    colours_of,
    fits,
    press,
    question,
    set_longest_answer,
)
from playwright.sync_api import Page, expect

from visipruner.choice import brief_title
from visipruner.evaluation.arena import FIRST, every
from visipruner.running import runner
from visipruner.ui import tabs, text

pytest_plugins = ["browsing"]
LAPTOP = {"viewport": {"width": 1280, "height": 720}}
TITLES = [text.FULL, *map(brief_title, FIRST)]


def run(page: Page, button: str = text.ARENA_RUN):
    press(page, button)
    expect(page.locator("#vp-view-arena")).to_have_attribute("data-run", "done", timeout=PATIENCE)


def cards(page: Page):
    return page.locator(".ar-side")


def test_tabs_change_the_view_by_click_keys_and_link(visit):
    page = visit("?seed=8", **LAPTOP)
    tab = {name: page.get_by_role("tab", name=title) for name, title in tabs.TITLES.items()}
    view = {name: page.locator(f"#vp-view-{name}") for name in tabs.TITLES}
    method = page.get_by_label(text.METHOD, exact=True)

    def is_shown(name: str):
        for one in tabs.TITLES:
            expect(tab[one]).to_have_attribute("aria-selected", str(one == name).lower())
            expect(view[one]).to_be_visible() if one == name else expect(view[one]).to_be_hidden()
        expect(method).to_be_visible(visible=name == tabs.COMPARE)
        expect(page.locator("#vp-inside")).to_be_visible(visible=name == tabs.INSIDE)
        expect(page.locator("#vp-arena")).to_be_visible(visible=name == tabs.ARENA)
        expect(question(page)).to_be_visible(visible=name != tabs.LESSON)

    is_shown(tabs.COMPARE)
    tab[tabs.ARENA].click()
    is_shown(tabs.ARENA)
    page.keyboard.press("ArrowLeft")
    is_shown(tabs.INSIDE)
    page.keyboard.press("ArrowLeft")
    is_shown(tabs.COMPARE)
    page.keyboard.press("ArrowLeft")  # round to the last
    expect(tab[tabs.LESSON]).to_be_focused()
    is_shown(tabs.LESSON)
    page.keyboard.press("Home")
    is_shown(tabs.COMPARE)
    again = visit("?seed=8&view=arena", **LAPTOP)
    expect(again.locator("#vp-view-arena")).to_be_visible()
    expect(again.locator("#vp-view-compare")).to_be_hidden()


def test_four_methods_stand_beside_the_baseline_on_one_screen(visit):
    page = visit("?seed=8&view=arena", **LAPTOP)
    budget = page.get_by_label(f"number input for {text.ARENA_BUDGET}")
    expect(budget).to_have_value("4")  # a quarter of this model's 16 patches
    expect(page.locator("#vp-budget-share")).to_contain_text("25% of 16")
    set_longest_answer(page, 1)
    page.get_by_role("button", name=re.compile(text.ADVANCED)).click()  # folded again
    run(page)
    expect(cards(page).locator("h3")).to_have_text(TITLES)
    boxes = [card.bounding_box() for card in cards(page).all()]
    assert len({box["y"] for box in boxes}) == 1  # in one row
    pictures = page.locator(".ar-side canvas")
    for picture in pictures.all():
        box = picture.bounding_box()
        assert box["y"] + box["height"] <= 720 and box["width"] > 120
        assert colours_of(picture) > 50
    fits(page, 1280)
    for number, costs in enumerate(page.locator(".ar-costs").all_inner_texts()):
        assert ("×" in costs or "as many" in costs) == (number > 0)
        assert "prefill" in costs and "first word" in costs
    expect(page.locator(".ar-note")).to_contain_text(text.ARENA_UNMEASURED)
    expect(page.locator(".ar-kinds")).to_contain_text("executed")
    budget.fill("8")
    budget.press("Tab")
    expect(page.locator("#vp-budget-share")).to_contain_text("50% of 16")
    run(page)
    expect(page.locator(".ar-wish")).to_contain_text("wished: 8 of 16")


def test_a_patch_tells_what_each_method_did_with_it(visit):
    page = visit("?seed=8&view=arena", **LAPTOP)
    run(page)
    place, fates = page.locator(".ar-place"), page.locator(".ar-fates tbody tr")
    expect(fates).to_have_count(0)
    picture = page.locator(".ar-side canvas").nth(3)
    box = picture.bounding_box()
    picture.click(position={"x": 0.4 * box["width"], "y": 0.1 * box["height"]})
    expect(place).to_contain_text(re.compile(r"^Row 1, column 2.*: kept by \d of [34] methods$"))
    expect(fates).to_have_count(4)
    expect(fates.locator("th")).to_have_text(TITLES[1:])
    for row in fates.locator("td:last-child").all_inner_texts():
        assert re.match(r"(dropped|merged|stays)", row), row
    picture.focus()
    page.keyboard.press("ArrowDown")
    expect(place).to_contain_text("Row 2, column 2")
    label = picture.get_attribute("aria-label")
    assert TITLES[3] in label and "keep a token of their own" in label
    page.keyboard.press("Escape")
    expect(fates.first).to_be_hidden()


def test_agreement_is_one_picture_with_a_legend_and_overlaps(visit):
    page = visit("?seed=8&view=arena", **LAPTOP)
    run(page)
    page.get_by_label("agreement").check()
    expect(page.locator(".ar-side canvas").first).to_be_hidden()
    picture = page.locator(".ar-one canvas")
    expect(picture).to_be_visible()
    picture.scroll_into_view_if_needed()
    assert colours_of(picture) > 20
    steps = page.locator(".ar-steps li").all_inner_texts()
    assert sum(int(re.search(r": (\d+) patch", step)[1]) for step in steps) == 16
    rows = page.locator(".ar-overlap tbody tr")
    expect(rows).to_have_count(3)
    shares = page.locator(".ar-overlap td b").all_inner_texts()
    assert len(shares) == 6 and all(0 <= float(share) <= 1 for share in shares)
    expect(page.locator(".ar-overlap td small")).to_have_count(6)  # what chance would give
    picture.click(position={"x": 10, "y": 10})
    expect(page.locator(".ar-place")).to_contain_text("Row 1, column 1")
    page.get_by_label("a picture each").check()
    expect(page.locator(".ar-side canvas").first).to_be_visible()
    expect(picture).to_be_hidden()


def test_on_a_phone_the_methods_are_swiped(visit):
    page = visit("?seed=8&view=arena", **PHONE)
    run(page)
    expect(cards(page)).to_have_count(5)
    row = page.locator(".ar-sides")
    wide = "row => [row.scrollWidth, row.clientWidth, getComputedStyle(row).scrollSnapType]"
    inside, shown, snap = row.evaluate(wide)
    assert inside > 3 * shown and snap == "x mandatory"
    fits(page, 390)
    first, second = (cards(page).nth(number).bounding_box() for number in (0, 1))
    assert first["x"] >= 0 and second["x"] < 390  # the next one peeps in
    row.evaluate("row => row.scrollBy({ left: 250, behavior: 'instant' })")
    expect(cards(page).nth(1)).to_be_in_viewport(ratio=0.4)
    assert row.evaluate("row => row.scrollLeft") == pytest.approx(
        second["x"] - first["x"], abs=2
    )  # at the edge of a card
    run(page, text.ARENA_ALL)
    fits(page, 390)


def test_all_methods_are_a_sortable_table_and_a_gallery(visit):
    page = visit("?seed=8&view=arena", **LAPTOP)
    run(page, text.ARENA_ALL)
    rows = page.locator(".ar-numbers tbody tr")
    expect(rows).to_have_count(1 + len(every()))
    refused = page.locator(".ar-numbers .ar-refused")
    expect(refused.first).to_contain_text("on this model; its least is")
    expect(cards(page)).to_have_count(1 + len(every()) - refused.count())
    assert colours_of(page.locator(".ar-side canvas").last) > 20
    head = page.get_by_role("columnheader", name="Tokens per layer")
    used = page.locator(".ar-numbers tbody tr td:nth-child(3)")

    def numbers() -> list[float]:
        return [float(words) for words in used.all_inner_texts() if re.match(r"[\d.]+$", words)]

    for direction in ("ascending", "descending"):
        head.get_by_role("button").press("Enter")
        expect(head).to_have_attribute("aria-sort", direction)
        expect(head.get_by_role("button")).to_be_focused()
        assert numbers() == sorted(numbers(), reverse=direction == "descending")
    run(page)  # four methods again
    expect(page.locator(".ar-numbers")).to_be_hidden()
    expect(cards(page)).to_have_count(5)


def test_stop_keeps_what_has_finished_of_all_methods(visit, tmp_path, monkeypatch, request):
    answer, turns, stopped = runner._answer, itertools.count(1), threading.Event()
    request.addfinalizer(stopped.set)  # also if the test fails: its run would hold up the next try

    def some_then_wait(*given):
        if next(turns) > 6:  # more than two cards need: an earlier test's run may still answer
            stopped.wait(60)
        return answer(*given)

    monkeypatch.setattr(runner, "_answer", some_then_wait)
    page = visit("?seed=8&view=arena", **LAPTOP)
    press(page, text.ARENA_ALL)
    expect(cards(page).nth(1)).to_be_visible(timeout=PATIENCE)
    page.locator("#vp-arena-stop").click()
    stopped.set()
    expect(page.locator("#vp-view-arena .vp-status")).to_have_text(text.STOPPED, timeout=PATIENCE)
    expect(page.locator("#vp-view-arena")).to_have_attribute("data-run", "stopped")
    finished = cards(page).count()
    assert 2 <= finished < 1 + len(every())
    waiting = page.locator(".ar-numbers tbody td", has_text="not run")
    expect(waiting.first).to_have_text("not run", **SEEN)
    with page.expect_download() as caught:
        press(page, text.SAVE_CSV)
    caught.value.save_as(tmp_path / "arena.csv")
    assert (tmp_path / "arena.csv").read_text().count("\n") == 2 + len(every())
    run(page)  # the next run works
    expect(cards(page)).to_have_count(5)


def test_what_is_wrong_is_said_before_anything_runs(visit):
    page = visit("?seed=8&view=arena", **LAPTOP)
    budget = page.get_by_label(f"number input for {text.ARENA_BUDGET}")
    budget.fill("1")
    budget.press("Tab")
    press(page, text.ARENA_RUN)
    said = "FastV cannot use as few as 1 visual tokens per layer"
    expect(page.locator("#vp-view-arena .vp-status")).to_contain_text(said, timeout=PATIENCE)
    expect(page.locator(".ar-board")).to_be_hidden()
    budget.fill("8")
    budget.press("Tab")
    run(page)
    question(page).fill("")
    press(page, text.ARENA_RUN)
    status = page.locator("#vp-view-arena .vp-status")
    expect(status).to_contain_text("question is empty", timeout=PATIENCE)
    expect(cards(page)).to_have_count(5)  # the run before stays


def test_a_projector_shows_answers_and_pictures_on_one_screen(visit):
    page = visit("?seed=8&view=arena", **LAPTOP)
    set_longest_answer(page, 1)
    page.get_by_role("button", name=re.compile(text.ADVANCED)).click()  # folded again
    press(page, text.PROJECTOR)
    run(page)
    page.wait_for_function(
        """async () => {
            const place = () => document.querySelector(".ar-sides").getBoundingClientRect().top;
            const before = place();
            await new Promise((done) => setTimeout(done, 300));
            return place() === before;
        }"""
    )
    bar = page.locator(".vp-actions:visible").bounding_box()["y"]
    for card in cards(page).all():
        assert card.locator("h3").bounding_box()["y"] >= 0
        picture = card.locator("canvas").bounding_box()
        assert picture["y"] + picture["height"] <= bar
    size = "element => parseFloat(getComputedStyle(element).fontSize)"
    assert page.locator(".ar-answer b").first.evaluate(size) >= 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_arena(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit("?seed=8&view=arena", color_scheme=scheme)

    def faults() -> dict:
        found = {}
        for _ in range(5):  # colours fade, on a slow machine for longer
            page.wait_for_timeout(300)
            found = {
                fault["id"]: [node["html"][:160] for node in fault["nodes"]][:4]
                for fault in Axe().run(page).response["violations"]
            }
            if not found:
                break
        return found

    run(page)
    page.locator(".ar-side canvas").nth(2).click()
    expect(page.locator(".ar-fates tbody tr")).to_have_count(4)
    assert not faults()
    page.get_by_label("agreement").check()
    assert not faults()
    run(page, text.ARENA_ALL)
    page.get_by_label("a picture each").check()
    assert not faults()
