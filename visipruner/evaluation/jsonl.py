"""Questions of your own, in a file with one JSON object a line:

    {"picture": "photos/7.jpg", "question": "Which colour is the car?", "answer": "red",
     "tags": ["street"]}                                                     (all on one line)

`picture` is a path, relative to the file. `answer`, or a list `answers` of which any is right, and
`tags` are optional; null is as if the field were not there. Other fields are not used. Lines are
read one by one, so that memory does not grow with the file.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from visipruner.errors import Refused, quoted, short
from visipruner.files import shown
from visipruner.inputs import check_picture, clean_question

MOST_LINE = 1_000_000  # bytes; a longer line is no question
MOST_WORDS = 1_000  # characters of an answer or a tag
MOST_TAGS = 200  # distinct ones: each is a part of every table
MOST_UNUSED = 20  # distinct unknown fields that are counted
USED = ("picture", "question", "answer", "answers", "tags")


@dataclass(frozen=True)
class Line:
    """One question about one picture.

    Args:
        number: its line in the file, from 1.
        answers: any of them is right; empty: none is known.
    """

    number: int
    picture: Path
    question: str
    answers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bad:
    """A line that cannot be asked, and why, in a sentence."""

    number: int
    why: str

    def of(self, path: Path) -> str:
        """The sentence that names the line."""
        return f"Line {self.number} of {shown(path)}: {self.why}"


@dataclass
class Survey:
    """What a file holds."""

    questions: int = 0
    labelled: int = 0
    skipped: int = 0
    tags: Counter = field(default_factory=Counter)  # tag -> questions, in the file's order
    unused: Counter = field(default_factory=Counter)  # field -> lines that have it


Told = Callable[[Bad], object]


def read(path: Path, skip: Told | None = None) -> Iterator[Line]:
    """The questions of a file, in order.

    Args:
        skip: called with every line that cannot be asked; None: the first one is refused.

    Raises:
        Refused: one sentence: the file cannot be read, or a line's number and what is wrong in it.
    """
    for number, fields in _objects(path, skip):
        try:
            yield _line(number, fields, path.parent)
        except Refused as error:
            _tell(path, Bad(number, str(error)), skip)


def survey(path: Path, skip: Told | None = None) -> Survey:
    """Read the whole file once and count.

    Raises:
        Refused: as `read`; no line can be asked; too many different tags.
    """
    found = Survey()

    def note(bad: Bad):
        found.skipped += 1
        skip(bad)

    for number, fields in _objects(path, note if skip else None):
        try:
            line = _line(number, fields, path.parent)
        except Refused as error:
            _tell(path, Bad(number, str(error)), note if skip else None)
            continue
        found.questions += 1
        found.labelled += bool(line.answers)
        found.tags.update(line.tags)
        _note_unused(found.unused, fields)
        if len(found.tags) > MOST_TAGS:
            raise Refused(f"{shown(path)} has more than {MOST_TAGS} different tags.")
    if not found.questions:
        skipped = f" and {found.skipped:,} lines that cannot be asked" if found.skipped else ""
        raise Refused(f"{shown(path)} has no questions{skipped}.")
    return found


def _note_unused(unused: Counter, fields: dict):
    """A misspelt field must not go unseen; but a file may have a new one in every line."""
    for name in fields:
        if name not in USED and (name in unused or len(unused) < MOST_UNUSED):
            unused[name] += 1


def _tell(path: Path, bad: Bad, skip: Told | None):
    if skip is None:
        raise Refused(bad.of(path))
    skip(bad)


def _objects(path: Path, skip: Told | None) -> Iterator[tuple[int, dict]]:
    """(line number, the JSON object in it)."""
    for number, raw in _raw_lines(path):
        try:
            if raw is None:
                raise Refused(f"it is longer than {MOST_LINE:,} bytes.")
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield number, _object(text)
        except UnicodeDecodeError:
            _tell(path, Bad(number, "it is not UTF-8; save the file as UTF-8."), skip)
        except Refused as error:
            _tell(path, Bad(number, str(error)), skip)


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number, the line), None for one that is too long: no more than a part is in memory."""
    if not os.path.isfile(path):  # it is read twice, so it can be no pipe
        raise Refused(f"There is no file {shown(path)}; name one with a JSON object a line.")
    try:
        with open(path, "rb") as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise Refused(f"{shown(path)} is UTF-16; save it as UTF-8.")
            file.seek(0)
            number = 0
            while part := file.readline(MOST_LINE + 1):
                number += 1
                too_long = len(part) > MOST_LINE
                while too_long and part and not part.endswith(b"\n"):
                    part = file.readline(MOST_LINE)
                yield number, None if too_long else part
    except OSError as error:
        raise Refused(f"{shown(path)} cannot be read: {error.strerror}.") from None


def _object(text: str) -> dict:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; the whole file is one list" if text == "[" else ""
        raise Refused(f"it is no JSON: {error.msg} at character {error.pos + 1}{hint}.") from None
    except (ValueError, RecursionError):  # digits without end; lists in lists in lists
        raise Refused("it is no JSON that can be read.") from None
    if not isinstance(found, dict):
        raise Refused(f"it is no object like {{'picture': …, 'question': …}} but {_kind(found)}.")
    return found


def _line(number: int, fields: dict, folder: Path) -> Line:
    for name in ("picture", "question"):
        if name not in fields:
            raise Refused(f"it has no {name}.")
    question, _ = clean_question(fields["question"])
    picture = _picture(fields["picture"], folder)
    return Line(number, picture, question, _answers(fields), _tags(fields.get("tags")))


def _picture(name, folder: Path) -> Path:
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise Refused(f"picture must be the path of a file, not {quoted(name)}.")
    if name.startswith(("http://", "https://", "data:")):
        raise Refused(f"picture must be a file; nothing is fetched from {short(name)}.")
    path = folder / name
    if "\\" in name and not os.path.exists(path):
        path = folder / name.replace("\\", "/")  # written on Windows
    check_picture(path)
    return path


def _answers(fields: dict) -> tuple[str, ...]:
    one, given = fields.get("answer"), fields.get("answers")  # null is as if it were not there
    if one is not None and given is not None:
        raise Refused("it has both answer and answers.")
    if one is not None:
        return (_words("answer", one),)
    if given is None:
        return ()
    if not isinstance(given, list) or not given:
        raise Refused(f"answers must be a list of texts, not {quoted(given)}.")
    return tuple(dict.fromkeys(_words("each answer", one) for one in given))


def _tags(given) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        given = [given]
    return tuple(dict.fromkeys(_words("each tag", one) for one in given))


def _words(name: str, value) -> str:
    """A text, or a number as text, on one line."""
    endless = isinstance(value, float) and not math.isfinite(value)  # NaN: how tables say “none”
    if endless or isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refused(f"{name} must be a text or a number, not {quoted(value)}.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # tables write 3 as 3.0 where another line has no number
    try:
        words = " ".join(str(value).split())
        words.encode()  # half a letter cannot be written to a file
    except ValueError:
        raise Refused(f"{name} cannot be read.") from None
    if not 1 <= len(words) <= MOST_WORDS:
        raise Refused(f"{name} must have 1 to {MOST_WORDS:,} characters, not {len(words):,}.")
    return words


def _kind(value) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), quoted(value))
