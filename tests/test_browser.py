"""The page in a real Chromium, strictly offline; any failed request fails the test."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace

import page_server
import pytest
import torch
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

from visipruner.choice import short_title
from visipruner.methods import METHODS, FastV, PruningMethod
from visipruner.models.catalogue import load_vlm
from visipruner.render.report import report_html
from visipruner.running import runner
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.sheets import Sheet, grid_boxes
from visipruner.ui import fields, teaching, text
from visipruner.world.drawing import render
from visipruner.world.phrases import LLAVA_SHORT
from visipruner.world.scenes import make_scene

pytest_plugins = ["browsing"]
FINISHED = ".vp-verdict.same, .vp-verdict.different"


def run(page: Page):
    press(page, text.RUN)
    expect(page.locator(FINISHED)).to_be_visible(timeout=PATIENCE)


def test_first_answer_takes_one_click(visit):
    page = visit()
    expect(page.locator(".js-plotly-plot")).to_have_count(0)
    run(page)
    expect(page.locator(".vp-side .vp-answer")).to_have_count(2)
    expect(page.locator(".vp-number").nth(1)).to_contain_text(text.TOKENS)
    for figure in page.locator(".vp-number strong").all_inner_texts():
        assert figure not in ("?", text.ONE_RUN)
    expect(page.locator(".vp-truth")).to_contain_text("True answer")
    expect(page.locator(".vp-counters")).to_contain_text("formula")
    expect(page.locator(".js-plotly-plot")).to_have_count(3, timeout=PATIENCE)
    expect(page.locator("[role=status].vp-unseen")).to_contain_text("Done")
    press(page, text.STOP)  # nothing is running any more
    page.wait_for_timeout(1000)
    expect(page.locator(".vp-status")).to_contain_text("Done")


@pytest.fixture
def two_sheets(browser, mini_path, picture, tmp_path):
    """A report in which 16 visual tokens lie on two pictures, and three on none."""
    vlm = load_vlm(mini_path, device="cpu")
    methods, options = [PruningMethod(), FastV(keep=5)], Options(max_new_tokens=1, clock_rounds=0)
    prompt = vlm.prepare(picture, "what colour is the star?")
    found = last_event(compare(vlm, prompt, methods, options)).comparison
    part = picture.crop((0, 0, 30, 60))
    sheets = (
        Sheet("whole picture", picture, grid_boxes(picture.size, 2, 4) + (None,) * 8),
        Sheet("part", part, (None,) * 8 + grid_boxes(part.size, 3, 2)[:5] + (None,) * 3),
    )
    found = replace(found, prompt=replace(prompt, sheets=sheets, padding=(3, 15)))
    (tmp_path / "report.html").write_text(report_html(found, {}))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    yield page
    page.close()
    assert not errors


def test_tokens_on_several_pictures_are_drawn_and_walked_through(two_sheets):
    viewer = two_sheets.locator(".pv")
    expect(viewer.locator(".pv-note")).to_contain_text("3 of 16 visual tokens look at no place")
    expect(viewer.locator(".pv-note")).to_contain_text("Beside each other: whole picture; part.")
    canvas, said = viewer.locator(".pv-canvas"), viewer.locator(".pv-patch")
    expect(canvas).to_have_attribute("aria-label", re.compile("it, 13 patches. Layer"))
    assert colours_of(canvas) > 50
    box = canvas.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(2, abs=0.1)  # 90 x 60 beside 30 x 60
    canvas.click(position={"x": 8, "y": 8})
    expect(said).to_contain_text("Whole picture, row 1, column 1")
    for key, where in [
        ("ArrowUp", "Whole picture, row 1, column 1"),
        ("ArrowRight", "Whole picture, row 1, column 2"),
        ("ArrowRight", "Whole picture, row 1, column 3"),
        ("ArrowRight", "Whole picture, row 1, column 4 (only padding)"),
        ("ArrowRight", "Part, 0 % from the left, 0 % from the top"),
        ("ArrowDown", "Part, 0 % from the left, 33 % from the top"),
        ("ArrowRight", "Part, 50 % from the left, 33 % from the top"),
        ("ArrowRight", "Part, 50 % from the left, 33 % from the top"),
        ("ArrowDown", "Part, 0 % from the left, 67 % from the top"),
        ("ArrowLeft", "Whole picture, row 2, column 4"),
    ]:
        canvas.press(key)
        expect(said).to_contain_text(where)
    canvas.press("Escape")
    canvas.click(position={"x": box["width"] - 8, "y": box["height"] - 8})  # here is no box
    expect(said).to_contain_text("Point at a patch")


def test_the_viewer_shows_what_happened(visit):
    page = visit()
    run(page)
    viewer = page.locator(".pv")
    expect(viewer.locator(".pv-chip").nth(1)).to_be_visible()
    expect(viewer.locator(".pv-sentence")).to_contain_text("visual token")
    expect(viewer.locator(".pv-number")).to_have_text(re.compile(r"^\d"))
    expect(viewer.locator(".pv-ribbon span")).to_have_count(8)
    canvas = viewer.locator(".pv-canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("visual tokens are left"))
    assert colours_of(canvas) > 50
    viewer.get_by_text("in the full model").click()
    expect(viewer.locator(".pv-tick").first).to_be_visible()
    assert colours_of(viewer.locator(".pv-scale")) > 20
    expect(viewer.locator(".pv-sentence")).to_contain_text("The full model reads all")
    expect(viewer.locator(".pv-key-gone")).to_be_hidden()
    canvas.hover()
    expect(viewer.locator(".pv-patch")).to_contain_text("Row")


def test_the_box_for_one_word_and_the_question_follow_each_other(visit):
    page = visit("?seed=49&question=where+is+the+red+thing%3F")
    box = page.get_by_role("checkbox", name=text.ONE_WORD)
    expect(box).not_to_be_checked()
    box.check()
    expect(question(page)).to_have_value(f"where is the red thing? {LLAVA_SHORT}")
    box.uncheck()
    expect(question(page)).to_have_value("where is the red thing?")
    question(page).fill("Is it red? ANSWER IN ONE WORD")
    expect(box).to_be_checked()
    question(page).fill(
        "Answer in one word. 这是什么？"
    )  # a request for one word, but not at the end
    expect(box).not_to_be_checked()
    question(page).fill("is it red? one word only.")
    expect(box).to_be_checked()
    press(page, text.SCENE)  # the next scene's question has the same form
    expect(question(page)).to_have_value(re.compile(re.escape(LLAVA_SHORT) + "$"))
    expect(box).to_be_checked()
    question(page).fill("")
    expect(box).not_to_be_checked()
    box.click()  # the question is empty
    expect(box).not_to_be_checked()
    expect(question(page)).to_have_value("")


def test_stop_stops_within_a_second(visit, mini_path):
    models = page_server.models(mini_path)
    vlm = models.get(models.default)
    page = visit()
    set_longest_answer(page, 256)
    press(page, text.RUN)
    words = page.locator(".vp-side .vp-answer", has_text=re.compile(r"\w{2}")).first
    expect(words).to_be_visible(timeout=PATIENCE)
    # The browser measures: a busy machine may delay the click.
    click = "(stop) => { const now = Date.now() / 1000; stop.click(); return now; }"
    pressed = page.get_by_role("button", name=text.STOP, exact=True).evaluate(click)
    second = PATIENCE / 60_000  # longer with more patience
    while vlm.lock.locked() and time.time() - pressed < second:
        time.sleep(0.02)
    assert time.time() - pressed < second
    expect(page.locator(".vp-status")).to_contain_text("Stopped")
    run(page)  # the next run works


# A slow network: the server's answers to a started event come late.
LATE = """() => {
    const send = window.fetch;
    window.fetch = async (...asked) => {
        const answer = await send(...asked);
        const begins = String(asked[0]).includes("queue/join");
        if (begins) await new Promise((go) => setTimeout(go, 1500));
        return answer;
    };
}"""


@pytest.mark.parametrize("wait", [300, 2000])
def test_stop_stops_a_run_whose_name_is_still_on_its_way(visit, wait):
    """Gradio would ask the server to stop "null": the visit also fails at that refused request."""
    page = visit()
    page.evaluate(LATE)
    press(page, text.RUN)
    page.wait_for_timeout(wait)
    press(page, text.STOP)
    page.wait_for_timeout(6000)
    expect(page.locator(".vp-verdict.same, .vp-verdict.different")).to_have_count(0)
    expect(page.locator(".vp-status.busy")).to_have_count(0)
    run(page)  # the next run works


def test_two_visitors_do_not_disturb_each_other(visit):
    links, answers = ("?seed=5", "?seed=8"), []
    for link in links:
        alone = visit(link)
        run(alone)
        answers.append(alone.locator(".vp-answer").all_inner_texts())
    pages = [visit(link) for link in links]
    for page in pages:
        press(page, text.RUN)
    for page, said in zip(pages, answers, strict=True):
        expect(page.locator(FINISHED)).to_be_visible(timeout=PATIENCE)
        assert page.locator(".vp-answer").all_inner_texts() == said


def test_who_waits_is_told_and_a_full_queue_too(visit, mini_path, monkeypatch):
    models = page_server.models(mini_path)
    first, second, third = visit(), visit(), visit()
    run(second)
    monkeypatch.setattr(page_server.page(mini_path)._queue, "max_size", 1)
    with models.get(models.default).lock:  # another visitor's long answer
        question(first).press("Enter")
        expect(first.locator(".vp-status")).to_contain_text(text.WAITING, timeout=PATIENCE)
        question(second).fill("what colour is the heart?")
        question(second).press("Enter")
        expect(second.locator("#vp-view-compare .block.vp-statusbox")).to_contain_text(
            "queue: 1/1", timeout=PATIENCE
        )
        expect(second.locator(".vp-status")).to_contain_text(text.WAITING)
        for shown in (".vp-verdict", ".vp-side >> nth=0"):  # they answer the question before
            expect(second.locator(shown)).to_have_css("opacity", "0.4")
        question(third).press("Enter")
        expect(third.locator(".toast-body")).to_contain_text("busy", timeout=PATIENCE)
        assert visit.bad and all(bad.startswith("503 ") for bad in visit.bad)  # only the refusal
        visit.bad.clear()
        visit("?seed=5")  # a full queue still lets visitors in
    for page in (first, second):
        expect(page.locator(FINISHED)).to_be_visible(timeout=PATIENCE)
        expect(page.locator(".vp-verdict")).to_have_css("opacity", "1")


def test_on_a_phone_a_finger_places_drags_and_scrolls(visit):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = visit("?seed=3", **phone)
    page.get_by_role("button", name=re.compile(text.COMPOSE)).click()
    canvas = page.locator(".cs-canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("Scene:"), timeout=PATIENCE)
    page.locator(".cs-clear").click()
    expect(canvas).to_have_attribute("aria-label", "An empty scene")
    canvas.evaluate("canvas => canvas.scrollIntoView({ block: 'center' })")
    fingers = page.context.new_cdp_session(page)

    def touch(kind, *points):
        points = [{"x": x, "y": y} for x, y in points]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def swipe(across, down, pixels):
        """From a point of the canvas, in shares of its size; returns how far the page scrolled."""
        box, before = canvas.bounding_box(), page.evaluate("scrollY")
        x, y = box["x"] + across * box["width"], box["y"] + down * box["height"]
        touch("touchStart", (x, y))
        for step in range(1, 13):
            touch("touchMove", (x, y + pixels * step / 12))
            page.wait_for_timeout(16)
        touch("touchEnd")
        page.wait_for_timeout(300)
        return page.evaluate("scrollY") - before

    assert swipe(0.3, 0.6, -120) > 60  # on the ground
    expect(canvas).to_have_attribute("aria-label", "An empty scene")
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(canvas).to_have_attribute("aria-label", re.compile(r"star, centre$"))
    assert swipe(0.5, 0.5, -120) == 0  # on the star
    expect(canvas).to_have_attribute("aria-label", re.compile(r"star, top$"))


def test_a_scene_is_composed_by_click_and_keyboard(visit):
    page = visit()
    page.get_by_role("button", name=text.COMPOSE).click()
    canvas, live = page.locator(".cs-canvas"), page.locator(".cs-live")
    expect(canvas).to_have_attribute("aria-label", re.compile("^Scene: "))  # the example
    page.locator(".cs-clear").click()
    page.locator(".cs").get_by_text("heart", exact=True).click()
    canvas.click(position={"x": 60, "y": 60})
    canvas.click(position={"x": 200, "y": 200}, button="right")  # adds nothing
    expect(live).to_have_text("Added: medium red heart, top-left.")
    page.locator(".cs").get_by_text("green", exact=True).click()
    page.locator(".cs").get_by_text("large", exact=True).click()
    expect(live).to_have_text("Changed: large green heart, top-left.")
    canvas.focus()
    for key, said in (("Enter", "Added"), ("ArrowUp", "Moved"), ("[", "Chosen"), ("Delete", "Del")):
        page.keyboard.press(key)
        expect(live).to_contain_text(said)
    expect(canvas).to_have_attribute("aria-label", re.compile("^Scene: large green heart, [^;]*$"))
    press(page, "Use this picture")
    expect(page.locator(".vp-picture")).to_be_in_viewport()
    run(page)
    expect(page.locator(".vp-truth")).to_contain_text("True answer")


def test_levels_and_layers_work_from_the_keyboard(visit):
    page = visit()
    slider = page.get_by_role("slider", name=re.compile(text.LEVEL))
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_label("aggressive")).to_be_checked()
    page.get_by_label("gentle").check()
    expect(slider).to_have_value("0.25")
    question(page).focus()
    page.keyboard.press("Enter")
    expect(page.locator(FINISHED)).to_be_visible(timeout=PATIENCE)
    layer = page.get_by_label("Layer", exact=True)
    expect(layer).to_be_visible()
    before = layer.input_value()
    page.get_by_role("button", name="Previous layer").focus()
    page.keyboard.press("[" if before != "0" else "]")
    expect(layer).not_to_have_value(before)


def test_a_link_fills_the_form_and_runs_nothing(visit):
    page = visit("?seed=8&question=is+it+blue%3F&method=fastv&level=0.75&model=no/such&other=1")
    expect(question(page)).to_have_value("is it blue?")
    expect(page.get_by_label(text.METHOD, exact=True)).to_have_value(METHODS["fastv"].title)
    expect(page.get_by_label("aggressive")).to_be_checked()
    expect(page.locator(".vp-notes")).to_contain_text("model")
    expect(page.locator(FINISHED)).to_have_count(0)
    page.get_by_role("button", name=re.compile(text.REPEAT)).click()
    expect(page.get_by_label(text.LINK)).to_have_value(re.compile(r"seed=8&question=is.it.blue"))
    press(page, text.COPY_LINK)
    expect(page.locator("#vp-copy")).to_contain_text("✓")
    page.locator("#vp-copy").click()
    expect(page.locator("#vp-copy")).to_have_text(text.COPY_LINK)
    link = page.get_by_label(text.LINK).input_value()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {})")  # as without https
    question(page).fill("")
    press(page, text.COPY_LINK)
    expect(page.locator("#vp-copy")).to_contain_text("✓")
    question(page).press("Control+V")
    expect(question(page)).to_have_value(link)


def test_files_come_on_click(visit, tmp_path):
    page = visit()
    run(page)
    for name, start in (
        (text.SAVE_PNG, b"\x89PNG"),
        (text.SAVE_JSON, b"{"),
        (text.SAVE_HTML, b"<!"),
    ):
        with page.expect_download() as caught:
            press(page, name)
        path = tmp_path / caught.value.suggested_filename
        caught.value.save_as(path)
        assert path.read_bytes().lower().startswith(start.lower())
    assert len(json.loads((tmp_path / "visipruner.json").read_text())["answers"]) == 2


def test_a_bad_file_gets_one_sentence_and_the_next_run_works(visit, tmp_path):
    page = visit()
    bad = tmp_path / "picture.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    page.get_by_role("button", name=re.compile("clear|remove", re.I)).first.click()
    page.locator("input[type=file]").first.set_input_files(bad)
    toast = page.locator(".toast-body")
    expect(toast).to_contain_text("damaged", timeout=PATIENCE)
    assert "Traceback" not in toast.inner_text()
    page.get_by_role("button", name=re.compile("^Example 2")).click()
    expect(page.locator(".vp-picture img")).to_be_visible(timeout=PATIENCE)
    run(page)


def test_an_empty_question_gets_one_sentence_and_the_older_result_says_what_it_is(visit):
    page = visit()
    run(page)
    question(page).fill("   ")
    press(page, text.RUN)
    expect(page.locator(".toast-body")).to_contain_text("question", timeout=PATIENCE)
    expect(page.locator(".vp-status").first).to_contain_text("question is empty", timeout=PATIENCE)
    expect(page.locator(".vp-verdict.same, .vp-verdict.different")).to_be_visible()
    expect(page.locator("#vp-older")).to_have_text(text.OLDER)
    expect(page.locator("[role=status].vp-unseen")).to_have_text(text.OLDER)


def test_a_model_that_fails_says_why_and_the_next_run_works(visit, mini_path):
    models = page_server.models(mini_path)
    norm = models.get(models.default).model.model.language_model.norm.weight
    page = visit()
    run(page)
    question(page).fill("what else?")
    with torch.inference_mode():
        whole = norm.clone()
        norm[0] = torch.nan
        try:
            press(page, text.RUN)
            status = page.locator(".vp-status").first
            expect(status).to_contain_text("not a number", timeout=PATIENCE)
            expect(page.locator("#vp-verdict h2")).to_have_text(text.NO_VERDICT_YET, **SEEN)
            ends = page.locator(".vp-answer .vp-ended")
            expect(ends).to_have_text([text.UNFINISHED_CARD] * 2, **SEEN)
            expect(page.locator("#vp-older")).to_be_hidden()
        finally:
            norm.copy_(whole)
    run(page)


def test_a_result_is_marked_while_the_form_says_something_else(visit):
    page = visit()
    older = page.locator("#vp-older")
    question(page).fill("what is this?")
    expect(older).to_be_hidden()  # no result yet
    run(page)
    expect(older).to_be_hidden()
    asked = question(page).input_value()
    question(page).fill("what else?")
    expect(older).to_be_visible()
    question(page).fill(asked)
    expect(older).to_be_hidden()
    press(page, text.SCENE)
    expect(older).to_be_visible(timeout=PATIENCE)
    run(page)
    expect(older).to_be_hidden()


def test_a_verdict_over_another_picture_says_so_and_is_grey(visit, tmp_path, monkeypatch):
    """Every way to change the picture turns the verdict grey."""
    monkeypatch.setattr(teaching, "MOST_SCENES", 2)
    page, own = visit(), tmp_path / "own.png"
    render(make_scene(11, "validation")).save(own)

    def first_example():
        page.get_by_role("button", name=re.compile("^Example 1")).click()

    first_example()
    expect(question(page)).to_have_value(re.compile(re.escape(LLAVA_SHORT) + "$"))
    run(page)
    expect(page.locator(".vp-truth")).to_be_visible()
    coloured = page.locator(".vp-verdict, .vp-verdict h2, .vp-verdict .vp-mark, .vp-side .vp-mark")
    hues = """parts => parts.map((part) => {
        const { color, borderLeftColor } = getComputedStyle(part);
        return part.matches(".vp-verdict") ? borderLeftColor : color;
    })"""
    green_or_red = coloured.evaluate_all(hues)
    older, before = page.locator("#vp-older"), page.locator(".vp-before")

    def number():
        page.get_by_label(text.SCENE_SEED, exact=True).fill("21")
        page.get_by_label(text.SCENE_SEED, exact=True).press("Enter")

    def compose():
        page.get_by_role("button", name=text.COMPOSE).click()
        canvas = page.locator(".cs-canvas")
        expect(canvas).to_have_attribute("aria-label", re.compile("^Scene: "), timeout=PATIENCE)
        box = canvas.bounding_box()  # where the example has only ground: a new shape
        canvas.click(position={"x": 0.82 * box["width"], "y": 0.85 * box["height"]})
        expect(page.locator(".cs-live")).to_contain_text("Added")
        press(page, "Use this picture")

    def find():
        page.get_by_role("button", name=re.compile(text.TEACHING)).click()
        press(page, text.FIND)

    def clear():
        page.get_by_role("button", name=re.compile("clear|remove", re.I)).first.click()

    def upload():
        clear()
        expect(page.locator(".vp-picture img")).to_have_count(0)
        page.locator("input[type=file]").first.set_input_files(own)

    for change in (lambda: press(page, text.SCENE), number, compose, upload, clear, find):
        expect(before).to_be_hidden()
        change()
        expect(older).to_have_text(text.OLDER_PICTURE, timeout=PATIENCE)
        expect(before).to_have_text(text.BEFORE)
        expect(before).to_be_visible()
        expect(page.locator(".vp-status.done")).to_be_hidden()
        grey = coloured.evaluate_all(hues)
        assert len(grey) == len(green_or_red) and len(set(grey)) == 1
        assert not set(grey) & set(green_or_red)
        first_example()  # the verdict's picture
        expect(older).to_be_hidden(timeout=PATIENCE)
        assert coloured.evaluate_all(hues) == green_or_red
    question(page).fill("what else?")  # the same picture
    expect(older).to_have_text(text.OLDER)
    expect(before).to_be_hidden()
    assert len(set(coloured.evaluate_all(hues))) == 1


def test_measuring_again_renews_every_clock(visit):
    page = visit()
    run(page)
    press(page, text.MEASURE)
    expect(page.locator("b", has_text="5 of 5")).to_be_visible(timeout=PATIENCE)
    tags = page.locator(".vp-side .vp-tag.measured")
    several = re.compile(f"{text.MEDIAN_OF.format(rounds=5)}|{text.FEW_TOKENS}")
    expect(tags).to_have_text([several] * 6, timeout=PATIENCE)
    expect(page.locator(".vp-verdict")).to_contain_text("median of 5 runs")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit, scheme):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    expect(page.get_by_role("button", name=text.RUN, exact=True)).to_be_in_viewport()
    run(page)
    expect(page.locator(".vp-verdict h2")).to_be_in_viewport()
    page.get_by_text(text.TEACHING).click()
    press(page, text.SWEEP)
    expect(page.locator(".vp-scroll td").nth(5)).to_be_visible(timeout=PATIENCE)
    fits(page, 390)


def test_stop_leaves_no_promise(visit, monkeypatch, request):
    put, answers, stopped = runner._Tokens.put, set(), threading.Event()
    request.addfinalizer(stopped.set)  # also if the test fails: its run would hold up the next try

    def some_then_wait(self, value):
        put(self, value)
        answers.add(id(self))
        if len(answers) > 1 and len(self.ids) > 1:  # Stop finds the second answer begun
            stopped.wait(60)

    monkeypatch.setattr(runner._Tokens, "put", some_then_wait)
    page = visit()
    set_longest_answer(page, 200)
    question(page).fill("describe the picture.")
    verdict = page.locator(".vp-verdict h2")
    stopped_card = page.locator(".vp-side").get_by_text(text.STOPPED_CARD).first
    press(page, text.RUN)
    expect(verdict).to_have_text(text.VERDICT_WAITS, timeout=PATIENCE, **SEEN)
    press(page, text.STOP)
    expect(verdict).to_have_text(text.NO_VERDICT_YET, timeout=PATIENCE, **SEEN)
    stopped.set()
    expect(page.locator(".vp-asked").first).to_contain_text("describe the picture.")
    cards = page.locator(".vp-side .vp-answer")
    expect(cards.nth(1)).not_to_contain_text(text.NO_ANSWER_YET, **SEEN)
    expect(cards.nth(0)).not_to_contain_text(text.NO_ANSWER_YET, **SEEN)
    expect(stopped_card).to_be_visible()
    expect(page.locator(".vp-status").first).to_have_text(text.STOPPED)
    expect(page.get_by_role("button", name=text.SAVE_JSON)).to_be_disabled()
    question(page).fill("")  # refused before it is shown: the page still says "stopped"
    press(page, text.RUN)
    expect(page.locator(".vp-status").first).to_contain_text("question is empty", timeout=PATIENCE)
    expect(verdict).to_have_text(text.NO_VERDICT_YET, **SEEN)
    expect(page.locator("#vp-older")).to_be_visible()


def test_a_stopped_lesson_leaves_no_promise(visit, mini_path):
    page, models = visit(), page_server.models(mini_path)
    page.get_by_role("button", name=re.compile(text.TEACHING)).click()
    ended = page.locator(".vp-small", has_text=text.LESSON_ENDED)
    with models.get(models.default).lock:  # so that no search ends before Stop
        press(page, text.FIND)
        expect(page.locator("progress")).to_have_count(1, timeout=PATIENCE)
        press(page, text.STOP)
        expect(ended).to_be_visible(timeout=PATIENCE)
        expect(page.locator("[role=status].vp-unseen")).to_have_text(text.LESSON_ENDED)
        expect(page.locator("progress")).to_be_hidden()
        press(page, text.FIND)  # the next search starts clean
        expect(page.locator("progress")).to_be_visible(timeout=PATIENCE)
        expect(ended).to_be_hidden()
        press(page, text.STOP)
        expect(ended).to_be_visible(timeout=PATIENCE)


def test_the_first_failure_of_a_visit_is_said_where_the_answer_would_be(visit):
    page = visit()
    question(page).fill("")
    press(page, text.RUN)
    expect(page.locator(".vp-status").first).to_contain_text("question is empty", timeout=PATIENCE)


def test_who_passes_through_the_scene_number_keeps_picture_and_question(visit, tmp_path):
    page = visit()
    own = tmp_path / "own.png"
    render(make_scene(3, "validation")).save(own)
    page.locator("input[type=file]").first.set_input_files(own)
    question(page).fill("what is this?")
    page.wait_for_timeout(1000)  # the upload has reached the server
    shown = page.locator(".vp-picture img").get_attribute("src")
    number = page.get_by_label(text.SCENE_SEED, exact=True)
    number.focus()
    number.press("Tab")
    page.wait_for_timeout(1000)
    assert page.locator(".vp-picture img").get_attribute("src") == shown
    assert question(page).input_value() == "what is this?"
    number.fill("12")
    number.press("Tab")  # a changed number counts without Enter
    expect(question(page)).not_to_have_value("what is this?", timeout=PATIENCE)


def bounds(page: Page, selector: str) -> tuple[float, float]:
    """An element's upper and lower edge on the screen."""
    box = page.locator(selector).bounding_box()
    return box["y"], box["y"] + box["height"]


def lower_edge(page: Page) -> float:
    """The lower edge of the screen, or the upper edge of the bar with Run."""
    return page.evaluate(
        """() => {
            const bar = document.querySelector(".vp-actions.vp-only-compare");
            const fixed = getComputedStyle(bar).position === "fixed";
            return fixed ? bar.getBoundingClientRect().top : innerHeight;
        }"""
    )


def wait_until_still(page: Page):
    """Wait: the page may scroll to its results, and draws its charts last."""
    expect(page.locator(".js-plotly-plot")).to_have_count(3, timeout=PATIENCE)
    page.wait_for_function(
        """async () => {
            const place = () => document.querySelector(".pv").getBoundingClientRect().top;
            const before = place();
            await new Promise((done) => setTimeout(done, 300));
            return place() === before;
        }"""
    )


SCREENS = [(1440, 900), (1280, 720), (390, 844)]
LONG = (1280, 720, 96)  # a long answer takes more room above the patches


@pytest.mark.parametrize(("width", "height", "longest"), [*((*s, 1) for s in SCREENS), LONG])
def test_the_patches_stand_on_the_first_screen(visit, width, height, longest):
    page = visit(**({**PHONE} if width < 700 else {"viewport": {"width": width, "height": height}}))
    set_longest_answer(page, longest)
    page.get_by_role("button", name=re.compile(text.ADVANCED)).click()  # folded again
    page.evaluate("scrollTo(0, 0)")
    run(page)
    wait_until_still(page)
    assert bounds(page, ".vp-verdict")[0] >= 0
    assert bounds(page, ".pv-canvas")[1] <= lower_edge(page) + 1  # less than a pixel is rounding
    assert bounds(page, ".pv-canvas")[1] - bounds(page, ".pv-canvas")[0] > (
        230 if longest == 1 else 200
    )
    assert (page.evaluate("scrollY") > 0) == (width < 700)
    fits(page, width)


def test_a_new_page_shows_one_picture(visit):
    page = visit()
    expect(page.locator(".vp-picture img")).to_be_visible()
    large = """() => [...document.querySelectorAll("img, canvas, svg, figure")].filter(
        (part) => part.getBoundingClientRect().width > 130).length"""
    assert page.evaluate(large) == 1


def test_on_a_phone_charts_and_counters_are_folded(visit):
    page = visit(**PHONE)
    set_longest_answer(page, 1)
    page.get_by_role("button", name=re.compile(text.ADVANCED)).click()  # folded again
    run(page)
    wait_until_still(page)
    assert (
        page.evaluate("document.documentElement.scrollHeight") < 3100
    )  # three and a half screens, with all accordions closed
    fold, chart = page.locator("#vp-fold"), page.locator(".js-plotly-plot").first
    expect(page.locator(".vp-counters")).to_be_hidden()
    expect(chart).to_be_hidden()
    expect(fold).to_have_attribute("aria-expanded", "false")
    fold.click()
    expect(chart).to_be_visible()
    expect(fold).to_have_attribute("aria-expanded", "true")


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1920, 1080)])
def test_a_projector_shows_run_on_arrival_and_picture_and_sentence_on_one_screen(
    visit, width, height
):
    page = visit(
        "?seed=49&method=visionzip%2Bvisipruner", viewport={"width": width, "height": height}
    )
    type_size = """(names) => names.map((name) =>
        document.querySelector(name).getBoundingClientRect().height)"""
    names = ["#vp-run", ".vp-scene input"]
    usual = page.evaluate(type_size, names)
    press(page, text.PROJECTOR)
    large = page.evaluate(type_size, names)
    assert all(now > 1.15 * old for now, old in zip(large, usual, strict=True)), (usual, large)
    assert page.evaluate("scrollY") == 0
    expect(page.locator("#vp-run")).to_be_in_viewport(ratio=1)
    assert bounds(page, ".vp-question textarea")[1] <= lower_edge(page)
    run(page)
    wait_until_still(page)
    assert 0 <= bounds(page, ".vp-verdict")[0] < height / 4  # the page scrolled to its results
    page.locator(".pv").evaluate("(viewer) => viewer.scrollIntoView({ behavior: 'instant' })")
    for part in (".pv-head", ".pv-canvas", ".pv-chips", ".pv-sentence"):
        top, bottom = bounds(page, part)
        assert top >= -1 and bottom <= lower_edge(page), part


@pytest.mark.parametrize("method", ["visipruner", "visionzip+visipruner"])
def test_methods_are_headings_and_unfold_what_they_are(visit, method):
    page = visit("?seed=49&method=" + method.replace("+", "%2B"))
    run(page)
    for place in (".vp-about", ".vp-side.pruned"):
        for name in method.split("+"):
            about = page.locator(f"{place} details", has=page.get_by_role("heading")).filter(
                has=page.get_by_role("heading", name=short_title(name), exact=True)
            )
            expect(about.locator("dl")).to_be_hidden()
            about.locator("summary").click()
            expect(about.locator("dl")).to_contain_text(METHODS[name].rule)
            expect(about.locator("a").first).to_have_attribute("href", re.compile("arxiv.org"))
            expect(about.locator("a").nth(1)).to_have_attribute("href", re.compile("github.com"))
    thresholds = fields.setting("visipruner", "tokens_threshold").words
    expect(page.locator(".vp-side.pruned dt", has_text=thresholds)).to_be_visible()


@pytest.mark.parametrize("screen", [{"viewport": {"width": 1280, "height": 720}}, PHONE])
def test_nothing_jumps_while_a_run_goes_on(visit, screen):
    page = visit(**screen)
    set_longest_answer(page, 1)
    page.get_by_role("button", name=re.compile(text.ADVANCED)).click()  # folded again
    page.evaluate("scrollTo(0, 0)")
    page.evaluate(
        """() => {
            window.places = [];
            const note = () => {
                const viewer = document.querySelector(".pv");
                const top = viewer?.getBoundingClientRect().top + scrollY;
                if (viewer?.getClientRects().length) window.places.push(Math.round(top));
                requestAnimationFrame(note);
            };
            note();
        }"""
    )
    run(page)
    wait_until_still(page)
    places = page.evaluate("places")
    assert max(places) - min(places) < 48  # two lines of the verdict


def test_dark_and_projector(visit):
    page = visit()
    colour = "getComputedStyle(document.querySelector('h1')).color"
    light = page.evaluate(colour)
    press(page, text.DARK)
    expect(page.locator("body.dark")).to_have_count(1)
    assert page.evaluate(colour) != light
    press(page, text.PROJECTOR)
    run(page)
    size = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('.vp-verdict h2')).fontSize)"
    )
    assert size >= 48
    check_charts(page, [450, 450, 750])
    for width in (1440, 1280):  # several times, and in another window
        page.set_viewport_size({"width": width, "height": 800})
        press(page, text.PROJECTOR)
        check_charts(page, [300, 300, 500])
        press(page, text.PROJECTOR)
        check_charts(page, [450, 450, 750])
    run(page)
    check_charts(page, [450, 450, 750])
    layer = page.get_by_label("Layer", exact=True)
    before = layer.input_value()
    page.locator("body").press("PageUp" if before != "0" else "PageDown")  # a presenter's remote
    expect(layer).not_to_have_value(before)


@pytest.mark.parametrize("mode", ["usual", "projector"])
def test_the_verdicts_numbers_are_whole_in_every_window(visit, mode):
    page = visit()
    if mode == "projector":
        press(page, text.PROJECTOR)
    run(page)
    # Times that were too uneven show no third number; there is room for one all the same.
    page.evaluate(
        """(words) => {
        const numbers = document.querySelector(".vp-numbers");
        if (numbers.children.length < 3) numbers.append(numbers.firstElementChild.cloneNode(true));
        numbers.lastElementChild.querySelector("strong").textContent = "1.2×";
        numbers.lastElementChild.querySelector("b").textContent = words;
    }""",
        text.FASTER,
    )
    cut = """() => [...document.querySelectorAll(".vp-number strong, .vp-side")].filter((box) => {
        const words = document.createRange();
        words.selectNodeContents(box);
        const rooms = [".vp-number", ".vp-verdict", ".vp-outputs"].map((name) => box.closest(name));
        const right = rooms.map((room) => room?.getBoundingClientRect().right ?? Infinity);
        return words.getBoundingClientRect().right > Math.min(...right) + 1;
    }).map((box) => box.innerText)"""
    for width in (390, 640, 720, 800, 900, 1024, 1100, 1152, 1280, 1440, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(100)
        assert page.evaluate(cut) == [], width
        # A mode that is on can be switched off in any window width.
        button = page.get_by_role("button", name=text.PROJECTOR)
        assert button.is_visible() == (mode == "projector" or width > 700), width


def mean_lightness(page: Page) -> float:
    """Of the viewer's canvas, from 0 to 255."""
    return page.evaluate(
        """() => {
            const canvas = document.querySelector(".patch-viewer canvas");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return data.reduce((sum, value, i) => sum + (i % 4 < 3 ? value : 0), 0)
                / (0.75 * data.length);
        }"""
    )


def test_merged_patches_are_lighter_than_dropped_ones(visit):
    seen = {}
    for name, words in (("pool", "merged into another token"), ("random", "dropped before")):
        page = visit(f"?method={name}")
        run(page)
        expect(page.locator(".patch-viewer .pv-key-gone")).to_contain_text(words)
        seen[name] = mean_lightness(page)
    assert seen["pool"] > 1.1 * seen["random"]  # of each, 144 of 576 patches are framed


def test_passing_through_menus_changes_and_opens_nothing(visit):
    page = visit()
    asked = "what is this? Please answer with one word!"
    question(page).fill(asked)
    page.locator("#vp-run").focus()
    for key in ["Tab"] * 9 + ["Shift+Tab"] * 4:
        page.keyboard.press(key)
        # A menu's long list is no stop of its own.
        assert page.evaluate("document.activeElement.tagName") != "BODY"
    expect(page.locator("input[role=combobox][aria-expanded=true]")).to_have_count(0)
    expect(page.locator("ul[role=listbox]:visible")).to_have_count(0)
    page.get_by_label(text.MODEL, exact=True).click()
    expect(page.locator("ul[role=listbox]:visible")).to_have_count(1)
    question(page).click()
    page.wait_for_timeout(500)
    assert question(page).input_value() == asked


def test_half_typed_levels_and_refused_fields_are_no_errors(visit):
    page = visit()
    run(page)
    page.get_by_role("button", name=re.compile(text.ADVANCED)).click()
    level = page.get_by_label(f"number input for {text.LEVEL}")
    for typed in ("", "7", "0.8"):
        level.fill(typed)
        page.wait_for_timeout(400)
    level.blur()
    page.wait_for_timeout(400)
    assert level.input_value() == "0.8"
    page.get_by_label(fields.setting("visipruner", "shallow_layers").words).fill("3,5")
    press(page, text.RUN)
    expect(page.locator(".vp-status")).to_contain_text("must be a whole number", timeout=PATIENCE)
    expect(page.locator("#vp-older")).to_be_visible()


def test_a_missing_camera_is_said_and_hides_nothing(visit):
    page = visit(viewport={"width": 1280, "height": 768})
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    note = page.locator("#vp-device")
    expect(note).to_be_visible(timeout=PATIENCE)
    assert note.text_content() in (text.NO_DEVICE, text.NOT_ALLOWED)
    with page.expect_file_chooser():
        page.get_by_label("Upload file").click()
        page.get_by_label(re.compile("upload")).first.click()
    question(page).click()
    expect(note).to_be_hidden()


def test_one_very_long_word_widens_nothing(visit):
    page = visit()
    word = "superlongword" * 30
    question(page).fill(word)
    run(page)
    # The bundled model's page notes that it never learnt this word; the miniature's page does not.
    page.locator(".vp-status").evaluate(
        "(line, note) => line.insertAdjacentHTML('afterend', note)",
        f'<ul class="vp-notes"><li>{word}</li></ul>',
    )
    fits(page, 1440)


def check_charts(page: Page, heights: list[int]):
    """Plotly's charts have these heights, matching type, and the width of their columns."""
    is_so = """(heights) => {
        const charts = [...document.querySelectorAll(".vp-charts .js-plotly-plot")];
        return charts.length === heights.length && charts.every((chart, i) => {
            const { height, width, font } = chart._fullLayout;
            const drawn = chart.querySelector(".main-svg").getBoundingClientRect();
            const room = chart.parentElement.getBoundingClientRect();
            return height === heights[i] && Math.round(drawn.height) === heights[i]
                && font.size === ([450, 750].includes(heights[i]) ? 21 : 14)
                && Math.abs(drawn.width - room.width) < 2 && Math.abs(width - room.width) < 2;
        });
    }"""
    page.wait_for_function(is_so, arg=heights, timeout=PATIENCE)


def test_a_lesson_sweeps_the_level(visit):
    page = visit()
    page.get_by_role("button", name=re.compile(text.TEACHING)).click()
    press(page, text.SWEEP)
    rows = page.locator(".vp-table tbody tr")
    expect(rows).to_have_count(6, timeout=PATIENCE)  # the full run, and this model's five settings
    expect(page.locator(".vp-table tbody")).not_to_contain_text("…", timeout=PATIENCE)


def test_three_contestants_stand_beside_the_baseline(visit):
    """Chosen by hand, shown, switched by keyboard, reopened by the link."""
    page = visit("?seed=8", viewport={"width": 1280, "height": 720})
    more = page.get_by_label(text.OTHERS)
    titles = ["VisiPruner", "FastV", "PyramidDrop"]
    for title in titles[1:]:
        more.click()
        page.get_by_role("option", name=title, exact=True).click()
    question(page).click()
    run(page)
    cards = page.locator(".vp-side")
    expect(cards).to_have_count(4)
    tops = cards.evaluate_all("cards => cards.map((card) => card.getBoundingClientRect().top)")
    assert len(set(tops)) == 1  # in one row
    lines = page.locator(".vp-pairs li")
    expect(lines.locator("h3")).to_have_text(titles)
    expect(page.locator(".vp-counters thead th")).to_have_text([text.FULL, *titles])
    switch = page.locator(".pv-sides")
    expect(switch.get_by_label("VisiPruner", exact=True)).to_be_checked()
    why = page.locator(".pv-why")
    first = why.inner_text()
    switch.get_by_label("VisiPruner", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(switch.get_by_label("FastV", exact=True)).to_be_checked()
    expect(switch.get_by_label("FastV", exact=True)).to_be_focused()
    expect(why).not_to_have_text(first)
    page.get_by_role("button", name=re.compile(text.REPEAT)).click()
    link = page.get_by_label(text.LINK)
    expect(link).to_have_value(re.compile("method=visipruner%2Cfastv%2Cpyramiddrop"))
    again = visit(link.input_value()[link.input_value().index("?") :])
    expect(again.locator(".vp-others.vp-only-compare")).to_contain_text("PyramidDrop")
    page.set_viewport_size({"width": 390, "height": 844})
    lefts = cards.evaluate_all("cards => cards.map((card) => card.getBoundingClientRect().left)")
    assert len(set(lefts)) == 1  # one below the other
    fits(page, 390)


@pytest.mark.parametrize(
    ("scheme", "query"),
    [("light", ""), ("dark", ""), ("light", "?seed=3&method=visipruner,fastv,random")],
)
def test_axe_finds_nothing(visit, scheme, query):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(query, color_scheme=scheme)
    run(page)
    expect(page.locator(".js-plotly-plot")).to_have_count(3, timeout=PATIENCE)
    dark = page.get_by_role("button", name=text.DARK, exact=True, pressed=scheme == "dark")
    expect(dark).to_be_visible()
    for folded in (text.ADVANCED, text.COMPOSE, text.TEACHING, text.REPEAT):
        page.get_by_role("button", name=re.compile(folded)).click()
    page.locator(".vp-more summary").click()
    expect(page.get_by_label(text.LINK)).to_have_value(re.compile("seed="))
    found = {
        fault["id"]: [node["html"][:160] for node in fault["nodes"]][:4]
        for fault in Axe().run(page).response["violations"]
    }
    assert not found
