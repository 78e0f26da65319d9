"""A real Chromium, strictly offline, on the running page; any failed request fails the test.

A pytest plugin: test modules name it in `pytest_plugins`.
"""

from __future__ import annotations

import os
import re
import shutil

import page_server
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from visipruner.ui import text

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
]
# Milliseconds; the test machine may be busy.
PATIENCE = int(os.environ.get("BROWSER_PATIENCE", "60000"))
SEEN = {"use_inner_text": True}  # the style sheet shows one of several texts
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(mini_path):
    return page_server.address(mini_path)


@pytest.fixture
def visit(browser, address):
    """(query, **context settings) -> an opened page; fails if any response was >= 400."""
    contexts, bad = [], []

    def open_page(query: str = "", **settings) -> Page:
        settings = {"viewport": {"width": 1440, "height": 900}, **settings}
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("response", lambda r: r.status >= 400 and bad.append(f"{r.status} {r.url}"))
        page.on("pageerror", lambda error: bad.append(str(error)))
        page.goto(address + query)
        expect(question(page)).not_to_have_value("", timeout=PATIENCE)
        return page

    open_page.bad = bad
    yield open_page
    for context in contexts:
        context.close()
    assert not bad


def question(page: Page):
    return page.get_by_label(text.QUESTION, exact=True)


def fits(page: Page, width: int):
    """Nothing makes the page wider than its window, which it follows within a moment."""
    narrow = f"document.documentElement.scrollWidth <= {width}"
    page.wait_for_function(narrow, polling=100, timeout=PATIENCE)


def press(page: Page, name: str):
    page.get_by_role("button", name=name, exact=True).click()


def set_longest_answer(page: Page, tokens: int):
    page.get_by_role("button", name=re.compile(text.ADVANCED)).click()
    box = page.get_by_role("spinbutton", name=re.compile(re.escape(text.MAX_NEW_TOKENS)))
    expect(box).to_be_visible()
    page.wait_for_timeout(500)  # gradio listens a moment after it has drawn
    box.fill(str(tokens))
    box.press("Tab")
    page.wait_for_timeout(300)


def colours_of(canvas) -> int:
    """The number of colours on a canvas; an empty canvas has one."""
    return canvas.evaluate(
        """(canvas) => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
