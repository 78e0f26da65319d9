"""A saved run of a model with a schedule of its own opens again as it was."""

from __future__ import annotations

import base64
import copy
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import page_server
import pytest

from visipruner.errors import Refused
from visipruner.recorded.kinds import opened
from visipruner.recorded.runs import Run
from visipruner.render import charts
from visipruner.render.values import viewer_value
from visipruner.show import words
from visipruner.trace import TRAINED
from visipruner.ui import downloads, handlers, views
from visipruner.ui.handlers import Form
from visipruner.ui.store import Models
from visipruner.world import sources

ENTER, LEAVE = 2, 5
SAVED = Path(__file__).parent / "saved"
STORIES = ("answers", 1, "trace", "stories")
SCHEDULE = {"name": TRAINED, "settings": {"enter": ENTER, "leave": LEAVE}, "why": "", "notes": {}}
PARTS = (("trace", "stories"), ("trace", "cuts"), ("counts",))
WRONG = (None, True, -1, 0, 1e308, 7, "x", "<img src=x>", [], {}, [None], {"a": 1}, 2**70)


@pytest.fixture(scope="module")
def live(mini_path, tmp_path_factory):
    """A finished run of the page, of the miniature model with a schedule."""
    folder = tmp_path_factory.mktemp("models") / "aligned"
    shutil.copytree(mini_path, folder)
    presets = {**page_server.PRESETS, "schedule": {"enter": ENTER, "leave": LEAVE}}
    (folder / "presets.json").write_text(json.dumps(presets))
    models = Models(str(folder), device="cpu")
    form = Form(sources.picture(3), "what is it?", models.default, options={"max_new_tokens": 3})
    form = replace(form, methods=("none", "random@2", "visionzip+random@2"))
    *_, progress = handlers.follow(job := handlers.check(models, form, None, None))
    return downloads.Result(job, replace(progress.comparison, words=form.methods))


@pytest.fixture(scope="module")
def saved(live) -> bytes:
    return base64.b64decode(downloads.json_file(live)["data"])


@pytest.fixture
def data(saved) -> dict:
    return json.loads(saved)


def again(data: dict) -> Run:
    return opened(json.dumps(data).encode())


def draw(run) -> list:
    """What page, report and charts make of a run or of a result."""
    named = views.named(run.comparison)
    drawn = [views.verdict(named, run.truth), views.cards(named, run.truth, 5)]
    drawn += [views.counters(named), viewer_value(named, notes=run.stays)]
    for chart in (charts.tokens_chart, charts.flops_chart, charts.influence_chart):
        drawn.append(chart(named).to_plotly_json())
    return drawn


def put(data, path, value):
    *way, last = path
    for step in way:
        data = data[step]
    data[last] = value


def test_an_opened_run_shows_what_the_live_one_showed(live, saved):
    run = opened(saved)
    mine, theirs = live.comparison, run.comparison
    assert mine.probe == theirs.probe and mine.probe.trained
    for one, other in zip(mine.answers, theirs.answers, strict=True):
        assert one == other and one.trace.trained and one.counts.dense > 0
    for one, other in zip(mine.pairs, theirs.pairs, strict=True):
        assert one.whole == other.whole != one.baseline.counts.executed.prefill
        assert one.flops_ratio == other.flops_ratio > 1
    assert json.dumps(draw(live), default=str) == json.dumps(draw(run), default=str)
    assert f"enter at layer {ENTER}" in words(run) and "cut " in words(run)
    assert base64.b64decode(downloads.json_file(run)["data"]) == saved


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((*STORIES, 0), SCHEDULE, "at most one schedule of the model's own at the end"),
        ((*STORIES, 1), {**SCHEDULE, "name": "none", "settings": {}}, "another prompt or model"),
        ((*STORIES, 1, "settings", "leave"), "soon", "setting of its kind"),
        ((*STORIES, 1, "settings", "leave"), LEAVE + 1, "of another prompt or model"),
        (("answers", 1, "counts", "dense"), 0, "dense must be a whole number"),
        (("answers", 0, "counts", "dense"), None, "lacks “dense”"),
        (("probe", "stories", 1, "settings", "enter"), 0, "probe is of another prompt or model"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(data, path, value, said):
    put(data, path, value)
    with pytest.raises(Refused, match=said):
        again(data)


def test_a_schedule_alone_is_no_run(data):
    for answer in data["answers"]:
        answer["trace"]["stories"] = answer["trace"]["stories"][-1:]
    with pytest.raises(Refused, match="must be methods, and at most one schedule"):
        again(data)


def test_a_method_of_files_before_stacks_is_never_the_schedule():
    data = json.loads((SAVED / "run_before_stacks.json").read_text())
    data["answers"][1]["trace"]["method"] = TRAINED
    data["answers"][1]["trace"].pop("stories", None)
    with pytest.raises(Refused, match="method that is not known"):
        again(data)


def test_any_changed_value_of_a_schedule_is_refused_or_can_be_drawn(data):
    rng, drawn = random.Random(7), 0
    data["probe"] = None
    every = [
        (number, *path)
        for number, answer in enumerate(data["answers"])
        for path in _paths(answer)
        if path[: len(PARTS[0])] in PARTS or path[:1] in PARTS
    ]
    for path in rng.sample(every, 120):
        changed = copy.deepcopy(data)
        put(changed, ("answers", *path), rng.choice(WRONG))
        try:
            run = again(changed)
        except Refused:
            continue
        drawn += 1
        assert draw(run) and words(run) and "<img" not in downloads.html_of(run)
    assert drawn > 5


def _paths(value, way=()):
    """The path of every value in a file."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in parts:
        yield (*way, name)
        if isinstance(one, dict | list):
            yield from _paths(one, (*way, name))
