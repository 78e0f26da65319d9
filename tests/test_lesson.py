"""The lesson: what a file may say, that its claims are true, drawings, paper and events."""

from __future__ import annotations

import copy
import json
import re
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
from gradio.exceptions import Error
from PIL import Image

from visipruner.__main__ import main
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.flops import ModelShape
from visipruner.layout import TokenLayout
from visipruner.lesson import handout, reading
from visipruner.lesson.bill import LLAVA_7B, prefill_flops
from visipruner.lesson.draw import Drawing, plan_value
from visipruner.lesson.plan import Contestant, Show, Slider
from visipruner.lesson.play import Frame, Row, Shown, _table, play, sides_of
from visipruner.methods import PruningMethod, Schedule
from visipruner.running.results import Times
from visipruner.ui import lesson as view
from visipruner.ui.store import Models

BUNDLED = json.loads(reading.BUNDLED.read_text())


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture(scope="module")
def plan():
    return reading.read()


@pytest.fixture(scope="module")
def played(models, plan):
    """What every step of the bundled lesson reveals, with its job; the last one on few rounds."""
    found = []
    for step in plan.steps:
        for job, shown in view.shown_of(models, plan, step):  # noqa: B007 - the last is whole
            pass
        found.append((job, shown))
    return found


# -- a file


def changed(change) -> dict:
    data = copy.deepcopy(BUNDLED)
    change(data)
    return data


def _in_step(name: str, value):
    return lambda data: data["steps"][2].__setitem__(name, value)


def _in_show(**values):
    return _in_step("show", values)


SIDE = {"recipe": "keep-or-drop"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.update(colour="red"), "The lesson has an unknown field 'colour'"),
        (lambda data: data.pop("title"), "The lesson lacks the field “title”"),
        (lambda data: data.update(steps=[]), "needs a list of 1 to 20 in “steps”"),
        (lambda data: data.update(steps=[3]), "step 1, is not an object"),
        (_in_step("hint", "x"), "The lesson, step 3, has an unknown field 'hint'"),
        (_in_step("say", " "), "step 3, needs words in “say”"),
        (_in_step("say", "x" * 2000), "more than 1,000 characters"),
        (_in_step("minutes", "two"), "minutes must be a number"),
        (_in_step("scene", 1e9), "scene's number must be"),
        (_in_step("picture", "x.png"), "either a scene or a picture"),
        (_in_step("question", ""), "needs words in “question”"),
        (_in_step("told", "all"), "needs a list of 1 to 6 in “told”"),
        (_in_step("predict", {"ask": "?", "choices": ["a", "b"], "right": 2}), "right must be"),
        (_in_step("predict", {"ask": "?", "choices": ["a"], "right": 0}), "list of 2 to 6"),
        (_in_step("try", {"say": "x", "view": "nowhere"}), "view must be one of"),
        (_in_step("try", {"say": "x", "view": "compare", "level": 2}), "level must be"),
        (_in_step("try", {"say": "x", "view": "compare", "others": ["tea"]}), "method must be"),
        (_in_step("try", {"say": "x", "view": "inside", "analyses": ["tea"]}), "analysis must be"),
        (_in_show(), "step 3, “show”, reveals nothing"),
        (_in_show(bill=1), "needs true or false in “bill”"),
        (_in_show(sides=[{}]), "side 1, needs either a method or a recipe"),
        (_in_show(sides=[{"method": "tea"}]), "method must be one of"),
        (_in_show(sides=[{"recipe": "tea"}]), "recipe must be one of"),
        (_in_show(sides=[SIDE | {"set": {"tea": 1}}]), "has no setting 'tea'; it has"),
        (_in_show(sides=[SIDE | {"set": {"count": -1}}]), "count must be"),
        (_in_show(sides=[SIDE | {"set": 3}]), "“set” that is no object"),
        (_in_show(maps={"tea": {}}), "map must be one of"),
        (_in_show(maps={"influence": {"tea": 1}}), "gives influence other settings"),
        (_in_show(maps={"attention": {"head": "x"}}), "head must be"),
        (_in_show(maps=3), "one or two maps"),
        (
            _in_show(sides=[SIDE], slider={"setting": "tea", "values": [1, 2], "label": "x"}),
            "varies 'tea', which keep-or-drop does not have",
        ),
        (
            _in_show(bill=True, slider={"setting": "layer", "values": [1, 2], "label": "x"}),
            "the step has no sides",
        ),
        (
            _in_show(sides=[SIDE], slider={"setting": "layer", "values": [1], "label": "x"}),
            "needs 2 to 40 values",
        ),
        (
            _in_show(
                sides=[SIDE],
                maps={"influence": {}},
                slider={"setting": "layer", "values": [1, 2], "label": "x"},
            ),
            "has a slider and maps",
        ),
        (lambda data: data["quiz"][0].pop("right"), "quiz question 1, lacks the field “right”"),
    ],
)
def test_a_wrong_lesson_is_refused_by_the_place_of_the_fault(change, sentence, tmp_path):
    with pytest.raises(Refused, match=re.escape(sentence)) as caught:
        reading.plan_of(changed(change), tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_files_that_are_no_lesson_are_refused(tmp_path, capsys):
    path = tmp_path / "lesson.json"
    path.write_text("[" * 100_000)
    with pytest.raises(Refused, match="is not a JSON file"):
        reading.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="is not a JSON file"):
        reading.read(path)
    path.write_text(" " * 1_000_001)
    with pytest.raises(Refused, match="larger than 1,000,000 bytes"):
        reading.read(path)
    assert main(["lesson", "--lesson", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_lesson_shows_pictures_of_its_own_folder_and_no_others(tmp_path):
    folder = tmp_path / "lessons"
    folder.mkdir()
    Image.new("RGB", (60, 40), "red").save(folder / "red.png")
    Image.new("RGB", (60, 40), "blue").save(tmp_path / "secret.png")

    def with_picture(name: str):
        def change(data):
            data["steps"][1].pop("scene")
            data["steps"][1]["picture"] = name

        return reading.plan_of(changed(change), folder)

    drawn = with_picture("red.png")
    assert drawn.steps[1].image().getpixel((5, 5)) == (255, 0, 0)
    assert plan_value(drawn)["steps"][1]["picture"].startswith("data:image/webp")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "none.png", "."):
        with pytest.raises(Refused, match="not in the lesson's folder"):
            with_picture(name)


# -- the claims of the bundled lesson


def answers(shown: Shown) -> dict[str, str]:
    return {row.name: row.answer for row in shown.rows}


def by_value(shown: Shown, row: int) -> list[str]:
    return [frame.rows[row].answer for frame in shown.frames]


def test_the_whole_lesson_takes_eight_steps_and_23_minutes(plan):
    assert len(plan.steps) == 8
    assert sum(step.minutes for step in plan.steps) == 23
    assert len(plan.quiz) == 3
    assert all(len(step.told) == 3 for step in plan.steps)


def test_step_1_a_count_breaks_under_balanced_pruning(played):
    _, shown = played[0]
    assert answers(shown) == {"full model": "5", "balanced pruning": "2"}
    assert [row.right for row in shown.rows] == [True, False]
    assert "of 576 patches go on" in shown.rows[1].stayed
    [picture] = shown.frames[0].pictures
    assert f" {len(picture.kept)} after layer" in shown.rows[1].stayed


def test_step_2_the_picture_costs_more_than_nine_tenths(played):
    job, shown = played[1]
    for bill in shown.bills:
        assert all(bar.share > 0.9 for bar in bill.bars)
    text = job.prompt.layout.length - 576
    assert shown.bills[0].bars[0].words == f"576 + {text}"


def test_step_3_influence_and_attention_find_the_cross_and_a_lottery_does_not(played):
    _, shown = played[2]
    assert list(answers(shown).values()) == ["purple", "purple", "purple", "none"]
    assert len(shown.frames) == 12
    assert [len(frame.pictures) for frame in shown.frames] == [2] * 12
    assert shown.at == 3


def test_step_4_only_the_middle_layers_need_the_picture(played):
    _, shown = played[3]
    assert list(answers(shown).values()) == ["purple", "purple", "none", "purple"]


def test_step_5_the_answer_turns_right_within_two_layers(played):
    _, shown = played[4]
    assert by_value(shown, 0) == ["1", "1", "1", "2", "2", *["3"] * 6]
    assert by_value(shown, 1) == ["1", "1", "1", "1", *["3"] * 7]


def test_step_6_a_count_grows_with_the_layer_of_the_exit(played):
    _, shown = played[5]
    assert by_value(shown, 0) == ["1", "1", "1", "1", "3", "4", "5", "5", "7", "7", "8"]


def test_step_7_formula_promises_more_than_what_ran(played):
    _, shown = played[6]
    assert [row[0] for row in shown.table.rows][:2] == ["formula", "executed"]
    formula, executed = (float(row[1].rstrip("×")) for row in shown.table.rows[:2])
    assert formula > executed > 1.5
    assert shown.table.head[1] == "one word"
    assert int(shown.table.head[2].split()[0]) > 40
    assert all(re.fullmatch(r"[0-9.]+×", cell) for row in shown.table.rows for cell in row[1:])


def test_step_8_only_the_model_that_was_trained_so_reads_its_picture_in_three_layers(played):
    _, shown = played[7]
    full, late, aligned = shown.rows
    assert full.right and not late.right and aligned.right
    assert re.fullmatch(r"7\d% less computing than the full model", aligned.stayed)


def test_the_notes_about_pruning_gently_are_true(models, plan):
    step = plan.steps[0]
    job = view.job_of(models, plan, step)
    [side] = sides_of(job, Contestant(method="visipruner:gentle")).values()
    run = job.compare([PruningMethod(), side], job.options)
    *_, last = run
    assert [answer.text for answer in last.comparison.answers] == ["5", "5"]


# -- what a step runs


def test_a_slider_gives_each_place_its_own_run(models, plan, played):
    job, shown = played[5]
    slider = plan.steps[5].show.slider
    assert isinstance(slider, Slider)
    found = sides_of(job, plan.steps[5].show.sides[0], **{slider.setting: 4})
    assert found == {"no patch is left": Schedule(144, keep_after=None, none_after=4)}
    inputs = job.prompt.inputs
    layout = TokenLayout.from_ids(inputs["input_ids"], job.vlm.model.config.image_token_id)
    with prune(job.vlm.model, found["no patch is left"], layout):
        output = job.vlm.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    said = job.vlm.processor.decode(output[0, layout.length :], skip_special_tokens=True)
    assert said.strip() == by_value(shown, 0)[4]


def test_a_contestant_keeps_its_name_and_a_recipe_of_two_sides_its_own(played):
    job, _ = played[0]
    named = Contestant("mine", method="visipruner:balanced")
    assert list(sides_of(job, named)) == ["mine"]
    both = sides_of(job, Contestant("mine", recipe="merge"))
    assert list(both) == ["merged into patch 0, layers 0 to 1", "masked, layers 0 to 1"]
    with pytest.raises(Refused, match="layer must be"):
        sides_of(job, Contestant(recipe="keep-or-drop", set={"layer": 11}))


def test_the_bill_counts_as_the_trace_does(played):
    job, _ = played[1]
    for method in (PruningMethod(), Schedule(keep=0, keep_after=-1, none_after=None)):
        *_, last = job.compare([PruningMethod(), method], job.options)
        answer = last.comparison.answers[1]
        tokens = answer.trace.layers[0].tokens
        shape = played[1][0].vlm.model.config
        assert prefill_flops(ModelShape.of(shape), tokens) == answer.counts.executed.prefill
    assert round(prefill_flops(LLAVA_7B, 622) / 1e12, 2) == 8.26


def test_a_run_that_is_left_stops_the_model(models, plan):
    step = plan.steps[4]
    before = {name: len(m._forward_hooks) for name, m in models.get("tiny").model.named_modules()}
    with closing(view.shown_of(models, plan, step)) as states:
        for _, shown in states:
            if shown.frames and shown.frames[0].rows:
                break
    vlm = models.get("tiny")
    with vlm.lock:  # the run's thread has ended
        pass
    assert before == {n: len(m._forward_hooks) for n, m in vlm.model.named_modules()}


# -- drawings and paper


def test_every_step_is_plain_data_with_alternative_texts(plan, played):
    values = []
    for number, (job, shown) in enumerate(played):
        value = json.loads(json.dumps(Drawing(job.prompt.sheets).value(number, shown)))
        values.append(value)
        assert value["state"] == "done"
        pictures = [one for frame in value["frames"] for one in frame["pictures"]]
        assert all(one["src"].startswith("data:image/webp") and one["alt"] for one in pictures)
    assert values[6]["table"]["head"][1] == "one word"
    drawn = plan_value(plan)
    assert len(json.dumps(drawn)) < 400_000
    assert drawn["minutes"] == 23


def test_a_picture_without_patches_says_so(played):
    job, shown = played[5]
    value = Drawing(job.prompt.sheets).value(5, shown)
    assert value["frames"][0]["pictures"][0]["alt"].startswith("no patch is left: no patch is left")


def test_the_paper_holds_sheets_results_and_the_teachers_pages(plan, played):
    found = [(shown, job.prompt.sheets) for job, shown in played]
    page = handout.page_of(plan, found, "tiny & co")
    sheets, results, teacher = re.split(r'<h1 class="part">', page)
    assert "tiny &amp; co" in sheets
    assert sheets.count("☐") == 1  # in the style, before each choice
    assert plan.steps[0].notes[:20] not in sheets + results
    for step in plan.steps:
        assert step.title in sheets
        assert step.told[0].replace("'", "&#x27;") in results
        assert step.predict.choices[step.predict.right].replace("'", "&#x27;") in teacher
    assert results.count("<figure>") == 1 + 24 + 22 + 11 + 1
    assert not re.search(r"https?://", page)
    assert "<script" not in page
    assert len(page) < 3_000_000


def test_words_of_a_lesson_are_escaped_on_paper():
    shown = Shown(
        "", [Row("<b>", "<i>", None, False)], [Frame("<u>", (Row("x", "<s>", True, True),))]
    )
    shown.slider = "<q>"
    text = handout._told(1, reading.read().steps[0], shown, ())
    for tag in ("<b></", "<i>", "<u>", "<s>", "<q>"):
        assert tag not in text


def test_the_command_writes_the_lesson(tmp_path, monkeypatch, capsys):
    lesson = changed(lambda data: data.update(steps=data["steps"][3:4], quiz=[]))
    (tmp_path / "mine.json").write_text(json.dumps(lesson))
    out = tmp_path / "out.html"
    assert main(["lesson", "--lesson", str(tmp_path / "mine.json"), "--out", str(out)]) == 0
    assert "1 steps" in capsys.readouterr().out
    assert "Shallow layers" in out.read_text()
    assert main(["lesson", "--out", str(tmp_path / "no" / "out.html")]) == 2


# -- events


def event(**data):
    return SimpleNamespace(_data=data)


@pytest.mark.parametrize("step", [None, "x", -1, 8, 1.5, [0]])
def test_a_step_that_is_not_there_is_a_sentence(models, plan, step):
    with pytest.raises(Error, match="step must be"):
        view._applying(plan)(event(step=step))
    with pytest.raises(Error, match="step must be"):
        next(view._revealing(models, plan)(event(step=step)))


def test_a_refusal_stands_in_its_step(models, plan, monkeypatch):
    def refuse(*_):
        raise Refused("The model has left.")
        yield

    monkeypatch.setattr(view, "play", refuse)
    *_, last = view._revealing(models, plan)(event(step=2))
    assert last["state"] == "refused"
    assert last["doing"] == "The model has left."
    assert last["step"] == 2


def test_try_it_fills_the_form_with_the_step(plan):
    picture, scene, seed, asked, model, method, others, level, preset, names = view._applying(plan)(
        event(step=0)
    )
    assert (scene, seed, model, method) == (65, 65, "tiny", "visipruner")
    assert (others, level, preset) == ([], 0.25, "gentle")
    assert asked == plan.steps[0].question
    assert picture.size == plan.steps[0].image().size
    *_, names = view._applying(plan)(event(step=3))
    assert names == ["masking", "mask-layers"]


# -- small things


def test_sides_without_a_known_answer_are_compared_with_the_full_model(models, plan):
    step = replace(plan.steps[3], question="is this a nice picture? answer in one word.")
    job = view.job_of(models, plan, step)
    assert job.truth is None
    *_, shown = play(job, step, None)
    assert [row.right for row in shown.rows] == [None] * 4
    assert shown.rows[0].same is None
    full = shown.rows[0].answer.casefold()
    assert [row.same for row in shown.rows[1:]] == [
        row.answer.casefold() == full for row in shown.rows[1:]
    ]
    *_, shown = play(view.job_of(models, plan, plan.steps[3]), plan.steps[3], None)
    assert [row.same for row in shown.rows] == [None, True, False, True]


def test_at_most_two_pictures_stand_side_by_side(models, plan):
    sides = tuple(
        Contestant(name, recipe="keep-or-drop", set={"by": by, "count": 8})
        for name, by in (("a", "influence"), ("b", "attention"), ("c", "lot"))
    )
    step = replace(plan.steps[3], show=Show(sides))
    *_, shown = play(view.job_of(models, plan, step), step, None)
    assert [one.title for one in shown.frames[0].pictures] == ["a", "b"]


def test_the_clocks_are_medians_of_rounds_and_each_row_is_its_own(models, plan):
    step = plan.steps[6]
    jobs, measured = [], []

    def job_of(question=None):
        job = view.job_of(models, plan, step, question)
        measure = models.measure
        object.__setattr__(job, "models", SimpleNamespace(**vars(models), get=models.get))
        job.models.measure = lambda *given: measured.append(given[-1]) or measure(*given)
        jobs.append(job)
        return job

    states = [copy.copy(shown) for shown in play(job_of(), step, job_of)]
    assert measured == [0, 1, 2, 3, 4] * 2
    assert [job.prompt.question for job in jobs] == [step.question, step.show.longer]
    first, whole = states[-1].table.rows[2:]
    assert first[0] == "measured: first word"
    assert whole[0] == "measured: all"

    def times(first_token: float, total: float) -> Times:
        return Times(1.0, 2.0, first_token, 3.0, total)

    plain = SimpleNamespace(trained=None)  # the model has no schedule of its own
    full, pruned = (
        SimpleNamespace(text="a b", times=one, trace=plain, counts=SimpleNamespace(
            paper_macs=macs, executed=SimpleNamespace(prefill=flops)))
        for one, macs, flops in ((times(8, 30), 90, 40), (times(4, 20), 10, 20))
    )  # fmt: skip
    table = _table([SimpleNamespace(answers=(full, pruned), flops_ratio=2.0)])
    assert [row[1] for row in table.rows] == ["9.00×", "2.00×", "2.00×", "1.50×"]
    assert table.head == ("", "2 words")


def test_the_board_knows_a_step_that_still_runs():
    assert Drawing(()).value(0, Shown("half"))["state"] == "running"
    assert Drawing(()).value(0, Shown(""))["state"] == "done"
