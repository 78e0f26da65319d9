"""Evaluating questions of one's own in mean cases: what is left behind, what is not mixed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from visipruner import Refused
from visipruner.__main__ import main
from visipruner.evaluation import calibrate_own, interview, lmms, own_command, progress
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.items import Wished, key_of
from visipruner.evaluation.jsonl import Line, survey
from visipruner.evaluation.own import Asking, Own
from visipruner.evaluation.tallies import Table
from visipruner.files import NotWritten, growing, write_whole
from visipruner.models.catalogue import load_vlm, spec_of
from visipruner.models.specs import MODELS

ROOT = Path(own_command.__file__).parents[2]
COLUMNS = {name: Wished(name) for name in ("none", "random@50%")}


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (60, 60), colour).save(tmp_path / name)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:70])  # its header is whole
    return tmp_path


def questions(folder, *lines) -> Path:
    path = folder / "questions.jsonl"
    usual = {"picture": "a.png", "question": "what colour is it?"}
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(usual | x) for x in lines))
    return path


def asking(mini, folder, *lines, **more) -> Asking:
    path, store = questions(folder, *lines), Answers(folder / "answers.db")
    return Asking(mini, COLUMNS, path, store, 2, **more)


# -- files


def test_a_file_that_grows_gets_its_name_at_the_end_or_leaves_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    with growing(path) as first, growing(path) as second:  # two processes at the same time
        first.write(b"1\n2\n")
        second.write(b"3\n")
        first.write(b"4\n")
    assert path.read_bytes() == b"1\n2\n4\n"  # of one of them, and whole
    for stop in (KeyboardInterrupt, OSError(28, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, NotWritten)), growing(path) as file:
            file.write(b"half")
            raise stop
    assert path.read_bytes() == b"1\n2\n4\n"
    assert list(tmp_path.iterdir()) == [path]


def test_texts_are_written_in_utf_8_whatever_the_machine_is_set_to(tmp_path):
    # The package's own file would import torch, which takes long.
    code = "import sys, types; sys.modules['visipruner'] = found = types.ModuleType('visipruner');"
    code += f"found.__path__ = [{str(ROOT / 'visipruner')!r}]; from visipruner.files import *;"
    code += "write_whole(Path('a'), '\\xe9\\u2026\\r\\n')"
    settings = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    subprocess.run(command, cwd=tmp_path, env=settings, check=True)
    assert (tmp_path / "a").read_bytes() == "é…\r\n".encode()
    write_whole(tmp_path / "a", "x")
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.fixture
def evaluate(mini, folder, monkeypatch, capsys):
    """(file, *more) -> exit status, what was said; the results are in "out"."""
    monkeypatch.setattr(own_command, "load_vlm", lambda *_, **__: mini)
    monkeypatch.chdir(folder)

    def run(file, *more):
        usual = ["--out", "out", "--methods", "random@50%", "--max-new-tokens", "2"]
        model = ["--model", mini.spec.path]
        status = main(["evaluate", "--jsonl", str(file), *model, *usual, *map(str, more)])
        return status, capsys.readouterr().err

    return run


def test_ctrl_c_leaves_the_answers_and_no_part_of_a_file(evaluate, folder, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(interview, "ask", stop)
    assert evaluate(questions(folder, {}))[0] == 130
    assert [path.name for path in (folder / "out").iterdir()] == ["answers.db"]


def test_results_never_replace_the_questions(evaluate, folder):
    file = questions(folder, {}).rename(folder / "answers.jsonl")
    before = file.read_bytes()
    status, said = evaluate(file, "--out", ".")
    assert (status, "answers.jsonl would replace the questions" in said) == (2, True)
    assert file.read_bytes() == before


def test_a_name_that_is_no_utf_8_is_asked_and_written(evaluate, folder):
    name = "a\udcff<b>.png"
    (folder / "a.png").rename(folder / name)
    assert evaluate(questions(folder, {"picture": name}))[0] == 0
    (line,) = (folder / "out" / "answers.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["picture"] == f"../{name}" or json.loads(line)["picture"] == name
    assert (folder / "out" / "results.html").read_text("utf-8")


def test_a_folder_without_pictures_leaves_the_old_questions(folder, tmp_path_factory):
    path = questions(folder, {})
    before = path.read_bytes()
    with pytest.raises(Refused, match="has no pictures"):
        calibrate_own.write_questions(tmp_path_factory.mktemp("empty"), path)
    assert path.read_bytes() == before


def test_a_closed_terminal_does_not_stop_the_work(monkeypatch):
    class Closed:
        def isatty(self):
            return False

        def write(self, words):
            raise BrokenPipeError

    monkeypatch.setattr(progress.sys, "stderr", Closed())
    told = progress.Progress(2)
    told.step()
    told.step()
    assert told.line() == "2 of 2 questions"


# -- what is asked, and what is said of the rest


def test_the_line_that_could_not_be_asked_is_the_one_that_is_named(mini, folder, capsys):
    lines = [{}, {"picture": "cut.png"}, {"picture": "b.png"}, "no JSON"]
    ask = asking(mini, folder, *lines, skip=True)
    found = survey(ask.file, lambda bad: None)
    assert [told.line.number for told in ask.told()] == [1, 3]
    own_command.say_left_out(ask, found)
    said = capsys.readouterr().err
    assert "left out while asking: 1 more, such as: Line 2 of" in said
    assert [bad.number for bad in ask.bad] == [2, 4]


def test_only_questions_with_an_answer_decide_where_labels_do(mini, folder):
    lines = [{"answer": "red"} if number in (3, 7) else {} for number in range(12)]
    judged = survey(questions(folder, *lines)).labelled
    wanted = calibrate_own.spread(2, judged)
    ask = asking(mini, folder, *lines, labelled=True, wanted=wanted)
    assert [told.line.number for told in ask.told()] == [4, 8]
    assert len(list(asking(mini, folder, *lines).told())) == 12


def test_labels_that_are_few_are_all_asked(mini, folder, monkeypatch):
    lines = [{"answer": "red", "question": f"{n}?"} if n % 10 == 4 else {} for n in range(40)]
    monkeypatch.setattr(own_command, "load_vlm", lambda *_, **__: mini)
    monkeypatch.chdir(folder)
    usual = ["--questions", "2", "--final", "4", "--max-new-tokens", "1", "--by", "labels"]
    file = str(questions(folder, *lines))
    out = folder / "own.json"
    command = ["calibrate", mini.spec.path, "--jsonl", file, "--out", str(out), *usual]
    assert main(command) == 0
    assert json.loads(out.read_text())["made"]["questions"] == 4


def test_a_tag_that_comes_while_the_file_is_read_is_counted():
    row = {"answer": "a", "flops": 2, "tokens": [1], "score": None}
    table = Table(COLUMNS, ["known"])
    table.add(dict.fromkeys(COLUMNS, row), ["known", "new"])
    assert [line["tag"] for line in table.lines()][::2] == [None, "known", "new"]


# -- models


def test_every_bundled_model_is_asked_in_the_wording_that_it_learnt(mini, folder):
    line = Line(1, folder / "a.png", "what COLOR is the star?")
    assert "COLOR" in Own(line, "", 2).prompt(mini).text
    drawn = replace(mini, spec=replace(mini.spec, drawn=True))
    assert "colour" in Own(line, "", 2).prompt(drawn).text
    for name in (name for name, spec in MODELS.items() if spec.path):
        assert own_command.model_of(interview.folder_of(name)) == name
        assert spec_of(own_command.model_of(interview.folder_of(name))).drawn


def test_answers_are_not_those_of_a_model_that_was_set_otherwise(mini, mini_path, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(mini_path, folder)
    here = replace(mini, spec=spec_of(folder))
    before = key_of(here)
    assert before == key_of(mini)  # wherever it lies
    (folder / "README.md").write_text("no setting")
    assert key_of(here) == before
    assert key_of(replace(here, presets={"system": "Be brief."})) != before
    config = json.loads((folder / "generation_config.json").read_text())
    config["repetition_penalty"] = 1.3
    (folder / "generation_config.json").write_text(json.dumps(config))
    assert key_of(here) != before


def test_a_folder_is_named_by_its_own_name(mini_path, monkeypatch):
    monkeypatch.chdir(mini_path)
    for words in (".", "..//mini-llava", "../mini-llava/."):
        assert spec_of(Path(words)).title == "mini-llava"
    (mini_path / "below").mkdir()
    assert spec_of(Path("below/..")).name == "mini-llava"


def test_presets_that_are_not_there_are_said_before_a_download(tmp_path, monkeypatch, machine):
    machine(main=500)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("visipruner.models.hub.find", lambda repo: None)
    monkeypatch.setattr("visipruner.models.hub.download", lambda *_: pytest.fail("downloads"))
    with pytest.raises(Refused, match=r"no file 'none.json' with presets"):
        load_vlm("llava-1.5-7b", device="cpu", presets=tmp_path / "none.json")


# -- lmms-eval's flags


@pytest.mark.parametrize("word", ["-c", "-cDIR", "--use", "--use_c=x", "-x", "--predict", "--conf"])
def test_a_flag_in_short_is_that_flag(word):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmms.metadata, "version", lambda _: lmms.PINNED)
        with pytest.raises(Refused, match="is not taken here"):
            lmms.check(None, ["--limit", "3", word, "x"])
        lmms.check(None, ["--limit", "-1", "--log_samples_suffix", "x", "-b", "1"])
    assert lmms._given(["--output", "x"], "--output_path") == "x"
