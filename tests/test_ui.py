"""The page's plain functions, and its one public endpoint with every kind of wrong value."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import socket
import statistics
import threading
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import page_server
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from visipruner.__main__ import parse
from visipruner.choice import menu
from visipruner.methods import METHODS, VisiPruner
from visipruner.render import numbers, words
from visipruner.render.report import report_html
from visipruner.running.results import Options
from visipruner.trace import NOBODY, Cut
from visipruner.ui import (
    api,
    downloads,
    fields,
    handlers,
    layout,
    share,
    teaching,
    text,
    views,
)
from visipruner.ui.handlers import Form
from visipruner.ui.layout import build
from visipruner.ui.page import without_words
from visipruner.world import sources


@pytest.fixture(scope="module")
def models(mini_path):
    return page_server.models(mini_path)


@pytest.fixture(scope="module")
def form(models):
    options = {"max_new_tokens": 4}
    return Form(sources.picture(3), "what colour is the star?", models.default, options=options)


@pytest.fixture(scope="module")
def finished(models, form):
    job = handlers.check(models, form, sources.truth(3, sources.questions(3)[0].text))
    *_, progress = handlers.follow(job)
    return job, progress


# -- running and showing


def test_progress_ends_with_a_comparison(finished):
    _, progress = finished
    assert progress.comparison.answers[0].text == progress.sides[0].text
    assert [len(side.records) for side in progress.sides] == [8, 8]
    # The live counter's sum equals the result.
    for side in progress.sides:
        assert side.flops == sum(side.answer.counts.executed_per_layer)


def test_stopping_leaves_the_model_free(models, form):
    job = handlers.check(models, replace(form, options={"max_new_tokens": 200}))
    events = handlers.follow(job)
    for progress in events:
        if progress.sides[0].text or progress.sides[1].text:
            break
    events.close()
    assert not job.vlm.lock.locked()


def test_verdict_says_words_and_numbers(finished):
    job, progress = finished
    shown = views.verdict(progress.comparison, job.truth)
    assert words.SAME in shown or words.DIFFERENT in shown
    assert job.truth.answer in shown
    for mark in (text.EXECUTED, text.MEASURED):
        assert mark in shown
    counters = views.counters(progress.comparison)
    assert all(name in counters for name in ("formula", "float32", "torch"))


def test_a_method_that_keeps_everything_drops_nothing(models, form):
    everything = replace(form, method="fastv", level=0.0)
    *_, progress = handlers.follow(handlers.check(models, everything))
    trace = progress.comparison.answers[-1].trace
    assert trace.cuts  # it has decided
    assert text.TOKENS_NONE in views.verdict(progress.comparison)
    assert views.tokens(trace)[0] == str(trace.num_visual)


@pytest.mark.parametrize(
    ("rounds", "whole", "runs", "clocks"),
    [
        (0, False, "too few runs to call one side faster", text.CLOCKS_ONCE),
        (5, False, "median of 5 runs", text.CLOCKS_MEDIAN.format(rounds=5)),
        (5, True, "median of 5 runs", text.CLOCKS_WHOLE.format(rounds=5)),
    ],
)
def test_clocks_say_how_often_they_ran(finished, rounds, whole, runs, clocks):
    comparison = finished[1].comparison
    answers = [
        replace(a, times=replace(a.times, rounds=rounds, whole=whole)) for a in comparison.answers
    ]
    changed = replace(comparison, answers=answers)
    shown = views.verdict(changed)
    assert runs in shown
    assert rounds or not any(word in shown for word in (text.FASTER, text.SLOWER))
    assert clocks in views.small_print(changed)


def clocked(comparison, full, pruned):
    """The comparison with these first-token times, one for each repeat."""
    answers = []
    for answer, firsts in zip(comparison.answers, (full, pruned), strict=True):
        first = statistics.median(firsts or [100.0])
        times = replace(answer.times, rounds=len(firsts), first_token=first, first_tokens=firsts)
        answers.append(replace(answer, times=times))
    return replace(comparison, answers=answers)


@pytest.mark.parametrize(
    ("full", "pruned", "figures", "small"),
    [
        ((), (), 2, "too few runs"),  # one run
        ((200.0, 210.0), (100.0, 110.0), 2, "too few runs"),
        ((100.0, 100.0), (100.0, 100.0), 2, "too few runs"),
        ((200.0, 90.0, 95.0, 220.0, 230.0), (100.0,) * 5, 2, "too uneven"),
        ((200.0,) * 5, (100.0,) * 5, 3, ""),
        ((100.0,) * 5, (100.0,) * 5, 3, ""),  # "no difference" is a finding
    ],
)
def test_a_clock_that_says_nothing_is_no_figure(finished, full, pruned, figures, small):
    comparison = clocked(finished[1].comparison, full, pruned)
    shown = views.verdict(comparison)
    assert shown.count('class="vp-number"') == figures
    print_ = re.findall(r'<p class="vp-small">(.*?)</p>', shown.partition("vp-numbers")[2])
    assert len(print_) == bool(small) and all(small in line for line in print_)
    assert all("ms" in line and text.MEASURED in line for line in print_)
    large = re.findall(r"<strong[^>]*>(.*?)</strong>", shown)
    assert not {"?", text.ONE_RUN} & set(large)
    assert "→" in large[1] or large[1].isdecimal()  # FLOPs and tokens lead, in every case
    saved = report_html(comparison, {})
    headline = re.search(r'<p class="verdict">(.*?)</p>', saved)[1]
    assert ("first token" in headline) == (figures == 3)
    assert "first token: " in saved.partition(headline)[2] or figures == 3


def test_of_a_picture_outside_its_world_both_guess(models, form):
    """No green headline for a picture outside the model's world; the note says why."""
    photograph = Image.effect_noise((240, 180), 90).convert("RGB")
    options = {"max_new_tokens": 2, "probe": False, "clock_rounds": 0}
    asked = replace(form, model="tiny", picture=photograph, options=options)
    job = handlers.check(models, replace(asked, method="none"))
    assert text.OUTSIDE in job.notes
    *_, progress = handlers.follow(job)
    same = progress.comparison
    other = replace(same, answers=[same.answers[0], replace(same.answers[1], text="no word of it")])
    for comparison, said in ((same, words.SAME_GUESS), (other, words.DIFFERENT_GUESS)):
        progress.comparison = comparison
        shown = [views.verdict(comparison), views.status(progress), report_html(comparison, {})]
        for page in shown:
            assert said in page
            assert words.SAME not in page and words.DIFFERENT not in page
        assert ' guess"' in shown[0]
        assert downloads.as_json(downloads.Result(job, comparison))["guesses"]
    assert downloads._asked(same, same.answers[1]).count(words.SAME_GUESS) == 1
    drawn = handlers.check(models, replace(asked, picture=sources.picture(12)), scene=12)
    assert not drawn.prompt.outside and text.OUTSIDE not in drawn.notes
    other = handlers.check(models, replace(asked, model=form.model))
    assert not other.prompt.outside  # what other models learnt is not known here


def test_a_card_on_its_way_holds_the_words_for_every_end(finished):
    """page.js shows which end it was, in the place of what was still to come."""
    done = finished[1]
    progress = handlers.Progress(8, done.shape, ["none", "fastv"])
    for written in ("", "red & blue"):
        progress.sides[1].text = written
        card = views.column(progress, 1)
        answer = re.search(r'<p class="vp-answer[^>]*>(.*?)</p>', card)[1]
        assert answer.startswith(escape(written)) or not written
        waits = views.when(views.RUNNING, text.NO_ANSWER_YET)
        assert (waits in answer) == (not written)
        assert views.when(views.STOPPED, text.STOPPED_CARD) in answer
        assert views.when(views.UNFINISHED, text.UNFINISHED_CARD) in answer
    whole = views.column(done, 0) + views.verdict(done.comparison)
    assert "vp-if-" not in whole and "vp-if-over" in views.verdict_waits()


def test_a_card_gives_no_time_for_a_single_step(finished):
    answer = finished[1].comparison.answers[0]
    for per_token, said in ((None, text.FEW_TOKENS), (12.0, "12 ms")):
        times = replace(answer.times, per_token=per_token)
        card = views.card(replace(answer, times=times), 0, text.FULL)
        row = card.partition(text.COUNTERS["token"])[2].partition("</div>")[0]
        assert said in row and (text.FEW_TOKENS in row) == (per_token is None)


def test_the_bundled_model_reads_american_spelling_as_it_learnt(models, form):
    typed = "What color is the star?"
    job = handlers.check(models, replace(form, model="tiny", question=typed), scene=3)
    british = replace(form, model="tiny", question="what colour is the star?")
    ids = handlers.check(models, british, scene=3).prompt.inputs["input_ids"]
    assert job.prompt.inputs["input_ids"].equal(ids)
    assert typed in views.asked(job) and "What colour is" in job.prompt.text
    assert any("“color” as “colour”" in note for note in job.notes)
    assert "'What colour is the star?'" in share.python(job.form, 3)  # already respelt
    assert typed in share.command_line(job.form, 3)
    other = handlers.check(models, replace(form, question=typed))
    assert typed in other.prompt.text and typed in share.python(other.form, 3) and not other.notes


@pytest.mark.parametrize(
    ("share", "words"), [(0.5, text.FEWER_FLOPS), (1.0, text.AS_MANY_FLOPS), (1.2, text.MORE_FLOPS)]
)
def test_flops_are_not_oversold(finished, share, words):
    comparison = finished[1].comparison
    full, pruned = comparison.answers
    flops = replace(full.counts.executed, prefill=round(share * full.counts.executed.prefill))
    pruned = replace(pruned, counts=replace(pruned.counts, executed=flops))
    assert words in views.verdict(replace(comparison, answers=[full, pruned]))


def test_a_cut_before_the_first_layer_has_a_name(finished):
    comparison = finished[1].comparison
    full, pruned = comparison.answers
    cut = Cut(-1, "random", [1], [NOBODY] * pruned.trace.num_visual)
    pruned = replace(pruned, trace=replace(pruned.trace, cuts=[cut]))
    shown = views.verdict(replace(comparison, answers=[full, pruned]))
    assert text.TOKENS_BEFORE.format(then="") in shown
    assert "-1" not in shown


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(2.0, text.FASTER), (1.04, text.NO_DIFFERENCE), (0.9, text.SLOWER)],
)
def test_speed_is_not_oversold(finished, ratio, words):
    comparison = finished[1].comparison
    full, pruned = comparison.answers
    clocks = [
        replace(answer.times, rounds=5, first_token=first, first_tokens=(first,) * 5)
        for answer, first in ((full, 100 * ratio), (pruned, 100.0))
    ]
    answers = [replace(full, times=clocks[0]), replace(pruned, times=clocks[1])]
    changed = replace(comparison, answers=answers)
    assert words in views.verdict(changed)


def test_no_pruning_is_never_called_pruned(models, form):
    *_, progress = handlers.follow(handlers.check(models, replace(form, method="none")))
    shown = views.verdict(progress.comparison) + views.counters(progress.comparison)
    shown += views.column(progress, 1) + views.status(progress)
    assert text.PRUNED not in shown and text.AGAIN in shown
    for told in (words.describe_tokens, words.describe_flops, words.describe_influence):
        assert "pruned" not in told(progress.comparison)


def test_a_card_never_ends_before_its_first_word(finished):
    comparison = finished[1].comparison
    for answer in comparison.answers:
        assert answer.times.total >= answer.times.first_token
    times = comparison.answers[1].times
    first = replace(times, rounds=3, whole=False)
    assert views.how_often(first)["total"] == text.SUM
    assert set(views.how_often(replace(times, rounds=0)).values()) == {text.ONE_RUN}
    whole = views.how_often(replace(times, rounds=5, whole=True))
    assert set(whole.values()) == {text.MEDIAN_OF.format(rounds=5)}


def test_a_result_says_what_it_answers(models, form, finished):
    job, progress = finished
    line = views.asked(job)
    assert "what colour is the star?" in line and "VisiPruner, balanced (level 0.5)" in line
    assert line in views.verdict(progress.comparison, below=line)
    own = handlers.check(models, replace(form, fields={"exit_threshold": 0.9}))
    assert text.ASKED_OWN in views.asked(own)
    near = handlers.check(models, replace(form, level=0.55))
    assert "level 0.55 (here as balanced)" in views.asked(near)  # one of this model's five settings
    none = handlers.check(models, replace(form, method="none"))
    assert "level" not in views.asked(none)


def test_what_is_missing_is_said_before_a_model_is_fetched(form):
    handlers.check_input(form)
    with pytest.raises(ValueError, match="only says how to answer"):
        handlers.check_input(replace(form, question="Answer in one word."))
    handlers.check_input(replace(form, picture=None), scene=3)
    for change in ({"question": " "}, {"picture": None}):
        with pytest.raises(ValueError):
            handlers.check_input(replace(form, **change))
    with pytest.raises(ValueError, match="no longer on the server"):
        handlers.check_input(replace(form, picture="/tmp/gone/picture.png"))


def test_what_a_visitor_writes_is_never_markup(finished):
    comparison = finished[1].comparison
    first, last = comparison.answers
    changed = replace(comparison, answers=[first, replace(last, text="<script>x</script>")])
    assert "<script>" not in views.verdict(changed)
    assert "<b>" not in views.notes(["<b>"])


def test_numbers_are_short():
    assert [numbers.count(n) for n in (0, 999, 1234, 7.49e9)] == ["0", "999", "1.23 k", "7.49 G"]
    assert [numbers.count(n) for n in (999_600, 999_400)] == ["1 M", "999 k"]
    assert [numbers.duration(n) for n in (None, 3.14, 31.4, 3140)] == [
        "–",
        "3.1 ms",
        "31 ms",
        "3.14 s",
    ]


# -- the form


BAD_FORMS = {
    "no picture": {"picture": None},
    "no question": {"question": "  "},
    "question is a number": {"question": 3},
    "long question": {"question": "a" * 1001},
    "unknown model": {"model": "/etc"},
    "unknown method": {"method": "magic"},
    "level out of range": {"level": 1.5},
    "level is not a number": {"level": float("nan")},
    "level is nothing": {"level": None},
    "level is a list": {"level": [0.5]},
    "unknown semantics": {"semantics": "own"},
    "unknown picture mode": {"picture_mode": "stretch"},
    "unknown backend": {"backend": "magic"},
    "unknown precision": {"precision": "int1"},
    "unknown field": {"fields": {"magic": 1}},
    "field of the wrong type": {"fields": {"shallow_layers": "two"}},
    "field out of range": {"fields": {"layer_threshold": 7}},
    "no tokens": {"options": {"max_new_tokens": 0}},
    "cold": {"options": {"temperature": -1}},
}


@pytest.mark.parametrize("change", BAD_FORMS.values(), ids=BAD_FORMS)
def test_bad_forms_end_in_one_sentence(models, form, change):
    with pytest.raises(ValueError, match=r"\S") as caught:
        handlers.check(models, replace(form, **change))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_offered_client_asks_a_running_page(form, address, picture_file, capsys, monkeypatch):
    options = {"max_new_tokens": 2, "clock_rounds": 0}
    asked = replace(form, question='it\'s "what"?', level=0.5, options=options)
    script = share.client(asked).replace(share.ADDRESS, address)
    monkeypatch.chdir(os.path.dirname(picture_file))
    exec(script.replace("picture.png", os.path.basename(picture_file)), {})
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert names[-2:] == ["none", "visipruner"]
    many = share.client(replace(asked, methods=("none", "fastv:0.8"), fields={}), local=True)
    assert "'methods': ['none', 'fastv:0.8']" in many and "model=" not in many


def test_the_offered_command_asks_a_question_with_a_dash(form):
    line = share.command_line(replace(form, question="-what?", level=0.5), 3)
    args = parse(shlex.split(line)[3:])[1]
    assert (args.picture, args.question) == ("scene:3", "-what?")


def test_a_refused_field_is_named_as_on_the_page():
    names = ["relative", "layer_threshold"]
    words = fields.setting("visipruner", "layer_threshold").words
    for method, keys in (
        ("visipruner", names),
        ("visionzip+visipruner", [f"visipruner.{name}" for name in names]),
    ):
        said = fields.in_words("layer_threshold must be a number.", [method], keys)
        assert said == f"“{words}” must be a number."
        assert fields.in_words("The question is empty.", [method], keys) == "The question is empty."


def test_fields_follow_the_level_unless_filled_in(models):
    assert fields.overrides(["visipruner"], {"visipruner.relative": "", "level": 1}) == {}
    filled = {"fastv.keep": 7}
    for name, value in (("shallow_layers", "3"), ("relative", "no"), ("stages", "middle")):
        filled[f"visipruner.{name}"] = value
    expected = {"shallow_layers": 3, "relative": False, "stages": ("middle",)}
    assert fields.overrides(["visipruner"], filled) == expected
    exit_alone = {"schedule.keep_after": "None", "schedule.none_after": "14"}
    found = fields.overrides(["schedule"], exit_alone)
    assert found == {"keep_after": None, "none_after": 14}
    filled["visipruner.shallow_layers"] = "three"
    with pytest.raises(ValueError, match="three"):
        fields.overrides(["visipruner"], filled)
    filled["visipruner.shallow_layers"] = "3" * (1 + fields.MOST_TYPED)
    with pytest.raises(ValueError, match="at most 1000 can be read"):
        fields.overrides(["visipruner"], filled)
    hints = fields.hints(models.get(models.default), "visipruner", 0.5, "paper")
    assert hints["visipruner", "shallow_layers"] == "2"


def test_every_field_of_every_method_has_words():
    for name, kind in METHODS.items():
        own = {field.name for field in dataclasses.fields(kind)} - set(fields.SHOWN_ELSEWHERE)
        assert own - {"recycle"} <= set(fields.of(name)), name
    assert {name for _, name in menu()} >= set(METHODS) | {"visionzip+visipruner"}


# -- links, snippets, files


def test_links_fill_the_form_and_survive_nonsense(models, form):
    query = dict(httpx.QueryParams(share.query(form, 3)))
    found, notes = share.read(query, models)
    assert found["seed"] == 3
    assert found["question"] == form.question
    assert not notes
    wrong = {"seed": "-1", "model": "hub/model", "level": "9", "method": "", "other": "x"}
    found, notes = share.read(wrong, models)
    assert found == {}
    assert len(notes) == 4


def test_python_snippet_runs(models, form, capsys):
    shown = share.python(form, 3, local=True)
    path = models.paths[models.default]
    exec(shown.replace('"DIR"  # your checkpoint', repr(str(path))), {})
    assert capsys.readouterr().out


def test_a_result_says_when_it_follows_the_published_rules(models, form):
    for semantics in ("paper", "official"):
        for method in ("visipruner", "fastv"):
            asked = replace(form, method=method, semantics=semantics)
            said = text.ASKED_RULES["official"] in views.asked(handlers.check(models, asked))
            assert said == ((method, semantics) == ("visipruner", "official"))


def test_the_head_names_the_device_that_was_found_when_loading(models):
    vlm = models.get(models.default)
    true = vlm.devices
    try:  # as on a ZeroGPU Space, where only the loader's thread sees a GPU
        vlm.__dict__["devices"] = [torch.device("cuda:0")]
        assert "CUDA:0" in views.model_line(models, models.default)
    finally:
        vlm.__dict__["devices"] = true
    assert "CPU" in views.model_line(models, models.default)


def test_command_line_is_understood(form):
    assert "--level" not in share.command_line(replace(form, level=None), 3)
    assert "--level balanced " in share.command_line(replace(form, level="balanced"), 3)
    options = {"max_new_tokens": 4, "seed": 1234567, "temperature": None}
    filled = replace(
        form, level=0.5, fields={"shallow_layers": 3}, options=options, precision="float32"
    )
    words = shlex.split(share.command_line(filled, 3, local=True))
    args = parse(words[3:])[1]
    assert args.picture == "scene:3"  # a composed one has no number
    assert "picture.png" in share.command_line(filled, {"things": []})
    assert args.question == form.question
    assert args.set == ["shallow_layers=3"]
    assert (args.seed, args.max_new_tokens, args.precision) == (1234567, 4, "float32")


def test_files_are_made_from_a_result(finished):
    import base64
    import io

    result = downloads.Result(finished[0], finished[1].comparison)
    body = json.loads(base64.b64decode(downloads.json_file(result)["data"]))
    assert {"settings", "answers", "same_answer", "machine", "truth"} <= set(body)
    png = Image.open(io.BytesIO(base64.b64decode(downloads.png_file(result)["data"])))
    assert png.width > 300
    html = base64.b64decode(downloads.html_file(result)["data"]).decode()
    assert "<html" in html
    # A scene's patches are known, so the files also say what they show.
    result = replace(result, job=replace(result.job, scene=3))
    [stays] = result.stays
    assert stays.startswith("Of the ") or stays.startswith("The one ")
    assert stays in downloads.as_json(result)["notes"]
    assert stays in base64.b64decode(downloads.html_file(result)["data"]).decode()


# -- turns


def test_only_what_computes_waits_for_the_model(models):
    by_name = {event.fn.__name__: event for event in build(models).fns.values() if event.fn}
    assert by_name["on_run"].concurrency_limit == 1
    assert by_name["on_run"].concurrency_id == by_name["on_sweep"].concurrency_id == "model"
    # A download takes minutes and must not block other visitors.
    assert by_name["on_fetch"].concurrency_limit is None
    assert by_name["on_fetch"].concurrency_id != "model"


def test_what_comes_quickly_is_drawn_now_and_then_and_at_last(monkeypatch):
    now, ended = [0.0], []

    def states():
        try:
            for state in range(10):
                yield state
                now[0] += 0.1
        finally:
            ended.append(state)

    monkeypatch.setattr(handlers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert list(handlers.paced(states(), lambda state: 0.35)) == [0, 4, 8, 9]
    assert list(handlers.paced(states(), lambda state: 9 * (state < 8))) == [0, 8, 9]
    drawn = handlers.paced(states(), lambda state: 0)
    next(drawn)
    drawn.close()  # as Stop does
    assert ended == [9, 9, 0]


def test_every_input_of_the_form_has_a_name(models):
    """The form gets each input, wherever it stands on the page."""
    page = build(models)
    read = next(event for event in page.fns.values() if event.name == "on_fetch")
    components = {getattr(part, "label", None): part for part in read.inputs}
    own = {text.QUESTION: "what?", text.SEED: 7, text.PRECISION: "float32", text.LEVEL: 0.25}
    own[fields.setting("visipruner", "shallow_layers").words] = "3"
    values = [own.get(getattr(part, "label", None), part.value) for part in read.inputs]
    assert set(own) <= set(components)
    values[1] = 3  # the scene, which has no label
    key = next(read.fn(*values))[-1]
    form, scene = page.forms.take(key)
    assert (form.question, form.precision, form.level) == ("what?", "float32", 0.25)
    assert (form.options["seed"], form.fields, scene) == (7, {"shallow_layers": 3}, 3)


# -- lessons


def test_search_finds_or_says_so(models, form, monkeypatch):
    monkeypatch.setattr(teaching, "MOST_SCENES", 3)
    state = None
    for state in teaching.search(models, replace(form, level=1.0), 0):
        assert teaching.search_html(state)
    assert state.found == (state.answers[0] != state.answers[1])
    # The next search goes on from the last scene.
    assert state.seed == state.tried <= 3


def test_search_without_pruning_is_refused(models, form):
    with pytest.raises(ValueError, match="choose a method"):
        next(teaching.search(models, replace(form, method="none"), 0))


def test_a_search_is_over_only_after_its_last_answer():
    at_last = teaching.Search(200, tried=teaching.MOST_SCENES, answers=("red", "red"))
    assert "progress" in teaching.search_html(at_last)
    silent = replace(at_last, answers=("", ""), over=True)
    assert text.NOT_FOUND.format(tried=teaching.MOST_SCENES) in teaching.search_html(silent)


def test_a_lesson_on_its_way_holds_the_words_for_its_end(models, form, finished):
    job = handlers.check(models, replace(form, question="what is … the star?"))
    *_, whole = teaching.sweep(job)
    boxes = [
        teaching.sweep_html(next(teaching.sweep(job)), job),
        teaching.search_html(teaching.Search(4, tried=1)),
        teaching.rounds_html([[], []], ["full", "pruned"]),
    ]
    promise = re.compile(r'<(progress|span) class="vp-if-running"')
    for box in boxes:
        assert promise.search(box) and text.LESSON_ENDED in box
    assert "what is … the star?" in boxes[0]
    done = teaching.sweep_html(whole, job)
    assert not promise.search(done) and text.LESSON_ENDED not in done


@pytest.mark.parametrize(
    ("method", "levels"),
    [
        (
            "fastv",
            [
                *("0.1", "0.2", "0.3", "0.4", "0.5 (balanced)", "0.6"),
                *("0.7 (aggressive)", "0.8 to 0.9", "1"),
            ],
        ),
        (
            "visipruner",
            [
                "0.1",
                "0.2 to 0.3 (gentle)",
                "0.4 to 0.6 (balanced)",
                "0.7 to 0.8 (aggressive)",
                "0.9 to 1",
            ],
        ),
        ("none", ["0.1 to 1"]),
    ],
)
def test_a_sweep_has_a_row_for_each_setting(method, levels, models, form):
    """This model has its own five settings; a budget differs at nearly every level."""
    job = handlers.check(models, replace(form, method=method))
    *_, state = teaching.sweep(job)
    assert state.levels == levels
    assert sorted(state.answers) == list(range(1 + len(levels)))
    assert teaching.sweep_html(state, job).count("<tr>") == 2 + len(levels)


def test_rounds_take_turns(finished):
    job = replace(finished[0], options=Options(max_new_tokens=2))
    *_, samples = teaching.rounds(job)
    assert [len(side) for side in samples] == [5, 5]
    assert "5 of 5" in teaching.rounds_html(samples, views.names(["none", "visipruner"]))
    assert text.PRUNED not in teaching.rounds_html(samples, views.names(["none", "none"]))


# -- the endpoint


@pytest.fixture(scope="module")
def address(mini_path):
    return page_server.address(mini_path)


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def picture_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    sources.picture(3).save(path)
    return str(path)


QUICK = {"max_new_tokens": 3}


def test_compare_is_the_only_public_endpoint(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/compare"]
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


def test_compare_answers(client, picture_file):
    result = client.predict(
        picture=handle_file(picture_file),
        question="what colour is the star?",
        level=0.5,
        options={**QUICK, "fields": {"shallow_layers": 3}},
        api_name="/compare",
    )
    full, pruned = result["answers"]
    assert isinstance(result["same_answer"], bool)
    assert full["trace"]["method"] == "none"
    assert pruned["trace"]["settings"]["shallow_layers"] == 3
    assert pruned["counts"]["executed"]["prefill"] > 0
    assert result["settings"]["options"]["max_new_tokens"] == 3
    assert set(result["settings"]["options"]) <= set(api.RUN_OPTIONS)  # can be sent back


BAD_CALLS = {
    "no picture": {"picture": None},
    "a path that was not uploaded": {"picture": "/etc/passwd"},
    "a file object outside": {
        "picture": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    },
    "an address": {
        "picture": {"path": "http://127.0.0.1:1/x.png", "meta": {"_type": "gradio.FileData"}}
    },
    "no question": {"question": None},
    "question is a list": {"question": ["what"]},
    "unknown model": {"model": "llava-hf/llava-1.5-7b-hf"},
    "model is a number": {"model": 7},
    "model is empty": {"model": ""},
    "model is false": {"model": False},
    "model is an empty list": {"model": []},
    "unknown method": {"method": "magic"},
    "method is an object": {"method": {"name": "visipruner"}},
    "level": {"level": 2},
    "level is true": {"level": True},
    "options is a list": {"options": [1]},
    "unknown option": {"options": {"magic": 1}},
    "tokens": {"options": {"max_new_tokens": 10**9}},
    "tokens as text": {"options": {"max_new_tokens": "many"}},
    "fields is a list": {"options": {"fields": [1]}},
    "unknown field": {"options": {"fields": {"magic": 1}}},
    "field with a parameter's name": {"options": {"fields": {"name": 1, "level": 1}}},
    "stages are no words": {"options": {"fields": {"stages": [{}]}}},
    "probe": {"options": {"probe": "yes"}},
    "backend is a list": {"options": {"backend": ["sdpa"]}},
}


@pytest.mark.parametrize("change", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_end_in_one_sentence(client, picture_file, change):
    good = {"picture": handle_file(picture_file), "question": "what?", "options": QUICK}
    with pytest.raises((AppError, ValueError)) as caught:
        client.predict(**{**good, **change}, api_name="/compare")
    said = str(caught.value)
    assert said
    assert "Traceback" not in said
    assert "\n" not in said.strip()
    assert "verbose error reporting" not in said


def test_an_empty_request_loads_no_model():
    models = SimpleNamespace(default="tiny", get=lambda *_: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match="No question was given"):
        next(api.endpoint(models)())


def test_a_fault_in_a_method_is_logged_with_its_place_and_not_shown(
    client, models, mini_path, picture_file, monkeypatch, caplog
):
    """On the page and by the API; the log has only kinds and places, never a visitor's words."""

    secret = "words of this visitor"

    def select(self, view):
        raise ValueError(secret)

    monkeypatch.setattr(VisiPruner, "select", select)
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(picture_file), "what?", options=QUICK, api_name="/compare")
    assert text.BROKEN in str(caught.value)
    events = {fn.name: fn for fn in page_server.page(mini_path).fns.values()}
    read = events["on_fetch"]
    values = [getattr(component, "value", None) for component in read.inputs]
    labels = [getattr(component, "label", None) for component in read.inputs]
    for label, value in ((text.PICTURE, picture_file), (text.QUESTION, "what?")):
        values[labels.index(label)] = value
    *_, key = next(read.fn(*values))
    with pytest.raises(gr.Error) as caught:
        list(events["on_run"].fn(None, key))
    assert caught.value.message == text.BROKEN
    faults = [record.getMessage() for record in caplog.records if record.name == "visipruner"]
    assert len(faults) == 2
    for fault in faults:
        assert "unforeseen ValueError" in fault and "in select" in fault and __file__ in fault
        assert "engine.py" in fault and secret not in fault


def test_the_log_names_what_a_fault_came_from():
    try:
        try:
            {}["words of a visitor"]
        except KeyError as error:
            raise ArithmeticError("and more words") from error
    except ArithmeticError as error:
        logged = without_words(error)
    assert logged.index("KeyError") < logged.index("ArithmeticError")
    assert logged.count(__file__) == 2


def test_missing_values_end_in_one_sentence(address):
    for body in ({"data": []}, {"data": [None, "what?"]}):
        started = httpx.post(f"{address}gradio_api/call/compare", json=body).json()
        answer = httpx.get(f"{address}gradio_api/call/compare/{started['event_id']}", timeout=30)
        assert "event: error" in answer.text
        assert "Traceback" not in answer.text
        assert "event handler" not in answer.text


def test_no_file_of_the_server_can_be_read(address):
    secret = Path(__file__).resolve()
    for path in (secret, "/etc/passwd", "../tests/conftest.py", "http://127.0.0.1:9/x"):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code >= 400


def test_private_events_are_refused(client):
    with pytest.raises(ValueError, match="Cannot find a function"):
        client.predict(api_name="/on_run")


def test_a_taken_port_gets_one_sentence(mini_path, capsys, monkeypatch):
    import app

    warmed = []
    monkeypatch.setattr(layout, "_warm", warmed.append)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["--host", "127.0.0.1", "--port", str(port), "--model-path", str(mini_path)]
        assert app.main(arguments) == 1
    assert not warmed  # otherwise the process might end in the middle of torch
    said = capsys.readouterr().err
    assert str(port) in said
    assert said.count("\n") == 1
    assert app.main(["--model-path", str(mini_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_next_run_works(client, picture_file):
    test_compare_answers(client, picture_file)


def test_answers_in_a_crowd_equal_answers_alone(address, picture_file):
    def ask(question, results):
        call = {"picture": handle_file(picture_file), "question": question, "options": QUICK}
        result = Client(address, verbose=False).predict(**call, api_name="/compare")
        results[question] = [answer["text"] for answer in result["answers"]]

    questions = ["what colour is the star?", "how many? one two", "is it red?"]
    alone, crowd = {}, {}
    for question in questions:
        ask(question, alone)
    threads = [threading.Thread(target=ask, args=(question, crowd)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowd == alone
