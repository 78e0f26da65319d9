"""Calibrating VisiPruner's levels for any model, and which file a model takes them from."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from page_server import PRESETS as SOME  # settings of a valid file
from PIL import Image

from visipruner import Refused
from visipruner.__main__ import main
from visipruner.choice import method_at
from visipruner.evaluation import interview, own_command
from visipruner.evaluation.calibrate_own import spread
from visipruner.evaluation.candidates import LOSSES, best_of_each_layer, candidates, choose_by_loss
from visipruner.evaluation.general import GENERAL, write_questions
from visipruner.levels import PRESETS
from visipruner.models.catalogue import load_vlm
from visipruner.models.presets import model_named_in, uncalibrated
from visipruner.ui import handlers
from visipruner.ui.handlers import Form
from visipruner.ui.store import Models


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with three pictures, one of them in a folder below, and two other files."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "b").mkdir()
    for number, name in enumerate(("a.png", "b/c.PNG", "d.jpg")):
        drawn = Image.effect_mandelbrot((90, 60), (-2, -1, 1 + number, 1), 50 + 9 * number)
        drawn.convert("RGB").save(folder / name)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:10])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def calibrate(mini_path, tmp_path, monkeypatch, capsys):
    """(*more) -> exit status, what was said; in a folder of its own."""
    vlm = load_vlm(mini_path, device="cpu")
    monkeypatch.setattr(own_command, "load_vlm", lambda *_, **__: vlm)
    monkeypatch.chdir(tmp_path)
    usual = ["--questions", "2", "--final", "3", "--max-new-tokens", "2"]

    def run(*more):
        status = main(["calibrate", str(mini_path), *usual, *map(str, more)])
        return status, capsys.readouterr()

    return run


NAME = "mini-llava"


def test_pictures_without_answers_give_levels_that_model_and_commands_take(
    calibrate, pictures, mini_path, tmp_path, monkeypatch
):
    status, said = calibrate("--pictures", pictures)
    assert status == 0, said.err
    assert "left out: 'cut.png': This picture is damaged" in said.err
    assert "use it with --presets" in said.out
    path = tmp_path / f"{NAME}.presets.json"
    made = json.loads(path.read_text())["made"]
    assert made["by"] == "agreement"
    assert (made["model"], made["kind"], made["layers"]) == (NAME, "llava", 8)
    assert (made["questions"], made["left_out"]) == (3, 1)
    assert {"date", "weights", "visipruner", "torch", "transformers", "device"} < made.keys()
    measured = json.loads(path.read_text())["paper"]["measured"]
    assert measured.keys() == PRESETS.keys()
    for found in measured.values():
        assert found["same_low"] <= found["same"] <= found["same_high"]
        assert found["right"] is None
    # The model takes them; their budgets are then offered.
    bare, own = load_vlm(mini_path), load_vlm(mini_path, presets=path)
    with pytest.raises(Refused, match="run `python -m visipruner calibrate MODEL"):
        method_at(bare, "visipruner@8")
    assert method_at(own, "visipruner@8")
    assert "Not calibrated" in uncalibrated(bare, [method_at(bare, "visipruner")])
    assert not uncalibrated(own, [method_at(own, "visipruner")])
    # Once is enough: a second call asks nothing and writes the same.
    before = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(interview, "ask", lambda *_: pytest.fail("asked again"))
    assert calibrate("--pictures", pictures)[0] == 0
    assert path.read_bytes() == before


def test_a_stopped_calibration_goes_on(calibrate, pictures, tmp_path, monkeypatch):
    ask, asked = interview.ask, []

    def stops(*given):
        if len(asked) == 9:
            raise KeyboardInterrupt
        asked.append(given)
        return ask(*given)

    monkeypatch.setattr(interview, "ask", stops)
    status, said = calibrate("--pictures", pictures)
    assert (status, "the same command goes on" in said.err) == (130, True)
    assert not (tmp_path / f"{NAME}.presets.json").exists()
    monkeypatch.setattr(interview, "ask", lambda *given: asked.append(given) or ask(*given))
    assert calibrate("--pictures", pictures)[0] == 0
    seen = [(str(one[1]), one[2].text, id(one[2])) for one in asked]
    assert len(set(seen)) == len(seen)


def test_labels_may_decide(calibrate, pictures, tmp_path):
    lines = [
        {"picture": name, "question": "what colour?", "answer": "red"}
        for name in ("a.png", "b/c.PNG", "d.jpg")
    ]
    file = pictures / "labelled.jsonl"
    file.write_text("\n".join(map(json.dumps, [*lines, {**lines[0], "answer": None}])))
    out = tmp_path / "of my own.json"
    status, said = calibrate("--jsonl", file, "--by", "labels", "--out", out)
    assert status == 0, said.err
    measured = json.loads(out.read_text())["paper"]["measured"]
    assert all(found["right"] is not None for found in measured.values())
    assert model_named_in(out) == NAME


def test_a_level_saves_most_of_those_that_lose_no_more_than_it_may():
    made = {}
    for number, method in enumerate(candidates("paper", (1, 2, 3))):
        # The later the layer, the less is cut and lost; within a layer, the first is best.
        right = 0.9 - 0.1 * (3 - method.first_tested) ** 2 - 0.001 * (number % 6)
        made[method] = {"right": right, "flops_cut": 0.7 - 0.2 * method.first_tested}
    tried = list(made.items())
    assert len(best_of_each_layer(tried)) == 2 * 3
    chosen = choose_by_loss(tried, 0.9)
    assert [chosen[name][0].first_tested for name in LOSSES] == [3, 3, 2]
    lost = choose_by_loss(tried, 1.5)  # none is good enough: the least bad, for every level
    assert {pair[1]["right"] for pair in lost.values()} == {0.9}


def test_questions_are_spread_over_the_file():
    for count, total in ((1, 7), (3, 10), (7, 7), (20, 10_000)):
        taken = [number for number in range(total) if spread(count, total)(number)]
        assert len(taken) == count
        gaps = [b - a for a, b in itertools.pairwise(taken)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_every_picture_is_asked_the_general_questions(pictures, tmp_path):
    path = tmp_path / "questions.jsonl"
    write_questions(pictures, path)
    asked = [json.loads(line) for line in path.read_text().splitlines()]
    names = list(dict.fromkeys(Path(one["picture"]).name for one in asked))
    assert names == ["a.png", "d.jpg", "c.PNG"]
    assert len(asked) == len(names) * len(GENERAL)
    with pytest.raises(Refused, match="no folder"):
        write_questions(tmp_path / "none", path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="has no pictures"):
        write_questions(tmp_path / "empty", path)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([], "Name --pictures DIR or --jsonl FILE"),
        (["--pictures", ".", "--jsonl", "x"], "Name --pictures DIR or --jsonl FILE"),
        (["--pictures", ".", "--by", "luck"], "--by must be one of agreement, labels"),
        (["--pictures", ".", "--semantics", "official"], "must have paper"),
        (["--pictures", ".", "--budgets"], "--budgets is for the bundled model"),
        (["--pictures", ".", "--questions", "1"], "--questions must be a whole number from 2"),
        (["--pictures", ".", "--out", "none/x.json"], "no folder"),
        (["--pictures", "."], "has no pictures"),
        (["--jsonl", "none.jsonl"], "no file 'none.jsonl'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(calibrate, more, why):
    status, said = calibrate(*more)
    assert status == 2
    assert why in said.err


# -- which file is taken


def written(path, change=lambda presets: None) -> Path:
    presets = json.loads(json.dumps(SOME))
    change(presets)
    path.write_text(json.dumps(presets))
    return path


def layer_of(vlm) -> int:
    return method_at(vlm, "visipruner").shallow_layers


def at_layer(layer: int):
    return lambda presets: presets["paper"].update(shallow_layers=[layer] * 5)


def test_a_file_that_is_named_comes_first_then_the_folders_then_the_shelfs(
    mini_path, tmp_path, monkeypatch
):
    folder, shelf = tmp_path / "mine", tmp_path / "shelf"
    shutil.copytree(mini_path, folder)
    shelf.mkdir()
    monkeypatch.setenv("VISIPRUNER_MODEL_DIR", str(shelf))
    bare = load_vlm(folder).presets
    assert bare is None
    written(shelf / "mine.presets.json", at_layer(2))
    assert layer_of(load_vlm(folder)) == 2
    # A folder's sentence alone is no calibration, and stays.
    (folder / "presets.json").write_text(json.dumps({"system": "Be brief."}))
    loaded = load_vlm(folder)
    assert (layer_of(loaded), loaded.presets["system"]) == (2, "Be brief.")
    written(folder / "presets.json", at_layer(3))
    assert layer_of(load_vlm(folder)) == 3
    given = written(tmp_path / "given.json", at_layer(4))
    assert layer_of(load_vlm(folder, presets=given)) == 4


def test_a_damaged_missing_or_foreign_file_is_refused(mini_path, tmp_path):
    with pytest.raises(Refused, match=r"no file 'none.json'"):
        load_vlm(mini_path, presets=tmp_path / "none.json")
    for damage in ("{", "[]", '{"system": "x"}', '{"paper": 3}', "\xff"):
        (tmp_path / "bad.json").write_bytes(damage.encode("latin-1"))
        with pytest.raises(Refused, match=r"'bad.json' is damaged: "):
            load_vlm(mini_path, presets=tmp_path / "bad.json")
    other = {"kind": "qwen2_vl", "layers": 28}
    path = written(tmp_path / "other.json", lambda presets: presets.update(made=other))
    with pytest.raises(
        Refused, match="of kind qwen2_vl with 28 layers; mini-llava is llava with 8"
    ):
        load_vlm(mini_path, presets=path)


def test_the_published_model_keeps_the_papers_level_unmarked(mini_path):
    vlm = load_vlm(mini_path)
    vlm.spec = own_command.MODELS["llava-1.5-7b"]
    for level, marked in (
        ("balanced", False),
        ("gentle", True),
        ("aggressive", True),
        (0.0, False),
    ):
        assert bool(uncalibrated(vlm, [method_at(vlm, "visipruner", level)])) == marked
    assert not uncalibrated(vlm, [method_at(vlm, "random")])
    assert uncalibrated(vlm, [method_at(vlm, "visipruner:gentle")])
    assert uncalibrated(vlm, [method_at(vlm, "visipruner", semantics="question")])


def test_page_and_command_mark_levels_and_take_the_file(mini_path, picture_file, tmp_path, capsys):
    asked = ["ask", picture_file, "what?", "--model-path", str(mini_path), "--max-new-tokens", "1"]
    assert main(asked) == 0
    assert "note: Not calibrated: VisiPruner's levels" in capsys.readouterr().out
    path = written(tmp_path / "p.json", lambda presets: presets.update(made={"model": NAME}))
    assert main([*asked, "--presets", str(path)]) == 0
    assert "Not calibrated" not in capsys.readouterr().out
    form = Form(picture_file, "what?", NAME)
    for presets, marked in ((None, True), (str(path), False)):
        models = Models(str(mini_path), "cpu", presets)
        notes = handlers.check(models, form).notes
        assert any("Not calibrated" in note for note in notes) == marked
        again = models.get(NAME, "eager")  # another form of the same model has them too
        assert bool(again.presets) != marked


def test_the_page_refuses_a_file_for_another_model(mini_path, tmp_path):
    path = written(tmp_path / "p.json", lambda presets: presets.update(made={"model": "other"}))
    with pytest.raises(Refused, match=r"'p.json' is for the model 'other', and this page offers"):
        Models(str(mini_path), "cpu", str(path))
    path = written(tmp_path / "p.json")  # written by hand
    assert Models(str(mini_path), "cpu", str(path)).peek(NAME).presets
    with pytest.raises(Refused, match="does not say which model"):
        Models(None, "cpu", str(path))
