"""Look inside: what a visitor chooses becomes analyses, runs, is drawn and saved."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from contextlib import closing

import page_server
import pytest
import torch
from PIL import Image

from visipruner.analyses import ANALYSES, answered
from visipruner.analyses.base import Figure, Grid, PatchMap, Series, Step
from visipruner.analyses.influence import InfluenceMap
from visipruner.analyses.together import look
from visipruner.errors import Refused
from visipruner.render import inside as drawing
from visipruner.render import palette
from visipruner.running import stream as streaming
from visipruner.sheets import Box, Sheet, grid_boxes
from visipruner.ui import inside, inside_events, inside_words, running, text
from visipruner.ui.handlers import Form


@pytest.fixture(scope="module")
def models(mini_path):
    return page_server.models(mini_path)


@pytest.fixture(scope="module")
def job(models):
    form = Form(question="what?", model=models.default, methods=("none",))
    return running.job_of(models, form, 5)


def test_every_analysis_can_be_chosen_and_runs_and_is_drawn(job):
    analyses = inside.chosen(list(ANALYSES), {})
    assert [one.name for one in analyses] == list(ANALYSES)
    events = [event for event in job.look(analyses, False) if not isinstance(event, Step)]
    assert {analysis.name for analysis, _ in events} == set(ANALYSES)
    layers = len(job.vlm.parts.layers)
    drawn = [drawing.one(*event, job.prompt.sheets) for event in events]
    value = drawing.board_value(drawn, "asked", layers)
    json.dumps(value, allow_nan=False)  # as it goes to the browser
    for shown in value["maps"]:
        assert len(shown["pictures"]) == len(shown["values"]) == layers
        assert {len(row) for row in shown["values"]} == {16} and len(shown["boxes"]) == 16
        assert shown["question"].endswith("?") and shown["words"]
    assert len(value["maps"]) >= 2 and len(value["figures"]) >= len(ANALYSES) - 1
    assert all(figure["svg"].startswith("<svg") for figure in value["figures"])
    body = json.loads(drawing.as_json(events, {"asked": "x"}))
    assert set(body["analyses"]) == set(ANALYSES)
    page = drawing.as_html(events, job.prompt.sheets, "a <b> & c")
    assert "a &lt;b&gt; &amp; c" in page and "<script" not in page
    assert page.count("<svg") == len(value["figures"])


def test_the_picture_of_a_layer_has_the_colours_of_its_numbers(job):
    [event] = [e for e in job.look(inside.chosen(["influence"], {}), False) if type(e) is tuple]
    [shown] = drawing.one(*event, job.prompt.sheets)["maps"]
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
        for url in shown["pictures"]
    ]
    assert max(pictures[0].size) == drawing.SIDE
    rows = [tuple(row) for row in shown["values"]]
    different = next(n for n, row in enumerate(rows) if row != rows[0])
    assert pictures[different].tobytes() != pictures[0].tobytes()


def test_settings_are_read_as_typed_and_refused_by_their_words():
    typed = {("attention", "head"): "3", ("attention", "token"): "-2", ("lens", "words"): ""}
    attention, lens = inside.chosen(["lens", "attention"], typed)
    assert (attention.head, attention.token) == (3, -2)
    assert lens.words == type(lens).words
    for names, values, said in (
        ([], {}, "Choose at least one"),
        (None, {}, "Choose at least one"),
        (["magic"], {}, "every analysis must be one of"),
        (["lens"], {("lens", "words"): "many"}, "“Words per layer” must be a whole number"),
        (["lens"], {("lens", "words"): "0"}, "Logit lens: “Words per layer” must be"),
        (["lens"], {("lens", "words"): "9" * 1001}, "holds more than 1,000 characters"),
    ):
        with pytest.raises(Refused, match=re.escape(said)):
            inside.chosen(names, values)


def test_every_analysis_has_a_title_of_its_own():
    titles = [kind.title for kind in ANALYSES.values()]
    assert len(set(titles)) == len(titles) and set(inside.FIRST) <= set(ANALYSES)


def test_a_slow_tower_repeats_the_last_step(job, monkeypatch):
    """The picture's encoding comes before the first step, so that step is one of nothing."""
    monkeypatch.setattr(streaming, "WAIT_SECONDS", 0.02)
    monkeypatch.setattr(streaming, "TICK_SECONDS", 0.05)
    encode = job.vlm.encode
    monkeypatch.setattr(job.vlm, "encode", lambda prompt: time.sleep(0.3) or encode(prompt))
    events = list(job.look(inside.chosen(["influence"], {}), False))
    assert events[:3] == [Step(0, 0)] * 3 and isinstance(events[-1], tuple)
    [analysis] = inside.chosen(["influence"], {})
    first, later = (inside_events._status(events[0], analysis, seconds) for seconds in (0.2, 3.2))
    assert inside_words.ENCODING in first and "3 s<" in later
    assert analysis.title in inside_events._status(Step(1, 9), analysis, 4)


def test_a_stopped_look_leaves_the_model_free_and_untouched(job):
    def hooks():
        modules = job.vlm.model.modules()
        return [(dict(m._forward_pre_hooks), dict(m._forward_hooks)) for m in modules]

    before = hooks()
    analyses = inside.chosen(["influence", "masking", "keep-or-drop"], {})
    for seen in (1, 10, 30):
        with closing(job.look(analyses, False)) as events:
            for _, _event in zip(range(seen), events, strict=False):
                pass
        assert not job.vlm.lock.locked() and hooks() == before


def test_a_refusal_comes_before_anything_runs(job):
    analyses = inside.chosen(["influence", "attention"], {("attention", "head"): "99"})
    with pytest.raises(Refused, match="Attention map: head must be from 0"):
        next(look(job.vlm, job.prompt, analyses))


def test_the_answer_may_stand_behind_the_prompt(job, monkeypatch):
    said = torch.tensor([[5, 6, 7]])  # random weights may say a picture's token
    generate = lambda vlm, prompt, *_: torch.cat([prompt.inputs["input_ids"], said], 1)  # noqa: E731
    monkeypatch.setattr(answered, "generate", generate)
    [analysis] = inside.chosen(["attention"], {})
    found = [
        next(event[1] for event in job.look([analysis], answer) if type(event) is tuple)
        for answer in (False, True)
    ]
    assert found[0].token == job.prompt.layout.length - 1 < found[1].token


def test_files_hold_what_has_finished(job):
    facts = {"question": "what?"}
    made = inside_events.Looked(job.prompt, "asked", facts)
    makers = {inside_events._json_file: "{", inside_events._html_file: "<!doctype html>"}
    for maker in makers:
        with pytest.raises(Refused, match=re.escape(text.NO_RESULT)):
            maker(made)
    made.found += [e for e in job.look(inside.chosen(["words"], {}), False) if type(e) is tuple]
    for maker, start in makers.items():
        file = maker(made)
        assert base64.b64decode(file["data"]).decode().startswith(start)


class _Invented(InfluenceMap):
    """An analysis whose map and words are known."""

    def figures(self, result):
        rows = ((0.0, None, 0.123456), (1.0, 0.5, 0.25))
        told = (("", "", ""), ("a", "b", "c"))
        return [
            PatchMap("T", "unit", rows, (0.0, 2.0), 'a "b" <c>', told),
            Figure("F", "Words.", series=(Series("s", (0, 1), (1.0, 2.0)),), layer=4),
        ]


SHEET = Sheet(
    "", Image.new("RGB", (100, 50)), tuple(Box(10 * n, 5, 10 * n + 10, 25) for n in range(3))
)


def test_a_map_keeps_boxes_numbers_scale_and_words():
    drawn = drawing.one(_Invented(), None, [SHEET])
    [shown], [figure] = drawn["maps"], drawn["figures"]
    assert shown["boxes"][1] == [1, 0.1, 0.1, 0.2, 0.5]  # left, top, right, bottom
    assert shown["values"] == [[0.0, None, 0.1235], [1.0, 0.5, 0.25]]
    assert (shown["low"], shown["high"]) == ("0", "2")
    first, last = shown["colours"][0], shown["colours"][-1]
    assert [first, last] == ["#{:02x}{:02x}{:02x}".format(*palette.heat(s)) for s in (0, 1)]
    assert shown["told"] == [["", "", ""], ["a", "b", "c"]]
    assert figure["layer"] == 4 and figure["title"] == "F"


def test_boxes_of_several_pictures_lie_on_all_of_them_side_by_side():
    class Two(InfluenceMap):
        def figures(self, result):
            return [PatchMap("T", "unit", ((0.0, 1.0, 0.5, 0.25),), (0.0, 1.0), "W.")]

    none = (None, None)
    sheets = [
        Sheet("wide", Image.new("RGB", (80, 40), "white"), (*grid_boxes((80, 40), 1, 2), *none)),
        Sheet("high", Image.new("RGB", (30, 60), "white"), (*none, *grid_boxes((30, 60), 2, 1))),
    ]
    [shown] = drawing.one(Two(), None, sheets)["maps"]
    picture = Image.open(io.BytesIO(base64.b64decode(shown["pictures"][0].partition(",")[2])))
    side, gap = drawing.SIDE, 6
    wide = side + gap + side // 2
    assert picture.size == (wide, side)
    half = pytest.approx([0, side / 2 / wide, 0.5], abs=1e-4)  # token, left edge, foot
    assert [shown["boxes"][1][0] - 1, shown["boxes"][1][1], shown["boxes"][1][4]] == half
    assert shown["boxes"][3] == pytest.approx([3, (side + gap) / wide, 0.5, 1, 1], abs=1e-4)
    for token, left, top, right, bottom in shown["boxes"]:
        middle = round((left + right) / 2 * wide), round((top + bottom) / 2 * side)
        value = shown["values"][0][token]
        mixed = [(20 + 0.45 * 255) * (1 - part) + part * one
                 for part in [0.35 + 0.53 * value] for one in palette.heat(value)]  # fmt: skip
        assert picture.getpixel(middle)[:3] == pytest.approx(mixed, abs=12)
    assert picture.getpixel((side + gap // 2, 5))[3] == 0  # no paper between them


def test_figures_of_the_page_follow_its_theme_and_saved_ones_are_light():
    figure = Figure(
        *("T", "Words."),
        series=(Series("s", (0, 1), (1.0, 2.0)), Series("b", (0, 1), (1.0, 2.0), kind="bars")),
        marks={"exit": 1},
    )
    grid = Grid(("r",), ("a", "b"), ((0.0, 1.0),), (0.0, 1.0), (("in", "it"),))

    class Drawn(InfluenceMap):
        def figures(self, result):
            return [figure, Figure("G", "Words.", "x", "y", grid=grid)]

    for shown in drawing.one(Drawn(), None, [SHEET])["figures"]:
        svg = shown["svg"]
        inks = set(re.findall(r'<text [^>]*fill="([^"]*)"', svg))
        assert inks <= {"currentColor", palette.on_heat(0), palette.on_heat(1)}
        assert "currentColor" in inks and 'height="100%"' not in svg
        edges = set(re.findall(r'stroke="([^"]*)"', svg))
        assert not edges & {palette.INK, palette.PAPER, "#ddd"}
        assert re.search(r'<rect width="900" height="\d+" fill="none"/>', svg)
    page = drawing.as_html([(Drawn(), None)], [SHEET], "x")
    for own in ("currentColor", "var(--ground)", "var(--line)"):
        assert own not in page.partition("<h1>")[2]
    assert f'fill="{palette.PAPER}"' in page and f'fill="{palette.INK}"' in page


def test_files_name_settings_and_escape_words():
    class Plain:
        def to_json(self):
            return {"a": 1}

    body = json.loads(drawing.as_json([(_Invented("gentle"), Plain())], {"asked": "x"}))
    assert body["analyses"]["influence"] == {"settings": {"level": "gentle"}, "result": {"a": 1}}
    page = drawing.as_html([(_Invented(), None)], [SHEET], "x")
    assert page.count("<img") == 2  # all layers, and the one that has words
    assert "Content-Security-Policy" in page
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in page and "<h2>Influence map</h2>" in page
