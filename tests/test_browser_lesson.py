"""The lesson in a real Chromium: keys alone, its slider, Try it, the quiz, a phone, paper, axe."""

from __future__ import annotations

import re

import page_server
import pytest
from browsing import PATIENCE, PHONE, fits, question
from playwright.sync_api import Page, expect

from visipruner.lesson import reading
from visipruner.ui import tabs, text

pytest_plugins = ["browsing"]
LAPTOP = {"viewport": {"width": 1280, "height": 720}}
PLAN = reading.read()


def open_step(visit, number: int, **settings) -> Page:
    page = visit(f"?view=lesson&step={number}", **{**LAPTOP, **settings})
    expect(page.locator(".le-title")).to_have_text(PLAN.steps[number - 1].title, timeout=PATIENCE)
    return page


def wait_for(page: Page, state: str = "done"):
    expect(page.locator(".le")).to_have_attribute("data-state", state, timeout=PATIENCE)


def reveal(page: Page, state: str = "done"):
    page.locator(".le-next").click()
    wait_for(page, state)


def answers(page: Page) -> list[str]:
    return page.locator(".le-rows b").all_inner_texts()


def test_a_presenter_plays_a_step_with_keys_alone(visit):
    page = open_step(visit, 4)
    expect(page.locator(".vp-inputs")).to_be_hidden()
    expect(page.locator(".le-told li")).to_have_count(0)  # nothing is told before the prediction
    page.keyboard.press("2")
    expect(page.locator(".le-choice").nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("PageDown")  # as a clicker sends it
    wait_for(page)
    assert answers(page) == ["purple", "purple", "none", "purple"]
    expect(page.locator(".le-told li")).to_have_count(3)
    expect(page.locator(".le-predict [data-right]")).to_contain_text("It stays ✓")
    expect(page.locator(".le-predict")).to_contain_text("✗ your guess")
    expect(page.locator(".le-paper")).to_contain_text("not run here")
    notes = page.locator(".le-notes")
    expect(notes).to_be_hidden()
    page.keyboard.press("n")
    expect(notes).to_contain_text(PLAN.steps[3].notes[:30])
    page.keyboard.press("ArrowRight")
    expect(page.locator(".le-title")).to_have_text(PLAN.steps[4].title)
    assert page.url.endswith("?view=lesson&step=5")
    page.keyboard.press("PageUp")
    expect(page.locator(".le-told li")).to_have_count(3)  # what was revealed stays


def test_the_tab_key_keeps_its_place_among_choices(visit):
    page = open_step(visit, 4)
    choice = page.locator(".le-predict .le-choice").nth(1)
    choice.focus()
    page.keyboard.press("Space")
    expect(choice).to_have_attribute("aria-pressed", "true")
    expect(choice).to_be_focused()
    page.keyboard.press("Enter")  # on what is chosen already it goes on
    wait_for(page)
    page.get_by_role("button", name="Quiz", exact=True).click()
    boxes = page.locator(".le-quiz fieldset")
    boxes.nth(0).locator(".le-choice").first.focus()
    page.keyboard.press("Enter")
    expect(boxes.nth(1).locator(".le-choice").first).to_be_focused()


def test_notes_of_a_long_step_come_into_view(visit):
    page = open_step(visit, 8)
    page.evaluate("vp.projector()")
    reveal(page)
    page.keyboard.press("n")
    page.wait_for_timeout(300)
    notes, nav = (page.locator(part).bounding_box() for part in (".le-notes", ".le-nav"))
    assert notes["y"] + notes["height"] <= nav["y"] + 1


def test_a_step_may_choose_another_model_and_the_page_says_so(visit):
    page = open_step(visit, 8)
    reveal(page)
    page.keyboard.press("t")
    expect(page.locator(".vp-modelline")).to_contain_text("tiny-aligned", timeout=PATIENCE)


def test_a_clicker_works_at_once_after_the_tab_was_chosen(visit):
    page = visit("", **LAPTOP)
    page.get_by_role("tab", name=tabs.TITLES[tabs.LESSON]).click()
    page.keyboard.press("PageDown")
    wait_for(page)
    assert answers(page) == ["5", "2"]


def test_the_next_step_may_begin_just_as_one_has_ended(visit):
    page = open_step(visit, 1)
    for step in PLAN.steps[:3]:
        page.keyboard.press("PageDown")
        wait_for(page)
        expect(page.locator(".le-title")).to_have_text(step.title)
        page.keyboard.press("PageDown")


def test_the_slider_moves_by_arrows_and_by_cells(visit):
    page = open_step(visit, 6)
    reveal(page)
    assert answers(page) == ["8"]
    place, here = page.locator(".le-slide b"), page.locator(".le-strip [data-here] button")
    expect(place).to_have_text("5")
    expect(here).to_contain_text("4")
    before = page.locator(".le-pictures img").get_attribute("src")
    page.locator("body").press("ArrowUp")
    expect(place).to_have_text("6")
    expect(here).to_contain_text("5")
    page.locator(".le-strip td button").nth(10).click()
    expect(place).to_have_text("10")
    expect(page.locator(".le-strip [data-here]")).to_have_class("right")
    page.locator(".le-slide input").focus()
    page.keyboard.press("ArrowLeft")  # the slider's own key does not turn the page
    expect(place).to_have_text("9")
    expect(page.locator(".le-title")).to_have_text(PLAN.steps[5].title)
    assert page.locator(".le-pictures img").get_attribute("src") == before  # nothing is left anyway


def test_maps_follow_the_layer(visit):
    page = open_step(visit, 3)
    reveal(page)
    pictures = page.locator(".le-pictures img")
    expect(pictures).to_have_count(2)
    assert "layer 3" in pictures.first.get_attribute("alt")
    first = pictures.first.get_attribute("src")
    page.locator("body").press("ArrowDown")
    assert "layer 2" in pictures.first.get_attribute("alt")
    assert pictures.first.get_attribute("src") != first


def test_try_it_opens_the_free_page_with_the_step(visit):
    page = open_step(visit, 1)
    reveal(page)
    page.keyboard.press("t")
    expect(page.locator("#vp-view-compare")).to_be_visible()
    expect(question(page)).to_have_value(PLAN.steps[0].question, timeout=PATIENCE)
    expect(page.get_by_label(text.SCENE_SEED)).to_have_value("65")
    expect(page.get_by_label("gentle")).to_be_checked()
    page.get_by_role("tab", name=tabs.TITLES[tabs.LESSON]).click()
    expect(page.locator(".le-told li")).to_have_count(3)


def test_stop_ends_a_wait_and_the_step_can_run_again(visit, mini_path):
    page = open_step(visit, 4)
    with page_server.models(mini_path).get("tiny").lock:  # another visitor's long answer
        page.locator(".le-next").click()
        expect(page.locator(".le-doing")).to_contain_text("reads the picture", timeout=PATIENCE)
        expect(page.locator(".le-next")).to_be_disabled()
        expect(page.locator(".le-seconds")).to_have_text(re.compile(r"^\d+ s$"), timeout=PATIENCE)
        assert page.locator(".le-news").inner_text().endswith("…")  # seconds are not read aloud
        page.keyboard.press("Escape")
        wait_for(page, "stopped")
        expect(page.locator(".le-doing")).to_contain_text("Stopped")
    reveal(page)
    assert answers(page) == ["purple", "purple", "none", "purple"]


def test_the_quiz_tells_what_is_right_and_counts(visit):
    page = open_step(visit, 1)
    page.get_by_role("button", name="Quiz", exact=True).click()
    boxes = page.locator(".le-quiz fieldset")
    expect(boxes).to_have_count(3)
    for number, one in enumerate(PLAN.quiz):
        expect(boxes.nth(number).locator(".le-why")).to_have_count(0)
        chosen = one.right if number else (one.right + 1) % 3
        boxes.nth(number).locator(".le-choice").nth(chosen).click()
        expect(boxes.nth(number).locator(".le-why")).to_have_text(one.why)
    expect(page.locator(".le-score")).to_have_text("2 of 3 right.")


@pytest.mark.parametrize("number", [1, 3, 4, 5, 6])
def test_a_projector_shows_picture_sentences_and_answers_on_one_screen(visit, number):
    page = open_step(visit, number)
    page.evaluate("vp.projector()")
    reveal(page)
    page.wait_for_timeout(800)  # it scrolls smoothly
    bottom = page.locator(".le-nav").bounding_box()["y"]
    for part in (".le-pictures", ".le-told", ".le-found"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= bottom, part


def test_a_phone_plays_it_without_sideways_scrolling(visit):
    page = visit("?view=lesson&step=5", **PHONE)
    page.locator(".le-choice").nth(1).tap()
    reveal(page)
    fits(page, 390)
    found, told = (page.locator(part).bounding_box() for part in (".le-found", ".le-told"))
    assert found["y"] < told["y"]


def test_the_whole_lesson_is_saved_to_print(visit, tmp_path):
    page = open_step(visit, 1)
    with page.expect_download(timeout=2 * PATIENCE) as caught:
        page.locator("#vp-lesson-print").click()
        status = page.locator("#vp-view-lesson .vp-status")
        expect(status).to_contain_text(re.compile(r"Step \d of 8"), timeout=PATIENCE)
    caught.value.save_as(tmp_path / "lesson.html")
    assert all(step.title in (tmp_path / "lesson.html").read_text() for step in PLAN.steps)
    expect(status).to_have_text(text.LESSON_PRINTED)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_lesson(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_step(visit, 5, color_scheme=scheme)

    def faults() -> dict:
        page.wait_for_timeout(300)  # colours fade
        found = Axe().run(page).response["violations"]
        return {one["id"]: [node["html"][:160] for node in one["nodes"]][:4] for one in found}

    assert not faults()
    page.keyboard.press("1")
    reveal(page)
    page.keyboard.press("n")
    assert not faults()
    page.get_by_role("button", name="Quiz", exact=True).click()
    page.locator(".le-quiz .le-choice").first.click()
    assert not faults()
