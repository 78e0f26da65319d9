"""A family's model on the page: a question, its files, the arena, and what is shown of all."""

from __future__ import annotations

import base64
import json

import pytest

from visipruner.methods import METHODS
from visipruner.ui import contest, downloads, handlers, share, teaching, views
from visipruner.ui.handlers import Form
from visipruner.ui.store import Models
from visipruner.world import sources


@pytest.fixture(scope="module", params=["next-vicuna", "smolvlm", "qwen3-vl"])
def asked(request, ready):
    """(the miniature, the page's models, a filled form)."""
    here = ready(request.param)
    models = Models(here.vlm.spec.path, device="cpu")
    options = {"max_new_tokens": 3, "clock_rounds": 0}
    form = Form(sources.picture(3), "what?", models.default, method="fastv", options=options)
    return here, models, form


def test_a_question_on_the_page_ends_with_files(asked):
    _, models, form = asked
    job = handlers.check(models, form, scene=3)
    *_, progress = handlers.follow(job)
    comparison = progress.comparison
    assert views.verdict(comparison, job.truth) and views.counters(comparison)
    result = downloads.Result(job, comparison)
    body = json.loads(base64.b64decode(downloads.json_file(result)["data"]))
    assert len(body["answers"]) == 2
    assert downloads.png_file(result)["data"] and downloads.html_file(result)["data"]
    # Patches are counted against the scene only where they are one whole grid.
    assert any(result.stays) == (len(comparison.prompt.layout.grids) == 1)


def test_the_middle_of_a_picture_is_a_square(asked):
    here, models, form = asked
    cropped = handlers.check(models, Form(**{**vars(form), "picture_mode": "crop"})).prompt
    assert {sheet.picture.width - sheet.picture.height for sheet in cropped.sheets} == {0}
    wide = here.vlm.prepare(sources.picture(3).crop((0, 0, 300, 200)), "what?", "crop")
    assert wide.seen.size == (200, 200)


def test_the_arena_names_those_who_cannot_take_part(asked):
    here, models, form = asked
    names = [name for name in METHODS if name not in ("none", "cdpruner")]
    half = handlers.check(models, form).prompt.layout.num_visual // 2
    made = contest.prepare(models, form, None, names, half, every=True)
    *_, _last = contest.follow(made)
    refused = {entry.words.partition("@")[0] for entry in made.entries if entry.refused}
    assert refused == here.mini.lacks - {"cdpruner"}


def test_a_sweep_and_a_snippet_run(asked, capsys):
    _, models, form = asked
    *_, state = teaching.sweep(handlers.check(models, form))
    assert teaching.sweep_html(state, handlers.check(models, form)).count("<tr>") > 3
    shown = share.python(form, 3, local=True)
    exec(shown.replace('"DIR"  # your checkpoint', repr(str(models.paths[models.default]))), {})
    assert capsys.readouterr().out
