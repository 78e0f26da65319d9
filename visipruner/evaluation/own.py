"""Every question of a file, asked by every method; finished answers are never asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from visipruner.errors import Refused
from visipruner.evaluation import jsonl
from visipruner.evaluation.answers import Answers, NotKept
from visipruner.evaluation.interview import asked_one_by_one
from visipruner.evaluation.items import Column, key_of
from visipruner.evaluation.jsonl import Bad, Line
from visipruner.evaluation.matching import is_right
from visipruner.files import shown
from visipruner.models.catalogue import VLM
from visipruner.prompt import Prompt
from visipruner.world.phrases import as_learnt

MOST_NAMED = 100  # lines that are left out and named in the results; more are counted


@dataclass(frozen=True)
class Own:
    """A line of a file as an interview asks it.

    Args:
        model: its name in a store, `items.key_of`.
        most: longest answer, in tokens.
    """

    line: Line
    model: str
    most: int

    @cached_property
    def key(self) -> list:
        """A picture is known by its bytes: the file may be moved, and its lines may change."""
        try:
            with open(self.line.picture, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Refused(f"{shown(self.line.picture)} cannot be read: {error.strerror}.") from None
        return [self.model, digest, self.line.question, self.most]

    @property
    def facts(self) -> dict:
        return {"line": self.line.number}

    def prompt(self, vlm: VLM) -> Prompt:
        """As the page asks it: a bundled model in the wording that it learnt."""
        reword = as_learnt if vlm.spec.drawn else str
        return vlm.prepare(self.line.picture, self.line.question, None, reword)

    def judge(self, answer: str) -> float | None:
        known = self.line.answers
        return float(is_right(answer, known)) if known else None


@dataclass(frozen=True)
class Told:
    """One question with the row of every column."""

    line: Line
    rows: Mapping[str, dict]
    asked: bool  # was any answer new?


@dataclass
class Asking:
    """A file of questions and who answers them.

    Args:
        columns: the baseline first.
        skip: leave out a line that cannot be asked; else it is refused.
        labelled: only questions with a known answer.
        wanted: whether to ask the question with this number, from 0, of those in the file; with
            `labelled`, of those with a known answer.
        on_answer: called after every answer; true: the model was asked.
        bad: the first lines that were left out; `skipped` counts all.
        late: the last line that could be read, but not be asked.
    """

    vlm: VLM
    columns: Mapping[str, Column]
    file: Path
    store: Answers
    most: int
    skip: bool = False
    labelled: bool = False
    wanted: Callable[[int], bool] = lambda number: True
    on_answer: Callable[[bool], object] = lambda asked: None
    bad: list[Bad] = field(default_factory=list)
    skipped: int = 0
    late: Bad | None = None

    def told(self) -> Iterator[Told]:
        """Every question with all answers, in the file's order.

        Raises:
            Refused: a line, without `skip`; its number is named. What was answered is kept.
        """
        model = key_of(self.vlm)
        lines = jsonl.read(self.file, self._leave_out if self.skip else None)
        lines = (line for line in lines if line.answers or not self.labelled)
        for line in (line for number, line in enumerate(lines) if self.wanted(number)):
            before = self.store.written
            try:
                rows = self._rows(Own(line, model, self.most))
            except NotKept:
                raise
            except Refused as error:  # a damaged picture, or a method that cannot take it
                bad = Bad(line.number, str(error))
                if not self.skip:
                    raise Refused(bad.of(self.file)) from None
                self._leave_out(bad)
                self.late = bad
                continue
            yield Told(line, rows, self.store.written > before)

    def _rows(self, one: Own) -> dict[str, dict]:
        rows, before = {}, self.store.written
        for _, row in asked_one_by_one(self.vlm, self.columns, [one], self.store, self.most):
            rows[row["column"]] = row
            self.on_answer(self.store.written > before)
            before = self.store.written
        return rows

    def _leave_out(self, bad: Bad):
        self.skipped += 1
        if len(self.bad) < MOST_NAMED:
            self.bad.append(bad)
