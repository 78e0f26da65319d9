"""Evaluating questions of one's own: what counts as right, the figures, the store, the files."""

from __future__ import annotations

import random
import sqlite3

import pytest

from visipruner import Refused
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.intervals import Differences, paired_difference
from visipruner.evaluation.matching import is_right, plain, same

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
