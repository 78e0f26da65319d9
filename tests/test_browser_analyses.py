"""Every analysis in a real Chromium: all run once on one page, then each result is looked at."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import page_server
import pytest
from browsing import PATIENCE, press, question
from playwright.sync_api import Page, expect

from visipruner.analyses import ANALYSES
from visipruner.analyses.ranges import ranges_of
from visipruner.analyses.recorded import FILE
from visipruner.evaluation import masked
from visipruner.ui import inside_words

pytest_plugins = ["browsing"]
VIEW = "#vp-view-inside"
# What each shows: maps, figures, and words of the first map or figure.
SHOWN = {
    "influence": (1, 1, r"Patch \d+ turns it most, in layer \d"),
    "attention": (1, 1, r"Attention of token \d+ .* Layer \d gives visual tokens most, \d+%"),
    "tokens": (0, 1, r"Who looks at whom in layer 2"),
    "sinks": (0, 1, r"token \d+ .* gets most attention, \d+%"),
    "lens": (0, 2, r"The model's first word is “.+”, \d+%"),
    "words": (1, 0, r"a plain lens reads only about a quarter"),
    "heads": (0, 1, r"The surest is “.+” of head \d in layer \d"),
    "masking": (0, 3, r"Stages on this picture: .*middle, layer"),
    "keep-or-drop": (1, 0, r"keep the top 16 by influence after layer 4: .*KL of the first word"),
    "mask-layers": (1, 0, r"masked in layers 0 to 1: .*KL of the first word"),
    "merge": (2, 0, r"merged into patch 0, layers 0 to 1: .*KL of the first word"),
    "drop-cache": (1, 0, r"no picture in the cache of layer 0: .*KL of the first word"),
    "skip-layer": (2, 0, r"picture masked in layer 4: .*KL of the first word"),
    "no-sinks": (1, 2, r"3 sinks masked: .*KL of the first word"),
}


def recorded():
    """Accuracies under the masks of the miniature's 8 layers: layers 2 and 3 matter."""
    scores = np.ones((40, 1 + len(ranges_of(8))))
    for number, (first, last) in enumerate(ranges_of(8)):
        scores[10 if first <= 2 and last >= 3 else 38 :, 1 + number] = 0
    return masked.summary(8, 1, ranges_of(8), scores)


@pytest.fixture(scope="module")
def looked(browser, address, mini_path):
    """The page after all analyses, of a model with recorded accuracies."""
    models = page_server.models(mini_path)
    vlm = models.get(models.default)
    folder = Path(vlm.spec.path)
    masked.write(vlm, folder, recorded())
    bad, context = [], browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: bad.append(str(error)))
    page.goto(f"{address}?seed=8&view=inside")
    expect(question(page)).not_to_have_value("", timeout=PATIENCE)
    for kind in ANALYSES.values():
        page.get_by_label(kind.title, exact=True).check()
    press(page, inside_words.RUN)
    expect(page.locator(f"{VIEW} .vp-status")).to_contain_text("Done", timeout=2 * PATIENCE)
    yield page
    context.close()
    (folder / FILE).unlink()
    assert not bad


def cards(page: Page, kind: str, name: str):
    why = page.locator(".in-why").filter(has_text=ANALYSES[name].question)
    return page.locator(f".in-{kind}").filter(has=why)


def test_every_analysis_has_its_test():
    assert list(SHOWN) == list(ANALYSES)


@pytest.mark.parametrize("name", SHOWN)
def test_an_analysis_is_drawn_and_says_what_it_found(looked, name):
    count, figure_count, words = SHOWN[name]
    maps, figures = cards(looked, "map", name), cards(looked, "figure", name)
    expect(maps).to_have_count(count)
    expect(figures).to_have_count(figure_count)
    first = figures.first.locator("svg") if not count else maps.first.locator(".in-picture")
    assert re.search(words, first.get_attribute("aria-label") + first.text_content())
    for card in maps.all():
        image = card.locator("img")
        assert image.evaluate("(img) => img.decode().then(() => img.naturalWidth)") == 360
        assert image.evaluate(COLOURS) > 20
        picture = card.locator(".in-picture")
        assert len(picture.get_attribute("aria-label")) > 40
        picture.focus()
        looked.keyboard.press("ArrowRight")
        expect(card.locator(".in-told")).to_have_text(re.compile(r"Patch \d+, layer 2: \S"))
        looked.keyboard.press("Escape")
    for card in figures.all():
        svg = card.locator("svg")
        assert len(svg.get_attribute("aria-label")) > 20
        assert svg.evaluate(DATA) > 7
        assert svg.evaluate(OUTSIDE) == []


# The number of colours of a picture.
COLOURS = """(img) => {
    const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
    [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
    context.drawImage(img, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
}"""
# Shapes with words of their own, and cells in colours.
DATA = """(svg) => svg.querySelectorAll("path[transform], g > rect, rect[stroke]").length"""
# Words that reach beyond the drawing.
OUTSIDE = """(svg) => {
    const edge = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < edge.left - 1 || box.right > edge.right + 1 || box.top < edge.top - 1
            || box.bottom > edge.bottom + 1;
    }).map((text) => text.textContent);
}"""


def test_recorded_accuracies_stand_beside_the_pictures_own(looked):
    own, other, _ = cards(looked, "figure", "masking").all()
    expect(other).to_contain_text("Recorded: right answers to 40 held-out questions")
    assert "middle, layers 2 to 3" in other.locator("svg").get_attribute("aria-label")
    looked.set_viewport_size({"width": 1600, "height": 900})
    left, right = (card.bounding_box() for card in (own, other))
    looked.set_viewport_size({"width": 1280, "height": 720})  # here they stand one below the other
    assert left["y"] == right["y"] and left["x"] < right["x"]


def test_figures_follow_the_theme(looked):
    """Words are read on their ground in both themes, at a contrast of at least 7."""
    light = looked.evaluate(CONTRAST)
    looked.evaluate("document.body.classList.toggle('dark')")
    dark = looked.evaluate(CONTRAST)
    looked.evaluate("document.body.classList.toggle('dark')")
    assert len(light) > 8 and min(one["contrast"] for one in light + dark) > 7
    assert all(a["ground"] > 0.8 and b["ground"] < 0.1 for a, b in zip(light, dark, strict=True))


# Of each figure's title: its contrast with what is behind it, and how light that is.
CONTRAST = """() => {
    const light = (colour) => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => {
            const share = part / 255;
            return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    return [...document.querySelectorAll(".in-figure")].map((card) => {
        const paper = getComputedStyle(card.querySelector("svg > rect")).fill;
        const ground = light(paper === "none" ? getComputedStyle(card).backgroundColor : paper);
        const ink = light(getComputedStyle(card.querySelector("svg > text")).fill);
        const [dim, bright] = [ink, ground].sort((a, b) => a - b);
        return { ground, contrast: (bright + 0.05) / (dim + 0.05) };
    });
}"""


@pytest.mark.parametrize(
    ("name", "start"), [(inside_words.SAVE_JSON, b"{"), (inside_words.SAVE_HTML, b"<!doctype")]
)
def test_all_of_it_is_saved(looked, tmp_path, name, start):
    with looked.expect_download(timeout=PATIENCE) as download:
        press(looked, name)
    download.value.save_as(tmp_path / "file")
    saved = (tmp_path / "file").read_bytes()
    assert saved.startswith(start) and (b"held-out" in saved or b'"recorded"' in saved)
