"""Held-out accuracy under masks: answers at once equal single ones; record, figure, command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support import Embedded, two_pictures

from visipruner.__main__ import main
from visipruner.analyses import ranges as room
from visipruner.analyses.asking import ask
from visipruner.analyses.blind import Blind
from visipruner.analyses.masked_answers import masked_answers
from visipruner.analyses.masking import Masked, RangeMasking
from visipruner.analyses.ranges import ranges_of
from visipruner.analyses.recorded import FILE, Recorded, recorded_figure, recorded_of
from visipruner.errors import Refused
from visipruner.evaluation import masked
from visipruner.models.catalogue import load_vlm
from visipruner.training.config import FOLDER
from visipruner.world.questions import SKILLS

needs_weights = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="no weights")
SOME = [(0, -1), (0, 7), (1, 2), (3, 3), (5, 7), (0, 0)]


@pytest.fixture(scope="module")
def asked(mini, picture):
    prompt = mini.prepare(picture, "is there a small pink ring?")
    return prompt, mini.encode(prompt)


def texts(vlm, found):
    return [vlm.processor.decode(ids, skip_special_tokens=True).strip() for ids in found]


def one_by_one(vlm, asked, tokens):
    return [ask(vlm, Blind(a, b + 1), *asked, tokens).text for a, b in SOME]


def test_many_masked_answers_equal_single_ones(mini, asked):
    own = one_by_one(mini, asked, 8)
    assert texts(mini, masked_answers(mini, *asked, SOME, 8)) == own
    assert len(set(own)) > 2  # the masks matter on these weights


def test_answers_that_end_leave_the_others_as_they_are(mini, asked, monkeypatch):
    found = [ids.tolist() for ids in masked_answers(mini, *asked, SOME, 8)]
    end = max(found, key=len)[2]
    settings = mini.model.generation_config
    monkeypatch.setattr(settings, "eos_token_id", [settings.eos_token_id, end])
    cut = [ids[: ids.index(end)] if end in ids else ids for ids in found]
    assert len({len(ids) for ids in cut}) > 1
    assert [ids.tolist() for ids in masked_answers(mini, *asked, SOME, 8)] == cut


def test_text_between_pictures_is_masked_too(mini, asked):
    prompt = two_pictures(mini, asked[0])
    both = prompt, Embedded(mini, prompt)
    assert texts(mini, masked_answers(mini, *both, SOME, 5)) == one_by_one(mini, both, 5)


def scores(count, **right):
    """Of `count` questions under all ranges of 4 layers: how many are right where not all are."""
    found = np.ones((count, 1 + len(ranges_of(4))))
    for number, one in enumerate(ranges_of(4)):
        found[right.get("r{}_{}".format(*one), count) :, 1 + number] = 0
    return found


def test_a_summary_says_shares_losses_and_stages_with_intervals():
    found = masked.summary(4, 1, ranges_of(4), scores(100, r0_3=20, r1_2=22, r1_3=20, r0_2=20))
    assert (found.questions, found.unmasked[0]) == (100, 1.0)
    share, low, high = found.right[found.ranges.index((1, 2))]
    assert share == 0.22 and low == pytest.approx(0.15, abs=1e-3) and 0.3 < high < 0.32
    lost, low, high = found.lost[found.ranges.index((0, 3))]
    assert lost == 0.8 and low == pytest.approx(0.8 - 1.96 * 0.0402, abs=1e-3) and high < 0.9
    assert found.stages == {"shallow": (0, 0), "middle": (1, 2), "deep": (3, 3)}
    assert (found.begins, found.ends) == ((1, 1), (2, 2))
    assert Recorded.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_stages_that_the_questions_leave_open_have_wide_intervals():
    table = scores(40, r0_3=10, r1_2=10, r0_2=10, r1_3=10, r2_2=15)  # 25 lost: just above 80% of 30
    found = masked.summary(4, 1, ranges_of(4), table)
    assert found.stages["middle"] == (2, 2)
    assert found.begins == (1, 2) and found.ends == (2, 2)


def test_no_stage_is_named_where_masking_may_cost_nothing():
    found = masked.summary(4, 1, ranges_of(4), scores(30, r0_3=29, r0_2=29))
    assert found.stages == {} and found.begins is None
    assert "No stage is named" in recorded_figure(found).words


# -- the record


@pytest.fixture
def folder(tmp_path, mini, monkeypatch):
    """A checkpoint of the miniature that the record may be put beside."""
    place = tmp_path / "model"
    shutil.copytree(mini.spec.path, place)
    monkeypatch.setattr(mini, "spec", replace(mini.spec, path=str(place)))
    return place


def recorded(layers):
    table = np.ones((20, 1 + len(ranges_of(layers))))
    table[5:, 1 + ranges_of(layers).index((0, layers - 1))] = 0
    return masked.summary(layers, 1, ranges_of(layers), table)


def test_the_masking_shows_what_was_recorded_for_these_weights_only(mini, asked, folder):
    def look():
        return list(RangeMasking().run(mini, *asked))[-1]

    assert recorded_of(mini) is None and len(RangeMasking().figures(look())) == 2
    masked.write(mini, folder, recorded(8))
    found = look()
    assert found.recorded == recorded(8)
    assert Masked.from_json(json.loads(json.dumps(found.to_json()))) == found
    own, other, _ = RangeMasking().figures(found)
    assert other.title.startswith("Recorded: right answers to 20 held-out questions")
    assert "25.0% (11 to 47) with the picture masked in all layers" in other.words
    assert (own.grid.rows, own.grid.columns) == (other.grid.rows, other.grid.columns)
    assert other.grid.values[0][7] == 0.25 and other.grid.values[3][2] is None
    data = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(data | {"weights": "0123456789ab"}))
    assert look().recorded is None  # of other weights


@pytest.mark.parametrize("text", ["{", "[]", '{"weights": "a", "result": {"layers": 8}}'])
def test_a_damaged_record_is_refused_before_anything_runs(mini, asked, folder, text):
    (folder / FILE).write_text(text)
    with pytest.raises(Refused, match=r"masking\.json is damaged: record it again"):
        next(RangeMasking().run(mini, *asked))


# -- the command


def run(capsys, *arguments):
    status = main(["analyse", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def few(monkeypatch):
    """Two skills, and masks of 6 layers."""
    for place in ("visipruner.evaluation.interview", "visipruner.evaluation.masked"):
        monkeypatch.setattr(f"{place}.SKILLS", {name: SKILLS[name] for name in ("size", "same")})
    monkeypatch.setattr(room, "ALL_RANGES", 4)
    monkeypatch.setattr(room, "MOST_RANGES", 3)


@needs_weights
def test_held_out_questions_are_asked_recorded_and_go_on_where_they_stopped(
    few, tmp_path, monkeypatch, capsys
):
    model, store = tmp_path / "model", tmp_path / "store.jsonl"
    shutil.copytree(FOLDER, model, ignore=shutil.ignore_patterns(FILE))
    command = ("masking", "--set", "heldout", "--questions", 1, "--store", store)
    command += ("--model-path", model)
    status, out, _ = run(capsys, *command)
    assert status == 0 and "2 held-out questions" in out and not (model / FILE).exists()
    lines = store.read_text().splitlines(keepends=True)
    store.write_text("".join(lines[:-1]) + lines[-1][:50])  # died while writing
    counted, ask_again = [], masked._ask
    monkeypatch.setattr(masked, "_ask", lambda *a: counted.append(1) or ask_again(*a))
    assert run(capsys, *command, "--write") == (0, out, "") and len(counted) == 1
    data = json.loads((model / FILE).read_text())
    assert data["made"].endswith("--questions 1 --write") and data["result"]["questions"] == 2
    assert [tuple(one) for one in data["result"]["ranges"]] == [(0, 5), (0, 11), (6, 11)]
    vlm = load_vlm(model, device="cpu")
    assert recorded_of(vlm) == Recorded.from_json(data["result"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lens", "--set", "heldout"), "are asked by “masking --set heldout”"),
        (("masking", "lens", "--set", "heldout"), "without a picture, a question, other analyses"),
        (("masking", "scene:4", "what?", "--set", "heldout"), "without a picture"),
        (("masking", "--set", "heldout", "level=gentle"), "other options of --set"),
        (("masking", "--set", "heldout", "--model", "llava-1.5-7b"), "are about the drawn world"),
        (("masking", "--set", "heldout", "--questions", 0), "--questions must be a whole number"),
        (("masking", "--set", "heldout", "--store", "/nowhere/x"), "There is no folder"),
        (("lens", "scene:4", "what?", "--write"), "are for --set heldout"),
    ],
)
def test_what_does_not_fit_held_out_questions_is_refused(capsys, arguments, words):
    status, out, error = run(capsys, *arguments)
    assert (status, out) == (2, "") and words in error and error.count("\n") == 1


def test_without_held_out_questions_a_picture_is_needed(capsys):
    with pytest.raises(SystemExit):
        main(["analyse", "masking", "--set", "level=gentle"])
    assert "picture, question" in capsys.readouterr().err


# -- what is bundled


@needs_weights
def test_the_bundled_record_is_of_the_bundled_weights():
    found = recorded_of(load_vlm("tiny", device="cpu"))
    assert found is not None, "record again: python -m visipruner analyse masking --set heldout ..."
    assert found.ranges == tuple(ranges_of(12)) and found.questions >= 500
