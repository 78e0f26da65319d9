"""A saved run opens again without the model, and a file that is none is one sentence."""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import re
import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import page_server
import pytest
from PIL import Image

from visipruner.__main__ import main
from visipruner.errors import Refused
from visipruner.recorded import files, kinds, pictures, runs
from visipruner.recorded.kinds import opened
from visipruner.render import charts
from visipruner.render.report import report_html
from visipruner.render.values import viewer_value
from visipruner.show import words
from visipruner.ui import api, arena_files, contest, downloads, handlers, opening, views
from visipruner.ui.handlers import Form
from visipruner.world import sources

SAVED = Path(__file__).parent / "saved"
OLD = ("run_before_stacks.json", "run_before_dates.json")
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def live(mini_path):
    """A finished run of the page, about a scene whose answer is known."""
    models, asked = page_server.models(mini_path), sources.questions(3)[0].text
    options = {"max_new_tokens": 4}
    form = Form(sources.picture(3), asked, models.default, level="aggressive", options=options)
    form = replace(form, methods=("none", "visipruner", "fastv@6"))
    job = handlers.check(models, form, sources.truth(3, asked), 3)
    *_, progress = handlers.follow(job)
    return downloads.Result(job, replace(progress.comparison, words=form.methods))


def content(file: dict) -> bytes:
    return base64.b64decode(file["data"])


@pytest.fixture(scope="module")
def saved(live) -> bytes:
    return content(downloads.json_file(live))


@pytest.fixture
def data(saved) -> dict:
    return json.loads(saved)


def again(data: dict):
    return opened(json.dumps(data).encode())


CHARTS = (charts.tokens_chart, charts.flops_chart, charts.influence_chart)


def html(run) -> str:
    """All HTML that page and report make of a run; the viewer's script writes text only."""
    named = views.named(run.comparison)
    parts = [views.verdict(named, run.truth), *views.cards(named, run.truth, 5)]
    parts += [views.counters(named, run.label), views.recorded(run), views.notes(run.notes)]
    return "".join([*parts, downloads.html_of(run)])


def draw(run) -> list:
    """Everything that page, report and command show of a run."""
    named = views.named(run.comparison)
    drawn = [chart(named).to_plotly_json() for chart in CHARTS]
    return [html(run), viewer_value(named, notes=run.stays), words(run), *drawn]


# -- a file that was just saved


def test_an_opened_run_shows_what_the_live_one_showed(live, saved):
    run = opened(saved)
    mine, theirs = live.comparison, run.comparison
    assert [a.counts for a in mine.answers] == [a.counts for a in theirs.answers]
    assert [a.times for a in mine.answers] == [a.times for a in theirs.answers]
    for one, other in zip(mine.answers, theirs.answers, strict=True):
        assert one.trace.cuts == other.trace.cuts and one.trace.layers == other.trace.layers
        assert [c.kept for c in one.trace.drops] == [c.kept for c in other.trace.drops]
    assert any(cut.kept for answer in mine.answers for cut in answer.trace.drops)
    assert viewer_value(views.named(mine), notes=live.stays) == viewer_value(
        views.named(theirs), notes=run.stays
    )
    assert views.counters(mine) == views.counters(theirs)
    assert views.cards(mine, live.truth, 5) == views.cards(theirs, run.truth, 5)
    assert views.verdict(mine, live.truth) == views.verdict(theirs, run.truth)
    assert downloads.html_of(live) == downloads.html_of(replace_label(run))
    for chart in CHARTS:
        assert chart(views.named(mine)) == chart(views.named(theirs))
    assert content(downloads.json_file(run)) == saved  # saved again, it is the same file


def replace_label(run):
    class Unlabelled(runs.Run):
        label = ""

    return Unlabelled(**vars(run))


def test_it_is_labelled_with_machine_and_date(live, saved):
    run, machine = opened(saved), live.comparison.machine
    assert run.label.startswith(f"Recorded {live.comparison.date[:10]} ")
    saved_at = datetime.fromisoformat(live.comparison.date)
    assert f"{saved_at:%Z}" and f" {saved_at:%H:%M %Z} on " in run.label
    assert machine["device"] in run.label and machine["model"] in run.label
    assert run.missing == () and "not saved" not in run.label
    drawn = views.recorded(run), views.counters(run.comparison, run.label), downloads.html_of(run)
    assert all("Recorded" in part for part in drawn)
    assert content(downloads.png_file(run)) != content(downloads.png_file(live))  # the small print


def test_picture_boxes_padding_and_notes_are_those_of_the_run(live, saved, picture):
    run = opened(saved)
    mine, theirs = live.comparison.prompt, run.comparison.prompt
    assert mine.seen.tobytes() == theirs.seen.tobytes()
    assert [s.boxes for s in mine.sheets] == [s.boxes for s in theirs.sheets]
    assert (mine.text, mine.padding) == (theirs.text, theirs.padding)
    assert list(run.notes) == live.notes and list(run.own_notes) == list(live.job.notes)


def test_an_answer_of_the_api_opens_too(mini_path, live):
    """Without the picture, which its caller has."""
    body = downloads.as_json(live)
    run = again(body)
    assert run.missing == (pictures.NO_PICTURE,)
    assert run.comparison.answers[1].counts == live.comparison.answers[1].counts
    assert api.as_json is downloads.as_json and "seen" not in body


def test_several_sheets_and_line_ends_come_back(ready):
    prompt = ready("next-vicuna").prompt
    node = runs.Node(json.loads(json.dumps(pictures.seen_json(prompt))))
    found = pictures.read_sheets(node.get("sheets"), prompt.layout.num_visual)
    assert [(s.name, s.boxes, s.picture.tobytes()) for s in found] == [
        (s.name, s.boxes, s.picture.tobytes()) for s in prompt.sheets
    ]
    blank, said = pictures.blank_sheets(prompt.layout)
    assert said and len(blank[0].boxes) == prompt.layout.num_visual


def test_an_arena_opens_on_page_and_command_line(mini_path, tmp_path):
    models = page_server.models(mini_path)
    form = Form(sources.picture(3), "what is it?", models.default, options={"max_new_tokens": 2})
    made = contest.prepare(models, form, None, ["fastv", "random"], 6, False)
    for _ in contest.follow(made):
        pass
    data = json.loads(content(arena_files.json_file(made)))
    run = again(data)
    assert [a.text for a in run.comparison.answers] == [a["text"] for a in data["answers"]]
    assert draw(run) and not run.missing
    data["arena"]["complete"] = False
    with pytest.raises(Refused, match="stopped before its comparison"):
        again(data)


# -- old files


@pytest.mark.parametrize("name", OLD)
def test_old_runs_open_and_say_what_is_missing(name):
    data = json.loads((SAVED / name).read_text())
    run = opened(SAVED / name)
    assert run.missing == (runs.NO_DATE, pictures.NO_PICTURE)
    assert all(sentence in run.label for sentence in run.missing)
    assert run.comparison.flops_ratio == data["flops_ratio"]
    assert run.comparison.first_token_ratio == data["first_token_ratio"]
    sheet = run.comparison.prompt.sheets[0]
    assert len(sheet.placed) == 16 and len(set(sheet.picture.get_flattened_data())) == 1
    assert draw(run)
    assert draw(again(runs.with_picture(runs.file_of(run), run.comparison.prompt)))


def test_a_run_of_before_stacks_with_its_traces_opens(data):
    """Traces had one method, and neither stories nor whose cut it is."""
    for answer in data["answers"]:
        trace = answer["trace"]
        for name in ("stories", "door_flops", "mean_tokens"):
            del trace[name]
        for cut in trace["cuts"]:
            del cut["by"], cut["visual"]
        del answer["name"]
    run = again(data)
    assert run.comparison.names == ["none", "visipruner", "fastv"]
    assert draw(run)


def test_what_is_not_known_is_not_drawn_as_known(data):
    del data["seen"], data["machine"]["device"]
    for trace in (data["probe"], *(answer["trace"] for answer in data["answers"])):
        trace["grids"] = []
    run = again(data)
    assert run.missing == (pictures.NO_PLACES,) and runs.NOT_SAVED in run.label
    assert not run.comparison.prompt.sheets[0].placed and draw(run)


# -- files that are none


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not JSON"),
        (b"[" * 400_000, "holds more values"),
        (b"[1]", "not a saved run"),
        (b"7", "not a saved run"),
        (b"{}", "no question with answers"),
        (b'{"answers": NaN}', "NaN"),
        (b'{"answers": -Infinity}', "-Infinity"),
        (b'{"n": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"analyses": {}}', "Look inside"),
        (b'{"measured_here": [], "recorded": {}}', "a measured curve"),
        (b'{"answers": [], "question": "x"}', "answers must be a list"),
        (b'{"answers": {}, "question": "x"}', "answers must be a list"),
        (b'{"answers": [1, 2], "question": "x"}', r"answers\[0\] must be an object"),
        (b'{"answers": 1, "arena": 3}', "stopped before"),
    ],
)
def test_a_file_that_is_no_run_is_one_sentence(given, said):
    with pytest.raises(Refused, match=said) as caught:
        opened(given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_truncated_file_and_one_with_a_mark_at_its_start(saved):
    for part in (10, len(saved) // 2, len(saved) - 1):
        with pytest.raises(Refused, match="not JSON"):
            opened(saved[:part])
    assert opened(b"\xef\xbb\xbf" + saved.replace(b"\n", b"\r\n")).label == opened(saved).label


def test_a_file_may_not_be_larger_than_any_run(monkeypatch, saved):
    monkeypatch.setattr(files, "MOST_BYTES", len(saved) - 1)
    with pytest.raises(Refused, match="more than 0 MB"):
        opened(saved)


def put(data, path, value):
    *way, last = path
    for step in way:
        data = data[step]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("version",), 3, "newer version"),
        (("version",), "2", "version must be a whole number"),
        (("version",), True, "version must be a whole number"),
        (("date",), "yesterday", "a date and time"),
        (("question",), ["x"], "question must be a text"),
        (("question",), "x" * 1001, "question must be a text"),
        (("answers", 1, "name"), SCRIPT, "without marks"),
        (("answers", 1, "times", "first_token"), 0, "first_token must be a number"),
        (("answers", 1, "times", "first_tokens"), [], "as many rounds"),
        (("answers", 1, "times", "total"), 1e300, "total must be a number"),
        (("answers", 1, "counts", "executed", "prefill"), 0, "prefill must be a whole"),
        (("answers", 1, "counts", "executed", "prefill"), 10**99, "far too large"),
        (("answers", 1, "counts", "executed_per_layer"), [], "a list of 8 parts"),
        (("answers", 1, "trace", "num_visual"), 10**9, "num_visual must be a whole"),
        (("answers", 1, "trace", "layers"), [], "layers must be a list of 1"),
        (("answers", 1, "trace", "layers", 0, "stage"), "<b>", "the name of a stage"),
        (("answers", 1, "trace", "cuts"), {}, "cuts must be a list"),
        (("answers", 1, "trace", "stories", 0, "name"), "evil", "method that is not known"),
        (("answers", 1, "trace", "stories", 0, "settings", "stages"), 5, "setting of its kind"),
        (("answers", 2, "trace", "stories", 0, "settings", "stages"), 5, "has no setting"),
        (("answers", 1, "trace", "length"), 9, "from 0 to 9"),
        (("probe", "grids"), [], "another prompt or model"),
        (("seen", "sheets", 0, "picture"), "https://example.org/x.png", "a PNG picture"),
        (("seen", "sheets", 0, "picture"), "data:image/png;base64,!", "in base64"),
        (("seen", "sheets", 0, "picture"), "data:image/png;base64,AAAA", "not a picture"),
        (("seen", "sheets", 0, "boxes", 0), [0, 0, 9999, 9999], "boxes on the picture"),
        (("seen", "sheets", 0, "tokens", 0), 1, "without a token twice"),
        (("seen", "sheets"), [], "sheets must be a list"),
        (("seen", "padding"), [16], "padding"),
        (("truth", "right"), [True], "right must be a list of 3"),
        (("stays",), ["a"], "stays must be a list of 2"),
        (("settings",), [[[[[[[[[[[[[[1]]]]]]]]]]]]]], "lists deep"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(data, path, value, said):
    put(data, path, value)
    with pytest.raises(Refused, match=said) as caught:
        again(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def paths(value, way=()):
    """The path of every value in a file."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in parts:
        yield (*way, name)
        if isinstance(one, dict | list):
            yield from paths(one, (*way, name))


WRONG = (None, True, -1, 0, 1e308, 7, "x", SCRIPT, "\ud800", [], {}, [[]], [None], {"a": 1}, 2**70)


def test_any_changed_value_is_refused_or_can_be_drawn():
    """Nothing but `Refused`, wherever a file is wrong; and no tag of it in what is drawn."""
    rng, drawn = random.Random(5), 0
    old = opened(SAVED / OLD[1])
    data = json.loads(json.dumps(runs.with_picture(runs.file_of(old), old.comparison.prompt)))
    every = [path for path in paths(data) if path[-1] not in ("boxes", "cos", "l2", "patches")]
    for path in rng.sample(every, 500):
        value = rng.choice(WRONG)
        changed = copy.deepcopy(data)
        put(changed, path, value)
        try:
            run = again(changed)
        except Refused:
            continue
        drawn += 1
        if value == SCRIPT or drawn % 8 == 0:
            assert "<img" not in draw(run)[0]
    assert drawn > 20


def test_texts_of_a_file_stay_texts(data):
    """Tags and the codes of a terminal in every place that may hold any words."""
    evil = f"{SCRIPT} \x1b[2J \u0000 {'</script>'}"
    for path in (
        ("question",), ("answers", 0, "text"), ("answers", 1, "text"), ("machine", "model"),
        ("answers", 1, "trace", "stories", 0, "why"), ("notes", 0), ("stays", 0),
        ("machine", "device"), ("truth", "answer"), ("settings", "model"), ("seen", "prompt"),
        ("seen", "sheets", 0, "name"),
    ):  # fmt: skip
        put(data, path, evil[:90]) if path[-1] != "name" else put(data, path, evil[:40])
    run = again(data)
    assert "<img" not in html(run) and "<script>alert" not in html(run)
    assert "\x1b" not in words(run) and "\0" not in words(run)


# -- the command


def test_show_prints_and_writes_without_a_model(saved, live, tmp_path, capsys, monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("visipruner.models.catalogue.load_vlm", loaded)
    file, html, png = (tmp_path / name for name in ("ü run.json", "out.html", "out.png"))
    file.write_bytes(saved)
    assert main(["show", str(file), "--html", str(html), "--png", str(png)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Recorded ") and "verdict of visipruner" in said
    assert all(answer.text in said for answer in live.comparison.answers)
    assert "Recorded" in html.read_text() and "<script>" in html.read_text()
    assert Image.open(png).width > 400
    assert Image.open(io.BytesIO(content(downloads.png_file(live)))).width == Image.open(png).width


def test_show_refuses_in_one_line(saved, tmp_path, capsys):
    file = tmp_path / "run.json"
    file.write_bytes(saved)
    for arguments, said in (
        ([str(tmp_path)], "is a folder"),
        ([str(tmp_path / "none.json")], "There is no file"),
        (["/dev/zero"], "There is no file"),
        (["a\0b"], "There is no file"),
        (["x" * 5000], "There is no file|cannot be read"),
        ([str(file), "--html", str(file)], "same file"),
        ([str(file), "--html", str(tmp_path / "a"), "--png", str(tmp_path / "a")], "same file"),
        ([str(file), "--png", str(tmp_path)], "is a folder"),
    ):
        assert main(["show", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(said, error), error
    assert file.read_bytes() == saved


# -- the page


def test_the_page_refuses_what_has_no_place_there(data):
    data["answers"] += [{**data["answers"][2], "name": f"fastv@{n}"} for n in range(3)]
    data["truth"] = data["stays"] = None
    run = again(data)
    assert "fastv@2" in report_html(run.comparison, {})
    with pytest.raises(Refused, match="compares 5 methods, and the page shows 4"):
        opening.check_fits(run)


def test_measuring_again_is_refused_with_the_reason(saved):
    with pytest.raises(Refused, match="recorded on another occasion"):
        opening.check_live(opened(saved))


def test_what_the_page_gives_to_repeat_it_opens_it_again(saved, tmp_path, monkeypatch, capsys):
    (tmp_path / "visipruner.json").write_bytes(saved)
    monkeypatch.chdir(tmp_path)
    _, code, command, _ = opening.repeated()
    exec(code, {})
    assert capsys.readouterr().out.startswith("Recorded ")
    assert main(shlex.split(command)[3:]) == 0
    assert (tmp_path / "report.html").exists() and (tmp_path / "overlays.png").exists()


def test_kinds_that_are_known_are_named():
    read = [kind.what for kind in kinds.KINDS if kind.read]
    assert read == ["an arena", "a run", "an evaluation"]
