"""Questions in a file of one JSON object a line: what is read, and what is said of a bad line."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest
from PIL import Image

from visipruner import Refused
from visipruner.evaluation import jsonl
from visipruner.evaluation.jsonl import Line, read, survey

GOOD = {"picture": "a.png", "question": "what colour is it?"}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    return tmp_path


def written(folder, *lines, end: bytes = b"\n", start: bytes = b""):
    """A file of these lines: objects, or bytes as they are."""
    path = folder / "questions.jsonl"
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(start + end.join(raw))
    return path


def test_all_fields_are_read(folder):
    path = written(
        folder,
        GOOD | {"answer": "red", "tags": ["café", "x"], "id": 7},
        GOOD | {"answers": [4, "four", "4"], "tags": "one"},
        GOOD | {"answer": None, "tags": None},
        GOOD | {"answer": None, "answers": [2.0, 2.5], "tags": [1.0]},  # as a table writes it
    )
    picture = folder / "a.png"
    assert list(read(path)) == [
        Line(1, picture, GOOD["question"], ("red",), ("café", "x")),
        Line(2, picture, GOOD["question"], ("4", "four"), ("one",)),
        Line(3, picture, GOOD["question"]),
        Line(4, picture, GOOD["question"], ("2", "2.5"), ("1",)),
    ]
    found = survey(path)
    assert (found.questions, found.labelled, found.skipped) == (4, 3, 0)
    assert list(found.tags) == ["café", "x", "one", "1"]
    assert found.unused == {"id": 1}  # such as a misspelt field


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b"\r\n  \r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n"])
def test_byte_order_marks_line_ends_and_empty_lines_do_not_matter(folder, start, end):
    usual = list(read(written(folder, GOOD, GOOD | {"answer": "red"})))
    found = list(read(written(folder, GOOD, GOOD | {"answer": "red"}, b"", end=end, start=start)))
    assert [(line.picture, line.question, line.answers) for line in found] == [
        (line.picture, line.question, line.answers) for line in usual
    ]
    # Numbers are those of the file's lines, empty ones included.
    assert found[0].number == 1 + start.count(b"\n")
    assert found[1].number == found[0].number + end.count(b"\n")


BAD = {
    "; the whole file is one list": b"[",
    "no JSON": b'{"picture": "a.png", "question": "x"',
    "a list": b"[1]",
    "null": b"null",
    "no picture": {"question": "x"},
    "no question": {"picture": "a.png"},
    "question is empty": GOOD | {"question": " \u200b"},
    "must be text": GOOD | {"question": 3},
    "1,001 characters": GOOD | {"question": "x" * 1001},
    "“b.png”; check its name": GOOD | {"picture": "b.png"},
    "is a folder": GOOD | {"picture": "."},
    "path of a file": GOOD | {"picture": ""},
    "path of a file, not 3": GOOD | {"picture": 3},
    "not 'a\\x00.png'": GOOD | {"picture": "a\0.png"},
    "nothing is fetched": GOOD | {"picture": "https://example.org/a.png"},
    "cannot be opened": GOOD | {"picture": "x" * 5000},
    "not a picture": GOOD | {"picture": "text.txt"},
    "damaged": GOOD | {"picture": "cut.png"},
    "at most 25,000,000": GOOD | {"picture": "huge.png"},
    "both": GOOD | {"answer": "a", "answers": ["a"]},
    "answers must be": GOOD | {"answers": []},
    "answers must be a list of texts, not 'red'": GOOD | {"answers": "red"},
    "answer must be a text or a number, not True": GOOD | {"answer": True},
    "answer must be a text or a number, not nan": GOOD | {"answer": float("nan")},
    "each answer must be a text or a number, not inf": GOOD | {"answers": [1, float("inf")]},
    "each answer must have 1 to 1,000": GOOD | {"answers": [" "]},
    "each answer cannot be read": b'{"picture": "a.png", "question": "x", "answers": ["\\ud800"]}',
    "each tag must be": GOOD | {"tags": [["a"]]},
    "longer than": b'{"picture": "' + b"x" * 3 * jsonl.MOST_LINE + b'"}',
    "not UTF-8": b'{"picture": "a.png", "question": "caf\xe9"}',
    "no JSON that can be read": b'{"picture": ' + b"9" * 5000 + b"}",
    "be read": b"[" * 100_000,
}


@pytest.fixture
def bad_pictures(folder):
    (folder / "text.txt").write_text("hello")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:20])
    Image.new("1", (6000, 6000)).save(folder / "huge.png")
    return folder


@pytest.mark.parametrize("why", BAD)
def test_a_bad_line_is_named_and_refused_or_skipped(bad_pictures, why):
    path = written(bad_pictures, GOOD, b"", BAD[why], GOOD)
    for reader in (survey, lambda p: list(read(p))):
        with pytest.raises(Refused) as refused:
            reader(path)
        said = str(refused.value)
        assert said.startswith("Line 3 of 'questions.jsonl': "), said
        assert why in said
        assert len(said) < 300
        assert "\n" not in said
    told = []
    assert [line.number for line in read(path, told.append)] == [1, 4]
    assert [bad.number for bad in told] == [3]
    again = []
    found = survey(path, again.append)
    assert (found.questions, found.skipped, again) == (2, 1, told)


def test_a_file_without_questions_is_refused(folder):
    for raw in (b"", b"\n\n", b"\xef\xbb\xbf"):
        with pytest.raises(Refused, match="has no questions"):
            survey(written(folder, raw))
    with pytest.raises(Refused, match="no questions and 1 lines that cannot be asked"):
        survey(written(folder, b"x"), lambda bad: None)


def test_what_is_no_such_file_is_refused(folder):
    utf16 = folder / "utf16.jsonl"
    utf16.write_text(json.dumps(GOOD), encoding="utf-16")
    os.mkfifo(folder / "pipe")
    for name, why in (
        ("none.jsonl", "no file 'none.jsonl'"),
        (".", "no file"),
        ("pipe", "no file 'pipe'"),
        ("utf16.jsonl", "UTF-16"),
    ):
        with pytest.raises(Refused, match=why):
            list(read(folder / name))


def test_tags_without_end_are_refused(folder):
    many = [GOOD | {"tags": [f"tag {number}"]} for number in range(jsonl.MOST_TAGS + 1)]
    with pytest.raises(Refused, match="more than 200 different tags"):
        survey(written(folder, *many))


def test_a_path_written_on_windows_is_found(folder):
    (folder / "photos").mkdir()
    (folder / "a.png").rename(folder / "photos" / "a.png")
    (found,) = read(written(folder, GOOD | {"picture": "photos\\a.png"}))
    assert found.picture == folder / "photos" / "a.png"


def test_memory_does_not_grow_with_the_file(folder):
    def peak(lines: int) -> int:
        path = written(folder, *[GOOD | {"id": n, f"field {n}": 1} for n in range(lines)])
        tracemalloc.start()
        try:
            survey(path, lambda bad: None)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(2000) < peak(200) + 20_000
