"""Evaluating questions of one's own: what counts as right, the figures, the store, the files."""

from __future__ import annotations

import csv
import errno
import io
import json
import random
import sqlite3
from types import SimpleNamespace

import pytest
from PIL import Image

from visipruner import Refused
from visipruner.__main__ import main
from visipruner.evaluation import interview, own_command, own_page, own_tables, progress
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.intervals import Differences, paired_difference, wilson
from visipruner.evaluation.jsonl import Line
from visipruner.evaluation.matching import is_right, plain, same
from visipruner.models.catalogue import load_vlm

# -- when two answers are the same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Red.", "red"),
        ("The red car", "a  red car!"),
        ("top-left", "Top left"),
        ("1,000", "1000"),
        ("don't", "don’t"),
        ("ＡＢＣ", "abc"),
        ("STRASSE", "straße"),
        ("A", "a."),
        ("“yes”", "Yes"),
        ("", "  "),
    ],
)
def test_case_punctuation_articles_and_blanks_do_not_matter(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("red", "blue"),
        ("3.5", "35"),
        ("-3", "3"),
        ("A", "B"),
        ("A", "The"),
        ("", "a"),
        ("?", "!"),
        ("two", "2"),
        ("5 €", "5 $"),
        ("not red", "red"),
        ("红色", "蓝色"),
    ],
)
def test_what_differs_in_meaning_stays_different(one, other):
    assert not same(one, other)


def test_any_of_the_known_answers_is_right():
    assert is_right("The Cat.", ["dog", "cat"])
    assert not is_right("cats", ["dog", "cat"])
    assert plain(plain("The 1,000.50 Cats' e.g.")) == plain("The 1,000.50 Cats' e.g.")


# -- figures that grow


def test_differences_that_are_not_kept_have_the_same_interval():
    rng = random.Random(0)
    first = [float(rng.random() < 0.7) for _ in range(300)]
    second = [float(rng.random() < 0.5) for _ in range(300)]
    growing = Differences()
    for number, pair in enumerate(zip(first, second, strict=True), 1):
        growing.add(*pair)
        expected = paired_difference(first[:number], second[:number])
        assert growing.interval == pytest.approx(expected, abs=1e-12)


def test_equal_answers_differ_by_nothing_and_no_share_is_below_nothing():
    scores = [0.3, 0.6, 0.9]  # shares that a binary number only comes near to
    assert paired_difference(scores, scores) == (0, 0, 0)
    for count in range(1, 200):
        assert wilson(0, count)[0] >= 0 and wilson(count, count)[1] <= 1
        assert f"{wilson(0, count)[0]:.1%}" == "0.0%"


# -- the store


def test_answers_are_on_the_disk_at_once_and_found_again(tmp_path):
    path = tmp_path / "answers.db"
    first = Answers(path)
    first["a"] = {"answer": "réd"}
    other = Answers(path)  # as after a power cut: the first one was never closed
    assert other["a"] == {"answer": "réd"}
    assert "b" not in other
    assert (len(other), list(other)) == (1, ["a"])
    del other["a"]
    with pytest.raises(KeyError):
        first["a"]
    first.close()


def test_a_full_disk_is_said_and_loses_no_answer(tmp_path):
    answers = Answers(tmp_path / "answers.db")
    pages = answers._file.execute("PRAGMA page_count").fetchone()[0]
    answers._file.execute(f"PRAGMA max_page_count = {pages + 2}")
    written = 0
    with pytest.raises(Refused, match=r"disk is full.*'answers.db'.*goes on"):
        for number in range(1000):
            answers[f"key {number}"] = {"answer": "x" * 300}
            written += 1
    assert written > 3
    again = Answers(tmp_path / "answers.db")
    assert len(again) == written
    again["one more"] = {"answer": "there is room now"}
    assert again[f"key {written - 1}"] == {"answer": "x" * 300}


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("hello, I am no store of answers at all" * 40)
    with pytest.raises(Refused, match=r"'text.db' is damaged or keeps no answers"):
        Answers(tmp_path / "text.db")
    with pytest.raises(Refused, match="is a folder"):
        Answers(tmp_path)
    with pytest.raises(Refused, match="no folder"):
        Answers(tmp_path / "none" / "a.db")


def test_a_store_that_another_process_holds_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("visipruner.evaluation.answers.PATIENCE", 0.01)
    answers = Answers(tmp_path / "answers.db")
    other = sqlite3.connect(tmp_path / "answers.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Refused, match="Another process writes"):
        answers["a"] = {}
    other.execute("COMMIT")
    answers["a"] = {}


@pytest.mark.parametrize(
    ("kind", "says"),
    [("BUSY_RECOVERY", "Another process writes"), ("CORRUPT_INDEX", "is damaged")],
)
def test_every_error_of_a_kind_is_said_as_that_kind(tmp_path, kind, says):
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{kind}")
    assert says in Answers(tmp_path / "answers.db")._why(error)


# -- the command, on a miniature model


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A file with six questions about three pictures, four of them with an answer."""
    folder = tmp_path_factory.mktemp("own")
    for number in range(3):
        drawn = Image.effect_mandelbrot((90, 60), (-2, -1, 1 + number, 1), 50 + 9 * number)
        drawn.convert("RGB").save(folder / f"{number}.png")
    asked = [
        {
            "picture": "0.png",
            "question": "what colour is the star?",
            "answer": "red",
            "tags": ["c"],
        },
        {"picture": "1.png", "question": "what colour is the star?", "answers": ["green", "x"]},
        {"picture": "2.png", "question": "what is the colour?", "answer": "is", "tags": ["c", "d"]},
        {"picture": "0.png", "question": "is the star blue?", "tags": "d"},
        {"picture": "1.png", "question": "one or two?", "answer": "two"},
        {"picture": "2.png", "question": "one or two?"},
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)) + "\n")
    return path


METHODS = ("random@50%", "visipruner:aggressive")


@pytest.fixture
def evaluate(mini_path, questions, monkeypatch, capsys):
    """(out, file, *more) -> exit status, what was said; the model is loaded once."""
    vlm = load_vlm(mini_path, device="cpu")
    monkeypatch.setattr(own_command, "load_vlm", lambda *_, **__: vlm)

    def run(out, *more, file=questions, methods=METHODS):
        options = ["--jsonl", file, "--model", mini_path, "--out", out, "--max-new-tokens", "2"]
        status = main(["evaluate", *map(str, options), "--methods", *methods, *more])
        return status, capsys.readouterr()

    return run


def files(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in own_command.FILES}


def test_the_figures_are_those_of_the_answers(evaluate, tmp_path):
    assert evaluate(tmp_path / "out")[0] == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    answers = [json.loads(x) for x in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [one["line"] for one in answers] == [1, 2, 3, 4, 5, 6]
    assert found["methods"] == ["none", *METHODS]
    assert len(found["table"]) == 3 * (1 + len("cd"))
    for line in found["table"]:
        mine = [one for one in answers if line["tag"] is None or line["tag"] in one["tags"]]
        said = [one["said"][line["method"]] for one in mine]
        full = [one["said"]["none"] for one in mine]
        known = [
            (a["right"], b["right"])
            for a, b in zip(said, full, strict=True)
            if a["right"] is not None
        ]
        assert (line["questions"], line["labelled"]) == (len(mine), len(known))
        assert line["right"] == pytest.approx(sum(a for a, _ in known) / len(known), abs=1e-6)
        assert line["same"] == pytest.approx(sum(one["same"] for one in said) / len(said), abs=1e-6)
        low, _ = wilson(sum(one["same"] for one in said), len(said))
        assert line["same_low"] == pytest.approx(low, abs=1e-6)
        paired = paired_difference([b for _, b in known], [a for a, _ in known])
        assert line["difference"] == pytest.approx(paired[0], abs=1e-6)
        if len(known) > 1:
            assert line["difference_low"] == pytest.approx(paired[1], abs=1e-6)
    half = next(line for line in found["table"] if line["method"] == "random@50%")
    assert half["tokens"] == 8  # of 4 x 4
    assert 0 < half["flops_cut"] < 1
    # An answer is judged by the documented rule.
    for one in answers:
        for said in one["said"].values():
            right = is_right(said["answer"], one["answers"]) if one["answers"] else None
            assert said["right"] == right


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been_stopped(
    evaluate, tmp_path, monkeypatch
):
    evaluate(tmp_path / "whole")
    ask, asked = interview.ask, []

    def stops(*given):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(given)
        return ask(*given)

    monkeypatch.setattr(interview, "ask", stops)
    status, said = evaluate(tmp_path / "stopped")
    assert status == 130
    assert "2 of 6 questions" in said.err
    assert "the same command goes on" in said.err
    assert not (tmp_path / "stopped" / "results.json").exists()
    more = []
    monkeypatch.setattr(interview, "ask", lambda *given: more.append(given) or ask(*given))
    assert evaluate(tmp_path / "stopped")[0] == 0
    assert len(more) == 6 * 3 - 7  # nothing was asked twice
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_an_edited_file_asks_only_what_is_new(evaluate, questions, tmp_path, monkeypatch):
    evaluate(tmp_path / "out")
    lines = questions.read_text().splitlines()
    edited = questions.parent / "edited.jsonl"
    new = {"picture": "1.png", "question": "is it red?"}
    (questions.parent / "moved.png").write_bytes((questions.parent / "0.png").read_bytes())
    moved = lines[0].replace("0.png", "moved.png").replace("red", "blue")
    edited.write_text("\n".join([lines[5], json.dumps(new), moved]))
    ask, asked = interview.ask, []
    monkeypatch.setattr(interview, "ask", lambda *given: asked.append(given) or ask(*given))
    assert evaluate(tmp_path / "out", file=edited)[0] == 0
    assert len(asked) == 3


def test_a_picture_that_proves_damaged_is_named_and_refused_or_left_out(
    evaluate, questions, tmp_path
):
    folder = questions.parent
    noise = Image.effect_noise((90, 60), 90)
    noise.save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:2000])
    lines = questions.read_text().splitlines()
    damaged = folder / "damaged.jsonl"
    damaged.write_text("\n".join([lines[0], lines[1].replace("1.png", "cut.png"), "{", lines[2]]))
    status, said = evaluate(tmp_path / "out", file=damaged)
    assert status == 2
    assert "Line 3 of 'damaged.jsonl': it is no JSON" in said.err  # before anything is asked
    damaged.write_text("\n".join([lines[0], lines[1].replace("1.png", "cut.png"), lines[2]]))
    status, said = evaluate(tmp_path / "out", file=damaged)
    assert (status, said.err.splitlines()[-1]) == (
        2, "error: Line 2 of 'damaged.jsonl': This picture is damaged or incomplete; save it again "
        "as JPEG or PNG.",
    )  # fmt: skip
    status, said = evaluate(tmp_path / "out", "--bad-lines", "skip", file=damaged)
    assert status == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["table"][0]["questions"] == 2
    assert (found["skipped"], found["skipped_lines"][0]["number"]) == (1, 2)
    for name in ("results.md", "results.html"):
        assert "1 lines were left out" in (tmp_path / "out" / name).read_text()


HOSTILE = "<script>alert(1)</script> | `x` [y](z) \"'&"


def test_nothing_in_the_file_acts_in_the_results(evaluate, questions, tmp_path):
    folder = questions.parent
    (folder / "<b>&.png").write_bytes((folder / "0.png").read_bytes())
    line = {"picture": "<b>&.png", "question": HOSTILE, "answer": HOSTILE}
    lines = [line | {"tags": [HOSTILE, "=1+1"]}, line | {"picture": "1.png", "tags": ["+x"]}]
    file = folder / "<i>hostile.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert evaluate(tmp_path / "out", file=file)[0] == 0
    html = (tmp_path / "out" / "results.html").read_text()
    assert "<script>alert" not in html
    assert "<i>" not in html
    assert "<b>&." not in html
    text = (tmp_path / "out" / "results.md").read_text()
    assert "<script>" not in text
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert {row.count("|") for row in rows} == {len(own_tables.HEAD) + 1}
    table = io.StringIO((tmp_path / "out" / "results.csv").read_text())
    tags = {row["tag"] for row in csv.DictReader(table)}
    assert {"'=1+1", "'+x"} < tags


def test_the_gallery_shows_where_an_answer_changed(evaluate, tmp_path):
    evaluate(tmp_path / "out")
    html = (tmp_path / "out" / "results.html").read_text()
    answers = [json.loads(x) for x in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    changed = [one for one in answers if not all(said["same"] for said in one["said"].values())]
    assert len(changed) > 0
    assert html.count("data:image/webp;base64") == len(changed)
    for one in answers:
        assert (f"line {one['line']}</small>" in html) == (one in changed)
    assert "http" not in html.replace("http-equiv", "")


def test_a_gallery_has_a_bounded_number_of_pictures():
    gallery = own_page.Gallery()
    for number in range(3000):
        tags = (f"tag {number % 50}", "all")
        gallery.add(Line(number, None, "?", (), tags), {"none": "a b", "x": "c"})
        gallery.add(Line(number, None, "?", (), tags), {"none": "a b", "x": "B."})
    assert sum(map(len, gallery.shown.values())) == own_page.MOST
    assert gallery.counts["all"] == 3000
    few = own_page.Gallery()
    for number in range(100):
        few.add(Line(number, None, "?", (), ("x", "y")), {"none": "a", "x": "b"})
    assert [len(few.shown[tag]) for tag in "xy"] == [own_page.PER_TAG] * 2


def test_a_full_disk_at_the_results_is_said(evaluate, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(own_command.Path, "replace", full)
        status, said = evaluate(tmp_path / "out")
    assert status == 2
    assert "No space left on device. All answers are kept" in said.err
    monkeypatch.setattr(interview, "ask", lambda *_: pytest.fail("asked again"))
    assert evaluate(tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--quick"], "--quick is for the bundled model's own questions"),
        (["--bad-lines", "no"], "--bad-lines must be one of refuse, skip"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be a whole number from 1"),
        (["--methods", "none"], "needs 1 to 31 methods besides none, not 0"),
        (["--methods", "nothing"], "method must be one of"),
        (["--methods", "cdpruner"], "CLIP"),
        (["--methods", "visipruner@4"], "no budget was measured"),
        (["--methods", "fastv@0.5"], "FastV"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    evaluate, tmp_path, monkeypatch, more, why
):
    monkeypatch.setattr(interview, "ask", lambda *_: pytest.fail("asked"))
    status, said = evaluate(tmp_path / "out", *more)
    assert status == 2
    assert why in said.err
    assert not (tmp_path / "out" / "answers.db").exists()


def test_time_that_is_left_counts_only_what_was_asked(monkeypatch):
    clock = iter([0.0, 0.0, 0.0, 2.0, 4.0])
    # Only this file's clock: threads of other tests may still read the real one.
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    told = progress.Progress(1000)
    for asked in (False, False, True, True):
        told.step(asked)
    assert told.line() == "4 of 1,000 questions, about 33 min left"
