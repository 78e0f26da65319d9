"""The page searches a teacher's own questions for one where pruning changes the answer."""

from __future__ import annotations

import json
from dataclasses import replace

import page_server
import pytest
from PIL import Image

from visipruner import Refused
from visipruner.ui import controls, teaching, text
from visipruner.ui.layout import build
from visipruner.ui.own import open_own


@pytest.fixture(scope="module")
def models(mini_path):
    return page_server.models(mini_path)


@pytest.fixture
def file(tmp_path):
    """Four questions, a bad line among them."""
    lines = []
    for number in range(4):
        drawn = Image.effect_mandelbrot((90, 60), (-2, -1, 1 + number, 1), 50 + 9 * number)
        drawn.convert("RGB").save(tmp_path / f"{number}.png")
        asked = {"picture": f"{number}.png", "question": f"what is <b>{number}</b>?"}
        lines.append(json.dumps(asked | {"answer": "<i>red"}))
    path = tmp_path / "own <questions>.jsonl"
    path.write_text("\n".join([*lines[:2], "{", *lines[2:]]))
    return path


@pytest.fixture
def form(models):
    usual = {"picture": None, "scene": 3, "question": "what?", "model": models.default, "level": 1}
    usual |= {"method": "random", "others": [], "semantics": "paper", "picture_mode": "pad"}
    usual |= {"backend": "sdpa", "precision": "auto", "draw_seed": 0, "temperature": 0}
    return controls.form_of({**usual, "max_new_tokens": 3})[0]


def test_a_search_goes_through_the_file_and_on_from_where_it_was(models, form, file, capsys):
    own = open_own(file)
    assert own.questions == 4
    assert "left out: Line 3 of" in capsys.readouterr().err
    assert [line.number for line in own.lines(0)] == [1, 2, 4, 5]
    assert [line.number for line in own.lines(2)] == [4, 5, 1, 2]
    assert [line.number for line in own.lines(3)] == [4, 5, 1, 2]
    for state in teaching.search_own(models, form, own, "1"):
        html = teaching.search_html(state)
        assert "<i>" not in html
        assert "<b>1</b>" not in html
    assert state.over
    assert state.found == (state.answers[0].casefold() != state.answers[1].casefold())
    assert state.found, "pruning everything changes a random model's answer"
    assert state.line.picture == file.parent / "1.png"
    assert f"{text.TRUE_ANSWER}: &lt;i&gt;red" in html
    assert text.FOUND_LINE.format(number=2) in html


def test_a_search_without_a_difference_ends_and_says_so(models, form, file):
    for after in (None, {}, "x", "9" * 5000, 7):
        *_, state = teaching.search_own(models, replace(form, level=0), open_own(file), after)
        assert (state.found, state.over, state.tried) == (False, True, 4)
    assert text.NOT_FOUND_OWN.format(tried=4) in teaching.search_html(state)


def test_what_cannot_be_searched_is_refused(models, form, file, tmp_path):
    own = open_own(file)
    with pytest.raises(Refused, match="choose a method"):
        next(teaching.search_own(models, replace(form, method="none"), own, None))
    for picture in file.parent.glob("*.png"):
        picture.unlink()
    with pytest.raises(Refused, match="gone or damaged"):
        list(teaching.search_own(models, form, own, None))
    with pytest.raises(Refused, match="no file"):
        open_own(tmp_path / "none.jsonl")


def test_the_page_has_the_button_only_with_a_file_and_puts_the_find_into_the_form(models, file):
    assert "on_find_own" not in {str(f.name) for f in build(models).fns.values()}
    page = build(models, own=open_own(file))
    event = next(f for f in page.fns.values() if f.name == "on_find_own")
    labels = {"Model": models.default, "Level": 1.0}
    values = [labels.get(getattr(part, "label", None), part.value) for part in event.inputs]
    values[0] = "4"
    *_, (shown, picture, scene, seed, question, place) = event.fn(*values)
    assert "Line 5 changes the answer" in shown
    assert picture.size == (90, 60)
    assert (scene, seed, question, place) == (None, None, "what is <b>3</b>?", "5")
    drawn = [str(getattr(part, "value", "")) for part in page.blocks.values()]
    assert any("own &lt;questions" in value for value in drawn)  # escaped where it is HTML
