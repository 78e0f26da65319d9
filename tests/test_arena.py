"""The arena: its sides, what refuses, what it shows and saves, whole or stopped."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import re
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import page_server
import pytest
from PIL import Image

from visipruner.errors import Refused
from visipruner.evaluation import arena as chosen
from visipruner.evaluation.agreement import chance, overlap
from visipruner.levels import STEPS
from visipruner.methods import METHODS, PruningMethod
from visipruner.methods.visipruner import VisiPruner
from visipruner.render import arena
from visipruner.render.arena_files import lit, merged, side_by_side
from visipruner.render.values import viewer_start
from visipruner.sheets import Sheet
from visipruner.trace import NOBODY, Cut, LayerRecord, PruningTrace
from visipruner.ui import arena_files, contest, running, text
from visipruner.ui.handlers import Form
from visipruner.world import sources

FOUR = ["visipruner", "random", "visionzip", "visionzip+visipruner"]


@pytest.fixture(scope="module")
def models(mini_path):
    return page_server.models(mini_path)


@pytest.fixture
def prepare(models):
    """(names, tokens) -> the contest about one scene, with short answers and without clocks."""
    form = Form(question="what?", model=models.default, options={"max_new_tokens": 2})

    def make(names, tokens=6, every=False):
        made = contest.prepare(models, form, 5, names, tokens, every)
        made.job = replace(made.job, options=replace(made.job.options, clock_rounds=0))
        return made

    return make


@pytest.fixture
def ran(prepare):
    made = prepare(FOUR)
    assert list(contest.follow(made))[-1].comparison
    return made


def trace_of(cuts: list[Cut], layers: int = 4, patches: int = 6) -> PruningTrace:
    records = [LayerRecord(layer, 10, 0) for layer in range(layers)]
    return PruningTrace(10, [(1, 1 + patches)], [(2, 3)], patches, layers=records, cuts=cuts)


def cut(after: int, kept: list[int], owner: dict | None = None) -> Cut:
    owners = [patch + 1 if patch in kept else NOBODY for patch in range(6)]
    for patch, token in (owner or {}).items():
        owners[patch] = token
    return Cut(after, "test", kept, owners)


# -- what was kept


@pytest.mark.parametrize(
    ("cuts", "kept"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        ([cut(-1, [1, 4])], [1, 4]),
        ([cut(0, [1, 4, 5]), cut(1, [4, 5]), cut(2, [])], [4, 5]),
        ([cut(1, [])], [0, 1, 2, 3, 4, 5]),
        ([cut(0, [2, 3]), cut(3, [3])], [2, 3]),  # after the last layer nothing changes
    ],
)
def test_what_a_method_kept_is_what_its_last_cut_left(cuts, kept):
    assert arena.last_kept(trace_of(cuts)) == kept


def test_merged_patches_are_those_that_another_token_carries():
    trace = trace_of([cut(0, [1, 4], {0: 2, 5: 5}), cut(2, [])])
    assert merged(trace) == [0, 5]
    assert merged(trace_of([cut(2, [])])) == []


def test_a_patch_is_drawn_as_light_as_its_share_of_layers():
    picture = Image.new("RGB", (60, 40), "white")
    trace = trace_of([cut(-1, [0, 1, 2]), cut(0, [0, 1]), cut(2, [0])])
    drawn = lit(Sheet.of_grid(picture, 2, 3), trace).convert("L")
    side = drawn.width // 3
    light = [drawn.getpixel((side * n + side // 2, drawn.height // 4)) for n in range(3)]
    assert trace.presence()[:4] == [1, 0.75, 0.25, 0]
    assert light[0] == 255 > light[1] > light[2] > drawn.getpixel((side // 2, drawn.height - 9))


def test_a_dropped_patch_is_hatched_a_merged_one_dotted_and_a_kept_one_framed():
    sheet = Sheet.of_grid(Image.new("RGB", (60, 40), "white"), 2, 3)
    drawn = lit(sheet, trace_of([cut(-1, [1, 2, 3, 4], {0: 2}), cut(0, [1, 2, 4], {0: 2})]))
    side = drawn.width // 3

    def inside(patch: int) -> Image.Image:
        left, top = side * (patch % 3), side * (patch // 3)
        return drawn.crop((left + 12, top + 12, left + side - 12, top + side - 12))

    assert len(inside(5).getcolors()) > 1 == len(inside(3).getcolors())  # hatched, and just dark
    middle = (side // 2 - 12, side // 2 - 12)
    assert inside(0).getpixel(middle) == (216, 218, 222) != inside(5).getpixel(middle)
    assert len(drawn.crop((side, 0, 2 * side, side)).getcolors()) > 1  # patch 1 has a frame
    assert lit(sheet, trace_of([])).getcolors() == [(drawn.width * drawn.height, (255,) * 3)]


# -- which sides run


def test_all_methods_run_and_the_stacks_of_the_curve():
    names = chosen.every()
    assert names[: len(METHODS) - 1] == [name for name in METHODS if name != "none"]
    assert set(chosen.FIRST) <= set(names) and len(chosen.FIRST) == 4


@pytest.mark.parametrize(
    ("names", "tokens", "said"),
    [
        ([], 6, text.ARENA_NOTHING),
        (FOUR, None, text.ARENA_NO_BUDGET),
        (FOUR, 0, "The budget must be a number from 1"),
        (FOUR, "6", "The budget must be a number from 1"),
        ([*FOUR, "fastv"], 6, "1 to 4 others"),
        (["magic"], 6, "method must be one of"),
    ],
)
def test_a_wrong_choice_is_refused_before_the_model_is_asked(names, tokens, said):
    with pytest.raises(Refused, match=re.escape(said)):
        contest.check_names(names, tokens)


def test_a_method_that_is_chosen_twice_runs_once():
    assert contest.named(["fastv", "random", "fastv"], 6) == ["fastv@6", "random@6"]


def test_the_arena_has_its_own_clock_and_settings(models):
    options = {"clock_rounds": 0, "probe": True}
    form = Form(question="what?", model=models.default, semantics="code", options=options)
    form = replace(form, fields={"fastv.keep": 3})
    job = contest.prepare(models, form, 5, ["fastv"], 8, False).job
    assert (job.options.clock_rounds, job.options.probe) == (contest.ROUNDS, False)
    assert (job.form.semantics, job.form.fields) == ("paper", {})


@pytest.mark.parametrize(
    ("names", "tokens", "said"),
    [
        (["random", "visionzip"], 1.2, "VisionZip cannot use as few as 1 visual tokens per"),
        (["fastv"], 1, "FastV cannot use as few as 1 visual tokens per layer"),
        (["random"], 17, "The budget must be a number from 1 to 16, not 17"),
    ],
)
def test_a_budget_that_a_method_cannot_have_is_refused_before_anything_runs(
    prepare, models, monkeypatch, names, tokens, said
):
    monkeypatch.setattr(models, "compare", lambda *_: pytest.fail("it ran"))
    with pytest.raises(Refused, match=re.escape(said)):
        prepare(names, tokens)


def test_a_method_that_the_family_cannot_serve_is_named(prepare, models, monkeypatch):
    vlm = models.get(models.default)
    monkeypatch.setattr(type(vlm.family), "offers", frozenset())
    with pytest.raises(Refused, match=r"^VisionZip: visionzip needs the tower"):
        prepare(["random", "visionzip"])
    made = prepare(["random", "visionzip"], every=True)
    assert [bool(entry.refused) for entry in made.entries] == [False, False, True]


def test_visipruner_takes_the_measured_setting_that_is_nearest(prepare, models, monkeypatch):
    vlm = models.get(models.default)
    table = {**vlm.presets["paper"], "tokens": [16, 12, 9, 5, 2]}
    monkeypatch.setattr(vlm, "presets", {"paper": table})
    facts = vlm.facts(16)
    for tokens, step in ((15, 0), (6, 3), (2, 4)):
        made = prepare(["visipruner"], tokens)
        assert made.entries[1].side == VisiPruner.at_level(STEPS[step], facts, {})
        assert made.entries[1].words == f"visipruner@{tokens}"
        assert text.ARENA_UNMEASURED not in made.asked["note"]


def test_visipruner_without_measured_budgets_says_so(ran, models):
    assert ran.entries[1].words == "visipruner:balanced"
    assert ran.entries[4].words == "visionzip+visipruner@6"  # the wish is its first method's
    assert text.ARENA_UNMEASURED in ran.asked["note"]
    facts = models.get(models.default).facts(16)
    assert ran.entries[1].side == VisiPruner.at_level(0.5, facts, {})


def test_a_score_that_was_never_trained_is_said(ran, prepare, models, monkeypatch):
    vlm = models.get(models.default)
    said = "Score untrained: VisionZip. "
    assert said not in ran.asked["note"]
    monkeypatch.setattr(vlm, "spec", replace(vlm.spec, cls_trained=False))
    assert said in prepare(FOUR).asked["note"]
    assert said not in prepare(["random", "fastv"], 8).asked["note"]
    made = prepare(["random", "visionzip"], 8, every=True)
    made.entries[2].refused = "No."  # as if it had refused while it ran
    assert said not in made.asked["note"]
    form = Form(question="what?", model=models.default, methods=("none", "visionzip+visipruner"))
    assert said in " ".join(running.job_of(models, form, 5).notes)


# -- the run


def test_every_side_appears_as_soon_as_it_has_finished(prepare):
    made, seen = prepare(FOUR), []
    for _ in contest.follow(made):
        seen.append(len(made.finished))
    assert sorted(seen) == seen and set(seen) == set(range(6))
    assert made.comparison.names == [entry.words for entry in made.entries]
    assert made.comparison.probe is None
    answers = [entry.answer for entry in made.entries]
    assert answers == made.comparison.answers


def test_all_methods_keep_a_row_for_each_that_refuses(prepare):
    made = prepare(chosen.every(), 2, every=True)
    assert list(contest.follow(made))[-1].comparison
    refused = {entry.title: entry.refused for entry in made.entries if entry.refused}
    assert "FastV" in refused and "Random patches" not in refused
    assert all(said.startswith(title) for title, said in refused.items())
    assert len(made.finished) == len(made.entries) - len(refused) > 4
    value = board(made)
    for side, entry in zip(value["sides"], made.entries, strict=True):
        assert side["refused"] == entry.refused and ("words" in side) != bool(entry.refused)


def test_a_method_that_refuses_the_picture_costs_the_others_nothing(prepare, monkeypatch):
    def select(self, view):
        raise Refused("This picture is too odd.")

    monkeypatch.setattr(METHODS["fastv"], "select", select)
    names = ["random", "fastv", "visionzip"]
    made = prepare(names, 8, every=True)
    assert list(contest.follow(made))[-1].comparison
    assert made.entries[2].refused == "FastV: This picture is too odd."
    assert [entry.title for entry in made.finished] == [text.FULL, "Random patches", "VisionZip"]
    with pytest.raises(Refused, match=r"^FastV: This picture is too odd"):
        list(contest.follow(prepare(names, 8)))
    alone = prepare(["fastv"], 8, every=True)
    assert list(contest.follow(alone))[-1].comparison
    assert alone.entries[1].refused == "FastV: This picture is too odd."
    assert alone.entries[0].answer


def test_a_refusal_is_of_the_side_that_it_names_in_full(prepare):
    made = prepare(FOUR, every=True)
    for sentence, number in (("VisionZip, then VisiPruner: No.", 4), ("VisionZip: No.", 3)):
        assert contest._blamed(made, sentence) is made.entries[number]
    assert contest._blamed(made, "Nothing works today.") is None


def test_a_method_that_refuses_in_a_silent_repeat_loses_its_answer_alone(prepare, monkeypatch):
    select, layers = METHODS["fastv"].select, []

    def late(self, view):
        layers.append(view.layer)
        if layers.count(layers[0]) > 1:
            raise Refused("Too odd.")
        return select(self, view)

    monkeypatch.setattr(METHODS["fastv"], "select", late)
    made = prepare(["random", "fastv"], 8, every=True)
    made.job = replace(made.job, options=replace(made.job.options, clock_rounds=3))
    finished = [len(made.finished) for _ in contest.follow(made)]
    assert finished[-1] == 2
    assert min(finished[finished.index(2) :]) == 2  # what was there stays while others run again
    assert made.entries[2].answer is None and made.entries[2].refused == "FastV: Too odd."


def test_a_baseline_that_refuses_ends_the_run(prepare, monkeypatch):
    def encode(self, view):
        raise Refused("No picture today.")

    monkeypatch.setattr(PruningMethod, "encode", encode)
    with pytest.raises(Refused, match="No picture today"):
        list(contest.follow(prepare(["fastv", "dart"], 8, every=True)))


def test_who_leaves_stops_the_comparison_at_once(prepare, monkeypatch):
    sides = [SimpleNamespace(answer=None)] * 2
    held = (SimpleNamespace(sides=sides, comparison=None) for _ in range(3))
    monkeypatch.setattr(contest.handlers, "follow", lambda job: held)
    states = contest.follow(prepare(["random"]))
    next(states)
    states.close()
    assert held.gi_frame is None


@pytest.fixture
def stopped(prepare, models):
    """(turn) -> a contest that was stopped after two answers; turn 0 runs the baseline first."""

    def stop(turn: int):
        vlm, made = models.get(models.default), prepare(FOUR)
        vlm.runs = turn
        with closing(contest.follow(made)) as states:
            for _ in states:
                if len(made.finished) == 2:
                    break
        assert not vlm.lock.locked()
        return made

    return stop


@pytest.mark.parametrize("turn", [0, 1])
def test_a_stopped_run_keeps_and_saves_what_has_finished(stopped, turn):
    made = stopped(turn)
    expected = FOUR[:1] if turn == 0 else FOUR[:2]
    names = [entry.words.partition("@")[0].partition(":")[0] for entry in made.finished]
    assert names == (["none", *expected] if turn == 0 else expected)
    assert board(made)["kind"] == "running"
    data = json.loads(content(arena_files.json_file(made)))
    assert [answer["name"] for answer in data["answers"]] == [e.words for e in made.finished]
    assert data["arena"]["complete"] is False
    assert (data["pairs"] == []) == (turn == 1) == ("flops_ratio" not in data)
    rows = list(csv.DictReader(io.StringIO(content(arena_files.csv_file(made)).decode())))
    assert [bool(row["answer"]) for row in rows].count(True) == 2
    assert [row["times_fewer_flops"] for row in rows if row["answer"]].count("") == 2 * turn
    for kind in ("png", "html"):
        assert content(arena_files.MAKERS[kind](made))


def test_nothing_finished_saves_nothing(prepare):
    made = prepare(["random"])
    for maker in arena_files.MAKERS.values():
        with pytest.raises(Refused, match="no finished result"):
            maker(made)


# -- what the board gets


def board(made) -> dict:
    start = viewer_start(made.job.prompt, 8)
    return arena.board_value(start, made.shown, made.asked, made.pairs, made.comparison is not None)


def patches(value: dict, number: int) -> set[int]:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(value["masks"][number]), np.uint8))
    return set(np.flatnonzero(bits[: value["num_visual"]]).tolist())


def test_the_board_holds_what_every_trace_says(ran):
    value = board(ran)
    assert json.loads(json.dumps(value)) == value
    assert value["kind"] == "done" and value["asked"]["tokens"] == 6
    assert "wished: 6 of 16 visual tokens" in value["asked"]["words"]
    for side, entry in zip(value["sides"], ran.entries, strict=True):
        trace = entry.answer.trace
        shares = [0.0] * 16
        for layer in side["layers"]:
            for patch in patches(value, layer["mask"]):
                shares[patch] += 1 / len(trace.layers)
        assert shares == pytest.approx(trace.presence())
        assert patches(value, side["kept"]) == set(arena.last_kept(trace))
        assert side["tokens"] == trace.mean_tokens
        assert side["flops"] == entry.answer.counts.executed.prefill
        assert side["fewer"] == ran.entries[0].answer.counts.executed.prefill / side["flops"]
        assert side["words"]["tokens"] == f"{trace.mean_tokens:.1f}"
        assert side["words"]["clock"] == text.ONE_RUN
    random, zipped = value["sides"][2:4]
    assert [(one["scores"], one["title"]) for one in random["cuts"]] == [(None, "Drawn by lot")]
    last = zipped["cuts"][-1]
    carriers = dict(zip(sorted(patches(value, last["merged"])), last["carriers"], strict=True))
    own = patches(value, last["kept"])
    assert carriers and set(carriers.values()) <= own and not set(carriers) & own


@pytest.mark.parametrize(
    ("ratio", "said"), [(2.0, "2.0× fewer"), (0.4, "2.5× more"), (1.01, "as many")]
)
def test_a_method_that_costs_more_says_so(ratio, said):
    assert arena._fewer(ratio) == said


def test_the_overlap_of_every_two_methods_stands_beside_chance(ran):
    found = ran.pairs
    assert [(pair["first"], pair["second"]) for pair in found] == [
        (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4),
    ]  # fmt: skip
    for pair in found:
        one, two = (ran.entries[pair[n]].answer.trace.presence() for n in ("first", "second"))
        assert pair["overlap"] == overlap(one, two) and pair["chance"] == chance(one, two)


def test_right_and_wrong_come_from_the_scene(ran):
    truth = sources.truth(5, sources.first_question(5, ""))
    ran.job = replace(ran.job, truth=truth)
    ran.entries[2].answer = replace(ran.entries[2].answer, text=truth.answer)
    assert [side.judged[0] for side in ran.shown][2] == "right"
    for entry in ran.entries:
        entry.answer = replace(entry.answer, text="nonsense")
    assert [side.judged[0] for side in ran.shown] == ["wrong"] * 5
    ran.job = replace(ran.job, truth=None)
    assert [side.judged for side in ran.shown] == [()] * 5
    assert [side["same"] for side in board(ran)["sides"]] == [True] * 5


# -- files


def content(file: dict) -> bytes:
    return base64.b64decode(file["data"])


def test_files_of_a_whole_run(ran):
    words = [entry.words for entry in ran.entries]
    rows = list(csv.DictReader(io.StringIO(content(arena_files.csv_file(ran)).decode())))
    assert list(rows[0]) == list(arena.COLUMNS) and [row["side"] for row in rows] == words
    data = json.loads(content(arena_files.json_file(ran)))
    assert [row["side"] for row in data["arena"]["table"]] == words
    assert len(data["arena"]["overlaps"]) == 6 and len(data["pairs"]) == 4
    assert data["arena"]["overlaps"][0]["first"] == words[1]
    assert data["settings"]["budget"] == {"mean_tokens_per_layer": 6}
    for answer, entry, row in zip(data["answers"], ran.entries, rows, strict=True):
        trace = PruningTrace.from_json(answer["trace"])
        assert trace == entry.answer.trace and answer["presence"] == trace.presence()
        assert float(row["mean_tokens_per_layer"]) == trace.mean_tokens
        assert data["settings"]["fields"][entry.words] == trace.settings
    picture = Image.open(io.BytesIO(content(arena_files.png_file(ran))))
    assert picture.width > 5 * 400 and picture.height < 1000  # five in a row
    page = content(arena_files.html_file(ran)).decode()
    assert "Content-Security-Policy" in page and not re.search(r'(src|href)="http', page)
    for entry in ran.entries:
        assert f"<td>{entry.words}</td>" in page
    assert '"kind": "done"' in page


@pytest.fixture
def judged(ran):
    """A run whose first method is right, whose third refused, and whose others are wrong."""
    truth = sources.truth(5, sources.first_question(5, ""))
    ran.job = replace(ran.job, truth=truth)
    for number, entry in enumerate(ran.entries):
        said = truth.answer if number == 1 else "nonsense"
        entry.answer = replace(entry.answer, text=said)
    ran.entries[3].answer, ran.entries[3].refused = None, "VisionZip: <b>No</b>."
    ran.comparison = None  # as of a run that was stopped
    return ran


def test_the_table_says_what_is_right_what_refused_and_how_the_clock_ran(judged):
    rows = arena.table(judged.shown)
    assert [row["right"] for row in rows] == ["wrong", "right", "wrong", None, "wrong"]
    assert [row["refused"] for row in rows] == [None] * 3 + ["VisionZip: <b>No</b>.", None]
    for row, entry in zip(rows, judged.entries, strict=True):
        if entry.answer:
            assert row["first_token_ms"] == entry.answer.times.first_token
            assert row["first_token_clock"] == text.ONE_RUN


def test_the_json_names_every_side_and_judges_each_answer(judged):
    words = [entry.words for entry in judged.entries]
    data = json.loads(content(arena_files.json_file(judged)))
    assert data["truth"]["right"] == [False, True, False, False]
    assert data["settings"]["methods"] == words
    named = [words[number] for number in (1, 2, 4)]
    pairs = [(pair["first"], pair["second"]) for pair in data["arena"]["overlaps"]]
    assert pairs == list(itertools.combinations(named, 2))
    for answer in data["answers"]:
        trace = PruningTrace.from_json(answer["trace"])
        assert answer["last_kept"] == arena.last_kept(trace)


def test_the_report_shows_typed_words_as_text(judged):
    prompt = replace(judged.job.prompt, question="<i>what</i>?")
    judged.job = replace(judged.job, prompt=prompt)
    page = content(arena_files.html_file(judged)).decode()
    assert "<h1>Arena: “&lt;i&gt;what&lt;/i&gt;?”</h1>" in page
    assert "<td>VisionZip: &lt;b&gt;No&lt;/b&gt;.</td>" in page
    assert "<td>None</td>" not in page


def test_the_picture_has_the_true_answer_refusals_and_room_for_tiles(judged, monkeypatch):
    sheet = Sheet.of_grid(Image.new("RGB", (40, 40), "white"), 4, 4)
    one, two = (side_by_side([sheet] * count, judged.shown, "head") for count in (1, 2))
    assert two.width <= one.width  # two methods in a row, of two pictures each
    without = [side for side in judged.shown if side.answer]
    assert side_by_side([sheet], without, "head").height < one.height
    heads = []
    monkeypatch.setattr(
        arena_files, "side_by_side", lambda sheets, sides, head: heads.append(head) or one
    )
    arena_files.png_file(judged)
    assert f"{text.TRUE_ANSWER}: {judged.job.truth.answer}" in heads[0]
